"""The learning-rate range test."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import sparse as scipy_sparse

import bpfast as bp
from bpfast.diagnostics.learning_rate import _smooth


def regression(rng, n_rows=200):
    X = rng.normal(size=(n_rows, 3))
    return X, X @ np.array([1.0, -2.0, 0.5]) + 0.1 * rng.normal(size=n_rows)


def linear(backend=None, **options):
    options = {"loss": "squared_error", "dtype": "float64", "seed": 2, **options}
    return bp.Network([bp.Dense(1)], n_inputs=3, backend=backend, **options)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", bp.SGD(0.3, momentum=0.5)])
def test_the_steps_by_hand(backend, optimizer, rng):
    """The losses equal those of a custom loop with the same rates and batches."""
    X, y = regression(rng)
    net = linear(backend)
    test = bp.find_learning_rate(
        net, X, y, low=1e-4, high=0.5, steps=15, batch_size=32, optimizer=optimizer, penalty=bp.L2(0.1)
    )
    assert test.rates == pytest.approx(1e-4 * (5e3) ** (np.arange(15) / 14))
    other = linear(backend)
    spec = bp.optimizers.optimizers.resolve(optimizer) if isinstance(optimizer, str) else optimizer
    losses, k = [], 0
    for epoch in range(3):
        order = bp.reference.permutation(200, 2, epoch)
        for start in range(0, 200, 32):
            if k == 15:
                break
            rows = order[start : start + 32]
            D = other.forward(X[rows], training=True) - y[rows, None]
            losses.append(float(np.mean(D**2)))
            other.backward(2 * D / len(rows))
            kind, more = type(spec), {"momentum": spec.momentum} if hasattr(spec, "momentum") else {}
            other.update(kind(float(test.rates[k]), **more), bp.L2(0.1))
            k += 1
    assert test.losses == pytest.approx(losses, rel=1e-12)


def test_the_network_is_not_changed(backend, bytes_of, rng):
    X, y = regression(rng)
    net, other = linear(backend), linear(backend)
    for n in (net, other):
        n.fit(X, y, epochs=2)
    before = bytes_of(net)
    bp.find_learning_rate(net, X, y)
    assert bytes_of(net) == before
    # Further training does not change either.
    for n in (net, other):
        n.fit(X, y, epochs=2)
    assert bytes_of(net) == bytes_of(other)


def test_it_stops_when_the_loss_diverges(backend, rng):
    """For a quadratic loss of curvature λ, gradient descent is stable below 2 / λ."""
    X, y = regression(rng)
    test = bp.find_learning_rate(linear(backend), X, y, optimizer="sgd", batch_size=200, high=1e3, steps=200)
    curvature = np.linalg.eigvalsh(2 * np.c_[X, np.ones(200)].T @ np.c_[X, np.ones(200)] / 200).max()
    assert test.diverged
    assert len(test.losses) < 200
    assert 2 / curvature < test.rates[-1] < 20 * 2 / curvature
    assert test.suggestion < test.lowest < 2 * 2 / curvature
    assert test.suggestion > 0.01
    assert "diverged" in str(test)
    assert f"{test.suggestion:.2g}" in str(test)


def test_infinite_losses_are_left_out(backend, rng):
    X, y = regression(rng)
    net = linear(backend, loss="poisson")
    test = bp.find_learning_rate(net, X, np.abs(y).round(), low=1e-3, high=1e6, optimizer="sgd", steps=30)
    assert test.diverged
    assert np.isfinite(test.losses).all()
    assert len(test.losses) == len(test.rates) == len(test.smoothed) < 30


def test_the_suggestion_beats_a_much_smaller_rate(rng):
    X = rng.normal(size=(500, 3))
    y = np.sin(2 * X).sum(axis=1)

    def net():
        return bp.Network([bp.Dense(32, "tanh"), bp.Dense(1)], n_inputs=3, loss="squared_error")

    rate = bp.find_learning_rate(net(), X, y, optimizer="sgd").suggestion
    losses = [net().fit(X, y, epochs=5, optimizer=bp.SGD(r)).loss[-1] for r in (rate, rate / 100)]
    assert losses[0] < 0.7 * losses[1]


def test_a_loss_that_never_falls_suggests_nothing(tmp_path):
    X, y = np.zeros((40, 3)), np.zeros(40)
    test = bp.find_learning_rate(linear(), X, y)
    assert not test.diverged
    assert test.losses.tolist() == [0.0] * 100
    assert math.isnan(test.suggestion)
    pytest.importorskip("matplotlib")
    test.plot(tmp_path / "a.png")


def test_the_suggestion_ignores_noise_before_the_fall():
    rates = np.geomspace(1e-4, 1, 9)
    falling = np.array([2.0, 2.5, 1.9, 2.1, 1.8, 1.5, 1.1, 1.0, 3.0])
    test = bp.diagnostics.RangeTest(rates, falling, falling, True)
    assert (test.lowest, test.suggestion) == (rates[7], rates[5])
    # The steepest slope is the first, but the loss rises again after it.
    noisy = np.array([3, 1.5, 3, 2.9, 2.8, 2.2, 2, 1.4, 2])
    test = bp.diagnostics.RangeTest(rates, noisy, noisy, False)
    assert (test.lowest, test.suggestion) == (rates[7], rates[5])


def test_smoothing():
    values = np.arange(20.0)
    assert _smooth(values, 0) == pytest.approx(values)
    assert _smooth(values, 2)[2:-2] == pytest.approx(values[2:-2])
    assert _smooth(np.ones(5), 3) == pytest.approx(np.ones(5))
    peak = np.zeros(9)
    peak[4] = 9
    assert _smooth(peak, 2) == pytest.approx([0, 0, 1, 2, 3, 2, 1, 0, 0])


def test_sparse_weighted_and_custom(rng):
    X, y = regression(rng)
    X[np.abs(X) < 0.5] = 0
    dense = bp.find_learning_rate(linear(), X, y)
    assert (bp.find_learning_rate(linear(), scipy_sparse.csr_array(X), y).losses == dense.losses).all()
    weights = rng.random(200)
    assert (bp.find_learning_rate(linear(), X, y, sample_weight=weights).losses != dense.losses).any()

    def squared(Y, Z):
        return ((Z - Y) ** 2).mean(axis=1), 2 * (Z - Y) / Z.shape[1]

    custom = bp.find_learning_rate(linear(loss=squared), X, y)
    assert custom.losses == pytest.approx(dense.losses, rel=1e-9)


def test_the_picture(tmp_path, rng):
    pytest.importorskip("matplotlib")
    test = bp.find_learning_rate(linear(), *regression(rng), optimizer="sgd")
    figure = test.plot(tmp_path / "a.png")
    (axis,) = figure.axes
    assert (axis.get_xlabel(), axis.get_ylabel(), axis.get_xscale()) == ("learning rate", "loss", "log")
    assert len(axis.get_lines()[0].get_xdata()) == len(test.losses)
    assert axis.get_legend().get_texts()[-1].get_text() == f"suggestion {test.suggestion:.2g}"
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "kind", "match"),
    [
        ({"low": 0}, ValueError, "find_learning_rate: low must be greater than 0"),
        ({"low": 1, "high": 1}, ValueError, "find_learning_rate: high must be greater than 1"),
        ({"steps": 2}, ValueError, "steps must be at least 3"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1"),
        ({"optimizer": "rprop"}, ValueError, "Rprop needs the full batch"),
        ({"optimizer": 3}, TypeError, "optimizer must be a name or an Optimizer"),
        ({"penalty": "l3"}, ValueError, "unknown penalty 'l3'"),
    ],
)
def test_errors(arguments, kind, match, rng):
    with pytest.raises(kind, match=match):
        bp.find_learning_rate(linear(), *regression(rng), **arguments)
    with pytest.raises(ValueError, match="X contains NaN"):
        bp.find_learning_rate(linear(), np.full((5, 3), np.nan), np.ones(5))


@pytest.mark.parametrize("network", [3, bp.Network, linear().freeze()], ids=["int", "class", "frozen"])
@pytest.mark.parametrize("call", [bp.check_gradients, bp.find_learning_rate, bp.gradient_flow])
def test_other_objects_than_networks(call, network, rng):
    kind = type(network).__name__
    with pytest.raises(TypeError, match=rf"{call.__name__}: network must be a bp.Network; got {kind}$"):
        call(network, *regression(rng))
