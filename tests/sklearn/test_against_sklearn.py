"""The same training in scikit-learn: its MLP step by step, its linear models at the minimum."""

import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import ElasticNet, Lasso, LogisticRegression, Ridge
from sklearn.metrics import accuracy_score, log_loss, r2_score
from sklearn.neural_network import MLPClassifier, MLPRegressor

import bpfast as bp

ROWS, INPUTS = 24, 5
ACTIVATIONS = {"logistic": "sigmoid", "tanh": "tanh", "relu": "relu", "identity": "identity"}
SOLVERS = {
    "sgd": (bp.SGD(0.05), {"solver": "sgd", "momentum": 0.0}),
    "momentum": (
        bp.SGD(0.05, momentum=0.9),
        {"solver": "sgd", "momentum": 0.9, "nesterovs_momentum": False},
    ),
    "nesterov": (
        bp.SGD(0.05, momentum=0.9, nesterov=True),
        {"solver": "sgd", "momentum": 0.9, "nesterovs_momentum": True},
    ),
    "adam": (bp.Adam(0.05, epsilon=1e-3, epsilon_hat=True), {"solver": "adam", "epsilon": 1e-3}),
}


def scaled(optimizer, factor):
    """The same optimizer with another learning rate."""
    config = {key: value for key, value in optimizer.config().items() if key != "name"}
    return type(optimizer)(**{**config, "learning_rate": factor * optimizer.schedule.rate(0.0)})


def train(estimator, net, X, y, epochs):
    """Train the estimator from the network's weights; return its weights by the names of bpfast."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        estimator.set_params(max_iter=1, warm_start=True).fit(X, y)  # makes its arrays
        for layer in range(len(estimator.coefs_)):
            estimator.coefs_[layer] = net.parameters[f"{layer}.W"].copy()
            estimator.intercepts_[layer] = net.parameters[f"{layer}.b"].copy()
        estimator.set_params(max_iter=epochs).fit(X, y)
    weights = {f"{layer}.W": array for layer, array in enumerate(estimator.coefs_)}
    return weights | {f"{layer}.b": array for layer, array in enumerate(estimator.intercepts_)}


def estimator_of(kind, activation, options, batch_size, alpha=0.0):
    return kind(
        hidden_layer_sizes=(6, 4),
        activation=activation,
        alpha=alpha,
        batch_size=batch_size,
        learning_rate_init=0.05,
        shuffle=False,
        n_iter_no_change=1000,
        **options,
    )


over_activations = pytest.mark.parametrize("activation", ACTIVATIONS)
over_solvers = pytest.mark.parametrize("solver", SOLVERS)
over_batches = pytest.mark.parametrize("batch_size", [ROWS, 7])


@over_activations
@over_solvers
@over_batches
@pytest.mark.parametrize("outputs", [1, 3])
def test_regressor(build, error, rng, activation, solver, batch_size, outputs):
    X, y = rng.normal(size=(ROWS, INPUTS)), rng.normal(size=(ROWS, outputs))
    optimizer, options = SOLVERS[solver]
    net = build((INPUTS, 6, 4, outputs), ACTIVATIONS[activation])
    estimator = estimator_of(MLPRegressor, activation, options, batch_size)
    expected = train(estimator, net, X, y if outputs > 1 else y[:, 0], epochs=10)
    # The gradient of scikit-learn is Σ (z - y) / B, that of bpfast 2 (z - y) / (B O).
    factor = outputs / 2
    if solver == "adam":
        # For Adam the factor only matters relative to ε.
        optimizer, factor = bp.Adam(0.05, epsilon=1e-3 / factor, epsilon_hat=True), 1.0
    net.fit(X, y, epochs=10, batch_size=batch_size, shuffle=False, optimizer=scaled(optimizer, factor))
    for name, array in net.parameters.items():
        assert error(array, expected[name]) <= 1e-10, name
    assert error(net.predict(X), estimator.predict(X).reshape(ROWS, outputs)) <= 1e-10


@over_activations
@over_solvers
@over_batches
@pytest.mark.parametrize("classes", [2, 3])
def test_classifier(build, error, rng, activation, solver, batch_size, classes):
    X, y = rng.normal(size=(ROWS, INPUTS)), np.arange(ROWS) % classes
    optimizer, options = SOLVERS[solver]
    outputs, loss = (1, "log_loss") if classes == 2 else (classes, "cross_entropy")
    net = build((INPUTS, 6, 4, outputs), ACTIVATIONS[activation], loss)
    estimator = estimator_of(MLPClassifier, activation, options, batch_size)
    expected = train(estimator, net, X, y, epochs=10)
    history = net.fit(X, y, epochs=10, batch_size=batch_size, shuffle=False, optimizer=optimizer)
    for name, array in net.parameters.items():
        assert error(array, expected[name]) <= 1e-10, name
    P = estimator.predict_proba(X)
    assert error(net.predict(X), P[:, 1:] if classes == 2 else P) <= 1e-10
    assert history.loss == pytest.approx(estimator.loss_curve_[-10:], rel=1e-10)
    assert net.loss(X, y) == pytest.approx(log_loss(y, P), rel=1e-10)


@over_solvers
def test_l2_penalty_and_alpha(build, error, rng, solver):
    """The penalty of scikit-learn is ½ α ‖W‖² divided by the rows of the batch."""
    X, y = rng.normal(size=(ROWS, INPUTS)), np.arange(ROWS) % 3
    optimizer, options = SOLVERS[solver]
    net = build((INPUTS, 6, 4, 3), "tanh", "cross_entropy")
    estimator = estimator_of(MLPClassifier, "tanh", options, 8, alpha=2.0)
    expected = train(estimator, net, X, y, epochs=10)
    net.fit(X, y, epochs=10, batch_size=8, shuffle=False, optimizer=optimizer, penalty=bp.L2(2.0 / 8))
    for name, array in net.parameters.items():
        assert error(array, expected[name]) <= 1e-10, name


def test_sample_weights_of_the_classifier(build, error, rng):
    """With weights whose mean is 1, dividing by B as scikit-learn does equals dividing by Σ w."""
    X, y, w = rng.normal(size=(ROWS, INPUTS)), np.arange(ROWS) % 3, rng.random(ROWS)
    w *= ROWS / w.sum()
    net = build((INPUTS, 6, 4, 3), "tanh", "cross_entropy")
    before = {name: array.copy() for name, array in net.parameters.items()}
    unweighted = build((INPUTS, 6, 4, 3), "tanh", "cross_entropy")
    estimator = estimator_of(MLPClassifier, "tanh", SOLVERS["sgd"][1], ROWS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        estimator.set_params(max_iter=1, warm_start=True).fit(X, y)
        estimator.coefs_ = [before[f"{layer}.W"].copy() for layer in range(3)]
        estimator.intercepts_ = [before[f"{layer}.b"].copy() for layer in range(3)]
        estimator.set_params(max_iter=5).fit(X, y, sample_weight=w)
    options = {"epochs": 5, "batch_size": None, "optimizer": bp.SGD(0.05)}
    net.fit(X, y, sample_weight=w, **options)
    unweighted.fit(X, y, **options)
    for layer in range(3):
        assert error(net.parameters[f"{layer}.W"], estimator.coefs_[layer]) <= 1e-10
        assert error(net.parameters[f"{layer}.W"], unweighted.parameters[f"{layer}.W"]) > 1e-5


@pytest.fixture
def line(rng):
    X = rng.normal(size=(80, 6))
    return X, X @ np.array([1.0, -2.0, 0.0, 0.0, 0.5, 0.0]) + 0.7 + 0.3 * rng.normal(size=80)


def one_layer(backend, loss, X, y, penalty, outputs=1, rate=0.1, momentum=0.5):
    net = bp.Network([bp.Dense(outputs)], n_inputs=X.shape[1], loss=loss, dtype="float64", backend=backend)
    net.fit(X, y, epochs=600, batch_size=None, optimizer=bp.SGD(rate, momentum), penalty=penalty)
    return net.parameters["0.W"].T, net.parameters["0.b"]


@pytest.mark.parametrize("alpha", [0.0, 0.1, 2.0])
def test_ridge(backend, line, alpha):
    X, y = line
    W, b = one_layer(backend, "squared_error", X, y, bp.L2(alpha))
    model = Ridge(alpha=len(X) * alpha / 2, solver="cholesky").fit(X, y)  # n times the objective of bpfast
    assert W[0] == pytest.approx(model.coef_, abs=1e-9)
    assert b[0] == pytest.approx(model.intercept_, abs=1e-9)


#: The minimum of mean loss + α Ω(W) is where it is, whatever finds it.
over_momenta = pytest.mark.parametrize("momentum", [0.0, 0.5])


@over_momenta
@pytest.mark.parametrize("alpha", [0.02, 0.3, 1.5])
def test_lasso(backend, line, alpha, momentum):
    X, y = line
    W, b = one_layer(backend, "squared_error", X, y, bp.L1(alpha), momentum=momentum)
    model = Lasso(alpha=alpha / 2, tol=1e-14, max_iter=100_000).fit(X, y)  # half our objective
    assert W[0] == pytest.approx(model.coef_, abs=1e-8)
    assert (W[0] == 0).tolist() == (model.coef_ == 0).tolist()
    assert b[0] == pytest.approx(model.intercept_, abs=1e-8)


@over_momenta
def test_elastic_net(backend, line, momentum):
    X, y = line
    W, b = one_layer(backend, "squared_error", X, y, bp.ElasticNet(0.4, l1_ratio=0.6), momentum=momentum)
    model = ElasticNet(alpha=0.2, l1_ratio=0.6, tol=1e-14, max_iter=100_000).fit(X, y)
    assert W[0] == pytest.approx(model.coef_, abs=1e-8)
    assert (W[0] == 0).tolist() == (model.coef_ == 0).tolist()
    assert b[0] == pytest.approx(model.intercept_, abs=1e-8)


def test_logistic_regression(backend, line):
    X, y = line[0], (line[1] > 0.5).astype(int)
    W, b = one_layer(backend, "log_loss", X, y, bp.L2(0.05), rate=0.5)
    model = LogisticRegression(C=1 / (len(X) * 0.05), tol=1e-12, max_iter=10_000).fit(X, y)
    assert W[0] == pytest.approx(model.coef_[0], abs=1e-5)
    assert b[0] == pytest.approx(model.intercept_[0], abs=1e-5)


def test_multinomial_regression(backend, line):
    X, y = line[0], np.digitize(line[1], [-0.5, 1.5])
    weights, b = one_layer(backend, "cross_entropy", X, y, bp.L2(0.05), outputs=3, rate=0.5)
    model = LogisticRegression(C=1 / (len(X) * 0.05), tol=1e-12, max_iter=10_000).fit(X, y)
    assert weights == pytest.approx(model.coef_, abs=1e-5)
    # A constant added to every intercept does not change the probabilities.
    assert b - b.mean() == pytest.approx(model.intercept_ - model.intercept_.mean(), abs=1e-5)


@pytest.mark.parametrize("weighted", [False, True])
def test_validation_metrics(build, rng, weighted):
    X, w = rng.normal(size=(30, 3)), rng.random(30) if weighted else None
    weights = () if w is None else (w,)
    classes, values = rng.integers(0, 3, 30), rng.normal(size=(30, 2))
    labels, counts = rng.integers(0, 2, 30), rng.poisson(3.0, (30, 2))
    signs = rng.choice([-1.0, 1.0], 30)

    def last(net, y, column):
        return net.fit(X, y, epochs=2, validation=(X, y, *weights))[column][-1]

    net = build((3, 4, 3), loss="cross_entropy")
    right = last(net, classes, "val_accuracy")
    assert right == pytest.approx(accuracy_score(classes, net.predict(X).argmax(1), sample_weight=w))
    net = build((3, 4, 1), loss="log_loss")
    right = last(net, labels, "val_accuracy")
    assert right == pytest.approx(accuracy_score(labels, net.predict(X)[:, 0] > 0.5, sample_weight=w))
    net = build((3, 4, 1), loss="hinge")
    right = last(net, signs, "val_accuracy")
    assert right == pytest.approx(accuracy_score(signs, np.sign(net.predict(X)[:, 0]), sample_weight=w))
    for loss, y in (("squared_error", values), ("poisson", counts)):
        net = build((3, 4, 2), loss=loss)
        r2 = last(net, y, "val_r2")
        assert r2 == pytest.approx(r2_score(y, net.predict(X), sample_weight=w), rel=1e-12)
