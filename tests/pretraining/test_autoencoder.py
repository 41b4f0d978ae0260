"""Autoencoders: the tied gradient, corruption, and updates computed by hand."""

import numpy as np
import pytest

import bpfast as bp
from bpfast.pretraining.autoencoder import corrupted, tied_gradient


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "elu"])
@pytest.mark.parametrize("loss", ["squared_error", "log_loss", "huber"])
def test_tied_gradient_against_finite_differences(backend, activation, loss, rng):
    X = rng.random((7, 5))
    damaged = corrupted(X, 0.3, 0.2, rng)
    auto = bp.Network(
        [bp.Dense(4, activation, bias_initializer=bp.XavierUniform()), bp.Dense(5)],
        n_inputs=5,
        loss=loss,
        dtype="float64",
        backend=backend,
    )
    tied_gradient(auto, damaged, X)
    given = {name: auto.gradient[name].copy() for name in ("0.W", "0.b", "1.b")}
    assert not auto.gradient["1.W"].any()
    for name, gradient in given.items():
        slopes = np.empty_like(gradient)
        for place in np.ndindex(*gradient.shape):
            sides = []
            for h in (1e-6, -2e-6):
                auto.parameters[name][place] += h
                np.copyto(auto.parameters["1.W"], auto.parameters["0.W"].T)
                H = bp.reference.dense_forward(
                    damaged, auto.parameters["0.W"], auto.parameters["0.b"], activation
                )
                Z = H @ auto.parameters["0.W"].T + auto.parameters["1.b"]
                sides.append(bp.reference.loss_and_delta(loss, X, Z)[0])
            auto.parameters[name][place] += 1e-6
            slopes[place] = (sides[0] - sides[1]) / 2e-6
        assert np.abs(gradient - slopes).max() < 1e-7 * max(1.0, np.abs(slopes).max())


def test_corruption(rng):
    X = rng.random((400, 50)) + 1
    masked = corrupted(X, 0.3, 0.0, rng)
    kept = masked != 0
    assert abs(1 - kept.mean() - 0.3) < 0.01
    assert (masked[kept] == X[kept]).all()
    noisy = corrupted(X.astype(np.float32), 0.0, 0.5, rng)
    assert noisy.dtype == np.float32
    assert abs((noisy - X).std() - 0.5) < 0.01
    assert corrupted(X, 0.0, 0.0, rng) is X


def test_tied_update_by_hand(backend, rng, network):
    """Plain gradient descent on the squared error of a linear autoencoder, two steps."""
    X = rng.normal(size=(10, 4))
    net = network([bp.Dense(2), bp.Dense(3)], n_inputs=4, backend=backend)
    W, b, c = net.parameters["0.W"].copy(), net.parameters["0.b"].copy(), np.zeros(4)
    spec = bp.Autoencoder(epochs=2, batch_size=None, optimizer=bp.SGD(0.1), penalty=bp.L2(0.3))
    history = bp.pretrain(net, X, spec)
    losses = []
    for _ in range(2):
        H = X @ W + b
        R = H @ W.T + c
        losses.append(np.mean((R - X) ** 2))
        D = 2 * (R - X) / X.size
        dW = X.T @ (D @ W) + D.T @ H + 0.3 * W
        W, b, c = W - 0.1 * dW, b - 0.1 * (D @ W).sum(axis=0), c - 0.1 * D.sum(axis=0)
    assert np.abs(net.parameters["0.W"] - W).max() < 1e-13
    assert np.abs(net.parameters["0.b"] - b).max() < 1e-13
    assert history[0].loss == pytest.approx(losses, rel=1e-12)


def test_an_untied_autoencoder_is_a_network_fitted_to_its_inputs(backend, rng, patterns, network):
    X = patterns(rng)
    net = network([bp.Dense(6, "sigmoid"), bp.Dense(3)], backend=backend)
    auto = bp.Network(
        [bp.Dense(6, "sigmoid"), bp.Dense(12)],
        n_inputs=12,
        loss="log_loss",
        dtype="float64",
        seed=int(np.random.default_rng([3, 0]).integers(2**63)),
        backend=backend,
    )
    for name in ("W", "b"):
        auto.parameters[f"0.{name}"][...] = net.parameters[f"0.{name}"]
    expected = auto.fit(X, X, epochs=3, batch_size=32, optimizer="adam")
    history = bp.pretrain(net, X, bp.Autoencoder(epochs=3, tied=False))
    assert history[0].loss == expected.loss
    assert (net.parameters["0.W"] == auto.parameters["0.W"]).all()
    assert (net.parameters["0.b"] == auto.parameters["0.b"]).all()
