"""The estimators after errors and changed parameters, and with unusual weights and labels."""

import os
import pickle
import signal
import threading
import warnings

import numpy as np
import pytest
import scipy.sparse
import sklearn.neural_network as theirs
from sklearn.datasets import make_classification, make_multilabel_classification
from sklearn.exceptions import ConvergenceWarning, NotFittedError

import bpfast as bp
import bpfast.sklearn as ours
from bpfast.sklearn import MLPClassifier, MLPRegressor, from_sklearn

X, y = make_classification(120, 6, n_classes=3, n_informative=4, random_state=0)
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


class Raise(bp.Callback):
    """Raises an error after a number of epochs."""

    def __init__(self, error, epoch=2):
        self.error, self.epoch = error, epoch

    def on_epoch_end(self, network, history):
        if len(history) == self.epoch:
            raise self.error


def state(est):
    """Everything that a fit may change."""
    return pickle.dumps(
        {name: value for name, value in vars(est).items() if name not in ("_held", "callbacks")}
    )


@pytest.mark.parametrize("module", [theirs, ours])
def test_partial_fit_continues_after_bad_data(module):
    """The optimizer's moments survive a call that raises an error."""
    straight = module.MLPClassifier(random_state=0)
    stumbling = module.MLPClassifier(random_state=0)
    for call in range(4):
        straight.partial_fit(X, y, classes=[0, 1, 2])
        stumbling.partial_fit(X, y, classes=[0, 1, 2])
        if call == 1:
            with pytest.raises(ValueError, match="NaN"):
                stumbling.partial_fit(np.full_like(X, np.nan), y)
    assert stumbling.loss_curve_ == straight.loss_curve_


@pytest.mark.parametrize("options", [{}, {"dropout": 0.3}, {"batch_norm": True}], ids=str)
def test_partial_fit_continues_after_an_error_in_a_callback(options):
    straight = MLPClassifier(random_state=0, shuffle=False, **options)
    stumbling = MLPClassifier(random_state=0, shuffle=False, **options)
    for call in range(4):
        straight.partial_fit(X, y, classes=[0, 1, 2])
        stumbling.partial_fit(X, y, classes=[0, 1, 2])
        if call == 1:
            stumbling.callbacks = [Raise(RuntimeError("no"), epoch=1)]
            with pytest.raises(RuntimeError, match="no"):
                stumbling.partial_fit(X, y)
            stumbling.callbacks = None
    assert stumbling.loss_curve_ == straight.loss_curve_


@pytest.mark.parametrize("warm_start", [False, True])
@pytest.mark.parametrize(
    ("solver", "error", "batch_norm"),
    [
        ("adam", RuntimeError, False),
        ("adam", RuntimeError, True),
        ("adam", SystemExit, False),
        ("lbfgs", RuntimeError, False),
        ("lbfgs", KeyboardInterrupt, False),
    ],
)
def test_an_error_restores_the_previous_state(solver, error, batch_norm, warm_start):
    est = MLPClassifier(random_state=0, max_iter=5, warm_start=warm_start, batch_norm=batch_norm).fit(X, y)
    est.set_params(solver=solver, callbacks=[Raise(error("no"))])
    before, predicted = state(est), est.predict_proba(X)
    with pytest.raises(error):
        est.fit(X[::-1], y[::-1])
    assert state(est) == before
    assert (est.predict_proba(X) == predicted).all()


def test_an_interrupt_keeps_completed_epochs():
    est = MLPClassifier(random_state=0, max_iter=10**7, tol=0, n_iter_no_change=10**7)
    timer = threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.warns(UserWarning, match="interrupted") as caught:
        est.fit(X, y)
    timer.join()
    assert caught[0].filename == __file__
    assert est.score(X, y) > 0.6


@pytest.mark.parametrize("kind", ["MLPClassifier", "MLPRegressor"])
@pytest.mark.parametrize("activation", ["logistic", "tanh"])
def test_initial_weights_without_hidden_layers_depend_on_the_activation(kind, activation):
    options = {"hidden_layer_sizes": (), "activation": activation, "random_state": 0, "max_iter": 3}
    pair = [getattr(module, kind)(**options) for module in (theirs, ours)]
    curves = [est.fit(X, y).loss_curve_ for est in pair]
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-10)


def test_a_converted_estimator_restores_its_best_weights():
    fitted = theirs.MLPClassifier(random_state=0, max_iter=30, early_stopping=True, warm_start=True).fit(X, y)
    est = from_sklearn(fitted).set_params(max_iter=1, learning_rate_init=10.0, tol=0)
    est.best_validation_score_ = 1.0
    est.fit(X, y)
    for mine, wanted in zip(est.coefs_, fitted.coefs_, strict=True):
        assert (mine == wanted).all()


@pytest.mark.parametrize("weight", [-1.0, np.nan, np.inf])
def test_class_weights_are_checked(weight):
    with pytest.raises(ValueError, match="class_weight contains"):
        MLPClassifier(class_weight={0: weight}).fit(X, y)
    with pytest.raises(ValueError, match="class_weight is all 0"):
        MLPClassifier(class_weight={0: 0, 1: 0, 2: 0}).fit(X, y)


@pytest.mark.parametrize(
    "changed", [{"hidden_layer_sizes": (7, 4)}, {"alpha": -1}, {"solver": "none"}, {"learning_rate_init": 0}]
)
def test_predictions_do_not_check_parameters_of_fit(changed):
    """Only parameters that predictions depend on matter after unpickling."""
    est = MLPClassifier((5,), random_state=0, max_iter=2).fit(X, y)
    again = pickle.loads(pickle.dumps(est.set_params(**changed)))
    assert (again.predict_proba(X) == est.predict_proba(X)).all()


def test_activations_for_a_different_number_of_layers():
    est = MLPClassifier((5,), ("relu",), random_state=0, max_iter=2).fit(X, y)
    est = pickle.loads(pickle.dumps(est.set_params(activation=("relu", "tanh"))))
    with pytest.raises(ValueError, match=r"activation must have one entry per hidden layer \(1\); got 2"):
        est.predict(X)


@pytest.mark.parametrize("module", [theirs, ours])
@pytest.mark.parametrize("container", [scipy.sparse.csr_matrix, scipy.sparse.lil_matrix, np.asarray])
def test_sparse_labels(module, container):
    X, y = make_multilabel_classification(80, 6, n_classes=4, random_state=0)
    est = module.MLPClassifier(random_state=0, max_iter=20).fit(X, container(y))
    dense = module.MLPClassifier(random_state=0, max_iter=20).fit(X, y).predict(X)
    for each in (est, from_sklearn(est) if module is theirs else est):
        found = each.predict(X)
        assert scipy.sparse.issparse(found) == (container is not np.asarray)
        assert ((found.toarray() if scipy.sparse.issparse(found) else found) == dense).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [({}, "Maximum iterations"), ({"solver": "lbfgs"}, "lbfgs"), ({"batch_size": 1000}, "batch_size")],
)
def test_warnings_point_to_the_call_of_fit(options, message):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        MLPClassifier(max_iter=1, **options).fit(X, y)
    found = [each for each in caught if message in str(each.message)]
    assert [each.filename for each in found] == [__file__]


def test_an_exponent_at_its_cap():
    """The held-out loss is infinite; lbfgs cannot start from an infinite loss."""
    signs = (X[:, 0] > 0).astype(int)
    est = MLPClassifier(loss="exponential", max_iter=3, random_state=0)
    est.fit(X, signs, validation_data=(1e9 * X, 1 - signs))
    assert est.validation_loss_curve_ == [np.inf] * 3
    for est in (MLPClassifier(loss="exponential", solver="lbfgs"), MLPRegressor("poisson", solver="lbfgs")):
        with pytest.raises(ValueError, match="non-finite"):
            est.fit(1e9 * X, signs)


def test_the_moments_are_reset_after_a_divergence():
    est = MLPRegressor(
        solver="sgd", learning_rate_init=0.5, early_stopping=True, random_state=0, warm_start=True
    )
    with pytest.warns(ConvergenceWarning, match="no longer finite"):
        est.fit(100 * X, 1000.0 * y)
    est.set_params(learning_rate_init=1e-9, max_iter=2, keep_optimizer=True).fit(100 * X, 1000.0 * y)
    assert np.isfinite(est.loss_curve_[-2:]).all()


def test_on_fit_end_is_called_for_every_begun_callback():
    class Count(bp.Callback):
        ended = 0

        def on_fit_end(self, network, history):
            self.ended += 1

    class Refuse(bp.Callback):
        def on_fit_begin(self, network, history):
            raise RuntimeError("no")

    for solver in ("adam", "lbfgs"):
        first, last = Count(), Count()
        with pytest.raises(RuntimeError, match="no"):
            MLPClassifier(solver=solver, callbacks=[first, Refuse(), last]).fit(X, y)
        assert (first.ended, last.ended) == (1, 0)


def test_changed_learning_rates_between_calls():
    """A new optimizer or schedule applies; a changed learning_rate_init does not, as in scikit-learn."""
    est = MLPClassifier(solver=bp.SGD(0.1, momentum=0.9), random_state=0).partial_fit(X, y, classes=[0, 1, 2])
    est.set_params(solver=bp.SGD(0.01, momentum=0.9)).partial_fit(X, y)
    assert est.history_.learning_rate == [0.01]
    est.set_params(solver=bp.SGD(bp.StepDecay(0.5, every=1, factor=0.1), momentum=0.9)).partial_fit(X, y)
    assert est.history_.learning_rate == [0.5]
    assert est.partial_fit(X, y).history_.learning_rate == pytest.approx([0.05])
    named = [module.MLPClassifier(solver="sgd", random_state=0) for module in (ours, theirs)]
    for one in named:
        one.partial_fit(X, y, classes=[0, 1, 2]).set_params(learning_rate_init=0.5).partial_fit(X, y)
    np.testing.assert_allclose(*(one.coefs_[0] for one in named), rtol=1e-9)


def test_changed_parameters_are_read_again():
    """Checked parameters are kept only until one of them changes."""
    est = MLPClassifier(random_state=0, max_iter=2).fit(X, y)
    with pytest.raises(ValueError, match="'alpha' parameter"):
        est.set_params(alpha=-1.0).fit(X, y)
    with pytest.raises(ValueError, match="'early_stopping' parameter"):
        est.set_params(alpha=1.0, early_stopping=1).fit(X, y)
    sizes = [5]
    est.set_params(early_stopping=False, hidden_layer_sizes=sizes).fit(X, y)
    sizes.append(4)
    assert [W.shape[1] for W in est.fit(X, y).coefs_] == [5, 4, 3]


def test_class_weights_do_not_apply_to_held_out_rows():
    options = {"early_stopping": True, "random_state": 0, "max_iter": 3}
    plain = MLPClassifier(**options).fit(X, y)
    uneven = MLPClassifier(class_weight={0: 1e-6, 1: 1.0, 2: 1.0}, **options).fit(X, y)
    assert {round(score * 12) for score in uneven.validation_scores_} <= set(range(13))
    assert all(score * 12 == pytest.approx(round(score * 12)) for score in uneven.validation_scores_)
    assert not (plain.coefs_[0] == uneven.coefs_[0]).all()


def test_the_score_can_be_monitored():
    stopping = bp.EarlyStopping("val_score", patience=3)
    est = MLPClassifier(early_stopping=True, random_state=0, callbacks=[stopping], n_iter_no_change=50).fit(
        X, y
    )
    assert est.history_.val_score == est.validation_scores_
    assert stopping.best == est.best_validation_score_
    assert est.n_iter_ == stopping.best_epoch + 4


def test_scorers():
    with pytest.raises(ValueError, match="scoring must be a scorer's name, 'loss' or a callable; got"):
        MLPClassifier(early_stopping=True, scoring=["accuracy", "f1_macro"]).fit(X, y)
    scored = MLPClassifier(early_stopping=True, scoring=lambda est, A, b: est.score(A, b), max_iter=2)
    assert len(scored.fit(X, y, sample_weight=np.ones(len(y))).validation_scores_) == 2


@pytest.mark.parametrize(("alias", "name"), [("mae", "absolute_error"), ("pinball", "quantile")])
def test_aliases(alias, name):
    one, other = (MLPRegressor(loss, random_state=0, max_iter=2).fit(X, y) for loss in (alias, name))
    assert (one.coefs_[0] == other.coefs_[0]).all()


@pytest.mark.parametrize("kind", [np.longdouble, np.float16, np.int32, object])
def test_predictions_of_other_dtypes(kind):
    for est in (MLPClassifier(random_state=0, max_iter=2).fit(X, y), MLPRegressor(max_iter=2).fit(X, y)):
        whole = np.round(X)
        assert (est.predict(whole.astype(kind)) == est.predict(whole)).all()


def test_float_arrays_get_the_same_checks():
    """Float arrays take a shorter path with the same results and the same errors."""
    est, expected = (module.MLPClassifier(random_state=0, max_iter=2).fit(X, y) for module in (ours, theirs))
    bad = X.copy()
    bad[3, 2] = np.nan
    for rows in (bad, X[:, :3], X[:0], X[0], X[None], X.astype(complex)):
        messages = []
        for each in (est, expected):
            with pytest.raises(ValueError) as caught:  # noqa: PT011
                each.predict(rows)
            messages.append(str(caught.value))
        assert messages[0] == messages[1]
    with pytest.raises(NotFittedError):
        MLPClassifier().predict(X)


def test_early_stopping_of_quantiles_uses_the_loss():
    """R² says little about the prediction of a quantile."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-3, 3, (2000, 1))
    goal = np.sin(x[:, 0]) + rng.normal(0, 0.2 + 0.1 * np.abs(x[:, 0]))
    options = {"hidden_layer_sizes": (50, 50), "random_state": 0, "max_iter": 300, "early_stopping": True}
    low, high = (MLPRegressor(bp.Quantile(q), **options).fit(x, goal) for q in (0.05, 0.95))
    assert np.mean((low.predict(x) < goal) & (goal < high.predict(x))) == pytest.approx(0.9, abs=0.04)
    assert low.validation_scores_ == [-loss for loss in low.validation_loss_curve_]
    by_loss = MLPClassifier(early_stopping=True, scoring="loss", max_iter=5, random_state=0).fit(X, y)
    assert by_loss.best_validation_score_ == -min(by_loss.validation_loss_curve_)


@pytest.mark.parametrize("kind", ["solver", "loss", "activation"])
def test_specification_classes_are_accepted(kind):
    given = {"solver": bp.Adagrad, "loss": bp.Huber, "activation": bp.GELU}[kind]
    one, other = (MLPRegressor(random_state=0, max_iter=2, **{kind: value}) for value in (given, given()))
    assert (one.fit(X, y).coefs_[0] == other.fit(X, y).coefs_[0]).all()


MISTAKES = [
    ({"solver": "rmspropp"}, "bpfast also takes sgd, adam, adamw, rmsprop"),
    ({"activation": "leakyrelu"}, "bpfast also takes identity, sigmoid"),
    ({"learning_rate": 0.01}, "pass a number as learning_rate_init"),
    ({"hidden_layer_sizes": (10.5,)}, "hidden_layer_sizes must contain integers; got 10.5"),
    ({"dropout": (0.1, 0.2)}, r"dropout must have one rate per hidden layer \(1\); got 2"),
    ({"batch_norm": "yes"}, "MLPClassifier: batch_norm must be True or False; got 'yes'"),
    ({"activation": ("relu", "tanh")}, r"activation must have one entry per hidden layer \(1\); got 2"),
    ({"class_weight": {0: 2, 77: 1}}, r"class_weight names 77, which is not one of the classes \[0 1 2\]"),
    ({"callbacks": [bp.ProgressBar]}, r"pass an object, ProgressBar\(...\), not the class"),
    ({"callbacks": [print]}, "derive it from bp.Callback"),
    ({"early_stopping": True, "scoring": "r2_score"}, "r2_score"),
    ({"early_stopping": True, "scoring": lambda est, A, b: None}, "failed on the held-out rows"),
    ({"learning_rate_init": 1e300, "solver": "sgd"}, "Or learning_rate_init is too large"),
    ({"n_jobs": 0}, "-2 for all but one"),
]


@pytest.mark.parametrize(("options", "said"), MISTAKES, ids=str)
def test_errors_name_the_mistake(options, said):
    with pytest.raises((ValueError, TypeError), match=said):
        MLPClassifier(**options).fit(X, y)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (X, "got ndarray"),
        ((X,), "got tuple of length 1"),
        ((X[:, :3], y), "validation_data: X has 3 features"),
        ((np.full_like(X, np.nan), y), "validation_data: Input X contains NaN"),
        ((X, y[:5]), "validation_data: Found input variables with inconsistent"),
        ((X, y + 1), "validation_data: y contains"),
        ((X, y, -np.ones(len(y))), "validation_data: sample_weight contains"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_errors_of_validation_data(given, said):
    with pytest.raises((ValueError, TypeError), match=said):
        MLPClassifier().fit(X, y, validation_data=given)


def test_repr_of_optimizers():
    assert repr(bp.SGD(0.1, momentum=0.9)) == "SGD(learning_rate=0.1, momentum=0.9, nesterov=False)"
    assert eval(repr(bp.WarmUp(0.1)), vars(bp)) == bp.WarmUp(0.1)
    assert "solver=SGD(learning_rate=0.1, momentum=0.0, nesterov=False)" in repr(
        MLPClassifier(solver=bp.SGD(0.1))
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_other_dtype(dtype):
    est = MLPClassifier(random_state=0, max_iter=2, dtype=dtype).fit(X, y)
    single = X.astype(np.float32)
    assert (est.predict_proba(single) == est.predict_proba(single.astype(float))).all()
    huge = np.full((1, 6), 1e300)
    if dtype == "float32":
        with pytest.raises(ValueError, match="too large for float32"):
            est.predict(huge)


def test_a_custom_loss():
    """squared_error of the estimator is half the squared error."""
    loss = bp.CustomLoss(lambda goal, Z: (0.5 * ((Z - goal) ** 2)[:, 0], Z - goal))
    one, other = (MLPRegressor(each, random_state=0, max_iter=3) for each in (loss, "squared_error"))
    np.testing.assert_allclose(one.fit(X, y).loss_curve_, other.fit(X, y).loss_curve_, rtol=1e-12)
