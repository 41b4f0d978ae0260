"""What the README says is run: its Python, and its two commands by `.ci/run`."""

import re
from pathlib import Path

import numpy as np
import pytest

import bpfast as bp
from bpfast import kernels
from bpfast.activations import activations
from bpfast.layers import layers
from bpfast.losses import losses

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def python_block(words):
    (code,) = [code for language, code in BLOCKS if language == "python" and words in code]
    return code


def test_the_twenty_lines(tmp_path, monkeypatch, capsys):
    code = python_block("digits.safetensors")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    said = capsys.readouterr().out
    assert float(re.search(r"accuracy (\S+)", said)[1]) >= 0.95
    assert isinstance(bp.load(tmp_path / "digits.safetensors"), bp.Network)


def test_deep_networks(capsys):
    exec(compile(python_block("def block("), "README.md", "exec"), {})
    said = capsys.readouterr().out
    assert "3.1 batch_norm" in said
    assert float(re.search(r"accuracy (\S+)", said)[1]) >= 0.95
    assert float(re.search(r"odd or even (\S+)", said)[1]) >= 0.95


def test_stop_and_go_on_and_exchange(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    scope = {}
    exec(compile(python_block("run.safetensors"), "README.md", "exec"), scope)
    assert float(re.search(r"accuracy (\S+)", capsys.readouterr().out)[1]) >= 0.95
    assert scope["best"].epochs == min(range(15), key=scope["history"].val_loss.__getitem__) + 1
    onnxruntime = pytest.importorskip("onnxruntime")
    exec(compile(python_block("to_onnx(net"), "README.md", "exec"), scope)
    session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
    _, probabilities = session.run(None, scope["inputs"])
    expected = scope["net"].predict(scope["X"])
    assert np.abs(probabilities - expected).max() < 1e-5
    assert (scope["again"].predict(scope["X"]) == expected).all()
    pytest.importorskip("torch").manual_seed(0)
    exec(compile(python_block("train_torch(module"), "README.md", "exec"), scope)
    assert scope["history"].loss[-1] < 0.3
    outputs = scope["module"](scope["torch"].tensor(scope["X_test"], dtype=scope["torch"].float32))
    accuracy = (outputs.argmax(dim=1).numpy() == scope["y_test"]).mean()
    assert accuracy >= 0.93


def test_in_place_of_scikit_learn(capsys):
    """The search and the curve, with the figures that stand below them."""
    code = python_block("GridSearchCV(")
    exec(compile(code, "README.md", "exec"), {})
    said = capsys.readouterr().out
    (shown,) = [text for language, text in BLOCKS if not language and text.startswith("{'alpha'")]
    mine, theirs = (re.findall(r"accuracy (\S+)", text) for text in (said, shown))
    assert len(mine) == len(theirs) == 5
    assert [float(a) for a in mine] == pytest.approx([float(a) for a in theirs], abs=0.02)


def test_the_kernels(rng):
    scope = {
        "X": rng.normal(size=(5, 4)),
        "W": rng.normal(size=(4, 4)),
        "b": np.zeros(4),
        "y": np.arange(5) % 4,
        "Z": rng.normal(size=(5, 4)),
        "Z_prev": rng.normal(size=(5, 4)),
    }
    exec(compile(python_block("from bpfast import kernels"), "README.md", "exec"), scope)
    assert (scope["A"] == kernels.dense_forward(scope["X"], scope["W"], scope["b"], "sigmoid")).all()
    assert scope["dW"].shape == (4, 4)


def test_two_commands_stand_first():
    language, code = BLOCKS[0]
    assert language == "sh"
    assert len(code.strip().splitlines()) == 2


def test_the_table_names_what_there_is():
    text = README.read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| (\w+) \| (.*) \|$", text, re.MULTILINE))
    assert re.findall(r"\w+", rows["activations"]) == list(activations)
    named = re.findall(r"`(\w+)`", rows["layers"])
    assert set(named) == {kind.__name__ for kind in (layers[name] for name in layers)}
    for name in losses:
        assert re.search(rf"\b{name}\b", rows["losses"]), name
