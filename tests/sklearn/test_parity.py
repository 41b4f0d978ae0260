"""The estimators compared with scikit-learn's: equal results, except where those are wrong."""

import warnings

import numpy as np
import pytest
import scipy.sparse
import sklearn.neural_network as theirs
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, make_multilabel_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import StandardScaler

import bpfast as bp
import bpfast.sklearn as ours

EPOCHS = 20
SOLVERS = {
    "adam": {"solver": "adam"},
    "plain": {"solver": "sgd", "momentum": 0.0, "learning_rate_init": 0.05},
    "momentum": {"solver": "sgd", "nesterovs_momentum": False, "learning_rate_init": 0.01},
    "nesterov": {"solver": "sgd", "nesterovs_momentum": True, "learning_rate_init": 0.01},
}
ACTIVATIONS = ("identity", "logistic", "tanh", "relu")


def _binary():
    X, y = load_breast_cancer(return_X_y=True)
    return "MLPClassifier", StandardScaler().fit_transform(X)[:400], y[:400], {}


def _ten_classes():
    X, y = load_digits(return_X_y=True)
    return "MLPClassifier", X[:600] / 16, y[:600], {}


def _multilabel():
    X, y = make_multilabel_classification(300, n_classes=4, random_state=0)
    return "MLPClassifier", StandardScaler().fit_transform(X), y, {}


def _regression():
    X, y = load_diabetes(return_X_y=True)
    return "MLPRegressor", StandardScaler().fit_transform(X), (y - y.mean()) / y.std(), {}


def _poisson():
    X, _ = load_diabetes(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    y = np.random.default_rng(0).poisson(np.exp(0.5 + 0.3 * X[:, 0])).astype(float)
    return "MLPRegressor", X, y, {"loss": "poisson"}


TASKS = {
    "binary": _binary,
    "10-class": _ten_classes,
    "multi-label": _multilabel,
    "regression": _regression,
    "poisson": _poisson,
}
DATA = {name: make() for name, make in TASKS.items()}
over_tasks = pytest.mark.parametrize("task", TASKS)


def both(kind, X, y, fit=None, then=lambda est: None, **options):
    """Fit the estimators of scikit-learn and bpfast in the same way."""
    pair = []
    for module in (theirs, ours):
        est = getattr(module, kind)(**{"random_state": 0, "max_iter": EPOCHS, **options})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            est.fit(X, y, **(fit or {}))
            then(est)
        pair.append(est)
    return pair


def assert_same(expected, est, X, tolerance=1e-8):
    assert est.n_iter_ == expected.n_iter_
    np.testing.assert_allclose(est.loss_curve_, expected.loss_curve_, rtol=tolerance)
    for name in ("coefs_", "intercepts_"):
        for mine, wanted in zip(getattr(est, name), getattr(expected, name), strict=True):
            assert mine.dtype == wanted.dtype
            assert np.abs(mine - wanted).max() <= tolerance * np.abs(wanted).max()
    for name in (
        *("loss_", "best_loss_", "best_validation_score_", "t_", "n_layers_", "n_outputs_"),
        *("out_activation_", "n_features_in_", "_no_improvement_count"),
    ):
        mine, wanted = getattr(est, name), getattr(expected, name)
        assert mine == (wanted if wanted is None or isinstance(wanted, str) else pytest.approx(wanted))
    if expected.validation_scores_ is None:
        assert est.validation_scores_ is None
    else:
        np.testing.assert_allclose(est.validation_scores_, expected.validation_scores_, rtol=tolerance)
    mine, wanted = est.predict(X), expected.predict(X)
    assert mine.dtype == wanted.dtype
    if hasattr(expected, "classes_"):
        assert (mine == wanted).all()
        assert (est.classes_ == expected.classes_).all()
        np.testing.assert_allclose(est.predict_proba(X), expected.predict_proba(X), atol=tolerance)
    else:
        np.testing.assert_allclose(mine, wanted, atol=tolerance * np.abs(wanted).max())


@over_tasks
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("early_stopping", [False, True])
def test_results_equal_those_of_sklearn(task, solver, activation, early_stopping):
    kind, X, y, more = DATA[task]
    options = {"activation": activation, "early_stopping": early_stopping, "hidden_layer_sizes": (20, 10)}
    assert_same(*both(kind, X, y, **options, **SOLVERS[solver], **more), X)


@over_tasks
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_lbfgs(task, activation):
    kind, X, y, more = DATA[task]
    options = {"solver": "lbfgs", "activation": activation, "hidden_layer_sizes": (20,), "alpha": 1.0}
    expected, est = both(kind, X, y, max_iter=50, **options, **more)
    assert est.loss_ <= expected.loss_ + 1e-6 * abs(expected.loss_)
    assert est.out_activation_ == expected.out_activation_
    assert not hasattr(est, "loss_curve_")


OPTIONS = {
    "defaults": {},
    "no hidden layer": {"hidden_layer_sizes": ()},
    "one number": {"hidden_layer_sizes": 7},
    "three layers": {"hidden_layer_sizes": (9, 8, 7)},
    "no shuffle": {"shuffle": False},
    "no shuffle, early": {"shuffle": False, "early_stopping": True},
    "batch of 33": {"batch_size": 33},
    "batch of 1": {"batch_size": 1, "max_iter": 2},
    "alpha": {"alpha": 3.0, "batch_size": 60},
    "alpha 0": {"alpha": 0.0},
    "early, a quarter": {"early_stopping": True, "validation_fraction": 0.25},
    "epsilon": {"epsilon": 1e-2},
    "betas": {"beta_1": 0.5, "beta_2": 0.9},
    "adaptive": {"solver": "sgd", "learning_rate": "adaptive", "n_iter_no_change": 1, "tol": 0.05},
    "adaptive of adam": {"learning_rate": "adaptive", "n_iter_no_change": 1, "tol": 0.05},
    "invscaling": {"solver": "sgd", "learning_rate": "invscaling", "learning_rate_init": 0.5},
    "momentum 1": {"solver": "sgd", "momentum": 1.0, "learning_rate_init": 1e-4},
    "stops": {"tol": 0.1, "n_iter_no_change": 3},
    "stops early": {"tol": 0.1, "n_iter_no_change": 3, "early_stopping": True},
    "other seed": {"random_state": 7},
}


@pytest.mark.parametrize("task", ["10-class", "regression", "multi-label"])
@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.filterwarnings("ignore:Got `batch_size`")
def test_every_option(task, name):
    kind, X, y, more = DATA[task]
    assert_same(*both(kind, X, y, **more, **OPTIONS[name]), X)


@over_tasks
@pytest.mark.parametrize("early_stopping", [False, True])
def test_sample_weights(task, early_stopping):
    kind, X, y, more = DATA[task]
    weights = np.random.default_rng(1).random(len(X))
    weights[:7] = 0
    pair = both(kind, X, y, {"sample_weight": weights}, early_stopping=early_stopping, **more)
    assert_same(*pair, X)


@over_tasks
def test_warm_start(task):
    kind, X, y, more = DATA[task]
    options = {"max_iter": 4, "warm_start": True}
    assert_same(*both(kind, X, y, then=lambda est: est.fit(X, y).fit(X, y), **options, **more), X)


class Keep(bp.Callback):
    """Return the weights after every epoch of a fit."""

    def on_fit_begin(self, network, history):
        self.kept = []

    def on_epoch_end(self, network, history):
        self.kept.append([W.copy() for name, W in network.parameters.items() if name.endswith(".W")])


@over_tasks
def test_warm_start_with_early_stopping(task):
    """scikit-learn trains in the arrays that hold the best weights; bpfast ends with the best."""
    kind, X, y, more = DATA[task]
    options = {"max_iter": 4, "warm_start": True, "early_stopping": True, **more}
    expected, _ = both(kind, X, y, then=lambda est: est.fit(X, y), **options)
    est, keep = getattr(ours, kind)(random_state=0, callbacks=[Keep()], **options), []
    for _ in range(2):
        with pytest.warns(ConvergenceWarning):
            est.fit(X, y)
        keep += est.callbacks[0].kept
    np.testing.assert_allclose(est.loss_curve_, expected.loss_curve_, rtol=1e-8)
    np.testing.assert_allclose(est.validation_scores_, expected.validation_scores_, rtol=1e-8)
    best = keep[int(np.argmax(est.validation_scores_))]
    assert all((a == b).all() for a, b in zip(est.coefs_, best, strict=True))


@over_tasks
@pytest.mark.parametrize("solver", ["adam", "nesterov"])
def test_partial_fit(task, solver):
    kind, X, y, more = DATA[task]

    def go_on(est):
        for part in range(12):
            rows = slice(part % 3 * 100, part % 3 * 100 + 100)
            est.partial_fit(X[rows], y[rows])

    pair = both(kind, X, y, then=go_on, max_iter=1, learning_rate="invscaling", **SOLVERS[solver], **more)
    assert_same(*pair, X)


def test_partial_fit_of_a_new_estimator():
    _, X, y, _ = DATA["10-class"]
    pair = [module.MLPClassifier(random_state=0) for module in (theirs, ours)]
    for est in pair:
        for part in range(5):
            est.partial_fit(X[part * 100 :][:100], y[part * 100 :][:100], classes=np.arange(10))
    assert_same(*pair, X)


@over_tasks
@pytest.mark.parametrize("container", [scipy.sparse.csr_matrix, scipy.sparse.csc_array])
def test_sparse(task, container):
    kind, X, y, more = DATA[task]
    X = np.where(np.abs(X) > 0.7, X, 0)
    assert_same(*both(kind, container(X), y, early_stopping=True, **more), container(X))


@pytest.mark.parametrize("labels", [["no", "yes"], [3, 1], [-1.0, 1.0], [True, False]])
def test_kinds_of_labels(labels):
    _, X, y, _ = DATA["binary"]
    assert_same(*both("MLPClassifier", X, np.array(labels)[y], max_iter=3), X)
    _, X, y, _ = DATA["10-class"]
    assert_same(
        *both("MLPClassifier", X, np.array([f"digit {k}" for k in range(10)], object)[y], max_iter=3), X
    )


def test_one_class_and_a_column():
    _, X, _, _ = DATA["binary"]
    assert_same(*both("MLPClassifier", X, np.full(len(X), "only"), max_iter=3), X)
    with pytest.warns(match="column-vector"):
        ours.MLPRegressor(max_iter=300, tol=1).fit(X, X[:, :1])


@over_tasks
def test_float32(task):
    """float32 data are trained in float32, with the same results up to rounding."""
    kind, X, y, more = DATA[task]
    expected, est = both(kind, X.astype(np.float32), y, max_iter=5, **more)
    assert est.coefs_[0].dtype == est.intercepts_[0].dtype == np.float32
    np.testing.assert_allclose(est.loss_curve_, expected.loss_curve_, rtol=1e-4)
    asked = getattr(ours, kind)(random_state=0, max_iter=5, dtype="float32", **more)
    with pytest.warns(ConvergenceWarning):
        asked.fit(X.astype(np.float32).astype(np.float64), y)
    assert all((a == b).all() for a, b in zip(asked.coefs_, est.coefs_, strict=True))


@pytest.mark.parametrize("solver", ["adam", "nesterov", "plain"])
def test_how_to_reproduce_results_with_several_outputs(solver):
    """Squared error of k outputs: the documented settings reproduce scikit-learn's results."""
    _, X, _, _ = DATA["regression"]
    y, k = np.random.default_rng(0).normal(size=(len(X), 3)), 3
    options = {"alpha": 0.3, "max_iter": EPOCHS, "random_state": 0, "epsilon": 1e-3, **SOLVERS[solver]}
    expected, _ = both("MLPRegressor", X, y, **options)
    options["alpha"] /= k
    if solver == "adam":
        options["epsilon"] /= k
    else:
        options["learning_rate_init"] *= k
    _, est = both("MLPRegressor", X, y, **options)
    for mine, wanted in zip(est.coefs_, expected.coefs_, strict=True):
        assert np.abs(mine - wanted).max() <= 1e-8 * np.abs(wanted).max()
    np.testing.assert_allclose(est.predict(X), expected.predict(X), atol=1e-8)


def test_several_outputs_have_the_gradient_of_their_loss():
    """The reported loss decreases as its gradient predicts."""
    _, X, _, _ = DATA["regression"]
    y = np.random.default_rng(0).normal(size=(len(X), 3))
    options = {"solver": "sgd", "momentum": 0.0, "alpha": 0.0, "batch_size": len(X), "tol": 0.0}
    rate = 1e-4
    _, est = both("MLPRegressor", X, y, max_iter=2, learning_rate_init=rate, activation="tanh", **options)
    net = ours.MLPRegressor(
        random_state=0, max_iter=1, learning_rate_init=1e-30, activation="tanh", **options
    )
    with pytest.warns(ConvergenceWarning):
        net = net.fit(X, y).to_network()
    # The loss of the estimator is half that of the network.
    squares = sum(float((g**2).sum()) for g in net.gradients(X, y).values()) / 4
    assert est.loss_curve_[0] - est.loss_curve_[1] == pytest.approx(rate * squares, rel=1e-3)


def test_predictions_of_unscaled_digits():
    """Confident mistakes: the loss equals that of clipped probabilities."""
    X, y = load_digits(return_X_y=True)
    assert_same(*both("MLPClassifier", X, y), X)
    assert_same(*both("MLPClassifier", X, y < 5), X)
