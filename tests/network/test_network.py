"""Parameters, predictions and inputs of a network."""

import math

import numpy as np
import pytest

import bpfast as bp
from bpfast.losses import losses

over_dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])
over_losses = pytest.mark.parametrize("loss", list(losses))


@over_dtypes
@over_losses
def test_shapes_and_dtypes(build, problem, dtype, loss):
    X, y = problem(loss)
    net = build((3, 5, 4, 2), "silu", loss, dtype=dtype)
    assert net.dtype == dtype
    assert (net.n_inputs, net.n_outputs) == (3, 2)
    shapes = {"0.W": (3, 5), "0.b": (5,), "1.W": (5, 4), "1.b": (4,), "2.W": (4, 2), "2.b": (2,)}
    assert net.n_parameters == sum(math.prod(shape) for shape in shapes.values())
    for arrays in (net.parameters, net.gradients(X, y), net.gradient):
        assert {name: array.shape for name, array in arrays.items()} == shapes
        assert {array.dtype for array in arrays.values()} == {np.dtype(dtype)}
    for rows in (1, 2, 20):
        for Z in (net.predict(X[:rows]), net.forward(X[:rows]), net.forward(X[:rows], training=True)):
            assert Z.shape == (rows, 2)
            assert Z.dtype == dtype
            assert Z.flags.c_contiguous
    assert type(net.loss(X, y)) is float
    net.forward(X, training=True)
    dX = net.backward(np.ones((20, 2)))
    assert dX.shape == (20, 3)
    assert dX.dtype == dtype


def test_names_of_parameters(backend):
    layers = [bp.Dense(4, bias=False), bp.Activation("tanh"), bp.Dense(2)]
    net = bp.Network(layers, n_inputs=3, loss="squared_error", backend=backend)
    assert list(net.parameters) == ["0.W", "2.W", "2.b"]
    assert net.n_parameters == 12 + 8 + 2


def test_an_activation_layer_is_the_activation_of_the_layer_before(backend, problem, bytes_of):
    X, y = problem()
    one = bp.Network([bp.Dense(4, "gelu"), bp.Dense(2)], n_inputs=3, loss="huber", backend=backend)
    two = bp.Network(
        [bp.Dense(4, initializer="he_normal"), bp.Activation("gelu"), bp.Dense(2)],
        n_inputs=3,
        loss="huber",
        backend=backend,
    )
    for a, b in zip(one.parameters.values(), two.parameters.values(), strict=True):
        b[...] = a
    assert np.array_equal(one.predict(X), two.predict(X))
    for net in (one, two):
        net.fit(X, y, epochs=3, batch_size=6)
    assert list(bytes_of(one).values()) == list(bytes_of(two).values())


def test_parameters_are_live_views(build, problem):
    X, y = problem()
    net = build()
    views = dict(net.parameters)
    net.parameters["1.W"][...] = 0.0
    net.parameters["1.b"][...] = [1.0, -2.0]
    assert net.predict(X).tolist() == [[1.0, -2.0]] * 20
    net.fit(X, y, epochs=1)
    for name, array in net.parameters.items():
        assert views[name] is array
    assert views["1.b"].tolist() != [1.0, -2.0]
    with pytest.raises(TypeError):
        net.parameters["1.W"] = np.zeros((4, 2))


def test_results_are_not_views(build, problem, bytes_of):
    X, y = problem()
    net = build((3, 2))
    before, Z = bytes_of(net), net.predict(X)
    for array in (
        net.predict(X),
        net.forward(X),
        net.forward(X, training=True),
        *net.gradients(X, y).values(),
    ):
        array[...] = np.nan
    assert bytes_of(net) == before
    assert np.array_equal(net.predict(X), Z)


@over_losses
def test_predict_applies_the_link(build, problem, loss):
    X, _ = problem()
    net = build((3, 4, 2), loss=loss)
    Z, P = net.forward(X), net.predict(X)
    for z, p in zip(Z.tolist(), P.tolist(), strict=True):
        expected = {
            "sigmoid": lambda z: [1 / (1 + math.exp(-v)) for v in z],
            "softmax": lambda z: [math.exp(v) / math.fsum(map(math.exp, z)) for v in z],
            "exp": lambda z: [math.exp(v) for v in z],
            "identity": lambda z: z,
        }[losses[loss].link](z)
        assert p == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("link", ["identity", "sigmoid", "softmax", "exp"])
def test_link_of_a_custom_loss(build, problem, error, link):
    X, _ = problem()
    net = build(loss=bp.CustomLoss(lambda Y, Z: (Z.sum(axis=1), np.ones_like(Z)), output_link=link))
    same = {"identity": "huber", "sigmoid": "log_loss", "softmax": "cross_entropy", "exp": "poisson"}[link]
    assert error(net.predict(X), build(loss=same).predict(X)) <= 1e-15


@pytest.mark.parametrize(
    "make",
    [
        lambda X: X.tolist(),
        lambda X: np.asfortranarray(X),
        lambda X: np.repeat(X, 2, axis=0)[::2],
        lambda X: np.hstack([X, X])[:, :3],
        lambda X: X[::-1][::-1],
        lambda X: X.astype(">f8"),
        lambda X: X.astype("f4").astype("f8"),
        lambda X: np.frombuffer(b"\0" + X.tobytes(), dtype="u1")[1:].view("f8").reshape(X.shape),
    ],
    ids=[
        "list",
        "fortran",
        "strided rows",
        "strided columns",
        "reversed",
        "big endian",
        "float32",
        "unaligned",
    ],
)
def test_any_layout_gives_the_same(build, problem, bytes_of, make):
    X, y = problem()
    X, y = X.astype("f4").astype("f8"), y.astype("f4").astype("f8")
    net, twin = build(), build()
    assert np.array_equal(net.predict(make(X)), twin.predict(X))
    assert net.loss(make(X), y.tolist()) == twin.loss(X, y)
    net.fit(make(X), np.asfortranarray(y), epochs=2)
    twin.fit(X, y, epochs=2)
    assert bytes_of(net) == bytes_of(twin)


def test_integers_and_booleans_are_numbers(build):
    net = build()
    X = [[1, 0, 1], [0, 1, 1]]
    expected = net.predict(np.array(X, float))
    for dtype in (bool, "i1", "u2", "i8", "f2"):
        assert np.array_equal(net.predict(np.array(X, dtype)), expected)


def test_arrays_of_the_caller_are_only_read(build, problem):
    """Read-only arrays are accepted, and writable arrays are not modified."""
    X, y = problem("cross_entropy")
    w = np.linspace(0, 1, 20)
    kept = [a.tobytes() for a in (X, y, w)]
    for writable in (True, False):
        for array in (X, y, w):
            array.flags.writeable = writable
        net = build(loss="cross_entropy")
        net.fit(X, y, epochs=2, sample_weight=w, validation=(X, y, w), penalty=bp.L1(0.01))
        net.loss(X, y, sample_weight=w), net.gradients(X, y, sample_weight=w), net.predict(X)
        net.forward(X, training=True)
        dY = np.ones((20, 2))
        dY.flags.writeable = writable
        net.backward(dY)
        assert dY.tobytes() == np.ones((20, 2)).tobytes()
    assert [a.tobytes() for a in (X, y, w)] == kept


def test_classes_and_rows_of_probabilities_agree(build, problem, error):
    X, y = problem("cross_entropy", outputs=3)
    nets = [build((3, 4, 3), loss="cross_entropy") for _ in range(3)]
    targets = [y, np.eye(3)[y], y.astype(float)]
    assert nets[0].loss(X, y) == pytest.approx(nets[1].loss(X, targets[1]), rel=1e-15)
    for net, target in zip(nets, targets, strict=True):
        net.fit(X, target, epochs=5, validation=(X, target))
    for name, array in nets[0].parameters.items():
        assert error(nets[1].parameters[name], array) <= 1e-13
        assert np.array_equal(nets[2].parameters[name], array)


def test_summary(backend):
    net = bp.Network(
        [bp.Dense(1000, "relu"), bp.Activation("tanh"), bp.Dense(10, bias=False)],
        n_inputs=7,
        loss="cross_entropy",
        backend=backend,
    )
    lines = net.summary().splitlines()
    assert [line.split() for line in lines[:4]] == [
        ["layer", "output", "parameters"],
        ["0", "dense", "1000", "relu", "8,000"],
        ["1", "activation", "1000", "tanh", "0"],
        ["2", "dense", "10", "identity", "10,000"],
    ]
    assert len({len(line) for line in lines[:4]}) == 1
    assert lines[4].startswith("7 inputs, 18,000 parameters (")
    assert lines[4].endswith("loss cross_entropy")
    assert len(lines) == 5


def test_repr(build):
    assert repr(build((3, 4, 2), loss="huber")) == "<bpfast.Network 3-4-2 huber float64 26 parameters>"
