"""Copies of networks by pickle and deepcopy."""

import copy
import pickle

import numpy as np
import pytest

import bpfast as bp
from bpfast.losses import losses

over_dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])
over_losses = pytest.mark.parametrize("loss", list(losses))


def clone_by_pickle(net):
    return pickle.loads(pickle.dumps(net))


@pytest.mark.parametrize("clone", [clone_by_pickle, copy.deepcopy], ids=["pickle", "deepcopy"])
@pytest.mark.parametrize(
    "optimizer", [bp.SGD(bp.Cosine(0.1, 6), momentum=0.9), bp.Adam(0.01), bp.Rprop()], ids=str
)
@over_dtypes
def test_copies_continue_training_identically(build, problem, bytes_of, clone, optimizer, dtype):
    X, y = problem("cross_entropy")
    options = {"batch_size": None if optimizer.full_batch else 8, "optimizer": optimizer, "epochs": 3}
    net = build(loss="cross_entropy", dtype=dtype, seed=4)
    net.metadata["scaling"] = "none"
    net.fit(X, y, **options)
    twin = clone(net)
    assert bytes_of(twin) == bytes_of(net)
    assert np.array_equal(twin.predict(X), net.predict(X))
    assert (twin.epochs, twin.seed, twin.metadata) == (3, 4, {"scaling": "none"})
    assert repr(twin) == repr(net)
    assert twin.backend == net.backend
    kept = bytes_of(net)
    history = twin.fit(X, y, **options)
    assert bytes_of(net) == kept  # nothing is shared
    assert net.fit(X, y, **options).loss == history.loss
    assert bytes_of(twin) == bytes_of(net) != kept


def test_a_copy_shares_nothing(build, rng):
    net = build()
    twin = copy.copy(net)
    net.fit(rng.normal(size=(10, 3)), rng.normal(size=(10, 2)), epochs=1)
    assert twin.epochs == 0
    assert any((a != twin.parameters[name]).any() for name, a in net.parameters.items())
