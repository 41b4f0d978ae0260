"""Random networks are exported, run by ONNX Runtime and imported again."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import bpfast as bp
from bpfast.activations import activations
from bpfast.losses import LINKS, losses
from bpfast.reference.ops import OPS

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from bpfast.interop.onnx import (  # noqa: E402
    from_onnx,
    read_model,
    read_operators,
    to_onnx,
    write_graph,
    write_network,
)

N_INPUTS, N_OUTPUTS, ROWS = 5, 3, 11


#: Of predictions, relative to the largest element.
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}


def perturb(net, rng):
    """Make all parameters and statistics random, b, β and slopes included."""
    for array in net.parameters.values():
        array += rng.normal(0, 0.1, array.shape)
    for name, array in net.statistics.items():
        array[...] = (
            rng.uniform(0.3, 3, array.shape) if name.endswith("variance") else rng.normal(size=array.shape)
        )
    return net


def small(net, X):
    """Scale the raw outputs to at most 3: the exponential of large values is less accurate."""
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


def test_the_tables_are_complete():
    assert set(write_network.OPS) == set(OPS)
    assert set(write_network.ACTIVATIONS) == set(activations)
    assert set(write_network.LINKS) == set(read_model.DEFAULT_LOSSES)
    assert set(LINKS) == set(write_network.LINKS)
    assert {("bpfast", name) for name in write_graph.FUNCTIONS} <= set(read_operators.READERS)


@pytest.mark.parametrize("dtype", TOLERANCE)
@settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(stack=layer_lists(2), seed=st.integers(0, 1000), loss=st.sampled_from(list(losses)))
def test_random_networks_are_exported_and_imported(stack, seed, loss, dtype, error, predicted):
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
    # A second round trip changes nothing.
    again = from_onnx(to_onnx(back))
    assert again.layers == back.layers
    assert {n: a.tobytes() for n, a in again.parameters.items()} == {
        n: a.tobytes() for n, a in back.parameters.items()
    }


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", list(activations))
def test_activations_at_large_inputs(name, dtype, error, predicted):
    Z = np.concatenate([np.linspace(-60, 60, 1201), [0.0, -0.0, 1e-30, -1e-30]]).astype(dtype)[:, None]
    options = {"n_inputs": 1, "loss": "squared_error", "dtype": dtype}
    net = bp.Network([bp.Activation(name)], **options)
    model = to_onnx(net)
    assert error(predicted(model, Z), net.predict(Z)) <= TOLERANCE[dtype]
    assert from_onnx(model).layers == net.layers


@pytest.mark.parametrize("name", ["leaky_relu", "elu", "selu", "gelu", "silu", "softplus"])
def test_float64_activations_are_accurate_for_small_outputs(name, predicted):
    """Each element is accurate, even where f(z) is tiny: nothing cancels in the tails."""
    Z = np.concatenate([-np.logspace(-12, 1.4, 400), np.logspace(-12, 1.4, 400)])[:, None]
    net = bp.Network([bp.Activation(name)], n_inputs=1, loss="squared_error", dtype="float64")
    np.testing.assert_allclose(predicted(to_onnx(net), Z), net.predict(Z), rtol=2e-13)


def test_layers_and_arrays_are_restored_exactly():
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


def test_an_imported_network_can_be_trained(rng):
    X, y = rng.normal(size=(60, N_INPUTS)), rng.integers(0, 3, 60)
    net = bp.Network([bp.Dense(8, "relu"), bp.Dense(3)], n_inputs=N_INPUTS, loss="cross_entropy")
    net.fit(X, y, epochs=2)
    back = from_onnx(to_onnx(net))
    assert back.loss(X, y) == net.loss(X, y)
    assert back.fit(X, y, epochs=20).loss[-1] < net.loss(X, y)
