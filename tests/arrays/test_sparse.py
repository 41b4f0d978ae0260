"""Sparse inputs: bitwise identical to dense inputs, with memory only for the nonzero entries."""

import time
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import sparse

import bpfast as bp
from bpfast.arrays import checks
from bpfast.arrays.sparse import CSR
from bpfast.native import _core

THREADS = (1, 2, 3, 5)
RULES = {
    "sgd": bp.SGD(0.05),
    "nesterov": bp.SGD(0.02, momentum=0.9, nesterov=True),
    "adam": bp.Adam(),
    "adamw": bp.AdamW(weight_decay=0.1),
    "rmsprop": bp.RMSprop(1e-3),
    "adagrad": bp.Adagrad(),
    "rprop": bp.Rprop(1e-4),
}
FORMATS = {
    "csr array": sparse.csr_array,
    "csr matrix": sparse.csr_matrix,
    "csc array": sparse.csc_array,
    "csc matrix": sparse.csc_matrix,
    "coo": sparse.coo_array,
    "lil": sparse.lil_array,
    "dok": sparse.dok_array,
    "bsr": sparse.bsr_array,
    "dia": sparse.dia_array,
}


@pytest.fixture(autouse=True)
def every_thread_works(monkeypatch):
    # What is dense here stays dense: else sparse rows would be compared with themselves.
    monkeypatch.setattr("bpfast.arrays.sparse.MAX_SHARE", 0.0)
    old = _core.work_per_thread(0)
    yield
    _core.work_per_thread(old)


def draw(rows, columns, density, rng):
    """A dense matrix with zeros, including whole rows and columns, and the same matrix as CSR."""
    X = np.where(rng.random((rows, columns)) < density, rng.normal(size=(rows, columns)), 0)
    X[rows // 4 : rows // 2] = 0
    X[:, columns // 3] = 0
    return X, sparse.csr_array(X)


def network(widths, dtype="float32", loss="squared_error", activation="tanh", first=(), **options):
    layers = [*first, *(bp.Dense(n, activation) for n in widths[1:-1]), bp.Dense(widths[-1])]
    return bp.Network(layers, n_inputs=widths[0], loss=loss, dtype=dtype, seed=3, **options)


def everything(net, X, y, w=None, **options):
    """The bytes of everything that a network computes from X."""
    weighted = {"sample_weight": w}
    history = net.fit(X, y, validation=(X, y, w) if w is not None else (X, y), **weighted, **options)
    made = [
        net._state.flat,
        net._state.optimizer_state.arrays,
        net.predict(X),
        *net.gradients(X, y, **weighted).values(),
    ]
    Z = net.forward(X, training=True)
    made += [Z, net.forward(X), net.backward(Z), net._state.gradient]
    return [array.tobytes() for array in made], history.loss, history.val_loss, net.loss(X, y, **weighted)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("rule", list(RULES))
def test_results_are_identical_to_those_of_a_dense_matrix(rule, shuffle, weighted, dtype, rng):
    """Ragged batches, one of them without entries; 1, 2, 3 and 5 threads."""
    X, S = draw(101, 130, 0.05, rng)
    y, w = rng.normal(size=(101, 3)), rng.random(101) if weighted else None
    options = {
        "epochs": 3,
        "batch_size": None if rule == "rprop" else 17,
        "optimizer": RULES[rule],
        "shuffle": shuffle,
    }
    expected = everything(network((130, 45, 3), dtype, threads=1), X, y, w, **options)
    for threads in THREADS:
        assert everything(network((130, 45, 3), dtype, threads=threads), S, y, w, **options) == expected


@pytest.mark.parametrize("penalty", [bp.L2(0.1), bp.L1(0.01), bp.L0(1e-3), bp.Frobenius(0.1)])
@pytest.mark.parametrize("rule", ["sgd", "adagrad", "adam"])
def test_results_with_a_penalty_are_identical(rule, penalty, rng):
    """Weights without a gradient are updated if there is a penalty."""
    X, S = draw(50, 120, 0.02, rng)
    y = rng.integers(0, 4, 50)
    options = {"epochs": 2, "batch_size": 16, "optimizer": RULES[rule], "penalty": penalty}
    nets = [network((120, 20, 4), loss="cross_entropy", threads=n) for n in (1, 1, 3)]
    results = [everything(net, A, y, **options) for net, A in zip(nets, (X, S, S), strict=True)]
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("columns", [1, 2, 7, 8, 16, 17, 33, 64, 100, 128, 130, 260, 300])
def test_results_are_identical_at_every_width(columns, rng):
    for rows, inputs in ((1, 1), (2, 3), (13, 97), (300, 40)):
        X, S = draw(rows, inputs, 0.3, rng)
        y = rng.normal(size=(rows, columns))
        for dtype in ("float32", "float64"):
            dense, *nets = (network((inputs, columns), dtype, threads=n) for n in (1, 1, 2))
            expected = everything(dense, X, y, epochs=2, batch_size=7, optimizer="sgd")
            for net in nets:
                assert everything(net, S, y, epochs=2, batch_size=7, optimizer="sgd") == expected


def test_identical_results_after_dense_rows(rng):
    """Dense and sparse inputs do not affect each other."""
    X, S = draw(60, 50, 0.1, rng)
    y = rng.normal(size=(60, 2))
    one, other = network((50, 9, 2)), network((50, 9, 2))
    for turn in range(6):
        options = {"epochs": 1, "batch_size": 10 + 3 * turn, "shuffle": turn % 3 > 0}
        assert everything(one, X, y, **options) == everything(other, S if turn % 2 else X, y, **options)


def test_zeros_keep_their_sign(rng):
    """0 b + (-0) is +0 for b > 0, so the sum must not be -0 when the zero is skipped."""
    X = np.zeros((6, 4), np.float32)
    X[1, 0] = X[2, 3] = X[3, 1] = 1e-30
    X[4] = 1e-30
    W = np.array([[-1, -1, 1], [-1, 1, -1], [-1, -1, -1], [-1, 1, -1]], np.float32) * 1e-30
    nets = [
        bp.Network([bp.Dense(3, bias_initializer=bp.Constant(-0.0))], n_inputs=4, loss="squared_error")
        for _ in range(2)
    ]
    D = rng.choice([-1e-30, 1e-30, 1.0], (6, 3)).astype(np.float32)
    bits = []
    for net, A in zip(nets, (X, sparse.csr_array(X)), strict=True):
        net.parameters["0.W"][...] = W
        Z = net.forward(A, training=True)
        assert np.signbit(Z).any()
        assert not np.signbit(Z).all()
        net.backward(D)
        bits.append((Z.tobytes(), net.forward(A).tobytes(), net._state.gradient.tobytes()))
    assert bits[0] == bits[1]


@pytest.mark.parametrize("index", ["int32", "int64"])
@pytest.mark.parametrize("number", ["float32", "float64", "int8", "bool"])
@pytest.mark.parametrize("kind", list(FORMATS))
def test_every_format(kind, number, index, rng, backend):
    X = (draw(40, 12, 0.3, rng)[0] * 3).astype(number)
    S = FORMATS[kind](X)
    for part in ("indices", "indptr"):
        if hasattr(S, part):
            setattr(S, part, getattr(S, part).astype(index))
    net = network((12, 5, 2), "float64", backend=backend)
    if backend == "native":
        assert net.predict(S).tobytes() == net.predict(X).tobytes()
    assert np.abs(net.predict(S) - net.predict(X)).max() < 1e-12
    assert (S.toarray() == X).all()


def messy():
    """Unsorted columns, duplicates, explicit zeros, and arrays that are longer than needed."""
    indptr = np.array([0, 5, 5, 9, 10], np.int32)
    indices = np.array([3, 1, 3, 0, 3, 2, 2, 0, 1, 4, 77], np.int32)
    data = np.array([1e16, 2.0, 1.0, 5.0, -1e16, 1.0, -1.0, 0.0, 3.0, -0.0, np.nan])
    S = sparse.csr_array((4, 5))
    S.indptr, S.indices, S.data = indptr, indices, data
    return S


@pytest.mark.parametrize("train", [False, True])
def test_the_arrays_of_the_caller_are_not_modified(train, backend):
    S, y = messy(), np.ones((4, 2))
    X = np.array([[5.0, 2.0, 0, 0, 0], [0] * 5, [0, 3.0, 0, 0, 0], [0] * 5])
    before = [part.copy() for part in (S.indptr, S.indices, S.data)]
    nets = [network((5, 3, 2), "float64", backend=backend) for _ in range(2)]
    for net, A in zip(nets, (S, X), strict=True):
        if train:
            net.fit(A, y, epochs=2, batch_size=3)
        net.gradients(A, y)
    assert (nets[0].predict(S) == nets[1].predict(X)).all() or backend == "reference"
    assert np.abs(nets[0].predict(S) - nets[1].predict(X)).max() < 1e-12
    for part, old in zip((S.indptr, S.indices, S.data), before, strict=True):
        assert part.tobytes() == old.tobytes()


def test_duplicate_coordinates_are_summed(rng):
    rows, columns = rng.integers(0, 30, 200), rng.integers(0, 8, 200)
    S = sparse.coo_array((rng.normal(size=200), (rows, columns)), shape=(30, 8))
    net = network((8, 4, 1), "float64")
    assert net.predict(S).tobytes() == net.predict(S.toarray()).tobytes()


def test_training_uses_a_copy_of_the_indices():
    """Indices are addresses: changes by the caller during training must not lead out of bounds."""
    S = sparse.csr_array(np.eye(4, dtype=np.float32))
    X = checks.features(S, 4, np.dtype(np.float32))
    assert isinstance(X, CSR)
    assert not np.shares_memory(X.indices, S.indices)
    assert not np.shares_memory(X.indptr, S.indptr)
    assert not X.indices.flags.writeable
    assert not X.indptr.flags.writeable
    assert np.shares_memory(X.data, S.data), "values need no copy"


def test_forward_keeps_the_values_that_backward_needs(rng):
    """As with a dense X, calls in between and changes by the caller have no effect."""
    X, S = draw(30, 20, 0.2, rng)
    D = rng.normal(size=(30, 2))
    dense, net = network((20, 6, 2)), network((20, 6, 2))
    dense.forward(X, training=True)
    net.forward(S, training=True)
    S.data[:] = 7
    net.predict(draw(400, 20, 0.9, rng)[1])
    net.predict(X)
    net.loss(X, D)
    assert net.backward(D).tobytes() == dense.backward(D).tobytes()
    assert net._state.gradient.tobytes() == dense._state.gradient.tobytes()


@pytest.mark.parametrize("rule", list(RULES))
def test_one_step_agrees_with_the_reference(rule, rng, error):
    X, S = draw(40, 30, 0.2, rng)
    y, w = rng.integers(0, 3, 40), rng.random(40)
    native, expected = (
        network((30, 8, 3), "float64", loss="cross_entropy", backend=b) for b in ("native", "reference")
    )
    for name, gradient in native.gradients(S, y, sample_weight=w).items():
        assert error(gradient, expected.gradients(X, y, sample_weight=w)[name]) <= 1e-12
    assert error(native.predict(S), expected.predict(S)) <= 1e-12
    for net in (native, expected):
        net.fit(S, y, epochs=1, batch_size=40, optimizer=RULES[rule], sample_weight=w)
    for name, array in expected.parameters.items():
        assert error(native.parameters[name], array) <= 1e-12


@pytest.mark.parametrize("shuffle", [True, False])
def test_an_activation_that_reads_x_gets_it_dense(shuffle, rng):
    X, S = draw(700, 60, 0.1, rng)
    y = rng.normal(size=(700, 2))
    options = {"epochs": 2, "batch_size": 300, "shuffle": shuffle}
    first = [bp.Activation("softplus")]
    expected = everything(network((60, 11, 2), first=first, threads=1), X, y, **options)
    for threads in THREADS:
        net = network((60, 11, 2), first=first, threads=threads)
        assert everything(net, S, y, **options) == expected


def test_a_custom_loss(rng, backend, error):
    def halves(Y, Z):
        return ((Z - Y) ** 2).sum(axis=1) / 2, Z - Y

    X, S = draw(33, 20, 0.2, rng)
    y = rng.normal(size=(33, 2))
    dense, net = (network((20, 6, 2), "float64", loss=halves, backend=backend) for _ in range(2))
    dense.fit(X, y, epochs=3, batch_size=10)
    net.fit(S, y, epochs=3, batch_size=10)
    assert error(net._state.flat, dense._state.flat) <= (0 if backend == "native" else 1e-12)


def test_gradients_are_those_of_differences(rng):
    _, S = draw(20, 9, 0.3, rng)
    net = network((9, 5, 2), "float64")
    assert bp.check_gradients(net, S, rng.normal(size=(20, 2))) < 1e-6


def test_rows_without_any_entry(rng, backend):
    """A matrix that is all zeros, and one column."""
    for shape in ((5, 3), (4, 1)):
        S, y = sparse.csr_array(shape), rng.normal(size=(shape[0], 2))
        dense, net = (network((shape[1], 4, 2), backend=backend) for _ in range(2))
        dense.fit(np.zeros(shape), y, epochs=2, batch_size=2)
        net.fit(S, y, epochs=2, batch_size=2)
        assert net._state.flat.tobytes() == dense._state.flat.tobytes()


def test_a_nan_in_the_loss_puts_the_weights_back(rng):
    _, S = draw(30, 20, 0.5, rng)
    net = network((20, 6, 1), activation="relu")
    before = net._state.flat.tobytes()
    with pytest.raises(FloatingPointError, match="epoch"):
        net.fit(S * 1e15, rng.normal(size=(30, 1)), batch_size=5, optimizer=bp.SGD(1e9))
    assert net._state.flat.tobytes() == before


def test_memory_is_that_of_the_entries():
    """As a dense array, 20,000 × 50,000 would take 4 GB."""
    rng = np.random.default_rng(0)
    rows, columns, each = 20_000, 50_000, 10
    places = (np.repeat(np.arange(rows), each), rng.integers(0, columns, rows * each))
    S = sparse.coo_array((np.ones(rows * each, np.float32), places), shape=(rows, columns)).tocsr()
    y = (S[:, : columns // 2].sum(axis=1) > each / 2).astype(int)
    net = network((columns, 16, 2), loss="cross_entropy")
    tracemalloc.start()
    start = time.perf_counter()
    try:
        history = net.fit(S, y, epochs=3, batch_size=200, optimizer=bp.SGD(1.0), validation=(S, y))
        net.gradients(S, y)
        net.loss(S, y)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100e6
    assert net._state.engine.core.nbytes < 20e6
    assert history.loss[-1] < history.loss[0]
    assert time.perf_counter() - start < 30


def test_the_engine_checks_array_sizes():
    net = network((4, 2))
    core, Z = net._state.engine.core, np.empty((2, 2), np.float32)
    starts, places, values = np.array([0, 1, 2]), np.array([0, 3]), np.ones(2, np.float32)
    core.outputs(net._state.flat, CSR(starts, places, values, (2, 4)), Z, 2)
    for wrong in (
        (starts[:2], places, values),
        (starts, places[:1], values),
        (starts, places, values[:1]),
        (starts + 1, places, values),
    ):
        with pytest.raises(ValueError, match=r"must have|indptr"):
            core.outputs(net._state.flat, CSR(*wrong, (2, 4)), Z, 2)
    with pytest.raises(TypeError, match="8-byte items"):
        core.outputs(net._state.flat, CSR(starts, places.astype(np.int32), values, (2, 4)), Z, 2)
    with pytest.raises(TypeError, match="4-byte items"):
        core.outputs(net._state.flat, CSR(starts, places, values.astype(float), (2, 4)), Z, 2)
    other = network((4, 2), first=[bp.Activation("relu")])
    with pytest.raises(ValueError, match="X must be dense"):
        other._state.engine.core.outputs(other._state.flat, CSR(starts, places, values, (2, 4)), Z, 2)


def tampered(part, value, place=0):
    S = sparse.csr_array(np.eye(8, 3, dtype=np.float32))
    array = getattr(S, part).copy()
    array[place] = value
    setattr(S, part, array)
    return S


@pytest.mark.parametrize(
    ("X", "kind", "match"),
    [
        (
            tampered("indices", 3),
            ValueError,
            r"^X\.indices contains column 3 in row 0; columns must be 0 to 2",
        ),
        (tampered("indices", -1, 2), ValueError, r"^X\.indices contains column -1 in row 2"),
        (tampered("indptr", 1), ValueError, r"^X\.indptr must begin with 0; got 1"),
        (tampered("indptr", 9, 2), ValueError, r"^X\.indptr must not decrease; got 9, then 3 for row 2"),
        (tampered("indptr", 9, 8), ValueError, r"^X\.indptr ends with 9, but X\.indices has 3 elements"),
        (
            tampered("data", np.inf, 1),
            ValueError,
            r"^X contains infinity in row 1, column 1; all values must be finite",
        ),
        (
            SimpleNamespace(shape=(2, 3), tocsr=lambda: None),
            TypeError,
            r"^X contains objects",
        ),
        (
            SimpleNamespace(shape=(8,), tocsr=lambda: None),
            ValueError,
            r"^X must be a 2-dimensional array .*got shape \(8,\)",
        ),
        (SimpleNamespace(tocsr=lambda: None), ValueError, r"^X must be a 2-dimensional array"),
    ],
)
def test_malformed_csr_matrices_are_rejected(X, kind, match):
    with pytest.raises(kind, match=match):
        network((3, 2)).predict(X)


@pytest.mark.parametrize(
    ("part", "value", "match"),
    [
        ("indptr", np.arange(8), r"X\.indptr must have 9 elements for 8 rows; got 8"),
        ("indptr", np.zeros(9), r"X\.indptr must be a 1-dimensional array of integers; got float64"),
        ("indptr", np.zeros((9, 1), int), r"X\.indptr must be a 1-dimensional array of integers; .*\(9, 1\)"),
        ("indptr", np.full(9, 2**64 - 1, np.uint64), r"X\.indptr must begin with 0; got -1"),
        ("indices", np.zeros(2, int), r"X\.indptr ends with 3, but X\.indices has 2 elements"),
        ("data", np.zeros(2), r"X\.indptr ends with 3, but X\.data has 2 elements"),
        ("data", np.zeros((3, 1)), r"X\.data must be 1-dimensional; got shape \(3, 1\)"),
    ],
)
def test_inconsistent_csr_arrays_are_rejected(part, value, match):
    good = sparse.csr_array(np.eye(8, 3))
    parts = {"indptr": good.indptr, "indices": good.indices, "data": good.data, part: value}
    fake = SimpleNamespace(shape=(8, 3), tocsr=lambda: SimpleNamespace(**parts))
    with pytest.raises(ValueError, match=match):
        network((3, 2)).predict(fake)
