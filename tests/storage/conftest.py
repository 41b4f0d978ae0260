"""Shared by the tests of model files: a saved model, its parts, and files with altered headers."""

import json

import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from bpfast.storage import model_file


@pytest.fixture
def model(build, tmp_path):
    """The path of a saved 3-4-2 network in float32, and its backend."""
    net = build(dtype="float32")
    net.save(tmp_path / "model")
    return tmp_path / "model", net.backend


@pytest.fixture
def parts():
    """parts(path): a file's header and tensors."""

    def parts(path):
        with safe_open(path, framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return json.loads(file.metadata()["bpfast"]), tensors

    return parts


@pytest.fixture
def forge():
    """forge(path, text, tensors): write a file with a valid checksum, whatever the rest of its header."""

    def forge(path, text, tensors):
        names = model_file._NAMES
        digests = {name: model_file._digest(names.get(a.dtype, "I32"), a) for name, a in tensors.items()}
        if text.startswith("{") and len(text) > 1:
            text = f'{{"sha256": "{model_file.UNSIGNED}", {text[1:]}'
            text = text.replace(model_file.UNSIGNED, model_file.checksum(text, digests), 1)
        save_file(tensors, path, {"bpfast": text})

    return forge
