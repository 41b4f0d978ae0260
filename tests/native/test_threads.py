"""The native engine with threads, signals, forks and the GIL."""

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import bpfast as bp
from bpfast.native import _core

pytestmark = pytest.mark.usefixtures("every_thread_works")


def long_training(**options):
    net = bp.Network([bp.Dense(64, "relu"), bp.Dense(10)], n_inputs=64, loss="cross_entropy", **options)
    rng = np.random.default_rng(0)
    return net, rng.normal(size=(200_000, 64)).astype(np.float32), rng.integers(0, 10, 200_000)


def test_threads_are_really_used(rng):
    """The tests of thread counts would pass with one thread: check that others run."""
    if not _core.openmp():
        return
    code = (
        "import numpy as np, bpfast as bp\n"
        "from bpfast.native import _core\n"
        "_core.work_per_thread(0)\n"
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


@pytest.mark.parametrize("batch_size", [32, 200_000])
def test_an_interrupt_stops_soon_and_leaves_usable_weights(batch_size):
    net, X, y = long_training()
    before = net._state.flat.copy()
    sent = []

    def interrupt():
        # After the first epoch, however long that takes.
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
    assert np.isfinite(net._state.flat).all()
    assert (net._state.flat != before).any()
    assert net._state.optimizer_state.steps > 0
    net.fit(X[:64], y[:64], epochs=1)


def test_a_forked_child_trains_and_does_not_hang(rng):
    if not hasattr(os, "fork"):
        return
    code = (
        "import os, numpy as np, bpfast as bp\n"
        "from bpfast.native import _core\n"
        "_core.work_per_thread(0)\n"
        "def train():\n"
        "    net = bp.Network([bp.Dense(9)], n_inputs=9, loss='squared_error', threads=2)\n"
        "    net.fit(np.ones((64, 9)), np.ones((64, 9)), epochs=2)\n"
        "    return net._state.flat.tobytes()\n"
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


@pytest.mark.parametrize("threads", [1, 2])
def test_a_signal_handler_cannot_use_the_network_that_it_interrupts(threads):
    net, X, y = long_training(threads=threads)
    caught = []

    def handler(*_):
        with pytest.raises(RuntimeError, match="already in use; concurrent calls are not supported") as info:
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
    assert untouched._state.flat.tobytes() == net._state.flat.tobytes()


def test_manual_training_inside_fit_raises(rng):
    X, y = rng.normal(size=(20, 3)), rng.normal(size=(20, 1))
    net = bp.Network([bp.Dense(1)], n_inputs=3, loss="squared_error")

    class Meddler(bp.Callback):
        def on_epoch_end(self, network, history):
            for call in (lambda: network.forward(X, training=True), lambda: network.update("adam")):
                with pytest.raises(RuntimeError, match="while fit is running"):
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
