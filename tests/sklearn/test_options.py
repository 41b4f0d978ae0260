"""Options that scikit-learn does not have: activations, layers, losses, penalties, solvers, schedules."""

import numpy as np
import pytest
from sklearn.datasets import make_multilabel_classification
from sklearn.linear_model import LogisticRegression, QuantileRegressor, Ridge
from sklearn.metrics import (
    mean_pinball_loss,
    recall_score,
    roc_auc_score,
)

import bpfast as bp
from bpfast.optimizers import optimizers
from bpfast.sklearn import MLPClassifier, MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


ACTIVATIONS = ["gelu", "silu", bp.LeakyReLU(0.1), "sigmoid", ("tanh", "relu"), ["elu", "elu"]]


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_activations(activation, digits):
    X, Xv, y, yv = digits
    est = MLPClassifier((40, 20), activation, random_state=0, max_iter=40, learning_rate_init=0.01).fit(X, y)
    assert est.score(Xv, yv) > 0.9
    each = activation if isinstance(activation, (tuple, list)) else [activation] * 2
    expected = [*(bp.Dense(1, one).activation for one in each), bp.Identity()]
    assert [layer.activation for layer in est.to_network().layers] == expected


def test_a_tuple_of_equal_activations(digits, same_weights):
    X, _, y, _ = digits
    one, other = (
        MLPClassifier((20, 10), activation, random_state=0, max_iter=3).fit(X, y)
        for activation in ("logistic", ("logistic", "sigmoid"))
    )
    assert same_weights(one, other)


@pytest.mark.parametrize("dropout", [0.5, (0.0, 0.4)])
def test_dropout(dropout, digits, same_weights):
    X, Xv, y, yv = digits
    options = {"hidden_layer_sizes": (64, 32), "random_state": 0, "max_iter": 30}
    est = MLPClassifier(dropout=dropout, **options).fit(X, y)
    plain = MLPClassifier(**options).fit(X, y)
    # The training loss is that with dropout; predictions use all units.
    assert est.loss_ > 1.5 * plain.loss_
    assert est.score(Xv, yv) > 0.93
    assert (est.predict_proba(Xv) == est.predict_proba(Xv)).all()
    assert same_weights(est, MLPClassifier(dropout=dropout, n_jobs=2, **options).fit(X, y))
    other = MLPClassifier(dropout=dropout, **{**options, "random_state": 1}).fit(X, y)
    assert not same_weights(est, other)


@pytest.mark.parametrize("loss", ["hinge", "exponential", bp.Hinge()])
def test_margins(loss, cancer, digits):
    for X, Xv, y, yv in (cancer, digits):
        est = MLPClassifier(loss=loss, random_state=0, max_iter=30, learning_rate_init=0.01).fit(X, y)
        assert est.score(Xv, yv) > 0.93
        values = est.decision_function(Xv)
        expected = est.classes_[values.argmax(axis=1) if values.ndim == 2 else (values > 0).astype(int)]
        assert (est.predict(Xv) == expected).all()
        assert not hasattr(est, "predict_proba")
        assert est.out_activation_ == "identity"
    est = MLPClassifier(loss=loss, max_iter=30).fit(*cancer[::2])
    assert roc_auc_score(cancer[3], est.decision_function(cancer[1])) > 0.97
    assert not hasattr(MLPClassifier(), "decision_function")


def test_margins_of_multilabel_targets():
    X, y = make_multilabel_classification(200, random_state=0)
    est = MLPClassifier(loss="hinge", random_state=0, max_iter=200, early_stopping=True).fit(X, y)
    assert est.decision_function(X).shape == y.shape
    assert ((est.decision_function(X) > 0) == est.predict(X)).all()
    assert est.predict(X).dtype == int


def test_quantile_loss(diabetes):
    """A linear quantile model agrees with scikit-learn's."""
    X, _, y, _ = diabetes
    y = (y - y.mean()) / y.std()
    for q in (0.2, 0.9):
        est = MLPRegressor(
            bp.Quantile(q),
            (),
            solver="adam",
            alpha=0,
            learning_rate=bp.Cosine(0.05, 400),
            max_iter=400,
            n_iter_no_change=1000,
            random_state=0,
        ).fit(X, y)
        expected = QuantileRegressor(quantile=q, alpha=0).fit(X, y)
        mine, theirs = (mean_pinball_loss(y, model.predict(X), alpha=q) for model in (est, expected))
        assert mine == pytest.approx(theirs, rel=2e-2)
        assert (y < est.predict(X)).mean() == pytest.approx(q, abs=0.03)


@pytest.mark.parametrize("loss", ["absolute_error", "huber", bp.Huber(0.3), "quantile"])
def test_robust_losses(loss, diabetes):
    """A few outliers among the targets do not spoil the fit."""
    X, Xv, y, yv = diabetes
    y, yv = ((part - 150) / 77 for part in (y, yv))
    wild = y.copy()
    wild[::25] += 100
    options = {"random_state": 0, "max_iter": 60, "hidden_layer_sizes": (20,), "alpha": 1.0}
    robust = MLPRegressor(loss, **options).fit(X, wild)
    plain = MLPRegressor(**options).fit(X, wild)
    assert np.abs(robust.predict(Xv) - yv).mean() < 0.7 * np.abs(plain.predict(Xv) - yv).mean()
    assert robust.loss_curve_[0] == pytest.approx(robust.history_.loss[0])


def test_class_weight(cancer, same_weights):
    X, Xv, y, yv = cancer
    keep = np.flatnonzero((y == 1) | (np.arange(len(y)) % 8 == 0))
    X, y = X[keep] + np.random.default_rng(0).normal(0, 3, (len(keep), X.shape[1])), y[keep]
    options = {"solver": "lbfgs", "hidden_layer_sizes": (), "alpha": 10.0, "random_state": 0}
    plain, even = (MLPClassifier(class_weight=w, **options).fit(X, y) for w in (None, "balanced"))
    assert recall_score(yv, even.predict(Xv), pos_label=0) > recall_score(yv, plain.predict(Xv), pos_label=0)
    of_classes = len(y) / (2 * np.bincount(y))
    by_hand = MLPClassifier(**options).fit(X, y, sample_weight=of_classes[y])
    given = MLPClassifier(class_weight=dict(enumerate(of_classes)), **options).fit(X, y)
    assert same_weights(even, by_hand)
    assert same_weights(even, given)
    model = LogisticRegression(C=1 / 10, class_weight="balanced", tol=1e-10, max_iter=1000).fit(X, y)
    coefs = even.set_params(tol=1e-8, max_iter=1000).fit(X, y).coefs_[0][:, 0]
    np.testing.assert_allclose(coefs, model.coef_[0], rtol=1e-3, atol=1e-4)


def test_l1_makes_weights_zero(digits):
    X, _, y, _ = digits
    options = {"random_state": 0, "max_iter": 40, "solver": "sgd", "learning_rate_init": 0.05}
    share = {
        penalty: np.mean(MLPClassifier(penalty=penalty, alpha=0.5, **options).fit(X, y).coefs_[0] == 0)
        for penalty in ("l1", "elasticnet", "l2", None)
    }
    assert share["l1"] > share["elasticnet"] > 0.1
    assert share["l2"] == share[None] == 0


def test_a_linear_model_with_l2_is_ridge(diabetes):
    """Without hidden layers, lbfgs finds the solution of scikit-learn's Ridge."""
    X, _, y, _ = diabetes
    est = MLPRegressor(
        hidden_layer_sizes=(), solver="lbfgs", alpha=5.0, tol=1e-9, max_iter=2000, random_state=0
    )
    est.fit(X, y)
    expected = Ridge(alpha=5.0).fit(X, y)
    np.testing.assert_allclose(est.coefs_[0][:, 0], expected.coef_, atol=1e-4 * np.abs(expected.coef_).max())
    assert est.intercepts_[0][0] == pytest.approx(expected.intercept_, rel=1e-6)


NEW_SOLVERS = [name for name in optimizers if name not in ("sgd", "adam")]


@pytest.mark.parametrize(
    "solver", [*NEW_SOLVERS, bp.SGD(0.05, momentum=0.8), bp.AdamW(0.01, weight_decay=0.1)], ids=str
)
def test_solvers(solver, digits):
    X, Xv, y, yv = digits
    rate = {"rprop": 0.001, "adagrad": 0.02}.get(str(solver), 0.003)
    est = MLPClassifier(solver=solver, learning_rate_init=rate, random_state=0, max_iter=40).fit(X, y)
    assert est.score(Xv, yv) > 0.93
    assert est.n_iter_ == len(est.loss_curve_)
    epochs = est.n_iter_
    assert est.partial_fit(X, y).t_ == len(X) * (epochs + 1)


def test_an_optimizer_object_equals_the_solver_of_that_name(digits, same_weights):
    X, _, y, _ = digits
    by_name = MLPClassifier(solver="sgd", learning_rate_init=0.02, random_state=0, max_iter=4).fit(X, y)
    given = bp.SGD(0.02, momentum=0.9, nesterov=True)
    assert same_weights(by_name, MLPClassifier(solver=given, random_state=0, max_iter=4).fit(X, y))


@pytest.mark.parametrize("solver", ["adam", "sgd", "rmsprop"])
def test_schedules(solver, digits):
    X, _, y, _ = digits
    schedule = bp.StepDecay(0.01, every=2, factor=0.5)
    est = MLPClassifier(solver=solver, learning_rate=schedule, random_state=0, max_iter=6).fit(X, y)
    assert est.history_.learning_rate == pytest.approx([0.01, 0.01, 0.005, 0.005, 0.0025, 0.0025])
    for _ in range(2):
        est.partial_fit(X, y)
    assert est.history_.learning_rate == pytest.approx([0.00125])
