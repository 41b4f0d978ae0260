"""Dense matrices of mostly zeros are trained as sparse rows."""

import numpy as np
import pytest
import scipy.sparse

import bpfast as bp
from bpfast.arrays import sparse


def mostly_zeros(rng, rows=200, columns=60, share=0.15, dtype=np.float32):
    return np.where(rng.random((rows, columns)) < share, rng.normal(size=(rows, columns)), 0).astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", ["adam", bp.SGD(0.1, momentum=0.9), "sgd"], ids=str)
def test_a_dense_matrix_of_mostly_zeros_trains_as_sparse_rows(rng, bytes_of, monkeypatch, dtype, optimizer):
    """Results are bitwise identical with and without the conversion."""
    X, y = mostly_zeros(rng, dtype=dtype), rng.integers(0, 3, 200)
    made = []
    real = sparse.from_dense
    monkeypatch.setattr(sparse, "from_dense", lambda A: made.append(A) or real(A))
    results, losses = [], []
    for share in (0.22, 0.0):
        monkeypatch.setattr(sparse, "MAX_SHARE", share)
        net = bp.Network([bp.Dense(40, "relu"), bp.Dense(3)], n_inputs=60, loss="cross_entropy", dtype=dtype)
        history = net.fit(X, y, epochs=4, batch_size=32, optimizer=optimizer, penalty=bp.L2(0.01))
        results.append(bytes_of(net))
        losses.append(history.loss)
    assert results[0] == results[1]
    assert losses[0] == losses[1]
    assert len(made) == 1


def test_matrices_that_stay_dense(rng, tmp_path):
    X = mostly_zeros(rng)
    assert isinstance(sparse.sparsify(X, 32, 40, 4), sparse.CSR)
    for given in ((8, 40, 4), (32, 8, 4), (32, 40, 1)):
        assert sparse.sparsify(X, *given) is X, given
    full = rng.normal(size=(200, 60))
    assert sparse.sparsify(full, 32, 40, 4) is full
    # The sampled rows are all zero, the others are not.
    late = full.copy()
    late[::3] = 0
    assert sparse.sparsify(late, 32, 40, 4) is late
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    assert sparse.sparsify(mapped, 32, 40, 4) is mapped
    view = np.asarray(mapped)[:50]
    assert sparse.sparsify(view, 32, 40, 4) is view


def test_from_dense_agrees_with_scipy(rng):
    X = mostly_zeros(rng)
    X[5] = 0
    X[:, 7] = 0
    mine, theirs = sparse.from_dense(X), scipy.sparse.csr_array(X)
    assert (mine.toarray() == X).all()
    assert (mine.indptr == theirs.indptr).all()
    assert (mine.indices == theirs.indices).all()
    assert mine.indptr.dtype == mine.indices.dtype == np.int64
