"""Networks in ONNX: they predict there as here, and come back; what can't come is refused by name."""

import csv
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import bpfast as bp
from bpfast.__main__ import main
from bpfast.activations import activations
from bpfast.layers import layers
from bpfast.losses import losses
from bpfast.reference_ops import OPS

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from bpfast.interop import _onnx_graph as graph  # noqa: E402
from bpfast.interop import _onnx_reading as reading  # noqa: E402
from bpfast.interop.onnx import from_onnx, onnx_inputs, to_onnx  # noqa: E402

N_INPUTS, N_OUTPUTS, ROWS = 5, 3, 11
#: Of predictions, relative to the largest element.
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}


def run(model, feed):
    """The outputs of a model under ONNX Runtime, by name."""
    if not isinstance(feed, dict):
        feed = {"X": np.ascontiguousarray(feed)}
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip([output.name for output in session.get_outputs()], session.run(None, feed), strict=True))


def predicted(model, X):
    """What ONNX Runtime has for `predict`."""
    outputs = run(model, X)
    (values,) = (outputs[name] for name in ("probabilities", "scores", "variable") if name in outputs)
    return values


def perturb(net, rng):
    """Away from where a network starts: b, β, slopes and statistics are numbers as any others."""
    for array in net.parameters.values():
        array += rng.normal(0, 0.1, array.shape)
    for name, array in net.statistics.items():
        array[...] = (
            rng.uniform(0.3, 3, array.shape) if name.endswith("variance") else rng.normal(size=array.shape)
        )
    return net


def small(net, X):
    """Raw outputs of at most 3: the exponential of large ones has fewer digits."""
    largest = np.abs(net.forward(X)).max()
    if largest > 3:
        last = net.program.ops[-1]
        for parameter in (last.W, last.b):
            net.parameters[parameter.name][...] *= 3 / largest
    return net


def kinds(net):
    """The kinds of the layers and what is within, as from_onnx may give them: none that trains alone."""
    return [op.kind for op in net.program.ops if op.kind not in ("dropout", "activation") and not op.head]


def layer_lists(depth):
    """Lists of layers, drawn by hypothesis, with every activation."""
    activation = st.one_of(
        st.sampled_from([name for name in activations if name not in ("leaky_relu", "elu")]),
        st.builds(bp.LeakyReLU, st.floats(0.001, 0.9)),
        st.builds(bp.ELU, st.floats(0.1, 3)),
    )
    width = st.integers(1, 7)
    kinds = [
        st.builds(bp.Dense, width, activation, bias=st.booleans()),
        st.builds(bp.Activation, activation),
        st.builds(bp.Dropout, st.floats(0, 0.6)),
        st.builds(bp.BatchNorm, momentum=st.floats(0.05, 1), epsilon=st.sampled_from([1e-5, 1e-3, 0.1])),
        st.builds(bp.BatchRenorm, epsilon=st.sampled_from([1e-5, 1e-2])),
        st.builds(bp.LayerNorm, epsilon=st.sampled_from([1e-5, 1e-3, 0.1])),
        st.builds(bp.Maxout, width, st.integers(1, 3), bias=st.booleans()),
        st.builds(bp.PReLU, st.floats(-0.5, 0.5)),
        st.builds(bp.RReLU, st.floats(-0.1, 0.2), st.floats(0.2, 0.6)),
        st.builds(bp.Auxiliary, st.just(N_OUTPUTS), st.none(), st.floats(0.1, 2)),
    ]
    if depth > 0:
        kinds.append(layer_lists(depth - 1).map(lambda inner: bp.Residual(*inner)))
    return st.lists(st.one_of(kinds), min_size=1, max_size=4)


def test_the_tables_have_every_op_activation_and_link():
    assert set(graph.OPS) == set(OPS)
    assert set(graph.ACTIVATIONS) == set(activations)
    assert set(graph.LINKS) == set(reading.DEFAULT_LOSSES)
    assert {links for links in bp.losses.LINKS} == set(graph.LINKS)


@pytest.mark.parametrize("dtype", TOLERANCE)
@settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(stack=layer_lists(2), seed=st.integers(0, 1000), loss=st.sampled_from(list(losses)))
def test_random_stacks(stack, seed, loss, dtype, error):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(ROWS, N_INPUTS)).astype(dtype)
    options = {"n_inputs": N_INPUTS, "loss": loss, "dtype": dtype, "seed": seed}
    net = small(perturb(bp.Network([*stack, bp.Dense(N_OUTPUTS)], **options), rng), X)
    model = to_onnx(net)
    expected = net.predict(X)
    values = predicted(model, X)
    assert values.dtype == expected.dtype
    assert error(values, expected) <= TOLERANCE[dtype]
    back = from_onnx(model)
    assert back.loss_spec == net.loss_spec
    assert back.dtype == net.dtype
    assert error(back.predict(X), expected) <= TOLERANCE[dtype] / 10
    # And once more, from what came back: nothing is lost on the way.
    again = from_onnx(to_onnx(back))
    assert again.layers == back.layers
    assert {n: a.tobytes() for n, a in again.parameters.items()} == {
        n: a.tobytes() for n, a in back.parameters.items()
    }


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
def test_classifiers_in_pipelines_convert(case, dtype, skl2onnx, rng, error):
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
def test_regressors_in_pipelines_convert(loss, outputs, dtype, skl2onnx, rng, error):
    from bpfast.sklearn import MLPRegressor

    X = rng.normal(3, 2, size=(60, 4)).astype(dtype)
    y = np.abs(X @ rng.normal(size=(4, outputs))).squeeze()
    model = a_pipeline(MLPRegressor(loss, (8, 5), max_iter=20, random_state=0), X, y)
    values = run(skl2onnx.to_onnx(model, X[:1]), X)["variable"]
    assert error(values, model.predict(X).reshape(len(X), outputs)) <= TOLERANCE[dtype]
