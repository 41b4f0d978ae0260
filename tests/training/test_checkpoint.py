"""Checkpoints: a training that stops anywhere and is taken up again ends with the same bytes."""

import glob
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

import bpfast as bp
from bpfast.storage import model_file as files

SCRIPT = Path(__file__).parent / "killed.py"


@pytest.fixture
def data(rng):
    return rng.normal(size=(90, 5)), rng.integers(0, 3, 90)


@pytest.fixture
def make(backend):
    def make(**options):
        layers = [bp.Dense(7, "relu"), bp.BatchNorm(), bp.Dropout(0.3), bp.Dense(3)]
        options = {"seed": 3, "backend": backend, **options}
        return bp.Network(layers, n_inputs=5, loss="cross_entropy", **options)

    return make


class Stop(bp.Callback):
    """Pulls the plug at the n-th batch."""

    def __init__(self, batches):
        self.left = batches

    def on_batch_end(self, network, batch, loss):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def whole(net):
    """All that the next step depends on."""
    state, counted = net._state.optimizer_state, (net._state.epochs, net._state.steps, net.seed)
    return net._state.flat.tobytes(), state.arrays.tobytes(), state.steps, state.clock, counted


def columns(history):
    return {name: values for name, values in history.columns.items() if name != "seconds"}


OPTIONS = {
    "adam, a plateau": {"optimizer": bp.Adam(bp.ReduceOnPlateau(0.05, patience=1))},
    "sgd, a cosine": {"optimizer": bp.SGD(bp.Cosine(0.1, 6), momentum=0.9), "penalty": bp.L1(1e-3)},
    "rows as they lie": {"optimizer": bp.RMSprop(), "shuffle": False},
    "blocks": {"optimizer": bp.Adagrad(), "shuffle": "blocks"},
    "noise": {"optimizer": bp.AdamW(clip_norm=0.5), "weight_noise": 0.1},
    "full batches": {"optimizer": bp.Rprop(), "batch_size": None},
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("stop", [3, 6, 7, 11, 30, 35])
@pytest.mark.parametrize("batches", [None, 2])
def test_a_stopped_run_goes_on_to_the_same_bytes(make, data, tmp_path, name, stop, batches):
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
        history = run(first, Stop(stop))
    except KeyboardInterrupt:
        # Before the first checkpoint there is nothing to take the seed from.
        second = make(seed=8 if path.exists() else 3, threads=1)
        history = run(second)
        assert whole(second) == whole(reference)
    assert columns(history) == columns(expected)
    again = make(seed=9)
    assert columns(run(again)) == columns(expected)
    assert whole(again) == whole(reference)


def test_sparse_rows_and_weights_go_on_too(make, data, tmp_path):
    scipy_sparse = pytest.importorskip("scipy.sparse")
    X, y = data
    X = X * (X > 0.8)
    path, w = tmp_path / "run", np.linspace(0.1, 2, 90)
    reference = make()
    reference.fit(X, y, epochs=4, sample_weight=w)
    with pytest.raises(KeyboardInterrupt):
        make().fit(X, y, epochs=4, sample_weight=w, callbacks=[bp.Checkpoint(path, batches=1), Stop(5)])
    net = make()
    net.fit(scipy_sparse.csr_matrix(X), y, epochs=4, sample_weight=w, resume=path)
    assert whole(net) == whole(reference)


def test_a_custom_loss_goes_on(backend, tmp_path, rng):
    X, Y = rng.normal(size=(40, 3)), rng.normal(size=(40, 2))

    def loss(Y, Z):
        return ((Z - Y) ** 2).mean(axis=1), 2 * (Z - Y) / Z.shape[1]

    def make():
        return bp.Network([bp.Dense(4, "tanh"), bp.Dense(2)], n_inputs=3, loss=loss, backend=backend)

    reference, net = make(), make()
    reference.fit(X, Y, epochs=5)
    make().fit(X, Y, epochs=3, callbacks=[bp.Checkpoint(tmp_path / "run")])
    net.fit(X, Y, epochs=5, resume=tmp_path / "run")
    assert whole(net) == whole(reference)


def test_a_longer_run_and_a_network_trained_before(make, data, tmp_path):
    X, y = data
    reference, net = make(), make()
    for each in (reference, net):
        each.fit(X, y, epochs=2)
        each.scale_learning_rates({0: 0.5})
    history = reference.fit(X, y, epochs=5)
    net.fit(X, y, epochs=3, callbacks=[bp.Checkpoint(tmp_path / "run")])
    other = make(seed=11)
    assert other.fit(X, y, epochs=5, resume=tmp_path / "run").loss == history.loss
    assert whole(other) == whole(reference)
    assert other.learning_rate_scales["0.W"] == 0.5
    assert other.epochs == 7


def test_load_takes_a_checkpoint_with_the_optimizer(make, data, tmp_path):
    X, y = data
    reference, net = make(), make()
    reference.fit(X, y, epochs=5, optimizer="adam")
    net.fit(X, y, epochs=3, optimizer="adam", callbacks=[bp.Checkpoint(tmp_path / "run")])
    twin = bp.load(tmp_path / "run", backend=net.backend)
    assert whole(twin) == whole(net)
    twin.fit(X, y, epochs=2, optimizer="adam")
    assert whole(twin) == whole(reference)


def test_the_last_and_the_best_are_kept(make, data, tmp_path):
    X, y = data
    weights, validation = {}, (X[:20], y[:20])

    class Watch(bp.Callback):
        def on_epoch_end(self, network, history):
            weights[len(history)] = network._state.flat.copy()

    net = make()
    saver = bp.Checkpoint(tmp_path / "run.st", every=2, keep=3, best=True)
    history = net.fit(
        X, y, epochs=9, optimizer=bp.SGD(0.9), validation=validation, callbacks=[Watch(), saver]
    )
    assert sorted(os.listdir(tmp_path)) == ["run.1.st", "run.2.st", "run.best.st", "run.st"]
    for name, epoch in (("run.st", 9), ("run.1.st", 8), ("run.2.st", 6)):
        loaded = bp.load(tmp_path / name, backend=net.backend)
        assert loaded.epochs == epoch
        assert (loaded._state.flat == weights[epoch]).all()
    best = int(np.argmin(history.val_loss))
    assert saver.best_epoch == best
    assert saver.best_value == history.val_loss[best]
    loaded = bp.load(tmp_path / "run.best.st", backend=net.backend)
    assert loaded.epochs == best + 1
    assert (loaded._state.flat == weights[best + 1]).all()
    assert loaded.loss(*validation) == history.val_loss[best]


def test_the_best_by_what_rises(make, data, tmp_path):
    X, y = data
    saver = bp.Checkpoint(tmp_path / "run", best=True, monitor="val_accuracy")
    history = make().fit(X, y, epochs=8, validation=(X, y), callbacks=[saver])
    assert saver.best_value == max(history.val_accuracy)
    assert saver.best_epoch == int(np.argmax(history.val_accuracy))


def test_what_a_kill_left_is_taken_away(make, data, tmp_path):
    X, y = data
    for name in ("run.st.0123abcd.tmp", "run.best.st.00000000.tmp", "run.1.st.ffffffff.tmp"):
        (tmp_path / name).touch()
    kept = ["run.st.notes.tmp", "other.st.0123abcd.tmp"]
    for name in kept:
        (tmp_path / name).touch()
    os.link(tmp_path / "run.st.notes.tmp", tmp_path / "run.1.st")
    os.link(tmp_path / "run.st.notes.tmp", tmp_path / "run.st")  # killed between two renames
    make().fit(X, y, epochs=4, callbacks=[bp.Checkpoint(tmp_path / "run.st", keep=2, best=True)])
    assert sorted(os.listdir(tmp_path)) == sorted([*kept, "run.1.st", "run.best.st", "run.st"])
    assert bp.load(tmp_path / "run.1.st").epochs == 3


def test_a_run_that_diverges_within_a_resumed_epoch_goes_back_to_its_last_good_weights(
    backend, tmp_path, rng
):
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
        """Infinite weights, after the checkpoint of the third batch."""

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


def test_callbacks_of_ones_own_have_a_state(make, data, tmp_path):
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


def test_the_record_of_gradients_goes_on(make, data, tmp_path):
    X, y = data
    expected = bp.GradientFlow(X, y, rows=20)
    make().fit(X, y, epochs=4, batch_size=16, callbacks=[expected])
    callbacks = [bp.GradientFlow(X, y, rows=20), bp.Checkpoint(tmp_path / "run", batches=2), Stop(16)]
    with pytest.raises(KeyboardInterrupt):
        make().fit(X, y, epochs=4, batch_size=16, callbacks=callbacks)
    flow = bp.GradientFlow(X, y, rows=20)
    make().fit(X, y, epochs=4, batch_size=16, callbacks=[flow], resume=tmp_path / "run")
    assert flow.epochs == expected.epochs == [0, 1, 2, 3, 4]
    for name in ("mean", "update_ratio", "gradient_norm"):
        np.testing.assert_array_equal(flow.column(name), expected.column(name))
    assert [str(one) for one in flow.flows] == [str(one) for one in expected.flows]


@pytest.mark.parametrize("stop", [2, 3, 5, 6])
@pytest.mark.parametrize("which", ["a", "b"])
def test_several_checkpoints_keep_the_best_alike(tmp_path, monkeypatch, rng, stop, which):
    """Each is written with the best files that it tells of, and finds its own state again."""
    X, Y = rng.normal(size=(60, 4)), rng.normal(size=(60, 1))
    validation = (X[:30], -Y[:30])

    def run(folder, stop=None, resume=None):
        folder.mkdir(exist_ok=True)
        a = bp.Checkpoint(folder / "a", best=True, monitor="loss")
        b = bp.Checkpoint(folder / "b", 1 if which == "b" else 5, best=True)
        write = a.write

        def killed(*progress):
            write(*progress)
            if len(a._run.history) == stop:
                raise KeyboardInterrupt

        monkeypatch.setattr(a, "write", killed)
        net = bp.Network([bp.Dense(8, "tanh"), bp.Dense(1)], n_inputs=4, loss="squared_error")
        options = {"optimizer": bp.Adam(0.5), "validation": validation, "resume": resume}
        try:
            net.fit(X, Y, epochs=10, callbacks=[a, b], **options)
        except KeyboardInterrupt:
            return None
        return a, b

    expected = run(tmp_path / "whole")
    assert run(tmp_path / "part", stop) is None
    given = tmp_path / "part" / which
    if not given.exists():
        given = tmp_path / "part" / "a"
    got = run(tmp_path / "part", resume=given)
    for one, other in zip(expected, got, strict=True):
        assert (one.best_value, one.best_epoch) == (other.best_value, other.best_epoch)
    for name in ("a.best", "b.best", "a", "b"):
        ours, theirs = (bp.load(tmp_path / folder / name) for folder in ("whole", "part"))
        assert (ours._state.flat == theirs._state.flat).all()
        assert ours.epochs == theirs.epochs


def test_a_checkpoint_finds_its_own_state_among_others(make, data, tmp_path):
    X, y = data
    savers = [bp.Checkpoint(tmp_path / name, best=True, monitor=name) for name in ("val_loss", "loss")]
    make().fit(X, y, epochs=2, validation=(X[:20], y[:20]), callbacks=savers)
    alone = bp.Checkpoint(tmp_path / "loss", best=True, monitor="loss")
    net = make()
    net.fit(X, y, epochs=2, validation=(X[:20], y[:20]), callbacks=alone, resume=tmp_path / "loss")
    assert (alone.best_value, alone.best_epoch) == (savers[1].best_value, savers[1].best_epoch)


def test_states_that_can_not_be_kept_are_refused_at_once(make, data, tmp_path):
    X, y = data

    class Odd(bp.Callback):
        def __init__(self, state):
            self.kept = state

        def state(self):
            return self.kept

    for state in ({"a": object()}, {"a": np.zeros(2, "i4")}, {"$array": "0.W"}, {3: 1}):
        net = make()
        before = net._state.flat.tobytes()
        with pytest.raises(TypeError, match="Checkpoint cannot store the state of Odd"):
            net.fit(X, y, callbacks=[Odd(state), bp.Checkpoint(tmp_path / "run")])
        assert net._state.flat.tobytes() == before
    assert os.listdir(tmp_path) == []
    make().fit(X, y, epochs=1, callbacks=[Odd({"a": np.array(2.5)}), bp.Checkpoint(tmp_path / "run")])

    class Back(Odd):
        def restore(self, state):
            self.back = state

    Back.__name__ = "Odd"
    back = Back({"a": 1})
    make().fit(X, y, epochs=2, callbacks=[back], resume=tmp_path / "run")
    assert back.back["a"].shape == ()
    assert back.back["a"] == 2.5


def resumed(make, data, path, **changes):
    X, y = data
    net = changes.pop("net", None) or make()
    X, y = changes.pop("X", X), changes.pop("y", y)
    before = (net._state.flat.tobytes(), net._state.epochs, net._state.optimizer_state)
    with pytest.raises(ValueError, match=r"resume|run|checkpoint|L-BFGS|damaged") as refusal:
        net.fit(X, y, **{"epochs": 5, "resume": path, **changes})
    assert (net._state.flat.tobytes(), net._state.epochs, net._state.optimizer_state) == before
    return str(refusal.value)


def test_another_run_is_refused(make, data, tmp_path, backend):
    X, y = data
    path = tmp_path / "run"
    make().fit(X, y, epochs=2, callbacks=[bp.Checkpoint(path)])
    texts = {
        "batch_size 32; this fit has batch_size 8": {"batch_size": 8},
        "optimizer adam; this fit has optimizer sgd": {"optimizer": "sgd"},
        "optimizer adam(learning_rate=constant(learning_rate=0.001))": {"optimizer": bp.Adam(0.1)},
        "penalty None; this fit has penalty l2": {"penalty": bp.L2(0.1)},
        "shuffle True; this fit has shuffle False": {"shuffle": False},
        "weight_noise 0.0; this fit has weight_noise 0.5": {"weight_noise": 0.5},
        "had different data,": {"X": X * 2},
        "had different data, ": {"y": (y + 1) % 3},
        "had different validation data": {"validation": (X, y)},
        "backend": {
            "net": make(backend="reference" if make().backend == "native" else "native"),
        },
        "had no callback EarlyStopping; this fit has one": {"callbacks": [bp.EarlyStopping("loss")]},
        "layers [0] = dense(units=7), this one has [0] = dense(units=9)": {
            "net": bp.Network([bp.Dense(9, "relu"), *make().layers[1:]], n_inputs=5, loss="cross_entropy")
        },
        "layers [1] = batch_norm, this one has [1] = dense": {
            "net": bp.Network([make().layers[0], bp.Dense(3)], n_inputs=5, loss="cross_entropy")
        },
        "layers of 4 elements, this one has of 5": {
            "net": bp.Network([*make().layers, bp.Dense(3)], n_inputs=5, loss="cross_entropy")
        },
        "dtype 'float32', this one has 'float64'": {"net": make(dtype="float64")},
    }
    for text, changes in texts.items():
        assert text.strip() in resumed(make, data, path, **changes), text


def test_early_stopping_by_something_else_is_refused(make, data, tmp_path):
    X, y = data
    path = tmp_path / "run"
    make().fit(X, y, epochs=2, callbacks=[bp.EarlyStopping("loss"), bp.Checkpoint(path)])
    for stopping, text in (
        (bp.EarlyStopping("learning_rate"), "had monitor 'loss'; this one has 'learning_rate'"),
        (bp.EarlyStopping("loss", restore_best=False), "had restore_best True; this one has False"),
        (bp.EarlyStopping("loss", min_delta=1), "had min_delta 0.0; this one has 1.0"),
    ):
        assert text in resumed(make, data, path, callbacks=[stopping])
    net = make()
    net.fit(X, y, epochs=3, callbacks=[bp.EarlyStopping("loss", patience=3)], resume=path)


def test_a_refused_run_keeps_the_tape(make, data, tmp_path):
    X, y = data
    make().fit(X, y, epochs=1, callbacks=[bp.Checkpoint(tmp_path / "run")])
    net = make()
    Z = net.forward(X, training=True)
    with pytest.raises(FileNotFoundError):
        net.fit(X, y, callbacks=[bp.Checkpoint(tmp_path / "no" / "run")])
    net.backward(Z)


@pytest.mark.parametrize(("key", "value"), [("losses", np.nan), ("counts", np.inf), ("counts", -1.0)])
def test_an_epoch_that_can_not_be_is_refused(make, data, tmp_path, key, value):
    X, y = data
    path = tmp_path / "run"
    callbacks = [bp.Checkpoint(path, batches=2), Stop(10)]
    with pytest.raises(KeyboardInterrupt):
        make().fit(X, y, batch_size=16, callbacks=callbacks)
    with safe_open(path, framework="numpy") as file:
        header = json.loads(file.metadata()["bpfast"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    tensors[f"epoch/{key}"][0] = value
    del header["sha256"]
    files.write(path, header, tensors)
    assert "its epoch has batches whose loss or weight is not finite" in resumed(
        make, data, path, epochs=10, batch_size=16
    )


def test_what_is_no_checkpoint_is_refused(make, data, tmp_path):
    X, y = data
    path = tmp_path / "run"
    make().fit(X, y, epochs=2, callbacks=[bp.Checkpoint(path)])
    data_ = bytearray(path.read_bytes())
    data_[-3] ^= 1
    (tmp_path / "damaged").write_bytes(data_)
    assert "its content does not match its checksum" in resumed(make, data, tmp_path / "damaged")
    (tmp_path / "cut").write_bytes(data_[:-100])
    assert "is not a checkpoint file, or is damaged" in resumed(make, data, tmp_path / "cut")
    make().save(tmp_path / "model")
    assert "is a model, not a checkpoint" in resumed(make, data, tmp_path / "model")
    with pytest.raises(FileNotFoundError, match="there is no checkpoint file"):
        make().fit(X, y, resume=tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="there is no checkpoint file"):
        make().fit(X, y, resume=tmp_path / "nowhere", callbacks=[bp.Checkpoint(tmp_path / "elsewhere")])
    assert "L-BFGS" in resumed(make, data, path, optimizer=bp.LBFGS())


def test_the_core_of_checkpoint(make, data, tmp_path):
    X, y = data
    for arguments, options, text in (
        ((3,), {}, "path must be the name of a file; got 3"),
        (("a", "b"), {}, "every must be an integer; got 'b'"),
        (("a",), {"keep": 0}, "keep must be at least 1; got 0"),
        (("a",), {"batches": 0}, "batches must be at least 1; got 0"),
        (("a",), {"best": 1}, "best must be True or False; got 1"),
        (("a",), {"monitor": 1}, "monitor must be the name of a column; got 1"),
    ):
        with pytest.raises((TypeError, ValueError), match=text):
            bp.Checkpoint(*arguments, **options)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        make().fit(X, y, callbacks=[bp.Checkpoint(tmp_path / "no" / "run")])
    with pytest.raises(ValueError, match=r"monitors 'val_loss', which this fit does not record"):
        make().fit(X, y, callbacks=[bp.Checkpoint(tmp_path / "run", best=True, monitor="val_loss")])
    with pytest.raises(ValueError, match="L-BFGS"):
        make().fit(X, y, optimizer=bp.LBFGS(), callbacks=bp.Checkpoint(tmp_path / "run"))
    with pytest.raises(ValueError, match=r"supports Network\.fit only"):
        bp.Checkpoint(tmp_path / "run").on_fit_begin(make(), bp.History())
    assert os.listdir(tmp_path) == []


def test_a_callback_that_refuses_leaves_the_network_as_it_was(make, data, tmp_path):
    X, y = data
    make().fit(X, y, epochs=2, callbacks=[bp.Checkpoint(tmp_path / "run")])

    class Refuses(bp.Callback):
        def on_fit_begin(self, network, history):
            raise RuntimeError("not today")

    net = make(seed=20)
    before = (
        net._state.flat.tobytes(),
        net.seed,
        net._state.epochs,
        net._state.steps,
        net._state.optimizer_state,
    )
    with pytest.raises(RuntimeError, match="not today"):
        net.fit(X, y, epochs=5, callbacks=[Refuses()], resume=tmp_path / "run")
    assert (
        net._state.flat.tobytes(),
        net.seed,
        net._state.epochs,
        net._state.steps,
        net._state.optimizer_state,
    ) == before


def test_the_header_is_as_it_is_described(make, data, tmp_path):
    X, y = data
    callbacks = [bp.EarlyStopping("loss", patience=9), bp.Checkpoint(tmp_path / "run", batches=2)]
    with pytest.raises(KeyboardInterrupt):
        make().fit(X, y, epochs=4, batch_size=16, callbacks=[*callbacks, Stop(11)])
    with safe_open(tmp_path / "run", framework="numpy") as file:
        training = json.loads(file.metadata()["bpfast"])["training"]
        names = set(file.keys())
    assert (training["epochs"], training["batch"], training["ended"]) == (1, 4, False)
    assert training["history"] == ["loss", "learning_rate", "seconds"]
    assert {"optimizer.m/0.W", "history/loss", "epoch/losses", "good/1.mean", "callbacks.0.weights"} <= names


def launch(path, threads, out):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path[1:])}
    return subprocess.Popen([sys.executable, "-P", SCRIPT, path, str(threads), out], env=environment)


def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path, request):
    """Killed at random moments, also while a checkpoint is being written; threads are mixed."""
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
        # Once it trains: a kill before the first checkpoint leaves nothing to resume from.
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
    print(f"{killed} kills: {within} with a checkpoint there, {written} while one was being written")


def _refer(training, tensors, key, name):
    """Put references to a tensor into the clock or the states of callbacks."""
    if key == "clock":
        training["clock"]["scale"] = {"$array": name}
    else:
        training["callbacks"][0]["state"][key] = [{"$array": name}] * 2


def _array(training, tensors, name, array):
    tensors[name] = array
    training["arrays"][name] = [files.dtype_name(array), list(array.shape)]


FORGED = {
    "an array in the clock": lambda t, a: _refer(t, a, "clock", "0.W"),
    "an array twice": lambda t, a: _refer(t, a, "best", "callbacks.0.weights"),
    "a tensor that is no callback's": lambda t, a: _refer(t, a, "weights", "0.W"),
    "the optimizer's, of another type": lambda t, a: _array(
        t, a, "optimizer.m/0.W", np.full((5, 7), 1e300, "f8")
    ),
    "the optimizer's, of another shape": lambda t, a: _array(t, a, "optimizer.m/0.b", np.zeros(1, "f4")),
    "weights before, of another type": lambda t, a: _array(t, a, "good/0.b", np.full(7, 1e300)),
    "weights before, of another shape": lambda t, a: _array(t, a, "good/0.b", np.zeros(1, "f4")),
    "losses in a matrix": lambda t, a: _array(t, a, "epoch/losses", np.zeros((6, 1))),
    "fewer counts": lambda t, a: _array(t, a, "epoch/counts", np.zeros(1)),
    "a number that is none": lambda t, a: t["callbacks"][0]["state"].update(best={}),
    "an epoch that is none": lambda t, a: t["callbacks"][0]["state"].update(best_epoch=1.5),
    "the stopping's weights, of another shape": lambda t, a: _array(
        t, a, "callbacks.0.weights", np.zeros(1, "f4")
    ),
    "a column many times": lambda t, a: t.update(history=t["history"] * 1000),
}


@pytest.mark.parametrize("change", FORGED)
def test_a_forged_checkpoint_is_refused(make, data, tmp_path, change):
    """Its checksum is true: what it says of its tensors is not."""
    X, y = data
    path = tmp_path / "run"
    callbacks = [bp.EarlyStopping("loss", patience=9), bp.Checkpoint(path, batches=1)]
    with pytest.raises(KeyboardInterrupt):
        make().fit(X, y, epochs=4, batch_size=16, callbacks=[*callbacks, Stop(11)])
    with safe_open(path, framework="numpy") as file:
        header = json.loads(file.metadata()["bpfast"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    del header["sha256"]
    files.write(path, header, tensors)
    net = make()
    net.fit(X, y, epochs=4, batch_size=16, callbacks=[bp.EarlyStopping("loss", patience=9)], resume=path)
    FORGED[change](header["training"], tensors)
    files.write(path, header, tensors)
    text = resumed(
        make, data, path, epochs=4, batch_size=16, callbacks=[bp.EarlyStopping("loss", patience=9)]
    )
    assert text.startswith(repr(str(path)))
    assert text.isprintable()


def test_loading_reads_no_tensor_time_and_again(make, data, tmp_path):
    X, y = data
    path = tmp_path / "run"
    make().fit(X, y, epochs=2, callbacks=[bp.Checkpoint(path)])
    with safe_open(path, framework="numpy") as file:
        header = json.loads(file.metadata()["bpfast"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    del header["sha256"]
    header["training"]["clock"]["scale"] = [{"$array": "0.W"}] * 10_000
    files.write(path, header, tensors)
    with pytest.raises(ValueError, match=r"run' cannot be read"):
        bp.load(path)
