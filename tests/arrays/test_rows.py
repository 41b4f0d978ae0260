"""Rows of dense arrays, mapped files and sparse matrices behind one protocol."""

import numpy as np
import pytest
import scipy.sparse

from bpfast.arrays import checks, mapped
from bpfast.arrays.rows import DenseRows, SparseRows, rows_of
from bpfast.arrays.sparse import dense


@pytest.fixture
def X(rng):
    return np.where(rng.random((500, 7)) < 0.3, rng.normal(size=(500, 7)), 0).astype("f4")


@pytest.fixture(params=["dense", "mapped", "sparse"])
def given(request, X, tmp_path, monkeypatch):
    """The same matrix in each of the three forms."""
    if request.param == "mapped":
        monkeypatch.setattr(mapped, "RESIDENT", 2**12)
        np.save(tmp_path / "X.npy", X)
        return np.load(tmp_path / "X.npy", mmap_mode="r")
    return checks.features(scipy.sparse.csr_array(X) if request.param == "sparse" else X, 7, X.dtype)


def test_rows_are_those_of_the_array_in_every_form(X, given):
    rows = rows_of(given)
    assert len(rows) == 500
    assert rows.shape == (500, 7)
    numbers = np.array([400, 3, 3, 17])
    rows.will_need(numbers)
    assert (rows.take(numbers) == X[numbers]).all()
    for multiple in (1, 48):
        blocks = [dense(block) for block in rows.blocks(multiple)]
        assert (np.concatenate(blocks) == X).all()
        assert all(len(block) % multiple == 0 for block in blocks[:-1])
    for scattered in (False, True):
        assert 1 <= rows.rows_at_a_time(scattered) <= 500
    assert rows.release(100) >= 1


def test_only_mapped_rows_are_read_in_parts(given):
    rows = rows_of(given)
    in_memory = isinstance(rows, (DenseRows, SparseRows))
    assert in_memory != isinstance(rows, mapped.MappedRows)
    for scattered in (False, True):
        assert (rows.rows_at_a_time(scattered) == len(rows)) == in_memory
    assert (next(iter(rows.blocks())) is given) == in_memory
