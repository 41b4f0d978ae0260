"""The native engine against the reference engine, and against itself with other threads."""

import itertools
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import bpfast as bp
from bpfast import reference
from bpfast.activations import activations
from bpfast.losses import losses
from bpfast.native import _engine, _runtime
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
    # At a stationary point the small ε makes it chaotic: there one ulp, also between two references,
    # is 1e-6 after 20 steps. So small a rate does not get there in 50.
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


@pytest.fixture(autouse=True)
def every_thread_works():
    old = _runtime.work_per_thread(0)
    yield
    _runtime.work_per_thread(old)


def twins(widths, activation, loss, dtype, **options):
    """The same network on both engines."""
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
    """Adding a member is a change in spec, reference and native table: none may lack."""
    native = _runtime.tables()
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
            bits.add(native._flat.tobytes())
        assert len(bits) == 1, (B, I, O)


@pytest.mark.parametrize("penalty", list(PENALTIES))
@pytest.mark.parametrize("rule", list(RULES))
def test_fifty_steps(rule, penalty, rng, error, make_targets):
    """float64, every activation and loss under every rule and penalty: 1e-12 after 1, 1e-9 after 50."""
    # With weights no sum of a hinge's ±1 cancels: at 0 or 1e-18, a sign is anybody's guess.
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
def test_the_same_bits_with_any_number_of_threads(rule, penalty, rng):
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
        results.add((net._flat.tobytes(), tuple(history.loss), tuple(history.val_loss), gradients))
    assert len(results) == 1


def test_threads_are_really_used(rng):
    """The test above would pass with one thread: see that others run."""
    if not _runtime.openmp():
        return
    code = (
        "import numpy as np, bpfast as bp\n"
        "from bpfast.native import _runtime\n"
        "_runtime.work_per_thread(0)\n"
        "net = bp.Network([bp.Dense(8)], n_inputs=8, loss='squared_error', threads=3)\n"
        "net.fit(np.ones((64, 8)), np.ones((64, 8)), epochs=1)\n"
        "print(sum(line.startswith('Threads:') and int(line.split()[1])"
        " for line in open('/proc/self/status')))\n"
    )
    if not os.path.exists("/proc/self/status"):
        return
    env = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, env=env, check=True
    )
    assert int(done.stdout) == 3


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


@pytest.mark.parametrize("n", [1, 2, 3, 10, 1000])
def test_the_order_of_the_rows_is_the_reference_s(n):
    for seed, epoch in ((0, 0), (0, 1), (7, 3), (2**63 - 1, 2**40)):
        order = np.empty(n, np.int64)
        _engine.shuffled(order, seed, epoch)
        assert (order == reference.permutation(n, seed, epoch)).all()
        assert (np.sort(order) == np.arange(n)).all()


def test_the_order_is_fair():
    """Every place gets every row about as often."""
    orders = np.array([reference.permutation(5, 1, epoch) for epoch in range(4000)])
    counts = np.array([(orders == row).sum(axis=0) for row in range(5)])
    assert np.abs(counts - 800).max() < 5 * np.sqrt(800)


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


def long_training(**options):
    net = bp.Network([bp.Dense(64, "relu"), bp.Dense(10)], n_inputs=64, loss="cross_entropy", **options)
    rng = np.random.default_rng(0)
    return net, rng.normal(size=(200_000, 64)).astype(np.float32), rng.integers(0, 10, 200_000)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("batch_size", [1, 2, 4, 7, 97])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_threads_without_rows_have_their_gradients(rng, dtype, batch_size, shuffle):
    """Batches of fewer rows than threads, and last ones: nobody goes by where an earlier batch was."""
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
        found.add(net._flat.tobytes())
    assert len(found) == 1


@pytest.mark.parametrize("batch_size", [32, 200_000])
def test_an_interrupt_stops_soon_and_leaves_usable_weights(batch_size):
    net, X, y = long_training()
    before = net._flat.copy()
    sent = []

    def interrupt():
        # Past the first epoch, however long that takes here.
        while net.epochs == 0:
            time.sleep(0.01)
        time.sleep(0.1)
        sent.append(time.perf_counter())
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        net.fit(X, y, epochs=10_000, batch_size=batch_size)
    assert time.perf_counter() - sent[0] < 0.2
    thread.join()
    assert np.isfinite(net._flat).all()
    assert (net._flat != before).any()
    assert net._state.steps > 0
    net.fit(X[:64], y[:64], epochs=1)


def test_a_forked_child_trains_and_does_not_hang(rng):
    if not hasattr(os, "fork"):
        return
    code = (
        "import os, numpy as np, bpfast as bp\n"
        "from bpfast.native import _runtime\n"
        "_runtime.work_per_thread(0)\n"
        "def train():\n"
        "    net = bp.Network([bp.Dense(9)], n_inputs=9, loss='squared_error', threads=2)\n"
        "    net.fit(np.ones((64, 9)), np.ones((64, 9)), epochs=2)\n"
        "    return net._flat.tobytes()\n"
        "parent = train()\n"
        "read, write = os.pipe()\n"
        "if os.fork() == 0:\n"
        "    os.write(write, train()); os._exit(0)\n"
        "assert os.read(read, 10**6) == parent\n"
        "print('same')\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "same\n"


def test_the_gil_is_released_while_training():
    net, X, y = long_training(threads=1)
    ticks, done = [], threading.Event()

    def tick():
        while not done.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.001)

    thread = threading.Thread(target=tick)
    thread.start()
    start = time.perf_counter()
    net.fit(X, y, epochs=1, batch_size=50)
    stop = time.perf_counter()
    done.set()
    thread.join()
    assert sum(start < t < stop for t in ticks) >= 5


@pytest.mark.parametrize("isa", _runtime.isas())
def test_every_instruction_set_agrees(isa, rng):
    """In a process of its own; those with FMA give the same bits as each other."""
    code = (
        "import sys, numpy as np, bpfast as bp\n"
        "rng = np.random.default_rng(0)\n"
        "X, y = rng.normal(size=(90, 21)), rng.integers(0, 5, 90)\n"
        "for dtype in ('float32', 'float64'):\n"
        "    net = bp.Network([bp.Dense(40, 'gelu'), bp.Dense(17, 'tanh'), bp.Dense(5)],"
        " n_inputs=21, loss='cross_entropy', dtype=dtype)\n"
        "    net.fit(X, y, epochs=3, batch_size=20)\n"
        "    sys.stdout.buffer.write(net._flat.tobytes())\n"
    )

    def weights(name):
        env = {**os.environ, "BPFAST_ISA": name}
        done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, env=env, check=True)
        half = len(done.stdout) // 3
        return np.frombuffer(done.stdout[:half], np.float32), np.frombuffer(done.stdout[half:], np.float64)

    best, this = weights(_runtime.isas()[0]), weights(isa)
    if isa != "baseline":
        assert [a.tobytes() for a in this] == [a.tobytes() for a in best]
    for a, b, tolerance in zip(this, best, (1e-4, 1e-11), strict=True):
        assert np.abs(a - b).max() <= tolerance * np.abs(b).max()


def test_an_unknown_instruction_set_is_refused(monkeypatch):
    monkeypatch.setenv("BPFAST_ISA", "avx3")
    with pytest.raises(ValueError, match="BPFAST_ISA is 'avx3'; this build and CPU have"):
        bp.Network([bp.Dense(1)], n_inputs=1, loss="squared_error", backend="native")


def test_the_runtime_refuses_wrong_memory():
    """`_engine` itself checks sizes: a mistake above it must not become a crash."""
    net = bp.Network([bp.Dense(2)], n_inputs=3, loss="squared_error", backend="native")
    core, flat = net._engine.core, net._flat
    with pytest.raises(ValueError, match="an array of 12 elements is wanted; got 9"):
        core.outputs(flat, np.ones(9, np.float32), np.ones((4, 2), np.float32), 4)
    with pytest.raises(TypeError, match="4-byte items"):
        core.outputs(flat, np.ones((4, 3)), np.ones((4, 2), np.float32), 4)
    with pytest.raises(ValueError, match="C-contiguous"):
        core.outputs(flat, np.ones((3, 4), np.float32).T, np.ones((4, 2), np.float32), 4)
    with pytest.raises(RuntimeError, match="forward pass of as many rows"):
        core.backward(flat, np.ones((4, 2), np.float32), flat.copy(), np.ones((4, 3), np.float32), 4)
    with pytest.raises(ValueError, match="beyond the flat vector"):
        make_core(dense_row(), [2**40, 2**40], 2**62)
    with pytest.raises(MemoryError, match="memory"):
        make_core(dense_row(), [2**30, 2**30], 2**60)


def dense_row(kind="dense", offsets=(0, -1, -1, -1), sources=(0,), target=1, numbers=(0.0,)):
    """An op as `_engine` takes it."""
    return (kind, "identity", numbers, sources, target, offsets, False, (False,) * len(sources))


def make_core(row, widths, size, heads=(), output=1):
    return _engine.Core([row], list(heads), output, widths, size, np.dtype(np.float32), 1)


PROGRAMS = [
    (dense_row("conv"), [3, 3], 9, "no op 'conv'"),
    (dense_row(target=0), [3, 3], 9, "behind the one it reads"),
    (dense_row(sources=(0, 1)), [3, 3], 9, "behind the one it reads"),
    (dense_row(sources=(0, 0)), [3, 3], 9, "dense reads one value"),
    (dense_row("add", (-1,) * 4), [3, 3], 9, "add reads two values"),
    (dense_row("maxout", (-1,) * 4), [7, 3], 9, "whole pieces"),
    (dense_row("dropout", (-1,) * 4), [3, 4], 9, "as many columns as it reads"),
    (dense_row("dropout"), [3, 3], 9, "dropout has parameters"),
    (dense_row("prelu", (-1,) * 4), [3, 3], 9, "prelu has no parameters"),
    (dense_row("prelu", (7, -1, -1, -1)), [3, 3], 9, "beyond the flat vector"),
    (dense_row("layer_norm"), [3, 3], 9, "lacks a beta"),
    (dense_row("batch_norm", (0, 3, -1, -1), numbers=(0.1,) * 6), [3, 3], 16, "lacks statistics"),
    (dense_row("batch_norm", (0, 3, 6, 9), numbers=(0.1,)), [3, 3], 16, "lacks statistics"),
    (dense_row(numbers=(0.1,) * 7), [3, 3], 9, "at most six numbers"),
]


@pytest.mark.parametrize(("row", "widths", "size", "message"), PROGRAMS)
def test_the_runtime_refuses_wrong_programs(row, widths, size, message):
    with pytest.raises(ValueError, match=message):
        make_core(row, widths, size)


def test_the_runtime_refuses_wrong_heads():
    with pytest.raises(ValueError, match="output must be a value"):
        make_core(dense_row(), [3, 3], 9, output=2)
    with pytest.raises(ValueError, match="as many columns as the output"):
        make_core(dense_row(), [3, 3], 9, heads=[(1, "huber", 1.0, 1.0)])


@pytest.mark.parametrize("threads", [1, 2])
def test_a_signal_handler_can_not_use_the_network_that_it_interrupts(threads):
    net, X, y = long_training(threads=threads)
    caught = []

    def handler(*_):
        with pytest.raises(RuntimeError, match="this network is at work; one call at a time") as info:
            net.predict(X[:3])
        caught.append(info)

    old = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        history = net.fit(X, y, epochs=1, batch_size=16)
    finally:
        signal.signal(signal.SIGALRM, old)
    assert caught
    untouched, X, y = long_training(threads=threads)
    assert untouched.fit(X, y, epochs=1, batch_size=16).loss == history.loss
    assert untouched._flat.tobytes() == net._flat.tobytes()


def test_a_loop_of_ones_own_is_refused_inside_a_fit(rng):
    X, y = rng.normal(size=(20, 3)), rng.normal(size=(20, 1))
    net = bp.Network([bp.Dense(1)], n_inputs=3, loss="squared_error")

    class Meddler(bp.Callback):
        def on_epoch_end(self, network, history):
            for call in (lambda: network.forward(X, training=True), lambda: network.update("adam")):
                with pytest.raises(RuntimeError, match="while fit is at work"):
                    call()
            network.predict(X)

    assert len(net.fit(X, y, epochs=2, callbacks=[Meddler()])) == 2


def test_a_child_forked_while_another_thread_trains(rng):
    if not hasattr(os, "fork"):
        return
    code = (
        "import os, threading, time, numpy as np, bpfast as bp\n"
        "X, y = np.ones((50_000, 64), np.float32), np.ones((50_000, 8), np.float32)\n"
        "net = bp.Network([bp.Dense(64, 'tanh'), bp.Dense(8)], n_inputs=64, loss='squared_error')\n"
        "thread = threading.Thread(target=net.fit, args=(X, y), kwargs={'epochs': 5})\n"
        "thread.start(); time.sleep(0.1)\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    ok = np.isfinite(net.predict(X[:5])).all()\n"
        "    os._exit(0 if ok else 1)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
        "thread.join()\n"
    )
    subprocess.run([sys.executable, "-P", "-W", "ignore", "-c", code], timeout=60, check=True)
