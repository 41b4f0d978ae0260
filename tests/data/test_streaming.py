"""Files in chunks: what comes of them is what comes of the files in one piece."""

from __future__ import annotations

import csv
import gzip
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bpfast as bp
from bpfast.__main__ import main
from bpfast.cli import console
from bpfast.cli.predict import predictions_text
from bpfast.data import fit_stream as outofcore
from bpfast.data import fit_table as learning
from bpfast.data import preparation, streams, tables
from bpfast.data.array_files import idx_file, npy_file, npz_files
from bpfast.data.preparation import Preparation
from bpfast.data.streams import CsvStream, MatrixStream, TableStream
from bpfast.data.tables import UserError
from bpfast.storage import atomic

pytest.importorskip("pandas")


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TMPDIR", raising=False)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of a few rows, so that small files have many."""
    monkeypatch.setattr(streams, "CHUNK", 64)


def write_csv(path: str, rows: list[list[Any]]) -> str:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


def read_csv(path: str) -> list[list[str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def houses(n: int = 400, seed: int = 0) -> list[list[Any]]:
    """Numbers, a text, holes and some rows without a price, which follows from the others."""
    random = np.random.default_rng(seed)
    rows: list[list[Any]] = [["rooms", "area", "town", "price"]]
    for index in range(n):
        rooms, area = int(random.integers(1, 6)), float(random.uniform(30, 200))
        town = ["Aa", "Bee", "Cé, the"][int(random.integers(3))]
        price = 50_000 + 20_000 * rooms + 900 * area + (90_000 if town == "Bee" else 0)
        shown = ["" if index % 17 == 0 else repr(area), "" if index % 29 == 0 else town]
        rows.append([rooms, *shown, "" if index % 31 == 5 else repr(price)])
    return rows


def blobs(n: int = 300, columns: int = 6, seed: int = 0) -> tuple[Any, Any]:
    """Rows around three middles, and which."""
    random = np.random.default_rng(seed)
    y = random.integers(0, 3, n)
    X = random.standard_normal((3, columns))[y] * 4 + random.standard_normal((n, columns))
    return X.astype(np.float32), y


def idx_bytes(array: Any) -> bytes:
    head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return head + array.astype(np.uint8).tobytes()


def run(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What a command that ends well prints."""
    assert main(words) == 0, capsys.readouterr()
    return capsys.readouterr().out


def error_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line that a mistake is answered with; nothing is written or left."""
    before = sorted(os.listdir())
    assert main(words) == 2
    err = capsys.readouterr().err
    assert err.startswith("bpfast: error: "), err
    assert err.count("\n") == 1, err
    assert sorted(os.listdir()) == before
    return err


def figure_of(output: str) -> float:
    found = re.search(r"test (?:accuracy|R²) (-?[\d.]+)", output)
    assert found, output
    return float(found[1])


# -- chunks ------------------------------------------------------------------------------------------

WORDS = ["", "x", "True", "false", "1_000", "inf", "nan", "NA"]
NUMBERS = ["1", "2", "-3", "007", "0.1", "1e300", *(str(n) for n in (2**53 + 1, -(2**53) - 1, 2**64 - 1))]
CELLS = st.sampled_from(WORDS + NUMBERS)
FILES = st.integers(2, 4).flatmap(
    lambda columns: st.lists(st.lists(CELLS, min_size=columns, max_size=columns), min_size=1, max_size=14)
)


def same(ours: Any, theirs: Any) -> None:
    """The same texts, or the same float64 numbers to the bit."""
    if theirs.dtype == object:
        assert ours.tolist() == theirs.tolist()
    else:
        assert ours.dtype != object
        assert ours.astype(np.float64).tobytes() == theirs.astype(np.float64).tobytes()


@given(rows=FILES, chunk=st.sampled_from([1, 2, 3, 5]), texts=st.booleans())
@settings(deadline=None, derandomize=True, max_examples=200)
def test_a_csv_in_chunks_is_the_csv_in_one_piece(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]], chunk: int, texts: bool
) -> None:
    names = [f"c{index}" for index in range(len(rows[0]))]
    path = str(tmp_path_factory.mktemp("csv") / "a.csv")
    write_csv(path, [names, *rows])
    options: dict[str, Any] = {"target": "c0", "text": ["c1"] if texts else []}
    table = tables.read_csv(path, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "CHUNK", chunk * len(names))
        stream = CsvStream(path, **options)
        goal = stream.targets()
        chunks = list(stream.chunks())
    assert stream.names == list(table.columns)
    assert table.target is not None
    same(goal, table.target)
    for name, values in table.columns.items():
        same(np.concatenate([part.columns[name] for part in chunks]), values)
    assert np.concatenate([part.origin for part in chunks]).tolist() == list(range(len(table)))  # type: ignore[arg-type]


def test_a_chunk_that_changes_the_others_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "CHUNK", 2)
    huge = "123456789012345678901234"
    for first, second in (
        *[("9007199254740993", "0.5"), ("1", "x"), ("True", "x"), ("", "False")],
        *[("1", huge), ("0.5", huge), (huge, "")],
    ):
        write_csv("a.csv", [["a"], *([cell] for cell in (first, first, second))])
        stream = CsvStream("a.csv")
        with pytest.raises(streams.RetypedError):
            list(stream.chunks())
        stream.settle()
        same(
            np.concatenate([table.columns["a"] for table in stream.chunks()]),
            tables.read_csv("a.csv").columns["a"],
        )
        assert len(list(CsvStream("a.csv", watch=[]).chunks())) == 2, "nobody looks at that column"


def matrices(X: Any) -> dict[str, Any]:
    """The same rows in every kind of file; how to see the array in each."""
    np.save("a.npy", X)
    np.save("fortran.npy", np.asfortranarray(X))
    np.save("big.npy", X.astype(X.dtype.newbyteorder(">")))
    with gzip.open("a.npy.gz", "wb") as file:
        file.write(Path("a.npy").read_bytes())
    np.savez("stored.npz", other=np.ones(3), X=X)
    np.savez_compressed("deflated.npz", X=X, other=np.ones(3))
    np.savez_compressed("fortran.npz", X=np.asfortranarray(X))
    plain = {path: ("npy", npy_file(path)) for path in ("a.npy", "fortran.npy", "big.npy", "a.npy.gz")}
    packed = {path: ("npz", npz_files(path)["X"]) for path in ("stored.npz", "deflated.npz", "fortran.npz")}
    return plain | packed


@pytest.mark.parametrize("shape", [(37, 5), (37, 2, 3)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.uint8, bool])
def test_an_array_in_chunks_is_the_array(small_chunks: None, shape: tuple[int, ...], dtype: Any) -> None:
    X = (np.random.default_rng(0).standard_normal(shape) * 50).astype(dtype)
    for path, (kind, array) in matrices(X).items():
        parts = list(MatrixStream(kind, array).chunks())
        assert len(parts) == 4, path
        assert all(len(part) <= 12 for part in parts)
        found = np.concatenate([part.matrix for part in parts])  # type: ignore[arg-type]
        assert found.dtype == X.dtype
        np.testing.assert_array_equal(found, X.reshape(37, -1), err_msg=path)
        np.testing.assert_array_equal(array.whole(), X)
        assert parts[0].full_scale == (255 if dtype is np.uint8 and len(shape) == 3 else None)


@pytest.mark.parametrize("zipped", [False, True])
def test_idx_in_chunks(small_chunks: None, zipped: bool) -> None:
    images = np.arange(240, dtype=np.uint8).reshape(60, 2, 2)
    pack = gzip.compress if zipped else bytes
    Path("images").write_bytes(pack(idx_bytes(images)))
    parts = list(MatrixStream("idx", idx_file("images")).chunks())
    assert len(parts) == 4
    np.testing.assert_array_equal(np.concatenate([p.matrix for p in parts]), images.reshape(60, 4))  # type: ignore[arg-type]
    for wrong in (idx_bytes(images)[:-100], idx_bytes(images) + b"more"):
        Path("images").write_bytes(pack(wrong))
        for read in (
            lambda: list(MatrixStream("idx", idx_file("images")).chunks()),
            idx_file("images").whole,
        ):
            with pytest.raises(UserError, match=f"tells of 240 bytes, {len(wrong) - 16} follow"):
                read()


@pytest.mark.parametrize("name", ["a.npy", "a.npy.gz", "stored.npz", "deflated.npz"])
def test_a_file_that_ends_early_or_is_damaged(small_chunks: None, name: str) -> None:
    X = np.random.default_rng(0).standard_normal((200, 3))
    kind, array = matrices(X)[name]
    whole = Path(name).read_bytes()
    damaged = [whole[: len(whole) // 2]]
    if name.endswith("npz"):
        at = whole.index(b"X.npy") + 600
        damaged = [whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :]]
    for data in damaged:
        Path(name).write_bytes(data)
        for read in (lambda: list(MatrixStream(kind, array).chunks()), array.whole):
            with pytest.raises(UserError, match=r"damaged|can't be read"):
                read()


def test_what_is_no_array_of_numbers() -> None:
    np.save("objects.npy", np.array([[{}]]), allow_pickle=True)
    np.save("texts.npy", np.array([["a"]]))
    np.save("flat.npy", np.ones(3))
    Path("cut.npy").write_bytes(Path("flat.npy").read_bytes()[:40])
    Path("new.npy").write_bytes(b"\x93NUMPY\x09\x00" + Path("flat.npy").read_bytes()[8:])
    for path, message in (
        ("objects.npy", "holds Python objects"),
        ("texts.npy", "real numbers are wanted"),
        ("flat.npy", "rows and columns are wanted"),
        ("cut.npy", "can't be read as NPY"),
        ("new.npy", "can't be read as NPY"),
    ):
        assert tables.kind_of(path) == "npy"
        with pytest.raises(UserError, match=message):
            tables.read_npy(path)


# -- predict -----------------------------------------------------------------------------------------


def expected(table: tables.Table) -> bytes:
    """The predictions of a table in one piece."""
    network = bp.load("model.safetensors")
    prepared = Preparation.from_json(network.metadata["preparation"])
    X, _ = prepared.inputs(table, network.dtype)
    head = predictions_text(prepared, [], None, head=True)
    return head + predictions_text(prepared, network.predict(X), None)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_predictions_of_a_csv(capsys: pytest.CaptureFixture[str], small_chunks: None, dtype: str) -> None:
    write_csv("houses.csv", houses())
    run(capsys, "train", "houses.csv", "--target", "price", "--epochs", "2", "--no-plot", "--dtype", dtype)
    rows = [["junk", *row[:3]] for row in houses(300, seed=1)]
    rows[0][0] = "junk"
    rows[150][3] = "Moon"
    rows[200][3] = "Mars"
    write_csv("new.csv", rows)
    out = run(capsys, "predict", "model.safetensors", "new.csv")
    assert "missing values: 29 (area 18, town 11)" in out
    assert "texts that no training row had: 2 (town 2)" in out
    assert "does not use: junk" in out
    assert "300 predictions" in out
    whole = expected(tables.read_csv("new.csv", text=["town"], lenient=True))
    assert Path("predictions.csv").read_bytes() == whole
    with gzip.open("new.csv.gz", "wb") as file:
        file.write(Path("new.csv").read_bytes())
    run(capsys, "predict", "model.safetensors", "new.csv.gz", "--quiet")
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
def test_numbers_are_read_alike_wherever_a_chunk_ends(
    capsys: pytest.CaptureFixture[str], small_chunks: None, cells: list[str]
) -> None:
    write_csv("a.csv", [["a", "y"], *([i * 1e15, i % 3 + 0.5] for i in range(60))])
    run(
        capsys,
        *("train", "a.csv", "--target", "y", "--task", "regression", "--epochs", "1", "--no-plot"),
        *("--dtype", "float64"),
    )
    first, then, last = cells
    write_csv("new.csv", [["a"], *[[first]] * 100, *[[then]] * 100, [last]])
    run(capsys, "predict", "model.safetensors", "new.csv")
    assert Path("predictions.csv").read_bytes() == expected(tables.read_csv("new.csv"))


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("five", "column 'rooms' of 'new.csv' holds 'five' (row 250, counted from 0); the model takes"),
        ("True", "column 'rooms' of 'new.csv' holds 'True' (row 250, counted from 0); the model takes"),
        ("inf", "column 'rooms' of 'new.csv' holds inf; finite numbers are wanted"),
        ("1e300", "X holds inf at row 250, column 0; finite numbers are wanted"),
        ("1,2", "can't be read as CSV"),
    ],
)
def test_a_bad_row_far_down(
    capsys: pytest.CaptureFixture[str], small_chunks: None, cell: str, message: str
) -> None:
    write_csv("houses.csv", houses())
    run(capsys, "train", "houses.csv", "--target", "price", "--epochs", "1", "--no-plot")
    rows = houses(300)
    rows[251][0] = cell
    write_csv("new.csv", rows)
    if cell == "1,2":
        Path("new.csv").write_text(Path("new.csv").read_text(encoding="utf-8").replace('"1,2"', cell))
    assert message in error_of(capsys, "predict", "model.safetensors", "new.csv")


def test_predictions_of_arrays(capsys: pytest.CaptureFixture[str], small_chunks: None) -> None:
    X, y = blobs(columns=6)
    np.savez("train.npz", X=X, y=y)
    run(capsys, "train", "train.npz", "--epochs", "2", "--no-plot")
    X[70, 2] = np.nan
    for path in matrices(X[:100]):
        out = run(capsys, "predict", "model.safetensors", path)
        assert "missing values: 1 (x2 1)" in out
        read = tables.read_npz if path.endswith("npz") else tables.read_npy
        assert Path("predictions.csv").read_bytes() == expected(read(path)), path
    Path("images").write_bytes(idx_bytes(np.arange(120).reshape(20, 6)))
    run(capsys, "predict", "model.safetensors", "images")
    assert Path("predictions.csv").read_bytes() == expected(tables.read_idx("images"))


def test_an_interruption_leaves_the_file_as_it_was(
    capsys: pytest.CaptureFixture[str], small_chunks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, y = blobs()
    np.savez("a.npz", X=X, y=y)
    run(capsys, "train", "a.npz", "--epochs", "1", "--no-plot")
    Path("predictions.csv").write_text("of before")
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
    assert len(seen[-1]) == len(before) + 1, "until then it was written beside it"
    assert Path("predictions.csv").read_text() == "of before"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_predictions_into_a_pipe(capsys: pytest.CaptureFixture[str], small_chunks: None) -> None:
    X, y = blobs()
    np.savez("a.npz", X=X, y=y)
    run(capsys, "train", "a.npz", "--epochs", "1", "--no-plot")
    os.mkfifo("pipe")
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(Path("pipe").read_bytes()))
    reader.start()
    run(capsys, "predict", "model.safetensors", "a.npz", "--out", "pipe")
    reader.join()
    assert got == [expected(tables.read_npz("a.npz"))]


@pytest.mark.skipif(not os.path.exists("/dev/stdout"), reason="no /dev/stdout here")
@pytest.mark.parametrize("write", ["open_atomically", "write_atomically"])
def test_standard_output_by_its_name(write: str) -> None:
    """It is a link to a pipe, which has no path of its own."""
    program = {
        "open_atomically": "with atomic.open_atomically('/dev/stdout') as file: file.write(b'a\\n')",
        "write_atomically": "atomic.write_atomically('/dev/stdout', b'a\\n')",
    }[write]
    ended = subprocess.run(
        [sys.executable, "-P", "-c", f"from bpfast.storage import atomic\n{program}"],
        capture_output=True,
        timeout=120,
    )
    assert (ended.stdout, ended.stderr, ended.returncode) == (b"a\n", b"", 0)


@pytest.mark.skipif(not os.path.exists("/dev/stdout"), reason="no /dev/stdout here")
def test_predictions_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    X, y = blobs(20)
    np.savez("a.npz", X=X, y=y)
    run(capsys, "train", "a.npz", "--epochs", "1", "--no-plot")
    words = ["predict", "model.safetensors", "a.npz", "--out", "/dev/stdout"]
    ended = subprocess.run([sys.executable, "-P", "-m", "bpfast", *words], capture_output=True, timeout=120)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert ended.stdout.startswith(expected(tables.read_npz("a.npz")))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_needs_no_folder_to_write_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    os.mkfifo("pipe")
    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    console.require_writable(["pipe"], [])
    with pytest.raises(UserError, match="'file' can't be written: Permission denied"):
        console.require_writable(["file"], [])
    with pytest.raises(UserError, match="is a directory"):
        console.require_writable([str(tmp_path)], [])


def test_open_atomically_refuses_what_is_no_place(tmp_path: Path) -> None:
    for path, error in ((tmp_path, IsADirectoryError), (tmp_path / "no" / "file", FileNotFoundError)):
        with pytest.raises(error), atomic.open_atomically(path):
            pass


# -- train -------------------------------------------------------------------------------------------


def learnt_and_prepared(stream: Any, share: float = 0.2) -> tuple[Any, Any]:
    """(preparation, matrices) of a stream, and of the same file in one piece."""
    goal = stream.targets()
    origin = np.flatnonzero(~preparation.missing(goal))
    goal = goal[origin]
    task, _ = learning.infer_task(goal)
    classes, labels = learning.class_numbers(goal, "y") if task == "classification" else ((), None)
    rows, held_out = learning.split(labels, len(goal), share, 0)

    def nothing(_: int) -> None:
        pass

    prepared = outofcore.learn(stream, goal, task, classes, origin, rows, nothing)
    ours = outofcore.prepare(stream, prepared, "float64", origin, rows, held_out, ".", nothing)
    return (goal, task, classes, origin, rows, held_out), (prepared, *ours)


def compare(stream: Any, table: tables.Table) -> None:
    (goal, task, classes, origin, rows, held_out), (prepared, X, Xv, counts) = learnt_and_prepared(stream)
    table = table.take(origin)
    whole = learning.learn(table, goal, task, classes, rows)
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


def test_a_csv_is_learnt_from_and_prepared_in_chunks(small_chunks: None) -> None:
    write_csv("a.csv", houses())
    compare(CsvStream("a.csv", target="price"), tables.read_csv("a.csv", target="price"))
    write_csv("b.csv", [[*row[:2], row[3], row[2]] for row in houses()])
    compare(CsvStream("b.csv", target="town"), tables.read_csv("b.csv", target="town"))


@pytest.mark.parametrize("labelled", [range(100), range(200, 300), range(300, 400)], ids=str)
def test_chunks_without_any_target(small_chunks: None, labelled: range) -> None:
    rows = [[f"t{i % 4}", "" if i % 7 == 3 else i, i / 2 if i in labelled else ""] for i in range(400)]
    path = write_csv("a.csv", [["c", "x", "y"], *rows])
    compare(CsvStream(path, target="y"), tables.read_csv(path, target="y"))


def test_training_where_a_chunk_has_no_target(capsys: pytest.CaptureFixture[str], small_chunks: None) -> None:
    rows = [[f"t{i % 40}", i % 7, "ab"[i % 2] if i < 250 else ""] for i in range(400)]
    write_csv("a.csv", [["c", "x", "y"], *rows])
    words = ("train", "a.csv", "--target", "y", "--no-plot", "--epochs", "1", "--memory")
    assert figure_of(run(capsys, *words, "256")) == figure_of(run(capsys, *words, "0"))


def test_arrays_are_learnt_from_and_prepared_in_chunks(small_chunks: None) -> None:
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


def test_a_table_as_a_stream(small_chunks: None) -> None:
    write_csv("a.csv", houses())
    table = tables.read_csv("a.csv", target="price")
    parts = list(TableStream(table).chunks())
    assert len(parts) > 10
    for name, values in table.columns.items():
        same(np.concatenate([part.columns[name] for part in parts]), values)


@pytest.mark.parametrize("offset", [0.0, 1e6, -1e9])
def test_moments_in_parts(offset: float) -> None:
    random = np.random.default_rng(0)
    X = random.standard_normal((1000, 4)) * [1, 1e-3, 100, 0] + offset
    X[random.random(X.shape) < 0.3] = np.nan
    X[:400, 1] = np.nan
    moments = outofcore.Moments(4, len(X))
    for start in range(0, 1000, 130):
        moments.add(X[start : start + 130])
    np.testing.assert_array_equal(moments.count, (~np.isnan(X)).sum(axis=0))
    np.testing.assert_allclose(moments.mean, np.nanmean(X, axis=0), rtol=1e-14)
    # About a mean of 1e9 float64 knows a deviation of 1e-3 to four digits.
    np.testing.assert_allclose(moments.deviation, np.nanstd(X, axis=0), rtol=1e-11, atol=abs(offset) * 1e-14)
    assert moments.medians() == np.nanmedian(X, axis=0).tolist()


def test_medians_of_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outofcore, "SAMPLE", 300)
    X = np.column_stack([np.arange(1000.0), np.where(np.arange(1000) % 10, 3.0, np.nan)])
    moments = outofcore.Moments(2, len(X))
    for start in range(0, 1000, 33):
        moments.add(X[start : start + 33])
    taken = X[::7]  # 150 rows of two numbers at most: every seventh
    assert moments.medians() == np.nanmedian(taken, axis=0).tolist()
    empty = outofcore.Moments(1, 1000)
    empty.add(np.where(np.arange(1000) % 7, 2.5, np.nan)[:, None])
    assert empty.medians() == [2.5], "the mean where the sample has none"


@pytest.mark.parametrize("target", ["price", "town"])
def test_training_on_a_csv_in_chunks(
    capsys: pytest.CaptureFixture[str], small_chunks: None, target: str
) -> None:
    write_csv("houses.csv", houses())
    before = sorted(os.listdir())
    said, tested = [], []
    for memory in ("256", "0"):
        out = run(
            capsys,
            *("train", "houses.csv", "--target", target, "--epochs", "40", "--learning-rate", "0.01"),
            *("--memory", memory, "--predictions", "test.csv", "--plot", f"curve{memory}.png"),
            *("--out", f"model{memory}"),
        )
        said.append(out)
        tested.append(read_csv("test.csv"))
    assert abs(figure_of(said[0]) - figure_of(said[1])) < 0.05
    assert [row[0] for row in tested[0]] == [row[0] for row in tested[1]], "the same rows are held out"
    margins = ("task", "data", "split", "imputed", "network", "note")
    told = [[line for line in out.splitlines() if line.startswith(margins)] for out in said]
    # The rows come in another order, so that of its best epoch each run has its own to tell.
    told = [[line for line in lines if "the held-out loss was lowest" not in line] for lines in told]
    assert told[0] == told[1]
    assert "streamed" in said[1]
    assert "streamed" not in said[0]
    made = ["curve256.png", "curve0.png", "model256", "model0", "test.csv"]
    assert sorted(os.listdir()) == sorted([*before, *made]), "no temporary file is left"
    network = bp.load("model0")
    rows = houses()
    held = [rows[0], *[rows[1 + int(row[0])] for row in tested[1][1:]]]
    write_csv("held.csv", held)
    run(capsys, "predict", "model0", "held.csv", "--out", "again.csv")
    assert [row[1:] for row in tested[1]] == read_csv("again.csv")
    assert network.epochs == 40


def test_training_on_arrays_in_chunks(capsys: pytest.CaptureFixture[str], small_chunks: None) -> None:
    X, y = blobs(600)
    np.save("X.npy", X)
    np.save("y.npy", y)
    np.savez_compressed("a.npz", X=X, y=np.array(["a", "b", "c"])[y])
    Path("images").write_bytes(gzip.compress(idx_bytes(np.clip(X * 10 + 128, 0, 255))))
    Path("labels").write_bytes(idx_bytes(y))
    for words in (["X.npy", "--labels", "y.npy"], ["a.npz"], ["images", "--labels", "labels"]):
        figures = []
        for memory in ("256", "0.001"):
            out = run(capsys, "train", *words, "--epochs", "20", "--no-plot", "--memory", memory)
            figures.append(figure_of(out))
            run(capsys, "predict", "model.safetensors", words[0], "--quiet")
            assert len(read_csv("predictions.csv")) == 601
        assert min(figures) > 0.97


def test_the_streamed_path_gives_the_same_bits_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_csv("houses.csv", houses())
    models = []
    for chunk in (2**20, 2**20):
        monkeypatch.setattr(streams, "CHUNK", chunk)
        words = ["train", "houses.csv", "--target", "price", "--epochs", "2", "--no-plot", "--memory", "0"]
        run(capsys, *words)
        models.append(Path("model.safetensors").read_bytes())
    assert models[0] == models[1]


def test_the_temporary_files_have_no_name(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    X, y = blobs()
    np.save("X.npy", X)
    np.save("y.npy", y)
    seen: list[Any] = []
    plain = bp.Network.fit

    def fit(network: bp.Network, X: Any, y: Any, **options: Any) -> Any:
        seen.append((type(X), type(options["validation"][0]), options["shuffle"], sorted(os.listdir())))
        return plain(network, X, y, **options)

    monkeypatch.setattr(bp.Network, "fit", fit)
    run(capsys, "train", "X.npy", "--labels", "y.npy", "--epochs", "1", "--no-plot", "--memory", "0")
    assert seen == [(np.memmap, np.memmap, "blocks", ["X.npy", "y.npy"])]


def test_what_is_small_in_a_file_and_large_prepared(capsys: pytest.CaptureFixture[str]) -> None:
    write_csv("a.csv", [["t", "y"], *([f"t{i % 40}", i % 2] for i in range(4000))])
    size = os.path.getsize("a.csv")
    memory = 1.01 * size / 1e6  # 40 inputs of 4 bytes are more than t12,0
    words = ["train", "a.csv", "--target", "y", "--epochs", "3", "--no-plot", "--predictions", "p.csv"]
    out = run(capsys, *words, "--memory", str(memory))
    assert figure_of(out) == 1
    assert len(read_csv("p.csv")) == 801


def test_too_small_a_disk(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    write_csv("houses.csv", houses())
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1, 1, 1000))
    monkeypatch.setenv("TMPDIR", os.getcwd())
    said = error_of(capsys, "train", "houses.csv", "--target", "price", "--memory", "0", "--no-plot")
    assert "the prepared rows take" in said
    assert os.getcwd() in said


def test_a_disk_that_fills_up(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.BytesIO):
        def write(self, _: Any) -> int:
            raise OSError(28, "No space left on device")

    write_csv("houses.csv", houses())
    words = ["train", "houses.csv", "--target", "price", "--memory", "0", "--no-plot", "--quiet"]
    with monkeypatch.context() as patch:
        patch.setattr(outofcore.tempfile, "TemporaryFile", lambda dir=None: Full())
        assert "can't be written to" in error_of(capsys, *words)


def test_a_file_that_changes_between_the_passes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_csv("a.csv", houses())
    plain = outofcore.learn

    def learn(*arguments: Any) -> Any:
        prepared = plain(*arguments)
        write_csv("a.csv", houses(300))
        return prepared

    monkeypatch.setattr(outofcore, "learn", learn)
    words = ["train", "a.csv", "--target", "price", "--memory", "0", "--no-plot", "--quiet"]
    assert "'a.csv' has changed while it was read" in error_of(capsys, *words)


def test_the_digits_from_temporary_files(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn")
    assert figure_of(run(capsys, "train", "--memory", "0", "--no-plot")) > 0.95


BAD = {
    "column 'a' of 'a.csv' is empty": [["", i, i % 3] for i in range(60)],
    "column 'a' of 'a.csv' holds inf": [["inf" if i in (3, 4, 5, 6) else i, i, i % 3] for i in range(60)],
    "column 'a' of 'a.csv' holds -inf": [
        ["-inf" if i > 40 else i, "inf" if i < 40 else i, i % 3] for i in range(60)
    ],
    "'b' of 'a.csv' holds inf": [[i, {3: "inf", 4: "inf", 50: "-inf"}.get(i, ""), i % 3] for i in range(60)],
    "target 'y' of 'a.csv' holds inf": [[i, i, "inf" if i == 50 else i + 0.5] for i in range(60)],
    "among numbers (row 55, counted from 0); mend it": [
        ["oops" if i == 55 else i, i, "" if i < 5 else i % 3] for i in range(60)
    ],
    "holds 'low' among numbers (row 57": [[i, i, "low" if i == 57 else i] for i in range(60)],
    "1,100 different texts": [[f"t{i}", i, i % 3] for i in range(1375)],
    "too large to standardise": [[1e200 * (-1) ** i, i, i % 3] for i in range(60)],
    "one class only": [[i, i, "a"] for i in range(60)],
    "is empty in every row": [[i, i, ""] for i in range(60)],
    "too few to hold out": [[i, i, i % 2] for i in range(3)],
    "has a header, but no rows": [],
}


@pytest.mark.parametrize("message", BAD)
def test_mistakes_are_told_alike(
    capsys: pytest.CaptureFixture[str], small_chunks: None, message: str
) -> None:
    write_csv("a.csv", [["a", "b", "y"], *BAD[message]])
    said = [
        error_of(capsys, "train", "a.csv", "--target", "y", "--memory", memory) for memory in ("256", "0")
    ]
    assert message in said[0]
    assert said[0] == said[1]


def test_the_row_of_a_target_is_that_in_the_file(
    capsys: pytest.CaptureFixture[str], small_chunks: None
) -> None:
    write_csv("a.csv", [["x", "y"], [0, ""], *[[i, i if i % 2 else "no"] for i in range(60)]])
    words = ("train", "a.csv", "--target", "y", "--task", "regression", "--memory")
    said = {error_of(capsys, *words, memory) for memory in ("256", "0")}
    assert len(said) == 1
    assert "target 'y' of 'a.csv' holds 'no' (row 1, counted from 0)" in said.pop()


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("a,a,y", "a"),
        ("y,a,y", "y"),
        ('"a",\ufeffa,a', "a"),
        ("a.1,a,y,a", "a"),
    ],
)
@pytest.mark.parametrize("options", ["", "--text a", "--ignore a"])
def test_columns_of_one_name_are_refused_alike(
    capsys: pytest.CaptureFixture[str], header: str, name: str, options: str
) -> None:
    row = "True,1,2,3"[: 2 * header.count(",") + 4]
    Path("a.csv").write_text(f"{header}\n" + f"{row}\n" * 50, encoding="utf-8")
    Path("b.csv").write_text("a,y\n" + "1,0\n2,1\n" * 30)
    run(capsys, "train", "b.csv", "--target", "y", "--epochs", "1", "--no-plot")
    train = ("train", "a.csv", "--target", "y", *options.split(), "--memory")
    said = {error_of(capsys, *train, memory) for memory in ("256", "0")}
    said |= {
        error_of(capsys, *words) for words in (("train", "a.csv"), ("predict", "model.safetensors", "a.csv"))
    }
    assert said == {f"bpfast: error: 'a.csv' has two columns named {name!r}; give each a name of its own\n"}


def test_names_that_only_look_renamed_are_taken(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.csv").write_text('\ufeffa,a.1, a,"A",1,1.0,,,y\n' + "1,2,3,4,5,6,7,8,9\n" * 3, encoding="utf-8")
    names = ["a", "a.1", " a", "A", "1", "1.0", "Unnamed: 6", "Unnamed: 7"]
    assert list(tables.read_csv("a.csv", target="y").columns) == names
    assert CsvStream("a.csv", target="y").names == names


def test_a_column_that_is_renamed_after_another_is_its_own(small_chunks: None) -> None:
    """What pandas writes twice has an index without a name and one that is named so."""
    rows = [[i, "t" if i % 9 else i, i % 2] for i in range(100)]
    path = write_csv("a.csv", [["", "Unnamed: 0", "y"], *rows])
    stream = CsvStream(path, target="y")
    stream.settle()
    table = tables.read_csv(path, target="y")
    for name, values in table.columns.items():
        same(np.concatenate([chunk.columns[name] for chunk in stream.chunks()]), values)
    assert table.columns["Unnamed: 0.1"].tolist() == list(range(100))
    assert table.columns["Unnamed: 0"].dtype == object


@pytest.mark.parametrize("end", ["tar", "tar.gz", "TAR.GZ", "tar.bz2", "tar.xz"])
def test_tar_archives_are_refused_alike(capsys: pytest.CaptureFixture[str], end: str) -> None:
    write_csv("a.csv", [["a", "y"], *[[i, i % 2] for i in range(60)]])
    run(capsys, "train", "a.csv", "--target", "y", "--epochs", "1", "--no-plot")
    packed = f"a.csv.{end}"
    with tarfile.open(packed, f"w:{end.lower().partition('.')[2]}") as archive:  # type: ignore[call-overload]
        archive.add("a.csv")
    train = ("train", packed, "--target", "y", "--memory")
    said = {error_of(capsys, *train, memory) for memory in ("256", "0")}
    said.add(error_of(capsys, "predict", "model.safetensors", packed))
    assert said == {
        f"bpfast: error: {packed!r} is named as a tar archive; unpack it, and name the CSV file in it\n"
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("X.npy", "is an NPY file; name the file of its labels with --labels"),
        ("X.npy --labels a.csv", "is no idx or NPY file"),
        ("X.npy --labels short.npy", "need shape (300,)"),
        ("X.npy --labels nothing.npy", "there is no file"),
        ("X.npy --labels X.npy", "need shape (300,)"),
        ("X.npy --labels y.npy --target y", "--target does not go with 'X.npy'"),
        ("X.npy --labels y.npy --memory much", "a number of megabytes is wanted; got 'much'"),
        ("X.npy --labels y.npy --memory -1", "a number of megabytes is wanted"),
        ("a.csv --target z --memory 0", "has no column 'z'"),
        ("a.csv --target y --ignore z --memory 0", "has no column 'z'"),
    ],
)
def test_mistakes_of_large_files(capsys: pytest.CaptureFixture[str], words: str, message: str) -> None:
    X, y = blobs()
    np.save("X.npy", X)
    np.save("y.npy", y)
    np.save("short.npy", y[:5])
    write_csv("a.csv", [["x", "y"], [1, 2]])
    assert message in error_of(capsys, "train", *words.split())


def test_a_bar_moves_with_a_large_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "FEW", 100)
    monkeypatch.setattr(console, "DELAY", 0)
    X, y = blobs()
    np.save("X.npy", X)
    np.save("y.npy", y)
    write_csv("a.csv", [["a", "y"], *([i, i % 2] for i in range(100))])
    briefly = ["--epochs", "1", "--no-plot", "--memory", "0"]
    for words in (["X.npy", "--labels", "y.npy"], ["a.csv", "--target", "y"]):
        assert main(["train", *words, *briefly]) == 0
        err = capsys.readouterr().err
        for name in ("reading targets", "learning", "preparing"):
            assert f"{name}:   0%" in err
        assert main(["train", *words, *briefly, "--quiet"]) == 0
        assert not capsys.readouterr().err
        assert main(["predict", "model.safetensors", words[0]]) == 0
        assert "predicting" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["train", "--rows", "3000"], ["predict", "--megabytes", "0.5"]])
def test_the_benchmark_runs(words: list[str]) -> None:
    script = Path(__file__).parents[2] / "benchmarks" / "large.py"
    small = ["--columns", "16", "--folder", "."]
    if words[0] == "train":
        small += ["--epochs", "1", "--rounds", "1", "--memory", "0.1", "--hidden", "8", "--least", "0"]
    done = subprocess.run([sys.executable, "-P", str(script), *words, *small], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"peak \d+ MB \(most 600\)", done.stdout)
    assert not os.listdir(), "its files are gone"


def test_a_report_of_rows_from_temporary_files(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    write_csv("houses.csv", houses())
    words = ["train", "houses.csv", "--target", "town", "--epochs", "5", "--no-plot"]
    for memory in ("256", "0"):
        run(capsys, *words, "--memory", memory, "--report", f"report{memory}.html")
    pages = [Path(f"report{memory}.html").read_text(encoding="utf-8") for memory in ("256", "0")]
    for page in pages:
        assert "77 held out" in page
    assert sorted(os.listdir()) == ["houses.csv", "model.safetensors", "report0.html", "report256.html"]


def test_a_temporary_folder_that_is_not_there_is_refused_before_the_work(tmp_path, monkeypatch, capsys, rng):
    np.save(tmp_path / "X.npy", rng.normal(size=(50, 3)))
    np.save(tmp_path / "y.npy", np.arange(50) % 2)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    command = ["train", str(tmp_path / "X.npy"), "--labels", str(tmp_path / "y.npy"), "--memory", "0.0001"]
    assert main([*command, "--no-plot", "--out", str(tmp_path / "m")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"bpfast: error: TMPDIR is '.*nowhere', which is no directory; .*\n", err)
