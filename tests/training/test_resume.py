"""Resuming: a run that stopped anywhere continues with results bitwise identical to an uninterrupted one."""

import glob
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import bpfast as bp

SCRIPT = Path(__file__).parent / "killed.py"

OPTIONS = {
    "adam, plateau": {"optimizer": bp.Adam(bp.ReduceOnPlateau(0.05, patience=1))},
    "sgd, cosine": {"optimizer": bp.SGD(bp.Cosine(0.1, 6), momentum=0.9), "penalty": bp.L1(1e-3)},
    "no shuffling": {"optimizer": bp.RMSprop(), "shuffle": False},
    "blocks": {"optimizer": bp.Adagrad(), "shuffle": "blocks"},
    "noise": {"optimizer": bp.AdamW(clip_norm=0.5), "weight_noise": 0.1},
    "full batches": {"optimizer": bp.Rprop(), "batch_size": None},
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("stop", [3, 6, 7, 11, 30, 35])
@pytest.mark.parametrize("batches", [None, 2])
def test_a_resumed_run_equals_an_uninterrupted_one(
    make, data, tmp_path, name, stop, batches, interrupt_after, training_state, columns_of
):
    X, y = data
    path = tmp_path / "run.safetensors"
    options = {"epochs": 6, "batch_size": 16, "validation": (X[:20], y[:20]), **OPTIONS[name]}
    reference = make()
    expected = reference.fit(X, y, callbacks=[bp.EarlyStopping(patience=2)], **options)

    def run(net, *more):
        callbacks = [bp.Checkpoint(path, batches=batches), bp.EarlyStopping(patience=2), *more]
        return net.fit(X, y, callbacks=callbacks, resume=path, **options)

    first = make()
    try:
        history = run(first, interrupt_after(stop))
    except KeyboardInterrupt:
        # Before the first checkpoint there is no file to restore the seed from.
        second = make(seed=8 if path.exists() else 3, threads=1)
        history = run(second)
        assert training_state(second) == training_state(reference)
    assert columns_of(history) == columns_of(expected)
    again = make(seed=9)
    assert columns_of(run(again)) == columns_of(expected)
    assert training_state(again) == training_state(reference)


def test_resume_with_sparse_rows_and_weights(make, data, tmp_path, interrupt_after, training_state):
    scipy_sparse = pytest.importorskip("scipy.sparse")
    X, y = data
    X = X * (X > 0.8)
    path, w = tmp_path / "run", np.linspace(0.1, 2, 90)
    reference = make()
    reference.fit(X, y, epochs=4, sample_weight=w)
    with pytest.raises(KeyboardInterrupt):
        make().fit(
            X, y, epochs=4, sample_weight=w, callbacks=[bp.Checkpoint(path, batches=1), interrupt_after(5)]
        )
    net = make()
    net.fit(scipy_sparse.csr_matrix(X), y, epochs=4, sample_weight=w, resume=path)
    assert training_state(net) == training_state(reference)


def test_resume_with_a_custom_loss(backend, tmp_path, rng, training_state):
    X, Y = rng.normal(size=(40, 3)), rng.normal(size=(40, 2))

    def loss(Y, Z):
        return ((Z - Y) ** 2).mean(axis=1), 2 * (Z - Y) / Z.shape[1]

    def make():
        return bp.Network([bp.Dense(4, "tanh"), bp.Dense(2)], n_inputs=3, loss=loss, backend=backend)

    reference, net = make(), make()
    reference.fit(X, Y, epochs=5)
    make().fit(X, Y, epochs=3, callbacks=[bp.Checkpoint(tmp_path / "run")])
    net.fit(X, Y, epochs=5, resume=tmp_path / "run")
    assert training_state(net) == training_state(reference)


def test_resume_a_longer_run_of_a_trained_network(make, data, tmp_path, training_state):
    X, y = data
    reference, net = make(), make()
    for each in (reference, net):
        each.fit(X, y, epochs=2)
        each.scale_learning_rates({0: 0.5})
    history = reference.fit(X, y, epochs=5)
    net.fit(X, y, epochs=3, callbacks=[bp.Checkpoint(tmp_path / "run")])
    other = make(seed=11)
    assert other.fit(X, y, epochs=5, resume=tmp_path / "run").loss == history.loss
    assert training_state(other) == training_state(reference)
    assert other.learning_rate_scales["0.W"] == 0.5
    assert other.epochs == 7


def test_divergence_in_a_resumed_epoch_restores_the_last_good_weights(backend, tmp_path, rng):
    X, y = rng.normal(size=(64, 3)), rng.normal(size=64)
    good = {}

    class Good(bp.Callback):
        def on_epoch_end(self, network, history):
            good[len(history)] = network._state.flat.copy()

    def run(net, *callbacks, **options):
        rate = bp.StepDecay(0.01, every=2, factor=1.0) if not options else options["rate"]
        return net.fit(X, y, epochs=4, batch_size=8, optimizer=bp.SGD(rate), callbacks=callbacks)

    def make():
        return bp.Network([bp.Dense(4), bp.Dense(1)], n_inputs=3, loss="squared_error", backend=backend)

    class Break(bp.Callback):
        """Makes the weights infinite after the checkpoint of the third batch."""

        def __init__(self, batch):
            self.batch, self.epoch = batch, 0

        def on_epoch_end(self, network, history):
            self.epoch += 1

        def on_batch_end(self, network, batch, loss):
            if self.epoch == 1 and batch == self.batch:
                network.parameters["0.W"][...] = np.inf

    net = make()
    with pytest.raises(FloatingPointError, match="epoch 1"):
        run(net, Good(), bp.Checkpoint(tmp_path / "run", batches=3), Break(6))
    assert (net._state.flat == good[1]).all()
    resumed = make()
    breaker = Break(6)
    breaker.epoch = 1
    with pytest.raises(FloatingPointError, match="epoch 1"):
        resumed.fit(
            X,
            y,
            epochs=4,
            batch_size=8,
            optimizer=bp.SGD(bp.StepDecay(0.01, every=2, factor=1.0)),
            callbacks=[breaker],
            resume=tmp_path / "run",
        )
    assert (resumed._state.flat == good[1]).all()


def test_custom_callbacks_have_a_state(make, data, tmp_path):
    X, y = data

    class Sum(bp.Callback):
        def __init__(self):
            self.seen, self.worst, self.at = [], -np.inf, None

        def on_epoch_end(self, network, history):
            self.seen.append(history.loss[-1])
            self.worst = max(self.worst, history.loss[-1])
            self.at = np.arange(len(self.seen), dtype="f4")

        def state(self):
            return {"seen": self.seen, "worst": self.worst, "at": self.at, "nested": {"a": [None, True, "x"]}}

        def restore(self, state):
            assert state["nested"] == {"a": [None, True, "x"]}
            self.seen, self.worst, self.at = state["seen"], state["worst"], state["at"]

    whole_run = Sum()
    make().fit(X, y, epochs=5, callbacks=[whole_run])
    make().fit(X, y, epochs=2, callbacks=[Sum(), bp.Checkpoint(tmp_path / "run")])
    second = Sum()
    make().fit(X, y, epochs=5, callbacks=[second], resume=tmp_path / "run")
    assert (second.seen, second.worst) == (whole_run.seen, whole_run.worst)
    assert second.at.tolist() == whole_run.at.tolist()
    with pytest.raises(ValueError, match=r"had a callback Sum; this fit has none"):
        make().fit(X, y, epochs=5, resume=tmp_path / "run")


def test_the_gradient_flow_record_is_continued(make, data, tmp_path, interrupt_after):
    X, y = data
    expected = bp.GradientFlow(X, y, rows=20)
    make().fit(X, y, epochs=4, batch_size=16, callbacks=[expected])
    callbacks = [
        bp.GradientFlow(X, y, rows=20),
        bp.Checkpoint(tmp_path / "run", batches=2),
        interrupt_after(16),
    ]
    with pytest.raises(KeyboardInterrupt):
        make().fit(X, y, epochs=4, batch_size=16, callbacks=callbacks)
    flow = bp.GradientFlow(X, y, rows=20)
    make().fit(X, y, epochs=4, batch_size=16, callbacks=[flow], resume=tmp_path / "run")
    assert flow.epochs == expected.epochs == [0, 1, 2, 3, 4]
    for name in ("mean", "update_ratio", "gradient_norm"):
        np.testing.assert_array_equal(flow.column(name), expected.column(name))
    assert [str(one) for one in flow.flows] == [str(one) for one in expected.flows]


def launch(path, threads, out):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path[1:])}
    return subprocess.Popen([sys.executable, "-P", SCRIPT, path, str(threads), out], env=environment)


def test_a_killed_run_is_resumed_exactly(tmp_path, request):
    """Runs are killed at random moments, also during a write, and resumed with other thread counts."""
    path, out = str(tmp_path / "run.st"), str(tmp_path / "out")
    assert launch("-", 1, out).wait() == 0
    expected = Path(out).read_bytes()
    draw = random.Random(int.from_bytes(os.urandom(4), "little"))
    kills = request.config.getoption("--kills")
    begin = time.perf_counter()
    assert launch(path, 2, out).wait() == 0
    longest = time.perf_counter() - begin
    assert Path(out).read_bytes() == expected
    killed = written = within = 0
    while killed < kills:
        for left in glob.glob(str(tmp_path / "run*")):
            os.unlink(left)
        process = launch(path, 1 + killed % 2, out)
        # A kill before the first checkpoint leaves no file to resume from.
        time.sleep(draw.uniform(0.0, 1.1) * longest)
        if process.poll() is not None:
            continue
        process.send_signal(signal.SIGKILL)
        process.wait()
        killed += 1
        within += os.path.exists(path)
        written += bool(glob.glob(str(tmp_path / "*.tmp")))
        os.unlink(out) if os.path.exists(out) else None
        assert launch(path, 1 + (killed // 2) % 2, out).wait() == 0
        assert Path(out).read_bytes() == expected, f"kill {killed}"
        assert not glob.glob(str(tmp_path / "*.tmp"))
    print(f"{killed} kills: {within} with a checkpoint, {written} during a write")
