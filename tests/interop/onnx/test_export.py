"""Exported models: outputs, accuracy, functions, and errors of `to_onnx`."""

import numpy as np
import pytest

import bpfast as bp
from bpfast.losses import LINKS

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from bpfast.interop.onnx import (  # noqa: E402
    from_onnx,
    read_model,
    to_onnx,
)

N_INPUTS, N_OUTPUTS, ROWS = 5, 3, 11


#: Of predictions, relative to the largest element.
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}


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
def test_names_and_shapes_of_outputs(loss, units, dtype, rng, run):
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
def test_any_number_of_rows(rows, rng, run):
    layers = [bp.Residual(bp.Maxout(6), bp.LayerNorm()), bp.BatchNorm(), bp.Dense(3)]
    net = bp.Network(layers, n_inputs=N_INPUTS, loss="cross_entropy")
    X = rng.normal(size=(rows, N_INPUTS)).astype("float32")
    outputs = run(to_onnx(net), X)
    assert outputs["probabilities"].shape == (rows, 3)
    assert outputs["label"].shape == (rows,)


def test_a_frozen_network_is_exported_unchanged():
    net = bp.Network([bp.Dense(4, "relu"), bp.BatchNorm(), bp.Dense(3)], n_inputs=4, loss="log_loss")
    before = to_onnx(net).SerializeToString(deterministic=True)
    frozen = net.freeze()
    net.parameters["0.W"][...] = 7
    assert to_onnx(frozen).SerializeToString(deterministic=True) == before
    assert to_onnx(net).SerializeToString(deterministic=True) != before


def test_functions_can_be_inlined(rng, error, predicted):
    inliner = pytest.importorskip("onnx.inliner")
    layers = [bp.Dense(6, "gelu"), bp.BatchNorm(), bp.PReLU(), bp.LayerNorm(), bp.Dense(3, "softplus")]
    net = bp.Network(layers, n_inputs=N_INPUTS, loss="squared_error", dtype="float64")
    model = to_onnx(net)
    assert {node.domain for node in model.graph.node} == {"", "bpfast"}
    plain = inliner.inline_local_functions(model)
    assert {node.domain for node in plain.graph.node} == {""}
    X = rng.normal(size=(ROWS, N_INPUTS))
    assert error(predicted(plain, X), net.predict(X)) <= 1e-12


def test_the_outputs_of_a_custom_loss_depend_on_its_link(rng, error, predicted):
    X = rng.normal(size=(ROWS, N_INPUTS)).astype("float32")
    for link in LINKS:
        loss = bp.CustomLoss(lambda Y, Z: ((Z - Y).sum(axis=1), np.ones_like(Z)), link)
        net = bp.Network([bp.Dense(3)], n_inputs=N_INPUTS, loss=loss)
        model = to_onnx(net)
        assert error(predicted(model, X), net.predict(X)) <= 1e-5
        assert from_onnx(model).loss_spec.name == read_model.DEFAULT_LOSSES[link]


def test_normalisation_is_accurate_for_columns_far_from_zero(rng, error, predicted):
    """Columns such as years: runtimes fold the mean into the bias, where it cancels with x in float32."""
    X = (2015 + rng.normal(0, 5, size=(ROWS, N_INPUTS))).astype("float32")
    for layer in (bp.BatchNorm(), bp.LayerNorm()):
        net = bp.Network([layer], n_inputs=N_INPUTS, loss="squared_error")
        for name, array in net.statistics.items():
            array[...] = 25.0 if name.endswith("variance") else 2015
        exact = bp.Network([layer], n_inputs=N_INPUTS, loss="squared_error", dtype="float64")
        exact.copy_parameters(net)
        assert error(predicted(to_onnx(net), X), exact.predict(X)) <= 1e-6


def test_errors_of_to_onnx(tmp_path):
    with pytest.raises(
        TypeError, match=r"to_onnx takes a bpfast\.Network \(for an estimator, est\.to_network\(\)\); got"
    ):
        to_onnx("model.safetensors")
    net = bp.Network([bp.Dense(3)], n_inputs=4, loss="squared_error")
    with pytest.raises(FileNotFoundError, match="there is no directory"):
        to_onnx(net, tmp_path / "nowhere" / "m.onnx")
    with pytest.raises(TypeError, match="to_onnx: preparation must be True or False; got 1"):
        to_onnx(net, preparation=1)
    net.metadata["preparation"] = "{"
    with pytest.raises(ValueError, match="the network's preparation is damaged: it is not JSON"):
        to_onnx(net, tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()
    assert to_onnx(net, preparation=False).graph.input[0].name == "X"
