"""Layers in use: summaries, errors, interrupted and repeated passes."""

import numpy as np
import pytest

import bpfast as bp
from bpfast.engine.interface import Data, TrainingPass

N_INPUTS, N_OUTPUTS, ROWS = 5, 3, 11


def dense(units, activation="identity"):
    """A Dense with b ≠ 0. Before a BatchNorm the gradient of b is 0, and errors are relative."""
    return bp.Dense(units, activation, bias_initializer=bp.XavierUniform())


def network(stack, backend="native", loss="cross_entropy", **options):
    """A network of the stack followed by an output layer."""
    options = {"dtype": "float64", "seed": 4, "backend": backend, **options}
    return bp.Network([*stack, dense(N_OUTPUTS)], n_inputs=N_INPUTS, loss=loss, **options)


@pytest.fixture
def data(rng):
    return rng.normal(size=(ROWS, N_INPUTS)), rng.integers(0, N_OUTPUTS, ROWS)


def test_summary_shows_nested_layers():
    stack = [bp.Residual(bp.Dense(4, "relu"), bp.BatchNorm()), bp.Auxiliary(3, weight=0.5), bp.Dropout(0.25)]
    lines = network(stack).summary().splitlines()
    assert [line.split()[:2] for line in lines[1:-1]] == [
        ["0", "residual"],
        ["0.0", "dense"],
        ["0.1", "batch_norm"],
        ["1", "auxiliary"],
        ["2", "dropout"],
        ["3", "dense"],
    ]
    assert lines[1].split()[2:] == ["4", "projection", str(5 * 4)]
    assert lines[2].endswith(str(5 * 4 + 4))
    assert lines[3].endswith("8")
    assert "rate 0.25" in lines[5]
    # A head is beside the way: what comes in goes on.
    assert lines[4].split()[2:] == ["4", "head", "3", "×", "0.5", str(4 * 3 + 3)]


def test_summary_and_repr_of_projections_and_rates():
    stack = [bp.Residual(bp.Dense(6), bp.BatchNorm()), bp.LayerNorm(), bp.Maxout(8), bp.Auxiliary(3)]
    net = network(stack)
    net.freeze_layers("0.0", 1)
    net.scale_learning_rates({2: 0.5})
    lines = [line.split() for line in net.summary().splitlines()]
    assert lines[1][2:] == ["6", "projection", "30"]
    assert lines[2][2:] == ["6", "identity,", "frozen", "36"]
    assert lines[4][2:] == ["6", "frozen", "12"]
    assert lines[5][2:] == ["8", "2", "pieces,", "rate", "×", "0.5", str(6 * 16 + 16)]
    assert repr(net).startswith("<bpfast.Network 5-6-8-3 cross_entropy")


def test_predictions_between_forward_and_backward_change_nothing(data, backend, rng):
    X, _ = data
    stack = [bp.Residual(dense(4), bp.BatchNorm(), bp.PReLU()), bp.LayerNorm()]
    dY = rng.normal(size=(ROWS, N_OUTPUTS))
    gradients = []
    for disturbed in (False, True):
        net = network(stack, backend)
        net.forward(X, training=True)
        if disturbed:
            net.predict(X[:2])
        net.backward(dY)
        gradients.append({name: g.copy() for name, g in net.gradient.items()})
    for name, g in gradients[0].items():
        np.testing.assert_array_equal(gradients[1][name], g)


def test_gradients_in_training_mode_do_not_change_the_network(data, backend):
    net = network([bp.BatchNorm(), bp.Dropout(0.5), dense(4, "tanh")], backend)
    before, steps = net._state.flat.tobytes(), net._state.steps
    first, second = (net.gradients(*data, training=True)["2.W"] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert (net._state.flat.tobytes(), net._state.steps) == (before, steps)


def test_momentum_1_uses_the_statistics_of_the_batch(data, backend):
    X, _ = data
    net = network([bp.BatchNorm(momentum=0.1)], backend)
    net._state.engine.forward(net._state.flat, X, TrainingPass((0, 0), momentum=1.0))
    np.testing.assert_allclose(net.statistics["0.mean"], X.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(net.statistics["0.variance"], X.var(axis=0, ddof=1), rtol=1e-12)


WRONG = [
    (lambda: bp.BatchNorm(momentum=0), "BatchNorm: momentum must be greater than 0"),
    (lambda: bp.BatchNorm(epsilon=0), "BatchNorm: epsilon must be greater than 0"),
    (lambda: bp.BatchRenorm(r_max=0.5), "BatchRenorm: r_max must be at least 1"),
    (lambda: bp.BatchRenorm(begin=5, end=4), "BatchRenorm: end must be at least 5"),
    (lambda: bp.LayerNorm(epsilon="a"), "LayerNorm: epsilon must be a number"),
    (lambda: bp.Maxout(3, 0), "Maxout: pieces must be at least 1"),
    (lambda: bp.RReLU(0.5, 0.1), "RReLU: upper must be at least 0.5"),
    (lambda: bp.PReLU(np.nan), "PReLU: initial must be finite"),
    (lambda: bp.Residual(), "Residual requires at least one layer"),
    (lambda: bp.Residual(bp.Dense(3), 3), "Residual: layer 1 must be a layer"),
    (lambda: bp.Residual([bp.Dense(3)]), r"pass layers as separate arguments, not as a list: Residual\("),
    (lambda: bp.LayerNorm(64), "positional"),
    (lambda: bp.Auxiliary(3, 0.3), "Auxiliary: loss must be a name or a Loss object; got 0.3"),
    (lambda: bp.Dense(3, 3), "Dense: activation must be a name or an Activation object; got 3"),
    (lambda: bp.Dense(3, "softmax"), "the loss applies it to the outputs"),
    (lambda: bp.Auxiliary(3, weight=0), "Auxiliary: weight must be greater than 0"),
    (lambda: bp.Auxiliary(3, "softmax"), "unknown loss 'softmax'"),
    (lambda: network([bp.Auxiliary(4)]), r"layers\[0\]: Auxiliary: units must be 3"),
    (lambda: network([bp.Auxiliary(3, "huber")]), "Auxiliary: loss 'huber' expects y to contain values"),
    (
        lambda: bp.Network([bp.Auxiliary(3)], n_inputs=3, loss="huber"),
        "layers must include one that computes an output",
    ),
    (lambda: bp.SGD(clip_norm=0), "SGD: clip_norm must be greater than 0"),
    (lambda: bp.Adam(clip_value=-1), "Adam: clip_value must be greater than 0"),
]


@pytest.mark.parametrize(("make", "message"), WRONG)
def test_errors_say_what_is_wrong(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()


def test_values_require_both_passes(data, backend):
    net = network([dense(4, "tanh"), bp.Auxiliary(N_OUTPUTS)], backend)
    with pytest.raises(RuntimeError, match="a forward and a backward pass"):
        net._state.engine.values()
    net.forward(data[0], training=True)
    with pytest.raises(RuntimeError, match="a forward and a backward pass"):
        net._state.engine.values()
    net.backward(np.ones((ROWS, N_OUTPUTS)))
    assert [A.shape for A, _ in net._state.engine.values()] == [(ROWS, 4), (ROWS, N_OUTPUTS)]


def test_a_custom_training_loop_recovers_from_an_overflow(backend):
    net = bp.Network([bp.BatchNorm()], n_inputs=2, loss="squared_error", dtype="float32", backend=backend)
    X = np.array([[3e38, 1], [-3e38, 2]], np.float32)
    net.forward(X, training=True)
    net.gradients(X, X, training=True)
    assert all(np.isfinite(s).all() for s in net.statistics.values())
    assert net.statistics["0.mean"][1] == np.float32(0.15)


def test_every_op_has_its_delta(data):
    X, y = data
    stack = [bp.Activation("tanh"), bp.Dropout(0.2), bp.Residual(bp.Activation("tanh"))]
    values = []
    for backend in ("native", "reference"):
        net = network(stack, backend)
        if backend == "native":
            net.forward(X, training=True)
            net.backward(np.full((ROWS, N_OUTPUTS), 1e6))
        net._state.objective(Data(X, y), None, np.zeros_like(net._state.flat))
        values.append(net._state.engine.values())
    for (A, D), (B, E) in zip(*values, strict=True):
        np.testing.assert_allclose(A, B, atol=1e-14)
        np.testing.assert_allclose(D, E, atol=1e-14)


def test_an_interrupt_keeps_the_statistics_of_completed_steps(rng):
    import _thread
    import threading

    X, y = rng.normal(size=(4000, N_INPUTS)), rng.integers(0, N_OUTPUTS, 4000)
    stack = [dense(300, "relu"), bp.BatchNorm(), dense(300, "relu"), bp.BatchNorm()]
    net = network(stack)
    timer = threading.Timer(0.15, _thread.interrupt_main)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        net.fit(X, y, epochs=10**6, batch_size=500, shuffle=False, optimizer=bp.SGD(0.01))
    timer.join()
    assert net._state.steps > 0
    twin = network(stack)
    for step in range(net._state.steps):
        rows = slice(step % 8 * 500, step % 8 * 500 + 500)
        twin.fit(X[rows], y[rows], epochs=1, batch_size=500, shuffle=False, optimizer=bp.SGD(0.01))
    assert twin._state.flat.tobytes() == net._state.flat.tobytes()


def test_batch_norm_rejects_batches_of_one_row(data, backend):
    net = network([bp.Residual(bp.BatchNorm())], backend)
    before = net._state.flat.tobytes()
    with pytest.raises(ValueError, match=r"batch_size must be at least 2 for .* \(layers\[0.0\]\)"):
        net.fit(*data, batch_size=1)
    assert net._state.flat.tobytes() == before
    network([bp.LayerNorm()], backend).fit(*data, batch_size=1, epochs=1)
