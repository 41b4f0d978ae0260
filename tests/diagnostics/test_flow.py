"""Gradient flow: the table, the record over the epochs, and the figures."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import sparse as scipy_sparse

import bpfast as bp
from bpfast.diagnostics.gradient_flow import FLAT


def data(rng, n_rows=60):
    X = rng.normal(size=(n_rows, 5))
    return X, rng.integers(0, 3, n_rows)


def network(backend, activation="sigmoid", **options):
    options = {"loss": "cross_entropy", "dtype": "float64", "seed": 1, **options}
    layers = [
        bp.Dense(7, activation, bias_initializer="xavier_uniform"),
        bp.Activation("tanh"),
        bp.Dense(4, activation, bias=False),
        bp.Dense(3),
    ]
    return bp.Network(layers, n_inputs=5, backend=backend, **options)


def norm(A):
    return math.sqrt(float((A**2).sum()))


def by_hand(net, X, y, activation, weights=None):
    """(A, D, Z) of each op, and the gradients of the three matrices."""
    p, w = net.parameters, np.ones(len(X)) if weights is None else weights
    f, slope = bp.reference.dense_forward, bp.reference.activation_derivative
    Z0 = f(X, p["0.W"], p["0.b"])
    A0 = f(X, p["0.W"], p["0.b"], activation)
    A1 = np.tanh(A0)
    Z2, A2 = f(A1, p["2.W"]), f(A1, p["2.W"], None, activation)
    Z3 = f(A2, p["3.W"], p["3.b"])
    P = np.exp(Z3 - Z3.max(axis=1, keepdims=True))
    P /= P.sum(axis=1, keepdims=True)
    D3 = (P - np.eye(3)[y]) * w[:, None] / w.sum()
    D2 = (D3 @ p["3.W"].T) * slope(Z2, activation)
    dA1 = D2 @ p["2.W"].T
    D0 = dA1 * (1 - A1**2) * slope(Z0, activation)
    ops = [(A0, D0, Z0), (A1, dA1, A0), (A2, D2, Z2), (Z3, D3, None)]
    return ops, {"0.W": X.T @ D0, "2.W": A1.T @ D2, "3.W": A2.T @ D3}


@pytest.mark.parametrize("activation", ["sigmoid", "relu", "elu", "gelu"])
@pytest.mark.parametrize("weighted", [False, True])
def test_figures_by_hand(backend, activation, weighted, rng):
    X, y = data(rng)
    X *= 4
    weights = rng.random(60) if weighted else None
    net = network(backend, activation)
    flow = bp.gradient_flow(net, X, y, sample_weight=weights, optimizer=bp.SGD(0.25))
    assert [op.name for op in flow] == [
        f"0 dense 5-7 {activation}",
        "1 activation 7-7 tanh",
        f"2 dense 7-4 {activation}",
        "3 dense 4-3",
    ]
    expected, gradients = by_hand(net, X, y, activation, weights)
    functions = [activation, "tanh", activation, None]
    for op, (A, D, Z), f in zip(flow, expected, functions, strict=True):
        assert op.mean == pytest.approx(A.mean(), abs=1e-12)
        assert op.deviation == pytest.approx(A.std(), rel=1e-10)
        assert op.delta_mean == pytest.approx(D.mean(), abs=1e-12)
        assert op.delta_deviation == pytest.approx(D.std(), rel=1e-10)
        assert op.delta_norm == pytest.approx(norm(D), rel=1e-10)
        if f is None:
            assert math.isnan(op.saturated)
            assert math.isnan(op.dead)
            continue
        steepest = np.abs(bp.reference.activation_derivative(np.linspace(-8, 8, 100001), f)).max()
        flat = np.abs(bp.reference.activation_derivative(Z, f)) < FLAT * steepest
        assert op.saturated == flat.mean()
        assert op.dead == flat.all(axis=0).mean()
    assert any(op.saturated > 0 for op in flow)
    for op, name in ((flow[0], "0.W"), (flow[2], "2.W"), (flow[3], "3.W")):
        assert op.weight_norm == pytest.approx(norm(net.parameters[name]), rel=1e-12)
        assert op.gradient_norm == pytest.approx(norm(gradients[name]), rel=1e-10)
        assert op.update_ratio == pytest.approx(0.25 * op.gradient_norm / op.weight_norm, rel=1e-10)
    assert math.isnan(flow[1].weight_norm)
    assert flow.loss == pytest.approx(net.loss(X, y, sample_weight=weights), rel=1e-12)
    assert flow.gradient_ratio == pytest.approx(norm(gradients["0.W"]) / norm(gradients["3.W"]), rel=1e-10)
    assert flow.rows == 60


def test_dead_units(backend, rng):
    X, y = data(rng)
    net = network(backend, "relu")
    net.parameters["0.b"][:] = [-1e3, 1e3, -1e3, 1e3, 1e3, 1e3, 1e3]
    flow = bp.gradient_flow(net, X, y)
    assert flow[0].saturated == pytest.approx(2 / 7)
    assert flow[0].dead == pytest.approx(2 / 7)
    net = network(backend, "sigmoid")
    net.parameters["0.b"][:] = [-1e3, 1e3, 0, 0, 0, 0, 0]
    assert bp.gradient_flow(net, X, y)[0].dead == pytest.approx(2 / 7)


def test_both_backends_agree_in_float32(rng):
    X, y = data(rng)
    flows = [bp.gradient_flow(network(b, dtype="float32"), X, y) for b in ("native", "reference")]
    for one, other in zip(*flows, strict=True):
        assert one.name == other.name
        for name in ("mean", "deviation", "saturated", "dead", "delta_norm", "weight_norm", "gradient_norm"):
            assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-4, abs=1e-6, nan_ok=True)


def test_the_ratio_of_the_networks_own_optimizer(backend, bytes_of, rng):
    """After a fit with Adam the ratio is that of the next step."""
    X, y = data(rng)
    net = network(backend)
    assert np.isnan(bp.gradient_flow(net, X, y).column("update_ratio")).all()
    net.fit(X, y, epochs=3, batch_size=None, optimizer=bp.Adam(bp.StepDecay(0.01, every=2, factor=0.1)))
    before = bytes_of(net), net._state.optimizer_state.arrays.tobytes(), net._state.optimizer_state.steps
    flow = bp.gradient_flow(net, X, y)
    assert (
        bytes_of(net),
        net._state.optimizer_state.arrays.tobytes(),
        net._state.optimizer_state.steps,
    ) == before
    old = net.parameters["2.W"].copy()
    net.fit(X, y, epochs=1, batch_size=None, optimizer=bp.Adam(bp.StepDecay(0.01, every=2, factor=0.1)))
    step = norm(net.parameters["2.W"] - old)
    assert flow[2].update_ratio == pytest.approx(step / norm(old), rel=1e-10)
    # Another optimizer starts afresh: Adam's first step is η in every element.
    fresh = bp.gradient_flow(net, X, y, optimizer=bp.Adam(1e-3))[2]
    assert fresh.update_ratio == pytest.approx(1e-3 * math.sqrt(28) / fresh.weight_norm, rel=1e-4)


def test_dropout_in_training_and_in_prediction(backend, rng):
    X, y = data(rng)
    layers = [bp.Dense(64, "tanh"), bp.Dropout(0.5), bp.Dense(3)]
    net = bp.Network(layers, n_inputs=5, loss="cross_entropy", dtype="float64", backend=backend)
    dropped, kept = (bp.gradient_flow(net, X, y, training=t) for t in (True, False))
    assert [op.name for op in kept] == ["0 dense 5-64 tanh", "1 dropout 64-64", "2 dense 64-3"]
    assert kept[1].deviation == kept[0].deviation == dropped[0].deviation
    assert dropped[1].deviation > 1.2 * kept[0].deviation
    gradients = net.gradients(X, y)
    assert kept[0].gradient_norm == pytest.approx(norm(gradients["0.W"]), rel=1e-10)
    # The same mask each time: that of the next step.
    assert str(dropped) == str(bp.gradient_flow(net, X, y))


def test_sparse_rows(backend, rng):
    X, y = data(rng)
    X[np.abs(X) < 1] = 0
    flows = [bp.gradient_flow(network(backend), rows, y) for rows in (X, scipy_sparse.csr_array(X))]
    assert str(flows[0]) == str(flows[1])


def test_a_custom_loss(backend, rng):
    X, _ = data(rng)
    Y = rng.normal(size=(60, 3))

    def squared(Y, Z):
        return ((Z - Y) ** 2).mean(axis=1), 2 * (Z - Y) / Z.shape[1]

    flows = [bp.gradient_flow(network(backend, loss=loss), X, Y) for loss in (squared, "squared_error")]
    for name in ("delta_norm", "gradient_norm"):
        assert flows[0].column(name) == pytest.approx(flows[1].column(name), rel=1e-10, nan_ok=True)


def test_gradients_vanish_in_deep_sigmoids(backend, rng):
    X, y = data(rng)
    for activation, low, high in (("sigmoid", 0, 1e-6), ("relu", 1e-2, 1e2)):
        deep = [bp.Dense(16, activation) for _ in range(12)]
        net = bp.Network([*deep, bp.Dense(3)], n_inputs=5, loss="cross_entropy", backend=backend)
        assert low < bp.gradient_flow(net, X, y).gradient_ratio < high


def test_the_table(backend, rng):
    X, y = data(rng)
    flow = bp.gradient_flow(network(backend), X, y, optimizer="sgd")
    lines = str(flow).splitlines()
    assert len(lines) == 8
    assert " ".join(lines[0].split()) == "layer A mean dev flat dead D mean dev norm W norm dW norm ΔW/W"
    assert len({len(line) for line in lines[:-3]}) == 1
    assert lines[5].startswith("A: output of the op; D: ")
    assert lines[1].startswith("0 dense 5-7 sigmoid")
    assert f"{flow[0].gradient_norm:.2g}" in lines[1].split()
    assert lines[-1] == f"loss {flow.loss:.4g} of 60 rows"
    assert repr(flow).startswith("<bpfast.Flow of 4 ops, 60 rows")
    assert len(flow) == 4


def test_the_record_of_a_training(backend, rng, bytes_of):
    X, y = data(rng, 300)
    net, plain = network(backend), network(backend)
    record = bp.GradientFlow(X, y, rows=50)
    weights = [net.parameters["2.W"].copy()]
    seen = []

    class Look(bp.Callback):
        def on_epoch_end(self, network, history):
            weights.append(network.parameters["2.W"].copy())
            seen.append(str(bp.gradient_flow(network, X[:50], y[:50])))

    net.fit(X, y, epochs=3, callbacks=[Look(), record])
    plain.fit(X, y, epochs=3)
    assert bytes_of(net) == bytes_of(plain)
    assert record.epochs == [0, 1, 2, 3]
    assert record.flows[0].rows == 50
    assert np.isnan(record.column("update_ratio")[0]).all()
    for epoch in (1, 2, 3):
        ratio = norm(weights[epoch] - weights[epoch - 1]) / norm(weights[epoch - 1])
        assert record.flows[epoch][2].update_ratio == pytest.approx(ratio, rel=1e-10)
        # Everything except the ratio equals gradient_flow at that time.
        here = [line.rsplit(maxsplit=1)[0] for line in str(record.flows[epoch]).splitlines()[1:-3]]
        there = [line.rsplit(maxsplit=1)[0] for line in seen[epoch - 1].splitlines()[1:-3]]
        assert [h.split() for h in here] == [t.split() for t in there]
    net.fit(X, y, epochs=2, callbacks=[record])
    assert record.epochs == [0, 1, 2, 3, 4, 5]
    assert record.column("gradient_norm").shape == (6, 4)


def test_the_pictures(tmp_path, rng):
    pytest.importorskip("matplotlib")
    X, y = data(rng)
    net = network("native")
    record = bp.GradientFlow(X, y)
    with pytest.raises(ValueError, match="this GradientFlow is empty"):
        record.plot()
    net.fit(X, y, epochs=3, callbacks=[record])
    figure = record.plot(tmp_path / "record.png")
    assert [axis.get_ylabel() for axis in figure.axes] == [
        "‖∂L/∂W‖", "‖ΔW‖ / ‖W‖ per epoch", "share where f is flat",
    ]  # fmt: skip
    assert figure.axes[0].get_yscale() == "log"
    assert len(figure.axes[0].get_lines()) == 3
    line = figure.axes[0].get_lines()[0]
    assert list(line.get_ydata()) == [flow[0].gradient_norm for flow in record.flows]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [op.name for op in record.flows[0]]
    figure = record.flows[-1].plot(tmp_path / "flow.png")
    assert [text.get_text() for text in figure.axes[-1].get_xticklabels()] == [
        op.name for op in record.flows[-1]
    ]
    for name in ("record", "flow"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    # Nothing to draw on a logarithmic axis.
    zeros = bp.Network([bp.Dense(2, initializer="zeros")], n_inputs=5, loss="squared_error")
    bp.gradient_flow(zeros, X, np.zeros((60, 2)), optimizer="sgd").plot(tmp_path / "zeros.png")


def test_errors(rng):
    X, y = data(rng)
    net = network("native")
    with pytest.raises(ValueError, match="X has 4 columns"):
        bp.gradient_flow(net, X[:, :4], y)
    with pytest.raises(ValueError, match="unknown optimizer"):
        bp.gradient_flow(net, X, y, optimizer="what")
    with pytest.raises(TypeError, match="gradient_flow: training must be True or False"):
        bp.gradient_flow(net, X, y, training=1)
    with pytest.raises(ValueError, match="GradientFlow: rows must be at least 1"):
        bp.GradientFlow(X, y, rows=0)
    with pytest.raises(ValueError, match="X has 4 columns"):
        net.fit(X, y, callbacks=[bp.GradientFlow(X[:, :4], y)])


def every_layer(backend):
    layers = [
        bp.Dense(8, "sigmoid"),
        bp.BatchNorm(),
        bp.Auxiliary(3),
        bp.Residual(bp.Dense(6, "tanh"), bp.PReLU()),
        bp.LayerNorm(),
        bp.Maxout(4),
        bp.Dropout(0.3),
        bp.RReLU(),
        bp.Dense(3),
    ]
    return bp.Network(layers, n_inputs=5, loss="cross_entropy", dtype="float64", backend=backend)


def test_every_layer_in_training_and_in_prediction(backend, bytes_of, rng):
    X, y = data(rng, 200)
    net = every_layer(backend)
    net.fit(X, y, epochs=2)

    def state():
        return bytes_of(net), {name: array.tobytes() for name, array in net.statistics.items()}

    before = state()
    names = [
        "0 dense 5-8 sigmoid", "1 batch_norm 8-8", "2 dense 8-3", "3.0 dense 8-6 tanh", "3.1 prelu 6-6",
        "3.skip dense 8-6", "3 add 6-6", "4 layer_norm 6-6", "5 dense 6-8", "5 maxout 8-4", "6 dropout 4-4",
        "7 rrelu 4-4", "8 dense 4-3",
    ]  # fmt: skip
    for training in (True, False):
        flow = bp.gradient_flow(net, X, y, training=training)
        # The auxiliary head runs only in training.
        assert [op.name for op in flow] == [n for n in names if training or n != "2 dense 8-3"]
        gradients = net.gradients(X, y, training=training)
        ops = [op for op in net.program.ops if training or not op.head]
        for op, figures in zip(ops, flow, strict=True):
            if op.W is not None:
                assert figures.gradient_norm == pytest.approx(norm(gradients[op.W.name]), rel=1e-9)
        # Rows are always normalised with their own statistics, batches only in training.
        assert flow[-6].name == "4 layer_norm 6-6"
        assert flow[-6].deviation == pytest.approx(1, abs=0.1)
        assert (abs(flow[1].mean) < 0.01) == training
    assert state() == before


def test_frozen_layers_have_no_update(backend, rng):
    X, y = data(rng)
    net = network(backend)
    net.freeze_layers(0)
    record = bp.GradientFlow(X, y)
    net.fit(X, y, epochs=2, callbacks=[record])
    for flow in (record.flows[-1], bp.gradient_flow(net, X, y), bp.gradient_flow(net, X, y, optimizer="sgd")):
        assert flow[0].update_ratio == 0
        assert flow[2].update_ratio > 0
        assert flow[0].gradient_norm > 0


def test_the_record_of_l_bfgs(rng):
    pytest.importorskip("scipy")
    X, y = data(rng)
    net = network("native")
    record = bp.GradientFlow(X, y)
    net.fit(X, y, epochs=5, optimizer=bp.LBFGS(), callbacks=[record])
    assert record.epochs == list(range(len(record.flows)))
    assert len(record.flows) > 2
    assert (record.column("update_ratio")[1:, 0] > 0).all()
    assert record.flows[-1].loss < record.flows[0].loss
