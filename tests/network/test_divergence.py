"""Training that diverges: errors, and weights of the last good epoch."""

import math

import numpy as np
import pytest

import bpfast as bp
from bpfast.optimizers import optimizers


def blow_up(rate, x=1.0, w=1.0, batches=3):
    """The epoch and batch at which a weight on w² overflows: w ← w - η 2 w x², the loss (w x)²."""
    step = 0
    while True:
        z = w * x
        if not math.isfinite(z * z):
            return divmod(step, batches)
        w -= rate * 2 * z * x
        step += 1


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("rate", [1e3, 1e20, 1e40, 1e70, 1e150])
def test_a_learning_rate_that_makes_training_diverge(backend, bytes_of, rate, shuffle, keeper):
    layer = bp.Dense(1, initializer=bp.Constant(1.0), bias=False)
    net = bp.Network([layer], n_inputs=1, loss="squared_error", dtype="float64", backend=backend)
    epoch, batch = blow_up(rate)
    text = rf"the loss became infinite in epoch {epoch}, batch {batch}; the network keeps the weights"
    with pytest.raises(FloatingPointError, match=text):
        net.fit(
            np.ones((6, 1)),
            np.zeros(6),
            epochs=1000,
            batch_size=2,
            optimizer=bp.SGD(rate),
            shuffle=shuffle,
            callbacks=[keeper],
        )
    assert len(keeper.seen) == epoch + 1  # the start and every good epoch
    assert bytes_of(net) == keeper.seen[-1]
    assert net.epochs == epoch
    assert np.isfinite(net.parameters["0.W"]).all()


@pytest.mark.parametrize("name", ["sgd", "adam", "rmsprop"])
@pytest.mark.parametrize("activation", ["relu", "silu", "softplus"])
@pytest.mark.parametrize(("dtype", "rate"), [("float32", 1e30), ("float64", 1e200)])
def test_training_restarts_after_divergence(build, problem, bytes_of, name, activation, dtype, rate):
    X, y = problem()

    def optimizer(rate):
        return bp.SGD(rate, momentum=0.9) if name == "sgd" else optimizers[name](rate)

    net, fresh = build((3, 6, 2), activation, dtype=dtype), build((3, 6, 2), activation, dtype=dtype)
    start = bytes_of(net)
    with pytest.raises(FloatingPointError, match=r"in epoch 0, batch [1-4]; the network keeps"):
        net.fit(X, y, epochs=3, batch_size=4, optimizer=optimizer(rate))
    assert bytes_of(net) == start
    assert net.epochs == 0
    for each in (net, fresh):
        each.fit(X, y, epochs=3, batch_size=4, optimizer=optimizer(0.01))
    assert bytes_of(net) == bytes_of(fresh)


def test_weights_that_overflow_in_the_last_update(backend, bytes_of):
    layer = bp.Dense(1, initializer=bp.Constant(1e150), bias=False)
    net = bp.Network([layer], n_inputs=1, loss="squared_error", dtype="float64", backend=backend)
    before = bytes_of(net)
    with pytest.raises(FloatingPointError, match=r"the weights overflowed at the end of epoch 0"):
        net.fit([[1.0]], [0.0], epochs=1, optimizer=bp.SGD(1e200))
    assert bytes_of(net) == before
    assert net.epochs == 0


def test_a_loss_that_is_nan(build, problem, bytes_of, keeper):
    """A custom loss returns NaN in the second epoch."""
    calls = []

    def function(Y, Z):
        calls.append(None)
        rows = ((Z - Y) ** 2).mean(axis=1)
        return (rows * math.nan if len(calls) == 5 else rows), 2 * (Z - Y) / Z.shape[1]

    X, y = problem()
    net = build(loss=bp.CustomLoss(function))
    with pytest.raises(FloatingPointError, match=r"the loss became NaN in epoch 1, batch 1"):
        net.fit(X, y, epochs=5, batch_size=7, callbacks=[keeper])
    assert len(calls) == 5
    assert bytes_of(net) == keeper.seen[-1]
    assert net.epochs == 1
