"""How training proceeds: held-out rows, scoring, incremental fits, callbacks, errors and interrupts."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import (
    balanced_accuracy_score,
    make_scorer,
)

import bpfast as bp
from bpfast.sklearn import MLPClassifier, MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def test_validation_data(digits, same_weights):
    X, Xv, y, yv = digits
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
def test_scoring(name, digits):
    X, Xv, y, yv = digits
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


def test_partial_fit_stops_early(cancer):
    X, Xv, y, yv = cancer
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
def test_keep_optimizer(solver, diabetes, same_weights):
    """Two warm fits equal one long fit if the rows come in the same order."""
    X, _, y, _ = diabetes
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


def test_callbacks(capsys, digits, same_weights):
    X, _, y, _ = digits
    watch = Watch(stop=3)
    est = MLPClassifier(random_state=0, callbacks=[watch, bp.ProgressBar()]).fit(X, y)
    assert (watch.epochs, watch.batches, watch.ends, est.n_iter_) == (3, 21, 1, 3)
    assert "3/200" in capsys.readouterr().err
    assert same_weights(est, MLPClassifier(random_state=0, max_iter=3).fit(X, y))
    stopping = bp.EarlyStopping(patience=3)
    est = MLPClassifier(random_state=0, callbacks=[stopping], learning_rate_init=0.01, n_iter_no_change=99)
    est.fit(X, y, validation_data=digits[1::2])
    assert est.n_iter_ == stopping.best_epoch + 4
    expected = -np.log(est.predict_proba(digits[1])[np.arange(len(digits[3])), digits[3]]).mean()
    assert expected == pytest.approx(min(est.validation_loss_curve_))
    lbfgs = MLPClassifier(solver="lbfgs", random_state=0, callbacks=[Watch(stop=4)]).fit(X, y)
    assert lbfgs.n_iter_ == 4


@pytest.mark.parametrize("warm", [False, True])
def test_an_error_leaves_the_estimator_unchanged(warm, digits, weights_of):
    X, Xv, y, _ = digits
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


def test_an_interrupt_keeps_completed_epochs(digits, same_weights):
    class Interrupts(bp.Callback):
        def on_epoch_end(self, network, history):
            if len(history) == 3:
                raise KeyboardInterrupt

    X, _, y, _ = digits
    with pytest.warns(UserWarning, match="Training interrupted by user"):
        est = MLPClassifier(random_state=0, callbacks=[Interrupts()]).fit(X, y)
    assert est.n_iter_ == 3
    assert same_weights(est, MLPClassifier(random_state=0, max_iter=3).fit(X, y))
