"""Clipping, weight noise, learning rate scales of layers, and L-BFGS."""

import copy
import threading

import numpy as np
import pytest

import bpfast as bp
from bpfast.native import _core
from bpfast.reference import ops as reference_ops

SIZES = {"n_inputs": 6, "loss": "cross_entropy", "dtype": "float64"}
RULES = [bp.SGD, bp.Adam, bp.AdamW, bp.RMSprop, bp.Adagrad]


def layers():
    return [
        bp.Dense(150, "tanh", bias_initializer=bp.XavierUniform()),
        bp.Residual(bp.BatchNorm(), bp.PReLU(), bp.Dense(150, bias=False)),
        bp.LayerNorm(),
        bp.Dense(4),
    ]


def network(backend="native", **options):
    return bp.Network(layers(), backend=backend, **{**SIZES, "seed": 2, **options})


@pytest.fixture
def data(rng):
    return rng.normal(size=(30, 6)), rng.integers(0, 4, 30)


def agree(ours, theirs, tolerance):
    scale = np.abs(theirs._state.flat).max()
    np.testing.assert_allclose(ours._state.flat, theirs._state.flat, atol=tolerance * scale, rtol=0)


# ---- clipping


@pytest.mark.parametrize(
    "clip", [{"clip_value": 1e-3}, {"clip_norm": 0.05}, {"clip_value": 0.01, "clip_norm": 0.1}]
)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("rows", [1, 7], ids=["a row", "seven rows"])
def test_clipping_is_the_same_in_both_engines(rule, clip, rows, data):
    stack = layers()
    if rows == 1:
        stack[1] = bp.Residual(bp.LayerNorm(), bp.PReLU(), bp.Dense(150, bias=False))
    nets = [bp.Network(stack, backend=backend, seed=2, **SIZES) for backend in ("native", "reference")]
    for net in nets:
        # Steps of ±clip_value bring a β from 0 back to 0 but for rounding, where PReLU has its kink.
        net.parameters["1.0.beta"][...] = np.linspace(0.1, 0.4, 150)
        # RMSprop makes whole steps of gradients that are 0 but for rounding, once a row is learnt.
        rate = 1e-4 if rule is bp.RMSprop else 0.01
        net.fit(*data, epochs=2, batch_size=rows, optimizer=rule(rate, **clip), penalty=bp.L2(0.01))
    agree(*nets, 1e-9 if rule is bp.SGD else 1e-6)


def clipped(gradients, value, norm):
    """Clipping by hand: each element, then the norm."""
    gradients = {name: np.clip(g, -value, value) for name, g in gradients.items()}
    total = np.sqrt(sum((g**2).sum() for g in gradients.values()))
    return {name: g * min(1, norm / total) for name, g in gradients.items()}


@pytest.mark.parametrize(("value", "norm"), [(np.inf, 0.1), (0.002, np.inf), (0.002, 0.01)])
def test_one_clipped_step_by_hand(value, norm, backend, data):
    net = network(backend)
    gradients = net.gradients(*data, training=True)
    assert np.sqrt(sum((g**2).sum() for g in gradients.values())) > 0.1
    before = {name: w.copy() for name, w in net.parameters.items()}
    rule = bp.SGD(
        0.5, clip_value=None if value == np.inf else value, clip_norm=None if norm == np.inf else norm
    )
    net.fit(*data, epochs=1, batch_size=None, optimizer=rule)
    for name, g in clipped(gradients, value, norm).items():
        np.testing.assert_allclose(net.parameters[name], before[name] - 0.5 * g, atol=1e-14)


@pytest.mark.parametrize("frozen", ["0.b", "0.W", "3.b", 2, "1.0.gamma", "1.2.W"])
def test_what_is_frozen_does_not_count_in_the_norm(frozen, data):
    nets = [network(backend) for backend in ("native", "reference")]
    for net in nets:
        net.freeze_layers(frozen)
        net.fit(*data, epochs=2, batch_size=9, optimizer=bp.SGD(0.1, clip_norm=0.05))
    agree(*nets, 1e-12)


def test_a_gradient_within_the_norm_is_left_alone(data):
    nets = [network(), network()]
    nets[0].fit(*data, epochs=2, optimizer=bp.SGD(0.1))
    nets[1].fit(*data, epochs=2, optimizer=bp.SGD(0.1, clip_norm=1e6, clip_value=1e6))
    agree(*nets, 1e-14)


def test_update_clips_too(backend, data):
    net = network(backend)
    dY = np.ones((30, 4))
    net.forward(data[0], training=True)
    net.backward(dY)
    gradient = {name: g.copy() for name, g in net.gradient.items()}
    before = {name: w.copy() for name, w in net.parameters.items()}
    net.freeze_layers("3.b")
    gradient["3.b"][...] = 0
    net.update(bp.SGD(1.0, clip_value=0.1, clip_norm=0.2))
    for name, g in clipped(gradient, 0.1, 0.2).items():
        np.testing.assert_allclose(net.parameters[name], before[name] - g, atol=1e-14)
    # What `backward` gave is still there.
    assert (net.gradient["3.b"] == 30).all()


def test_clipping_tames_an_explosion():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 6)), 1000 * rng.normal(size=(60, 1))
    hidden = [bp.Dense(20, "relu") for _ in range(4)]
    make = {"n_inputs": 6, "loss": "squared_error"}
    with pytest.raises(FloatingPointError):
        bp.Network([*hidden, bp.Dense(1)], **make).fit(X, y, epochs=50, optimizer=bp.SGD(0.1))
    history = bp.Network([*hidden, bp.Dense(1)], **make).fit(
        X, y, epochs=50, optimizer=bp.SGD(0.1, clip_norm=5.0)
    )
    assert history.loss[-1] < 0.9 * history.loss[0]


# ---- layers at rates of their own


@pytest.mark.parametrize("rule", [*RULES, bp.Rprop])
def test_rates_of_layers_are_the_same_in_both_engines(rule, data):
    nets = [network(backend) for backend in ("native", "reference")]
    for net in nets:
        net.scale_learning_rates({0: 0.1, "1.0": 2, "1.2.W": 0, "3.b": 0.5})
        batch = None if rule is bp.Rprop else 8
        net.fit(*data, epochs=2, batch_size=batch, optimizer=rule(0.01), penalty=bp.L2(0.01))
    agree(*nets, 1e-9 if rule is bp.SGD else 1e-6)


def test_a_rate_multiplies_the_step(backend, data):
    moved = {}
    for scale in (1, 0.25):
        net = network(backend)
        net.scale_learning_rates({0: scale})
        before = {name: w.copy() for name, w in net.parameters.items()}
        net.fit(*data, epochs=1, batch_size=None, optimizer=bp.SGD(0.1))
        moved[scale] = {name: w - before[name] for name, w in net.parameters.items()}
    for name, step in moved[1].items():
        factor = 0.25 if name.startswith("0.") else 1
        np.testing.assert_allclose(moved[0.25][name], factor * step, rtol=1e-9, atol=1e-16)


@pytest.mark.parametrize("clip", [{}, {"clip_norm": 0.1}], ids=["plain", "clipped"])
def test_frozen_layers_stay_to_the_bit(backend, clip, data):
    net = network(backend)
    net.fit(*data, epochs=2)
    for frozen in ([0], [1], [0, 1, 2], ["3.W"], ["1.0", "2.beta"]):
        net.freeze_layers(*frozen)
        names = [n for n, scale in net.learning_rate_scales.items() if scale == 0]
        assert names
        before = {name: w.copy() for name, w in {**net.parameters, **net.statistics}.items()}
        net.fit(*data, epochs=2, optimizer=bp.AdamW(0.01, weight_decay=0.1, **clip), penalty=bp.L2(0.1))
        for name, w in net.parameters.items():
            assert np.array_equal(w, before[name]) == (name in names), name
        # A BatchNorm that stays takes, and keeps, its running statistics.
        for name, s in net.statistics.items():
            assert np.array_equal(s, before[name]) == ("1.0.gamma" in names), name
        net.unfreeze_layers()
        assert set(net.learning_rate_scales.values()) == {1.0}


def test_a_frozen_batch_norm_is_the_same_in_both_engines_and_at_any_thread_count(data):
    before = _core.work_per_thread(0)
    nets = [network("reference"), *(network(threads=threads) for threads in (1, 2, 3))]
    for net in nets:
        net.fit(*data, epochs=1, optimizer=bp.SGD(0.1))
        net.freeze_layers(1)
        assert bp.check_gradients(net, *data, training=True, max_parameters=300) < 1e-6
        net.fit(*data, epochs=2, batch_size=7, optimizer=bp.SGD(0.1))
    _core.work_per_thread(before)
    assert len({net._state.flat.tobytes() for net in nets[1:]}) == 1
    agree(nets[1], nets[0], 1e-12)


def test_wrong_layers_and_scales_are_named(data):
    net = network()
    for scales, kind, message in (
        ({7: 0.1}, ValueError, "layer index must be from 0 to 3; got 7"),
        ({"1.1.W": 0.1}, ValueError, "unknown layer or parameter '1.1.W'"),
        (
            {"hidden": 0.1},
            ValueError,
            r"'hidden'; expected the index of a layer: 0 \(\w+\), 1 \(\w+\), .*: 0\.W, ",
        ),
        ({0: -1}, ValueError, r"scales\[0\] must be at least 0"),
        ({0: "a"}, TypeError, r"scales\[0\] must be a number"),
        ({True: 1}, TypeError, "a layer must be an index or a name such as '0.W'; got True"),
        ([0], TypeError, "scales must be a dict"),
        ({0: 0.1, 9: 1}, ValueError, "layer index must be from 0 to 3; got 9"),
    ):
        with pytest.raises(kind, match=message):
            net.scale_learning_rates(scales)
        assert set(net.learning_rate_scales.values()) == {1.0}


def test_layers_are_named_one_by_one():
    net = bp.Network([bp.Dense(5), bp.Activation("relu"), bp.Dense(4)], **SIZES)
    with pytest.raises(
        TypeError, match=r"freeze_layers takes layers one by one, such as freeze_layers\(0, 1\)"
    ):
        net.freeze_layers([0, 1])
    net.freeze_layers(*np.arange(2))  # one of which has no parameters
    assert [name for name, scale in net.learning_rate_scales.items() if scale == 0] == ["0.W", "0.b"]


def test_a_network_begins_with_anothers_layers(backend, data):
    old = network(backend)
    old.fit(*data, epochs=1)
    new = bp.Network([*old.layers[:-1], bp.Dense(9)], **{**SIZES, "seed": 7})
    taken = new.copy_parameters(old)
    assert set(taken) == {*old.parameters, *old.statistics} - {"3.W", "3.b"}
    for name in taken:
        mine, theirs = ({**net.parameters, **net.statistics}[name] for net in (new, old))
        np.testing.assert_array_equal(mine, theirs)
    with pytest.raises(TypeError, match="copy_parameters: other must be a Network; got 3"):
        new.copy_parameters(3)


# ---- noise on weights


def test_noise_is_nearly_normal():
    N = reference_ops.noisy(np.zeros(200_000), 1.0, 3, 5, 0)
    assert abs(N.mean()) < 0.01
    assert N.std() == pytest.approx(1, abs=0.01)
    for limit, share in ((1, 0.6827), (2, 0.9545), (3, 0.9973)):
        assert (np.abs(N) < limit).mean() == pytest.approx(share, abs=0.006)
    assert np.abs(np.corrcoef(N[:-1], N[1:])[0, 1]) < 0.01


def test_weight_noise_is_the_same_in_both_engines(data):
    nets = [network(backend) for backend in ("native", "reference")]
    for net in nets:
        net.fit(*data, epochs=3, batch_size=8, optimizer=bp.SGD(0.05), weight_noise=0.1)
    agree(*nets, 1e-10)


def test_weight_noise_is_not_in_the_weights(data):
    net = network()
    before = net._state.flat.copy()
    history = net.fit(*data, epochs=3, optimizer=bp.SGD(1e-12), weight_noise=0.5)
    assert np.abs(net._state.flat - before)[net._state.trainable()].max() < 1e-9
    # Each step sees other weights.
    assert len(set(history.loss)) == 3


def test_wrong_noise_is_refused(data):
    for value, kind in ((-1, ValueError), ("a", TypeError), (np.nan, ValueError)):
        with pytest.raises(kind, match="fit: weight_noise must be"):
            network().fit(*data, weight_noise=value)


# ---- L-BFGS


def test_lbfgs_finds_the_solution_of_least_squares(backend, rng):
    X, y = rng.normal(size=(80, 6)), rng.normal(size=(80, 1))
    net = bp.Network([bp.Dense(1)], n_inputs=6, loss="squared_error", dtype="float64", backend=backend)
    history = net.fit(X, y, epochs=200, optimizer=bp.LBFGS(tolerance=1e-10))
    A = np.column_stack((X, np.ones(80)))
    expected = np.linalg.lstsq(A, y, rcond=None)[0]
    np.testing.assert_allclose(net.parameters["0.W"], expected[:-1], atol=1e-8)
    assert len(history) < 50
    assert history.loss == sorted(history.loss, reverse=True)
    assert net.epochs == len(history)


def test_lbfgs_trains_what_a_step_trains(data):
    net = network()
    start = net.loss(*data, penalty=bp.L2(1e-3))
    net.freeze_layers(0)
    frozen = net.parameters["0.W"].copy()
    history = net.fit(*data, epochs=60, optimizer="lbfgs", penalty=bp.L2(1e-3), validation=data)
    assert history.loss[-1] + history.penalty[-1] < 0.3 * start
    np.testing.assert_array_equal(net.parameters["0.W"], frozen)
    # The running statistics are those of all rows: prediction and training see the same.
    assert history.val_loss[-1] == pytest.approx(net.loss(*data), rel=1e-9)
    assert history.val_loss[-1] == pytest.approx(history.loss[-1], rel=0.05)


def test_lbfgs_is_the_same_in_both_engines(data):
    nets = [network(backend) for backend in ("native", "reference")]
    losses = [net.fit(*data, epochs=8, optimizer=bp.LBFGS()).loss for net in nets]
    np.testing.assert_allclose(*losses, rtol=1e-7)


def test_lbfgs_tells_callbacks_and_stops_for_them(data):
    class Watch(bp.Callback):
        def __init__(self):
            self.batches, self.epochs, self.ended = 0, 0, False

        def on_batch_end(self, network, batch, loss):
            self.batches += 1

        def on_epoch_end(self, network, history):
            self.epochs += 1
            return self.epochs == 3

        def on_fit_end(self, network, history):
            self.ended = True

    watch = Watch()
    history = network().fit(*data, epochs=50, optimizer=bp.LBFGS, callbacks=[watch])
    assert (len(history), watch.batches, watch.epochs, watch.ended) == (3, 3, 3, True)


class Stumble(bp.Callback):
    def __init__(self, error):
        self.error = error

    def on_epoch_end(self, network, history):
        if len(history) == 3:
            self.reached = network._state.flat.copy()
            raise self.error


def test_lbfgs_after_an_error_or_an_interrupt(data):
    net = network()
    net.fit(*data, epochs=3, batch_size=None)
    before = net._state.flat.copy()
    with pytest.raises(OSError, match="full"):
        net.fit(*data, epochs=9, optimizer="lbfgs", callbacks=[Stumble(OSError("full"))])
    # As after an epoch of `fit`: what was reached is kept, and so is Adam's state.
    assert net.epochs == 3 + 3
    for kind in (KeyboardInterrupt, OSError):
        stumble = Stumble(kind())
        with pytest.raises(kind):
            net.fit(*data, epochs=9, optimizer="lbfgs", callbacks=[stumble])
        np.testing.assert_array_equal(net._state.flat, stumble.reached)
        assert not np.array_equal(before, stumble.reached)
    assert net._state.optimizer_state is not None
    assert net._state.optimizer_state.steps == 3


def test_lbfgs_says_so_where_the_objective_is_infinite(backend):
    X = np.full((20, 6), 1e30)
    net = bp.Network([bp.Dense(1)], n_inputs=6, loss="squared_error", dtype="float32", backend=backend)
    before = net._state.flat.tobytes()
    with pytest.raises(FloatingPointError, match="the objective became infinite"):
        net.fit(X, np.zeros(20), optimizer="lbfgs")
    assert net._state.flat.tobytes() == before


def test_lbfgs_while_another_thread_predicts(rng):
    X, y = rng.normal(size=(500, 6)), rng.integers(0, 4, 500)
    net, errors, over = network(), [], threading.Event()

    def predict():
        while not over.is_set():
            try:
                net.predict(X[:3])
            except RuntimeError as error:
                errors.append(error)

    other = threading.Thread(target=predict)
    other.start()
    try:
        net.fit(X, y, epochs=10, optimizer="lbfgs")
    finally:
        over.set()
        other.join()
    assert not errors


def test_lbfgs_refuses_what_it_cannot_do(data):
    net = network()
    before = net._state.flat.copy()
    noisy = bp.Network([bp.Dropout(), bp.Dense(4)], **SIZES)
    renormal = bp.Network([bp.BatchRenorm(), bp.Dense(4)], **SIZES)
    for fails, options, message in (
        (net, {"batch_size": 8}, "LBFGS needs the full batch; pass batch_size=None"),
        (net, {"penalty": bp.L1(0.1)}, "LBFGS needs a penalty with a derivative"),
        (net, {"weight_noise": 0.1}, "LBFGS needs an objective that stays the same"),
        (noisy, {}, "LBFGS needs an objective that stays the same"),
        (renormal, {}, "BatchRenorm holds r and d constant; use BatchNorm"),
    ):
        with pytest.raises(ValueError, match=message):
            fails.fit(*data, optimizer=bp.LBFGS(), **options)
    with pytest.raises(ValueError, match="LBFGS: memory must be at least 1"):
        bp.LBFGS(memory=0)
    with pytest.raises(TypeError, match="optimizer must be a name or"):
        copy.deepcopy(net).profile(*data, optimizer=bp.LBFGS())
    with pytest.raises(
        ValueError, match=r"unknown optimizer 'lbfgs'; L-BFGS .* is available only in Network.fit"
    ):
        net.profile(*data, optimizer="lbfgs")
    np.testing.assert_array_equal(net._state.flat, before)
