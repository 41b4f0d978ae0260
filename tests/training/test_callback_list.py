"""CallbackList: the order of calls, and `on_fit_end` after errors."""

import numpy as np
import pytest

import bpfast as bp
from bpfast.training.callbacks import CallbackList, check_callbacks


class Recorder(bp.Callback):
    """Records its calls in a shared list; may raise in one of them."""

    def __init__(self, name, calls, fails=None, answer=None):
        self.name, self.calls, self.fails, self.answer = name, calls, fails, answer

    def _record(self, call):
        self.calls.append((self.name, call))
        if call == self.fails:
            raise KeyError(f"{self.name} {call}")

    def on_fit_begin(self, network, history):
        self._record("begin")

    def on_epoch_end(self, network, history):
        self._record("epoch")
        return self.answer

    def on_fit_end(self, network, history):
        self._record("end")


class Batches(Recorder):
    def on_batch_end(self, network, batch, loss):
        self._record(f"batch {batch} {loss}")
        return self.answer


@pytest.fixture
def calls():
    return []


def listed(*callbacks):
    return CallbackList(callbacks, "network", bp.History())


def test_callbacks_are_called_in_order(calls):
    callbacks = listed(Recorder("a", calls), Batches("b", calls), Recorder("c", calls))
    with callbacks.running():
        assert not callbacks.batch_end(4, 0.5)
        assert not callbacks.epoch_end()
    assert calls == [
        *(("a", "begin"), ("b", "begin"), ("c", "begin"), ("b", "batch 4 0.5")),
        *(("a", "epoch"), ("b", "epoch"), ("c", "epoch"), ("a", "end"), ("b", "end"), ("c", "end")),
    ]


def test_only_callbacks_with_on_batch_end_watch_batches(calls):
    assert not listed(Recorder("a", calls)).watch_batches
    assert listed(Recorder("a", calls), Batches("b", calls)).watch_batches


@pytest.mark.parametrize(
    ("answer", "ends"), [(True, True), (np.True_, True), (False, False), (None, False), (1, False)]
)
def test_only_true_ends_the_training(calls, answer, ends):
    callbacks = listed(Batches("a", calls, answer=answer), Batches("b", calls))
    assert callbacks.epoch_end() is ends
    assert callbacks.batch_end(0, 0.0) is ends
    assert [name for name, _ in calls] == ["a", "b", "a", "b"]


def test_those_that_have_begun_end_when_beginning_fails(calls):
    callbacks = listed(Recorder("a", calls), Recorder("b", calls, fails="begin"), Recorder("c", calls))
    with pytest.raises(KeyError, match="b begin"), callbacks.running():
        pytest.fail("the body ran")
    assert calls == [("a", "begin"), ("b", "begin"), ("a", "end")]


@pytest.mark.parametrize("fails", ["a", "b"])
def test_all_end_when_the_end_of_one_fails(calls, fails):
    callbacks = listed(*(Recorder(name, calls, fails="end" if name == fails else None) for name in "abc"))
    with pytest.raises(KeyError, match=f"{fails} end"), callbacks.running():
        pass
    assert [name for name, call in calls if call == "end"] == ["a", "b", "c"]


def test_all_end_when_the_body_fails(calls):
    callbacks = listed(Recorder("a", calls), Recorder("b", calls))
    with pytest.raises(ZeroDivisionError), callbacks.running():
        raise ZeroDivisionError
    assert calls[-2:] == [("a", "end"), ("b", "end")]


def test_ending_twice_calls_once(calls):
    callbacks = listed(Recorder("a", calls))
    callbacks.begin()
    callbacks.end()
    callbacks.end()
    assert calls == [("a", "begin"), ("a", "end")]


def test_callbacks_are_checked(calls):
    one = Recorder("a", calls)
    assert check_callbacks(one) == [one]
    assert check_callbacks((one,)) == [one]
    for given, match in (
        (3, "callbacks must be a Callback object or a list of them; got 3"),
        ([print], "derive it from bp.Callback"),
        ([bp.ProgressBar], r"; pass an object, ProgressBar\(\.\.\.\), not the class"),
    ):
        with pytest.raises(TypeError, match=match):
            check_callbacks(given)
