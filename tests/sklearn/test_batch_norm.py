"""batch_norm of the estimators: the formula, the running statistics, copies and pickles of them."""

import copy
import pickle

import numpy as np
import pytest
import scipy.sparse
from sklearn.datasets import load_diabetes, load_digits
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier as TheirClassifier

import bpfast as bp
from bpfast.sklearn import MLPClassifier, MLPRegressor, from_sklearn

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, y = load_digits(return_X_y=True)
X, XV, y, YV = X[:500] / 16, X[500:800] / 16, y[:500], y[500:800]
D, GOAL = load_diabetes(return_X_y=True)
D, GOAL = D / D.std(), (GOAL - 150) / 77
OPTIONS = {"hidden_layer_sizes": (24, 16), "batch_norm": True, "random_state": 0, "max_iter": 6}


def arrays(est):
    """All arrays that a prediction depends on."""
    return [*est.coefs_, *est.intercepts_, *(array for norm in est.batch_norms_ for array in norm)]


def bits(est):
    return [array.tobytes() for array in arrays(est)]


def by_hand(est, X, activation):
    """The raw outputs, computed with the running statistics."""
    for W, b, (gamma, beta, mean, variance) in zip(
        est.coefs_, est.intercepts_, est.batch_norms_, strict=False
    ):
        X = activation(gamma * (X @ W + b - mean) / np.sqrt(variance + 1e-5) + beta)
    return X @ est.coefs_[-1] + est.intercepts_[-1]


def relu(Z):
    return np.maximum(Z, 0)


@pytest.mark.parametrize(("name", "function"), [("relu", relu), ("tanh", np.tanh)])
def test_the_formula_of_predictions(name, function):
    est = MLPRegressor(activation=name, **OPTIONS).fit(D, GOAL)
    np.testing.assert_allclose(est.predict(D), by_hand(est, D, function)[:, 0], rtol=1e-10, atol=1e-12)
    assert [layer.name for layer in est.to_network().layers] == ["dense", "batch_norm", "activation"] * 2 + [
        "dense"
    ]
    assert [W.shape for W in est.coefs_] == [(10, 24), (24, 16), (16, 1)]
    assert [[a.shape for a in norm] for norm in est.batch_norms_] == [[(24,)] * 4, [(16,)] * 4]


def test_dropout_follows_the_activation():
    est = MLPClassifier((8, 4), batch_norm=True, dropout=(0.2, 0.0), max_iter=1).fit(X, y)
    each = ["dense", "batch_norm", "activation"]
    assert [layer.name for layer in est.to_network().layers] == [*each, "dropout", *each, "dense"]


def test_one_step_by_hand():
    """Initial weights are scikit-learn's; one batch moves the running statistics by a tenth."""
    still = {"solver": "sgd", "learning_rate_init": 1e-300, "max_iter": 1, "batch_size": len(X)}
    est, theirs = (
        kind(OPTIONS["hidden_layer_sizes"], random_state=0, **still)
        for kind in (MLPClassifier, TheirClassifier)
    )
    est.set_params(batch_norm=True).fit(X, y)
    theirs.fit(X, y)
    A = X
    for W, b, (gamma, beta, mean, variance), start in zip(
        est.coefs_, est.intercepts_, est.batch_norms_, theirs.coefs_, strict=False
    ):
        np.testing.assert_allclose(W, start, rtol=1e-12)
        Z = A @ W + b
        np.testing.assert_allclose(mean, 0.1 * Z.mean(axis=0), rtol=1e-10, atol=1e-14)
        np.testing.assert_allclose(variance, 0.9 + 0.1 * Z.var(axis=0, ddof=1), rtol=1e-10)
        assert (gamma == 1).all()
        assert np.abs(beta).max() < 1e-290
        A = relu((Z - Z.mean(axis=0)) / np.sqrt(Z.var(axis=0) + 1e-5))


def test_it_equals_a_network_with_these_layers():
    """Further epochs are bitwise identical to those of the network."""
    options = {**OPTIONS, "solver": bp.SGD(0.05, momentum=0.9), "shuffle": False, "alpha": 0}
    options.update(batch_size=50, hidden_layer_sizes=(24,))
    est = MLPClassifier(**options).fit(X, y)
    network = est.to_network()
    est.set_params(warm_start=True, max_iter=3).fit(X, y)
    network.fit(X, y, epochs=3, batch_size=50, optimizer=options["solver"], shuffle=False)
    for one, other in zip(arrays(est), arrays_of(network), strict=True):
        np.testing.assert_array_equal(one, other)
    assert (est.predict_proba(XV) == network.predict(XV)).all()


def arrays_of(network):
    """The arrays of a network with one hidden layer, in the order of `arrays`."""
    p, s = network.parameters, network.statistics
    norm = (p["1.gamma"], p["1.beta"], s["1.mean"], s["1.variance"])
    return [p["0.W"], p["3.W"], p["0.b"], p["3.b"], *norm]


def test_it_trains_deep_sigmoids():
    """Six layers of sigmoids, which do not train without batch_norm."""
    options = {"activation": "logistic", "random_state": 0, "max_iter": 60}
    plain, normalised = (
        MLPClassifier((32,) * 6, batch_norm=given, **options).fit(X, y).score(XV, YV)
        for given in (False, True)
    )
    assert plain < 0.2
    assert normalised > 0.8


@pytest.mark.parametrize("loss", ["hinge", "exponential"])
def test_margins(loss):
    est = MLPClassifier(loss=loss, **OPTIONS).fit(X, y)
    np.testing.assert_allclose(est.decision_function(XV), by_hand(est, XV, relu), rtol=1e-9, atol=1e-10)


def test_predictions_of_a_row_do_not_depend_on_other_rows():
    """Predictions use the running statistics and do not change them."""
    est = MLPClassifier(**OPTIONS).fit(X, y)
    before = bits(est)
    together = est.predict_proba(XV)
    np.testing.assert_allclose(
        np.vstack([est.predict_proba(row[None]) for row in XV[:9]]), together[:9], rtol=1e-12
    )
    est.score(XV, YV)
    assert bits(est) == before
    assert any((variance != 1).any() for _, _, _, variance in est.batch_norms_)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sparse_rows_give_identical_results(dtype):
    dense = MLPClassifier(dtype=dtype, **OPTIONS).fit(X, y)
    rows = scipy.sparse.csr_matrix(X)
    thin = MLPClassifier(dtype=dtype, **OPTIONS).fit(rows, y)
    assert bits(thin) == bits(dense)
    assert {array.dtype for array in arrays(dense)} == {np.dtype(dtype)}
    assert (thin.predict_proba(rows) == dense.predict_proba(X)).all()


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_results_do_not_depend_on_threads(dropout):
    fits = [MLPClassifier(n_jobs=n, dropout=dropout, **OPTIONS).fit(X, y) for n in (1, 2, None)]
    assert bits(fits[0]) == bits(fits[1]) == bits(fits[2])
    before = fits[0].predict_proba(XV)
    assert (fits[0].set_params(n_jobs=2).predict_proba(XV) == before).all()


def test_weights_of_rows():
    """They affect the loss, but not the statistics."""
    still = {"solver": "sgd", "learning_rate_init": 1e-300, "max_iter": 1}
    weights = np.random.default_rng(0).uniform(0, 2, len(X))
    plain, weighted = MLPClassifier(**{**OPTIONS, **still}), MLPClassifier(**{**OPTIONS, **still})
    plain.fit(X, y)
    weighted.fit(X, y, sample_weight=weights)
    for (*_, mean, variance), (*_, other_mean, other_variance) in zip(
        plain.batch_norms_, weighted.batch_norms_, strict=True
    ):
        assert (mean == other_mean).all()
        assert (variance == other_variance).all()
    assert plain.loss_ != weighted.loss_
    less = MLPClassifier(**{**OPTIONS, "max_iter": 40, "batch_size": 50})
    assert (less.fit(X, y, sample_weight=(y != 3).astype(float)).predict(X) != 3).all()


def test_without_hidden_layers_it_has_no_effect():
    options = {"hidden_layer_sizes": (), "random_state": 0, "max_iter": 3}
    one, other = (MLPClassifier(batch_norm=given, **options).fit(X, y) for given in (False, True))
    assert bits(one) == bits(other)
    assert one.batch_norms_ == other.batch_norms_ == []


def test_the_best_weights_are_restored_with_their_statistics():
    options = {**OPTIONS, "max_iter": 80, "n_iter_no_change": 4, "learning_rate_init": 0.02}
    est = MLPClassifier(early_stopping=True, scoring="loss", **options).fit(X, y, validation_data=(XV, YV))
    assert est.n_iter_ < 80
    loss = -np.log(est.predict_proba(XV)[np.arange(len(YV)), YV]).mean()
    assert loss == pytest.approx(min(est.validation_loss_curve_), rel=1e-12)
    assert np.argmin(est.validation_loss_curve_) < est.n_iter_ - 1
    parts = MLPClassifier(early_stopping=True, scoring="loss", **options)
    while not hasattr(parts, "should_stop_") or not parts.should_stop_:
        parts.partial_fit(X, y, classes=range(10), validation_data=(XV, YV))
    loss = -np.log(parts.predict_proba(XV)[np.arange(len(YV)), YV]).mean()
    assert loss == pytest.approx(min(parts.validation_loss_curve_), rel=1e-12)


def test_the_callback_also_restores_the_statistics():
    stopping = bp.EarlyStopping(patience=3)
    est = MLPClassifier(**{**OPTIONS, "max_iter": 80, "learning_rate_init": 0.02}, callbacks=[stopping])
    est.fit(X, y, validation_data=(XV, YV))
    assert est.n_iter_ == stopping.best_epoch + 4 < 80
    loss = -np.log(est.predict_proba(XV)[np.arange(len(YV)), YV]).mean()
    assert loss == pytest.approx(stopping.best, rel=1e-12)


def test_scorers_use_the_running_statistics():
    options = {**OPTIONS, "early_stopping": True}
    scored = [
        MLPClassifier(scoring=scoring, **options).fit(X, y).validation_scores_
        for scoring in (None, "accuracy", lambda est, A, b: est.score(A, b))
    ]
    assert scored[0] == pytest.approx(scored[1])
    assert scored[0] == pytest.approx(scored[2])


@pytest.mark.parametrize("rebuilt", [False, True])
def test_two_warm_fits_equal_one_long_fit(rebuilt):
    options = {**OPTIONS, "shuffle": False, "warm_start": True, "keep_optimizer": True}
    whole = MLPRegressor(**{**options, "max_iter": 8}).fit(D, GOAL)
    parts = MLPRegressor(**{**options, "max_iter": 4}).fit(D, GOAL)
    if rebuilt:
        parts = pickle.loads(pickle.dumps(parts)).set_params(n_jobs=1)
    assert bits(parts.fit(D, GOAL)) == bits(whole)
    assert parts.loss_curve_ == whole.loss_curve_


def test_partial_fit_equals_one_epoch():
    whole = MLPRegressor(**{**OPTIONS, "shuffle": False, "max_iter": 5}).fit(D, GOAL)
    parts = MLPRegressor(**{**OPTIONS, "shuffle": False})
    for _ in range(5):
        parts.partial_fit(D, GOAL)
    assert bits(parts) == bits(whole)


@pytest.mark.parametrize("before", [False, True])
def test_the_parameter_applies_from_the_next_new_fit(before):
    """As for `hidden_layer_sizes`, predictions and warm starts use the fitted layers."""
    est = MLPClassifier(**{**OPTIONS, "batch_norm": before}).fit(X, y)
    expected = est.predict_proba(XV)
    for copied in (est, copy.deepcopy(est)):
        copied.set_params(batch_norm=not before)
        assert (copied.predict_proba(XV) == expected).all()
        copied.partial_fit(X, y)
        copied.set_params(warm_start=True).fit(X, y)
        assert len(copied.batch_norms_) == 2 * before
    est.set_params(warm_start=False).fit(X, y)
    assert bits(est) == bits(MLPClassifier(**{**OPTIONS, "batch_norm": not before}).fit(X, y))


def test_predictions_follow_changed_arrays():
    est = MLPRegressor(**{**OPTIONS, "hidden_layer_sizes": (24,)}).fit(D, GOAL)
    gamma, beta, mean, _ = est.batch_norms_[0]
    gamma[...] = 0
    beta[...] = 1
    expected = est.coefs_[1].sum() + est.intercepts_[1][0]
    np.testing.assert_allclose(est.predict(D), expected, rtol=1e-12)
    est.batch_norms_ = [(np.ones(24), beta.copy(), mean + 1, np.full(24, 2.0))]
    np.testing.assert_allclose(est.predict(D), by_hand(est, D, relu)[:, 0], rtol=1e-10)
    est.batch_norms_[0] = (np.ones(24), np.zeros(24), np.zeros(24), np.full(24, 1 - 1e-5))
    plain = relu(D @ est.coefs_[0] + est.intercepts_[0]) @ est.coefs_[1] + est.intercepts_[1]
    np.testing.assert_allclose(est.predict(D), plain[:, 0], rtol=1e-10)
    est.batch_norms_ = []
    np.testing.assert_allclose(est.predict(D), plain[:, 0], rtol=1e-10)
    est.batch_norms_ = [(gamma, beta, mean, mean)] * 2
    with pytest.raises(ValueError, match=r"batch_norms_ must have one entry per hidden layer \(1\); got 2"):
        est.predict(D)


def test_to_network_is_independent():
    est = MLPClassifier(**OPTIONS).fit(X, y)
    network, expected = est.to_network(), est.predict_proba(XV)
    assert (network.predict(XV) == expected).all()
    network.fit(X, y, epochs=1)
    assert (est.predict_proba(XV) == expected).all()
    for array in network.statistics.values():
        array[...] = 1
    assert (est.predict_proba(XV) == expected).all()


def test_a_converted_estimator_has_none():
    theirs = TheirClassifier((24,), random_state=0, max_iter=2).fit(X, y)
    est = from_sklearn(theirs).set_params(batch_norm=True)
    assert est.batch_norms_ == []
    np.testing.assert_allclose(est.predict_proba(XV), theirs.predict_proba(XV), rtol=1e-10)
    assert len(est.fit(X, y).batch_norms_) == 1


def test_grid_search():
    """The values of a grid may be NumPy booleans."""
    grid = {"batch_norm": np.array([False, True])}
    search = GridSearchCV(MLPClassifier((16,) * 5, "logistic", random_state=0, max_iter=30), grid, cv=2)
    assert search.fit(X, y).best_params_ == {"batch_norm": True}
    assert len(search.best_estimator_.batch_norms_) == 5


class Fails(bp.Callback):
    def on_batch_end(self, network, batch, loss):
        if batch == 2:
            raise KeyError("pruned")


@pytest.mark.parametrize("call", ["fit", "warm", "partial_fit"])
@pytest.mark.parametrize("held", [True, False])
def test_an_error_leaves_the_estimator_unchanged(call, held):
    est = MLPClassifier(**OPTIONS).fit(X, y)
    if not held:
        est = pickle.loads(pickle.dumps(est))
    expected, before, objects = est.predict_proba(XV), bits(est), arrays(est)
    est.set_params(callbacks=[Fails()], warm_start=call == "warm", batch_size=50)
    with pytest.raises(KeyError, match="pruned"):
        getattr(est, call.replace("warm", "fit"))(X[::-1], y[::-1])
    assert bits(est) == before
    assert all(a is b for a, b in zip(arrays(est), objects, strict=True))
    assert (est.predict_proba(XV) == expected).all()
    est.set_params(callbacks=None, warm_start=False, batch_size="auto")
    assert bits(est.partial_fit(X, y)) == bits(MLPClassifier(**OPTIONS).fit(X, y).partial_fit(X, y))


def test_a_failed_first_fit_leaves_no_attributes():
    est = MLPClassifier(callbacks=[Fails()], **{**OPTIONS, "batch_size": 50})
    with pytest.raises(KeyError):
        est.fit(X, y)
    assert [name for name in vars(est) if name.endswith("_")] == []


def test_lbfgs_does_not_support_a_warm_start_with_batch_norm():
    message = "batch_norm needs a stochastic solver, such as 'adam'; got solver='lbfgs'"
    est = MLPClassifier(**OPTIONS).fit(X, y)
    before = bits(est)
    for options in ({}, {"batch_norm": False, "warm_start": True}):
        with pytest.raises(ValueError, match=message):
            est.set_params(solver="lbfgs", **options).fit(X, y)
        assert bits(est) == before
    assert est.set_params(warm_start=False).fit(X, y).batch_norms_ == []
