"""Shared by the tests of networks: data, trained networks, and a check that a failed call changes nothing."""

import copy
from contextlib import contextmanager

import pytest

import bpfast as bp


@pytest.fixture
def problem(rng, make_targets):
    """problem(loss, rows, outputs) -> X (rows, 3), y."""

    def problem(loss="squared_error", rows=20, outputs=2):
        return rng.normal(size=(rows, 3)), make_targets(loss, rows, outputs, rng)

    return problem


@pytest.fixture
def data(problem):
    """data(loss, outputs) -> X (8, 3), y."""
    return lambda loss="squared_error", outputs=2: problem(loss, 8, outputs)


@pytest.fixture
def trained(build, data):
    """trained(loss, outputs, dtype): a network after one epoch, so that it has an optimizer state."""

    def trained(loss="squared_error", outputs=2, dtype="float32"):
        net = build((3, 4, outputs), loss=loss, dtype=dtype)
        net.fit(*data(loss, outputs), epochs=1, batch_size=3, optimizer=bp.Adam(bp.Cosine(0.01, 5)))
        return net

    return trained


@pytest.fixture
def unchanged(bytes_of, data):
    """with unchanged(net): weights and epochs stay the same, and so does the result of another epoch."""

    @contextmanager
    def unchanged(net):
        copied = copy.deepcopy(net)
        yield
        assert bytes_of(net) == bytes_of(copied)
        assert net.epochs == copied.epochs
        X, y = data(net.loss_spec.name, net.n_outputs)
        options = {"epochs": 1, "batch_size": 3, "optimizer": bp.Adam(bp.Cosine(0.01, 5))}
        histories = [each.fit(X, y, **options) for each in (net, copied)]
        assert histories[0].learning_rate == histories[1].learning_rate
        assert bytes_of(net) == bytes_of(copied)

    return unchanged


class Keeper(bp.Callback):
    """Records the bytes of the parameters before training and after every epoch."""

    def __init__(self, bytes_of):
        self.bytes_of, self.seen = bytes_of, []

    def on_fit_begin(self, network, history):
        self.seen.append(self.bytes_of(network))

    def on_epoch_end(self, network, history):
        self.seen.append(self.bytes_of(network))


@pytest.fixture
def keeper(bytes_of):
    """A callback that records the bytes of the parameters before training and after every epoch."""
    return Keeper(bytes_of)
