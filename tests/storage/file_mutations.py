"""Mutations of model files for fuzz_files.py: functions of a generator and the bytes of two files."""

import copy
import json
import re
import struct

import numpy as np

from bpfast.storage import model_file

TYPES = {"F32": "<f4", "F64": "<f8", "I64": "<i8", "BOOL": "?"}


def split(data):
    """Return a file's header, as a dict, and the bytes after it."""
    size = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def join(header, body):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


def signed(header, body):
    """Return the file with a valid checksum; its tensors must be readable."""
    text = header["__metadata__"]["bpfast"]
    place = re.search(r'^\{"sha256": "([^"]*)"', text)
    if place is None:
        return join(header, body)
    digests = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            array = np.frombuffer(body[begin:end], TYPES[entry["dtype"]]).reshape(entry["shape"])
            digests[name] = model_file._digest(entry["dtype"], array)
    text = text[: place.start(1)] + model_file.UNSIGNED + text[place.end(1) :]
    text = text.replace(model_file.UNSIGNED, model_file.checksum(text, digests), 1)
    return join({**header, "__metadata__": {**header["__metadata__"], "bpfast": text}}, body)


# fmt: off
HOSTILE = [
    None, True, False, 0, 1, -1, 2, 3, 2**31, 2**53 + 1, 2**62, 2**63 - 1, 2**63, 2**64, 10**400, -(10**30),
    0.0, -0.0, 0.5, 1.0, 3.0, 1e-320, 1e308, float("nan"), float("inf"), -float("inf"),
    "", "\0", "a\nb", "\ud800", "\udfff x", "\N{GRINNING FACE}", "\x1b[31m", "nan", "1e999", "x" * 3000,
    "dense", "custom", "float16", "0.W", "..", "1_000", [], {}, [[]], [None], [1.5], {"name": None},
    {"name": "dense"}, {"name": "custom", "function": 1}, {"name": "residual", "layers": []}, {"$float": "x"},
    {"$float": []}, {"$array": "0.W"}, {"$array": "none"}, {"$array": 3}, {"$array": None},
]
# fmt: on


def random_path(rng, value):
    """Return the path to a random node of a JSON value."""
    path = []
    while isinstance(value, (dict, list)) and value and (not path or rng.random() < 0.8):
        path.append(rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value)))
        value = value[path[-1]]
    return path


def at(value, path):
    for key in path:
        value = value[key]
    return value


def large(rng):
    """Return a large or deep JSON value."""
    n = rng.choice((10, 10, 100, 100, 1000, 3000))
    kind = rng.randrange(7)
    if kind == 0:
        return [rng.choice((0, "", [], None))] * n
    if kind == 1:
        return {str(i): i for i in range(n)}
    if kind == 2:
        return "é" * n * 10
    value = {"name": "dropout"} if kind < 5 else []
    for _ in range(min(n, 400) if kind % 2 else 30):
        value = {"name": "residual", "layers": [value]} if kind < 5 else [value]
    return value


def tree(rng, value, other):
    """Return a JSON value with one or a few nodes changed."""
    value = json.loads(json.dumps(value))
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if not value:
            break
        *path, key = random_path(rng, value)
        holder, act = at(value, path), rng.randrange(9)
        if act < 3:
            holder[key] = copy.deepcopy(rng.choice(HOSTILE))
        elif act == 3:
            holder[key] = large(rng)
        elif act == 4:
            del holder[key]
        elif act == 5:
            holder[key] = json.loads(json.dumps(at(other, random_path(rng, other))))
        elif act == 6 and isinstance(holder, list):
            holder[key:key] = [holder[key]] * rng.choice((1, 2, 50, 500))
        elif act == 7 and isinstance(holder, dict):
            holder[str(rng.choice(HOSTILE))[:50]] = holder.pop(key)
        elif isinstance(holder[key], (int, float)) and abs(holder[key]) < 1e300:
            holder[key] = rng.choice((-holder[key], holder[key] + 1, float(holder[key]), str(holder[key])))
        else:
            holder[key] = [holder[key]]
    return value


def flips(rng, data, other):
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def overwrites(rng, data, other):
    data = bytearray(data)
    place = rng.randrange(len(data))
    new = rng.choice(
        (b"\0", b"\xff" * 8, b'"', b"9" * 20, b"{" * 50, b"\\ud800", b"NaN", b"-1", rng.randbytes(4))
    )
    data[place : place + rng.choice((0, len(new)))] = new
    return bytes(data)


def truncations(rng, data, other):
    begin = rng.randrange(len(data)) if rng.random() < 0.2 else 0
    return data[begin : rng.randrange(begin, len(data))]


def extensions(rng, data, other):
    more = rng.choice((b"\0", b" ", b"\0" * 4096, rng.randbytes(16), other))
    return data + more if rng.random() < 0.8 else more + data


def splices(rng, data, other):
    at_header = 8 + struct.unpack("<Q", other[:8])[0]
    if rng.random() < 0.5:
        return data[: 8 + struct.unpack("<Q", data[:8])[0]] + other[at_header:]
    return data[: rng.randrange(len(data))] + other[rng.randrange(len(other)) :]


def lengths(rng, data, other):
    size = struct.unpack("<Q", data[:8])[0]
    wild = rng.choice(
        (0, 1, 2, size - 1, size + 1, size + 8, len(data), 10**8, 10**8 + 1, 2**32, 2**63, 2**64 - 1)
    )
    return struct.pack("<Q", wild) + data[8:]


def _other_shape(rng, shape):
    huge = [2**32, 2**32]
    return rng.choice((shape[::-1], [*shape, 1], [1] * 70 + shape, [], [-1], huge, [1.0], "3", [2**64], None))


def _other_offsets(rng, begin, end):
    moved = ([begin, end + 4], [begin + 4, end], [end, begin], [-1, end])
    return rng.choice((*moved, [0, 2**63], [begin], [], "x", [0, 2**64]))


def tensor_entries(rng, data, other):
    """Change the safetensors header: types, shapes, offsets, names."""
    header, body = split(data)
    names = [name for name in header if name != "__metadata__"]
    for _ in range(rng.choice((1, 1, 2))):
        act = rng.randrange(8)
        if not names or act == 0:
            n = rng.choice((1, 10, 1000))
            empty = {
                "dtype": "F32",
                "shape": rng.choice(([0], [0, 2**40], [2**40, 0])),
                "data_offsets": [0, 0],
            }
            header |= {rng.choice(("x", "a\n", "0.W.", "é")) + str(i): empty for i in range(n)}
            break
        name = rng.choice(names)
        if name not in header or len(header[name].get("data_offsets") or ()) != 2:
            continue
        entry = header[name] = json.loads(json.dumps(header[name]))
        if act == 1:
            entry["dtype"] = rng.choice(
                ("F32", "F64", "I64", "BOOL", "F16", "BF16", "U8", "F8_E4M3", "X", 3, None)
            )
        elif act == 2:
            entry["shape"] = _other_shape(rng, entry["shape"])
        elif act == 3:
            entry["data_offsets"] = _other_offsets(rng, *entry["data_offsets"])
        elif act == 4:
            header[rng.choice((name + "x", "", "\0", "a\nb", "__metadata__", "\N{GRINNING FACE}" * 500))] = (
                header.pop(name)
            )
        elif act == 5:
            del header[name]
        elif act == 6:
            second = rng.choice(names)
            if second in header:
                header[name], header[second] = header[second], header[name]
        else:
            return join(
                json.dumps(header).encode()[:-1] + f', "{name}": {json.dumps(entry)}}}'.encode(), body
            )
    return join(header, body)


def outer_tree(rng, data, other):
    header, body = split(data)
    return join(tree(rng, header, split(other)[0]), body)


def _inner(data):
    header, body = split(data)
    return header, body, json.loads(header["__metadata__"]["bpfast"])


def _with(header, text):
    return {**header, "__metadata__": {"bpfast": text}}


def model_tree(rng, data, other):
    """Change the JSON of bpfast, but not the checksum."""
    header, body, model = _inner(data)
    return join(_with(header, json.dumps(tree(rng, model, _inner(other)[2]))), body)


def model_text(rng, data, other):
    """Change the JSON as text: repeated keys, another checksum, blanks."""
    header, body, model = _inner(data)
    text = header["__metadata__"]["bpfast"]
    key = rng.choice(list(model))
    again = f'"{key}": {json.dumps(rng.choice(HOSTILE))}'
    place = rng.randrange(len(text))
    text = rng.choice(
        (
            text[:-1] + f", {again}}}",
            "{" + again + ", " + text[1:],
            text[:12] + text[12:80].upper() + text[80:],
            text.replace("sha256", "sha-256"),
            text.replace(": ", ":  ", 1),
            text.replace('"format": 2', '"format": 1'),
            "\ufeff" + text,
            text + " ",
            text[:place],
            text[:place] + rng.choice('{}[]",:0eE-\\ \n\x7fé') + text[place + 1 :],
        )
    )
    return join(_with(header, text), body)


def resigned_tree(rng, data, other):
    header, body, model = _inner(data)
    changed = tree(rng, model, _inner(other)[2])
    changed = {"sha256": model_file.UNSIGNED, **{k: v for k, v in changed.items() if k != "sha256"}}
    return signed(_with(header, json.dumps(changed)), body)


def resigned_layers(rng, data, other):
    """Change the layers to valid ones: nested, repeated, without parameters, huge."""
    header, body, model = _inner(data)
    layers = list(model["layers"])
    plain = [
        {"name": "dropout"},
        {"name": "activation", "activation": rng.choice(("relu", {"name": "tanh"}))},
    ]
    act = rng.randrange(6)
    if act == 0:
        layers[rng.randrange(len(layers) + 1) :] = plain * rng.choice((1, 10, 200))
    elif act == 1:
        inner = rng.choice(plain)
        for _ in range(rng.choice((1, 5, 49, 60, 200, 320, 400))):
            inner = {"name": "residual", "layers": [inner]}
        layers.append(inner)
    elif act == 2:
        layers = [{"name": "residual", "layers": layers}]
    elif act == 3:
        layers = [*layers, rng.choice(_inner(other)[2]["layers"])]
    elif act == 4:
        model["n_inputs"] = rng.choice((1, 2**20, 2**40, 2**62))
    else:
        layers = plain
    model["layers"] = layers
    if rng.random() < 0.3:
        model["n_inputs"] = rng.choice((1, 2**40, 2**62, 2**63))
    if rng.random() < 0.3:
        header, body = {"__metadata__": None}, b""
    return signed(_with(header, json.dumps(model)), body)


def resigned_training(rng, data, other):
    """Change the entry ``training`` of a checkpoint."""
    header, body, model = _inner(data)
    if "training" not in model:
        model["training"] = rng.choice(HOSTILE)
    else:
        key = rng.choice(list(model["training"]))
        part = {key: model["training"][key]}
        model["training"] |= tree(rng, part, _inner(other)[2])
        if rng.random() < 0.1:
            refer = [{"$array": rng.choice(list(header))}] * rng.choice((2, 500))
            model["training"][rng.choice(("clock", "callbacks"))] = refer
    return signed(_with(header, json.dumps(model)), body)


def resigned_arrays(rng, data, other):
    """Change the type, shape or values of tensors, in the header too."""
    header, body, model = _inner(data)
    names = [name for name in header if name != "__metadata__"]
    if not names:
        return data
    arrays = {}
    for name in names:
        begin, end = header[name]["data_offsets"]
        arrays[name] = np.frombuffer(body[begin:end], TYPES[header[name]["dtype"]]).reshape(
            header[name]["shape"]
        )
    for name in rng.sample(names, min(len(names), rng.choice((1, 1, 3)))):
        array = arrays[name].copy()
        act = rng.randrange(5)
        if act == 0:
            with np.errstate(all="ignore"):
                array = array.astype(rng.choice(list(TYPES.values())))
        elif act == 1:
            array = array.reshape(-1)[: rng.choice((0, 1, array.size))]
        elif act == 2:
            array = array.reshape(rng.choice(((*array.shape, 1), (1, *array.shape), (-1,))))
        elif array.size:
            wild = rng.choice((np.nan, np.inf, -1.0, 1e30, 3e38, -1e9, 1e-45))
            with np.errstate(all="ignore"):
                array.reshape(-1)[rng.randrange(array.size)] = (
                    wild if array.dtype.kind == "f" else rng.choice((1, 0))
                )
        arrays[name] = array
        listed = model.get("training", {}).get("arrays", {})
        if name in listed and rng.random() < 0.9:
            listed[name] = [model_file._NAMES[array.dtype], list(array.shape)]
    entries, body = {}, b""
    for name, array in arrays.items():
        entries[name] = {
            "dtype": model_file._NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [len(body), len(body) + array.nbytes],
        }
        body += array.tobytes()
    return signed({"__metadata__": {"bpfast": json.dumps(model)}, **entries}, body)


MUTATORS = [
    flips, overwrites, truncations, extensions, splices, lengths, tensor_entries, outer_tree, model_tree,
    model_text, resigned_tree, resigned_layers, resigned_training, resigned_arrays,
]  # fmt: skip
