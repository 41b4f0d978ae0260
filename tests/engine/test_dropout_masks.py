"""Dropout masks: counter-based, the same in both engines and at any thread count."""

import os
import subprocess
import sys

import numpy as np
import pytest

import bpfast as bp
from bpfast import reference
from bpfast.native import _core

pytestmark = pytest.mark.usefixtures("every_thread_works")

THREADS = (1, 2, 3, 5)
WIDTHS = (1, 3, 17, 100)
DTYPES = ("float32", "float64")


def network(layers, n_inputs, loss="squared_error", dtype="float64", seed=7, **options):
    return bp.Network(layers, n_inputs=n_inputs, loss=loss, dtype=dtype, seed=seed, **options)


def alone(width, rate=0.5, **options):
    """A network with a single dropout layer."""
    return network([bp.Dropout(rate)], width, **options)


def mask(net, rows):
    """The elements that the next step of `alone` keeps."""
    return net.forward(np.ones((rows, net.n_inputs)), training=True) != 0


def mix(z):
    """The finalizer of SplitMix64, with Python integers."""
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


def expected_mask(rows, width, rate, seed, step, place=1):
    """The formula, one number at a time: `place` is 1 for the first op."""
    key = mix((mix((mix(seed) + step) % 2**64) + place) % 2**64)
    kept = np.empty((rows, width), bool)
    for row in range(rows):
        for column in range(width):
            number = row * width + column
            draw = mix((key + (number // 2 + 1) * 0x9E3779B97F4A7C15) % 2**64)
            kept[row, column] = (draw >> 32 if number % 2 else draw % 2**32) >= int(rate * 2**32)
    return kept


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", WIDTHS)
def test_the_mask_agrees_with_the_formula(backend, width, dtype):
    for rows, rate, seed in ((1, 0.5, 0), (2, 0.1, 7), (5, 0.75, 2**63 - 1), (40, 0.5, 3)):
        net = alone(width, rate, dtype=dtype, seed=seed, backend=backend)
        for step in range(3):
            assert (mask(net, rows) == expected_mask(rows, width, rate, seed, step)).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("shuffle", [True, False])
def test_the_masks_of_training(backend, width, dtype, shuffle):
    """W starts at 0 and y is the identity, so the columns of W show the dropped rows of the last batch."""
    for n, batch, threads in ((1, 1, 1), (8, 8, 2), (13, 5, 3), (40, 16, 5), (700, 700, 3)):
        net = network(
            [bp.Dropout(0.4), bp.Dense(n, initializer="zeros", bias=False)],
            width,
            dtype=dtype,
            threads=threads,
            backend=backend,
        )
        y = np.eye(n)
        order = reference.permutation(n, 7, 0) if shuffle else np.arange(n)
        first = (n - 1) // batch * batch
        net.fit(np.ones((n, width)), y, epochs=1, batch_size=batch, optimizer=bp.SGD(1.0), shuffle=shuffle)
        found = net.parameters["1.W"].T[order[first:]] != 0
        assert (found == expected_mask(n - first, width, 0.4, 7, first // batch)).all()


@pytest.mark.parametrize("width", WIDTHS)
def test_the_same_mask_in_both_engines_and_dtypes(rng, width):
    X, D = rng.normal(size=(2, 301, width))
    nets = [
        alone(width, 0.3, dtype=dtype, backend=backend, threads=threads)
        for dtype in DTYPES
        for backend, threads in (("reference", 1), *(("native", threads) for threads in THREADS))
    ]
    for _ in range(3):
        found = {net.dtype.name: set() for net in nets}
        kept = set()
        for net in nets:
            A, dX = net.forward(X, training=True), net.backward(D)
            found[net.dtype.name].add((A.tobytes(), dX.tobytes()))
            kept.add((A != 0).tobytes())
            assert ((A != 0) == (dX != 0)).all()
        assert len(kept) == len(found["float32"]) == len(found["float64"]) == 1


def test_masks_have_no_block_pattern(rng):
    """The mask of a row does not depend on the number of rows after it."""
    for width in WIDTHS:
        whole = mask(alone(width), 1000)
        for rows in (1, 2, 255, 256, 257):
            assert (mask(alone(width), rows) == whole[:rows]).all()


@pytest.mark.parametrize("rate", [0.0, 1e-3, 0.1, 0.5, 0.9])
def test_the_dropped_fraction_and_the_mean(backend, rate):
    """Rows, columns and neighbours agree as often as independent ones, within five standard deviations."""
    net = alone(100, rate, backend=backend)
    n = 4000
    A = net.forward(np.ones((n, 100)), training=True)
    kept, spread = A != 0, np.sqrt(rate * (1 - rate))
    assert abs(kept.mean() - (1 - rate)) <= 5 * spread / np.sqrt(kept.size)
    assert np.abs(kept.mean(axis=0) - (1 - rate)).max() <= 5 * spread / np.sqrt(n)
    assert np.abs(kept.mean(axis=1) - (1 - rate)).max() <= 6 * spread / np.sqrt(100) + 1e-2
    assert abs(A.mean() - 1) <= 5 * spread / (1 - rate) / np.sqrt(kept.size)
    assert (A[kept] == 1 / (1 - rate)).all()
    flat = kept.ravel() - (1 - rate)
    for lag in (1, 2, 3, 100, 101):
        assert abs((flat[lag:] * flat[:-lag]).mean()) <= 5 * spread**2 / np.sqrt(kept.size) + 1e-15


def test_masks_differ_by_step_op_and_seed(backend):
    """Two independent masks of rate ½ agree in half of their elements."""
    nets = [alone(100, seed=seed, backend=backend) for seed in (0, 1, 2)]
    masks = [mask(net, 100) for net in nets for _ in range(3)]
    two = network([bp.Dropout(), bp.Dropout()], 100, seed=0, backend=backend)
    both = mask(two, 100)
    assert not both[~masks[0]].any()
    assert abs(both.sum() / masks[0].sum() - 0.5) < 0.04
    for i in range(len(masks)):
        for j in range(i):
            assert abs((masks[i] == masks[j]).mean() - 0.5) < 0.025, (i, j)


def test_every_instruction_set_gives_the_same_mask():
    """The masks and the kept elements, each instruction set in its own process."""
    code = (
        "import sys, numpy as np, bpfast as bp\n"
        "X = np.random.default_rng(0).normal(size=(90, 21))\n"
        "for dtype in ('float32', 'float64'):\n"
        "    net = bp.Network([bp.Dropout(0.3)], n_inputs=21, loss='squared_error', dtype=dtype)\n"
        "    for rows in (1, 7, 90):\n"
        "        sys.stdout.buffer.write(net.forward(X[:rows], training=True).tobytes())\n"
    )
    found = set()
    for isa in _core.isas():
        env = {**os.environ, "BPFAST_ISA": isa, "BPFAST_BACKEND": "native"}
        done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, env=env, check=True)
        found.add(done.stdout)
    assert len(found) == 1
