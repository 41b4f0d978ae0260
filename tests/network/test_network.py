"""Network, fit, callbacks, files and diagnostics, as a user meets them."""

import copy
import math
import pickle

import numpy as np
import pytest

import bpfast as bp
from bpfast import reference
from bpfast.activations import activations
from bpfast.losses import losses
from bpfast.optimizers import optimizers

over_dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])
over_losses = pytest.mark.parametrize("loss", list(losses))


@pytest.fixture
def problem(rng, make_targets):
    """problem(loss, rows, outputs) -> X (rows, 3), y."""

    def problem(loss="squared_error", rows=20, outputs=2):
        return rng.normal(size=(rows, 3)), make_targets(loss, rows, outputs, rng)

    return problem


# ---------------------------------------------------------------------------------------------
# What a network has and gives.


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


def test_what_is_given_back_is_no_view(build, problem, bytes_of):
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
    """Read-only arrays are taken, and nothing is written into arrays that could be."""
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


# ---------------------------------------------------------------------------------------------
# forward, backward, update.


def test_backward_fills_the_gradient(build, problem, error):
    X, y = problem()
    net = build((3, 5, 2), "gelu")
    Z = net.forward(X, training=True)
    dX = net.backward(2 * (Z - y) / y.size)
    for name, gradient in net.gradients(X, y).items():
        assert error(net.gradient[name], gradient) <= 1e-13
    slopes = np.empty_like(X)
    for place in np.ndindex(X.shape):
        moved, sides = X.copy(), []
        for side in (1e-5, -1e-5):
            moved[place] = X[place] + side
            sides.append(net.loss(moved, y))
        slopes[place] = (sides[0] - sides[1]) / 2e-5
    assert error(dX, slopes) <= 1e-8


def test_backward_again_gives_the_same(build, problem):
    """The last forward for training counts, whatever is asked of the network in between."""
    X, y = problem()
    net = build()
    net.forward(X[:5], training=True)
    dY = np.arange(10.0).reshape(5, 2)
    first, gradient = net.backward(dY), {name: g.copy() for name, g in net.gradient.items()}
    net.predict(X), net.forward(X[:7]), net.loss(X, y)
    assert np.array_equal(net.backward(dY), first)
    for name, g in net.gradient.items():
        assert np.array_equal(g, gradient[name])


def test_backward_is_linear_and_does_not_add_up(build, problem, error):
    X, _ = problem()
    net = build()
    net.forward(X, training=True)
    dY = np.cos(np.arange(40.0)).reshape(20, 2)
    net.backward(dY)
    once = {name: g.copy() for name, g in net.gradient.items()}
    net.backward(3 * dY)
    for name, g in net.gradient.items():
        assert error(g, 3 * once[name]) <= 1e-14


def nothing(net, X, y):
    pass


#: what went before → the calls that must be refused after it
MISUSES = {
    "nothing": (nothing, "backward update"),
    "forward without training": (lambda net, X, y: net.forward(X), "backward update"),
    "predict": (lambda net, X, y: net.predict(X), "backward update"),
    "forward without backward": (lambda net, X, y: net.forward(X, training=True), "update"),
    "a new forward": (
        lambda net, X, y: (
            net.backward(net.forward(X, training=True)),
            net.forward(X, training=True),
        ),
        "update",
    ),
    "gradients": (lambda net, X, y: (net.forward(X, training=True), net.gradients(X, y)), "backward update"),
    "fit": (lambda net, X, y: (net.forward(X, training=True), net.fit(X, y, epochs=1)), "backward update"),
}


@pytest.mark.parametrize(
    ("before", "call"), [(name, call) for name, (_, calls) in MISUSES.items() for call in calls.split()]
)
def test_misuse_of_a_loop_of_ones_own(build, problem, bytes_of, before, call):
    X, y = problem()
    net = build()
    MISUSES[before][0](net, X, y)
    kept = bytes_of(net)
    with pytest.raises(RuntimeError, match=rf"{call} needs forward\(X, training=True\)"):
        net.backward(np.ones((20, 2))) if call == "backward" else net.update("adam")
    assert bytes_of(net) == kept


@pytest.mark.parametrize(
    ("dY", "match"),
    [
        (np.ones((19, 2)), r"dY has 19 rows; the last forward expects 20"),
        (np.ones((20, 3)), r"dY has 3 columns; the last forward expects 2"),
        (np.ones(20), r"dY must be a 2-dimensional array"),
        (np.full((20, 2), np.nan), r"dY contains NaN in row 0, column 0"),
        (np.full((20, 2), np.inf), r"dY contains infinity in row 0, column 0"),
    ],
)
def test_bad_deltas(build, problem, dY, match):
    net = build()
    net.forward(problem()[0], training=True)
    with pytest.raises(ValueError, match=match):
        net.backward(dY)
    assert not any(g.any() for g in net.gradient.values())


def test_two_networks_against_each_other(build, rng):
    """A generator learns through a critic: the gradient of its output is the critic's dX."""
    noise, real = rng.normal(size=(64, 3)), 3 + 0.1 * rng.normal(size=(64, 1))
    generator, critic = build((3, 8, 1), seed=1), build((1, 8, 1), loss="log_loss", seed=2)
    ones, zeros = np.ones((64, 1)), np.zeros((64, 1))
    start = generator.forward(noise).mean()
    for _ in range(200):
        fake = generator.forward(noise, training=True)
        critic.fit(np.vstack([real, fake]), np.vstack([ones, zeros]), epochs=1, optimizer=bp.Adam(0.02))
        # The critic's delta for targets of 1: sigmoid(z) - 1.
        Z = critic.forward(fake, training=True)
        generator.backward(critic.backward((1 / (1 + np.exp(-Z)) - 1) / 64))
        generator.update(bp.Adam(0.02))
    assert abs(start - 3) > 2
    assert abs(generator.forward(noise).mean() - 3) < 1


# ---------------------------------------------------------------------------------------------
# fit.


@over_losses
@over_dtypes
def test_fit_lowers_the_loss(build, problem, loss, dtype):
    X, y = problem(loss, rows=60)
    net = build((3, 8, 2), "tanh", loss, dtype=dtype)
    before = net.loss(X, y)
    history = net.fit(X, y, epochs=40, batch_size=16, optimizer=bp.Adam(0.02))
    assert net.loss(X, y) < before - 0.05 * abs(before)
    assert history.loss[-1] < history.loss[0]
    assert len(history) == net.epochs == 40


@pytest.mark.parametrize("activation", [name for name in activations if name != "identity"])
def test_every_activation_learns_xor(build, activation):
    X, y = np.array([[0, 0], [0, 1], [1, 0], [1, 1]]) * 2 - 1, np.array([0, 1, 1, 0])
    net = build((2, 12, 1), activation, "log_loss", seed=3)
    net.fit(X, y, epochs=400, batch_size=None, optimizer=bp.Adam(0.05))
    assert (net.predict(X)[:, 0] > 0.5).tolist() == y.astype(bool).tolist()


@pytest.mark.parametrize("weighted", [False, True])
def test_loss_of_history_is_before_each_update(build, problem, rng, weighted):
    """Batches of 8, 8 and 4 rows; the epoch's loss is their mean over rows, by weight."""
    X, y = problem()
    w = rng.random(20) if weighted else np.ones(20)
    net, twin = build(), build()
    options = {"epochs": 2, "batch_size": 8, "shuffle": False, "optimizer": bp.SGD(0.3)}
    history = net.fit(X, y, sample_weight=w if weighted else None, **options)
    for epoch in range(2):
        total = 0.0
        for start in (0, 8, 16):
            rows = slice(start, start + 8)
            total += twin.loss(X[rows], y[rows], sample_weight=w[rows]) * w[rows].sum()
            gradients = twin.gradients(X[rows], y[rows], sample_weight=w[rows])
            for name, array in twin.parameters.items():
                array -= 0.3 * gradients[name]
        assert history.loss[epoch] == pytest.approx(total / w.sum(), rel=1e-12)


def test_shuffle_is_the_permutation_of_seed_and_epoch(build, problem, bytes_of):
    X, y = problem()
    w = np.linspace(0.5, 2, 20)
    net, twin = build(seed=11), build(seed=11)
    net.fit(X, y, epochs=3, batch_size=8, sample_weight=w)
    for epoch in range(3):
        order = reference.permutation(20, 11, epoch)
        twin.fit(X[order], y[order], epochs=1, batch_size=8, shuffle=False, sample_weight=w[order])
    assert bytes_of(net) == bytes_of(twin)


@over_dtypes
def test_same_seed_same_bytes(build, problem, bytes_of, dtype):
    X, y = problem("cross_entropy", rows=50)
    trained = []
    for seed, threads in ((5, None), (5, 1), (5, 2), (6, None)):
        net = build((3, 7, 2), "relu", "cross_entropy", seed=seed, dtype=dtype, threads=threads)
        start = bytes_of(net)
        net.fit(X, y, epochs=3, batch_size=8)
        trained.append((start, bytes_of(net)))
    assert trained[0] == trained[1] == trained[2]
    assert all(trained[0][0][name] != trained[3][0][name] for name in trained[0][0])
    assert all(trained[0][1][name] != trained[3][1][name] for name in trained[0][1])


def test_the_seed_orders_the_rows(build, problem, bytes_of, copy_parameters):
    X, y = problem()
    one, other = build(seed=5), build(seed=6)
    copy_parameters(one, other)
    for net in (one, other):
        net.fit(X, y, epochs=1, batch_size=4)
    assert bytes_of(one) != bytes_of(other)


@over_losses
def test_integer_weights_repeat_rows(build, problem, error, loss):
    X, y = problem(loss)
    counts = np.arange(20) % 4
    weighted, repeated = build(loss=loss), build(loss=loss)
    options = {"epochs": 10, "batch_size": None, "shuffle": False, "optimizer": bp.SGD(0.1, momentum=0.9)}
    a = weighted.fit(X, y, sample_weight=counts, **options)
    b = repeated.fit(np.repeat(X, counts, axis=0), np.repeat(y, counts, axis=0), **options)
    assert a.loss == pytest.approx(b.loss, rel=1e-12)
    for name, array in weighted.parameters.items():
        assert error(array, repeated.parameters[name]) <= 1e-12


def test_the_scale_of_weights_does_not_matter(build, problem, bytes_of, rng):
    X, y = problem()
    w = rng.random(20)
    one, scaled = build(), build()
    one.fit(X, y, epochs=3, batch_size=6, sample_weight=w)
    scaled.fit(X, y, epochs=3, batch_size=6, sample_weight=1024 * w)  # a power of 2 rounds alike
    assert bytes_of(one) == bytes_of(scaled)


@pytest.mark.parametrize("batch_size", [None, 4])
def test_rows_without_weight_are_ignored_however_wrong(build, problem, error, batch_size):
    """Squares that overflow count for nothing; whole batches of such rows neither."""
    X, y = problem()
    w = np.ones(20)
    w[4:8], w[13] = 0.0, 0.0
    wild = y.copy()
    wild[4:8], wild[13] = 1e200, -1e200
    options = {"epochs": 5, "batch_size": batch_size, "shuffle": False, "optimizer": bp.SGD(0.1)}
    net, tame = build(), build()
    assert net.loss(X, wild, sample_weight=w) == tame.loss(X, y, sample_weight=w)
    a = net.fit(X, wild, sample_weight=w, **options)
    b = tame.fit(X, y, sample_weight=w, **options)
    assert a.loss == b.loss
    for name, array in net.parameters.items():
        assert np.array_equal(array, tame.parameters[name])
        assert np.isfinite(net.gradients(X, wild, sample_weight=w)[name]).all()
    if batch_size is None:
        fewer = build()
        fewer.fit(X[w > 0], y[w > 0], **options)
        for name, array in net.parameters.items():
            assert error(array, fewer.parameters[name]) <= 1e-13


def test_history(build, problem):
    X, y = problem()
    plain = build().fit(X, y, epochs=3)
    assert list(plain.columns) == ["loss", "learning_rate", "seconds"]
    net = build()
    history = net.fit(X, y, epochs=3, penalty=bp.L2(0.1), validation=(X, y))
    assert set(history.columns) == {"loss", "learning_rate", "seconds", "penalty", "val_loss", "val_r2"}
    assert all(len(column) == 3 for column in history.columns.values())
    assert len(history) == 3
    assert all(type(value) is float for column in history.columns.values() for value in column)
    assert all(seconds > 0 for seconds in history.seconds)
    assert history["val_loss"] is history.val_loss is history.columns["val_loss"]
    assert "val_loss" in history
    assert "val_loss" not in plain
    assert history.val_loss[-1] == net.loss(X, y)
    assert history.penalty[-1] == net.penalty(bp.L2(0.1))
    with pytest.raises(KeyError, match=r"no column 'val_loss'; it has loss, learning_rate, seconds"):
        plain["val_loss"]
    with pytest.raises(AttributeError, match=r"no column 'val_loss'"):
        plain.val_loss  # noqa: B018
    assert repr(bp.History()) == "<bpfast.History of 0 epochs>"
    assert repr(history).startswith(f"<bpfast.History of 3 epochs; last: loss {history.loss[-1]:.4g}, ")
    assert copy.deepcopy(history).columns == pickle.loads(pickle.dumps(history)).columns == history.columns


def test_columns_of_losses(build, problem):
    for loss in losses:
        X, y = problem(loss)
        history = build(loss=loss).fit(X, y, epochs=1, validation=(X, y))
        metric = "val_accuracy" if loss in CLASSIFIERS else "val_r2"
        assert list(history.columns) == ["loss", "learning_rate", "seconds", "val_loss", metric]
        assert -9 < history[metric][0] <= 1


CLASSIFIERS = {"cross_entropy", "log_loss", "exponential", "hinge"}


def test_validation_with_weights(build, problem, rng):
    X, y = problem("cross_entropy")
    Xv, yv = problem("cross_entropy", rows=11)
    wv = rng.random(11)
    net = build(loss="cross_entropy")
    history = net.fit(X, y, epochs=2, validation=(Xv, yv, wv))
    assert net.loss(Xv, yv) != history.val_loss[-1] == net.loss(Xv, yv, sample_weight=wv)
    right = net.predict(Xv).argmax(axis=1) == yv
    assert history.val_accuracy[-1] == pytest.approx(wv[right].sum() / wv.sum(), rel=1e-14)


def test_validation_and_callbacks_do_not_change_the_training(build, problem, bytes_of):
    X, y = problem()
    plain, watched = build(), build()
    plain.fit(X, y, epochs=4, batch_size=8)
    watched.fit(X, y, epochs=4, batch_size=8, validation=(X[:3], y[:3]), callbacks=[bp.Callback()])
    assert bytes_of(plain) == bytes_of(watched)


def test_r2_of_a_constant_target_is_0(build, problem):
    X, _ = problem()
    history = build((3, 1)).fit(X, np.ones(20), epochs=1, validation=(X, np.ones(20)))
    assert history.val_r2 == [0.0]


def test_a_batch_larger_than_the_data_is_all_of_it(build, problem, bytes_of):
    X, y = problem()
    nets = [build() for _ in range(3)]
    for net, size in zip(nets, (20, 10**9, None), strict=True):
        net.fit(X, y, epochs=2, batch_size=size)
    assert bytes_of(nets[0]) == bytes_of(nets[1]) == bytes_of(nets[2])


def test_a_single_row(build, problem):
    X, y = problem(rows=1)
    net = build()
    assert net.fit(X, y, epochs=3, validation=(X, y)).loss[0] > net.loss(X, y)


def test_progress_is_written_to_stderr(build, problem, capsys):
    X, y = problem()
    build().fit(X, y, epochs=2, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "2/2" in err
    assert "loss" in err
    build().fit(X, y, epochs=2)
    assert capsys.readouterr() == ("", "")


# ---------------------------------------------------------------------------------------------
# Callbacks.


class Recorder(bp.Callback):
    def __init__(self, events, name, stop_after=None):
        self.events, self.name, self.stop_after = events, name, stop_after

    def on_fit_begin(self, network, history):
        self.events.append((self.name, "begin", len(history)))

    def on_epoch_end(self, network, history):
        self.events.append((self.name, "epoch", len(history)))
        return len(history) == self.stop_after

    def on_fit_end(self, network, history):
        self.events.append((self.name, "end", len(history)))


class Keeper(bp.Callback):
    """Keeps the bytes of every epoch."""

    def __init__(self, bytes_of):
        self.bytes_of, self.seen = bytes_of, []

    def on_fit_begin(self, network, history):
        self.seen.append(self.bytes_of(network))

    def on_epoch_end(self, network, history):
        self.seen.append(self.bytes_of(network))


def test_order_of_callbacks(build, problem):
    X, y = problem()
    events = []
    callbacks = [Recorder(events, "a", stop_after=2), Recorder(events, "b")]
    net = build()
    history = net.fit(X, y, epochs=5, callbacks=callbacks)
    expected = [("begin", 0), ("epoch", 1), ("epoch", 2), ("end", 2)]
    assert events == [(name, *event) for event in expected for name in "ab"]
    assert len(history) == net.epochs == 2


def test_one_callback_needs_no_list(build, problem):
    events = []
    build().fit(*problem(), epochs=1, callbacks=Recorder(events, "a"))
    assert [event[1] for event in events] == ["begin", "epoch", "end"]


def test_callbacks_hear_of_the_end_when_training_fails(build, problem):
    X, y = problem()
    events = []
    net = build((3, 2))
    with pytest.raises(FloatingPointError):
        net.fit(X, y, epochs=50, optimizer=bp.SGD(1e100), callbacks=[Recorder(events, "a")])
    assert events[-1][1] == "end"
    assert [event[1] for event in events].count("end") == 1


def test_a_callback_that_raises_leaves_a_network_that_trains(build, problem):
    class Breaks(bp.Callback):
        def on_epoch_end(self, network, history):
            raise KeyError("mine")

    X, y = problem()
    net = build()
    with pytest.raises(KeyError, match="mine"):
        net.fit(X, y, epochs=3, callbacks=[Breaks()])
    assert net.epochs == 1
    net.fit(X, y, epochs=2)
    assert net.epochs == 3


def test_no_fit_inside_a_fit(build, problem):
    X, y = problem()

    class Nested(bp.Callback):
        def on_epoch_end(self, network, history):
            network.fit(X, y, epochs=1)

    net = build()
    with pytest.raises(RuntimeError, match="one fit at a time"):
        net.fit(X, y, epochs=2, callbacks=[Nested()])
    assert net.epochs == 1
    net.fit(X, y, epochs=1)
    assert net.epochs == 2


@pytest.mark.parametrize(
    ("monitor", "values", "options", "stops_at", "best_epoch"),
    [
        ("val_loss", [5, 4, 3, 4, 5, 6, 7], {"patience": 3}, 5, 2),
        ("val_loss", [5, 4, 4, 4, 4], {"patience": 2}, 3, 1),
        ("loss", [1, 2, 3], {"patience": 1}, 1, 0),
        ("val_loss", [5, 4.9, 4.8, 4.7, 4.6], {"patience": 2, "min_delta": 0.5}, 2, 0),
        ("val_loss", [5, 4.7, 4.4, 4.1], {"patience": 2, "min_delta": 0.5}, None, 2),
        ("val_accuracy", [0.1, 0.5, 0.4, 0.5, 0.3], {"patience": 2}, 3, 1),
        ("val_r2", [-3, -2, -1, -2, -2], {"patience": 2}, 4, 2),
        ("val_loss", [math.nan, math.nan, math.nan], {"patience": 2}, 1, -1),
        ("val_loss", [5, 4, 3, 2, 1], {"patience": 1}, None, 4),
    ],
)
def test_early_stopping_by_figures(build, monitor, values, options, stops_at, best_epoch):
    stopping, net = bp.EarlyStopping(monitor, **options), build()
    for again in range(2):  # a second fit starts afresh
        history = bp.History(monitor)
        stopping.on_fit_begin(net, history)
        stopped = None
        for epoch, value in enumerate(values):
            history.add(**{monitor: value})
            if stopping.on_epoch_end(net, history):
                stopped = epoch
                break
        assert (stopped, stopping.best_epoch) == (stops_at, best_epoch), f"run {again}"
        assert best_epoch < 0 or stopping.best == values[best_epoch]


@pytest.mark.parametrize("restore", [True, False])
def test_early_stopping_in_a_fit(build, rng, bytes_of, restore):
    """Few noisy rows are learnt by heart: the validation loss falls, then rises."""
    X, y = rng.normal(size=(15, 3)), rng.normal(size=(15, 2))
    Xv = rng.normal(size=(40, 3))
    net, keeper = build((3, 20, 2)), Keeper(bytes_of)
    yv = net.predict(Xv) + 0.3
    stopping = bp.EarlyStopping(patience=4, restore_best=restore)
    history = net.fit(
        X, y, epochs=100, optimizer=bp.Adam(0.02), validation=(Xv, yv), callbacks=[keeper, stopping]
    )
    best = int(np.argmin(history.val_loss))
    assert stopping.best_epoch == best
    assert stopping.best == history.val_loss[best]
    assert len(history) == best + 1 + 4 < 100
    assert bytes_of(net) == keeper.seen[best + 1 if restore else -1]
    assert keeper.seen[best + 1] != keeper.seen[-1]


def test_early_stopping_restores_also_when_it_did_not_stop(build, problem, bytes_of):
    X, y = problem()
    net, keeper = build(), Keeper(bytes_of)
    away = net.predict(X) - 5 * (y - net.predict(X))
    callbacks = [keeper, bp.EarlyStopping(patience=50)]
    history = net.fit(X, y, epochs=5, validation=(X, away), callbacks=callbacks)
    best = int(np.argmin(history.val_loss))
    assert best < 4
    assert bytes_of(net) == keeper.seen[best + 1]


# ---------------------------------------------------------------------------------------------
# Numbers that run away.


def blow_up(rate, x=1.0, w=1.0, batches=3):
    """The epoch and batch at which a weight on w² overflows: w ← w - η 2 w x², the loss (w x)²."""
    step = 0
    while True:
        z = w * x
        if not math.isfinite(z * z):
            return divmod(step, batches)
        w -= rate * 2 * z * x
        step += 1


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("rate", [1e3, 1e20, 1e40, 1e70, 1e150])
def test_a_learning_rate_that_blows_up(backend, bytes_of, rate, shuffle):
    layer = bp.Dense(1, initializer=bp.Constant(1.0), bias=False)
    net = bp.Network([layer], n_inputs=1, loss="squared_error", dtype="float64", backend=backend)
    keeper = Keeper(bytes_of)
    epoch, batch = blow_up(rate)
    text = rf"the loss became infinite in epoch {epoch}, batch {batch}; the network keeps the weights"
    with pytest.raises(FloatingPointError, match=text):
        net.fit(
            np.ones((6, 1)),
            np.zeros(6),
            epochs=1000,
            batch_size=2,
            optimizer=bp.SGD(rate),
            shuffle=shuffle,
            callbacks=[keeper],
        )
    assert len(keeper.seen) == epoch + 1  # the start and every good epoch
    assert bytes_of(net) == keeper.seen[-1]
    assert net.epochs == epoch
    assert np.isfinite(net.parameters["0.W"]).all()


@pytest.mark.parametrize("name", ["sgd", "adam", "rmsprop"])
@pytest.mark.parametrize("activation", ["relu", "silu", "softplus"])
@pytest.mark.parametrize(("dtype", "rate"), [("float32", 1e30), ("float64", 1e200)])
def test_after_a_blow_up_training_starts_afresh(build, problem, bytes_of, name, activation, dtype, rate):
    X, y = problem()

    def optimizer(rate):
        return bp.SGD(rate, momentum=0.9) if name == "sgd" else optimizers[name](rate)

    net, fresh = build((3, 6, 2), activation, dtype=dtype), build((3, 6, 2), activation, dtype=dtype)
    start = bytes_of(net)
    with pytest.raises(FloatingPointError, match=r"in epoch 0, batch [1-4]; the network keeps"):
        net.fit(X, y, epochs=3, batch_size=4, optimizer=optimizer(rate))
    assert bytes_of(net) == start
    assert net.epochs == 0
    for each in (net, fresh):
        each.fit(X, y, epochs=3, batch_size=4, optimizer=optimizer(0.01))
    assert bytes_of(net) == bytes_of(fresh)


def test_weights_that_overflow_in_the_last_update(backend, bytes_of):
    layer = bp.Dense(1, initializer=bp.Constant(1e150), bias=False)
    net = bp.Network([layer], n_inputs=1, loss="squared_error", dtype="float64", backend=backend)
    before = bytes_of(net)
    with pytest.raises(FloatingPointError, match=r"the weights overflowed at the end of epoch 0"):
        net.fit([[1.0]], [0.0], epochs=1, optimizer=bp.SGD(1e200))
    assert bytes_of(net) == before
    assert net.epochs == 0


def test_a_loss_that_is_nan(build, problem, bytes_of):
    """In the second epoch, by a custom loss."""
    calls = []

    def function(Y, Z):
        calls.append(None)
        rows = ((Z - Y) ** 2).mean(axis=1)
        return (rows * math.nan if len(calls) == 5 else rows), 2 * (Z - Y) / Z.shape[1]

    X, y = problem()
    net, keeper = build(loss=bp.CustomLoss(function)), Keeper(bytes_of)
    with pytest.raises(FloatingPointError, match=r"the loss became NaN in epoch 1, batch 1"):
        net.fit(X, y, epochs=5, batch_size=7, callbacks=[keeper])
    assert len(calls) == 5
    assert bytes_of(net) == keeper.seen[-1]
    assert net.epochs == 1


# ---------------------------------------------------------------------------------------------
# A loss of one's own.


def rows_and_deltas(name, parameter=1.0):
    """A built-in loss as a function of a user's."""

    def huber(Y, Z):
        R = Z - Y
        small = np.abs(R) <= parameter
        rows = np.where(small, R**2 / 2, parameter * (np.abs(R) - parameter / 2))
        return rows.mean(axis=1), np.where(small, R, parameter * np.sign(R)) / Z.shape[1]

    def cross_entropy(Y, Z):
        E = np.exp(Z)
        P = E / E.sum(axis=1, keepdims=True)
        return -(Y * np.log(P)).sum(axis=1), P - Y

    def squared_error(Y, Z):
        return ((Z - Y) ** 2).mean(axis=1), 2 * (Z - Y) / Z.shape[1]

    return {"huber": huber, "cross_entropy": cross_entropy, "squared_error": squared_error}[name]


@pytest.mark.parametrize("name", ["squared_error", "huber", "cross_entropy"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("wrap", [bp.CustomLoss, lambda function: function], ids=["CustomLoss", "function"])
def test_custom_loss_is_the_built_in_of_the_same_formula(build, problem, error, rng, name, weighted, wrap):
    X, y = problem("cross_entropy" if name == "cross_entropy" else name)
    Y = np.eye(2)[y] if name == "cross_entropy" else y
    w = rng.random(20) if weighted else None
    own, built_in = build(loss=wrap(rows_and_deltas(name))), build(loss=name)
    assert own.loss(X, Y, sample_weight=w) == pytest.approx(built_in.loss(X, Y, sample_weight=w), rel=1e-14)
    for gradient, expected in zip(
        own.gradients(X, Y, sample_weight=w).values(),
        built_in.gradients(X, Y, sample_weight=w).values(),
        strict=True,
    ):
        assert error(gradient, expected) <= 1e-13
    options = {
        "epochs": 5,
        "batch_size": 6,
        "penalty": bp.L1(0.01),
        "sample_weight": w,
        "optimizer": bp.SGD(0.1),
    }
    a, b = own.fit(X, Y, **options), built_in.fit(X, Y, **options)
    assert a.loss == pytest.approx(b.loss, rel=1e-12)
    for mine, theirs in zip(own.parameters.values(), built_in.parameters.values(), strict=True):
        assert error(mine, theirs) <= 1e-12


@pytest.mark.parametrize(
    ("result", "kind", "match"),
    [
        (lambda Y, Z: Z, TypeError, r"must return \(loss, D\)"),
        (
            lambda Y, Z: (0.5, Z),
            ValueError,
            r"must return arrays of shape \(\d+,\) and \(\d+, 2\); got \(\) and \(\d+, 2\)",
        ),
        (lambda Y, Z: (Z[:, 0], Z[:, :1]), ValueError, r"must return arrays of shape .*; got"),
        (lambda Y, Z: (Z[:, 0], None), TypeError, r"custom loss's D contains objects"),
        (lambda Y, Z: (np.array(["a"] * len(Z)), Z), TypeError, r"custom loss's loss contains strings"),
    ],
)
def test_bad_results_of_a_custom_loss(build, problem, bytes_of, result, kind, match):
    X, y = problem()
    net = build(loss=result)
    before = bytes_of(net)
    for call in (net.loss, net.gradients, net.fit):
        with pytest.raises(kind, match=match):
            call(X, y)
    assert bytes_of(net) == before
    assert net.epochs == 0


def test_a_custom_loss_that_fails_in_the_middle_of_an_epoch(build, problem, bytes_of):
    """The network is not left between two epochs."""
    calls = []

    def function(Y, Z):
        calls.append(None)
        if len(calls) == 7:  # the third batch of the second epoch
            raise ZeroDivisionError("mine")
        return rows_and_deltas("squared_error")(Y, Z)

    X, y = problem()
    net, keeper = build(loss=function), Keeper(bytes_of)
    with pytest.raises(ZeroDivisionError, match="mine"):
        net.fit(X, y, epochs=5, batch_size=5, callbacks=[keeper])
    assert net.epochs == 1
    assert len(keeper.seen) == 2
    assert bytes_of(net) == keeper.seen[-1]


# ---------------------------------------------------------------------------------------------
# check_gradients.

SMOOTH_ACTIVATIONS = [name for name in activations if activations[name].smooth]
SMOOTH_LOSSES = [name for name in losses if losses[name].smooth]


def test_what_is_smooth():
    assert set(SMOOTH_ACTIVATIONS) == {"identity", "sigmoid", "tanh", "elu", "gelu", "silu", "softplus"}
    assert set(SMOOTH_LOSSES) == set(losses) - {"absolute_error", "hinge", "quantile"}


@pytest.mark.parametrize("activation", SMOOTH_ACTIVATIONS)
@pytest.mark.parametrize("loss", SMOOTH_LOSSES)
def test_gradients_by_differences(build, problem, bytes_of, activation, loss):
    X, y = problem(loss, rows=8)
    net = build((3, 5, 4, 2), activation, loss)
    before = bytes_of(net)
    assert bp.check_gradients(net, X, y) < 1e-6
    assert bp.check_gradients(net, X, y, sample_weight=np.arange(8.0), penalty=bp.L2(0.1)) < 1e-6
    assert bytes_of(net) == before


@pytest.mark.parametrize("activation", sorted(set(activations) - set(SMOOTH_ACTIVATIONS)))
@pytest.mark.parametrize("loss", ["squared_error", "absolute_error", "hinge"])
def test_gradients_away_from_kinks(build, problem, activation, loss):
    assert bp.check_gradients(build((3, 5, 2), activation, loss), *problem(loss)) < 1e-6


@pytest.mark.parametrize("penalty", [bp.L2(0.3), bp.Frobenius(0.3)], ids=str)
def test_gradients_with_penalties(build, problem, penalty):
    assert bp.check_gradients(build(), *problem(), penalty=penalty) < 1e-6


@pytest.mark.parametrize("penalty", [bp.L1(0.1), bp.L0(0.1), bp.ElasticNet(0.1)], ids=str)
def test_check_gradients_refuses_what_has_none(build, problem, penalty):
    with pytest.raises(ValueError, match=rf"penalty must be smooth; {penalty.name} is not diff"):
        bp.check_gradients(build(), *problem(), penalty=penalty)


def test_check_gradients_in_float32(build, problem):
    X, y = problem()
    assert bp.check_gradients(build(dtype="float32"), X.astype("f4").astype("f8"), y.astype("f4")) < 1e-5


def test_check_gradients_finds_what_is_wrong(build, problem):
    def wrong(Y, Z):
        rows, D = rows_and_deltas("squared_error")(Y, Z)
        return rows, 1.01 * D

    assert bp.check_gradients(build(loss=wrong), *problem()) == pytest.approx(0.01, rel=1e-3)


def test_check_gradients_of_a_part_of_a_large_network(build, problem):
    X, y = problem()
    assert bp.check_gradients(build((3, 60, 60, 2)), X, y, max_parameters=50) < 1e-6


# ---------------------------------------------------------------------------------------------
# Copies and files.


def clone_by_pickle(net):
    return pickle.loads(pickle.dumps(net))


@pytest.mark.parametrize("clone", [clone_by_pickle, copy.deepcopy], ids=["pickle", "deepcopy"])
@pytest.mark.parametrize(
    "optimizer", [bp.SGD(bp.Cosine(0.1, 6), momentum=0.9), bp.Adam(0.01), bp.Rprop()], ids=str
)
@over_dtypes
def test_copies_go_on_alike(build, problem, bytes_of, clone, optimizer, dtype):
    X, y = problem("cross_entropy")
    options = {"batch_size": None if optimizer.full_batch else 8, "optimizer": optimizer, "epochs": 3}
    net = build(loss="cross_entropy", dtype=dtype, seed=4)
    net.metadata["scaling"] = "none"
    net.fit(X, y, **options)
    twin = clone(net)
    assert bytes_of(twin) == bytes_of(net)
    assert np.array_equal(twin.predict(X), net.predict(X))
    assert (twin.epochs, twin.seed, twin.metadata) == (3, 4, {"scaling": "none"})
    assert repr(twin) == repr(net)
    assert twin.backend == net.backend
    kept = bytes_of(net)
    history = twin.fit(X, y, **options)
    assert bytes_of(net) == kept  # nothing is shared
    assert net.fit(X, y, **options).loss == history.loss
    assert bytes_of(twin) == bytes_of(net) != kept


def test_a_copy_shares_nothing(build, rng):
    net = build()
    twin = copy.copy(net)
    net.fit(rng.normal(size=(10, 3)), rng.normal(size=(10, 2)), epochs=1)
    assert twin.epochs == 0
    assert any((a != twin.parameters[name]).any() for name, a in net.parameters.items())
