"""Errors and warnings about parameters and data."""

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier as TheirClassifier
from sklearn.neural_network import MLPRegressor as TheirRegressor

import bpfast as bp
from bpfast.sklearn import MLPClassifier, MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


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
def test_bad_parameters(name, value, cancer):
    est = MLPClassifier((5, 4), early_stopping=True, max_iter=2).set_params(**{name: value})
    with pytest.raises((ValueError, TypeError)) as caught:
        est.fit(*cancer[::2])
    assert not hasattr(est, "coefs_")
    if name in TheirClassifier().get_params():
        theirs = TheirClassifier((5, 4), max_iter=2).set_params(**{name: value})
        if not isinstance(value, tuple) or name == "hidden_layer_sizes":
            with pytest.raises((ValueError, TypeError)) as expected:
                theirs.fit(*cancer[::2])
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
def test_errors_of_parameters_are_those_of_sklearn(pair, name, cancer):
    messages = []
    for kind in pair:
        with pytest.raises(Exception) as caught:  # noqa: PT011
            kind(**{name: THEIR_BAD[name]}).fit(*cancer[::2])
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
def test_errors_of_data_are_those_of_sklearn(pair, make, cancer):
    X, y, weights = make(*cancer[::2])
    kinds = []
    for kind in pair:
        with pytest.raises((ValueError, TypeError)) as caught:
            kind(max_iter=2).fit(X, y, sample_weight=weights)
        kinds.append(caught.type)
    assert kinds[0] is kinds[1]


def test_continuous_targets_of_a_classifier(diabetes):
    X, _, y, _ = diabetes
    for kind in (MLPClassifier, TheirClassifier):
        with pytest.raises(ValueError, match="Unknown label type"):
            kind().fit(X, y + 0.5)


def test_options_that_lbfgs_does_not_support(digits):
    X, Xv, y, yv = digits
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


def test_convergence_warnings(digits):
    X, _, y, _ = digits
    with pytest.warns(ConvergenceWarning, match=r"Maximum iterations \(2\) reached"):
        MLPClassifier(max_iter=2).fit(X, y)
    with pytest.warns(ConvergenceWarning, match="lbfgs failed to converge after 2"):
        MLPClassifier(max_iter=2, solver="lbfgs").fit(X, y)
