"""Arrays mapped from files: identical results, release of pages, and shuffling by blocks."""

import os
import subprocess
import sys

import numpy as np
import pytest

import bpfast as bp
from bpfast import reference
from bpfast.arrays import mapped
from bpfast.training import epoch as epochs


@pytest.fixture
def small_memory(monkeypatch):
    """Treat arrays of some kilobytes as large."""
    monkeypatch.setattr(mapped, "RESIDENT", 2**14)
    monkeypatch.setattr(mapped, "_FIRST_ROWS", 40)


@pytest.fixture
def data(rng, tmp_path):
    X, y = rng.normal(size=(999, 13)).astype("f4"), rng.integers(0, 3, 999)
    np.save(tmp_path / "X.npy", X)
    return X, np.load(tmp_path / "X.npy", mmap_mode="r"), y


def make(backend="native"):
    return bp.Network(
        [bp.Dense(8, "relu"), bp.Dropout(0.2), bp.Dense(3)],
        n_inputs=13,
        loss="cross_entropy",
        backend=backend,
    )


@pytest.mark.parametrize("shuffle", [True, False, "blocks"])
@pytest.mark.parametrize("watched", [False, True])
def test_training_on_a_mapped_array_is_bitwise_identical(
    small_memory, monkeypatch, data, backend, shuffle, watched
):
    monkeypatch.setattr(epochs, "BLOCK_BYTES", 2**10)
    X, file, y = data

    class Watch(bp.Callback):
        def on_batch_end(self, network, batch, loss):
            assert np.isfinite(loss)

    calls = []
    real = mapped.MappedRows._advise
    monkeypatch.setattr(mapped.MappedRows, "_advise", lambda self, *a: (calls.append(a), real(self, *a))[1])
    options = {"epochs": 3, "shuffle": shuffle, "callbacks": [Watch()] * watched}
    plain, net = make(backend), make(backend)
    expected = plain.fit(X, y, validation=(X, y), **options)
    assert not calls
    history = net.fit(file, y, validation=(file, y), **options)
    assert len(calls) > 10
    assert history.val_loss == expected.val_loss
    assert history.loss == expected.loss
    assert (net._state.flat == plain._state.flat).all()
    for call in ("predict", "forward"):
        assert (getattr(net, call)(file) == getattr(net, call)(X)).all()
    assert net.loss(file, y) == net.loss(X, y)
    assert (file == X).all()


def test_which_arrays_are_mapped(small_memory, data, tmp_path):
    X, file, _ = data
    assert mapped.mapped_rows(X) is None
    assert mapped.mapped_rows(file) is not None
    assert mapped.mapped_rows(np.asarray(file)) is not None
    assert mapped.mapped_rows(file[100:900]) is not None
    assert mapped.mapped_rows(file[:, 2:]) is None  # its rows are copied anyway
    assert mapped.mapped_rows(file[:10]) is None  # small
    written = np.load(tmp_path / "X.npy", mmap_mode="c")
    written[5] = 7  # in memory alone
    assert mapped.mapped_rows(written) is None
    assert mapped.mapped_rows(np.load(tmp_path / "X.npy", mmap_mode="r+")) is not None


def test_released_pages_can_be_read_again(small_memory, data):
    X, file, _ = data
    view = np.asarray(file)[37:]
    rows = mapped.mapped_rows(view)
    assert sum(len(block) for block in rows.blocks()) == len(view)
    assert all((block == X[37:][:1]).any() or len(block) for block in rows.blocks())
    rows.will_need(np.array([3, 4, 5, 900, 11]))
    rows.will_need(np.array([], np.int64))
    assert rows.release(200) >= 1
    assert (view == X[37:]).all()


def test_changes_of_the_file_are_kept(small_memory, data, tmp_path):
    X, _, y = data
    file = np.load(tmp_path / "X.npy", mmap_mode="r+")
    file[3] = 0.5
    make().fit(file, y, epochs=1)
    assert (file[3] == 0.5).all()
    assert (file[4] == X[4]).all()


def test_bad_values_in_a_file_are_found(small_memory, data, tmp_path):
    _, _, y = data
    file = np.load(tmp_path / "X.npy", mmap_mode="r+")
    file[998, 12] = np.nan
    with pytest.raises(ValueError, match=r"X contains NaN in row 998, column 12"):
        make().fit(file, y)


@pytest.mark.parametrize(("n", "columns"), [(1, 1), (999, 13), (5000, 2**17), (40, 2**21)])
def test_block_order(n, columns):
    order = epochs.block_order(n, columns, 7, 2)
    assert (np.sort(order) == np.arange(n)).all()
    assert (order == epochs.block_order(n, columns, 7, 2)).all()
    piece = max(1, epochs.BLOCK_BYTES // (4 * columns))
    key = reference.mix64(reference.mix64(7) + 2)
    pieces = reference.permutation(-(-n // piece), key, -(-n // piece))
    expected = []
    for window in range(-(-len(pieces) // 16)):
        within = pieces[16 * window : 16 * window + 16]
        rows = np.array([r for p in within for r in range(p * piece, min(n, (p + 1) * piece))])
        expected.extend(rows[reference.permutation(len(rows), key, window)])
    assert order.tolist() == expected
    if n > 500:
        for other in (epochs.block_order(n, columns, 8, 2), epochs.block_order(n, columns, 7, 3)):
            assert (order != other).any()


SCRIPT = """
import resource, sys
import numpy as np
import bpfast as bp

X = np.load(sys.argv[1], mmap_mode="r")
y = np.arange(len(X)) % 4
net = bp.Network([bp.Dense(8, "relu"), bp.Dense(4)], n_inputs=X.shape[1], loss="cross_entropy")
net.predict(X[:1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
shuffle = {"True": True, "blocks": "blocks"}[sys.argv[2]]
saver = bp.Checkpoint(sys.argv[1] + ".run")
net.fit(X, y, epochs=1, batch_size=64, shuffle=shuffle, validation=(X, y), callbacks=[saver])
for rows in (X, np.asarray(X)):
    net.predict(rows)
    net.freeze().predict(rows)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux")
@pytest.mark.parametrize("shuffle", ["True", "blocks"])
def test_little_of_a_large_file_is_in_memory(tmp_path, shuffle):
    """At most 200 MB of a sparse file of half a gigabyte are in memory at a time."""
    path = tmp_path / "X.npy"
    np.lib.format.open_memmap(path, mode="w+", dtype="f4", shape=(2**17, 1024)).flush()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path[1:])}
    command = [sys.executable, "-P", "-c", SCRIPT, str(path), shuffle]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert int(done.stdout) < 200_000
