"""Restricted Boltzmann machines: contrastive divergence against NumPy, likelihood, updates by hand."""

import itertools

import numpy as np
import pytest

import bpfast as bp
from bpfast.pretraining.boltzmann import contrastive_divergence


def sigmoid(Z):
    return 1 / (1 + np.exp(-Z))


def plain_contrastive_divergence(X, W, b, c, rng, steps, visible):
    """CD-k in plain NumPy."""
    H0 = sigmoid(X @ W + b)
    H, V = H0, X
    for step in range(steps):
        h = (rng.random(H.shape) < H).astype(float)
        V = h @ W.T + c
        V = sigmoid(V) if visible == "binary" else V
        if step == 0:
            error = np.mean([(x - v) ** 2 for x, v in zip(X.ravel(), V.ravel(), strict=True)])
        if step < steps - 1:
            if visible == "binary":
                V = (rng.random(V.shape) < V).astype(float)
            else:
                V = V + rng.standard_normal(V.shape)
        H = sigmoid(V @ W + b)
    dW = sum(np.outer(x, p) - np.outer(v, q) for x, p, v, q in zip(X, H0, V, H, strict=True)) / len(X)
    return dW, (H0 - H).mean(axis=0), (X - V).mean(axis=0), error


@pytest.mark.parametrize("visible", ["binary", "gaussian"])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_contrastive_divergence_against_numpy(backend, steps, visible, rng, error):
    X = rng.integers(0, 2, (30, 7)).astype(float) if visible == "binary" else rng.normal(size=(30, 7))
    W, b, c = rng.normal(size=(7, 4)), rng.normal(size=4), rng.normal(size=7)
    given = contrastive_divergence(
        X, W, b, c, np.random.default_rng(5), steps=steps, visible=visible, backend=backend
    )
    expected = plain_contrastive_divergence(X, W, b, c, np.random.default_rng(5), steps, visible)
    for one, other in zip(given, expected, strict=True):
        assert error(one, other) < 1e-12


def mean_log_likelihood(X, W, b, c):
    """Mean log p(v) of binary rows, with Z by enumeration of all visible states."""

    def log_unnormalised(V):
        return V @ c + np.logaddexp(0, V @ W + b).sum(axis=1)

    states = np.array(list(itertools.product([0.0, 1.0], repeat=W.shape[0])))
    return float(log_unnormalised(X).mean() - np.logaddexp.reduce(log_unnormalised(states)))


@pytest.mark.parametrize("steps", [1, 5])
def test_the_likelihood_of_a_small_machine_rises(backend, steps, rng):
    # The first three bits are equal, and so are the last three; single bits carry no information.
    X = np.repeat(rng.integers(0, 2, (300, 2)), 3, axis=1)
    X = np.where(rng.random(X.shape) < 0.02, 1 - X, X).astype(float)
    W, b, c = 0.01 * rng.normal(size=(6, 4)), np.zeros(4), np.zeros(6)
    draws = np.random.default_rng(0)
    course = [mean_log_likelihood(X, W, b, c)]
    assert course[0] == pytest.approx(-6 * np.log(2), abs=0.05)
    for _ in range(8):
        for _ in range(100):
            rows = X[draws.integers(0, len(X), 30)]
            dW, db, dc, _ = contrastive_divergence(rows, W, b, c, draws, steps=steps, backend=backend)
            W, b, c = W + 0.1 * dW, b + 0.1 * db, c + 0.1 * dc
        course.append(mean_log_likelihood(X, W, b, c))
    # At the start the units are equal, which is a saddle point.
    assert all(later > earlier for earlier, later in itertools.pairwise(course[1:7]))
    # A model without hidden units, which knows only the share of each bit, reaches this.
    p = X.mean(axis=0)
    alone = (p * np.log(p) + (1 - p) * np.log(1 - p)).sum()
    assert course[-1] > alone + 1


def test_a_long_chain_samples_the_models_distribution(rng):
    """After many steps h is distributed as p(h), here by enumeration, for any data."""
    W, b, c = rng.normal(size=(3, 2)), rng.normal(size=2), rng.normal(size=3)
    X = np.repeat(rng.integers(0, 2, (5, 3)).astype(float), 20000, axis=0)
    H0 = sigmoid(X @ W + b)
    dW, db, dc, _ = contrastive_divergence(X, W, b, c, np.random.default_rng(1), steps=30)
    states = np.array(list(itertools.product([0.0, 1.0], repeat=2)))
    p = np.exp(states @ b + np.logaddexp(0, states @ W.T + c).sum(axis=1))
    p /= p.sum()
    V = sigmoid(states @ W.T + c)
    H = sigmoid(V @ W + b)
    assert dW == pytest.approx(X.T @ H0 / len(X) - (p[:, None] * V).T @ H, abs=0.005)
    assert db == pytest.approx(H0.mean(axis=0) - p @ H, abs=0.005)
    assert dc == pytest.approx(X.mean(axis=0) - p @ V, abs=0.005)
    # For the visible biases this is the slope of the likelihood.
    for place in range(3):
        h = 1e-5 * np.eye(3)[place]
        sides = [mean_log_likelihood(X[::20000], W, b, c + side) for side in (h, -h)]
        assert dc[place] == pytest.approx((sides[0] - sides[1]) / 2e-5, abs=0.005)


def test_rbm_update_by_hand(rng, patterns, network):
    """Two epochs of one batch: momentum, decay and the initial visible biases."""
    X = patterns(rng, 40)
    net = network([bp.Dense(6, "sigmoid"), bp.Dense(3)])
    W, b = net.parameters["0.W"].copy(), net.parameters["0.b"].copy()
    spec = bp.RBM(
        epochs=2, batch_size=None, learning_rate=bp.StepDecay(0.5, every=1, factor=0.5), momentum=0.8,
        initial_momentum=0.4, initial_epochs=1, weight_decay=0.01,
    )  # fmt: skip
    history = bp.pretrain(net, X, spec)
    draws = np.random.default_rng([3, 0])
    p = (X.sum(axis=0) + 1) / (len(X) + 2)
    c = np.log(p) - np.log(1 - p)
    velocity, errors = [0.0, 0.0, 0.0], []
    for rate, momentum in ((0.5, 0.4), (0.25, 0.8)):
        rows = X[draws.permutation(len(X))]
        dW, db, dc, error = plain_contrastive_divergence(rows, W, b, c, draws, 1, "binary")
        errors.append(error)
        slopes = (dW - 0.01 * W, db, dc)
        velocity = [momentum * v + rate * g for v, g in zip(velocity, slopes, strict=True)]
        W, b, c = W + velocity[0], b + velocity[1], c + velocity[2]
    assert np.abs(net.parameters["0.W"] - W).max() < 1e-13
    assert np.abs(net.parameters["0.b"] - b).max() < 1e-13
    assert history[0].loss == pytest.approx(errors, rel=1e-12)
    assert history[0].learning_rate == [0.5, 0.25]


def test_the_reconstruction_error_of_gaussian_units_falls(rng, network):
    X = rng.normal(size=(300, 2)) @ rng.normal(size=(2, 8))
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    net = network([bp.Dense(10, "sigmoid"), bp.Dense(3)], n_inputs=8)
    spec = bp.RBM(epochs=60, learning_rate=0.005, visible="gaussian")
    loss = bp.pretrain(net, X, spec)[0].loss
    assert loss[0] > 0.8
    assert loss[-1] < 0.5 * loss[0]
