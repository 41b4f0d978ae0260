"""Checkpoints: the files that are kept, the states of callbacks, and the arguments."""

import json
import os

import numpy as np
import pytest
from safetensors import safe_open

import bpfast as bp


def test_load_restores_the_optimizer(make, data, tmp_path, training_state):
    X, y = data
    reference, net = make(), make()
    reference.fit(X, y, epochs=5, optimizer="adam")
    net.fit(X, y, epochs=3, optimizer="adam", callbacks=[bp.Checkpoint(tmp_path / "run")])
    loaded = bp.load(tmp_path / "run", backend=net.backend)
    assert training_state(loaded) == training_state(net)
    loaded.fit(X, y, epochs=2, optimizer="adam")
    assert training_state(loaded) == training_state(reference)


def test_the_last_and_the_best_networks_are_kept(make, data, tmp_path):
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


def test_the_best_by_a_rising_metric(make, data, tmp_path):
    X, y = data
    saver = bp.Checkpoint(tmp_path / "run", best=True, monitor="val_accuracy")
    history = make().fit(X, y, epochs=8, validation=(X, y), callbacks=[saver])
    assert saver.best_value == max(history.val_accuracy)
    assert saver.best_epoch == int(np.argmax(history.val_accuracy))


def test_leftovers_of_a_killed_process_are_removed(make, data, tmp_path):
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


@pytest.mark.parametrize("stop", [2, 3, 5, 6])
@pytest.mark.parametrize("which", ["a", "b"])
def test_several_checkpoints_keep_the_same_best_networks(tmp_path, monkeypatch, rng, stop, which):
    """Each is written with the best files its state refers to, and restores its own state."""
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


def test_unstorable_states_raise_before_training(make, data, tmp_path):
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


def test_checkpoint_arguments_are_checked(make, data, tmp_path):
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
    with pytest.raises(FileNotFoundError, match="there is no directory"):
        make().fit(X, y, callbacks=[bp.Checkpoint(tmp_path / "no" / "run")])
    with pytest.raises(ValueError, match=r"monitors 'val_loss', which this fit does not record"):
        make().fit(X, y, callbacks=[bp.Checkpoint(tmp_path / "run", best=True, monitor="val_loss")])
    with pytest.raises(ValueError, match="L-BFGS"):
        make().fit(X, y, optimizer=bp.LBFGS(), callbacks=bp.Checkpoint(tmp_path / "run"))
    with pytest.raises(ValueError, match=r"supports Network\.fit only"):
        bp.Checkpoint(tmp_path / "run").on_fit_begin(make(), bp.History())
    assert os.listdir(tmp_path) == []


def test_the_header_matches_its_description(make, data, tmp_path, interrupt_after):
    X, y = data
    callbacks = [bp.EarlyStopping("loss", patience=9), bp.Checkpoint(tmp_path / "run", batches=2)]
    with pytest.raises(KeyboardInterrupt):
        make().fit(X, y, epochs=4, batch_size=16, callbacks=[*callbacks, interrupt_after(11)])
    with safe_open(tmp_path / "run", framework="numpy") as file:
        training = json.loads(file.metadata()["bpfast"])["training"]
        names = set(file.keys())
    assert (training["epochs"], training["batch"], training["ended"]) == (1, 4, False)
    assert training["history"] == ["loss", "learning_rate", "seconds"]
    assert {"optimizer.m/0.W", "history/loss", "epoch/losses", "good/1.mean", "callbacks.0.weights"} <= names
