"""NetworkState: snapshots, copies and pickles, the optimizer's state, exclusive training."""

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest

import bpfast as bp


@pytest.fixture
def trained(backend, rng):
    """A network with statistics and learning rate scales after an epoch, and its data."""
    X, y = rng.normal(size=(30, 3)), rng.integers(0, 2, 30)
    layers = [bp.Dense(4, "tanh"), bp.BatchNorm(), bp.Dropout(0.2), bp.Dense(2)]
    net = bp.Network(layers, n_inputs=3, loss="cross_entropy", seed=7, backend=backend)
    net.scale_learning_rates({0: 0.5})
    net.metadata["note"] = "kept"
    net.fit(X, y, epochs=1, batch_size=8)
    return net, X, y


def content(state):
    counters = state.seed, state.epochs, state.steps, state.lr_scales, state.metadata
    return state.flat.tobytes(), counters


def test_views_share_one_aligned_vector(trained):
    state = trained[0]._state
    assert state.flat.ctypes.data % 64 == 0
    assert set(state.statistics) == {"1.mean", "1.variance"}
    for array in (*state.parameters.values(), *state.statistics.values()):
        assert np.shares_memory(array, state.flat)


def test_a_snapshot_is_restored(trained):
    net, X, y = trained
    state = net._state
    before, snapshot, optimizer_state = content(state), state.snapshot(), state.optimizer_state
    views = dict(state.parameters)
    net.fit(X, y, epochs=2, optimizer="sgd")
    net.seed = 9
    net.unfreeze_layers()
    net.metadata = {}
    assert content(state) != before
    assert snapshot.flat.tobytes() == before[0]
    state.restore(snapshot)
    assert content(state) == before
    assert state.optimizer_state is optimizer_state
    # The vector is written in place, so that views stay valid.
    assert all(state.parameters[name] is array for name, array in views.items())


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda state: pickle.loads(pickle.dumps(state))])
def test_copies_are_independent_and_continue_alike(trained, clone):
    net, X, y = trained
    state = net._state
    other = clone(state)
    assert content(other) == content(state)
    assert other.flat.ctypes.data % 64 == 0
    assert not np.shares_memory(other.flat, state.flat)
    assert not np.shares_memory(other.optimizer_state.arrays, state.optimizer_state.arrays)
    assert other.lock is not state.lock
    for name, array in other.parameters.items():
        assert np.shares_memory(array, other.flat)
        assert (array == state.parameters[name]).all()
    other_net = bp.Network._of(other)
    for each in (net, other_net):
        each.fit(X, y, epochs=1, batch_size=8)
    assert content(other) == content(state)


def test_a_pickle_leaves_out_what_can_be_derived(trained):
    state = trained[0]._state
    _ = state.engine, state.gradient
    kept = state.__getstate__()
    assert {"flat", "program", "optimizer_state", "steps"} <= set(kept)
    assert set(kept).isdisjoint({"_engine", "_gradient", "lock", "parameters", "statistics"})


def test_a_copy_does_not_continue_a_forward_pass(trained):
    net, X, _ = trained
    Z = net.forward(X, training=True)
    with pytest.raises(RuntimeError, match="backward needs forward"):
        copy.copy(net).backward(Z)
    net.backward(Z)


def test_the_optimizer_state_survives_new_hyperparameters(trained):
    state = trained[0]._state
    kept = state.optimizer_state
    clock = kept.clock
    assert state.optimizer_state_for(bp.Adam(clip_norm=1.0)) is kept
    assert kept.clock is clock
    assert state.optimizer_state_for(bp.Adam(0.5)) is kept
    assert kept.clock is not clock
    assert state.optimizer_state_for(bp.SGD()) is not kept


def test_exclusive_training(trained):
    state = trained[0]._state
    with state.exclusive():
        with pytest.raises(RuntimeError, match="one fit at a time"), state.exclusive():
            pytest.fail("a second training began")
        with pytest.raises(RuntimeError, match="update was called while fit is running"):
            state.require_no_fit("update")
    state.require_no_fit("update")
    with pytest.raises(KeyError), state.exclusive():
        raise KeyError
    with state.exclusive():
        pass


def test_names_of_layers_and_parameters(trained):
    state = trained[0]._state
    assert state.names_of(0) == state.names_of("0") == state.names_of(-4) == ["0.W", "0.b"]
    assert state.names_of("3.b") == ["3.b"]
    assert state.names_of(2) == []
    for key in (4, -5, "4", "0.V"):
        with pytest.raises(ValueError, match=r"layer index must be from 0 to 3|unknown layer or parameter"):
            state.names_of(key)
    for key in (True, 1.0, None):
        with pytest.raises(TypeError, match="a layer must be an index or a name"):
            state.names_of(key)


def test_trainable_elements(trained):
    net, *_ = trained
    state = net._state
    net.freeze_layers("3.b")
    views = {**state.program.views(state.trainable()), **state.program.views(state.trainable(), False)}
    still = {name for name, mask in views.items() if not mask.any()}
    assert still == {"3.b", "1.mean", "1.variance"}
    assert all(mask.all() for name, mask in views.items() if name not in still)


def test_diagnostics_and_pretraining_are_loaded_on_use():
    code = (
        "import sys, bpfast as bp\n"
        "late = ('bpfast.diagnostics', 'bpfast.pretraining', 'matplotlib', 'pandas')\n"
        "loaded = lambda: [m for m in late if m in sys.modules]\n"
        "print(loaded(), 'RBM' in dir(bp), 'diagnostics' in dir(bp))\n"
        "bp.RBM, bp.diagnostics.fma_peak\n"
        "print(loaded(), hasattr(bp, 'nothing'))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "[] True True",
        "['bpfast.diagnostics', 'bpfast.pretraining'] False",
    ]
