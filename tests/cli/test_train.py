"""`bpfast train`, and `bpfast predict` with its models."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bpfast as bp
from bpfast.__main__ import main

pytest.importorskip("sklearn")
pytest.importorskip("pandas")
pytest.importorskip("matplotlib")


def test_train_without_data(capsys: pytest.CaptureFixture[str], score_of: Any) -> None:
    assert main(["train"]) == 0
    out, err = capsys.readouterr()
    assert score_of(out) >= 0.95
    assert "samples per second" in out
    assert "359 rows, not used for training" in out
    assert "50/50" in err, "a progress bar"
    assert Path("curve.png").read_bytes().startswith(b"\x89PNG")
    network = bp.load("model.safetensors")
    assert list(network.program.widths) == [64, 64, 10]
    assert network.epochs == 50


def test_the_same_seed_gives_the_same_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert main(["train", "--epochs", "2", "--no-plot", "--quiet", "--seed", seed, "--out", name]) == 0
    assert Path("a").read_bytes() == Path("b").read_bytes() != Path("c").read_bytes()
    out, err = capsys.readouterr()
    assert not err
    assert out.count("\n") == 3, "quiet prints only the result"
    assert not Path("curve.png").exists()


def test_regression_and_its_predictions(
    capsys: pytest.CaptureFixture[str], write_csv: Any, read_csv: Any, houses: Any, score_of: Any
) -> None:
    rows = houses()
    write_csv("houses.csv", rows)
    train = ["train", "houses.csv", "--target", "price", "--hidden", "16", "--learning-rate", "0.01"]
    assert main([*train, "--ignore", "note", "--epochs", "60", "--predictions", "test.csv"]) == 0
    out = capsys.readouterr().out
    assert score_of(out) > 0.85
    assert "regression of 'price'" in out
    assert "missing values: 19 (area 12, town 7)" in out

    tested = read_csv("test.csv")
    assert tested[0] == ["row", "prediction"]
    assert len(tested) == 41
    held_out = [rows[1 + int(row)] for row, _ in tested[1:]]
    prices = np.array([float(row[3]) for row in held_out])
    predicted = np.array([float(row[1]) for row in tested[1:]])
    r2 = 1 - ((prices - predicted) ** 2).mean() / prices.var()
    assert r2 == pytest.approx(score_of(out), abs=1e-4)

    write_csv("held.csv", [["junk", *rows[0][:3]], *[["?", *row[:3]] for row in held_out]])
    assert main(["predict", "model.safetensors", "held.csv"]) == 0
    out = capsys.readouterr().out
    assert "not used by the model: junk" in out
    assert "40 predictions of 'price'" in out
    again = read_csv("predictions.csv")
    assert again[0] == ["prediction"]
    assert [row[0] for row in again[1:]] == [row[1] for row in tested[1:]], "bitwise"


def test_classification_and_its_predictions(
    capsys: pytest.CaptureFixture[str], write_csv: Any, read_csv: Any, iris: Any, score_of: Any
) -> None:
    rows = iris()
    write_csv("iris.csv", rows)
    assert main(["train", "iris.csv", "--target", "kind", "--predictions", "test.csv", "--epochs", "40"]) == 0
    out = capsys.readouterr().out
    assert "classification of 'kind'" in out
    assert "text with 3 distinct values" in out
    tested = read_csv("test.csv")
    classes = ["setosa", "versicolor", "virginica"]
    assert tested[0] == ["row", "prediction", *(f"probability_{name}" for name in classes)]
    truth = [rows[1 + int(row[0])][4] for row in tested[1:]]
    right = np.mean([row[1] == label for row, label in zip(tested[1:], truth, strict=True)])
    assert right == pytest.approx(score_of(out), abs=1e-4)
    assert right >= 0.85
    assert [truth.count(name) for name in classes] == [10, 10, 10], "stratified"
    shares = np.array([[float(value) for value in row[2:]] for row in tested[1:]])
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-6)
    assert [classes[index] for index in shares.argmax(axis=1)] == [row[1] for row in tested[1:]]

    write_csv("held.csv", [rows[0], *[rows[1 + int(row[0])] for row in tested[1:]]])
    assert main(["predict", "model.safetensors", "held.csv", "--out", "again.csv", "--quiet"]) == 0
    assert [row[1:] for row in tested] == read_csv("again.csv")


def test_unseen_and_missing_values_are_counted(
    capsys: pytest.CaptureFixture[str], write_csv: Any, houses: Any, error_of: Any
) -> None:
    write_csv("houses.csv", houses())
    assert main(["train", "houses.csv", "--target", "price", "--epochs", "1", "--no-plot"]) == 0
    write_csv("new.csv", [["rooms", "area", "town", "note"], [1, "", "Moon", 1], [2, 50, "Aa", ""]])
    capsys.readouterr()
    assert main(["predict", "model.safetensors", "new.csv"]) == 0
    out = capsys.readouterr().out
    assert "missing values: 2 (area 1, note 1)" in out
    assert "categories not seen in training: 1 (town 1)" in out
    write_csv("new.csv", [["rooms", "area", "note"], [1, 1, 1]])
    os.remove("predictions.csv")
    assert "lacks a column that the model needs: 'town'" in error_of(
        "predict", "model.safetensors", "new.csv"
    )


def test_integer_labels_stay_integers(
    capsys: pytest.CaptureFixture[str], write_csv: Any, read_csv: Any
) -> None:
    rows = [[i % 7, 10 if i % 7 < 3 else 20] for i in range(60)]
    write_csv("a.csv", [["x", "y"], *rows, ["3", ""]])
    assert main(["train", "a.csv", "--target", "y", "--epochs", "1", "--no-plot", "--dtype", "float64"]) == 0
    out = capsys.readouterr().out
    assert "2 distinct integer values" in out
    assert "rows without a target skipped: 1" in out
    assert "batches of 32, 1 epoch\n" in out
    assert "(1 epoch in " in out
    assert main(["predict", "model.safetensors", "a.csv"]) == 0
    head, *lines = read_csv("predictions.csv")
    assert head == ["prediction", "probability_10", "probability_20"]
    assert {line[0] for line in lines} <= {"10", "20"}
    assert len(lines) == 61


def test_npz_and_idx(capsys: pytest.CaptureFixture[str], read_csv: Any, error_of: Any, score_of: Any) -> None:
    from sklearn.datasets import load_digits

    data = load_digits()
    np.savez("a.npz", X=data.data[:600], y=data.target[:600], again=data.data[:5])
    assert main(["train", "a.npz", "--epochs", "15", "--no-plot"]) == 0
    assert score_of(capsys.readouterr().out) > 0.85
    assert main(["predict", "model.safetensors", "a.npz", "--features", "again", "--out", "p.csv"]) == 0
    assert len(read_csv("p.csv")) == 6

    def idx(path: str, array: Any) -> None:
        head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
        Path(path).write_bytes(head + array.astype(np.uint8).tobytes())

    idx("images", (data.images[:600] * 15.9).astype(np.uint8))
    idx("labels", data.target[:600])
    assert main(["train", "images", "--labels", "labels", "--epochs", "15", "--no-plot"]) == 0
    out = capsys.readouterr().out
    assert score_of(out) > 0.85
    assert "divided by 255" in out
    assert main(["predict", "model.safetensors", "images"]) == 0
    assert len(read_csv("predictions.csv")) == 601
    os.remove("predictions.csv")
    np.savez("narrow.npz", X=data.data[:5, :7])
    assert "has 7 values per row; this model needs 64" in error_of(
        "predict", "model.safetensors", "narrow.npz"
    )


def test_early_stopping(capsys: pytest.CaptureFixture[str], write_csv: Any, iris: Any) -> None:
    write_csv("iris.csv", iris())
    command = ["train", "iris.csv", "--target", "kind", "--learning-rate", "0.05", "--patience", "3"]
    assert main([*command, "--epochs", "500", "--penalty", "l2", "--alpha", "0.001"]) == 0
    out = capsys.readouterr().out
    assert "at most 500 epochs" in out
    assert "slightly optimistic" in out
    assert "l2 0.001" in out
    assert bp.load("model.safetensors").epochs < 500


def test_without_held_out_rows(capsys: pytest.CaptureFixture[str], write_csv: Any, iris: Any) -> None:
    write_csv("iris.csv", iris())
    assert main(["train", "iris.csv", "--target", "kind", "--validation", "0", "--epochs", "2"]) == 0
    assert ", 0 held-out rows" in capsys.readouterr().out
    assert Path("curve.png").exists()


def test_no_hidden_layer_and_full_batches(write_csv: Any, iris: Any) -> None:
    write_csv("iris.csv", iris())
    command = ["train", "iris.csv", "--target", "kind", "--no-plot", "--epochs", "3"]
    assert main([*command, "--hidden", "0", "--optimizer", "rprop"]) == 0
    assert len(bp.load("model.safetensors").layers) == 1
