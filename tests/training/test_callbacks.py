"""Callbacks after every batch, the progress bar, and concurrent networks and thread pools."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

import bpfast as bp


class Batches(bp.Callback):
    """Records the batches; ends the training at a batch."""

    def __init__(self, last=None):
        self.seen, self.epochs, self.last = [], 0, last

    def on_batch_end(self, network, batch, loss):
        self.seen.append((batch, loss))
        return len(self.seen) == self.last

    def on_epoch_end(self, network, history):
        self.epochs += 1


@pytest.fixture
def data(rng):
    return rng.normal(size=(37, 3)), rng.integers(0, 2, 37)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_batch_callbacks_do_not_change_the_result(build, data, bytes_of, shuffle, optimizer):
    X, y = data
    plain, watched, watcher = build(loss="cross_entropy"), build(loss="cross_entropy"), Batches()
    options = {
        "epochs": 3,
        "batch_size": 8,
        "shuffle": shuffle,
        "penalty": bp.L2(0.1),
        "optimizer": optimizer,
    }
    options["sample_weight"] = np.linspace(0.5, 2, 37)
    expected = plain.fit(X, y, **options)
    history = watched.fit(X, y, callbacks=[watcher], **options)
    assert bytes_of(plain) == bytes_of(watched)
    assert history.loss == expected.loss
    assert [batch for batch, _ in watcher.seen] == [0, 1, 2, 3, 4] * 3
    assert watcher.epochs == 3


def test_a_batch_callback_may_end_the_training(build, data):
    X, y = data
    net, watcher = build(loss="cross_entropy"), Batches(last=7)
    history = net.fit(X, y, epochs=5, batch_size=8, callbacks=[watcher])
    assert len(watcher.seen) == 7
    assert len(history) == watcher.epochs == 2
    assert history.loss[1] == pytest.approx(np.mean([loss for _, loss in watcher.seen[5:]]), rel=1e-12)


def test_a_failing_callback_keeps_the_last_good_epoch(build, data, bytes_of):
    X, y = data

    class Fails(bp.Callback):
        def on_batch_end(self, network, batch, loss):
            if batch == 2 and network.epochs == 1:
                raise KeyError("pruned")

    net, one = build(loss="cross_entropy"), build(loss="cross_entropy")
    one.fit(X, y, epochs=1, batch_size=8)
    with pytest.raises(KeyError, match="pruned"):
        net.fit(X, y, epochs=3, batch_size=8, callbacks=[Fails()])
    assert bytes_of(net) == bytes_of(one)


def test_the_progress_bar_is_a_callback(build, data, capsys):
    X, y = data
    build(loss="cross_entropy").fit(X, y, epochs=3, callbacks=[bp.ProgressBar()])
    err = capsys.readouterr().err
    assert "3/3" in err
    assert "loss=" in err


def run(code, **env):
    env = {k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS", "BPFAST_NUM_THREADS")} | env
    done = subprocess.run([sys.executable, "-P", "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


THREADS = "import bpfast; print(bpfast.info()['threads'])"


@pytest.mark.skipif(not bp.info()["openmp"], reason="without OpenMP there is one thread")
def test_openmp_variables_limit_the_threads():
    assert run(THREADS, OMP_NUM_THREADS="1") == "1"
    assert run(THREADS, OMP_NUM_THREADS="1", BPFAST_NUM_THREADS="3") == "3"
    assert int(run(THREADS)) == len(os.sched_getaffinity(0))


@pytest.mark.skipif(not bp.info()["openmp"], reason="without OpenMP there is one thread")
def test_threadpoolctl_limits_the_threads():
    code = (
        "import bpfast, threadpoolctl\nwith threadpoolctl.threadpool_limits(1):\n"
        "    print(bpfast.info()['threads'])"
    )
    assert run(code) == "1"


def test_concurrent_networks_are_bitwise_identical(rng, bytes_of):
    X, y = rng.normal(size=(600, 20)).astype(np.float32), rng.integers(0, 3, 600)

    def train():
        net = bp.Network(
            [bp.Dense(64, "relu"), bp.Dense(3)],
            n_inputs=20,
            loss="cross_entropy",
            threads=4,
            backend="native",
        )
        net.fit(X, y, epochs=30, batch_size=100)
        return bytes_of(net)

    alone, together = train(), []
    workers = [threading.Thread(target=lambda: together.append(train())) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(result == alone for result in together)
    assert len(together) == 4
