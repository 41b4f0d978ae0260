"""Estimators from scikit-learn, networks from estimators, and changed weights."""

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.neural_network import MLPClassifier as TheirClassifier
from sklearn.neural_network import MLPRegressor as TheirRegressor

from bpfast.sklearn import MLPRegressor, from_sklearn

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
@pytest.mark.parametrize("task", ["binary", "classes", "labels", "regression", "poisson", "outputs"])
def test_from_sklearn_and_to_network(task, activation, cancer, digits, diabetes):
    X, Xv, y, _ = {"binary": cancer, "classes": digits}.get(task, diabetes)
    goals = {
        "labels": np.stack([y > 100, y > 200], axis=1).astype(int),
        "poisson": np.floor(y / 50),
        "outputs": np.stack([y, -y], axis=1) / 77,
        "regression": y / 77,
    }
    y = goals.get(task, y)
    kind = TheirClassifier if task in ("binary", "classes", "labels") else TheirRegressor
    more = {"loss": "poisson"} if task == "poisson" else {}
    theirs = kind(activation=activation, random_state=0, max_iter=5, **more).fit(X, y)
    ours = from_sklearn(theirs)
    assert ours.get_params().items() >= theirs.get_params().items()
    np.testing.assert_allclose(ours.predict(Xv), theirs.predict(Xv), rtol=1e-10)
    assert ours.loss_curve_ == theirs.loss_curve_
    assert ours.loss_curve_ is not theirs.loss_curve_
    network = ours.to_network()
    expected = theirs.predict(Xv).reshape(len(Xv), -1)
    if kind is TheirClassifier:
        expected = theirs.predict_proba(Xv)[:, 1:] if task == "binary" else theirs.predict_proba(Xv)
    np.testing.assert_allclose(network.predict(Xv), expected, rtol=1e-9, atol=1e-12)
    weights = ours.coefs_[0].copy()
    network.parameters["0.W"][...] = 0
    assert (ours.coefs_[0] == weights).all()
    ours.partial_fit(X, y)
    assert len(ours.loss_curve_) == 6
    assert (theirs.coefs_[0] == weights).all()


def test_errors_of_from_sklearn():
    with pytest.raises(TypeError, match="from_sklearn takes a fitted MLPClassifier or MLPRegressor"):
        from_sklearn(Ridge())
    with pytest.raises(NotFittedError):
        from_sklearn(TheirClassifier())


def test_predictions_follow_changed_coefs(diabetes):
    X, _, y, _ = diabetes
    est = MLPRegressor(max_iter=2, random_state=0).fit(X, y)
    est.coefs_[1][...] = 0
    est.intercepts_[1][...] = 3
    assert (est.predict(X) == 3).all()
    est.intercepts_ = [b.copy() for b in est.intercepts_]
    est.intercepts_[1] = np.array([4.0])
    assert (est.predict(X) == 4).all()
    est.set_params(activation="tanh", max_iter=1, warm_start=True)
    est.coefs_[1] = np.ones((100, 1))
    expected = np.tanh(X @ est.coefs_[0] + est.intercepts_[0]).sum(axis=1) + 4
    np.testing.assert_allclose(est.predict(X), expected)
