"""`bpfast predict` in chunks equals the prediction of the whole table."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bpfast as bp
from bpfast.__main__ import main
from bpfast.cli.predict import predictions_text
from bpfast.data import tables
from bpfast.data.preparation import Preparation

pytest.importorskip("pandas")


def expected(table: tables.Table) -> bytes:
    """The predictions of a whole table."""
    network = bp.load("model.safetensors")
    prepared = Preparation.from_json(network.metadata["preparation"])
    X, _ = prepared.inputs(table, network.dtype)
    head = predictions_text(prepared, [], None, head=True)
    return head + predictions_text(prepared, network.predict(X), None)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_predictions_of_a_csv(small_chunks: None, dtype: str, write_csv: Any, houses: Any, run: Any) -> None:
    write_csv("houses.csv", houses())
    run("train", "houses.csv", "--target", "price", "--epochs", "2", "--no-plot", "--dtype", dtype)
    rows = [["junk", *row[:3]] for row in houses(300, seed=1)]
    rows[0][0] = "junk"
    rows[150][3] = "Moon"
    rows[200][3] = "Mars"
    write_csv("new.csv", rows)
    out = run("predict", "model.safetensors", "new.csv")
    assert "missing values: 29 (area 18, town 11)" in out
    assert "categories not seen in training: 2 (town 2)" in out
    assert "not used by the model: junk" in out
    assert "300 predictions" in out
    whole = expected(tables.read_csv("new.csv", text=["town"], lenient=True))
    assert Path("predictions.csv").read_bytes() == whole
    with gzip.open("new.csv.gz", "wb") as file:
        file.write(Path("new.csv").read_bytes())
    run("predict", "model.safetensors", "new.csv.gz", "--quiet")
    assert Path("predictions.csv").read_bytes() == whole


@pytest.mark.parametrize(
    "cells",
    [
        ["9007199254740993", "9007199254740995", "0.1"],
        ["0.3", "9007199254740993", ""],
        ["", "1", "2"],
        ["0.1", "0.2", "1_000"],
        ["1", "18446744073709551615", "-1"],
        ["7", "123456789012345678901234", "8"],
    ],
)
def test_numbers_do_not_depend_on_chunk_boundaries(
    small_chunks: None, cells: list[str], write_csv: Any, run: Any
) -> None:
    write_csv("a.csv", [["a", "y"], *([i * 1e15, i % 3 + 0.5] for i in range(60))])
    run(
        *("train", "a.csv", "--target", "y", "--task", "regression", "--epochs", "1", "--no-plot"),
        *("--dtype", "float64"),
    )
    first, then, last = cells
    write_csv("new.csv", [["a"], *[[first]] * 100, *[[then]] * 100, [last]])
    run("predict", "model.safetensors", "new.csv")
    assert Path("predictions.csv").read_bytes() == expected(tables.read_csv("new.csv"))


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("five", "column 'rooms' of 'new.csv' contains 'five' (row 250, counted from 0); the model needs"),
        ("True", "column 'rooms' of 'new.csv' contains 'True' (row 250, counted from 0); the model needs"),
        ("inf", "column 'rooms' of 'new.csv' contains inf; all values must be finite"),
        ("1e300", "X contains inf in row 250, column 0; all values must be finite"),
        ("1,2", "as CSV: "),
    ],
)
def test_an_invalid_row_in_a_late_chunk(
    small_chunks: None, cell: str, message: str, write_csv: Any, houses: Any, run: Any, error_of: Any
) -> None:
    write_csv("houses.csv", houses())
    run("train", "houses.csv", "--target", "price", "--epochs", "1", "--no-plot")
    rows = houses(300)
    rows[251][0] = cell
    write_csv("new.csv", rows)
    if cell == "1,2":
        Path("new.csv").write_text(Path("new.csv").read_text(encoding="utf-8").replace('"1,2"', cell))
    assert message in error_of("predict", "model.safetensors", "new.csv")


def test_predictions_of_arrays(
    small_chunks: None, blobs: Any, idx_bytes: Any, run: Any, array_files: Any
) -> None:
    X, y = blobs(columns=6)
    np.savez("train.npz", X=X, y=y)
    run("train", "train.npz", "--epochs", "2", "--no-plot")
    X[70, 2] = np.nan
    for path in array_files(X[:100]):
        out = run("predict", "model.safetensors", path)
        assert "missing values: 1 (x2 1)" in out
        read = tables.read_npz if path.endswith("npz") else tables.read_npy
        assert Path("predictions.csv").read_bytes() == expected(read(path)), path
    Path("images").write_bytes(idx_bytes(np.arange(120).reshape(20, 6)))
    run("predict", "model.safetensors", "images")
    assert Path("predictions.csv").read_bytes() == expected(tables.read_idx("images"))


def test_an_interruption_keeps_the_old_file(
    small_chunks: None, monkeypatch: pytest.MonkeyPatch, blobs: Any, run: Any
) -> None:
    X, y = blobs()
    np.savez("a.npz", X=X, y=y)
    run("train", "a.npz", "--epochs", "1", "--no-plot")
    Path("predictions.csv").write_text("old")
    before, seen = sorted(os.listdir()), []
    plain = bp.Network.predict

    def predict(network: bp.Network, X: Any) -> Any:
        seen.append(sorted(os.listdir()))
        if len(seen) == 3:
            raise KeyboardInterrupt
        return plain(network, X)

    monkeypatch.setattr(bp.Network, "predict", predict)
    assert main(["predict", "model.safetensors", "a.npz"]) == 130
    assert sorted(os.listdir()) == before
    assert len(seen[-1]) == len(before) + 1, "a temporary file is written next to it"
    assert Path("predictions.csv").read_text() == "old"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_predictions_into_a_pipe(small_chunks: None, blobs: Any, run: Any) -> None:
    X, y = blobs()
    np.savez("a.npz", X=X, y=y)
    run("train", "a.npz", "--epochs", "1", "--no-plot")
    os.mkfifo("pipe")
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(Path("pipe").read_bytes()))
    reader.start()
    run("predict", "model.safetensors", "a.npz", "--out", "pipe")
    reader.join()
    assert got == [expected(tables.read_npz("a.npz"))]


@pytest.mark.skipif(not os.path.exists("/dev/stdout"), reason="no /dev/stdout")
def test_predictions_to_standard_output(blobs: Any, run: Any) -> None:
    X, y = blobs(20)
    np.savez("a.npz", X=X, y=y)
    run("train", "a.npz", "--epochs", "1", "--no-plot")
    words = ["predict", "model.safetensors", "a.npz", "--out", "/dev/stdout"]
    ended = subprocess.run([sys.executable, "-P", "-m", "bpfast", *words], capture_output=True, timeout=120)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert ended.stdout.startswith(expected(tables.read_npz("a.npz")))
