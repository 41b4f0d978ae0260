"""Reading CSV, NPZ and IDX files."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bpfast.data import tables
from bpfast.data.tables import UserError


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def idx_bytes(array: np.ndarray[Any, Any], code: int = 0x08) -> bytes:
    kind = np.dtype(tables.IDX_TYPES[code])
    head = bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.astype(kind).tobytes()


def test_csv_numbers_and_texts(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "n,t,b,y\n1,x,True,3\n,,false,4\n2.5,z,,5\n")
    table = tables.read_csv(path, target="y")
    assert list(table.columns) == ["n", "t", "b"]
    np.testing.assert_array_equal(table.columns["n"], [1, np.nan, 2.5])
    assert table.columns["t"].tolist() == ["x", None, "z"]
    assert table.columns["b"].tolist() == ["True", "false", None], "the spelling of booleans is kept"
    assert table.target is not None
    assert table.target.tolist() == [3, 4, 5]
    assert len(table) == 3


def test_csv_text_columns_keep_leading_zeros(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "zip,y\n007,1\n7,2\n")
    assert tables.read_csv(path, target="y", text=["zip"]).columns["zip"].tolist() == ["007", "7"]


def test_csv_gzipped_and_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress("\ufeffa,y\n1,2\n".encode()))
    assert tables.kind_of(str(path)) == "csv"
    assert list(tables.read_csv(str(path), target="y").columns) == ["a"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("a,y\n", "no rows"),
        ("a,yy\n1,2\n", "has no column 'y'; did you mean 'yy'"),
        ("a;y\n1;2\n", "separated by commas"),
        ("a,y\n1,2,3\n1,2,3\n", "more values than its header"),
        ("a,y\n1,2\n1,2,3\n", "as CSV: "),
        ("a,b,a,y\n1,2,3,4\n", "two columns named 'a'"),
        ("y\n1\n", "no input column besides the target 'y'"),
    ],
)
def test_csv_errors(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path / "a.csv", text)
    with pytest.raises(UserError, match=message):
        tables.read_csv(path, target="y")


def test_csv_in_an_unknown_format(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"\x89PNG\xff\xfe\xfd")
    with pytest.raises(UserError, match="neither a CSV file in UTF-8"):
        tables.read_csv(str(tmp_path / "a.csv"), target="y")


def test_a_missing_file_suggests_a_similar_name(tmp_path: Path) -> None:
    write(tmp_path / "housing.csv", "a,b\n1,2\n")
    with pytest.raises(UserError, match=r"did you mean 'housing.csv'"):
        tables.kind_of(str(tmp_path / "hosing.csv"))
    with pytest.raises(UserError, match="is a directory"):
        tables.kind_of(str(tmp_path))


def test_npz(tmp_path: Path) -> None:
    path = str(tmp_path / "a.npz")
    X = np.arange(12, dtype=np.float32).reshape(4, 3)
    np.savez(
        path, X=X, y=[[1], [2], [3], [4]], names=["a", "b", "c", "d"], images=np.ones((4, 2, 2), np.uint8)
    )
    assert tables.kind_of(path) == "npz"
    table = tables.read_npz(path, target="y")
    np.testing.assert_array_equal(np.column_stack(list(table.columns.values())), X)
    assert table.target is not None
    assert table.target.shape == (4,)
    assert table.full_scale is None
    images = tables.read_npz(path, features="images", target="names")
    assert len(images.columns) == 4
    assert images.full_scale == 255
    assert images.target is not None
    assert images.target.tolist() == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.ones((3, 2)), "y": np.ones(3)}, "no array 'X'"),
        ({"X": np.ones((3, 2))}, "no array 'y'"),
        ({"X": np.ones((3, 2)), "y": np.ones(4)}, r"must have shape \(3,\)"),
        ({"X": np.ones(3), "y": np.ones(3)}, "must have rows and columns"),
        ({"X": np.ones((0, 2)), "y": np.ones(0)}, "must have rows and columns"),
        ({"X": np.array([["a"]]), "y": np.ones(1)}, "must contain real numbers"),
        ({"X": np.ones((1, 1)), "y": np.array([1j])}, "must be numbers or strings"),
        ({"X": np.array([[object()]]), "y": np.ones(1)}, "cannot read .* as NPZ"),
    ],
)
def test_npz_errors(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    path = str(tmp_path / "a.npz")
    np.savez(path, **arrays)
    with pytest.raises(UserError, match=message):
        tables.read_npz(path, target="y")


def test_truncated_npz(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, X=np.ones((30, 2)), y=np.ones(30))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match=r"cannot read .* as NPZ"):
        tables.read_npz(str(path), target="y")


@pytest.mark.parametrize("zipped", [False, True])
def test_idx(tmp_path: Path, zipped: bool) -> None:
    images = np.arange(24, dtype=np.uint8).reshape(6, 2, 2)
    pack = gzip.compress if zipped else bytes
    (tmp_path / "images").write_bytes(pack(idx_bytes(images)))
    (tmp_path / "labels").write_bytes(pack(idx_bytes(np.arange(6))))
    assert tables.kind_of(str(tmp_path / "images")) == "idx"
    table = tables.read_idx(str(tmp_path / "images"), labels=str(tmp_path / "labels"))
    np.testing.assert_array_equal(np.column_stack(list(table.columns.values())), images.reshape(6, 4))
    assert table.full_scale == 255
    assert table.target is not None
    assert table.target.tolist() == list(range(6))


@pytest.mark.parametrize("code", sorted(tables.IDX_TYPES))
def test_idx_types(tmp_path: Path, code: int) -> None:
    (tmp_path / "a").write_bytes(idx_bytes(np.array([[1, 2], [3, 100]]), code))
    table = tables.read_idx(str(tmp_path / "a"))
    assert table.columns["x1"].tolist() == [2, 100]
    assert table.full_scale is None, "two dimensions are not images"


def test_idx_errors(tmp_path: Path) -> None:
    whole = idx_bytes(np.ones((6, 2, 2)))
    for cut in (5, 15, 30):
        (tmp_path / "a").write_bytes(whole[:cut])
        with pytest.raises(UserError, match=r"is damaged"):
            tables.read_idx(str(tmp_path / "a"))
    (tmp_path / "a").write_bytes(whole)
    (tmp_path / "b").write_bytes(idx_bytes(np.ones(5)))
    with pytest.raises(UserError, match=r"must have shape \(6,\)"):
        tables.read_idx(str(tmp_path / "a"), labels=str(tmp_path / "b"))
    (tmp_path / "c.gz").write_bytes(gzip.compress(whole)[:20])
    with pytest.raises(UserError, match="cannot read"):
        tables.read_idx(str(tmp_path / "c.gz"))


@pytest.mark.parametrize("first", ["0", "7"])
def test_more_values_than_names_never_shift_the_columns(tmp_path: Path, first: str) -> None:
    path = tmp_path / "shift.csv"
    path.write_text("a,b,y\n" + f"{first},1,2,3\n" + "1,4,5,6\n")
    with pytest.raises(UserError, match="more values than its header has columns"):
        tables.read_csv(str(path))
