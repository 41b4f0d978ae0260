"""Losses defined by the user."""

import numpy as np
import pytest

import bpfast as bp


def rows_and_deltas(name, parameter=1.0):
    """A built-in loss as a user-defined function."""

    def huber(Y, Z):
        R = Z - Y
        small = np.abs(R) <= parameter
        rows = np.where(small, R**2 / 2, parameter * (np.abs(R) - parameter / 2))
        return rows.mean(axis=1), np.where(small, R, parameter * np.sign(R)) / Z.shape[1]

    def cross_entropy(Y, Z):
        E = np.exp(Z)
        P = E / E.sum(axis=1, keepdims=True)
        return -(Y * np.log(P)).sum(axis=1), P - Y

    def squared_error(Y, Z):
        return ((Z - Y) ** 2).mean(axis=1), 2 * (Z - Y) / Z.shape[1]

    return {"huber": huber, "cross_entropy": cross_entropy, "squared_error": squared_error}[name]


@pytest.mark.parametrize("name", ["squared_error", "huber", "cross_entropy"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("wrap", [bp.CustomLoss, lambda function: function], ids=["CustomLoss", "function"])
def test_custom_loss_agrees_with_the_built_in_loss(build, problem, error, rng, name, weighted, wrap):
    X, y = problem("cross_entropy" if name == "cross_entropy" else name)
    Y = np.eye(2)[y] if name == "cross_entropy" else y
    w = rng.random(20) if weighted else None
    own, built_in = build(loss=wrap(rows_and_deltas(name))), build(loss=name)
    assert own.loss(X, Y, sample_weight=w) == pytest.approx(built_in.loss(X, Y, sample_weight=w), rel=1e-14)
    for gradient, expected in zip(
        own.gradients(X, Y, sample_weight=w).values(),
        built_in.gradients(X, Y, sample_weight=w).values(),
        strict=True,
    ):
        assert error(gradient, expected) <= 1e-13
    options = {
        "epochs": 5,
        "batch_size": 6,
        "penalty": bp.L1(0.01),
        "sample_weight": w,
        "optimizer": bp.SGD(0.1),
    }
    a, b = own.fit(X, Y, **options), built_in.fit(X, Y, **options)
    assert a.loss == pytest.approx(b.loss, rel=1e-12)
    for mine, theirs in zip(own.parameters.values(), built_in.parameters.values(), strict=True):
        assert error(mine, theirs) <= 1e-12


@pytest.mark.parametrize(
    ("result", "kind", "match"),
    [
        (lambda Y, Z: Z, TypeError, r"must return \(loss, D\)"),
        (
            lambda Y, Z: (0.5, Z),
            ValueError,
            r"must return arrays of shape \(\d+,\) and \(\d+, 2\); got \(\) and \(\d+, 2\)",
        ),
        (lambda Y, Z: (Z[:, 0], Z[:, :1]), ValueError, r"must return arrays of shape .*; got"),
        (lambda Y, Z: (Z[:, 0], None), TypeError, r"custom loss's D contains objects"),
        (lambda Y, Z: (np.array(["a"] * len(Z)), Z), TypeError, r"custom loss's loss contains strings"),
    ],
)
def test_bad_results_of_a_custom_loss(build, problem, bytes_of, result, kind, match):
    X, y = problem()
    net = build(loss=result)
    before = bytes_of(net)
    for call in (net.loss, net.gradients, net.fit):
        with pytest.raises(kind, match=match):
            call(X, y)
    assert bytes_of(net) == before
    assert net.epochs == 0


def test_a_custom_loss_that_fails_in_the_middle_of_an_epoch(build, problem, bytes_of, keeper):
    """The network goes back to the weights of the last complete epoch."""
    calls = []

    def function(Y, Z):
        calls.append(None)
        if len(calls) == 7:  # the third batch of the second epoch
            raise ZeroDivisionError("mine")
        return rows_and_deltas("squared_error")(Y, Z)

    X, y = problem()
    net = build(loss=function)
    with pytest.raises(ZeroDivisionError, match="mine"):
        net.fit(X, y, epochs=5, batch_size=5, callbacks=[keeper])
    assert net.epochs == 1
    assert len(keeper.seen) == 2
    assert bytes_of(net) == keeper.seen[-1]
