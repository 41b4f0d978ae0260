"""The native engine compared with the reference engine, and with itself on other numbers of threads."""

import itertools

import numpy as np
import pytest

import bpfast as bp
from bpfast import reference
from bpfast.activations import activations
from bpfast.losses import losses
from bpfast.native import _core
from bpfast.optimizers import optimizers
from bpfast.penalties import ElasticNet, penalties
from bpfast.reference.ops import OPS

SIZES = (1, 2, 7, 16, 17, 33, 100)
THREADS = (1, 2, 3, 5)
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}
RULES = {
    "sgd": bp.SGD(0.05),
    "momentum": bp.SGD(0.02, momentum=0.9),
    "nesterov": bp.SGD(0.02, momentum=0.9, nesterov=True),
    "adam": bp.Adam(),
    "adamw": bp.AdamW(weight_decay=0.1),
    # At a stationary point the small ε makes it chaotic: one ulp, also between two references, becomes 1e-6
    # after 20 steps. This small rate does not reach one in 50 steps.
    "rmsprop": bp.RMSprop(1e-5),
    "adagrad": bp.Adagrad(),
    "rprop": bp.Rprop(1e-4, eta_plus=1.1),
}
PENALTIES = {
    None: None,
    "l2": bp.L2(0.1),
    "l1": bp.L1(0.01),
    "elastic_net": ElasticNet(0.05, 0.4),
    "l0": bp.L0(1e-3),
    "frobenius": bp.Frobenius(0.1),
}


pytestmark = pytest.mark.usefixtures("every_thread_works")


def twins(widths, activation, loss, dtype, **options):
    """Return the same network on both engines."""
    return [
        bp.Network(
            [*(bp.Dense(n, activation) for n in widths[1:-1]), bp.Dense(widths[-1])],
            n_inputs=widths[0],
            loss=loss,
            dtype=dtype,
            seed=5,
            backend=backend,
            **options,
        )
        for backend in ("native", "reference")
    ]


def worst(native, expected, error):
    return max(error(native.parameters[name], array) for name, array in expected.parameters.items())


def test_every_row_of_the_tables_is_in_both_engines():
    """A member of a family must be in the specification, the reference and the native table."""
    native = _core.tables()
    rules = {spec.rule for spec in RULES.values()}
    assert set(native["activation"]) == set(reference.ACTIVATIONS) == set(activations)
    assert set(native["loss"]) == {*reference.POINTWISE_LOSSES, *reference.ROWWISE_LOSSES} == set(losses)
    assert set(native["link"]) == set(reference.LINKS) == set(bp.losses.LINKS)
    assert set(native["penalty"]) == set(reference.PENALTIES) == set(penalties)
    assert set(native["penalty"]) == {name for name in PENALTIES if name}
    assert set(native["optimizer"]) == set(reference.OPTIMIZERS) == rules
    assert {type(spec) for spec in RULES.values()} == {optimizers[name] for name in optimizers}
    assert set(native["op"]) == set(OPS)


def shapes_of(index):
    """Seven (B, I, O) in which B, I and O each take every size, in an order of this index."""
    n = len(SIZES)
    return [(SIZES[i], SIZES[(i + index) % n], SIZES[(2 * i + 3 * index) % n]) for i in range(n)]


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("loss", list(losses))
@pytest.mark.parametrize("activation", list(activations))
def test_one_step(activation, loss, dtype, rng, error, make_targets):
    """Outputs, loss, gradients and one step at every size of B, I and O, with 1, 2, 3, 5 threads."""
    index = 8 * list(activations).index(activation) + list(losses).index(loss)
    for B, I, O in shapes_of(index):
        O = max(O, 2) if loss == "cross_entropy" else O
        X, y = rng.normal(size=(B, I)).astype(dtype), make_targets(loss, B, O, rng)
        _, expected = twins((I, 13, O), activation, loss, dtype)
        gradients = expected.gradients(X, y)
        outputs, value = expected.predict(X), expected.loss(X, y)
        expected.fit(X, y, epochs=1, batch_size=B, optimizer=bp.SGD(0.1))
        bits = set()
        for threads in THREADS:
            native, _ = twins((I, 13, O), activation, loss, dtype, threads=threads)
            assert error(native.predict(X), outputs) <= TOLERANCE[dtype]
            assert native.loss(X, y) == pytest.approx(value, rel=TOLERANCE[dtype])
            scale = max(np.abs(array).max() for array in gradients.values())
            for name, array in native.gradients(X, y).items():
                assert np.abs(array - gradients[name]).max() <= TOLERANCE[dtype] * scale, name
            native.fit(X, y, epochs=1, batch_size=B, optimizer=bp.SGD(0.1))
            assert worst(native, expected, error) <= TOLERANCE[dtype], (B, I, O, threads)
            bits.add(native._state.flat.tobytes())
        assert len(bits) == 1, (B, I, O)


@pytest.mark.parametrize("penalty", list(PENALTIES))
@pytest.mark.parametrize("rule", list(RULES))
def test_fifty_steps(rule, penalty, rng, error, make_targets):
    """float64, every activation and loss under every rule and penalty: 1e-12 after 1, 1e-9 after 50."""
    # With weights no sum of a hinge's ±1 cancels; at 0 or 1e-18 the sign would be arbitrary.
    X, w = rng.normal(size=(9, 4)), 0.5 + rng.random(9)
    for activation, loss in itertools.product(activations, losses):
        y = make_targets(loss, 9, 3, rng)
        native, expected = twins((4, 5, 3), activation, loss, "float64", threads=1)
        for steps, tolerance in ((1, 1e-12), (49, 1e-9)):
            for net in (native, expected):
                net.fit(
                    X,
                    y,
                    epochs=steps,
                    batch_size=9,
                    optimizer=RULES[rule],
                    penalty=PENALTIES[penalty],
                    shuffle=False,
                    sample_weight=w,
                )
            assert worst(native, expected, error) <= tolerance, (activation, loss, steps)


@pytest.mark.parametrize("penalty", list(PENALTIES))
@pytest.mark.parametrize("rule", list(RULES))
def test_one_step_in_float32(rule, penalty, rng, error):
    X, y = rng.normal(size=(20, 17)), rng.integers(0, 5, 20)
    native, expected = twins((17, 19, 5), "tanh", "cross_entropy", "float32")
    for net in (native, expected):
        net.fit(X, y, epochs=1, batch_size=20, optimizer=RULES[rule], penalty=PENALTIES[penalty])
    assert worst(native, expected, error) <= 1e-5


@pytest.mark.parametrize("rule", list(RULES))
@pytest.mark.parametrize("penalty", [None, "frobenius", "l1"])
def test_results_are_bitwise_identical_for_any_number_of_threads(rule, penalty, rng):
    """Ragged batches, a shuffled order, weights: 1, 2, 3 and 5 threads."""
    X, y, w = rng.normal(size=(101, 37)), rng.integers(0, 7, 101), rng.random(101)
    batch = None if rule == "rprop" else 33
    results = set()
    for threads in THREADS:
        net = bp.Network(
            [bp.Dense(45, "gelu"), bp.Activation("tanh"), bp.Dense(110, "relu"), bp.Dense(7)],
            n_inputs=37,
            loss="cross_entropy",
            threads=threads,
        )
        history = net.fit(
            X,
            y,
            epochs=3,
            batch_size=batch,
            optimizer=RULES[rule],
            penalty=PENALTIES[penalty],
            sample_weight=w,
            validation=(X[:40], y[:40]),
        )
        gradients = b"".join(g.tobytes() for g in net.gradients(X, y).values())
        results.add((net._state.flat.tobytes(), tuple(history.loss), tuple(history.val_loss), gradients))
    assert len(results) == 1


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_an_epoch_of_many_batches_agrees(shuffle, weighted, rng, error):
    """The same order of rows, the same ragged last batch, the same history."""
    X, y = rng.normal(size=(103, 6)), rng.normal(size=(103, 2))
    w = rng.random(103) if weighted else None
    native, expected = twins((6, 11, 2), "tanh", "huber", "float64")
    histories = [
        net.fit(
            X,
            y,
            epochs=4,
            batch_size=10,
            optimizer="adam",
            shuffle=shuffle,
            sample_weight=w,
            penalty=bp.L2(1e-2),
            validation=(X, y),
        )
        for net in (native, expected)
    ]
    assert worst(native, expected, error) <= 1e-10
    for name in ("loss", "val_loss", "val_r2", "penalty", "learning_rate"):
        assert histories[0][name] == pytest.approx(histories[1][name], rel=1e-10)


def test_backward_gives_the_gradient_of_the_input(rng, error):
    X, D = rng.normal(size=(30, 9)), rng.normal(size=(30, 4))
    native, expected = twins((9, 21, 4), "silu", "squared_error", "float64", threads=3)
    results = []
    for net in (native, expected):
        Z = net.forward(X, training=True)
        results.append((Z, net.backward(D), *(net.gradient[name].copy() for name in net.gradient)))
        net.update(bp.Adam(), penalty=bp.Frobenius(0.1))
    for a, b in zip(*results, strict=True):
        assert error(a, b) <= 1e-12
    assert worst(native, expected, error) <= 1e-12


def test_outputs_do_not_depend_on_how_many_rows_are_asked_for(rng):
    X = rng.normal(size=(1000, 20)).astype(np.float32)
    for threads in THREADS:
        net, _ = twins((20, 50, 30, 3), "gelu", "cross_entropy", "float32", threads=threads)
        whole = net.predict(X)
        for rows in (slice(0, 1), slice(5, 6), slice(100, 631)):
            assert net.predict(X[rows]).tobytes() == whole[rows].tobytes()


def test_predicting_between_forward_and_backward_is_harmless(rng):
    X, D = rng.normal(size=(8, 5)), rng.normal(size=(8, 2))
    net, _ = twins((5, 6, 2), "tanh", "squared_error", "float64")
    net.forward(X, training=True)
    expected = net.backward(D)
    net.forward(X, training=True)
    net.predict(rng.normal(size=(300, 5)))
    assert (net.backward(D) == expected).all()


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("batch_size", [1, 2, 4, 7, 97])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_threads_without_rows_have_their_gradients(rng, dtype, batch_size, shuffle):
    """Batches with fewer rows than threads, and last ones: no thread uses pointers of an earlier batch."""
    X, y = rng.standard_normal((101, 77)).astype(dtype), rng.integers(0, 10, 101)
    found = set()
    for threads in (1, 2, 3, 5, 8):
        net = bp.Network(
            [bp.Dense(100, "relu"), bp.Dense(33, "tanh"), bp.Dense(10)],
            n_inputs=77,
            loss="cross_entropy",
            dtype=dtype,
            threads=threads,
            backend="native",
        )
        net.fit(X, y, epochs=2, batch_size=batch_size, shuffle=shuffle)
        found.add(net._state.flat.tobytes())
    assert len(found) == 1
