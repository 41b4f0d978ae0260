"""Streams: the chunks of a file equal the table that is read from it at once."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpfast.data import streams, tables
from bpfast.data.array_files import idx_file
from bpfast.data.streams import CsvStream, MatrixStream, TableStream
from bpfast.data.tables import UserError

pytest.importorskip("pandas")


WORDS = ["", "x", "True", "false", "1_000", "inf", "nan", "NA"]


NUMBERS = ["1", "2", "-3", "007", "0.1", "1e300", *(str(n) for n in (2**53 + 1, -(2**53) - 1, 2**64 - 1))]


CELLS = st.sampled_from(WORDS + NUMBERS)


FILES = st.integers(2, 4).flatmap(
    lambda columns: st.lists(st.lists(CELLS, min_size=columns, max_size=columns), min_size=1, max_size=14)
)


def same(ours: Any, theirs: Any) -> None:
    """The same strings, or bitwise identical float64 numbers."""
    if theirs.dtype == object:
        assert ours.tolist() == theirs.tolist()
    else:
        assert ours.dtype != object
        assert ours.astype(np.float64).tobytes() == theirs.astype(np.float64).tobytes()


@given(rows=FILES, chunk=st.sampled_from([1, 2, 3, 5]), texts=st.booleans())
@settings(deadline=None, derandomize=True, max_examples=200)
def test_csv_chunks_equal_the_whole_file(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]], chunk: int, texts: bool, write_csv: Any
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
    assert np.concatenate([part.row_ids for part in chunks]).tolist() == list(range(len(table)))  # type: ignore[arg-type]


def test_a_chunk_that_changes_a_type_raises(monkeypatch: pytest.MonkeyPatch, write_csv: Any) -> None:
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
        stream.resolve_types()
        same(
            np.concatenate([table.columns["a"] for table in stream.chunks()]),
            tables.read_csv("a.csv").columns["a"],
        )
        assert len(list(CsvStream("a.csv", watch=[]).chunks())) == 2, "that column is not watched"


def test_names_that_only_look_renamed_are_kept() -> None:
    Path("a.csv").write_text('\ufeffa,a.1, a,"A",1,1.0,,,y\n' + "1,2,3,4,5,6,7,8,9\n" * 3, encoding="utf-8")
    names = ["a", "a.1", " a", "A", "1", "1.0", "Unnamed: 6", "Unnamed: 7"]
    assert list(tables.read_csv("a.csv", target="y").columns) == names
    assert CsvStream("a.csv", target="y").names == names


def test_renamed_columns_stay_distinct(small_chunks: None, write_csv: Any) -> None:
    """A CSV file that pandas wrote twice has two index columns: one unnamed, one renamed."""
    rows = [[i, "t" if i % 9 else i, i % 2] for i in range(100)]
    path = write_csv("a.csv", [["", "Unnamed: 0", "y"], *rows])
    stream = CsvStream(path, target="y")
    stream.resolve_types()
    table = tables.read_csv(path, target="y")
    for name, values in table.columns.items():
        same(np.concatenate([chunk.columns[name] for chunk in stream.chunks()]), values)
    assert table.columns["Unnamed: 0.1"].tolist() == list(range(100))
    assert table.columns["Unnamed: 0"].dtype == object


def test_table_stream(small_chunks: None, write_csv: Any, houses: Any) -> None:
    write_csv("a.csv", houses())
    table = tables.read_csv("a.csv", target="price")
    parts = list(TableStream(table).chunks())
    assert len(parts) > 10
    for name, values in table.columns.items():
        same(np.concatenate([part.columns[name] for part in parts]), values)


@pytest.mark.parametrize("shape", [(37, 5), (37, 2, 3)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.uint8, bool])
def test_array_chunks_equal_the_array(
    small_chunks: None, shape: tuple[int, ...], dtype: Any, array_files: Any
) -> None:
    X = (np.random.default_rng(0).standard_normal(shape) * 50).astype(dtype)
    for path, (kind, array) in array_files(X).items():
        parts = list(MatrixStream(kind, array).chunks())
        assert len(parts) == 4, path
        assert all(len(part) <= 12 for part in parts)
        found = np.concatenate([part.matrix for part in parts])  # type: ignore[arg-type]
        assert found.dtype == X.dtype
        np.testing.assert_array_equal(found, X.reshape(37, -1), err_msg=path)
        np.testing.assert_array_equal(array.whole(), X)
        assert parts[0].full_scale == (255 if dtype is np.uint8 and len(shape) == 3 else None)


@pytest.mark.parametrize("zipped", [False, True])
def test_idx_chunks(small_chunks: None, zipped: bool, idx_bytes: Any) -> None:
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
            with pytest.raises(UserError, match=f"announces 240 bytes of data; got {len(wrong) - 16}"):
                read()


@pytest.mark.parametrize("name", ["a.npy", "a.npy.gz", "stored.npz", "deflated.npz"])
def test_truncated_or_damaged_files(small_chunks: None, name: str, array_files: Any) -> None:
    X = np.random.default_rng(0).standard_normal((200, 3))
    kind, array = array_files(X)[name]
    whole = Path(name).read_bytes()
    damaged = [whole[: len(whole) // 2]]
    if name.endswith("npz"):
        at = whole.index(b"X.npy") + 600
        damaged = [whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :]]
    for data in damaged:
        Path(name).write_bytes(data)
        for read in (lambda: list(MatrixStream(kind, array).chunks()), array.whole):
            with pytest.raises(UserError, match=r"damaged|cannot read"):
                read()


def test_files_without_a_numeric_matrix() -> None:
    np.save("objects.npy", np.array([[{}]]), allow_pickle=True)
    np.save("texts.npy", np.array([["a"]]))
    np.save("flat.npy", np.ones(3))
    Path("cut.npy").write_bytes(Path("flat.npy").read_bytes()[:40])
    Path("new.npy").write_bytes(b"\x93NUMPY\x09\x00" + Path("flat.npy").read_bytes()[8:])
    for path, message in (
        ("objects.npy", "contains Python objects"),
        ("texts.npy", "must contain real numbers"),
        ("flat.npy", "must have rows and columns"),
        ("cut.npy", "cannot read .* as NPY"),
        ("new.npy", "cannot read .* as NPY"),
    ):
        assert tables.kind_of(path) == "npy"
        with pytest.raises(UserError, match=message):
            tables.read_npy(path)
