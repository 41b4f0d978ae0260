"""A preparation learned from a stream equals that learned from the whole table."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bpfast.data import fit_stream, fit_table, preparation, tables
from bpfast.data.array_files import npz_files
from bpfast.data.streams import CsvStream, MatrixStream

pytest.importorskip("pandas")


def learn_and_prepare(stream: Any, share: float = 0.2) -> tuple[Any, Any]:
    """Split the rows of a stream, learn from them and prepare them: (split, prepared rows)."""
    target = stream.targets()
    row_ids = np.flatnonzero(~preparation.missing(target))
    target = target[row_ids]
    task, _ = fit_table.infer_task(target)
    classes, labels = fit_table.class_numbers(target, "y") if task == "classification" else ((), None)
    rows, held_out = fit_table.split(labels, len(target), share, 0)

    def nothing(_: int) -> None:
        pass

    prepared = fit_stream.learn(stream, target, task, classes, row_ids, rows, nothing)
    ours = fit_stream.prepare(stream, prepared, "float64", row_ids, rows, held_out, ".", nothing)
    return (target, task, classes, row_ids, rows, held_out), (prepared, *ours)


def compare(stream: Any, table: tables.Table) -> None:
    (target, task, classes, row_ids, rows, held_out), (prepared, X, Xv, counts) = learn_and_prepare(stream)
    table = table.take(row_ids)
    whole = fit_table.learn(table, target, task, classes, rows)
    assert [type(column) for column in prepared.columns] == [type(column) for column in whole.columns]
    for ours, theirs in zip(prepared.columns, whole.columns, strict=True):
        assert ours.name == theirs.name
        assert ours.fill == theirs.fill, "all training rows are in the sample"
        if isinstance(theirs, preparation.TextColumn):
            assert ours == theirs
        else:
            assert ours.mean == pytest.approx(theirs.mean, rel=1e-13, abs=1e-13 * theirs.scale)
            assert ours.scale == pytest.approx(theirs.scale, rel=1e-13)
    assert (prepared.classes, prepared.mean, prepared.scale) == (whole.classes, whole.mean, whole.scale)
    everything, met = prepared.inputs(table, "float64")
    assert counts == met
    assert X.tobytes() == everything[rows].tobytes()
    assert Xv.tobytes() == everything[held_out].tobytes()


def test_csv_preparation_in_chunks(small_chunks: None, write_csv: Any, houses: Any) -> None:
    write_csv("a.csv", houses())
    compare(CsvStream("a.csv", target="price"), tables.read_csv("a.csv", target="price"))
    write_csv("b.csv", [[*row[:2], row[3], row[2]] for row in houses()])
    compare(CsvStream("b.csv", target="town"), tables.read_csv("b.csv", target="town"))


@pytest.mark.parametrize("labelled", [range(100), range(200, 300), range(300, 400)], ids=str)
def test_chunks_without_any_target(small_chunks: None, labelled: range, write_csv: Any) -> None:
    rows = [[f"t{i % 4}", "" if i % 7 == 3 else i, i / 2 if i in labelled else ""] for i in range(400)]
    path = write_csv("a.csv", [["c", "x", "y"], *rows])
    compare(CsvStream(path, target="y"), tables.read_csv(path, target="y"))


def test_array_preparation_in_chunks(small_chunks: None, blobs: Any) -> None:
    X, y = blobs()
    X[::7, 3] = np.nan
    X[:, 4] = 5
    np.savez("a.npz", X=X, y=y, t=y + 0.5 * X[:, 0], n=np.array(["a", "b", "c"])[y])
    arrays = npz_files("a.npz")
    for name in "ytn":
        stream = MatrixStream("npz", arrays["X"], arrays[name], name)
        compare(stream, tables.read_npz("a.npz", target=name))
    images = (np.random.default_rng(0).random((90, 3, 3)) * 255).astype(np.uint8)
    np.savez("b.npz", X=images, y=np.arange(90) % 3)
    arrays = npz_files("b.npz")
    compare(MatrixStream("npz", arrays["X"], arrays["y"], "y"), tables.read_npz("b.npz", target="y"))


@pytest.mark.parametrize("offset", [0.0, 1e6, -1e9])
def test_moments_in_blocks(offset: float) -> None:
    random = np.random.default_rng(0)
    X = random.standard_normal((1000, 4)) * [1, 1e-3, 100, 0] + offset
    X[random.random(X.shape) < 0.3] = np.nan
    X[:400, 1] = np.nan
    moments = fit_stream.Moments(4, len(X))
    for start in range(0, 1000, 130):
        moments.add(X[start : start + 130])
    np.testing.assert_array_equal(moments.count, (~np.isnan(X)).sum(axis=0))
    np.testing.assert_allclose(moments.mean, np.nanmean(X, axis=0), rtol=1e-14)
    # Around a mean of 1e9, float64 resolves a deviation of 1e-3 to four digits.
    np.testing.assert_allclose(moments.deviation, np.nanstd(X, axis=0), rtol=1e-11, atol=abs(offset) * 1e-14)
    assert moments.medians() == np.nanmedian(X, axis=0).tolist()


def test_medians_of_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit_stream, "SAMPLE", 300)
    X = np.column_stack([np.arange(1000.0), np.where(np.arange(1000) % 10, 3.0, np.nan)])
    moments = fit_stream.Moments(2, len(X))
    for start in range(0, 1000, 33):
        moments.add(X[start : start + 33])
    taken = X[::7]  # at most 150 rows of two numbers: every seventh
    assert moments.medians() == np.nanmedian(taken, axis=0).tolist()
    empty = fit_stream.Moments(1, 1000)
    empty.add(np.where(np.arange(1000) % 7, 2.5, np.nan)[:, None])
    assert empty.medians() == [2.5], "the mean if the sample has no values"
