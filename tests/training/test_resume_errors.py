"""Checkpoints that cannot be resumed raise an error, and the network does not change."""

import json

import numpy as np
import pytest
from safetensors import safe_open

import bpfast as bp
from bpfast.storage import model_file


def test_a_different_run_is_refused(make, data, tmp_path, backend, refusal_of):
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
        assert text.strip() in refusal_of(path, **changes), text


def test_a_different_early_stopping_is_refused(make, data, tmp_path, refusal_of):
    X, y = data
    path = tmp_path / "run"
    make().fit(X, y, epochs=2, callbacks=[bp.EarlyStopping("loss"), bp.Checkpoint(path)])
    for stopping, text in (
        (bp.EarlyStopping("learning_rate"), "had monitor 'loss'; this one has 'learning_rate'"),
        (bp.EarlyStopping("loss", restore_best=False), "had restore_best True; this one has False"),
        (bp.EarlyStopping("loss", min_delta=1), "had min_delta 0.0; this one has 1.0"),
    ):
        assert text in refusal_of(path, callbacks=[stopping])
    net = make()
    net.fit(X, y, epochs=3, callbacks=[bp.EarlyStopping("loss", patience=3)], resume=path)


def test_a_refused_run_keeps_the_forward_pass(make, data, tmp_path):
    X, y = data
    make().fit(X, y, epochs=1, callbacks=[bp.Checkpoint(tmp_path / "run")])
    net = make()
    Z = net.forward(X, training=True)
    with pytest.raises(FileNotFoundError):
        net.fit(X, y, callbacks=[bp.Checkpoint(tmp_path / "no" / "run")])
    net.backward(Z)


@pytest.mark.parametrize(("key", "value"), [("losses", np.nan), ("counts", np.inf), ("counts", -1.0)])
def test_an_impossible_epoch_is_refused(make, data, tmp_path, key, value, interrupt_after, refusal_of):
    X, y = data
    path = tmp_path / "run"
    callbacks = [bp.Checkpoint(path, batches=2), interrupt_after(10)]
    with pytest.raises(KeyboardInterrupt):
        make().fit(X, y, batch_size=16, callbacks=callbacks)
    with safe_open(path, framework="numpy") as file:
        header = json.loads(file.metadata()["bpfast"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    tensors[f"epoch/{key}"][0] = value
    del header["sha256"]
    model_file.write(path, header, tensors)
    assert "its epoch has batches whose loss or weight is not finite" in refusal_of(
        path, epochs=10, batch_size=16
    )


def test_files_other_than_checkpoints_are_refused(make, data, tmp_path, refusal_of):
    X, y = data
    path = tmp_path / "run"
    make().fit(X, y, epochs=2, callbacks=[bp.Checkpoint(path)])
    data_ = bytearray(path.read_bytes())
    data_[-3] ^= 1
    (tmp_path / "damaged").write_bytes(data_)
    assert "its content does not match its checksum" in refusal_of(tmp_path / "damaged")
    (tmp_path / "cut").write_bytes(data_[:-100])
    assert "is not a checkpoint file, or is damaged" in refusal_of(tmp_path / "cut")
    make().save(tmp_path / "model")
    assert "is a model, not a checkpoint" in refusal_of(tmp_path / "model")
    with pytest.raises(FileNotFoundError, match="there is no checkpoint file"):
        make().fit(X, y, resume=tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="there is no checkpoint file"):
        make().fit(X, y, resume=tmp_path / "nowhere", callbacks=[bp.Checkpoint(tmp_path / "elsewhere")])
    assert "L-BFGS" in refusal_of(path, optimizer=bp.LBFGS())


def test_a_failing_callback_leaves_the_network_unchanged(make, data, tmp_path):
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


def _refer(training, tensors, key, name):
    """Put references to a tensor into the clock or the states of callbacks."""
    if key == "clock":
        training["clock"]["scale"] = {"$array": name}
    else:
        training["callbacks"][0]["state"][key] = [{"$array": name}] * 2


def _array(training, tensors, name, array):
    tensors[name] = array
    training["arrays"][name] = [model_file.dtype_name(array), list(array.shape)]


FORGED = {
    "an array in the clock": lambda t, a: _refer(t, a, "clock", "0.W"),
    "an array used twice": lambda t, a: _refer(t, a, "best", "callbacks.0.weights"),
    "a tensor of the network in a callback": lambda t, a: _refer(t, a, "weights", "0.W"),
    "optimizer state of another dtype": lambda t, a: _array(
        t, a, "optimizer.m/0.W", np.full((5, 7), 1e300, "f8")
    ),
    "optimizer state of another shape": lambda t, a: _array(t, a, "optimizer.m/0.b", np.zeros(1, "f4")),
    "last good weights of another dtype": lambda t, a: _array(t, a, "good/0.b", np.full(7, 1e300)),
    "last good weights of another shape": lambda t, a: _array(t, a, "good/0.b", np.zeros(1, "f4")),
    "losses as a matrix": lambda t, a: _array(t, a, "epoch/losses", np.zeros((6, 1))),
    "too few counts": lambda t, a: _array(t, a, "epoch/counts", np.zeros(1)),
    "an invalid number": lambda t, a: t["callbacks"][0]["state"].update(best={}),
    "an invalid epoch": lambda t, a: t["callbacks"][0]["state"].update(best_epoch=1.5),
    "weights of early stopping of another shape": lambda t, a: _array(
        t, a, "callbacks.0.weights", np.zeros(1, "f4")
    ),
    "a repeated column": lambda t, a: t.update(history=t["history"] * 1000),
}


@pytest.mark.parametrize("change", FORGED)
def test_a_forged_checkpoint_is_refused(make, data, tmp_path, change, interrupt_after, refusal_of):
    """The checksum matches, but the header does not match the tensors."""
    X, y = data
    path = tmp_path / "run"
    callbacks = [bp.EarlyStopping("loss", patience=9), bp.Checkpoint(path, batches=1)]
    with pytest.raises(KeyboardInterrupt):
        make().fit(X, y, epochs=4, batch_size=16, callbacks=[*callbacks, interrupt_after(11)])
    with safe_open(path, framework="numpy") as file:
        header = json.loads(file.metadata()["bpfast"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    del header["sha256"]
    model_file.write(path, header, tensors)
    net = make()
    net.fit(X, y, epochs=4, batch_size=16, callbacks=[bp.EarlyStopping("loss", patience=9)], resume=path)
    FORGED[change](header["training"], tensors)
    model_file.write(path, header, tensors)
    text = refusal_of(path, epochs=4, batch_size=16, callbacks=[bp.EarlyStopping("loss", patience=9)])
    assert text.startswith(repr(str(path)))
    assert text.isprintable()


def test_loading_reads_each_tensor_once(make, data, tmp_path):
    X, y = data
    path = tmp_path / "run"
    make().fit(X, y, epochs=2, callbacks=[bp.Checkpoint(path)])
    with safe_open(path, framework="numpy") as file:
        header = json.loads(file.metadata()["bpfast"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    del header["sha256"]
    header["training"]["clock"]["scale"] = [{"$array": "0.W"}] * 10_000
    model_file.write(path, header, tensors)
    with pytest.raises(ValueError, match=r"run' cannot be read"):
        bp.load(path)


def test_other_data_are_reported_before_the_batch_size_that_follows_from_them(make, data, tmp_path):
    X, y = data
    path = tmp_path / "run"
    make().fit(X[:20], y[:20], epochs=1, callbacks=[bp.Checkpoint(path)])
    with pytest.raises(ValueError, match="had different data") as caught:
        make().fit(X[:12], y[:12], epochs=2, resume=path)
    assert "batch_size" not in str(caught.value)
    assert caught.value.reason in str(caught.value)
    assert "bpfast.load" not in caught.value.reason


@pytest.mark.parametrize("wrong", [3, True, b"run"])
def test_resume_must_be_a_path(make, data, wrong):
    with pytest.raises(TypeError, match="resume must be a str or path; got"):
        make().fit(*data, resume=wrong)
