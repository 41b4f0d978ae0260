"""The compiled module: instruction sets, the order of rows, and checks of its arguments."""

import os
import subprocess
import sys

import numpy as np
import pytest

import bpfast as bp
from bpfast import reference
from bpfast.native import _core


@pytest.mark.parametrize("isa", _core.isas())
def test_every_instruction_set_agrees(isa, rng):
    """In separate processes; instruction sets with FMA give bitwise identical results."""
    code = (
        "import sys, numpy as np, bpfast as bp\n"
        "rng = np.random.default_rng(0)\n"
        "X, y = rng.normal(size=(90, 21)), rng.integers(0, 5, 90)\n"
        "for dtype in ('float32', 'float64'):\n"
        "    net = bp.Network([bp.Dense(40, 'gelu'), bp.Dense(17, 'tanh'), bp.Dense(5)],"
        " n_inputs=21, loss='cross_entropy', dtype=dtype)\n"
        "    net.fit(X, y, epochs=3, batch_size=20)\n"
        "    sys.stdout.buffer.write(net._state.flat.tobytes())\n"
    )

    def weights(name):
        env = {**os.environ, "BPFAST_ISA": name}
        done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, env=env, check=True)
        half = len(done.stdout) // 3
        return np.frombuffer(done.stdout[:half], np.float32), np.frombuffer(done.stdout[half:], np.float64)

    best, this = weights(_core.isas()[0]), weights(isa)
    if isa != "baseline":
        assert [a.tobytes() for a in this] == [a.tobytes() for a in best]
    for a, b, tolerance in zip(this, best, (1e-4, 1e-11), strict=True):
        assert np.abs(a - b).max() <= tolerance * np.abs(b).max()


def test_an_unknown_instruction_set_is_refused(monkeypatch):
    monkeypatch.setenv("BPFAST_ISA", "avx3")
    with pytest.raises(ValueError, match=r"BPFAST_ISA must be one of .* on this CPU; got 'avx3'"):
        bp.Network([bp.Dense(1)], n_inputs=1, loss="squared_error", backend="native")


def dense_row(kind="dense", offsets=(0, -1, -1, -1), sources=(0,), target=1, numbers=(0.0,)):
    """An op as `Core` takes it."""
    return (kind, "identity", numbers, sources, target, offsets, ("W", "b"), False, (False,) * len(sources))


def make_core(row, widths, size, heads=(), output=1):
    return _core.Core([row], list(heads), output, widths, size, np.dtype(np.float32), 1)


PROGRAMS = [
    (dense_row("conv"), [3, 3], 9, "no op 'conv'"),
    (dense_row(target=0), [3, 3], 9, "after the one it reads"),
    (dense_row(sources=(0, 1)), [3, 3], 9, "after the one it reads"),
    (dense_row(sources=(0, 0)), [3, 3], 9, "dense reads one value"),
    (dense_row("add", (-1,) * 4), [3, 3], 9, "add reads two values"),
    (dense_row("maxout", (-1,) * 4), [7, 3], 9, "a multiple of the columns"),
    (dense_row("dropout", (-1,) * 4), [3, 4], 9, "as many columns as it reads"),
    (dense_row("dropout"), [3, 3], 9, "dropout has parameters"),
    (dense_row("prelu", (-1,) * 4), [3, 3], 9, "prelu has no parameters"),
    (dense_row("prelu", (7, -1, -1, -1)), [3, 3], 9, "beyond the flat vector"),
    (dense_row("layer_norm"), [3, 3], 9, "lacks a beta"),
    (dense_row("batch_norm", (0, 3, -1, -1), numbers=(0.1,) * 6), [3, 3], 16, "lacks statistics"),
    (dense_row("batch_norm", (0, 3, 6, 9), numbers=(0.1,)), [3, 3], 16, "lacks statistics"),
    (dense_row(numbers=(0.1,) * 7), [3, 3], 9, "at most 6 numbers; got 7"),
]


def test_the_runtime_refuses_wrong_memory():
    """`Core` itself checks sizes: a mistake of its caller must not crash."""
    net = bp.Network([bp.Dense(2)], n_inputs=3, loss="squared_error", backend="native")
    core, flat = net._state.engine.core, net._state.flat
    with pytest.raises(ValueError, match="the array must have 12 elements; got 9"):
        core.outputs(flat, np.ones(9, np.float32), np.ones((4, 2), np.float32), 4)
    with pytest.raises(TypeError, match="4-byte items"):
        core.outputs(flat, np.ones((4, 3)), np.ones((4, 2), np.float32), 4)
    with pytest.raises(ValueError, match="C-contiguous"):
        core.outputs(flat, np.ones((3, 4), np.float32).T, np.ones((4, 2), np.float32), 4)
    with pytest.raises(RuntimeError, match="forward pass of as many rows"):
        core.backward(flat, np.ones((4, 2), np.float32), flat.copy(), np.ones((4, 3), np.float32), 4)
    with pytest.raises(ValueError, match="beyond the flat vector"):
        make_core(dense_row(), [2**40, 2**40], 2**62)
    with pytest.raises(MemoryError, match="memory"):
        make_core(dense_row(), [2**30, 2**30], 2**60)


@pytest.mark.parametrize(("row", "widths", "size", "message"), PROGRAMS)
def test_the_runtime_refuses_wrong_programs(row, widths, size, message):
    with pytest.raises(ValueError, match=message):
        make_core(row, widths, size)


def test_the_runtime_refuses_wrong_heads():
    with pytest.raises(ValueError, match="output must be a value"):
        make_core(dense_row(), [3, 3], 9, output=2)
    with pytest.raises(ValueError, match="as many columns as the output"):
        make_core(dense_row(), [3, 3], 9, heads=[(1, "huber", 1.0, 1.0)])


@pytest.mark.parametrize("n", [1, 2, 3, 10, 1000])
def test_the_order_of_rows_is_that_of_the_reference(n):
    for seed, epoch in ((0, 0), (0, 1), (7, 3), (2**63 - 1, 2**40)):
        order = np.empty(n, np.int64)
        _core.shuffled(order, seed, epoch)
        assert (order == reference.permutation(n, seed, epoch)).all()
        assert (np.sort(order) == np.arange(n)).all()


def test_the_order_is_fair():
    """Every row is about equally frequent at every position."""
    orders = np.array([reference.permutation(5, 1, epoch) for epoch in range(4000)])
    counts = np.array([(orders == row).sum(axis=0) for row in range(5)])
    assert np.abs(counts - 800).max() < 5 * np.sqrt(800)
