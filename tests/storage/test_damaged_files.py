"""Damaged and foreign files raise a one-line ValueError."""

import json
import math
import struct

import numpy as np
import pytest
from safetensors.numpy import save_file

import bpfast as bp


@pytest.mark.parametrize(
    "data", [b"", b"\0", b"\x08" + 7 * b"\0", b"\xff" * 64, b"PK\3\4" + bytes(200), b"{}" * 99]
)
def test_load_refuses_other_files(backend, tmp_path, data):
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


def test_load_refuses_truncated_files(model):
    path, backend = model
    data = path.read_bytes()
    for size in sorted({*range(0, 24), *range(24, len(data), 37), len(data) - 1}):
        path.write_bytes(data[:size])
        with pytest.raises(ValueError, match="is not a model file, or is damaged"):
            bp.load(path, backend=backend)
    path.write_bytes(data + b"\0")
    with pytest.raises(ValueError, match="is not a model file, or is damaged"):
        bp.load(path, backend=backend)


def test_a_changed_byte_is_detected(model, rng, parts):
    """Only a change of the blanks that pad the header is not detected."""
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


def test_only_format_1_may_lack_a_checksum(model, parts):
    path, backend = model
    header, tensors = parts(path)
    signed = json.dumps(header)
    assert signed.startswith('{"sha256": "')
    plain = {name: value for name, value in header.items() if name != "sha256"}
    for text, match in (
        (json.dumps(plain), r"does not begin with a checksum"),
        (json.dumps(plain | {"sha256": header["sha256"]}), r"does not begin with a checksum"),
        (json.dumps(header | {"format": 1}), r"its content does not match its checksum"),
        (signed.replace("sha256", "sha255").replace('"format": 2', '"format": 1'), r"has an entry 'sha255'"),
        (signed.replace('"seed": 1', '"seed": 2'), r"its content does not match its checksum"),
        (signed.replace('"seed": 1', '"seed":  1'), r"its content does not match its checksum"),
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
    with pytest.raises(ValueError, match=r"is damaged: its content does not match its checksum"):
        bp.load(path, backend=backend)
    save_file(tensors, path, {"bpfast": json.dumps(plain | {"format": 1})})
    assert bp.load(path, backend=backend).n_parameters == 26


def test_load_of_a_missing_file(backend, tmp_path):
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(FileNotFoundError, match="there is no model file"):
            bp.load(path, backend=backend)


def test_load_refuses_other_safetensors_files(backend, tmp_path):
    path = tmp_path / "other"
    for metadata in (None, {"format": "pt"}):
        save_file({"weight": np.zeros((2, 2))}, path, metadata)
        with pytest.raises(ValueError, match=r"other' is a safetensors file, but not a bpfast model"):
            bp.load(path, backend=backend)


def layer(**changes):
    return lambda header: header["layers"][0].update(changes)


#: Changes of the header of a 3-4-2 network, and the messages of `load`.
HEADERS = {
    "other shapes": (layer(units=5), r"is damaged: its header has .*\(3, 5\).* the tensor has .*\(3, 4\)"),
    "other inputs": (lambda h: h.update(n_inputs=9), r"is damaged: its header has"),
    "fewer layers": (lambda h: h["layers"].pop(), r"is damaged: its header has"),
    "no layers": (lambda h: h["layers"].clear(), r"layers must be a list of at least one layer"),
    "other dtype": (lambda h: h.update(dtype="float64"), r"is damaged: 0\.\w is float32, not float64"),
    "unsupported dtype": (
        lambda h: h.update(dtype="int8"),
        r"dtype must be 'float32' or 'float64'; got 'int8'",
    ),
    "newer": (lambda h: h.update(format=3), r"its format is 3, this version reads up to 2; update bpfast"),
    "no format": (lambda h: h.pop("format"), r"its header has no format number"),
    "no loss": (lambda h: h.pop("loss"), r"cannot be read: .*loss"),
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
    "layers of another type": (lambda h: h.update(layers=7), r"cannot be read"),
    "a layer of another type": (
        lambda h: h.update(layers=["dense"]),
        r"layer configuration must be an object with a name",
    ),
    "negative seed": (lambda h: h.update(seed=-1), r"seed must be at least 0"),
    "negative epochs": (lambda h: h.update(epochs=-1), r"cannot be read: .*epochs"),
    "infinite epochs": (lambda h: h.update(epochs=math.inf), r"cannot be read: .*"),
    "epochs of another type": (lambda h: h.update(epochs=[1]), r"cannot be read"),
    "metadata of another type": (lambda h: h.update(metadata=[1]), r"cannot be read"),
    "larger than memory": (layer(units=2**45), r"too large: parameter"),
}


@pytest.mark.parametrize("change", HEADERS)
def test_load_refuses_a_header(model, change, parts, forge):
    path, backend = model
    header, tensors = parts(path)
    alter, match = HEADERS[change]
    alter(header)
    forge(path, json.dumps(header), tensors)
    with pytest.raises(ValueError, match=match) as refusal:
        bp.load(path, backend=backend)
    assert "model'" in str(refusal.value)


@pytest.mark.parametrize("text", ["", "{", "null", "[]", "7", '"format"', "[" * 100_000, "\x00"])
def test_load_refuses_a_malformed_header(model, text, parts, forge):
    path, backend = model
    forge(path, text, parts(path)[1])
    with pytest.raises(ValueError, match=r"model' cannot be read"):
        bp.load(path, backend=backend)


def test_load_compares_shapes_before_it_allocates(model, monkeypatch, parts, forge):
    """A header may claim any size; only the tensors of the file count."""
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
    with pytest.raises(ValueError, match="is damaged: its header has"):
        bp.load(path, backend=backend)
    assert max(made, default=0) < 2**18


@pytest.mark.parametrize("change", ["missing", "extra", "renamed", "dtype"])
def test_load_refuses_other_tensors(model, change, parts, forge):
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


HOSTILE = ["\n", "a\nb\x1b[31m", "\ud800", "x" * 5000, ["x"] * 3000, {str(i): [i] for i in range(2000)}]


@pytest.mark.parametrize("value", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize(
    "key", ["format", "n_inputs", "loss", "dtype", "seed", "layers", "learning_rate_scales"]
)
def test_messages_about_a_file_are_one_short_line(model, key, value, parts, forge):
    path, backend = model
    header, tensors = parts(path)
    for replaced in (value, {"name": value}, [value], [{"name": "dense", "units": value}]):
        forge(path, json.dumps(header | {key: replaced}), tensors)
        with pytest.raises(ValueError, match="model'") as refusal:
            bp.load(path, backend=backend)
        assert str(refusal.value).isprintable()
        assert len(str(refusal.value)) < 600 + len(str(path))


def test_a_tensor_with_an_unprintable_name_is_refused_in_one_line(model, parts, forge):
    path, backend = model
    header, tensors = parts(path)
    for name in ("a\nb", "\x1b[31m", "\u2028", "x" * 5000):
        forge(path, json.dumps(header), tensors | {name: np.zeros(2)})
        with pytest.raises(ValueError, match="its header has no tensor for") as refusal:
            bp.load(path, backend=backend)
        assert str(refusal.value).isprintable()
        assert len(str(refusal.value)) < 600 + len(str(path))
