"""The examples in docstrings run."""

import doctest
import importlib
import importlib.util
import os
import pkgutil

import pytest

import bpfast

#: Optional packages that modules need.
NEEDS = {"interop.torch": "torch", "interop.keras": "keras", "interop.onnx": "onnx", "sklearn": "sklearn"}
#: The least number of examples in the modules of a package.
FEWEST = {
    "bpfast.interop.torch": 10,
    "bpfast.interop.keras": 6,
    "bpfast.sklearn": 9,
    "bpfast.diagnostics": 2,
    "bpfast.pretraining": 1,
}

with pytest.MonkeyPatch.context() as patch:
    # Keras reads these when it is imported.
    patch.setenv("KERAS_BACKEND", os.environ.get("KERAS_BACKEND", "torch"))
    patch.setenv("KERAS_HOME", os.devnull)
    MODULES = sorted(
        module.name
        for module in pkgutil.walk_packages(bpfast.__path__, "bpfast.", onerror=lambda name: None)
        if not module.name.endswith("__main__") and ".native._" not in module.name
    )


def _import(name):
    for part, package in NEEDS.items():
        if name.startswith(f"bpfast.{part}") and importlib.util.find_spec(package) is None:
            pytest.skip(f"{name} needs {package}")
    return importlib.import_module(name)


# scikit-learn and Keras may warn.
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", MODULES)
def test_the_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert doctest.testmod(_import(name)).failed == 0


@pytest.mark.parametrize("package", FEWEST)
def test_no_example_is_overlooked(package):
    finder = doctest.DocTestFinder()
    modules = [_import(name) for name in MODULES if f"{name}.".startswith(f"{package}.")]
    examples = [e for module in modules for test in finder.find(module) for e in test.examples]
    assert len(examples) >= FEWEST[package]
