"""Model files: networks are restored as they were saved; every format loads; sizes are limited."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import bpfast as bp
from bpfast.activations import activations
from bpfast.initializers import initializers
from bpfast.losses import losses
from bpfast.specs.layers import layers
from bpfast.storage import model_file

over_dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])


KEPT = Path(__file__).parent / "models"


def squared_error(Y, Z):
    return ((Z - Y) ** 2).mean(axis=1), 2 * (Z - Y) / Z.shape[1]


@pytest.fixture
def problem(rng, make_targets):
    """problem(loss): X (20, 3) and y for two outputs."""
    return lambda loss="squared_error": (rng.normal(size=(20, 3)), make_targets(loss, 20, 2, rng))


@over_dtypes
def test_save_and_load(build, problem, bytes_of, tmp_path, dtype):
    X, y = problem("cross_entropy")
    net = build(loss="cross_entropy", dtype=dtype, seed=4)
    net.fit(X, y, epochs=3, batch_size=8)
    net.metadata["columns"] = "a, b, ç"
    path = tmp_path / "model.safetensors"
    for target in (path, str(path)):
        net.save(target)
        loaded = bp.load(target, backend=net.backend, threads=1)
        assert bytes_of(loaded) == bytes_of(net)
        assert np.array_equal(loaded.predict(X), net.predict(X))
        assert (loaded.epochs, loaded.seed, loaded.dtype) == (3, 4, dtype)
        assert (loaded.metadata, loaded.layers, loaded.loss_spec) == (net.metadata, net.layers, net.loss_spec)
        assert (loaded.backend, loaded.threads) == (net.backend, 1)
    assert os.listdir(tmp_path) == ["model.safetensors"]
    net.reset_optimizer()  # A model file has no optimizer state.
    for each in (net, loaded):
        each.fit(X, y, epochs=2, batch_size=8)
    assert bytes_of(loaded) == bytes_of(net)


SPECS = {
    "activations": [bp.Dense(4, name) for name in activations]
    + [bp.Dense(4, bp.LeakyReLU(0.25)), bp.Dense(4, bp.ELU(0.5))]
    + [bp.Activation(name) for name in activations]
    + [bp.Activation(bp.ELU(0.5))],
    "initializers": [bp.Dense(4, "tanh", initializer=name) for name in initializers]
    + [bp.Dense(4, initializer=bp.Orthogonal(2.0), bias_initializer=bp.Constant(0.1))],
    "bias": [bp.Dense(4, bias=False)],
    "dropout": [bp.Dropout(), bp.Dropout(0.1)],
}


@pytest.mark.parametrize("layer", [layer for layers in SPECS.values() for layer in layers], ids=str)
def test_every_layer_is_restored(backend, problem, bytes_of, tmp_path, layer):
    X, _ = problem()
    net = bp.Network([layer, bp.Dense(2)], n_inputs=3, loss="squared_error", backend=backend, seed=2)
    net.save(tmp_path / "m")
    loaded = bp.load(tmp_path / "m", backend=backend)
    assert loaded.layers == net.layers
    assert bytes_of(loaded) == bytes_of(net)
    assert np.array_equal(loaded.predict(X), net.predict(X))


@pytest.mark.parametrize("loss", [*losses, bp.Huber(0.25)], ids=str)
def test_every_loss_is_restored(build, problem, tmp_path, loss):
    X, y = problem(loss)
    net = build(loss=loss)
    net.save(tmp_path / "m")
    loaded = bp.load(tmp_path / "m", backend=net.backend)
    assert loaded.loss_spec == net.loss_spec
    assert loaded.loss(X, y) == net.loss(X, y)


def test_a_custom_loss_must_be_given_to_load(build, problem, tmp_path):
    X, y = problem()
    net = build(loss=bp.CustomLoss(squared_error, output_link="exp"))
    net.save(tmp_path / "m")
    with pytest.raises(ValueError, match=r"its loss is a Python function; pass loss= to load"):
        bp.load(tmp_path / "m", backend=net.backend)
    loaded = bp.load(tmp_path / "m", backend=net.backend, loss=net.loss_spec)
    assert loaded.loss(X, y) == net.loss(X, y)
    assert np.array_equal(loaded.predict(X), net.predict(X))


def test_load_replaces_the_loss(build, problem, tmp_path):
    net = build(loss="squared_error")
    net.save(tmp_path / "m")
    assert bp.load(tmp_path / "m", backend=net.backend, loss="huber").loss_spec == bp.Huber()


@pytest.mark.parametrize("number", range(1, model_file.FORMAT + 1))
def test_every_format_loads(backend, bytes_of, number):
    """There is one file of each format: a network with every kind of tensor after three epochs."""
    net = bp.load(KEPT / f"model-format-{number}.safetensors", backend=backend)
    assert [layer.name for layer in net.layers] == ["dense", "batch_norm", "residual", "dense"]
    assert (net.epochs, net._state.steps, net.seed, net.metadata) == (3, 15, 6, {"note": "kept"})
    assert net.learning_rate_scales["0.W"] == 0.5
    X = np.random.default_rng(0).normal(size=(40, 4))[:2]
    expected = [[0.355131507, 0.407897741, 0.236970752], [0.357400179, 0.157831028, 0.484768808]]
    assert np.abs(net.predict(X) - expected).max() < 1e-6
    stored = load_file(KEPT / f"model-format-{number}.safetensors")
    for name, array in {**net.parameters, **net.statistics}.items():
        assert (array == stored[name]).all()


def test_the_current_format_has_a_stored_file():
    assert (KEPT / f"model-format-{model_file.FORMAT}.safetensors").exists()


@pytest.mark.parametrize("path", [None, 3, b"model"])
def test_paths_are_checked(path):
    with pytest.raises(TypeError, match=r"load: path must be a str or path; got "):
        bp.load(path)
    network = bp.Network([bp.Dense(2)], n_inputs=3, loss="squared_error")
    with pytest.raises(TypeError, match=r"save: path must be a str or path; got "):
        network.save(path)


def test_other_files_are_not_models(tmp_path):
    (tmp_path / "houses.csv").write_text("rooms,price\n1,2\n")
    with pytest.raises(ValueError, match=r"houses.csv' is not a model file, .*: it does not begin with"):
        bp.load(tmp_path / "houses.csv")


def test_load_allocates_little_more_than_the_weights(build, tmp_path):
    """One tensor at a time, and no random numbers for weights that are overwritten."""
    import tracemalloc

    net = build((300, 500, 10))
    net.save(tmp_path / "m")
    size = os.path.getsize(tmp_path / "m")
    bp.load(tmp_path / "m", backend=net.backend)
    tracemalloc.start()
    try:
        bp.load(tmp_path / "m", backend=net.backend)
        assert tracemalloc.get_traced_memory()[1] < 2 * size + 100_000
    finally:
        tracemalloc.stop()


def test_the_size_of_a_header_is_limited(build, tmp_path, monkeypatch):
    net, path = build(), tmp_path / "model"
    net.save(path)
    size = int.from_bytes(path.read_bytes()[:8], "little")
    monkeypatch.setattr(model_file, "MAX_HEADER", size)
    net.save(path)
    assert bp.load(path, backend=net.backend).n_parameters == net.n_parameters
    monkeypatch.setattr(model_file, "MAX_HEADER", size - 1)
    with pytest.raises(ValueError, match=rf"its header has {size} bytes; the maximum is {size - 1}"):
        bp.load(path, backend=net.backend)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=rf"its header has {size} bytes; the maximum is {size - 1}"):
        net.save(path)
    monkeypatch.setattr(model_file, "MAX_HEADER", 99)
    with pytest.raises(ValueError, match=r"its header has \d+ bytes; the maximum is 99"):
        model_file.require_room(net)
    assert path.read_bytes() == before


def test_only_strings_may_be_long_in_a_header(build, tmp_path, monkeypatch, parts, forge):
    net, path = build(), tmp_path / "model"
    net.metadata["preparation"] = json.dumps([{"name": f'x"{i}\\', "mean": 1.5} for i in range(90_000)])
    model_file.require_room(net)
    net.save(path)
    assert bp.load(path, backend=net.backend).metadata == net.metadata
    header, tensors = parts(path)
    for more in ([[]] * 1_000_000, {str(i): 0 for i in range(1_000_000)}, [""] * 1_100_000):
        forge(path, json.dumps(header | {"metadata": {}, "layers": more}), tensors)
        with pytest.raises(ValueError, match=r"has more than \d+ characters outside of strings"):
            bp.load(path, backend=net.backend)
    monkeypatch.setattr(model_file, "MAX_TENSORS", 3)
    net.metadata.clear()
    net.save(path)
    with pytest.raises(ValueError, match="has 4 tensors; the maximum is 3"):
        bp.load(path, backend=net.backend)


def _nested(depth):
    config = {"name": "dropout", "rate": 0.5}
    for _ in range(depth):
        config = {"name": "residual", "layers": [config]}
    return config


def test_the_depth_of_layers_is_limited(model, tmp_path, parts, forge):
    path, backend = model
    header, tensors = parts(path)
    forge(path, json.dumps(header | {"layers": [*header["layers"], _nested(50)]}), tensors)
    net = bp.load(path, backend=backend)
    net.save(tmp_path / "loaded")
    assert bp.load(tmp_path / "loaded", backend=backend).layers == net.layers
    assert repr(net.layers).count("Residual(") == 50
    for depth in (51, 100, 150):
        forge(path, json.dumps(header | {"layers": [*header["layers"], _nested(depth)]}), tensors)
        with pytest.raises(
            ValueError, match=r"model' cannot be read: layers must not be nested more than 50 levels deep"
        ):
            bp.load(path, backend=backend)
    with pytest.raises(ValueError, match="layers must not be nested more than 50 levels deep"):
        bp.Network([bp.Dense(2), bp.Residual(net.layers[2])], n_inputs=3, loss="squared_error")


def test_layers_are_counted_before_they_are_built(model, monkeypatch, parts, forge):
    path, backend = model
    header, tensors = parts(path)
    many = [{"name": "dropout"}] * 6000
    monkeypatch.setattr(layers, "from_config", lambda config: pytest.fail("a layer was built"))
    for stack in (
        many * 2,
        [{"name": "residual", "layers": many}] * 2,
        [*many, {"name": "residual", "layers": many}],
    ):
        forge(path, json.dumps(header | {"layers": stack}), tensors)
        with pytest.raises(ValueError, match=r"model' cannot be read: it has more than 10000 layers"):
            bp.load(path, backend=backend)
    with pytest.raises(ValueError, match="the layers have more than 10000 ops"):
        bp.Network([bp.Dense(2), *[bp.Dropout()] * 10_000], n_inputs=3, loss="squared_error", backend=backend)


def test_learning_rate_scales_belong_to_parameters(model, parts, forge):
    path, backend = model
    header, tensors = parts(path)
    for key in ("0", "0.V", ""):
        forge(path, json.dumps(header | {"learning_rate_scales": {key: 0.5}}), tensors)
        with pytest.raises(
            ValueError, match=rf"scales the learning rate of {key!r}, which is not a parameter"
        ):
            bp.load(path, backend=backend)
    forge(path, json.dumps(header | {"learning_rate_scales": {"0.W": 0.5, "1.b": 1}}), tensors)
    assert bp.load(path, backend=backend)._state.lr_scales == {"0.W": 0.5}
