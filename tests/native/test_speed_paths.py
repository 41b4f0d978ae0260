"""Optimizations must not change results: fast prediction, autotuning of the team, the profile."""

import re
import tracemalloc

import numpy as np
import pytest

import bpfast as bp
from bpfast.arrays.aligned import LINE, aligned
from bpfast.diagnostics import fma_peak
from bpfast.native import _core


def network(loss="cross_entropy", outputs=10, **options):
    layers = [bp.Dense(100, "relu"), bp.Dense(outputs)]
    return bp.Network(layers, n_inputs=64, loss=loss, backend="native", **options)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss", ["cross_entropy", "log_loss", "poisson", "squared_error"])
@pytest.mark.parametrize("rows", [1, 2, 3, 64, 300])
def test_fast_prediction_is_bitwise_identical_to_the_checked_one(rng, rows, loss, dtype, bytes_of):
    net = network(loss, dtype=dtype)
    X = rng.standard_normal((rows, 64)).astype(dtype)
    ready = net._state.engine.predict(net._state.flat, X, net._state.link_name)
    assert ready is not None
    assert ready.dtype == dtype
    checked = net.predict(np.asfortranarray(np.repeat(X, 2, axis=0))[::2])
    assert ready.tobytes() == checked.tobytes() == net.predict(X).tobytes()


def test_what_is_not_ready_goes_through_the_checks(rng):
    net = network()
    X = rng.standard_normal((3, 64)).astype(np.float32)
    swapped = X.astype(X.dtype.newbyteorder())
    shifted = np.empty(X.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(X.shape)
    shifted[...] = X
    readonly = X.copy()
    readonly.flags.writeable = False
    for other in (X.astype(np.float64), X.tolist(), np.asfortranarray(X), swapped, shifted, readonly):
        assert net.predict(other).tobytes() == net.predict(X).tobytes()
    bad = X.copy()
    bad[1, 5] = np.inf
    with pytest.raises(ValueError, match="X contains infinity in row 1, column 5"):
        net.predict(bad)
    with pytest.raises(ValueError, match="X has 63 columns; this network expects 64"):
        net.predict(np.ascontiguousarray(X[:, 1:]))
    with pytest.raises(ValueError, match="X has no rows"):
        net.predict(X[:0])
    with pytest.raises(ValueError, match="must be a 2-dimensional array"):
        net.predict(X[0])
    with pytest.raises(TypeError, match="masked"):
        net.predict(np.ma.masked_array(X))


def test_a_prediction_sees_the_weights_as_they_are(rng):
    net = network()
    X = rng.standard_normal((1, 64)).astype(np.float32)
    before = net.predict(X)
    net.parameters["1.b"][3] += 5
    assert net.predict(X)[0, 3] > before[0, 3]


def test_a_prediction_of_a_row_allocates_nothing_but_its_result(rng):
    net = network()
    X = rng.standard_normal((1, 64)).astype(np.float32)
    net.predict(X)
    held = net._state.engine.core.nbytes
    tracemalloc.start()
    try:
        kept = [net.predict(X) for _ in range(100)]
        grown = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert net._state.engine.core.nbytes == held
    # An array object and its place in the list, in addition to its elements.
    assert grown < 100 * (kept[0].nbytes + 300)


def test_training_allocates_nothing_after_its_first_epoch(rng):
    X = rng.standard_normal((640, 64)).astype(np.float32)
    net = network()
    net.fit(X, rng.integers(0, 10, 640), epochs=1)
    held = net._state.engine.core.nbytes
    net.fit(X, rng.integers(0, 10, 640), epochs=3)
    assert net._state.engine.core.nbytes == held


def test_rows_in_their_own_order_are_read_where_they_are(rng, tmp_path):
    """Not copied, also from a memory map, and not written to."""
    path = tmp_path / "X.npy"
    np.save(path, rng.standard_normal((400, 64)).astype(np.float32))
    X, y = np.load(path, mmap_mode="r"), rng.integers(0, 10, 400)
    net, twin = network(), network()
    net.fit(X, y, epochs=2, batch_size=50, shuffle=False)
    twin.fit(np.array(X), y, epochs=2, batch_size=50, shuffle=False)
    assert net._state.flat.tobytes() == twin._state.flat.tobytes()
    shuffled = network()
    shuffled.fit(X, y, epochs=1, batch_size=50)
    assert net._state.engine.core.nbytes < shuffled._state.engine.core.nbytes


def test_the_pace_changes_no_bit(rng):
    """Steps switch between the team and one thread as their timings decide."""
    X, y = rng.standard_normal((6400, 20)).astype(np.float32), rng.integers(0, 3, 6400)
    found = set()
    old = _core.work_per_thread(1e-9)
    try:
        for threads in (1, 2, 3, 5):
            net = bp.Network(
                [bp.Dense(17, "relu"), bp.Dense(3)],
                n_inputs=20,
                loss="cross_entropy",
                threads=threads,
                backend="native",
            )
            net.fit(X, y, epochs=20, batch_size=16, penalty=bp.Frobenius(1e-4))
            found.add(net._state.flat.tobytes())
    finally:
        _core.work_per_thread(old)
    assert len(found) == 1


@pytest.mark.parametrize("threads", [1, 2])
def test_profile_accounts_for_the_step_and_leaves_the_network_alone(rng, threads):
    net = network(threads=threads)
    X, y = rng.standard_normal((6400, 64)).astype(np.float32), rng.integers(0, 10, 6400)
    before = net._state.flat.tobytes()
    profile = net.profile(X, y, batch_size=200)
    assert net._state.flat.tobytes() == before
    assert net.epochs == 0
    assert profile.steps == 32
    assert profile.seconds.shape == (2, 3)
    assert (profile.seconds[:, 0] > 0).all()
    assert (profile.seconds[:, 2] > 0).all()
    # Forward and gradient of both layers, and the delta of the second alone.
    assert profile.operations().sum() == 2 * 6400 * (2 * 6400 + 3 * 1000)
    text = str(profile)
    assert re.search(r"0 dense 64-100 relu +[\d.]+ +[\d.]+ +[\d.]+ +[\d.]+ +\d+%", text)
    assert re.search(r"µs per step \(gather [\d.]+, loss [\d.]+, waiting [\d.]+\), .* GFLOP/s", text)


def test_profile_is_of_the_native_engine(rng):
    X, y = rng.standard_normal((40, 64)), rng.integers(0, 10, 40)
    reference = bp.Network([bp.Dense(10)], n_inputs=64, loss="cross_entropy", backend="reference")
    with pytest.raises(RuntimeError, match="got backend 'reference'"):
        reference.profile(X, y)


def test_the_peak_is_a_figure():
    single, double = fma_peak(), fma_peak("float64")
    assert 0.1 < double < single
    assert fma_peak(threads=2) > 0
    with pytest.raises(ValueError, match="dtype must be"):
        fma_peak("float16")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_all_finite_finds_what_is_not(dtype):
    for n in (1, 2, 7, 8, 31, 64, 65, 1000):
        x = np.full(n, np.finfo(dtype).max, dtype)
        assert _core.all_finite(x)
        for place in {0, n // 2, n - 1}:
            for odd in (np.nan, np.inf, -np.inf):
                x[place] = odd
                assert not _core.all_finite(x)
            x[place] = np.finfo(dtype).min
            assert _core.all_finite(x)


def test_arrays_begin_on_a_cache_line():
    for shape in (0, 1, 17, (2, 33)):
        for dtype in (np.float32, np.float64):
            array = aligned(shape, dtype)
            assert array.shape == (shape if isinstance(shape, tuple) else (shape,))
            assert array.size == 0 or array.ctypes.data % LINE == 0
    assert network()._state.flat.ctypes.data % LINE == 0
