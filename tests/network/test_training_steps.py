"""Training loops written by the user: forward, backward and update."""

import numpy as np
import pytest

import bpfast as bp


def test_backward_fills_the_gradient(build, problem, error):
    X, y = problem()
    net = build((3, 5, 2), "gelu")
    Z = net.forward(X, training=True)
    dX = net.backward(2 * (Z - y) / y.size)
    for name, gradient in net.gradients(X, y).items():
        assert error(net.gradient[name], gradient) <= 1e-13
    slopes = np.empty_like(X)
    for place in np.ndindex(X.shape):
        moved, sides = X.copy(), []
        for side in (1e-5, -1e-5):
            moved[place] = X[place] + side
            sides.append(net.loss(moved, y))
        slopes[place] = (sides[0] - sides[1]) / 2e-5
    assert error(dX, slopes) <= 1e-8


def test_backward_twice_gives_the_same_result(build, problem):
    """backward uses the last forward pass for training, regardless of other calls in between."""
    X, y = problem()
    net = build()
    net.forward(X[:5], training=True)
    dY = np.arange(10.0).reshape(5, 2)
    first, gradient = net.backward(dY), {name: g.copy() for name, g in net.gradient.items()}
    net.predict(X), net.forward(X[:7]), net.loss(X, y)
    assert np.array_equal(net.backward(dY), first)
    for name, g in net.gradient.items():
        assert np.array_equal(g, gradient[name])


def test_backward_is_linear_and_does_not_accumulate(build, problem, error):
    X, _ = problem()
    net = build()
    net.forward(X, training=True)
    dY = np.cos(np.arange(40.0)).reshape(20, 2)
    net.backward(dY)
    once = {name: g.copy() for name, g in net.gradient.items()}
    net.backward(3 * dY)
    for name, g in net.gradient.items():
        assert error(g, 3 * once[name]) <= 1e-14


def nothing(net, X, y):
    pass


#: what went before → the calls that must be refused after it
MISUSES = {
    "nothing": (nothing, "backward update"),
    "forward without training": (lambda net, X, y: net.forward(X), "backward update"),
    "predict": (lambda net, X, y: net.predict(X), "backward update"),
    "forward without backward": (lambda net, X, y: net.forward(X, training=True), "update"),
    "a new forward": (
        lambda net, X, y: (
            net.backward(net.forward(X, training=True)),
            net.forward(X, training=True),
        ),
        "update",
    ),
    "gradients": (lambda net, X, y: (net.forward(X, training=True), net.gradients(X, y)), "backward update"),
    "fit": (lambda net, X, y: (net.forward(X, training=True), net.fit(X, y, epochs=1)), "backward update"),
}


@pytest.mark.parametrize(
    ("before", "call"), [(name, call) for name, (_, calls) in MISUSES.items() for call in calls.split()]
)
def test_calls_in_the_wrong_order(build, problem, bytes_of, before, call):
    X, y = problem()
    net = build()
    MISUSES[before][0](net, X, y)
    kept = bytes_of(net)
    with pytest.raises(RuntimeError, match=rf"{call} needs forward\(X, training=True\)"):
        net.backward(np.ones((20, 2))) if call == "backward" else net.update("adam")
    assert bytes_of(net) == kept


@pytest.mark.parametrize(
    ("dY", "match"),
    [
        (np.ones((19, 2)), r"dY has 19 rows; the last forward expects 20"),
        (np.ones((20, 3)), r"dY has 3 columns; the last forward expects 2"),
        (np.ones(20), r"dY must be a 2-dimensional array"),
        (np.full((20, 2), np.nan), r"dY contains NaN in row 0, column 0"),
        (np.full((20, 2), np.inf), r"dY contains infinity in row 0, column 0"),
    ],
)
def test_bad_deltas(build, problem, dY, match):
    net = build()
    net.forward(problem()[0], training=True)
    with pytest.raises(ValueError, match=match):
        net.backward(dY)
    assert not any(g.any() for g in net.gradient.values())


def test_two_networks_against_each_other(build, rng):
    """A generator trains through a critic: the gradient of its output is the dX of the critic."""
    noise, real = rng.normal(size=(64, 3)), 3 + 0.1 * rng.normal(size=(64, 1))
    generator, critic = build((3, 8, 1), seed=1), build((1, 8, 1), loss="log_loss", seed=2)
    ones, zeros = np.ones((64, 1)), np.zeros((64, 1))
    start = generator.forward(noise).mean()
    for _ in range(200):
        fake = generator.forward(noise, training=True)
        critic.fit(np.vstack([real, fake]), np.vstack([ones, zeros]), epochs=1, optimizer=bp.Adam(0.02))
        # The critic's delta for targets of 1: sigmoid(z) - 1.
        Z = critic.forward(fake, training=True)
        generator.backward(critic.backward((1 / (1 + np.exp(-Z)) - 1) / 64))
        generator.update(bp.Adam(0.02))
    assert abs(start - 3) > 2
    assert abs(generator.forward(noise).mean() - 3) < 1
