"""Dropout in training and prediction."""

import copy
import json
import pickle

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file
from scipy import sparse

import bpfast as bp
from bpfast import reference
from bpfast.engine.interface import TrainingPass

pytestmark = pytest.mark.usefixtures("every_thread_works")

THREADS = (1, 2, 3, 5)
DTYPES = ("float32", "float64")


def network(layers, n_inputs, loss="squared_error", dtype="float64", seed=7, **options):
    return bp.Network(layers, n_inputs=n_inputs, loss=loss, dtype=dtype, seed=seed, **options)


def alone(width, rate=0.5, **options):
    """A network with a single dropout layer."""
    return network([bp.Dropout(rate)], width, **options)


def mask(net, rows):
    """The elements that the next step of `alone` keeps."""
    return net.forward(np.ones((rows, net.n_inputs)), training=True) != 0


LAYERS = {
    "first": [bp.Dropout(0.2), bp.Dense(9, "tanh"), bp.Dense(3)],
    "between": [bp.Dense(9, "gelu"), bp.Dropout(), bp.Dense(3)],
    "last": [bp.Dense(9, "relu"), bp.Dense(3), bp.Dropout(0.3)],
    "twice in a row": [bp.Dense(9, "tanh"), bp.Dropout(0.3), bp.Dropout(0.4), bp.Dense(3)],
    "around an activation": [
        bp.Dropout(0.1),
        bp.Activation("tanh"),
        bp.Dropout(0.2),
        bp.Dense(17),
        bp.Activation("silu"),
        bp.Dropout(0.5),
        bp.Dense(3),
    ],
    "nothing to train below": [bp.Activation("tanh"), bp.Dropout(0.1), bp.Dense(3)],
}
over_layers = pytest.mark.parametrize("layers", LAYERS.values(), ids=LAYERS)


@over_layers
@pytest.mark.parametrize("loss", ["squared_error", "cross_entropy"])
def test_native_against_reference(rng, error, make_targets, layers, loss):
    """The error is at most 1e-12 after one step, and after 20 steps with batches of unequal size."""
    X, y, w = rng.normal(size=(23, 5)), make_targets(loss, 23, 3, rng), 0.5 + rng.random(23)
    native, expected = (network(layers, 5, loss, backend=b) for b in ("native", "reference"))
    for options in (
        {"epochs": 1, "batch_size": 23, "optimizer": bp.SGD(0.1)},
        {"epochs": 5, "batch_size": 6, "optimizer": bp.SGD(0.05, momentum=0.9)},
        {"epochs": 1, "batch_size": 1, "optimizer": bp.SGD(0.01), "penalty": bp.L2(0.1)},
    ):
        histories = [net.fit(X, y, sample_weight=w, **options) for net in (native, expected)]
        assert histories[0].loss == pytest.approx(histories[1].loss, rel=1e-12)
        for name, array in expected.parameters.items():
            assert error(native.parameters[name], array) <= 1e-12, (name, options)
    assert native._state.steps == expected._state.steps == 1 + 20 + 23


@over_layers
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_bits_with_any_number_of_threads(rng, layers, dtype):
    X, y = rng.normal(size=(613, 37)), rng.integers(0, 3, 613)
    results = set()
    for threads in THREADS:
        net = network(layers, 37, "cross_entropy", dtype, threads=threads)
        history = net.fit(X, y, epochs=2, batch_size=300, validation=(X[:40], y[:40]))
        Z = net.forward(X[:101], training=True)
        dX = net.backward(Z)
        gradient = b"".join(array.tobytes() for array in net.gradient.values())
        results.add((net._state.flat.tobytes(), *history.loss, *history.val_loss, dX.tobytes(), gradient))
    assert len(results) == 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_rate_of_0_drops_nothing(rng, backend, dtype):
    X, y = rng.normal(size=(30, 4)), rng.normal(size=(30, 2))
    with_, without = (
        network([*drop, bp.Dense(5, "tanh"), *drop, bp.Dense(2), *drop], 4, dtype=dtype, backend=backend)
        for drop in ([bp.Dropout(0.0)], [])
    )
    for net in (with_, without):
        net.fit(X, y, epochs=3, batch_size=7)
    assert with_._state.flat.tobytes() == without._state.flat.tobytes()


@over_layers
def test_elements_are_dropped_only_in_training(rng, backend, layers):
    """predict, loss, gradients, forward, validation and check_gradients ignore the layer."""
    X, y = rng.normal(size=(30, 5)), rng.normal(size=(30, 3))
    net = network(layers, 5, backend=backend)
    kept = [layer for layer in layers if not isinstance(layer, bp.Dropout)]
    plain = network(kept, 5, backend=backend)
    before = net._state.steps
    assert net.predict(X).tobytes() == plain.predict(X).tobytes()
    assert net.forward(X).tobytes() == plain.forward(X).tobytes()
    assert net.loss(X, y) == plain.loss(X, y)
    gradients = zip(net.gradients(X, y).values(), plain.gradients(X, y).values(), strict=True)
    assert all(a.tobytes() == b.tobytes() for a, b in gradients)
    assert bp.check_gradients(net, X, y) < 1e-6
    assert net._state.steps == before
    history = net.fit(X, y, epochs=1, batch_size=8, validation=(X, y))
    assert history.val_loss[0] == net.loss(X, y)
    assert history.loss[0] != history.val_loss[0]


@over_layers
def test_two_epochs_and_three_equal_five(rng, backend, bytes_of, tmp_path, layers):
    """Also for copies, pickles and files (which have no optimizer state; SGD needs none)."""
    X, y = rng.normal(size=(23, 5)), rng.normal(size=(23, 3))
    options = {"batch_size": 6, "optimizer": bp.SGD(0.05)}
    whole, half = (network(layers, 5, backend=backend) for _ in range(2))
    whole.fit(X, y, epochs=5, **options)
    half.fit(X, y, epochs=2, **options)
    half.save(tmp_path / "half")
    twins = [copy.copy(half), pickle.loads(pickle.dumps(half)), bp.load(tmp_path / "half", backend=backend)]
    for net in (half, *twins):
        assert net.layers == whole.layers
        net.fit(X, y, epochs=3, **options)
        assert bytes_of(net) == bytes_of(whole)
        assert (net._state.steps, net.epochs) == (20, 5)


def test_the_steps_in_a_file(backend, tmp_path):
    """Files of older versions have no number of steps; an invalid number is rejected."""
    net = network([bp.Dense(2)], 3, backend=backend)
    net._state.steps = 5
    net.save(tmp_path / "m")
    with safe_open(tmp_path / "m", framework="numpy") as file:
        header = json.loads(file.metadata()["bpfast"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    del header["sha256"]
    header["format"] = 1
    assert header.pop("steps") == 5
    save_file(tensors, tmp_path / "m", {"bpfast": json.dumps(header)})
    assert bp.load(tmp_path / "m", backend=backend)._state.steps == 0
    for wrong in (-1, "5", 2**63):
        save_file(tensors, tmp_path / "m", {"bpfast": json.dumps({**header, "steps": wrong})})
        with pytest.raises(ValueError, match="steps must be"):
            bp.load(tmp_path / "m", backend=backend)


def test_sparse_rows(rng, backend, error):
    """Dropout that reads a sparse X gives results identical to those of the dense matrix."""
    X = np.where(rng.random((301, 20)) < 0.2, rng.normal(size=(301, 20)), 0)
    y = rng.normal(size=(301, 3))
    layers = [bp.Dropout(0.2), bp.Dense(9, "tanh"), bp.Dropout(), bp.Dense(3)]
    for optimizer in (bp.SGD(0.05), "adam"):
        for threads in THREADS:
            dense, net = (network(layers, 20, backend=backend, threads=threads) for _ in range(2))
            for each, rows in ((dense, X), (net, sparse.csr_array(X))):
                each.fit(rows, y, epochs=2, batch_size=150, optimizer=optimizer)
                each.Z = each.forward(rows, training=True)
                each.dX = each.backward(each.Z)
            assert net._state.flat.tobytes() == dense._state.flat.tobytes()
            assert net.Z.tobytes() == dense.Z.tobytes()
            assert net.dX.tobytes() == dense.dX.tobytes()
            assert error(net.predict(sparse.csr_array(X)), dense.predict(X)) <= 1e-15


def test_weights_of_empty_columns_do_not_change(rng):
    """With a Dense layer before the dropout, weights of empty columns keep their values."""
    X = np.where(rng.random((60, 20)) < 0.1, rng.normal(size=(60, 20)), 0)
    X[:, 4:9] = 0
    y = rng.normal(size=(60, 3))
    dense, net = (network([bp.Dense(9, "relu"), bp.Dropout(), bp.Dense(3)], 20) for _ in range(2))
    before = net.parameters["0.W"][4:9].tobytes()
    dense.fit(X, y, epochs=2, batch_size=7, optimizer=bp.SGD(0.05))
    net.fit(sparse.csr_array(X), y, epochs=2, batch_size=7, optimizer=bp.SGD(0.05))
    assert net._state.flat.tobytes() == dense._state.flat.tobytes()
    assert net.parameters["0.W"][4:9].tobytes() == before


def test_a_custom_loss(rng, backend, error):
    """A custom loss, which runs step by step, uses the same masks as a native epoch."""

    def squares(Y, Z):
        return ((Z - Y) ** 2).mean(axis=1), 2 * (Z - Y) / Z.shape[1]

    X, y = rng.normal(size=(33, 5)), rng.normal(size=(33, 3))
    for layers in LAYERS.values():
        built_in, custom = (network(layers, 5, loss, backend=backend) for loss in ("squared_error", squares))
        for net in (built_in, custom):
            net.fit(X, y, epochs=3, batch_size=10)
        for name, array in built_in.parameters.items():
            assert error(custom.parameters[name], array) <= 1e-12, name
        assert built_in._state.steps == custom._state.steps == 12


def test_x_is_not_written(rng, backend):
    X, y = rng.normal(size=(600, 5)), rng.normal(size=(600, 3))
    before = X.tobytes()
    X.flags.writeable = False
    net = network(LAYERS["first"], 5, backend=backend)
    net.fit(X, y, epochs=2, batch_size=50, shuffle=False)
    net.backward(net.forward(X, training=True))
    net.predict(X)
    assert X.tobytes() == before


def test_training_learns_an_interaction(rng):
    X = rng.normal(size=(600, 10))
    y = (X[:, 0] * X[:, 1] > 0).astype(int)
    net = network([bp.Dense(64, "relu"), bp.Dropout(), bp.Dense(2)], 10, "cross_entropy", "float32")
    net.fit(X, y, epochs=60, optimizer=bp.Adam(3e-3))
    assert (net.predict(X).argmax(axis=1) == y).mean() > 0.9


@over_layers
@pytest.mark.parametrize("rows", [1, 8])
def test_the_gradient_in_training_by_differences(rng, backend, error, layers, rows):
    """L = Σ Z ⊙ V with the mask of one step, over every weight and input."""
    X, V = rng.normal(size=(rows, 5)), rng.normal(size=(rows, 3))
    net = network(layers, 5, backend=backend)
    net._state.steps = 11

    def value(X):
        twin = copy.copy(net)
        twin._state.steps = 11
        return float((twin.forward(X, training=True) * V).sum())

    def slopes(array, of):
        found = np.empty(array.shape)
        for place in np.ndindex(array.shape):
            kept = array[place]
            sides = []
            for side in (kept + 1e-5, kept - 1e-5):
                array[place] = side
                sides.append(of())
            array[place] = kept
            found[place] = (sides[0] - sides[1]) / 2e-5
        return found

    net.forward(X, training=True)
    dX = net.backward(V)
    assert error(dX, slopes(X, lambda: value(X))) < 1e-7
    scale = max(np.abs(array).max() for array in net.gradient.values())
    for name, array in net.parameters.items():
        difference = slopes(array, lambda: value(X)) - net.gradient[name]
        assert np.abs(difference).max() < 1e-7 * max(scale, 1e-3), name


def test_a_custom_training_loop_agrees_with_fit(rng, backend, error):
    X, y = rng.normal(size=(20, 5)), rng.normal(size=(20, 3))
    fitted, looped = (network(LAYERS["between"], 5, backend=backend) for _ in range(2))
    fitted.fit(X, y, epochs=4, batch_size=None, shuffle=False, optimizer="adam")
    for _ in range(4):
        _, D = reference.loss_and_delta("squared_error", y, looped.forward(X, training=True))
        looped.backward(D)
        looped.update("adam")
    assert fitted._state.steps == looped._state.steps == 4
    for name, array in fitted.parameters.items():
        assert error(looped.parameters[name], array) <= 1e-12


def test_backward_uses_the_mask_of_the_last_forward(rng, backend):
    X, D = rng.normal(size=(2, 9, 6))
    net = alone(6, backend=backend)
    A = net.forward(X, training=True)
    net.predict(rng.normal(size=(300, 6)))
    net.forward(X)
    for _ in range(2):
        assert ((net.backward(D) != 0) == (A != 0)).all()
    assert ((net.forward(X, training=True) != 0) != (A != 0)).any()


@pytest.mark.parametrize(
    ("rate", "kind", "match"),
    [
        (-0.1, ValueError, r"Dropout: rate must be at least 0 and less than 1; got -0\.1"),
        (1, ValueError, r"Dropout: rate must be at least 0 and less than 1; got 1"),
        (float("nan"), ValueError, r"Dropout: rate must be at least 0 and less than 1 and finite; got nan"),
        ("x", TypeError, r"Dropout: rate must be a number; got 'x'"),
        (True, TypeError, r"Dropout: rate must be a number; got True"),
    ],
)
def test_an_invalid_rate_is_rejected(rate, kind, match):
    with pytest.raises(kind, match=match):
        bp.Dropout(rate)


def test_the_largest_rate(backend):
    """All but one in 2³² elements are dropped; both engines round the rate identically."""
    net = alone(100, 1 - 2.0**-53, backend=backend)
    assert mask(net, 100).sum() == 0


def test_dropped_elements_are_0_even_if_not_finite(backend):
    """Dropping an infinite element gives 0, not NaN."""
    layers = [bp.Dense(50, initializer=bp.Constant(1e30), bias=False), bp.Dropout(0.5)]
    net = network(layers, 1, dtype="float32", backend=backend)
    Z = net.forward(np.full((4, 1), 1e30), training=True)
    assert set(Z.ravel()) == {0.0, np.inf}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_steps_of_a_failed_epoch_do_not_count(rng, backend, error):
    """After an interrupt, however, completed steps are kept."""
    calls = []

    def failing(Y, Z):
        calls.append(0)
        if len(calls) == 6:
            raise error("enough")
        return ((Z - Y) ** 2).mean(axis=1), 2 * (Z - Y) / Z.shape[1]

    X, y = rng.normal(size=(40, 5)), rng.normal(size=(40, 3))
    net = network(LAYERS["between"], 5, failing, backend=backend)
    with pytest.raises(error, match="enough"):
        net.fit(X, y, epochs=3, batch_size=10)
    assert (net._state.steps, net.epochs) == (4 if error is ValueError else 5, 1)


def test_a_diverged_epoch_does_not_count(rng, backend):
    X, y = rng.normal(size=(40, 5)), rng.normal(size=(40, 3))
    net = network(LAYERS["between"], 5, backend=backend)
    with pytest.raises(FloatingPointError):
        net.fit(X, y, epochs=3, batch_size=10, optimizer=bp.SGD(1e200))
    assert (net._state.steps, net.epochs) == (0, 0)


def test_summary_and_profile(rng):
    X, y = rng.normal(size=(640, 8)), rng.normal(size=(640, 3))
    net = network([bp.Dropout(0.2), bp.Dense(9, "relu"), bp.Dropout(), bp.Dense(3)], 8, threads=1)
    lines = [line.split() for line in net.summary().splitlines()]
    assert lines[1] == ["0", "dropout", "8", "rate", "0.2", "0"]
    assert lines[3] == ["2", "dropout", "9", "rate", "0.5", "0"]
    before = net._state.flat.tobytes()
    profile = net.profile(X, y, batch_size=64)
    assert (net._state.flat.tobytes(), net._state.steps) == (before, 0)
    assert "2 dropout 9-9 " in str(profile)
    # Forward and gradient of both dense layers, and the delta of the second alone.
    assert profile.operations().sum() == 2 * 640 * (2 * 8 * 9 + 3 * 9 * 3)


def test_the_runtime_rejects_invalid_noise(rng):
    net = alone(3, dtype="float32", backend="native")
    X = np.ones((4, 3), np.float32)
    wrong = (
        (TrainingPass((-1, 0)), OverflowError),
        (TrainingPass((1, 2**64)), OverflowError),
        (TrainingPass((1, 0), lr_scales=1), AttributeError),
    )
    for training, kind in wrong:
        with pytest.raises(kind):
            net._state.engine.core.forward(net._state.flat, X, X.copy(), 4, training)
    with pytest.raises(ValueError, match="unpack"):
        net._state.engine.core.forward(net._state.flat, X, X.copy(), 4, TrainingPass((1,)))
    assert net.predict(X).tobytes() == X.tobytes()
