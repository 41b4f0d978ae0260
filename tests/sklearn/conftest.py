"""Shared by the tests of the estimators: data sets, and comparison of weights."""

import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler


def _split(X, y):
    X, Xv, y, yv = train_test_split(X, y, random_state=0)
    scaler = StandardScaler().fit(X)
    return scaler.transform(X), scaler.transform(Xv), y, yv


@pytest.fixture(scope="session")
def cancer():
    """X, held-out X, y, held-out y of two classes."""
    return _split(*load_breast_cancer(return_X_y=True))


@pytest.fixture(scope="session")
def digits():
    """X, held-out X, y, held-out y of ten classes."""
    return _split(*load_digits(return_X_y=True))


@pytest.fixture(scope="session")
def diabetes():
    """X, held-out X, y, held-out y of a regression."""
    return _split(*load_diabetes(return_X_y=True))


def _weights_of(est):
    return [*est.coefs_, *est.intercepts_]


@pytest.fixture(scope="session")
def weights_of():
    """weights_of(est): the weights and biases of an estimator."""
    return _weights_of


@pytest.fixture(scope="session")
def same_weights():
    """same_weights(one, other): whether two estimators have identical weights."""

    def same(one, other):
        return all((a == b).all() for a, b in zip(_weights_of(one), _weights_of(other), strict=True))

    return same
