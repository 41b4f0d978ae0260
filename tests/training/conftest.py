"""Shared by the tests of training: data, a network with random numbers, interrupts and comparisons."""

import pytest

import bpfast as bp


@pytest.fixture
def data(rng):
    return rng.normal(size=(90, 5)), rng.integers(0, 3, 90)


@pytest.fixture
def make(backend):
    """make(**options): a network with batch normalization and dropout."""

    def make(**options):
        layers = [bp.Dense(7, "relu"), bp.BatchNorm(), bp.Dropout(0.3), bp.Dense(3)]
        options = {"seed": 3, "backend": backend, **options}
        return bp.Network(layers, n_inputs=5, loss="cross_entropy", **options)

    return make


class InterruptAfter(bp.Callback):
    """Raises KeyboardInterrupt after a number of batches."""

    def __init__(self, batches):
        self.left = batches

    def on_batch_end(self, network, batch, loss):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.fixture
def interrupt_after():
    """interrupt_after(n): a callback that raises KeyboardInterrupt after n batches."""
    return InterruptAfter


@pytest.fixture
def training_state():
    """training_state(net): everything that the next step depends on."""

    def training_state(net):
        state, counted = net._state.optimizer_state, (net._state.epochs, net._state.steps, net.seed)
        return net._state.flat.tobytes(), state.arrays.tobytes(), state.steps, state.clock, counted

    return training_state


@pytest.fixture
def columns_of():
    """columns_of(history): the columns of a history except the seconds."""
    return lambda history: {name: values for name, values in history.columns.items() if name != "seconds"}


@pytest.fixture
def refusal_of(make, data):
    """refusal_of(path, **changes): the message of a fit that cannot resume, which changes nothing."""

    def refusal_of(path, **changes):
        X, y = data
        net = changes.pop("net", None) or make()
        X, y = changes.pop("X", X), changes.pop("y", y)
        before = (net._state.flat.tobytes(), net._state.epochs, net._state.optimizer_state)
        with pytest.raises(ValueError, match=r"resume|run|checkpoint|L-BFGS|damaged") as refusal:
            net.fit(X, y, **{"epochs": 5, "resume": path, **changes})
        assert (net._state.flat.tobytes(), net._state.epochs, net._state.optimizer_state) == before
        return str(refusal.value)

    return refusal_of
