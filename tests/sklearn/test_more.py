"""What the estimators have beside scikit-learn's: layers, losses, solvers, validation, callbacks."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, make_multilabel_classification
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression, QuantileRegressor, Ridge
from sklearn.metrics import (
    balanced_accuracy_score,
    make_scorer,
    mean_pinball_loss,
    recall_score,
    roc_auc_score,
)
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier as TheirClassifier
from sklearn.neural_network import MLPRegressor as TheirRegressor
from sklearn.preprocessing import StandardScaler

import bpfast as bp
from bpfast.optimizers import optimizers
from bpfast.sklearn import MLPClassifier, MLPRegressor, from_sklearn

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def _split(X, y):
    X, Xv, y, yv = train_test_split(X, y, random_state=0)
    scaler = StandardScaler().fit(X)
    return scaler.transform(X), scaler.transform(Xv), y, yv


CANCER = _split(*load_breast_cancer(return_X_y=True))
DIGITS = _split(*load_digits(return_X_y=True))
DIABETES = _split(*load_diabetes(return_X_y=True))


def weights_of(est):
    return [*est.coefs_, *est.intercepts_]


def same_weights(one, other):
    return all((a == b).all() for a, b in zip(weights_of(one), weights_of(other), strict=True))


# ---- layers


ACTIVATIONS = ["gelu", "silu", bp.LeakyReLU(0.1), "sigmoid", ("tanh", "relu"), ["elu", "elu"]]


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_activations(activation):
    X, Xv, y, yv = DIGITS
    est = MLPClassifier((40, 20), activation, random_state=0, max_iter=40, learning_rate_init=0.01).fit(X, y)
    assert est.score(Xv, yv) > 0.9
    each = activation if isinstance(activation, (tuple, list)) else [activation] * 2
    expected = [*(bp.Dense(1, one).activation for one in each), bp.Identity()]
    assert [layer.activation for layer in est.to_network().layers] == expected


def test_a_tuple_of_one_activation_is_that_activation():
    X, _, y, _ = DIGITS
    one, other = (
        MLPClassifier((20, 10), activation, random_state=0, max_iter=3).fit(X, y)
        for activation in ("logistic", ("logistic", "sigmoid"))
    )
    assert same_weights(one, other)


@pytest.mark.parametrize("dropout", [0.5, (0.0, 0.4)])
def test_dropout(dropout):
    X, Xv, y, yv = DIGITS
    options = {"hidden_layer_sizes": (64, 32), "random_state": 0, "max_iter": 30}
    est = MLPClassifier(dropout=dropout, **options).fit(X, y)
    plain = MLPClassifier(**options).fit(X, y)
    # Training sees the loss of the network with dropout, prediction that of the whole network.
    assert est.loss_ > 1.5 * plain.loss_
    assert est.score(Xv, yv) > 0.93
    assert (est.predict_proba(Xv) == est.predict_proba(Xv)).all()
    assert same_weights(est, MLPClassifier(dropout=dropout, n_jobs=2, **options).fit(X, y))
    other = MLPClassifier(dropout=dropout, **{**options, "random_state": 1}).fit(X, y)
    assert not same_weights(est, other)


# ---- losses and weights of classes


@pytest.mark.parametrize("loss", ["hinge", "exponential", bp.Hinge()])
def test_margins(loss):
    for X, Xv, y, yv in (CANCER, DIGITS):
        est = MLPClassifier(loss=loss, random_state=0, max_iter=30, learning_rate_init=0.01).fit(X, y)
        assert est.score(Xv, yv) > 0.93
        values = est.decision_function(Xv)
        expected = est.classes_[values.argmax(axis=1) if values.ndim == 2 else (values > 0).astype(int)]
        assert (est.predict(Xv) == expected).all()
        assert not hasattr(est, "predict_proba")
        assert est.out_activation_ == "identity"
    est = MLPClassifier(loss=loss, max_iter=30).fit(*CANCER[::2])
    assert roc_auc_score(CANCER[3], est.decision_function(CANCER[1])) > 0.97
    assert not hasattr(MLPClassifier(), "decision_function")


def test_margins_of_labels():
    X, y = make_multilabel_classification(200, random_state=0)
    est = MLPClassifier(loss="hinge", random_state=0, max_iter=200, early_stopping=True).fit(X, y)
    assert est.decision_function(X).shape == y.shape
    assert ((est.decision_function(X) > 0) == est.predict(X)).all()
    assert est.predict(X).dtype == int


def test_quantiles():
    """A linear model of a quantile ends where scikit-learn's does."""
    X, _, y, _ = DIABETES
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
def test_robust_losses(loss):
    """A few wild targets do not spoil the fit."""
    X, Xv, y, yv = DIABETES
    y, yv = ((part - 150) / 77 for part in (y, yv))
    wild = y.copy()
    wild[::25] += 100
    options = {"random_state": 0, "max_iter": 60, "hidden_layer_sizes": (20,), "alpha": 1.0}
    robust = MLPRegressor(loss, **options).fit(X, wild)
    plain = MLPRegressor(**options).fit(X, wild)
    assert np.abs(robust.predict(Xv) - yv).mean() < 0.7 * np.abs(plain.predict(Xv) - yv).mean()
    assert robust.loss_curve_[0] == pytest.approx(robust.history_.loss[0])


def test_class_weight():
    X, Xv, y, yv = CANCER
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


# ---- penalties, solvers, schedules


def test_l1_makes_weights_zero():
    X, _, y, _ = DIGITS
    options = {"random_state": 0, "max_iter": 40, "solver": "sgd", "learning_rate_init": 0.05}
    share = {
        penalty: np.mean(MLPClassifier(penalty=penalty, alpha=0.5, **options).fit(X, y).coefs_[0] == 0)
        for penalty in ("l1", "elasticnet", "l2", None)
    }
    assert share["l1"] > share["elasticnet"] > 0.1
    assert share["l2"] == share[None] == 0


def test_ridge_is_the_linear_one():
    """No hidden layer and all of the data a step: scikit-learn's ridge."""
    X, _, y, _ = DIABETES
    est = MLPRegressor(
        hidden_layer_sizes=(), solver="lbfgs", alpha=5.0, tol=1e-9, max_iter=2000, random_state=0
    )
    est.fit(X, y)
    expected = Ridge(alpha=5.0).fit(X, y)
    np.testing.assert_allclose(est.coefs_[0][:, 0], expected.coef_, atol=1e-4 * np.abs(expected.coef_).max())
    assert est.intercepts_[0][0] == pytest.approx(expected.intercept_, rel=1e-6)


OURS = [name for name in optimizers if name not in ("sgd", "adam")]


@pytest.mark.parametrize(
    "solver", [*OURS, bp.SGD(0.05, momentum=0.8), bp.AdamW(0.01, weight_decay=0.1)], ids=str
)
def test_solvers(solver):
    X, Xv, y, yv = DIGITS
    rate = {"rprop": 0.001, "adagrad": 0.02}.get(str(solver), 0.003)
    est = MLPClassifier(solver=solver, learning_rate_init=rate, random_state=0, max_iter=40).fit(X, y)
    assert est.score(Xv, yv) > 0.93
    assert est.n_iter_ == len(est.loss_curve_)
    epochs = est.n_iter_
    assert est.partial_fit(X, y).t_ == len(X) * (epochs + 1)


def test_an_optimizer_object_is_the_solver_of_that_name():
    X, _, y, _ = DIGITS
    by_name = MLPClassifier(solver="sgd", learning_rate_init=0.02, random_state=0, max_iter=4).fit(X, y)
    given = bp.SGD(0.02, momentum=0.9, nesterov=True)
    assert same_weights(by_name, MLPClassifier(solver=given, random_state=0, max_iter=4).fit(X, y))


@pytest.mark.parametrize("solver", ["adam", "sgd", "rmsprop"])
def test_schedules(solver):
    X, _, y, _ = DIGITS
    schedule = bp.StepDecay(0.01, every=2, factor=0.5)
    est = MLPClassifier(solver=solver, learning_rate=schedule, random_state=0, max_iter=6).fit(X, y)
    assert est.history_.learning_rate == pytest.approx([0.01, 0.01, 0.005, 0.005, 0.0025, 0.0025])
    for _ in range(2):
        est.partial_fit(X, y)
    assert est.history_.learning_rate == pytest.approx([0.00125])


# ---- validation, stopping, going on


def test_validation_data():
    X, Xv, y, yv = DIGITS
    options = {"random_state": 0, "max_iter": 60, "n_iter_no_change": 4}
    est = MLPClassifier(early_stopping=True, **options).fit(X, y, validation_data=(Xv, yv))
    assert est.n_iter_ < 60
    assert est.should_stop_
    assert len(est.validation_scores_) == len(est.validation_loss_curve_) == est.n_iter_
    assert est.score(Xv, yv) == est.best_validation_score_ == max(est.validation_scores_)
    assert est.t_ == est.n_iter_ * len(X), "every row is trained on"
    watched = MLPClassifier(**{**options, "max_iter": 5}).fit(X, y, validation_data=(Xv, yv))
    plain = MLPClassifier(**{**options, "max_iter": 5}).fit(X, y)
    assert same_weights(watched, plain)
    assert watched.validation_scores_ is None
    expected = -np.log(watched.predict_proba(Xv)[np.arange(len(yv)), yv]).mean()
    assert watched.validation_loss_curve_[-1] == pytest.approx(expected)
    assert not hasattr(plain, "validation_loss_curve_")
    weighted = MLPClassifier(**{**options, "max_iter": 1}).fit(
        X, y, validation_data=(Xv, yv, np.r_[1.0, np.zeros(len(yv) - 1)])
    )
    assert weighted.validation_loss_curve_[-1] == pytest.approx(
        -np.log(weighted.predict_proba(Xv[:1])[0, yv[0]])
    )


SCORING = {
    "balanced_accuracy": "balanced_accuracy",
    "neg_log_loss": "neg_log_loss",
    "scorer": make_scorer(balanced_accuracy_score),
    "function": lambda est, X, y: est.score(X, y),
}


@pytest.mark.parametrize("name", SCORING)
def test_scoring(name):
    X, Xv, y, yv = DIGITS
    est = MLPClassifier(random_state=0, max_iter=8, early_stopping=True, scoring=SCORING[name])
    est.fit(X, y, validation_data=(Xv, yv))
    scores, losses = np.array(est.validation_scores_), np.array(est.validation_loss_curve_)
    if name == "neg_log_loss":
        np.testing.assert_allclose(scores, -losses, rtol=1e-6)
    elif name == "function":
        plain = clone(est).set_params(scoring=None).fit(X, y, validation_data=(Xv, yv))
        assert plain.validation_scores_ == est.validation_scores_
    else:
        assert max(scores) == pytest.approx(balanced_accuracy_score(yv, est.predict(Xv)))


def test_partial_fit_stops_early():
    X, Xv, y, yv = CANCER
    est = MLPClassifier(early_stopping=True, random_state=0, n_iter_no_change=3, learning_rate_init=0.01)
    calls = 0
    while not calls or not est.should_stop_:
        est.partial_fit(X, y, classes=[0, 1], validation_data=(Xv, yv))
        calls += 1
    assert 4 < calls < 100
    assert est.score(Xv, yv) == est.best_validation_score_ == max(est.validation_scores_)
    assert len(est.validation_scores_) == calls
    with pytest.raises(ValueError, match="without validation_data: pass held-out rows"):
        est.partial_fit(X, y)


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_keep_optimizer(solver):
    """Two warm fits are one long fit, if the rows come in the same order."""
    X, _, y, _ = DIABETES
    options = {"solver": solver, "shuffle": False, "random_state": 0, "learning_rate_init": 1e-4}
    whole = MLPRegressor(max_iter=10, **options).fit(X, y)
    parts = MLPRegressor(max_iter=5, warm_start=True, keep_optimizer=True, **options).fit(X, y).fit(X, y)
    assert same_weights(whole, parts)
    assert whole.loss_curve_ == parts.loss_curve_
    anew = MLPRegressor(max_iter=5, warm_start=True, **options).fit(X, y).fit(X, y)
    assert not same_weights(whole, anew)


class Watch(bp.Callback):
    def __init__(self, stop=None, fail=None):
        self.stop, self.fail, self.batches, self.epochs, self.ends = stop, fail, 0, 0, 0

    def on_batch_end(self, network, batch, loss):
        self.batches += 1
        if self.batches == self.fail:
            raise KeyError("pruned")

    def on_epoch_end(self, network, history):
        self.epochs += 1
        return self.epochs == self.stop

    def on_fit_end(self, network, history):
        self.ends += 1


def test_callbacks(capsys):
    X, _, y, _ = DIGITS
    watch = Watch(stop=3)
    est = MLPClassifier(random_state=0, callbacks=[watch, bp.ProgressBar()]).fit(X, y)
    assert (watch.epochs, watch.batches, watch.ends, est.n_iter_) == (3, 21, 1, 3)
    assert "3/200" in capsys.readouterr().err
    assert same_weights(est, MLPClassifier(random_state=0, max_iter=3).fit(X, y))
    stopping = bp.EarlyStopping(patience=3)
    est = MLPClassifier(random_state=0, callbacks=[stopping], learning_rate_init=0.01, n_iter_no_change=99)
    est.fit(X, y, validation_data=DIGITS[1::2])
    assert est.n_iter_ == stopping.best_epoch + 4
    expected = -np.log(est.predict_proba(DIGITS[1])[np.arange(len(DIGITS[3])), DIGITS[3]]).mean()
    assert expected == pytest.approx(min(est.validation_loss_curve_))
    lbfgs = MLPClassifier(solver="lbfgs", random_state=0, callbacks=[Watch(stop=4)]).fit(X, y)
    assert lbfgs.n_iter_ == 4


# ---- after an error, as before


@pytest.mark.parametrize("warm", [False, True])
def test_an_error_leaves_everything_as_it_was(warm):
    X, Xv, y, _ = DIGITS
    est = MLPClassifier(random_state=0, max_iter=3, warm_start=warm).fit(X, y)
    public = [name for name in vars(est) if name.endswith("_") and name not in ("coefs_", "intercepts_")]
    before = {name: list(v) if isinstance(v, list) else v for name, v in vars(est).items() if name in public}
    weights = [array.copy() for array in weights_of(est)]
    proba = est.predict_proba(Xv)
    failing = Watch(fail=10)
    attempts = [
        ({"callbacks": [failing]}, lambda: est.fit(X, y), KeyError),
        ({}, lambda: est.fit(X[:, :9], np.r_[y[:-1], np.nan]), ValueError),
        ({}, lambda: est.fit(X, y, sample_weight=np.zeros(len(X))), ValueError),
        ({}, lambda: est.fit(X, y, validation_data=(X[:, :4], y)), ValueError),
        ({"solver": "sgd", "learning_rate_init": 1e200}, lambda: est.fit(X, y), ValueError),
        ({"loss": "huber"}, lambda: est.fit(X, y), ValueError),
    ]
    for changes, call, error in attempts:
        old = {name: est.get_params()[name] for name in changes}
        with pytest.raises(error):
            est.set_params(**changes) and call()
        est.set_params(**old)
        assert all((a == b).all() for a, b in zip(weights_of(est), weights, strict=True))
        assert (est.predict_proba(Xv) == proba).all()
        for name, value in before.items():
            assert np.all(getattr(est, name) == value), name
    assert failing.ends == 1
    fresh = MLPClassifier(callbacks=[Watch(fail=2)])
    with pytest.raises(KeyError):
        fresh.fit(X, y)
    with pytest.raises(NotFittedError):
        fresh.predict(X)
    assert not hasattr(fresh, "n_features_in_")


def test_an_interrupt_keeps_what_was_learned():
    class Interrupts(bp.Callback):
        def on_epoch_end(self, network, history):
            if len(history) == 3:
                raise KeyboardInterrupt

    X, _, y, _ = DIGITS
    with pytest.warns(UserWarning, match="Training interrupted by user"):
        est = MLPClassifier(random_state=0, callbacks=[Interrupts()]).fit(X, y)
    assert est.n_iter_ == 3
    assert same_weights(est, MLPClassifier(random_state=0, max_iter=3).fit(X, y))


# ---- what is refused

DATA = CANCER[::2]
BAD = {
    "activation": ["foo", 3, ("relu", "foo"), ("relu",)],
    "solver": ["newton", 3, bp.L2],
    "learning_rate": ["fast", 0.1],
    "loss": ["squared_error", "foo", 3, bp.Huber()],
    "penalty": ["l0", 1],
    "l1_ratio": [-0.1, 1.5, "x", np.nan],
    "dropout": [-0.1, 1.0, "x", (0.1,), (0.1, 0.2, 0.3)],
    "batch_norm": [1, "yes", None, (True, False), bp.BatchNorm()],
    "class_weight": ["even", 3],
    "scoring": ["foo", 3],
    "callbacks": [3, [print]],
    "dtype": ["float16", int, 3],
    "n_jobs": [0, 1.5, "2", True],
    "hidden_layer_sizes": [(0,), -1, (3, -2), "ten", 2.5],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in BAD.items() for value in values], ids=str
)
def test_bad_parameters(name, value):
    est = MLPClassifier((5, 4), early_stopping=True, max_iter=2).set_params(**{name: value})
    with pytest.raises((ValueError, TypeError)) as caught:
        est.fit(*DATA)
    assert not hasattr(est, "coefs_")
    if name in TheirClassifier().get_params():
        theirs = TheirClassifier((5, 4), max_iter=2).set_params(**{name: value})
        if not isinstance(value, tuple) or name == "hidden_layer_sizes":
            with pytest.raises((ValueError, TypeError)) as expected:
                theirs.fit(*DATA)
            assert caught.type is expected.type
            assert str(caught.value).startswith(str(expected.value))
    else:
        assert name.split("_")[0] in str(caught.value).lower() or repr(value) in str(caught.value)


THEIR_BAD = {
    "alpha": -1,
    "batch_size": 0,
    "learning_rate_init": 0,
    "power_t": -1,
    "max_iter": 0,
    "shuffle": "yes",
    "random_state": "seed",
    "tol": -1,
    "verbose": -1,
    "warm_start": "yes",
    "momentum": 1.1,
    "nesterovs_momentum": "x",
    "early_stopping": 3,
    "validation_fraction": 1.0,
    "beta_1": 1.0,
    "beta_2": -1,
    "epsilon": 0,
    "n_iter_no_change": 0,
    "max_fun": 0,
}


@pytest.mark.parametrize("pair", [(MLPClassifier, TheirClassifier), (MLPRegressor, TheirRegressor)])
@pytest.mark.parametrize("name", THEIR_BAD)
def test_their_errors(pair, name):
    messages = []
    for kind in pair:
        with pytest.raises(Exception) as caught:  # noqa: PT011
            kind(**{name: THEIR_BAD[name]}).fit(*DATA)
        messages.append((caught.type, str(caught.value)))
    assert messages[0] == messages[1]


BAD_DATA = [
    lambda X, y: (X, y[:-1], None),
    lambda X, y: (X[:0], y[:0], None),
    lambda X, y: (X[:, :0], y, None),
    lambda X, y: (X[0], y, None),
    lambda X, y: (np.full_like(X, np.nan), y, None),
    lambda X, y: (np.full_like(X, np.inf), y, None),
    lambda X, y: (X.astype(complex), y, None),
    lambda X, y: (X.astype(str).astype(object) + "x", y, None),
    lambda X, y: (X, None, None),
    lambda X, y: (X, np.full(len(y), np.nan), None),
    lambda X, y: (X, y, np.ones(3)),
    lambda X, y: (X, y, np.ones((len(y), 1))),
    lambda X, y: (X, y, np.full(len(y), np.nan)),
    lambda X, y: (X, y, "heavy"),
    lambda X, y: (X, np.stack([y, y + 2], axis=1)[:, :, None], None),
]


@pytest.mark.parametrize("pair", [(MLPClassifier, TheirClassifier), (MLPRegressor, TheirRegressor)])
@pytest.mark.parametrize("make", BAD_DATA)
@pytest.mark.filterwarnings("ignore")
def test_bad_data(pair, make):
    X, y, weights = make(*DATA)
    kinds = []
    for kind in pair:
        with pytest.raises((ValueError, TypeError)) as caught:
            kind(max_iter=2).fit(X, y, sample_weight=weights)
        kinds.append(caught.type)
    assert kinds[0] is kinds[1]


def test_classes_that_no_classifier_takes():
    X, _, y, _ = DIABETES
    for kind in (MLPClassifier, TheirClassifier):
        with pytest.raises(ValueError, match="Unknown label type"):
            kind().fit(X, y + 0.5)


def test_what_lbfgs_does_not_do():
    X, Xv, y, yv = DIGITS
    refused = [
        ({"penalty": "l1"}, "penalty='l1'"),
        ({"dropout": 0.1}, "dropout"),
        ({"batch_norm": True}, "batch_norm"),
    ]
    for options, word in refused:
        with pytest.raises(ValueError, match=f"{word} needs a stochastic solver"):
            MLPClassifier(solver="lbfgs", **options).fit(X, y)
    with pytest.raises(ValueError, match="validation_data needs a stochastic solver"):
        MLPClassifier(solver="lbfgs").fit(X, y, validation_data=(Xv, yv))
    assert not hasattr(MLPRegressor(solver="lbfgs"), "partial_fit")
    assert not hasattr(MLPClassifier(solver="lbfgs"), "partial_fit")


def test_warnings_of_convergence():
    X, _, y, _ = DIGITS
    with pytest.warns(ConvergenceWarning, match=r"Maximum iterations \(2\) reached"):
        MLPClassifier(max_iter=2).fit(X, y)
    with pytest.warns(ConvergenceWarning, match="lbfgs failed to converge after 2"):
        MLPClassifier(max_iter=2, solver="lbfgs").fit(X, y)


# ---- from there and to a network


@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
@pytest.mark.parametrize("task", ["binary", "classes", "labels", "regression", "poisson", "outputs"])
def test_from_sklearn_and_to_network(task, activation):
    X, Xv, y, _ = {"binary": CANCER, "classes": DIGITS}.get(task, DIABETES)
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


def test_from_sklearn_refuses():
    with pytest.raises(TypeError, match="from_sklearn takes a fitted MLPClassifier or MLPRegressor"):
        from_sklearn(Ridge())
    with pytest.raises(NotFittedError):
        from_sklearn(TheirClassifier())


def test_coefs_are_what_predicts():
    X, _, y, _ = DIABETES
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
