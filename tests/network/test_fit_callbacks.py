"""Callbacks and early stopping in Network.fit."""

import math

import numpy as np
import pytest

import bpfast as bp


class Recorder(bp.Callback):
    def __init__(self, events, name, stop_after=None):
        self.events, self.name, self.stop_after = events, name, stop_after

    def on_fit_begin(self, network, history):
        self.events.append((self.name, "begin", len(history)))

    def on_epoch_end(self, network, history):
        self.events.append((self.name, "epoch", len(history)))
        return len(history) == self.stop_after

    def on_fit_end(self, network, history):
        self.events.append((self.name, "end", len(history)))


def test_order_of_callbacks(build, problem):
    X, y = problem()
    events = []
    callbacks = [Recorder(events, "a", stop_after=2), Recorder(events, "b")]
    net = build()
    history = net.fit(X, y, epochs=5, callbacks=callbacks)
    expected = [("begin", 0), ("epoch", 1), ("epoch", 2), ("end", 2)]
    assert events == [(name, *event) for event in expected for name in "ab"]
    assert len(history) == net.epochs == 2


def test_one_callback_needs_no_list(build, problem):
    events = []
    build().fit(*problem(), epochs=1, callbacks=Recorder(events, "a"))
    assert [event[1] for event in events] == ["begin", "epoch", "end"]


def test_callbacks_are_told_when_training_fails(build, problem):
    X, y = problem()
    events = []
    net = build((3, 2))
    with pytest.raises(FloatingPointError):
        net.fit(X, y, epochs=50, optimizer=bp.SGD(1e100), callbacks=[Recorder(events, "a")])
    assert events[-1][1] == "end"
    assert [event[1] for event in events].count("end") == 1


def test_a_callback_that_raises_leaves_a_network_that_trains(build, problem):
    class Breaks(bp.Callback):
        def on_epoch_end(self, network, history):
            raise KeyError("mine")

    X, y = problem()
    net = build()
    with pytest.raises(KeyError, match="mine"):
        net.fit(X, y, epochs=3, callbacks=[Breaks()])
    assert net.epochs == 1
    net.fit(X, y, epochs=2)
    assert net.epochs == 3


def test_no_fit_inside_a_fit(build, problem):
    X, y = problem()

    class Nested(bp.Callback):
        def on_epoch_end(self, network, history):
            network.fit(X, y, epochs=1)

    net = build()
    with pytest.raises(RuntimeError, match="one fit at a time"):
        net.fit(X, y, epochs=2, callbacks=[Nested()])
    assert net.epochs == 1
    net.fit(X, y, epochs=1)
    assert net.epochs == 2


@pytest.mark.parametrize(
    ("monitor", "values", "options", "stops_at", "best_epoch"),
    [
        ("val_loss", [5, 4, 3, 4, 5, 6, 7], {"patience": 3}, 5, 2),
        ("val_loss", [5, 4, 4, 4, 4], {"patience": 2}, 3, 1),
        ("loss", [1, 2, 3], {"patience": 1}, 1, 0),
        ("val_loss", [5, 4.9, 4.8, 4.7, 4.6], {"patience": 2, "min_delta": 0.5}, 2, 0),
        ("val_loss", [5, 4.7, 4.4, 4.1], {"patience": 2, "min_delta": 0.5}, None, 2),
        ("val_accuracy", [0.1, 0.5, 0.4, 0.5, 0.3], {"patience": 2}, 3, 1),
        ("val_r2", [-3, -2, -1, -2, -2], {"patience": 2}, 4, 2),
        ("val_loss", [math.nan, math.nan, math.nan], {"patience": 2}, 1, -1),
        ("val_loss", [5, 4, 3, 2, 1], {"patience": 1}, None, 4),
    ],
)
def test_early_stopping_by_figures(build, monitor, values, options, stops_at, best_epoch):
    stopping, net = bp.EarlyStopping(monitor, **options), build()
    for again in range(2):  # a second fit starts afresh
        history = bp.History(monitor)
        stopping.on_fit_begin(net, history)
        stopped = None
        for epoch, value in enumerate(values):
            history.add(**{monitor: value})
            if stopping.on_epoch_end(net, history):
                stopped = epoch
                break
        assert (stopped, stopping.best_epoch) == (stops_at, best_epoch), f"run {again}"
        assert best_epoch < 0 or stopping.best == values[best_epoch]


@pytest.mark.parametrize("restore", [True, False])
def test_early_stopping_in_a_fit(build, rng, bytes_of, restore, keeper):
    """The network overfits a few noisy rows: the validation loss falls, then rises."""
    X, y = rng.normal(size=(15, 3)), rng.normal(size=(15, 2))
    Xv = rng.normal(size=(40, 3))
    net = build((3, 20, 2))
    yv = net.predict(Xv) + 0.3
    stopping = bp.EarlyStopping(patience=4, restore_best=restore)
    history = net.fit(
        X, y, epochs=100, optimizer=bp.Adam(0.02), validation=(Xv, yv), callbacks=[keeper, stopping]
    )
    best = int(np.argmin(history.val_loss))
    assert stopping.best_epoch == best
    assert stopping.best == history.val_loss[best]
    assert len(history) == best + 1 + 4 < 100
    assert bytes_of(net) == keeper.seen[best + 1 if restore else -1]
    assert keeper.seen[best + 1] != keeper.seen[-1]


def test_early_stopping_restores_also_when_it_did_not_stop(build, problem, bytes_of, keeper):
    X, y = problem()
    net = build()
    away = net.predict(X) - 5 * (y - net.predict(X))
    callbacks = [keeper, bp.EarlyStopping(patience=50)]
    history = net.fit(X, y, epochs=5, validation=(X, away), callbacks=callbacks)
    best = int(np.argmin(history.val_loss))
    assert best < 4
    assert bytes_of(net) == keeper.seen[best + 1]
