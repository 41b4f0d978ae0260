"""Network.fit: losses, order of rows, weights, validation and history."""

import copy
import pickle

import numpy as np
import pytest

import bpfast as bp
from bpfast import reference
from bpfast.activations import activations
from bpfast.losses import losses

over_dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])
over_losses = pytest.mark.parametrize("loss", list(losses))


@over_losses
@over_dtypes
def test_fit_lowers_the_loss(build, problem, loss, dtype):
    X, y = problem(loss, rows=60)
    net = build((3, 8, 2), "tanh", loss, dtype=dtype)
    before = net.loss(X, y)
    history = net.fit(X, y, epochs=40, batch_size=16, optimizer=bp.Adam(0.02))
    assert net.loss(X, y) < before - 0.05 * abs(before)
    assert history.loss[-1] < history.loss[0]
    assert len(history) == net.epochs == 40


@pytest.mark.parametrize("activation", [name for name in activations if name != "identity"])
def test_every_activation_learns_xor(build, activation):
    X, y = np.array([[0, 0], [0, 1], [1, 0], [1, 1]]) * 2 - 1, np.array([0, 1, 1, 0])
    net = build((2, 12, 1), activation, "log_loss", seed=3)
    net.fit(X, y, epochs=400, batch_size=None, optimizer=bp.Adam(0.05))
    assert (net.predict(X)[:, 0] > 0.5).tolist() == y.astype(bool).tolist()


@pytest.mark.parametrize("weighted", [False, True])
def test_loss_of_history_is_before_each_update(build, problem, rng, weighted):
    """Batches of 8, 8 and 4 rows; the epoch's loss is their mean over rows, by weight."""
    X, y = problem()
    w = rng.random(20) if weighted else np.ones(20)
    net, twin = build(), build()
    options = {"epochs": 2, "batch_size": 8, "shuffle": False, "optimizer": bp.SGD(0.3)}
    history = net.fit(X, y, sample_weight=w if weighted else None, **options)
    for epoch in range(2):
        total = 0.0
        for start in (0, 8, 16):
            rows = slice(start, start + 8)
            total += twin.loss(X[rows], y[rows], sample_weight=w[rows]) * w[rows].sum()
            gradients = twin.gradients(X[rows], y[rows], sample_weight=w[rows])
            for name, array in twin.parameters.items():
                array -= 0.3 * gradients[name]
        assert history.loss[epoch] == pytest.approx(total / w.sum(), rel=1e-12)


def test_shuffle_is_the_permutation_of_seed_and_epoch(build, problem, bytes_of):
    X, y = problem()
    w = np.linspace(0.5, 2, 20)
    net, twin = build(seed=11), build(seed=11)
    net.fit(X, y, epochs=3, batch_size=8, sample_weight=w)
    for epoch in range(3):
        order = reference.permutation(20, 11, epoch)
        twin.fit(X[order], y[order], epochs=1, batch_size=8, shuffle=False, sample_weight=w[order])
    assert bytes_of(net) == bytes_of(twin)


@over_dtypes
def test_same_seed_same_bytes(build, problem, bytes_of, dtype):
    X, y = problem("cross_entropy", rows=50)
    trained = []
    for seed, threads in ((5, None), (5, 1), (5, 2), (6, None)):
        net = build((3, 7, 2), "relu", "cross_entropy", seed=seed, dtype=dtype, threads=threads)
        start = bytes_of(net)
        net.fit(X, y, epochs=3, batch_size=8)
        trained.append((start, bytes_of(net)))
    assert trained[0] == trained[1] == trained[2]
    assert all(trained[0][0][name] != trained[3][0][name] for name in trained[0][0])
    assert all(trained[0][1][name] != trained[3][1][name] for name in trained[0][1])


def test_the_seed_orders_the_rows(build, problem, bytes_of, copy_parameters):
    X, y = problem()
    one, other = build(seed=5), build(seed=6)
    copy_parameters(one, other)
    for net in (one, other):
        net.fit(X, y, epochs=1, batch_size=4)
    assert bytes_of(one) != bytes_of(other)


@over_losses
def test_integer_weights_repeat_rows(build, problem, error, loss):
    X, y = problem(loss)
    counts = np.arange(20) % 4
    weighted, repeated = build(loss=loss), build(loss=loss)
    options = {"epochs": 10, "batch_size": None, "shuffle": False, "optimizer": bp.SGD(0.1, momentum=0.9)}
    a = weighted.fit(X, y, sample_weight=counts, **options)
    b = repeated.fit(np.repeat(X, counts, axis=0), np.repeat(y, counts, axis=0), **options)
    assert a.loss == pytest.approx(b.loss, rel=1e-12)
    for name, array in weighted.parameters.items():
        assert error(array, repeated.parameters[name]) <= 1e-12


def test_the_scale_of_weights_does_not_matter(build, problem, bytes_of, rng):
    X, y = problem()
    w = rng.random(20)
    one, scaled = build(), build()
    one.fit(X, y, epochs=3, batch_size=6, sample_weight=w)
    scaled.fit(X, y, epochs=3, batch_size=6, sample_weight=1024 * w)  # a power of 2 rounds alike
    assert bytes_of(one) == bytes_of(scaled)


@pytest.mark.parametrize("batch_size", [None, 4])
def test_rows_of_weight_0_are_ignored_even_if_invalid(build, problem, error, batch_size):
    """Overflowing losses of rows with weight 0 are ignored, also in batches that contain only such rows."""
    X, y = problem()
    w = np.ones(20)
    w[4:8], w[13] = 0.0, 0.0
    wild = y.copy()
    wild[4:8], wild[13] = 1e200, -1e200
    options = {"epochs": 5, "batch_size": batch_size, "shuffle": False, "optimizer": bp.SGD(0.1)}
    net, tame = build(), build()
    assert net.loss(X, wild, sample_weight=w) == tame.loss(X, y, sample_weight=w)
    a = net.fit(X, wild, sample_weight=w, **options)
    b = tame.fit(X, y, sample_weight=w, **options)
    assert a.loss == b.loss
    for name, array in net.parameters.items():
        assert np.array_equal(array, tame.parameters[name])
        assert np.isfinite(net.gradients(X, wild, sample_weight=w)[name]).all()
    if batch_size is None:
        fewer = build()
        fewer.fit(X[w > 0], y[w > 0], **options)
        for name, array in net.parameters.items():
            assert error(array, fewer.parameters[name]) <= 1e-13


def test_history(build, problem):
    X, y = problem()
    plain = build().fit(X, y, epochs=3)
    assert list(plain.columns) == ["loss", "learning_rate", "seconds"]
    net = build()
    history = net.fit(X, y, epochs=3, penalty=bp.L2(0.1), validation=(X, y))
    assert set(history.columns) == {"loss", "learning_rate", "seconds", "penalty", "val_loss", "val_r2"}
    assert all(len(column) == 3 for column in history.columns.values())
    assert len(history) == 3
    assert all(type(value) is float for column in history.columns.values() for value in column)
    assert all(seconds > 0 for seconds in history.seconds)
    assert history["val_loss"] is history.val_loss is history.columns["val_loss"]
    assert "val_loss" in history
    assert "val_loss" not in plain
    assert history.val_loss[-1] == net.loss(X, y)
    assert history.penalty[-1] == net.penalty(bp.L2(0.1))
    with pytest.raises(KeyError, match=r"no column 'val_loss'; it has loss, learning_rate, seconds"):
        plain["val_loss"]
    with pytest.raises(AttributeError, match=r"no column 'val_loss'"):
        plain.val_loss  # noqa: B018
    assert repr(bp.History()) == "<bpfast.History of 0 epochs>"
    assert repr(history).startswith(f"<bpfast.History of 3 epochs; last: loss {history.loss[-1]:.4g}, ")
    once = {name: values[:1] for name, values in history.columns.items()}
    short = copy.deepcopy(history)
    short.columns.update(once)
    assert repr(short).startswith("<bpfast.History of 1 epoch; last: loss ")
    assert copy.deepcopy(history).columns == pickle.loads(pickle.dumps(history)).columns == history.columns


def test_columns_of_losses(build, problem):
    for loss in losses:
        X, y = problem(loss)
        history = build(loss=loss).fit(X, y, epochs=1, validation=(X, y))
        metric = "val_accuracy" if loss in CLASSIFIERS else "val_r2"
        assert list(history.columns) == ["loss", "learning_rate", "seconds", "val_loss", metric]
        assert -9 < history[metric][0] <= 1


CLASSIFIERS = {"cross_entropy", "log_loss", "exponential", "hinge"}


def test_validation_with_weights(build, problem, rng):
    X, y = problem("cross_entropy")
    Xv, yv = problem("cross_entropy", rows=11)
    wv = rng.random(11)
    net = build(loss="cross_entropy")
    history = net.fit(X, y, epochs=2, validation=(Xv, yv, wv))
    assert net.loss(Xv, yv) != history.val_loss[-1] == net.loss(Xv, yv, sample_weight=wv)
    right = net.predict(Xv).argmax(axis=1) == yv
    assert history.val_accuracy[-1] == pytest.approx(wv[right].sum() / wv.sum(), rel=1e-14)


def test_validation_and_callbacks_do_not_change_the_training(build, problem, bytes_of):
    X, y = problem()
    plain, watched = build(), build()
    plain.fit(X, y, epochs=4, batch_size=8)
    watched.fit(X, y, epochs=4, batch_size=8, validation=(X[:3], y[:3]), callbacks=[bp.Callback()])
    assert bytes_of(plain) == bytes_of(watched)


def test_r2_of_a_constant_target_is_0(build, problem):
    X, _ = problem()
    history = build((3, 1)).fit(X, np.ones(20), epochs=1, validation=(X, np.ones(20)))
    assert history.val_r2 == [0.0]


def test_a_batch_larger_than_the_data_is_all_of_it(build, problem, bytes_of):
    X, y = problem()
    nets = [build() for _ in range(3)]
    for net, size in zip(nets, (20, 10**9, None), strict=True):
        net.fit(X, y, epochs=2, batch_size=size)
    assert bytes_of(nets[0]) == bytes_of(nets[1]) == bytes_of(nets[2])


def test_a_single_row(build, problem):
    X, y = problem(rows=1)
    net = build()
    assert net.fit(X, y, epochs=3, validation=(X, y)).loss[0] > net.loss(X, y)


def test_progress_is_written_to_stderr(build, problem, capsys):
    X, y = problem()
    build().fit(X, y, epochs=2, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "2/2" in err
    assert "loss" in err
    build().fit(X, y, epochs=2)
    assert capsys.readouterr() == ("", "")
