"""Frozen networks: predictions identical to those of the network, from many threads at once."""

import copy
import os
import pickle
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import bpfast as bp
from bpfast.frozen import FrozenNetwork


def network(backend="native", loss="cross_entropy", outputs=10, **options):
    layers = [bp.Dense(30, "relu"), bp.BatchNorm(), bp.Dropout(0.5), bp.Dense(20, "tanh"), bp.Dense(outputs)]
    return bp.Network(layers, n_inputs=16, loss=loss, backend=backend, **options)


def trained(rng, *args, **options):
    net = network(*args, **options)
    net.fit(rng.standard_normal((64, 16)), rng.integers(0, 2, (64, 10)) * 1.0, epochs=2)
    return net


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss", ["log_loss", "poisson", "squared_error"])
def test_predictions_are_identical_to_those_of_the_network(rng, backend, loss, dtype):
    net = trained(rng, backend, loss, dtype=dtype)
    frozen = net.freeze()
    for rows in (1, 3, 300):
        X = rng.standard_normal((rows, 16)).astype(dtype)
        assert frozen.predict(X).tobytes() == net.predict(X).tobytes() == frozen(X).tobytes()
        assert frozen.forward(X).tobytes() == net.forward(X).tobytes()
        assert frozen.predict(X).dtype == dtype


def test_softmax_is_identical_to_that_of_the_network(rng, backend):
    net = network(backend)
    X = rng.standard_normal((300, 16)).astype(np.float32)
    net.fit(X, rng.integers(0, 10, 300), epochs=1)
    assert net.freeze().predict(X).tobytes() == net.predict(X).tobytes()


def kinds_of(X):
    """The same matrix in every supported form."""
    sparse = pytest.importorskip("scipy.sparse")
    shifted = np.empty(X.nbytes + 1, np.uint8)[1:].view(X.dtype).reshape(X.shape)
    shifted[...] = X
    readonly = X.copy()
    readonly.flags.writeable = False
    return {
        "as it is": X,
        "Fortran": np.asfortranarray(X),
        "strided": np.repeat(X, 2, axis=0)[::2],
        "float64": X.astype(np.float64),
        "float16": X.astype(np.float16),
        "integers": np.arange(X.size).reshape(X.shape) % 7,
        "booleans": X > 0,
        "swapped": X.astype(X.dtype.newbyteorder()),
        "unaligned": shifted,
        "read-only": readonly,
        "list": X.tolist(),
        "csr": sparse.csr_array(X * (X > 0)),
        "csc": sparse.csc_array(X * (X > 0)),
        "coo": sparse.coo_array(X * (X > 0)),
    }


@pytest.mark.parametrize("first", [bp.Dense(12, "relu"), bp.LayerNorm()])
def test_every_kind_of_input(rng, backend, first):
    """Sparse rows that the first layer reads directly, or needs as a dense array."""
    net = bp.Network([first, bp.Dense(5)], n_inputs=16, loss="cross_entropy", backend=backend)
    frozen = net.freeze()
    for what, X in kinds_of(rng.standard_normal((9, 16)).astype(np.float32)).items():
        assert frozen.predict(X).tobytes() == net.predict(X).tobytes(), what
        assert frozen.forward(X).tobytes() == net.forward(X).tobytes(), what


def message_of(call, X):
    with pytest.raises((ValueError, TypeError)) as caught:
        call(X)
    return type(caught.value), str(caught.value)


def test_the_same_messages(rng, backend):
    net = network(backend)
    frozen = net.freeze()
    X = rng.standard_normal((3, 16)).astype(np.float32)
    broken = X.copy()
    broken[1, 5] = np.nan
    wrong = [broken, X[:, 1:], X[:0], X[0], np.ma.masked_array(X), X.astype(complex), [["a"] * 16], None]
    for bad in wrong:
        assert message_of(frozen.predict, bad) == message_of(net.predict, bad)
        assert message_of(frozen.forward, bad) == message_of(net.forward, bad)
    assert message_of(frozen.predict, broken)[1].startswith("X contains NaN in row 1, column 5")
    # Refused inputs leave no trace.
    assert frozen.predict(X).tobytes() == net.predict(X).tobytes()
    assert len(frozen._idle) == 1


@pytest.mark.parametrize("rows", [3, 3000])
def test_values_that_are_not_finite_are_rejected_with_and_without_the_gil(rng, rows):
    net = network()
    X = rng.standard_normal((rows, 16)).astype(np.float32)
    for odd, shown in ((np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "-infinity")):
        X[rows - 1, 15] = odd
        with pytest.raises(ValueError, match=f"X contains {shown} in row {rows - 1}, column 15"):
            net.predict(X)
        with pytest.raises(ValueError, match=f"X contains {shown} in row {rows - 1}, column 15"):
            net.freeze().predict(X)


def test_the_weights_are_a_copy_that_does_not_change(rng, backend):
    net = trained(rng, backend, "squared_error")
    frozen = net.freeze()
    X = rng.standard_normal((5, 16)).astype(np.float32)
    before = frozen.predict(X)
    net.parameters["0.W"][...] += 1
    net.fit(rng.standard_normal((64, 16)), rng.standard_normal((64, 10)), epochs=1)
    assert frozen.predict(X).tobytes() == before.tobytes() != net.predict(X).tobytes()


def test_attributes(rng):
    net = trained(rng, loss="squared_error")
    net.metadata["columns"] = "sixteen"
    frozen = net.freeze()
    net.metadata["columns"] = "other"
    assert isinstance(frozen, FrozenNetwork)
    assert (frozen.n_inputs, frozen.n_outputs, frozen.n_parameters) == (16, 10, net.n_parameters)
    assert (frozen.dtype, frozen.loss_spec, frozen.backend) == (net.dtype, net.loss_spec, "native")
    assert frozen.metadata == {"columns": "sixteen"}
    assert frozen.threads == 1
    expected = f"<bpfast.FrozenNetwork 16-30-20-10 squared_error float32 {net.n_parameters} parameters>"
    assert repr(frozen) == expected
    for ours, theirs in ((frozen.parameters, net.parameters), (frozen.statistics, net.statistics)):
        assert list(ours) == list(theirs)
        for name, array in ours.items():
            assert array.tobytes() == theirs[name].tobytes()


def test_the_weights_are_read_only(rng):
    frozen = trained(rng, loss="squared_error").freeze()
    for array in (*frozen.parameters.values(), *frozen.statistics.values(), frozen._flat):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
        with pytest.raises(ValueError, match="WRITEABLE"):
            array.flags.writeable = True
    with pytest.raises(TypeError):
        frozen.parameters["0.W"] = np.zeros((16, 30))
    for name in ("fit", "update", "backward"):
        assert not hasattr(frozen, name)


@pytest.mark.parametrize(
    "copied",
    [lambda f: pickle.loads(pickle.dumps(f)), copy.copy, copy.deepcopy],
    ids=["pickle", "copy", "deep"],
)
def test_copies_predict_the_same(rng, backend, copied):
    frozen = trained(rng, backend, "log_loss").freeze(threads=2)
    X = rng.standard_normal((40, 16)).astype(np.float32)
    expected = frozen.predict(X).tobytes()
    twin = copied(frozen)
    assert twin.predict(X).tobytes() == expected
    assert repr(twin) == repr(frozen)
    assert twin.threads == 2
    assert not np.shares_memory(twin._flat, frozen._flat)
    with pytest.raises(ValueError, match="read-only"):
        twin.parameters["0.W"][...] = 0


@pytest.mark.parametrize("threads", [1, 2, 5, None])
def test_results_are_identical_at_any_thread_count(rng, threads):
    net = bp.Network([bp.Dense(200, "relu"), bp.Dense(7)], n_inputs=100, loss="cross_entropy")
    X = rng.standard_normal((700, 100)).astype(np.float32)
    assert net.freeze(threads=threads).predict(X).tobytes() == net.predict(X).tobytes()


def test_threads_must_be_a_number():
    with pytest.raises(ValueError, match="threads must be from 1 to 1024; got 0"):
        network().freeze(threads=0)
    with pytest.raises(TypeError, match="threads must be an integer or None; got 'two'"):
        network().freeze(threads="two")


def ask_together(predict, inputs, expected, seconds, threads=16):
    """The number of wrong results of several threads in a given time, and the calls of each thread."""
    gate, stop = threading.Barrier(threads + 1), threading.Event()
    wrong, calls = [], [0] * threads

    def ask(me):
        gate.wait()
        while not stop.is_set():
            which = (me + calls[me]) % len(inputs)
            try:
                if predict(inputs[which]).tobytes() != expected[which]:
                    wrong.append((me, calls[me], which))
            except Exception as error:
                wrong.append((me, calls[me], repr(error)))
            calls[me] += 1

    workers = [threading.Thread(target=ask, args=(me,)) for me in range(threads)]
    for worker in workers:
        worker.start()
    gate.wait()
    time.sleep(seconds)
    stop.set()
    for worker in workers:
        worker.join()
    return wrong, calls


def mixed_inputs(rng, columns):
    """Inputs of small and large calls, sparse inputs, and inputs that need a conversion."""
    sparse = pytest.importorskip("scipy.sparse")
    inputs = [rng.standard_normal((rows, columns)).astype(np.float32) for rows in (1, 2, 40, 64, 300)]
    thin = rng.standard_normal((40, columns)) * (rng.random((40, columns)) < 0.1)
    return [*inputs, inputs[3].astype(np.float64), sparse.csr_array(thin)]


def test_sixteen_threads_while_the_network_trains(rng, backend):
    net = bp.Network(
        [bp.Dense(64, "relu"), bp.BatchNorm(), bp.Dense(10)],
        n_inputs=48,
        loss="cross_entropy",
        backend=backend,
    )
    X, y = rng.standard_normal((2000, 48)).astype(np.float32), rng.integers(0, 10, 2000)
    net.fit(X, y, epochs=1)
    frozen, inputs = net.freeze(), mixed_inputs(rng, 48)
    expected = [net.predict(x).tobytes() for x in inputs]
    ended = threading.Event()

    def train():
        while not ended.is_set():
            net.fit(X, y, epochs=1)

    training = threading.Thread(target=train)
    training.start()
    wrong, calls = ask_together(frozen.predict, inputs, expected, 1.0)
    ended.set()
    training.join()
    assert wrong == []
    assert min(calls) > 0
    # No more engines than there were calls at the same time.
    assert 1 <= len(frozen._idle) <= 16
    assert net.predict(inputs[0]).tobytes() != expected[0]
    assert frozen.predict(inputs[0]).tobytes() == expected[0]


def test_sixteen_threads_with_teams(rng):
    """Each call may use several OpenMP threads as well."""
    net = bp.Network([bp.Dense(128, "relu"), bp.Dense(10)], n_inputs=128, loss="cross_entropy")
    frozen, inputs = net.freeze(threads=2), mixed_inputs(rng, 128)
    expected = [net.predict(x).tobytes() for x in inputs]
    wrong, calls = ask_together(frozen.predict, inputs, expected, 0.5)
    assert wrong == []
    assert min(calls) > 0


def test_calls_overlap(rng):
    """The GIL is released during a call, so other threads continue."""
    net = bp.Network([bp.Dense(1024, "tanh"), bp.Dense(1024)], n_inputs=1024, loss="squared_error")
    frozen = net.freeze()
    X = np.zeros((8000, 1024), np.float32)
    done, ticks = threading.Event(), []

    def tick():
        while not done.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.001)

    thread = threading.Thread(target=tick)
    thread.start()
    start = time.perf_counter()
    frozen.predict(X)
    end = time.perf_counter()
    done.set()
    thread.join()
    assert sum(start < t < end for t in ticks) >= 5


def test_a_callback_may_freeze_the_network_during_training(rng):
    net = network(loss="squared_error")
    X, Y = rng.standard_normal((64, 16)).astype(np.float32), rng.standard_normal((64, 10))

    class Keep(bp.Callback):
        def on_epoch_end(self, network, history):
            kept.append((network.freeze(), network.predict(X).tobytes()))

    kept = []
    net.fit(X, Y, epochs=3, callbacks=[Keep()])
    assert len({expected for _, expected in kept}) == 3
    for frozen, expected in kept:
        assert frozen.predict(X).tobytes() == expected


def test_a_child_process_forked_while_threads_predict():
    if not hasattr(os, "fork"):
        return
    code = (
        "import os, threading, time, numpy as np, bpfast as bp\n"
        "X = np.ones((2000, 64), np.float32)\n"
        "net = bp.Network([bp.Dense(64, 'tanh'), bp.Dense(8)], n_inputs=64, loss='squared_error')\n"
        "frozen = net.freeze(threads=2)\n"
        "expected, stop = frozen.predict(X).tobytes(), threading.Event()\n"
        "def ask():\n"
        "    while not stop.is_set(): frozen.predict(X)\n"
        "threads = [threading.Thread(target=ask) for _ in range(4)]\n"
        "for thread in threads: thread.start()\n"
        "time.sleep(0.1)\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    ok = all(frozen.predict(X[:n]).tobytes() == expected[:32 * n] for n in (1, 50, 2000))\n"
        "    os._exit(0 if ok else 1)\n"
        "status = os.waitpid(child, 0)[1]\n"
        "stop.set()\n"
        "for thread in threads: thread.join()\n"
        "assert status == 0\n"
    )
    subprocess.run([sys.executable, "-P", "-W", "ignore", "-c", code], timeout=60, check=True)


def test_an_engine_that_failed_is_not_reused(rng, monkeypatch):
    frozen = network().freeze()
    X = rng.standard_normal((2, 16)).astype(np.float32)
    expected = frozen.predict(X).tobytes()

    class Failing:
        def predict(self, *_):
            raise MemoryError("no memory")

    frozen._idle.append(Failing())
    with pytest.raises(MemoryError):
        frozen.predict(X)
    assert frozen.predict(X).tobytes() == expected
    assert len(frozen._idle) == 1
