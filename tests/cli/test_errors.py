"""User errors are one line and write nothing."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
from typing import Any

import pytest

import bpfast as bp
from bpfast.__main__ import main
from bpfast.cli import train_data

pytest.importorskip("sklearn")
pytest.importorskip("pandas")
pytest.importorskip("matplotlib")


def test_unexpected_errors_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(train_data, "_describe", fail)
    with pytest.raises(ValueError, match="a bug"):
        main(["train"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train --activation rellu", "did you mean 'relu'"),
        ("train --optimizer adan", "did you mean 'adam'"),
        ("train --penalty l3 --alpha 1", "unknown penalty 'l3'"),
        ("train --alpha 1", "--alpha needs a --penalty"),
        ("train --learning-rate -0.1", "learning_rate must be greater than 0"),
        ("train --learning-rate nan", "learning_rate must be"),
        ("train --learning-rate fast", "invalid float value: 'fast'"),
        ("train --momentum 1.5", "momentum must be"),
        ("train --optimizer adam --momentum 0.5", "applies only to the optimizer sgd"),
        ("train --hidden 64,-3", "expected widths such as 128,64"),
        ("train --hidden 64,a", "expected widths such as 128,64"),
        ("train --epochs 0", "expected an integer of at least 1"),
        ("train --batch-size 0", "batch_size must be at least 1"),
        ("train --optimizer rprop --batch-size 7", "needs the full batch"),
        ("train --validation 1", "expected a number from 0 to below 1"),
        ("train --validation 0 --patience 3", "--patience needs held-out rows"),
        ("train --seed -1", "seed must be at least 0"),
        ("train --threads 0", "--threads: expected an integer from 1 to 1024; got '0'"),
        ("train irs.csv --threads 1025", "--threads: expected an integer from 1 to 1024; got '1025'"),
        ("predict bare.safetensors iris.csv --threads two", "--threads: expected an integer from 1 to 1024"),
        ("train --dtype float16", "invalid choice"),
        ("train --backend cuda", "invalid choice"),
        ("train --target y", "--target needs a FILE"),
        ("train --out nowhere/model.safetensors", "there is no directory"),
        ("train --out .", "is a directory"),
        ("train --plot curve.bmpp", "must have the extension of a supported image format"),
        ("train --plot a.png --out a.png", "given twice"),
        ("train iris.csv --target kind --out iris.csv", "given twice"),
        ("train iris.csv", "--target is required: the column of 'iris.csv'"),
        ("train iris.csv --target kin", "did you mean 'kind'"),
        ("train iris.csv --target kind --labels a", "--labels does not apply to 'iris.csv'"),
        ("train iris.csv --target kind --ignore e", "has no column 'e'"),
        ("train iris.csv --target kind --task regression", "a regression needs numbers"),
        ("train irs.csv --target kind", "there is no file 'irs.csv'; did you mean 'iris.csv'"),
        ("train one.csv --target y", "only one class"),
        ("train few.csv --target y", "too few to hold out"),
        ("train many.csv --target y --task classification", "40 rows are too few for 39 classes: with one"),
        (
            "train iris.csv --target kind --checkpoint bare.safetensors",
            "is a model, not a checkpoint to resume; pass another --checkpoint file",
        ),
        ("train junk.csv --target y", "contains 'oops' among numbers"),
        (
            "train one.csv --target x --optimizer sgd --learning-rate 1e30 --quiet",
            "helps; no file was written",
        ),
        ("predict iris.csv iris.csv", "is not a model file, or is damaged: it does not begin with"),
        ("predict nothing.safetensors iris.csv", "there is no model file"),
        ("predict . iris.csv", "is a directory"),
        ("predict bare.safetensors iris.csv", "was not written by `bpfast train`"),
        ("predict broken.safetensors iris.csv", "is invalid: it is not an object"),
        ("predict iris.csv", "the following arguments are required"),
        ("fly", "invalid choice: 'fly'"),
        ("", "arguments are required"),
    ],
)
def test_user_errors(arguments: str, message: str, write_csv: Any, iris: Any, error_of: Any) -> None:
    write_csv("iris.csv", iris())
    write_csv("one.csv", [["x", "y"], *([i, "a"] for i in range(30))])
    write_csv("few.csv", [["x", "y"], [1, 0.5], [2, 1.5], [3, 2.5]])
    write_csv("many.csv", [["x", "y"], [0, 1], *([i, i] for i in range(1, 40))])
    write_csv("junk.csv", [["x", "y"], *([i, i] for i in range(30)), [1, "oops"]])
    network = bp.Network([bp.Dense(2)], n_inputs=4, loss="cross_entropy")
    network.save("bare.safetensors")
    network.metadata["preparation"] = "[]"
    network.save("broken.safetensors")
    assert message in error_of(*arguments.split())


def test_without_matplotlib(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error_of: Any
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert 'pip install "bpfast[plot]"' in error_of("train", "--plot", "a.png")
    assert main(["train", "--epochs", "1"]) == 0
    assert "curve.png is not written: plots require matplotlib" in capsys.readouterr().out
    assert os.listdir() == ["model.safetensors"]


@pytest.mark.parametrize("name", ["pandas", "sklearn"])
def test_without_extras(
    monkeypatch: pytest.MonkeyPatch, name: str, write_csv: Any, iris: Any, error_of: Any
) -> None:
    write_csv("iris.csv", iris())
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, f"{name}.datasets", None)
    arguments = ["train"] if name == "sklearn" else ["train", "iris.csv", "--target", "kind"]
    assert 'pip install "bpfast[all]"' in error_of(*arguments)


def test_a_read_only_directory(monkeypatch: pytest.MonkeyPatch, error_of: Any) -> None:
    os.mkdir("locked")
    os.chmod("locked", 0o500)

    def refuse(**_: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    if os.access("locked", os.W_OK):  # root may write anywhere, so simulate the error
        monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    said = error_of("train", "--out", "locked/model.safetensors")
    assert "cannot write 'locked/model.safetensors': Permission denied" in said
    assert not os.listdir("locked")


def test_a_preparation_that_does_not_match_the_network(
    capsys: pytest.CaptureFixture[str], write_csv: Any, iris: Any, error_of: Any
) -> None:
    assert main(["train", "--epochs", "1", "--no-plot", "--quiet"]) == 0
    text = bp.load("model.safetensors").metadata["preparation"]
    network = bp.Network([bp.Dense(2)], n_inputs=4, loss="cross_entropy")
    network.metadata["preparation"] = text
    network.save("model.safetensors")
    write_csv("iris.csv", iris())
    capsys.readouterr()
    assert "it has 64 inputs and 10 outputs, but the network has 4 and 2" in error_of(
        "predict", "model.safetensors", "iris.csv"
    )
