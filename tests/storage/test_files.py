"""Model files: what comes back, and what is refused."""

import json
import math
import os
import re
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import bpfast as bp
from bpfast.activations import activations
from bpfast.initializers import initializers
from bpfast.losses import losses
from bpfast.storage import model_file as files

over_dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])
KEPT = Path(__file__).parent / "models"


def squared_error(Y, Z):
    return ((Z - Y) ** 2).mean(axis=1), 2 * (Z - Y) / Z.shape[1]


@pytest.fixture
def problem(rng, make_targets):
    """problem(loss) -> X (20, 3), y of two outputs."""
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
        twin = bp.load(target, backend=net.backend, threads=1)
        assert bytes_of(twin) == bytes_of(net)
        assert np.array_equal(twin.predict(X), net.predict(X))
        assert (twin.epochs, twin.seed, twin.dtype) == (3, 4, dtype)
        assert (twin.metadata, twin.layers, twin.loss_spec) == (net.metadata, net.layers, net.loss_spec)
        assert (twin.backend, twin.threads) == (net.backend, 1)
    assert os.listdir(tmp_path) == ["model.safetensors"]
    net.reset_optimizer()  # the file has weights, not moments
    for each in (net, twin):
        each.fit(X, y, epochs=2, batch_size=8)
    assert bytes_of(twin) == bytes_of(net)


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
def test_every_layer_comes_back(backend, problem, bytes_of, tmp_path, layer):
    X, _ = problem()
    net = bp.Network([layer, bp.Dense(2)], n_inputs=3, loss="squared_error", backend=backend, seed=2)
    net.save(tmp_path / "m")
    twin = bp.load(tmp_path / "m", backend=backend)
    assert twin.layers == net.layers
    assert bytes_of(twin) == bytes_of(net)
    assert np.array_equal(twin.predict(X), net.predict(X))


@pytest.mark.parametrize("loss", [*losses, bp.Huber(0.25)], ids=str)
def test_every_loss_comes_back(build, problem, tmp_path, loss):
    X, y = problem(loss)
    net = build(loss=loss)
    net.save(tmp_path / "m")
    twin = bp.load(tmp_path / "m", backend=net.backend)
    assert twin.loss_spec == net.loss_spec
    assert twin.loss(X, y) == net.loss(X, y)


def test_a_custom_loss_must_be_given_to_load(build, problem, tmp_path):
    X, y = problem()
    net = build(loss=bp.CustomLoss(squared_error, output_link="exp"))
    net.save(tmp_path / "m")
    with pytest.raises(ValueError, match=r"its loss is a Python function; pass loss= to load"):
        bp.load(tmp_path / "m", backend=net.backend)
    twin = bp.load(tmp_path / "m", backend=net.backend, loss=net.loss_spec)
    assert twin.loss(X, y) == net.loss(X, y)
    assert np.array_equal(twin.predict(X), net.predict(X))


def test_loading_with_another_loss(build, problem, tmp_path):
    net = build(loss="squared_error")
    net.save(tmp_path / "m")
    assert bp.load(tmp_path / "m", backend=net.backend, loss="huber").loss_spec == bp.Huber()


@pytest.fixture
def model(build, tmp_path):
    """A file of a model of 3-4-2 in float32, and its backend."""
    net = build(dtype="float32")
    net.save(tmp_path / "model")
    return tmp_path / "model", net.backend


def parts(path):
    """A file's header and tensors."""
    with safe_open(path, framework="numpy") as file:
        return json.loads(file.metadata()["bpfast"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def forge(path, text, tensors):
    """Write a file with a true checksum, whatever the rest of its header."""
    digests = {name: files._digest(files._NAMES.get(a.dtype, "I32"), a) for name, a in tensors.items()}
    if text.startswith("{") and len(text) > 1:
        text = f'{{"sha256": "{files.UNSIGNED}", {text[1:]}'
        text = text.replace(files.UNSIGNED, files.checksum(text, digests), 1)
    save_file(tensors, path, {"bpfast": text})


@pytest.mark.parametrize(
    "data", [b"", b"\0", b"\x08" + 7 * b"\0", b"\xff" * 64, b"PK\3\4" + bytes(200), b"{}" * 99]
)
def test_load_refuses_what_is_no_model(backend, tmp_path, data):
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"file' is not a model file, or is damaged"):
        bp.load(path, backend=backend)


def test_load_refuses_random_bytes(backend, tmp_path, rng):
    path = tmp_path / "file"
    for size in range(1, 400, 7):
        header = rng.bytes(size)
        for data in (header, struct.pack("<Q", size) + header):
            path.write_bytes(data)
            with pytest.raises(ValueError, match="is not a model file, or is damaged"):
                bp.load(path, backend=backend)


def test_load_refuses_a_model_that_is_cut_off(model):
    path, backend = model
    data = path.read_bytes()
    for size in sorted({*range(0, 24), *range(24, len(data), 37), len(data) - 1}):
        path.write_bytes(data[:size])
        with pytest.raises(ValueError, match="is not a model file, or is damaged"):
            bp.load(path, backend=backend)
    path.write_bytes(data + b"\0")
    with pytest.raises(ValueError, match="is not a model file, or is damaged"):
        bp.load(path, backend=backend)


def test_a_changed_byte_is_noticed(model, rng):
    """But for the blanks that fill up the header, whatever is changed is refused."""
    path, backend = model
    data = bytearray(path.read_bytes())
    before = parts(path)
    taken, messages = 0, []
    for place in rng.choice(len(data), 400, replace=False).tolist():
        changed = data.copy()
        changed[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        try:
            bp.load(path, backend=backend)
        except ValueError as error:
            messages.append(str(error))
        else:
            taken += 1
            header, tensors = parts(path)
            assert header == before[0]
            assert all((tensors[name] == array).all() for name, array in before[1].items())
    assert not any("\n" in message for message in messages)
    assert taken < 10


def test_without_a_checksum_only_the_first_format_is_taken(model):
    path, backend = model
    header, tensors = parts(path)
    signed = json.dumps(header)
    assert signed.startswith('{"sha256": "')
    plain = {name: value for name, value in header.items() if name != "sha256"}
    for text, match in (
        (json.dumps(plain), r"does not begin with a checksum"),
        (json.dumps(plain | {"sha256": header["sha256"]}), r"does not begin with a checksum"),
        (json.dumps(header | {"format": 1}), r"its content does not have its checksum"),
        (signed.replace("sha256", "sha255").replace('"format": 2', '"format": 1'), r"has an entry 'sha255'"),
        (signed.replace('"seed": 1', '"seed": 2'), r"its content does not have its checksum"),
        (signed.replace('"seed": 1', '"seed":  1'), r"its content does not have its checksum"),
    ):
        assert text != signed
        save_file(tensors, path, {"bpfast": text})
        with pytest.raises(ValueError, match=rf"model' is damaged: .*{match}"):
            bp.load(path, backend=backend)
    save_file(tensors, path, {"bpfast": signed, "more": "x"})
    with pytest.raises(ValueError, match=r"is damaged: its header has an entry 'more'"):
        bp.load(path, backend=backend)
    save_file(tensors, path, {"bpfast": signed})
    assert bp.load(path, backend=backend).n_parameters == 26
    tensors["1.b"][0] += 1e-6
    save_file(tensors, path, {"bpfast": signed})
    with pytest.raises(ValueError, match=r"is damaged: its content does not have its checksum"):
        bp.load(path, backend=backend)
    save_file(tensors, path, {"bpfast": json.dumps(plain | {"format": 1})})
    assert bp.load(path, backend=backend).n_parameters == 26


@pytest.mark.parametrize("number", range(1, files.FORMAT + 1))
def test_every_format_is_still_read(backend, bytes_of, number):
    """One file of each, trained alike: three epochs of a network of every sort of tensor."""
    net = bp.load(KEPT / f"model-format-{number}.safetensors", backend=backend)
    assert [layer.name for layer in net.layers] == ["dense", "batch_norm", "residual", "dense"]
    assert (net.epochs, net._steps, net.seed, net.metadata) == (3, 15, 6, {"note": "kept"})
    assert net.learning_rate_scales["0.W"] == 0.5
    X = np.random.default_rng(0).normal(size=(40, 4))[:2]
    expected = [[0.355131507, 0.407897741, 0.236970752], [0.357400179, 0.157831028, 0.484768808]]
    assert np.abs(net.predict(X) - expected).max() < 1e-6
    stored = load_file(KEPT / f"model-format-{number}.safetensors")
    for name, array in {**net.parameters, **net.statistics}.items():
        assert (array == stored[name]).all()


def test_the_newest_format_has_its_file():
    assert (KEPT / f"model-format-{files.FORMAT}.safetensors").exists()


def test_loading_makes_no_more_than_it_must(build, tmp_path):
    """The weights, a tensor at a time, and no random numbers for what is overwritten."""
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


def test_load_of_nothing(backend, tmp_path):
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(FileNotFoundError, match="there is no model file"):
            bp.load(path, backend=backend)


def test_load_refuses_a_stranger(backend, tmp_path):
    path = tmp_path / "other"
    for metadata in (None, {"format": "pt"}):
        save_file({"weight": np.zeros((2, 2))}, path, metadata)
        with pytest.raises(ValueError, match=r"other' is a safetensors file, but no bpfast model"):
            bp.load(path, backend=backend)


def layer(**changes):
    return lambda header: header["layers"][0].update(changes)


#: what happens to the header of a 3-4-2 network → what `load` says
HEADERS = {
    "other shapes": (layer(units=5), r"is damaged: its header says .*\(3, 5\).* its tensors are .*\(3, 4\)"),
    "other inputs": (lambda h: h.update(n_inputs=9), r"is damaged: its header says"),
    "fewer layers": (lambda h: h["layers"].pop(), r"is damaged: its header says"),
    "no layers": (lambda h: h["layers"].clear(), r"layers must be a list of at least one layer"),
    "other dtype": (lambda h: h.update(dtype="float64"), r"is damaged: 0\.\w is float32, not float64"),
    "no dtype": (lambda h: h.update(dtype="int8"), r"dtype must be 'float32' or 'float64'; got 'int8'"),
    "newer": (lambda h: h.update(format=3), r"its format is 3, this version reads up to 2; update bpfast"),
    "no format": (lambda h: h.pop("format"), r"its header has no format number"),
    "no loss": (lambda h: h.pop("loss"), r"can't be read: .*loss"),
    "unknown activation": (
        layer(activation={"name": "sigmod"}),
        r"unknown activation 'sigmod'; did you mean 'sigmoid'",
    ),
    "unknown layer": (layer(name="dens"), r"unknown layer 'dens'; did you mean 'dense'"),
    "unknown loss": (
        lambda h: h["loss"].update(name="poison"),
        r"unknown loss 'poison'; did you mean 'poisson'",
    ),
    "unknown parameter": (layer(colour=1), r"layer 'dense' has no parameter 'colour'"),
    "bad parameter": (layer(units=-1), r"Dense: units must be at least 1; got -1"),
    "bad type": (layer(units="4"), r"Dense: units must be an integer; got '4'"),
    "nested type": (
        layer(activation={"name": ["tanh"]}),
        r"activation configuration must be an object with a name",
    ),
    "layers of another kind": (lambda h: h.update(layers=7), r"can't be read"),
    "a layer of another kind": (
        lambda h: h.update(layers=["dense"]),
        r"layer configuration must be an object with a name",
    ),
    "negative seed": (lambda h: h.update(seed=-1), r"seed must be at least 0"),
    "negative epochs": (lambda h: h.update(epochs=-1), r"can't be read: .*epochs"),
    "endless epochs": (lambda h: h.update(epochs=math.inf), r"can't be read: .*"),
    "epochs of another kind": (lambda h: h.update(epochs=[1]), r"can't be read"),
    "metadata of another kind": (lambda h: h.update(metadata=[1]), r"can't be read"),
    "larger than memory": (layer(units=2**45), r"too large: parameter"),
}


@pytest.mark.parametrize("change", HEADERS)
def test_load_refuses_a_header(model, change):
    path, backend = model
    header, tensors = parts(path)
    alter, match = HEADERS[change]
    alter(header)
    forge(path, json.dumps(header), tensors)
    with pytest.raises(ValueError, match=match) as refusal:
        bp.load(path, backend=backend)
    assert "model'" in str(refusal.value)  # names the file


@pytest.mark.parametrize("text", ["", "{", "null", "[]", "7", '"format"', "[" * 100_000, "\x00"])
def test_load_refuses_a_header_that_is_none(model, text):
    path, backend = model
    forge(path, text, parts(path)[1])
    with pytest.raises(ValueError, match=r"model' can't be read"):
        bp.load(path, backend=backend)


def test_load_compares_shapes_before_it_makes_room(model, monkeypatch):
    """A header may claim any size; the tensors of the file say what there is."""
    path, backend = model
    header, tensors = parts(path)
    header["layers"][0]["units"] = 2**18
    forge(path, json.dumps(header), tensors)
    made = []
    for name in ("zeros", "empty", "full"):
        real = getattr(np, name)

        def watched(shape, *args, real=real, **kwargs):
            made.append(math.prod(np.atleast_1d(shape).tolist()))
            return real(shape, *args, **kwargs)

        monkeypatch.setattr(np, name, watched)
    with pytest.raises(ValueError, match="is damaged: its header says"):
        bp.load(path, backend=backend)
    assert max(made, default=0) < 2**18


@pytest.mark.parametrize("change", ["missing", "extra", "renamed", "dtype"])
def test_load_refuses_other_tensors(model, change):
    path, backend = model
    header, tensors = parts(path)
    W = tensors.pop("0.W")
    if change == "extra":
        tensors |= {"0.W": W, "0.V": W}
    if change == "renamed":
        tensors["0.w"] = W
    if change == "dtype":
        tensors["0.W"] = W.astype("i4")
    forge(path, json.dumps(header), tensors)
    with pytest.raises(ValueError, match=r"model' is damaged: "):
        bp.load(path, backend=backend)


@pytest.mark.parametrize("call", ["fsync", "replace", "open", "fdopen"])
def test_save_is_whole_or_not_at_all(model, build, monkeypatch, call):
    path, _ = model
    before, net = path.read_bytes(), build(seed=77)

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="No space left"):
        net.save(path)
    monkeypatch.undo()
    assert os.listdir(path.parent) == ["model"]
    assert path.read_bytes() == before
    net.save(path)
    assert path.read_bytes() != before
    assert os.listdir(path.parent) == ["model"]


def test_save_to_where_it_can_not(build, tmp_path):
    net = build()
    with pytest.raises(FileNotFoundError):
        net.save(tmp_path / "missing" / "model")
    with pytest.raises(OSError, match=re.escape(tmp_path.name)):
        net.save(tmp_path)
    assert os.listdir(tmp_path) == []
    assert os.listdir(tmp_path.parent).count(tmp_path.name) == 1
    assert not [name for name in os.listdir(tmp_path.parent) if name.endswith(".tmp")]


def test_saving_follows_a_link_and_names_a_folder(build, tmp_path):
    net, target = build(), tmp_path / "model"
    target.touch()
    (tmp_path / "link").symlink_to(target)
    net.save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (bp.load(target)._flat == net._flat).all()
    with pytest.raises(IsADirectoryError, match="is a folder"):
        net.save(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        net.save(tmp_path / "nowhere" / "model")


HOSTILE = ["\n", "a\nb\x1b[31m", "\ud800", "x" * 5000, ["x"] * 3000, {str(i): [i] for i in range(2000)}]


@pytest.mark.parametrize("value", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize(
    "key", ["format", "n_inputs", "loss", "dtype", "seed", "layers", "learning_rate_scales"]
)
def test_what_is_said_of_a_file_is_one_short_line(model, key, value):
    path, backend = model
    header, tensors = parts(path)
    for replaced in (value, {"name": value}, [value], [{"name": "dense", "units": value}]):
        forge(path, json.dumps(header | {key: replaced}), tensors)
        with pytest.raises(ValueError, match="model'") as refusal:
            bp.load(path, backend=backend)
        assert str(refusal.value).isprintable()
        assert len(str(refusal.value)) < 600 + len(str(path))


def test_a_tensor_with_a_strange_name_is_refused_in_one_line(model):
    path, backend = model
    header, tensors = parts(path)
    for name in ("a\nb", "\x1b[31m", "\u2028", "x" * 5000):
        forge(path, json.dumps(header), tensors | {name: np.zeros(2)})
        with pytest.raises(ValueError, match="its header says none for") as refusal:
            bp.load(path, backend=backend)
        assert str(refusal.value).isprintable()
        assert len(str(refusal.value)) < 600 + len(str(path))


def test_a_header_has_a_limit(build, tmp_path, monkeypatch):
    net, path = build(), tmp_path / "model"
    net.save(path)
    size = int.from_bytes(path.read_bytes()[:8], "little")
    monkeypatch.setattr(files, "MAX_HEADER", size)
    net.save(path)
    assert bp.load(path, backend=net.backend).n_parameters == net.n_parameters
    monkeypatch.setattr(files, "MAX_HEADER", size - 1)
    with pytest.raises(ValueError, match=rf"its header has {size} bytes; {size - 1} are the most"):
        bp.load(path, backend=net.backend)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=rf"its header has {size} bytes; {size - 1} are the most"):
        net.save(path)
    monkeypatch.setattr(files, "MAX_HEADER", 99)
    with pytest.raises(ValueError, match=r"its header has \d+ bytes; 99 are the most"):
        files.require_room(net)
    assert path.read_bytes() == before


def test_long_texts_and_little_else_are_kept_in_a_header(build, tmp_path, monkeypatch):
    net, path = build(), tmp_path / "model"
    net.metadata["preparation"] = json.dumps([{"name": f'x"{i}\\', "mean": 1.5} for i in range(90_000)])
    files.require_room(net)
    net.save(path)
    assert bp.load(path, backend=net.backend).metadata == net.metadata
    header, tensors = parts(path)
    for more in ([[]] * 1_000_000, {str(i): 0 for i in range(1_000_000)}, [""] * 1_100_000):
        forge(path, json.dumps(header | {"metadata": {}, "layers": more}), tensors)
        with pytest.raises(ValueError, match=r"has more than \d+ characters outside of texts"):
            bp.load(path, backend=net.backend)
    monkeypatch.setattr(files, "MAX_TENSORS", 3)
    net.metadata.clear()
    net.save(path)
    with pytest.raises(ValueError, match="has 4 tensors; 3 are the most"):
        bp.load(path, backend=net.backend)


def _nested(depth):
    config = {"name": "dropout", "rate": 0.5}
    for _ in range(depth):
        config = {"name": "residual", "layers": [config]}
    return config


def test_layers_have_a_depth(model, tmp_path):
    path, backend = model
    header, tensors = parts(path)
    forge(path, json.dumps(header | {"layers": [*header["layers"], _nested(50)]}), tensors)
    net = bp.load(path, backend=backend)
    net.save(tmp_path / "twin")
    assert bp.load(tmp_path / "twin", backend=backend).layers == net.layers
    assert repr(net.layers).count("Residual(") == 50
    for depth in (51, 100, 150):
        forge(path, json.dumps(header | {"layers": [*header["layers"], _nested(depth)]}), tensors)
        with pytest.raises(
            ValueError, match=r"model' can't be read: layers must not be nested more than 50 levels deep"
        ):
            bp.load(path, backend=backend)
    with pytest.raises(ValueError, match="layers must not be nested more than 50 levels deep"):
        bp.Network([bp.Dense(2), bp.Residual(net.layers[2])], n_inputs=3, loss="squared_error")


def test_layers_are_counted_before_they_are_made(model, monkeypatch):
    path, backend = model
    header, tensors = parts(path)
    many = [{"name": "dropout"}] * 6000
    monkeypatch.setattr(files.layers, "from_config", lambda config: pytest.fail("a layer was made"))
    for stack in (
        many * 2,
        [{"name": "residual", "layers": many}] * 2,
        [*many, {"name": "residual", "layers": many}],
    ):
        forge(path, json.dumps(header | {"layers": stack}), tensors)
        with pytest.raises(ValueError, match=r"model' can't be read: it has more than 10000 layers"):
            bp.load(path, backend=backend)
    with pytest.raises(ValueError, match="the layers have more than 10000 ops"):
        bp.Network([bp.Dense(2), *[bp.Dropout()] * 10_000], n_inputs=3, loss="squared_error", backend=backend)


def test_rates_are_those_of_parameters(model):
    path, backend = model
    header, tensors = parts(path)
    for key in ("0", "0.V", ""):
        forge(path, json.dumps(header | {"learning_rate_scales": {key: 0.5}}), tensors)
        with pytest.raises(ValueError, match=rf"scales the learning rate of {key!r}, which is no parameter"):
            bp.load(path, backend=backend)
    forge(path, json.dumps(header | {"learning_rate_scales": {"0.W": 0.5, "1.b": 1}}), tensors)
    assert bp.load(path, backend=backend)._lr_scales == {"0.W": 0.5}
