"""Initial weights, and the order of the rows in an epoch."""

import math

import numpy as np
import pytest

import bpfast as bp
from bpfast import reference
from bpfast.specs.initializers import generator, initializers

#: name → the standard deviation of (I, O) = (60, 90), the bound or None.
SPREADS = {
    "xavier_uniform": (math.sqrt(2 / 150), math.sqrt(6 / 150)),
    "xavier_normal": (math.sqrt(2 / 150), None),
    "he_uniform": (math.sqrt(2 / 60), math.sqrt(6 / 60)),
    "he_normal": (math.sqrt(2 / 60), None),
    "lecun_uniform": (math.sqrt(1 / 60), math.sqrt(3 / 60)),
    "lecun_normal": (math.sqrt(1 / 60), None),
    "orthogonal": (math.sqrt(1 / 90), None),
    "constant": (0.0, 0.0),
    "zeros": (0.0, 0.0),
}


def test_every_initializer_is_tested():
    assert set(SPREADS) == set(initializers)


@pytest.mark.parametrize("name", SPREADS)
def test_initializer_spread(name):
    deviation, bound = SPREADS[name]
    W = initializers.resolve(name).draw((60, 90), generator(3, 0))
    assert W.shape == (60, 90)
    assert W.std() == pytest.approx(deviation, rel=0.04, abs=1e-15)
    assert abs(W.mean()) <= 4 * deviation / math.sqrt(W.size)
    if bound is not None:
        assert np.abs(W).max() <= bound
        assert np.abs(W).max() >= 0.99 * bound
    elif name != "orthogonal":
        # A normal has 4.6 % beyond two deviations; a uniform none.
        assert (np.abs(W) > 2 * deviation).mean() == pytest.approx(0.0455, abs=0.012)


@pytest.mark.parametrize("shape", [(7, 4), (4, 7), (5, 5), (6, 1), (1, 6)])
def test_orthogonal_has_orthonormal_rows_or_columns(shape):
    Q = bp.Orthogonal(gain=1.5).draw(shape, generator(0, 0))
    small = Q @ Q.T if shape[0] < shape[1] else Q.T @ Q
    assert Q.shape == shape
    assert np.abs(small - 2.25 * np.eye(min(shape))).max() <= 1e-14


def test_constant_initializer_and_bias(backend):
    layer = bp.Dense(4, initializer=bp.Constant(0.25), bias_initializer=bp.Constant(-1.5))
    net = bp.Network([layer], n_inputs=3, loss="squared_error", backend=backend)
    assert (net.parameters["0.W"] == 0.25).all()
    assert (net.parameters["0.b"] == -1.5).all()


def mix64(z):
    """The finalizer of SplitMix64, with Python integers."""
    mask = 2**64 - 1
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


@pytest.mark.parametrize(("seed", "epoch"), [(0, 0), (0, 1), (7, 3), (2**63 - 1, 12345)])
@pytest.mark.parametrize("n", [1, 2, 3, 50])
def test_permutation_by_scalars(n, seed, epoch):
    key = mix64((mix64(seed) + epoch) % 2**64)
    order = list(range(n))
    for i in range(n - 1, 0, -1):
        draw = mix64((key + i * 0x9E3779B97F4A7C15) % 2**64)
        j = ((draw >> 32) * (i + 1)) >> 32
        order[i], order[j] = order[j], order[i]
    assert reference.permutation(n, seed, epoch).tolist() == order
    assert sorted(order) == list(range(n))


def test_permutations_are_uniform():
    """The 24 orders of four rows are equally frequent, over epochs and over seeds."""
    for orders in (
        [tuple(reference.permutation(4, 5, epoch)) for epoch in range(2400)],
        [tuple(reference.permutation(4, seed, 0)) for seed in range(2400)],
    ):
        counts = np.unique(np.array(orders), axis=0, return_counts=True)[1]
        assert len(counts) == 24
        # χ² of 23 degrees of freedom passes 55 once in 5,000 times.
        assert ((counts - 100) ** 2 / 100).sum() < 55
