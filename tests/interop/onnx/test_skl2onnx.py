"""Pipelines that skl2onnx converts, with estimators of bpfast and scikit-learn."""

import subprocess
import sys

import numpy as np
import pytest

import bpfast as bp

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from bpfast.interop.onnx import (  # noqa: E402
    from_onnx,
)

#: Of predictions, relative to the largest element.
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}


CASES = {
    "binary": {"y": lambda y: y > 0},
    "numbers": {"y": lambda y: np.digitize(y, [-0.5, 0.5]) + 4},
    "texts": {"y": lambda y: np.array(["low", "mid", "high"])[np.digitize(y, [-0.5, 0.5])]},
    "two texts": {"y": lambda y: np.where(y > 0, "yes", "no")},
    "several labels": {"y": lambda y: np.stack([y > 0, y > 1, y < 0.5], axis=1).astype(int)},
    "hinge": {"y": lambda y: np.digitize(y, [-0.5, 0.5]), "loss": "hinge"},
    "two classes by hinge": {"y": lambda y: y > 0, "loss": "hinge"},
    "batch norm": {"y": lambda y: y > 0, "batch_norm": True, "activation": "gelu", "dropout": 0.2},
    "softplus": {"y": lambda y: y > 0, "activation": ("softplus", "elu"), "hidden_layer_sizes": (8, 7)},
}


@pytest.fixture(scope="module")
def skl2onnx():
    return pytest.importorskip("skl2onnx")


def a_pipeline(estimator, X, y):
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), estimator).fit(X, y)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_classifiers_in_pipelines_convert(case, dtype, skl2onnx, rng, error, run):
    from bpfast.sklearn import MLPClassifier

    X = rng.normal(3, 2, size=(60, 4)).astype(dtype)
    options = {"hidden_layer_sizes": (8,), **case, "y": None, "max_iter": 20, "random_state": 0}
    options.pop("y")
    y = case["y"](X[:, 0] - X[:, 1])
    model = a_pipeline(MLPClassifier(**options), X, y)
    outputs = run(skl2onnx.to_onnx(model, X[:1], options={"zipmap": False}), X)
    np.testing.assert_array_equal(outputs["label"], model.predict(X))
    if "loss" in case:
        expected = model.decision_function(X)
        assert error(outputs["scores"], expected.reshape(len(X), -1)) <= TOLERANCE[dtype]
    else:
        assert error(outputs["probabilities"], model.predict_proba(X)) <= TOLERANCE[dtype]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("loss", ["squared_error", "poisson"])
def test_regressors_in_pipelines_convert(loss, outputs, dtype, skl2onnx, rng, error, run):
    from bpfast.sklearn import MLPRegressor

    X = rng.normal(3, 2, size=(60, 4)).astype(dtype)
    y = np.abs(X @ rng.normal(size=(4, outputs))).squeeze()
    model = a_pipeline(MLPRegressor(loss, (8, 5), max_iter=20, random_state=0), X, y)
    values = run(skl2onnx.to_onnx(model, X[:1]), X)["variable"]
    assert error(values, model.predict(X).reshape(len(X), outputs)) <= TOLERANCE[dtype]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_an_estimator_converts_and_is_imported_as_a_network(skl2onnx, rng, error, run):
    from bpfast.sklearn import MLPClassifier

    X = rng.normal(size=(60, 4)).astype("float32")
    est = MLPClassifier((8, 6), max_iter=5, random_state=0).fit(X, X[:, 0] > 0)
    model = skl2onnx.to_onnx(est, X[:1])
    assert error(run(model, X)["probabilities"], est.predict_proba(X)) <= 1e-5
    net = from_onnx(model)
    assert net.loss_spec == bp.LogLoss()
    np.testing.assert_array_equal(net.predict(X), est.to_network().predict(X))


def test_optional_packages_are_not_imported_early():
    code = (
        "import sys, bpfast.sklearn, bpfast.__main__\n"
        "print([name for name in ('onnx', 'skl2onnx', 'onnxruntime', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("classes", [0, 2, 3])
def test_models_of_scikit_learn(classes, skl2onnx, rng, error):
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    X = rng.normal(3, 2, size=(60, 4)).astype("float32")
    y = X[:, 0] - X[:, 1]
    kind = MLPClassifier if classes else MLPRegressor
    model = kind(hidden_layer_sizes=(8, 5), max_iter=20, random_state=0)
    goal = np.digitize(y, np.linspace(-1, 1, classes - 1)) if classes else y
    model = a_pipeline(model, X, goal)
    net = from_onnx(skl2onnx.to_onnx(model, X[:1]))
    expected = model.predict_proba(X) if classes else model.predict(X)[:, None]
    assert error(net.predict(X), expected[:, 1:] if classes == 2 else expected) <= 1e-5
