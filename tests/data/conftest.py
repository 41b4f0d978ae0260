"""Fixtures of the data tests: small files, small chunks, and the command line."""

import csv
import gzip
import os
import re
from pathlib import Path

import numpy as np
import pytest

from bpfast.__main__ import main
from bpfast.data import streams
from bpfast.data.array_files import npy_file, npz_files


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TMPDIR", raising=False)


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of a few rows, so that small files have many."""
    monkeypatch.setattr(streams, "CHUNK", 64)


def _write_csv(path, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


@pytest.fixture(scope="session")
def write_csv():
    """write_csv(path, rows): write a CSV file; returns the path."""
    return _write_csv


def _read_csv(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


@pytest.fixture(scope="session")
def read_csv():
    """read_csv(path): the rows of a CSV file, as strings."""
    return _read_csv


def _houses(n=400, seed=0):
    random = np.random.default_rng(seed)
    rows = [["rooms", "area", "town", "price"]]
    for index in range(n):
        rooms, area = int(random.integers(1, 6)), float(random.uniform(30, 200))
        town = ["Aa", "Bee", "Cé, the"][int(random.integers(3))]
        price = 50_000 + 20_000 * rooms + 900 * area + (90_000 if town == "Bee" else 0)
        shown = ["" if index % 17 == 0 else repr(area), "" if index % 29 == 0 else town]
        rows.append([rooms, *shown, "" if index % 31 == 5 else repr(price)])
    return rows


@pytest.fixture(scope="session")
def houses():
    """houses(n, seed): numbers, text, missing values, and a price (missing in some rows) that follows."""
    return _houses


def _blobs(n=300, columns=6, seed=0):
    random = np.random.default_rng(seed)
    y = random.integers(0, 3, n)
    X = random.standard_normal((3, columns))[y] * 4 + random.standard_normal((n, columns))
    return X.astype(np.float32), y


@pytest.fixture(scope="session")
def blobs():
    """blobs(n, columns, seed): (X, y) of three classes, each around its centre."""
    return _blobs


def _idx_bytes(array):
    head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return head + array.astype(np.uint8).tobytes()


@pytest.fixture(scope="session")
def idx_bytes():
    """idx_bytes(array): an IDX file of bytes."""
    return _idx_bytes


def _array_files(X):
    np.save("a.npy", X)
    np.save("fortran.npy", np.asfortranarray(X))
    np.save("big.npy", X.astype(X.dtype.newbyteorder(">")))
    with gzip.open("a.npy.gz", "wb") as file:
        file.write(Path("a.npy").read_bytes())
    np.savez("stored.npz", other=np.ones(3), X=X)
    np.savez_compressed("deflated.npz", X=X, other=np.ones(3))
    np.savez_compressed("fortran.npz", X=np.asfortranarray(X))
    npy = {path: ("npy", npy_file(path)) for path in ("a.npy", "fortran.npy", "big.npy", "a.npy.gz")}
    npz = {path: ("npz", npz_files(path)["X"]) for path in ("stored.npz", "deflated.npz", "fortran.npz")}
    return npy | npz


@pytest.fixture(scope="session")
def array_files():
    """array_files(X): write X in every format; {path: (kind, ArrayFile)}."""
    return _array_files


@pytest.fixture
def run(capsys):
    """run(*words): the output of a command that succeeds."""

    def run(*words):
        assert main(words) == 0, capsys.readouterr()
        return capsys.readouterr().out

    return run


@pytest.fixture
def error_of(capsys):
    """error_of(*words): the one-line error of a command that fails; nothing is written."""

    def error_of(*words):
        before = sorted(os.listdir())
        assert main(words) == 2
        err = capsys.readouterr().err
        assert err.startswith("bpfast: error: "), err
        assert err.count("\n") == 1, err
        assert sorted(os.listdir()) == before
        return err

    return error_of


def _score_of(output):
    found = re.search(r"test (?:accuracy|R²) (-?[\d.]+)", output)
    assert found, output
    return float(found[1])


@pytest.fixture(scope="session")
def score_of():
    """score_of(output): the accuracy or R² that `bpfast train` printed."""
    return _score_of
