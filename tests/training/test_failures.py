"""What stays after a callback fails: the network, the other callbacks, the original error."""

import threading

import numpy as np
import pytest

import bpfast as bp


class Recorder(bp.Callback):
    """Records its calls, and fails in those that are named."""

    def __init__(self, *fails):
        self.fails, self.calls = fails, []

    def _record(self, call):
        self.calls.append(call)
        if call in self.fails:
            raise RuntimeError(f"{call} failed")

    def on_fit_begin(self, network, history):
        self._record("begin")

    def on_epoch_end(self, network, history):
        self._record("epoch")

    def on_fit_end(self, network, history):
        self._record("end")


@pytest.fixture
def data(rng):
    return rng.standard_normal((40, 3)), rng.integers(0, 2, 40)


def make(backend="native"):
    return bp.Network([bp.Dense(4, "tanh"), bp.Dense(2)], n_inputs=3, loss="cross_entropy", backend=backend)


def state_of(net):
    return net._state.flat.tobytes(), net.epochs, net._state.steps, net.seed


@pytest.mark.parametrize("optimizer", ["adam", bp.LBFGS()], ids=["adam", "lbfgs"])
def test_only_callbacks_that_began_are_ended(data, optimizer):
    first, second, third = Recorder(), Recorder("begin"), Recorder()
    with pytest.raises(RuntimeError, match="begin failed"):
        make().fit(*data, callbacks=[first, second, third], optimizer=optimizer)
    assert (first.calls, second.calls, third.calls) == (["begin", "end"], ["begin"], [])


def test_all_are_ended_and_the_first_error_keeps_its_context(data):
    first, second, third = Recorder("end"), Recorder("epoch", "end"), Recorder()
    with pytest.raises(RuntimeError, match="end failed") as caught:
        make().fit(*data, callbacks=[first, second, third])
    assert [c.calls[-1] for c in (first, second, third)] == ["end"] * 3
    assert "epoch failed" in str(caught.value.__context__)


def test_a_resume_that_cannot_begin_leaves_the_network_unchanged(data, tmp_path):
    path = tmp_path / "run"
    make().fit(*data, epochs=2, callbacks=[bp.Checkpoint(path)])
    net = make()
    before = state_of(net)
    with pytest.raises(RuntimeError, match="end failed"):
        net.fit(*data, epochs=3, resume=path, callbacks=[Recorder("end"), Recorder("begin")])
    assert state_of(net) == before


def test_an_error_in_the_state_of_a_callback_is_its_own(data, tmp_path):
    class Stateful(bp.Callback):
        def state(self):
            raise AttributeError("no attribute 'count'")

    path = tmp_path / "run"
    make().fit(*data, epochs=2, callbacks=[bp.Checkpoint(path)])
    with pytest.raises(AttributeError, match="no attribute 'count'"):
        make().fit(*data, epochs=3, resume=path, callbacks=[Stateful()])


def test_lbfgs_keeps_what_a_callback_set(data):
    class Set(bp.Callback):
        def on_fit_begin(self, network, history):
            network.parameters["0.W"][...] = 1

        def on_epoch_end(self, network, history):
            raise RuntimeError("stop")

    net = bp.Network([bp.Dense(2)], n_inputs=3, loss=bp.CustomLoss(_fails))
    with pytest.raises(RuntimeError, match="no loss"):
        net.fit(data[0], np.zeros((40, 2)), optimizer=bp.LBFGS(), callbacks=[Set()])
    assert (net.parameters["0.W"] == 1).all()


def _fails(Y, Z):
    raise RuntimeError("no loss")


def test_a_file_saved_during_a_fit_in_another_thread_is_whole(data, tmp_path):
    net = make()
    X, y = np.tile(data[0], (50, 1)), np.tile(data[1], 50)
    thread = threading.Thread(target=lambda: net.fit(X, y, epochs=60))
    thread.start()
    saved = 0
    while thread.is_alive() or not saved:
        net.save(tmp_path / "model")
        bp.load(tmp_path / "model")
        saved += 1
    thread.join()


def test_an_interrupted_forward_pass_cannot_be_continued(data):
    net = bp.Network([bp.Dense(2)], n_inputs=3, loss="squared_error")
    net.forward(data[0], training=True)
    with pytest.raises(ValueError, match="columns"):
        net.forward(data[0][:, :2], training=True)
    state = net._state
    state.engine.forward = None  # as if it failed
    with pytest.raises(TypeError):
        net.forward(data[0], training=True)
    with pytest.raises(RuntimeError, match="backward needs forward"):
        net.backward(np.zeros((40, 2)))


def test_metadata_is_text():
    net = make()
    net.metadata = {"note": "kept"}
    for wrong in (None, 3, {"a": 1}, {1: "a"}):
        with pytest.raises(TypeError, match="metadata must be a dict of str to str"):
            net.metadata = wrong
    assert net.metadata == {"note": "kept"}
