"""Shared by the tests of pretraining: data that a small code can represent, and a network of sigmoids."""

import numpy as np
import pytest

import bpfast as bp


@pytest.fixture
def patterns():
    """patterns(rng, ...): rows near one of four patterns of bits, which few units can represent."""

    def patterns(rng, n_rows=200, n_columns=12, noise=0.05):
        kinds = rng.integers(0, 2, (4, n_columns))
        rows = kinds[rng.integers(0, 4, n_rows)]
        return np.where(rng.random(rows.shape) < noise, 1 - rows, rows).astype(float)

    return patterns


@pytest.fixture
def network():
    """network(layers, n_inputs=12, ...): a network, by default with two hidden layers of sigmoids."""

    def network(layers=None, *, n_inputs=12, **options):
        layers = layers or [bp.Dense(6, "sigmoid"), bp.Dense(5, "sigmoid"), bp.Dense(3)]
        options = {"loss": "cross_entropy", "dtype": "float64", "seed": 3, **options}
        return bp.Network(layers, n_inputs=n_inputs, **options)

    return network
