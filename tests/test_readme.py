"""The code in the README and in `docs/` runs, and prints what the pages quote."""

import importlib.util
import re
from itertools import zip_longest
from pathlib import Path

import numpy as np
import pytest

import bpfast as bp
from bpfast import kernels
from bpfast.activations import activations
from bpfast.layers import layers
from bpfast.losses import losses

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
README = PAGES[0].read_text(encoding="utf-8")
ACCURACY = re.compile(r"accuracy (\d\.\d+)")


def blocks(page):
    """The fenced blocks of a page as pairs (language, text)."""
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def examples(page):
    """The Python blocks of a page as pairs (code, output); the output is that of a ```text block or None."""
    pairs = zip_longest(blocks(page), blocks(page)[1:], fillvalue=("", ""))
    return [
        (code, text if following == "text" else None)
        for (language, code), (following, text) in pairs
        if language == "python"
    ]


def quick_start(scope, output):
    assert float(re.search(r"accuracy (\S+)", output)[1]) >= 0.95
    assert isinstance(bp.load("digits.safetensors"), bp.Network)


def drop_in(scope, output):
    assert float(re.search(r"accuracy (\S+)", output)[1]) >= 0.95
    assert type(scope["model"]).__module__.startswith("bpfast.sklearn")


def deep_networks(scope, output):
    assert "3.1 batch_norm" in output
    assert float(re.search(r"accuracy (\S+)", output)[1]) >= 0.95
    assert float(re.search(r"odd or even (\S+)", output)[1]) >= 0.95


def checkpoints(scope, output):
    assert scope["best"].epochs == min(range(15), key=scope["history"].val_loss.__getitem__) + 1


def serving(scope, output):
    assert float(re.search(r"accuracy (\S+)", output)[1]) >= 0.95


def onnx(scope, output):
    import onnxruntime

    session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
    _, probabilities = session.run(None, scope["inputs"])
    expected = scope["net"].predict(scope["X"])
    assert np.abs(probabilities - expected).max() < 1e-5
    assert (scope["again"].predict(scope["X"]) == expected).all()


def torch(scope, output):
    assert scope["history"].loss[-1] < 0.3
    outputs = scope["module"](scope["torch"].tensor(scope["X_test"], dtype=scope["torch"].float32))
    accuracy = (outputs.argmax(dim=1).numpy() == scope["y_test"]).mean()
    assert accuracy >= 0.93


def grid_search(scope, output):
    assert len(re.findall(r"accuracy (\S+)", output)) == 5


def plain_functions(scope, output):
    A = kernels.dense_forward(scope["X"], scope["W"], scope["b"], "sigmoid")
    assert (scope["A"] == A).all()
    assert scope["dW"].shape == (4, 4)


def profile(scope, output):
    assert "GFLOP/s" in output


def mapped(scope, output):
    assert isinstance(scope["X"], np.memmap)
    assert scope["net"].epochs == 2


#: (page, words that only this block has) → what must hold after the block has run.
CHECKS = {
    ("README.md", "digits.safetensors"): quick_start,
    ("README.md", "MLPClassifier("): drop_in,
    ("deep-networks.md", "def block("): deep_networks,
    ("checkpoints.md", "run.safetensors"): checkpoints,
    ("checkpoints.md", "net.freeze()"): serving,
    ("exchange.md", "to_onnx(net"): onnx,
    ("exchange.md", "train_torch(module"): torch,
    ("how-a-step-works.md", "from bpfast import kernels"): plain_functions,
    ("how-a-step-works.md", "net.profile("): profile,
    ("large-files.md", "mmap_mode"): mapped,
    ("scikit-learn.md", "GridSearchCV("): grid_search,
}
#: Words in a block → the optional package without which the page ends there.
NEEDS = {"to_onnx(": "onnxruntime", "import torch": "torch"}


def prepare(code):
    """Skip the rest of the page if a package is not installed, and seed PyTorch."""
    for words, package in NEEDS.items():
        if words in code and importlib.util.find_spec(package) is None:
            pytest.skip(f"the block with {words!r} needs {package}")
    if "import torch" in code:
        importlib.import_module("torch").manual_seed(0)


@pytest.mark.parametrize("page", [page for page in PAGES if examples(page)], ids=lambda page: page.name)
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch, capsys):
    """The blocks of a page run in order, in one namespace; quoted accuracies agree to 0.02."""
    monkeypatch.chdir(tmp_path)
    scope = {}
    for code, quoted in examples(page):
        prepare(code)
        exec(compile(code, page.name, "exec"), scope)
        output = capsys.readouterr().out
        for (name, words), check in CHECKS.items():
            if name == page.name and words in code:
                check(scope, output)
        if quoted is not None:
            shown, printed = ([float(n) for n in ACCURACY.findall(text)] for text in (quoted, output))
            assert shown
            assert printed == pytest.approx(shown, abs=0.02)


@pytest.mark.parametrize(("name", "words"), CHECKS)
def test_each_check_has_its_block(name, words):
    (page,) = (page for page in PAGES if page.name == name)
    assert sum(words in code for code, _ in examples(page)) == 1


def test_two_commands_come_first():
    language, code = blocks(PAGES[0])[0]
    assert language == "sh"
    assert len(code.strip().splitlines()) == 2


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 200


def test_the_table_of_features_is_complete():
    table = README.split("## Features")[1].split("##")[0]
    rows = dict(re.findall(r"^\| (\w+) \| (.*) \|$", table, re.MULTILINE))
    assert re.findall(r"\w+", rows["activations"]) == list(activations)
    named = re.findall(r"`(\w+)`", rows["layers"])
    assert set(named) == {kind.__name__ for kind in (layers[name] for name in layers)}
    for name in losses:
        assert re.search(rf"\b{name}\b", rows["losses"]), name
