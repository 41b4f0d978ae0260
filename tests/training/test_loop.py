"""The training loop: number of epochs, order of calls, and the ways to end."""

import numpy as np
import pytest

import bpfast as bp
from bpfast.training.callbacks import CallbackList
from bpfast.training.loop import Epoch, Trainer, train


class Recorder(Trainer):
    """Records the calls; epoch k has the losses k and k + 1."""

    def __init__(self, last=None, without_figures=None, ended=None):
        self.calls, self.made = [], 0
        self.last, self.without_figures, self.ended = last, without_figures, ended

    def epoch(self):
        self.calls.append("epoch")
        losses = np.array([self.made, self.made + 1.0])
        self.made += 1
        return Epoch(losses, np.array([3.0, 1.0]), 0.1 * self.made, self.made == self.ended)

    def figures(self, epoch):
        self.calls.append("figures")
        return None if self.made == self.without_figures else {"loss": epoch.loss}

    def advance(self, figures):
        self.calls.append("advance")

    def ends(self, asked):
        self.calls.append(f"ends {asked}")
        return asked or self.made == self.last


class StopAt(bp.Callback):
    """Ends the training after a number of epochs."""

    def __init__(self, epochs):
        self.epochs = epochs

    def on_epoch_end(self, network, history):
        return len(history) == self.epochs


def run(trainer, epochs=4, callbacks=(), history=None):
    history = bp.History(planned=epochs) if history is None else history
    train(trainer, CallbackList(callbacks, None, history), history, epochs)
    return history


def test_an_epoch_has_a_weighted_mean_loss():
    epoch = Epoch(np.array([1.0, 5.0]), np.array([3.0, 1.0]), 0.1)
    assert epoch.loss == 2.0
    assert epoch.finite
    assert not Epoch(np.array([1.0, np.nan]), np.ones(2), 0.1).finite


def test_all_epochs_in_order():
    trainer = Recorder()
    history = run(trainer, 2)
    assert trainer.calls == ["epoch", "figures", "advance", "ends False"] * 2
    assert history.loss == [0.25, 1.25]
    assert history.learning_rate == pytest.approx([0.1, 0.2])
    assert all(seconds >= 0 for seconds in history.seconds)


def test_a_history_with_entries_is_continued():
    trainer, history = Recorder(), bp.History(planned=3)
    history.add(loss=9, learning_rate=1, seconds=0)
    assert len(run(trainer, 3, history=history)) == 3
    assert trainer.made == 2
    run(trainer, 3, history=history)
    assert trainer.made == 2


def test_a_callback_ends_the_training():
    trainer = Recorder()
    assert len(run(trainer, callbacks=[StopAt(2)])) == 2
    assert trainer.calls[-1] == "ends True"


def test_an_epoch_that_a_callback_has_ended_is_the_last():
    trainer = Recorder(ended=3)
    assert len(run(trainer)) == 3
    assert trainer.calls[-1] == "ends True"


def test_the_trainer_ends_the_training():
    trainer = Recorder(last=1)
    assert len(run(trainer)) == 1
    assert trainer.calls[-1] == "ends False"


def test_an_epoch_without_figures_ends_the_training():
    trainer = Recorder(without_figures=2)
    assert len(run(trainer)) == 1
    assert trainer.calls == ["epoch", "figures", "advance", "ends False", "epoch", "figures"]
