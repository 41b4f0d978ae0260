"""Networks in ONNX: they predict there as here, and come back; what can't come is refused by name."""

import contextlib
import io
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import bpfast as bp
from bpfast.__main__ import main
from bpfast.activations import activations
from bpfast.losses import LINKS, losses
from bpfast.reference.ops import OPS

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from bpfast.interop.onnx import (  # noqa: E402
    from_onnx,
    graph,
    onnx_inputs,
    operators,
    reading,
    to_onnx,
)

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
    assert set(LINKS) == set(graph.LINKS)
    assert {("bpfast", name) for name in graph.FUNCTIONS} <= set(operators.READERS)


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
    np.testing.assert_array_equal(back.predict(X), expected)
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


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_an_estimator_alone_converts_and_comes_back_as_a_network(skl2onnx, rng, error):
    from bpfast.sklearn import MLPClassifier

    X = rng.normal(size=(60, 4)).astype("float32")
    est = MLPClassifier((8, 6), max_iter=5, random_state=0).fit(X, X[:, 0] > 0)
    model = skl2onnx.to_onnx(est, X[:1])
    assert error(run(model, X)["probabilities"], est.predict_proba(X)) <= 1e-5
    net = from_onnx(model)
    assert net.loss_spec == bp.LogLoss()
    np.testing.assert_array_equal(net.predict(X), est.to_network().predict(X))


def test_nothing_is_imported_before_it_is_asked_for():
    code = (
        "import sys, bpfast.sklearn, bpfast.__main__\n"
        "print([name for name in ('onnx', 'skl2onnx', 'onnxruntime', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ---- every activation at every z; outputs and their names


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", list(activations))
def test_activations_far_out(name, dtype, error):
    Z = np.concatenate([np.linspace(-60, 60, 1201), [0.0, -0.0, 1e-30, -1e-30]]).astype(dtype)[:, None]
    options = {"n_inputs": 1, "loss": "squared_error", "dtype": dtype}
    net = bp.Network([bp.Activation(name)], **options)
    model = to_onnx(net)
    assert error(predicted(model, Z), net.predict(Z)) <= TOLERANCE[dtype]
    assert from_onnx(model).layers == net.layers


@pytest.mark.parametrize("name", ["leaky_relu", "elu", "selu", "gelu", "silu", "softplus"])
def test_activations_of_float64_keep_their_digits(name):
    """Element by element, also where f(z) is tiny: no cancellation in the tails."""
    Z = np.concatenate([-np.logspace(-12, 1.4, 400), np.logspace(-12, 1.4, 400)])[:, None]
    net = bp.Network([bp.Activation(name)], n_inputs=1, loss="squared_error", dtype="float64")
    np.testing.assert_allclose(predicted(to_onnx(net), Z), net.predict(Z), rtol=2e-13)


OUTPUTS = {
    ("cross_entropy", 3): {"label": (ROWS,), "probabilities": (ROWS, 3)},
    ("log_loss", 1): {"label": (ROWS,), "probabilities": (ROWS, 1)},
    ("log_loss", 3): {"label": (ROWS, 3), "probabilities": (ROWS, 3)},
    ("hinge", 1): {"label": (ROWS,), "scores": (ROWS, 1)},
    ("exponential", 2): {"label": (ROWS, 2), "scores": (ROWS, 2)},
    ("poisson", 1): {"variable": (ROWS, 1)},
    ("quantile", 2): {"variable": (ROWS, 2)},
}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("loss", "units"), OUTPUTS)
def test_outputs(loss, units, dtype, rng):
    X = rng.normal(size=(ROWS, N_INPUTS)).astype(dtype)
    net = bp.Network([bp.Dense(4, "tanh"), bp.Dense(units)], n_inputs=N_INPUTS, loss=loss, dtype=dtype)
    model = to_onnx(net)
    onnx.checker.check_model(model, full_check=True)
    assert (model.ir_version, model.opset_import[0].version) == (8, 17)
    outputs = run(model, X)
    assert {name: array.shape for name, array in outputs.items()} == OUTPUTS[loss, units]
    if "label" in outputs:
        P = net.predict(X)
        expected = P.argmax(axis=1) if loss == "cross_entropy" else (P > 0.5).astype(int)
        if "scores" in outputs:
            expected = np.where(P > 0, 1, -1)
        assert outputs["label"].dtype == np.int64
        np.testing.assert_array_equal(outputs["label"], expected.reshape(outputs["label"].shape))
        assert len(np.unique(outputs["label"])) > 1


@pytest.mark.parametrize("rows", [0, 1, 1000])
def test_any_number_of_rows(rows, rng):
    layers = [bp.Residual(bp.Maxout(6), bp.LayerNorm()), bp.BatchNorm(), bp.Dense(3)]
    net = bp.Network(layers, n_inputs=N_INPUTS, loss="cross_entropy")
    X = rng.normal(size=(rows, N_INPUTS)).astype("float32")
    outputs = run(to_onnx(net), X)
    assert outputs["probabilities"].shape == (rows, 3)
    assert outputs["label"].shape == (rows,)


def test_a_frozen_network_exports_as_it_is():
    net = bp.Network([bp.Dense(4, "relu"), bp.BatchNorm(), bp.Dense(3)], n_inputs=4, loss="log_loss")
    before = to_onnx(net).SerializeToString(deterministic=True)
    frozen = net.freeze()
    net.parameters["0.W"][...] = 7
    assert to_onnx(frozen).SerializeToString(deterministic=True) == before
    assert to_onnx(net).SerializeToString(deterministic=True) != before


def test_functions_dissolve_for_runtimes_without(rng, error):
    inliner = pytest.importorskip("onnx.inliner")
    layers = [bp.Dense(6, "gelu"), bp.BatchNorm(), bp.PReLU(), bp.LayerNorm(), bp.Dense(3, "softplus")]
    net = bp.Network(layers, n_inputs=N_INPUTS, loss="squared_error", dtype="float64")
    model = to_onnx(net)
    assert {node.domain for node in model.graph.node} == {"", "bpfast"}
    plain = inliner.inline_local_functions(model)
    assert {node.domain for node in plain.graph.node} == {""}
    X = rng.normal(size=(ROWS, N_INPUTS))
    assert error(predicted(plain, X), net.predict(X)) <= 1e-12


def test_a_custom_loss_goes_by_its_link(rng, error):
    X = rng.normal(size=(ROWS, N_INPUTS)).astype("float32")
    for link in LINKS:
        loss = bp.CustomLoss(lambda Y, Z: ((Z - Y).sum(axis=1), np.ones_like(Z)), link)
        net = bp.Network([bp.Dense(3)], n_inputs=N_INPUTS, loss=loss)
        model = to_onnx(net)
        assert error(predicted(model, X), net.predict(X)) <= 1e-5
        assert from_onnx(model).loss_spec.name == reading.DEFAULT_LOSSES[link]


def test_columns_far_from_zero_keep_their_digits(rng, error):
    """Years and the like: runtimes fold means away, and x and the mean cancel in float32."""
    X = (2015 + rng.normal(0, 5, size=(ROWS, N_INPUTS))).astype("float32")
    for layer in (bp.BatchNorm(), bp.LayerNorm()):
        net = bp.Network([layer], n_inputs=N_INPUTS, loss="squared_error")
        for name, array in net.statistics.items():
            array[...] = 25.0 if name.endswith("variance") else 2015
        exact = bp.Network([layer], n_inputs=N_INPUTS, loss="squared_error", dtype="float64")
        exact.copy_parameters(net)
        assert error(predicted(to_onnx(net), X), exact.predict(X)) <= 1e-6


def test_what_comes_back_has_the_same_layers_and_bits():
    stack = [
        bp.Dense(7, bp.LeakyReLU(0.2)),
        bp.BatchNorm(epsilon=1e-3, momentum=0.3),
        bp.Residual(bp.LayerNorm(epsilon=1e-2), bp.Maxout(7, 3, bias=False)),
        bp.Residual(bp.Residual(bp.PReLU()), bp.Dense(4, "gelu")),
        bp.Residual(bp.Dense(6, bias=False)),
        bp.Dense(3, "sigmoid"),
    ]
    for dtype in TOLERANCE:
        for loss in (bp.Huber(0.3), "log_loss", "squared_error"):
            net = bp.Network(stack, n_inputs=N_INPUTS, loss=loss, dtype=dtype)
            perturb(net, np.random.default_rng(0))
            back = from_onnx(to_onnx(net), seed=3, threads=1, backend="reference")
            assert back.layers == net.layers
            assert (back.loss_spec, back.seed, back.backend) == (net.loss_spec, 3, "reference")
            for ours, theirs in ((net.parameters, back.parameters), (net.statistics, back.statistics)):
                assert {n: a.tobytes() for n, a in ours.items()} == {
                    n: a.tobytes() for n, a in theirs.items()
                }


def test_what_came_back_trains_on(rng):
    X, y = rng.normal(size=(60, N_INPUTS)), rng.integers(0, 3, 60)
    net = bp.Network([bp.Dense(8, "relu"), bp.Dense(3)], n_inputs=N_INPUTS, loss="cross_entropy")
    net.fit(X, y, epochs=2)
    back = from_onnx(to_onnx(net))
    assert back.loss(X, y) == net.loss(X, y)
    assert back.fit(X, y, epochs=20).loss[-1] < net.loss(X, y)


# ---- models of the command line


@pytest.fixture
def houses(tmp_path, rng):
    """A CSV with numbers, a text column, gaps in both, and a text that training need not see."""
    n = 300
    area, age = rng.normal(100, 30, n), rng.integers(0, 80, n)
    town = np.array(["Aa", "B, b", "Çç", 'Q"q'])[rng.integers(0, 4, n)]
    price = 1e5 + 2e3 * area + 5e4 * (town == "Çç") - 500 * age + rng.normal(0, 1e4, n)
    columns = {
        "label": np.round(area, 2).astype(str),
        "town": town.astype(object),
        "age": age.astype(str).astype(object),
    }
    columns["age"][rng.random(n) < 0.1] = ""
    columns["town"][rng.random(n) < 0.1] = ""
    columns["town"][-1] = "only here"
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(columns | {"price": price, "dear": np.where(price > 3e5, "yes", "no")})
    path = tmp_path / "houses.csv"
    frame.to_csv(path, index=False)
    return path


def trained(path, tmp_path, *options):
    """The paths of a model that the command line trained, of its export and of its predictions."""
    model, exported, out = (str(tmp_path / name) for name in ("m.safetensors", "m.onnx", "p.csv"))
    quiet = ["--no-plot", "--quiet"]
    assert main(["train", str(path), "--epochs", "3", "--out", model, *quiet, *options]) == 0
    assert main(["export", model, exported]) == 0
    assert main(["predict", model, str(path), "--out", out, "--quiet"]) == 0
    return model, exported, out


def raw(exported, feed):
    session = ort.InferenceSession(exported, providers=["CPUExecutionProvider"])
    return dict(zip([output.name for output in session.get_outputs()], session.run(None, feed), strict=True))


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_a_regression_takes_raw_rows_and_gives_the_target(houses, tmp_path, dtype, error, capsys):
    import pandas

    options = ("--target", "price", "--ignore", "dear", "--dtype", dtype)
    model, exported, out = trained(houses, tmp_path, *options)
    assert "takes 3 columns, gives variable" in capsys.readouterr().out
    expected = pandas.read_csv(out)["prediction"].to_numpy()
    frame = pandas.read_csv(houses)
    for rows in (str(houses), frame, frame.to_dict("list")):
        feed = onnx_inputs(exported, rows)
        assert error(raw(exported, feed)["variable"][:, 0], expected) <= TOLERANCE[dtype]
    # No input is called as an output may be; the columns keep their names for `onnx_inputs`.
    assert list(feed) == ["label_2", "town", "age"]
    alone = to_onnx(bp.load(model), preparation=False)
    assert [i.name for i in alone.graph.input] == ["X"]
    assert from_onnx(alone).layers[-1] == bp.Dense(1)
    # The lines that the docstring has for those without bpfast.
    names = [i.name for i in onnx.load(exported).graph.input]
    feed = {
        names[0]: frame[["label"]].to_numpy("float64"),
        names[1]: frame[["town"]].fillna("").astype(str).to_numpy(object),
        names[2]: frame[["age"]].to_numpy("float64"),
    }
    assert error(raw(exported, feed)["variable"][:, 0], expected) <= TOLERANCE[dtype]


def test_a_classification_gives_labels_and_probabilities(houses, tmp_path, error):
    import pandas

    options = ("--target", "dear", "--ignore", "price")
    _, exported, out = trained(houses, tmp_path, *options)
    expected = pandas.read_csv(out)
    outputs = raw(exported, onnx_inputs(exported, houses))
    assert outputs["label"].tolist() == expected["prediction"].tolist()
    assert set(outputs["label"]) == {"no", "yes"}
    columns = expected[["probability_no", "probability_yes"]].to_numpy()
    assert error(outputs["probabilities"], columns) <= 1e-5
    properties = {p.key: json.loads(p.value) for p in onnx.load(exported).metadata_props if p.key != "target"}
    assert properties["classes"] == ["no", "yes"]
    assert properties["columns"] == ["label", "town", "age"]


@pytest.mark.parametrize("classes", [[3, 5, 9], [True, False], ["u", "v", "w"], [0.5, 1.5]])
def test_arrays_have_one_input_and_labels_of_their_type(classes, tmp_path, rng, error):
    X = rng.normal(size=(80, 4))
    y = np.array(classes)[rng.integers(0, len(classes), 80)]
    X[:, 0] += np.searchsorted(np.unique(y), y)
    X[3, 1] = np.nan
    path = tmp_path / "rows.npz"
    np.savez(path, images=X.reshape(80, 2, 2), y=y)
    _, exported, out = trained(path, tmp_path, "--task", "classification", "--features", "images")
    outputs = raw(exported, onnx_inputs(exported, path))
    with open(out, encoding="utf-8") as file:
        assert [str(label) for label in outputs["label"].tolist()] == [line.split(",")[0] for line in file][
            1:
        ]
    np.testing.assert_array_equal(raw(exported, {"X": X})["label"], outputs["label"])
    assert set(outputs["label"].tolist()) <= set(classes)


def test_the_digits_export(tmp_path, error):
    from sklearn.datasets import load_digits

    model, exported = str(tmp_path / "m.safetensors"), str(tmp_path / "m.onnx")
    assert main(["train", "--epochs", "2", "--out", model, "--no-plot", "--quiet"]) == 0
    assert main(["export", model, exported]) == 0
    X = load_digits().data
    outputs = raw(exported, onnx_inputs(exported, X))
    net = bp.load(model)
    assert error(outputs["probabilities"], net.predict(X / 16)) <= 1e-5


# ---- what others write


def export(module, X, torch):
    """What PyTorch's exporter by tracing writes; a newer one needs another package."""
    file = io.BytesIO()
    options = {"input_names": ["x"], "dynamic_axes": {"x": {0: "N"}}, "opset_version": 17, "dynamo": False}
    torch.onnx.export(module, (torch.from_numpy(X),), file, **options)
    return onnx.load_from_string(file.getvalue())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("end", ["logits", "softmax", "sigmoid"])
def test_models_of_pytorch(end, dtype, rng, error):
    torch = pytest.importorskip("torch")
    nn = torch.nn

    class Block(nn.Module):
        def __init__(self, *modules, skip=None):
            super().__init__()
            self.inner, self.skip = nn.Sequential(*modules), skip or nn.Identity()

        def forward(self, x):
            return self.skip(x) + self.inner(x)

    torch.manual_seed(0)
    activations = [nn.ReLU(), nn.GELU(), nn.SiLU(), nn.ELU(0.7), nn.SELU(), nn.Softplus(), nn.Tanh()]
    activations += [nn.LeakyReLU(0.2), nn.PReLU(), nn.PReLU(8), nn.Sigmoid()]
    hidden = [module for f in activations for module in (nn.Linear(8, 8), f)]
    module = nn.Sequential(
        nn.Flatten(),
        nn.Linear(N_INPUTS, 8, bias=False),
        nn.BatchNorm1d(8),
        nn.Dropout(0.3),
        nn.LayerNorm(8),
        *hidden,
        Block(Block(nn.Linear(8, 8), nn.GELU())),
        Block(nn.Linear(8, 6), nn.Tanh(), skip=nn.Linear(8, 6, bias=False)),
        nn.Linear(6, N_OUTPUTS),
        {"logits": nn.Identity(), "softmax": nn.Softmax(dim=1), "sigmoid": nn.Sigmoid()}[end],
    )
    module.to(getattr(torch, dtype)).eval()
    X = rng.normal(size=(ROWS, N_INPUTS)).astype(dtype)
    with torch.no_grad():
        module[2].running_mean.normal_()
        module[2].running_var.uniform_(0.5, 2)
        expected = module(torch.from_numpy(X)).numpy()
    model = export(module, X, torch)
    net = from_onnx(model)
    losses = {"logits": "squared_error", "softmax": "cross_entropy", "sigmoid": "log_loss"}
    assert net.loss_spec.name == losses[end]
    assert error(net.predict(X), expected) <= TOLERANCE[dtype]
    if end == "logits":
        shares = np.exp(expected) / np.exp(expected).sum(axis=1, keepdims=True)
        assert error(from_onnx(model, loss="cross_entropy").predict(X), shares) <= TOLERANCE[dtype]
    if end == "sigmoid":
        regression = from_onnx(model, loss="squared_error")
        assert error(regression.predict(X), expected) <= TOLERANCE[dtype]
        with pytest.raises(
            ValueError, match="loss 'cross_entropy' predicts by softmax; the model ends in sig"
        ):
            from_onnx(model, loss="cross_entropy")


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


# ---- what can't be, is said


def model_of(*nodes, n=3, weights=(), outputs=("y",), kind=None, shape=("N", 3), opset=17):
    """A small model by hand."""
    helper = onnx.helper
    kind = onnx.TensorProto.FLOAT if kind is None else kind
    inputs = [helper.make_tensor_value_info("x", kind, shape)]
    made = [helper.make_tensor_value_info(name, kind, ("N", "M")) for name in outputs]
    tensors = [
        onnx.numpy_helper.from_array(np.asarray(a, "int64" if isinstance(a, list) else "float32"), name)
        for name, a in weights
    ]
    drawn = helper.make_graph(
        [helper.make_node(*node[:3], node[1][0] + ":" + node[0], **dict(node[3:])) for node in nodes],
        "g",
        inputs,
        made,
        tensors,
    )
    return helper.make_model(drawn, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


W = ("W", np.ones((3, 2)))
COLUMN, ONE = ("V", np.ones((3, 1))), ("one", np.ones(1))
BOTH = [("Gemm", ["x", "V"], ["h"]), ("Sigmoid", ["h"], ["p"]), ("Sub", ["one", "p"], ["q"])]
SIX = ("U", np.ones((3, 6)))
PIECES = [("Gemm", ["x", "U"], ["h"]), ("Reshape", ["h", "s"], ["r"])]
FOREIGN = {
    "an operator": ([("Sin", ["x"], ["y"])], [], r"node 'x:Sin' \(Sin\) is not among the operators"),
    "a product of values": ([("Mul", ["x", "x"], ["y"])], [], r"node 'x:Mul' \(Mul\) combines two values"),
    "a softmax within": (
        [("Softmax", ["x"], ["a"]), ("Gemm", ["a", "W"], ["y"])],
        [W],
        r"node 'x:Softmax' \(Softmax\) stands where",
    ),
    "a scaling at the start": (
        [("Mul", ["x", "c"], ["a"]), ("Relu", ["a"], ["y"])],
        [("c", 2.0)],
        r"node 'x:Mul' \(Mul\) scales or shifts what is not the output of a dense layer",
    ),
    "other columns": (
        [("Gemm", ["x", "W"], ["y"])],
        [("W", np.ones((4, 2)))],
        r"weights of shape \(4, 2\) for 3 col",
    ),
    "a bias of other columns": (
        [("Gemm", ["x", "W", "b"], ["y"])],
        [W, ("b", np.ones(3))],
        r"node 'x:Gemm' \(Gemm\) has a constant of shape \(3,\) for 2 columns",
    ),
    "weights that are not finite": (
        [("MatMul", ["x", "W"], ["y"])],
        [("W", np.full((3, 2), np.nan))],
        r"node 'x:MatMul' \(MatMul\) has weights that are not finite",
    ),
    "two branches": (
        [
            ("Gemm", ["x", "W"], ["a"]),
            ("Relu", ["a"], ["b"]),
            ("Tanh", ["a"], ["c"]),
            ("Add", ["b", "c"], ["y"]),
        ],
        [W],
        r"node 'b:Add' \(Add\) adds two branches, neither of which",
    ),
    "a batch's statistics": (
        [("BatchNormalization", ["x", "o", "o", "o", "o"], ["y", "m", "v"], ("training_mode", 1))],
        [("o", np.ones(3))],
        "normalises by the batch in prediction too",
    ),
    "a variance below 0": (
        [("BatchNormalization", ["x", "o", "o", "o", "v"], ["y"])],
        [("o", np.ones(3)), ("v", -np.ones(3))],
        "has a variance below 0",
    ),
    "no weights": ([("Gemm", ["x", "x"], ["y"])], [], r"\(Gemm\) wants a constant"),
    "a layer norm of columns": (
        [("LayerNormalization", ["x", "o"], ["y"], ("axis", 0))],
        [("o", np.ones(3))],
        "over other things than the columns of each row",
    ),
    "rows mixed": ([("Flatten", ["x"], ["y"], ("axis", 0))], [], "flattens the rows too"),
    "a number that adds a dimension": (
        [("Gemm", ["x", "W"], ["h"]), ("Add", ["h", "c"], ["y"])],
        [W, ("c", np.ones((1, 1, 1)))],
        r"node 'h:Add' \(Add\) has a constant of shape \(1, 1, 1\) for 2 columns",
    ),
    "rows above one another": (
        [*BOTH, ("Concat", ["q", "p"], ["y"], ("axis", 0))],
        [COLUMN, ONE],
        r"node 'q:Concat' \(Concat\) puts rows below one another",
    ),
    "probabilities within": (
        [*BOTH, ("Concat", ["q", "p"], ["b"], ("axis", 1)), ("LeakyRelu", ["b"], ["y"])],
        [COLUMN, ONE],
        r"node 'q:Concat' \(Concat\) stands where bpfast has no layer",
    ),
    "probabilities of no sigmoid": (
        [("Gemm", ["x", "V"], ["p"]), *BOTH[2:], ("Concat", ["q", "p"], ["y"], ("axis", 1))],
        [COLUMN, ONE],
        r"\(Concat\) puts 1 - p beside a p that is no sigmoid",
    ),
    "a maximum of what is flat": (
        [*PIECES, ("Flatten", ["r"], ["f"]), ("ReduceMax", ["f"], ["y"], ("axes", [1]), ("keepdims", 0))],
        [SIX, ("s", [-1, 3, 2])],
        r"node 'f:ReduceMax' \(ReduceMax\) is a maximum over other things",
    ),
    "a maximum of what is flat again": (
        [
            *PIECES,
            ("Reshape", ["r", "t"], ["f"]),
            ("ReduceMax", ["f"], ["y"], ("axes", [1]), ("keepdims", 0)),
        ],
        [SIX, ("s", [-1, 3, 2]), ("t", [-1, 6])],
        r"node 'f:ReduceMax' \(ReduceMax\) is a maximum over other things",
    ),
    "pieces as rows": (
        [*PIECES, ("Flatten", ["r"], ["y"], ("axis", -1))],
        [SIX, ("s", [-1, 3, 2])],
        r"node 'r:Flatten' \(Flatten\) flattens the rows too",
    ),
    "one long row": (
        [("Reshape", ["x", "s"], ["y"])],
        [("s", [1, -1])],
        r"node 'x:Reshape' \(Reshape\) makes shape \[1, -1\] of rows of 3 values; -1 or 0 is wanted",
    ),
    "two long rows": ([("Reshape", ["x", "s"], ["y"])], [("s", [2, -1])], r"makes shape \[2, -1\] of rows"),
    "no rows": (
        [("Reshape", ["x", "s"], ["y"], ("allowzero", 1))],
        [("s", [0, 3])],
        r"makes shape \[0, 3\] of rows",
    ),
    "pieces of one row": (
        [*PIECES[:1], ("Reshape", ["h", "s"], ["y"])],
        [SIX, ("s", [1, 3, 2])],
        "makes shape",
    ),
    "an elu that falls": ([("Elu", ["x"], ["y"], ("alpha", -1.0))], [], r"\(Elu\) can't be taken: .*alpha"),
}


@pytest.mark.parametrize(("nodes", "weights", "message"), FOREIGN.values(), ids=FOREIGN)
def test_foreign_nodes_are_named(nodes, weights, message):
    with pytest.raises(ValueError, match=message) as caught:
        from_onnx(model_of(*nodes, weights=weights))
    assert "\n" not in str(caught.value)


def test_a_batch_norm_of_old_that_is_in_training():
    """Before opset 14 no attribute tells, but the outputs."""
    outputs, ones = ["y", "m", "v", "s", "t"], ("o", np.ones(3))
    bn = ("BatchNormalization", ["x", "o", "o", "o", "o"])
    for names, more in ((outputs, []), (["a", *outputs[1:]], [("Relu", ["a"], ["y"])])):
        with pytest.raises(ValueError, match=r"\(BatchNormalization\) normalises by the batch in prediction"):
            from_onnx(model_of((*bn, names), *more, weights=[ones], opset=11))
    assert from_onnx(model_of((*bn, ["y"]), weights=[ones], opset=11)).layers == (bp.BatchNorm(),)


def test_reshapes_and_flattens_that_change_nothing(rng, error):
    """What is accepted predicts as ONNX Runtime does."""
    X = rng.normal(size=(4, 3)).astype("float32")
    U, V = ("U", rng.normal(size=(3, 6))), ("V", rng.normal(size=(6, 1)))
    cut = [("Gemm", ["x", "U"], ["h"]), ("Reshape", ["h", "s"], ["r"])]
    end = ("Gemm", ["f", "V"], ["y"])
    cases = [
        ([*cut, ("Flatten", ["r"], ["f"]), end], [-1, 3, 2], "N"),
        ([*cut, ("Reshape", ["r", "t"], ["f"]), end], [0, 3, 2], "N"),
        ([*cut, ("Identity", ["r"], ["f"]), end], [4, -1], 4),
        ([*cut, ("Identity", ["r"], ["f"]), end], [-1, 6], "N"),
        ([*cut, ("ReduceMax", ["r"], ["y"], ("axes", [1]), ("keepdims", 0))], [4, 3, 2], 4),
        ([*BOTH, ("Concat", ["q", "p"], ["b"], ("axis", -1)), ("Flatten", ["b"], ["y"])], [1], "N"),
    ]
    for nodes, shape, rows in cases:
        weights = [U, V, ONE, ("s", shape), ("t", [0, -1])]
        if "b" in nodes[-1][1]:
            weights[1] = ("V", rng.normal(size=(3, 1)))
        model = model_of(*nodes, weights=weights, shape=(rows, 3))
        expected = run(model, {"x": X})["y"]
        assert error(from_onnx(model).predict(X), expected[:, -1:] if shape == [1] else expected) <= 1e-5


def test_what_other_outputs_need_does_not_count():
    nodes = [("Gemm", ["x", "W"], ["a"]), ("Softmax", ["a"], ["y"]), ("Sin", ["a"], ["z"])]
    model = model_of(*nodes, weights=[W], outputs=("y", "z"))
    with pytest.raises(ValueError, match="the model has the outputs y, z; say which one with output="):
        from_onnx(model)
    assert from_onnx(model, output="y").loss_spec.name == "cross_entropy"
    assert from_onnx(model, output="a").loss_spec.name == "squared_error"
    with pytest.raises(ValueError, match="output: the model has no 'w'; its outputs are y, z"):
        from_onnx(model, output="w")


def test_inputs_that_are_no_rows_of_floats():
    gemm = ("Gemm", ["x", "W"], ["y"])
    with pytest.raises(ValueError, match="input 'x' is not one of float32 or float64"):
        from_onnx(model_of(gemm, weights=[W], kind=onnx.TensorProto.INT32))
    with pytest.raises(ValueError, match=r"\(Gemm\) takes an input of more than two dimensions; a Flatten"):
        from_onnx(model_of(gemm, weights=[W], shape=("N", 1, 3)))
    flat = [("Flatten", ["x"], ["a"]), ("Gemm", ["a", "W"], ["y"])]
    assert from_onnx(model_of(*flat, weights=[W], shape=("N", 1, 3))).n_inputs == 3
    assert from_onnx(model_of(gemm, weights=[W], shape=("N", None))).n_inputs == 3
    with pytest.raises(ValueError, match="declares 1,000,000,000 columns"):
        from_onnx(model_of(("Relu", ["x"], ["y"]), shape=("N", 10**9)))


def test_weights_outside_of_the_file_are_refused(tmp_path, rng):
    net = bp.Network([bp.Dense(3)], n_inputs=4, loss="squared_error")
    path = tmp_path / "m.onnx"
    onnx.save(to_onnx(net), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    with pytest.raises(ValueError, match=r"tensor '0\.W' lies outside of the model"):
        from_onnx(path)


def test_damaged_files(tmp_path):
    net = bp.Network(
        [bp.Dense(4, "gelu"), bp.LayerNorm(), bp.Dense(3)], n_inputs=5, loss="log_loss", dtype="float64"
    )
    path = tmp_path / "m.onnx"
    assert to_onnx(net, path).SerializeToString() == path.read_bytes()
    assert from_onnx(path).dtype == np.float64
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for trial in range(300):
        data = bytearray(whole)
        if trial % 3 == 0:
            data = data[: rng.integers(len(data))]
        else:
            for place in rng.integers(len(data), size=3):
                data[place] = rng.integers(256)
        path.write_bytes(data)
        with contextlib.suppress(ValueError):
            assert isinstance(from_onnx(path), bp.Network)
    for text in (b"", b"not a model", b"PK\x03\x04" * 10):
        path.write_bytes(text)
        with pytest.raises(ValueError, match="is not an ONNX model, or is damaged"):
            from_onnx(path)
    with pytest.raises(FileNotFoundError, match="there is no model file"):
        from_onnx(tmp_path / "nowhere.onnx")
    with pytest.raises(
        TypeError, match=r"model must be an onnx\.ModelProto or the path of a file; got <class 'int'>"
    ):
        from_onnx(3)
    cut = to_onnx(net)
    cut.graph.initializer[0].raw_data = b"1234"
    with pytest.raises(ValueError, match=r"(checker: .*|tensor ')0\.W"):
        from_onnx(cut)


def test_what_to_onnx_refuses(tmp_path):
    with pytest.raises(
        TypeError, match=r"to_onnx takes a bpfast\.Network \(of an estimator, est\.to_network\(\)\); got"
    ):
        to_onnx("model.safetensors")
    net = bp.Network([bp.Dense(3)], n_inputs=4, loss="squared_error")
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        to_onnx(net, tmp_path / "nowhere" / "m.onnx")
    with pytest.raises(TypeError, match="to_onnx: preparation must be True or False; got 1"):
        to_onnx(net, preparation=1)
    net.metadata["preparation"] = "{"
    with pytest.raises(ValueError, match="the network's preparation is broken: it is not JSON"):
        to_onnx(net, tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()
    assert to_onnx(net, preparation=False).graph.input[0].name == "X"


def test_inputs_that_do_not_fit_the_model(houses, tmp_path):
    import pandas

    _, exported, _ = trained(houses, tmp_path, "--target", "price", "--ignore", "dear")
    frame = pandas.read_csv(houses)
    with pytest.raises(ValueError, match="rows lack columns that the model takes: town"):
        onnx_inputs(exported, frame.drop(columns="town"))
    with pytest.raises(ValueError, match="column 'age' must hold numbers: could not convert"):
        onnx_inputs(exported, frame.assign(age="old"))
    with pytest.raises(ValueError, match="rows must have named columns: label, town, age; got"):
        onnx_inputs(exported, frame.to_numpy())
    with pytest.raises(ValueError, match=re.escape("depends on 3 inputs (")):
        from_onnx(exported)
    net = bp.Network([bp.Dense(3)], n_inputs=4, loss="squared_error")
    with pytest.raises(ValueError, match=r"rows must have shape \(N, 4\); got \(2, 3\)"):
        onnx_inputs(to_onnx(net), np.ones((2, 3)))


def test_mistakes_at_the_command_line(tmp_path, capsys):
    model = str(tmp_path / "m.safetensors")
    assert main(["export", model]) == 2
    assert "there is no model file" in capsys.readouterr().err
    bp.Network([bp.Dense(3)], n_inputs=4, loss="squared_error").save(model)
    for out, message in (
        (model, "is both input and output"),
        (str(tmp_path), "is a folder"),
        (f"{model}/x/y", "no folder"),
    ):
        assert main(["export", model, out]) == 2
        assert message in capsys.readouterr().err
    assert main(["export", model, str(tmp_path / "m.onnx"), "--network-alone"]) == 0
    assert "inputs: X; outputs: variable" in capsys.readouterr().out
