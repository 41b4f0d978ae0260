"""Classic small networks learn real data."""

import numpy as np
import pytest
from sklearn import datasets
from sklearn.model_selection import train_test_split

import bpfast as bp


def split(load):
    X, y = load(return_X_y=True)
    return train_test_split(X, y, test_size=0.2, random_state=0, stratify=y)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_digits(backend, seed):
    X, X_test, y, y_test = split(datasets.load_digits)
    net = bp.Network(
        [bp.Dense(64, "sigmoid"), bp.Dense(10)], n_inputs=64, loss="cross_entropy", seed=seed, backend=backend
    )
    net.fit(X / 16, y, epochs=40, optimizer=bp.SGD(0.3, momentum=0.9))
    assert np.mean(net.predict(X_test / 16).argmax(axis=1) == y_test) >= 0.95


@pytest.mark.parametrize("loss", ["log_loss", "hinge"])
def test_breast_cancer(backend, loss):
    X, X_test, y, y_test = split(datasets.load_breast_cancer)
    mean, deviation = X.mean(axis=0), X.std(axis=0)
    X, X_test = (X - mean) / deviation, (X_test - mean) / deviation
    sign = 2 * y - 1 if loss == "hinge" else y
    net = bp.Network([bp.Dense(16, "sigmoid"), bp.Dense(1)], n_inputs=30, loss=loss, backend=backend)
    net.fit(X, sign, epochs=60, penalty=bp.L2(1e-3))
    threshold = 0.0 if loss == "hinge" else 0.5
    assert np.mean((net.predict(X_test)[:, 0] > threshold) == y_test) >= 0.95


def test_diabetes(backend):
    X, X_test, y, y_test = train_test_split(
        *datasets.load_diabetes(return_X_y=True), test_size=0.2, random_state=0
    )
    X, X_test = X * 20, X_test * 20
    center, scale = y.mean(), y.std()
    net = bp.Network([bp.Dense(16, "tanh"), bp.Dense(1)], n_inputs=10, loss="huber", backend=backend)
    net.fit(X, (y - center) / scale, epochs=80, penalty=bp.L2(5e-2))
    residual = net.predict(X_test)[:, 0] * scale + center - y_test
    assert 1 - np.mean(residual**2) / y_test.var() >= 0.3
