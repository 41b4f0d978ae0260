"""Mutated model files against `bpfast.load` and ``fit(resume=)``: not collected as a test.

    python tests/fuzz_files.py --files 1000000 --workers 2 --seed 0    # structured mutations
    python tests/fuzz_files.py --guided --seconds 600                  # by coverage: pip install atheris

A file is loaded, or refused by a ValueError of one line that names it; within a second, and in memory of
twice its size and what Python's objects take (`ALLOWANCE`, `PER_BYTE`). A changed file that is taken has
the content of the original, or was signed anew: then the network predicts, and comes back from a file of
its own. Whatever else happens is a finding: it is printed, and its file kept (``--keep``).
"""

import argparse
import collections
import copy
import json
import multiprocessing
import os
import random
import re
import resource
import signal
import struct
import sys
import tempfile
import time
import tracemalloc
import warnings
from pathlib import Path

import numpy as np

GUIDED = "--guided" in sys.argv
if GUIDED:
    import atheris

    INSTRUMENTED = [f"bpfast.{name}" for name in ("files", "checkpoint", "layers", "program", "specs")]
    with atheris.instrument_imports(include=INSTRUMENTED):
        import bpfast as bp
        from bpfast import files
else:
    import bpfast as bp
    from bpfast import files

#: Bytes that a load may take beyond twice the file: fixed, and for each byte of its header, whose layers
#: become Python objects (a ``{"name": "dropout"}`` of 19 bytes takes 1,600).
ALLOWANCE, PER_BYTE = 65_536, 70
#: Bytes of a message, beside the file's name; seconds of a load; address space that is left to a worker.
LONGEST, SECONDS, SPACE = 1000, 1.0, 4 * 2**30
KEPT = Path(__file__).parent / "data"
DATA = np.random.default_rng(0).normal(size=(24, 5)), np.arange(24) % 3
TYPES = {"F32": "<f4", "F64": "<f8", "I64": "<i8", "BOOL": "?"}


def split(data):
    """A file's header, as a dict, and what is behind it."""
    size = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def join(header, body):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


def signed(header, body):
    """The file whose checksum is true, where its tensors can be read at all."""
    text = header["__metadata__"]["bpfast"]
    place = re.search(r'^\{"sha256": "([^"]*)"', text)
    if place is None:
        return join(header, body)
    digests = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            array = np.frombuffer(body[begin:end], TYPES[entry["dtype"]]).reshape(entry["shape"])
            digests[name] = files._digest(entry["dtype"], array)
    text = text[: place.start(1)] + files.UNSIGNED + text[place.end(1) :]
    text = text.replace(files.UNSIGNED, files.checksum(text, digests), 1)
    return join({**header, "__metadata__": {**header["__metadata__"], "bpfast": text}}, body)


class Pull(bp.Callback):
    """Ends a training within an epoch."""

    def __init__(self, batches):
        self.left = batches

    def on_batch_end(self, network, batch, loss):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def trained_network():
    layers = [bp.Dense(4, "relu"), bp.BatchNorm(), bp.Dropout(0.3), bp.Dense(3)]
    return bp.Network(layers, n_inputs=5, loss="cross_entropy", seed=3, threads=1, backend="reference")


def train(network, *callbacks, **options):
    callbacks = [bp.EarlyStopping("loss", patience=5), *callbacks]
    return network.fit(*DATA, epochs=3, batch_size=6, callbacks=callbacks, **options)


def seeds(folder):
    """Files of every kind, by name."""
    residual = bp.Residual(bp.BatchNorm(), bp.Activation("relu"), bp.Residual(bp.Dense(4)), bp.Dense(5))
    stacks = {
        "dense": [bp.Dense(4, "tanh"), bp.Dense(2)],
        "residual": [residual, bp.Dense(2)],
        "odd": [bp.Maxout(3, pieces=2), bp.PReLU(), bp.RReLU(), bp.LayerNorm(), bp.Dense(2, bp.ELU(0.5))],
        "auxiliary": [
            bp.Dense(4, "relu"),
            bp.Auxiliary(2, "huber"),
            bp.BatchRenorm(),
            bp.Dense(2, bias=False),
        ],
        "bare": [bp.Activation("tanh")],
    }
    result = {}
    path = os.path.join(folder, "seed")
    for name, layers in stacks.items():
        for dtype in ("float32", "float64"):
            network = bp.Network(layers, n_inputs=3, loss="squared_error", dtype=dtype, backend="reference")
            network.metadata["note"] = "kept: ç, \N{GRINNING FACE}"
            if network.parameters:
                network.scale_learning_rates({0: 0.5})
            network.save(path)
            result[f"{name} {dtype}"] = Path(path).read_bytes()
    deep = bp.Network([bp.Dense(2, "relu")] * 40, n_inputs=2, loss="huber", backend="reference")
    deep.metadata["long"] = "x" * 5000
    deep.save(path)
    result["large header"] = Path(path).read_bytes()
    for number in range(1, files.FORMAT + 1):
        result[f"format {number}"] = (KEPT / f"model-format-{number}.safetensors").read_bytes()
    train(trained_network(), bp.Checkpoint(path))
    result["checkpoint"] = Path(path).read_bytes()
    try:
        train(trained_network(), bp.Checkpoint(path, batches=1), Pull(7))
    except KeyboardInterrupt:
        result["checkpoint within an epoch"] = Path(path).read_bytes()
    return result


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


def place(rng, value):
    """The way to a node of a JSON value, by chance: each step into one of the values there."""
    way = []
    while isinstance(value, (dict, list)) and value and (not way or rng.random() < 0.8):
        way.append(rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value)))
        value = value[way[-1]]
    return way


def at(value, path):
    for key in path:
        value = value[key]
    return value


def large(rng):
    """A value that is large, or deep."""
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
    """A JSON value with a node or two changed."""
    value = json.loads(json.dumps(value))
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if not value:
            break
        *way, key = place(rng, value)
        holder, act = at(value, way), rng.randrange(9)
        if act < 3:
            holder[key] = copy.deepcopy(rng.choice(HOSTILE))
        elif act == 3:
            holder[key] = large(rng)
        elif act == 4:
            del holder[key]
        elif act == 5:
            holder[key] = json.loads(json.dumps(at(other, place(rng, other))))
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


def tensor_entries(rng, data, other):
    """The safetensors header: types, shapes, places, names."""
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
            shape = entry["shape"]
            entry["shape"] = rng.choice(
                (
                    shape[::-1],
                    [*shape, 1],
                    [1] * 70 + shape,
                    [],
                    [-1],
                    [2**32, 2**32],
                    [1.0],
                    "3",
                    [2**64],
                    None,
                )
            )
        elif act == 3:
            begin, end = entry["data_offsets"]
            entry["data_offsets"] = rng.choice(
                (
                    [begin, end + 4],
                    [begin + 4, end],
                    [end, begin],
                    [-1, end],
                    [0, 2**63],
                    [begin],
                    [],
                    "x",
                    [0, 2**64],
                )
            )
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
    """The JSON of bpfast, its checksum as it was."""
    header, body, model = _inner(data)
    return join(_with(header, json.dumps(tree(rng, model, _inner(other)[2]))), body)


def model_text(rng, data, other):
    """The JSON as text: repeated keys, another checksum, blanks."""
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
    changed = {"sha256": files.UNSIGNED, **{k: v for k, v in changed.items() if k != "sha256"}}
    return signed(_with(header, json.dumps(changed)), body)


def resigned_layers(rng, data, other):
    """Layers of which the checks know: nested, repeated, without parameters, huge."""
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
    """The entry ``training`` of a checkpoint."""
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
    """A tensor of another type or shape, as the header says, or of other values."""
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
            listed[name] = [files._NAMES[array.dtype], list(array.shape)]
    entries, body = {}, b""
    for name, array in arrays.items():
        entries[name] = {
            "dtype": files._NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [len(body), len(body) + array.nbytes],
        }
        body += array.tobytes()
    return signed({"__metadata__": {"bpfast": json.dumps(model)}, **entries}, body)


MUTATORS = [
    flips, overwrites, truncations, extensions, splices, lengths, tensor_entries, outer_tree, model_tree,
    model_text, resigned_tree, resigned_layers, resigned_training, resigned_arrays,
]  # fmt: skip


class FindingError(Exception):
    """What should not have happened."""


def content(path):
    """All that a file says, if it is a bpfast file."""
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        header = json.loads(file.metadata()["bpfast"])
    return json.dumps(header), {n: (a.dtype.str, a.shape, a.tobytes()) for n, a in tensors.items()}


def require_refusal(error, path):
    if type(error) is not ValueError:
        raise FindingError(f"{type(error).__name__}: {str(error)[:300]}") from error
    text = str(error)
    if not text.isprintable():
        raise FindingError(f"a message that is not one line of text: {text[:300]!a}")
    if len(text) > LONGEST + len(path):
        raise FindingError(f"a message of {len(text)} characters: {text[len(path) :][:200]!a}")
    if os.path.basename(path) not in text:
        raise FindingError(f"a message without the file's name: {text[:300]!a}")


class Oracle:
    """Judges files one by one, and counts.

    Attributes
    ----------
    folder : path
        Where the files are written.
    counts : Counter of (mutator, outcome)
    slowest, largest, beyond : float
        Seconds of a load; the largest peak over the file's size; the most bytes beyond twice the file for
        each byte of its header, and beyond the fixed allowance.
    """

    def __init__(self, folder, keep=None):
        self.folder, self.keep = folder, keep
        self.seeds = seeds(folder)
        self.path = os.path.join(folder, f"file-{os.getpid()}")
        self.contents = {}
        for name, data in self.seeds.items():
            Path(self.path).write_bytes(data)
            bp.load(self.path, threads=1)
            self.contents[name] = content(self.path)
        self.names = list(self.seeds)
        self.checkpoints = [name for name in self.names if name.startswith("checkpoint")]
        self.counts = collections.Counter()
        self.findings = collections.Counter()
        self.slowest = self.largest = self.beyond = 0.0
        self.traced = 0

    def mutate(self, rng):
        """(mutator, name of the seed, data)"""
        mutator, name = rng.choice(MUTATORS), rng.choice(self.names)
        if mutator is resigned_training and rng.random() < 0.9:
            name = rng.choice(self.checkpoints)
        data, other = self.seeds[name], self.seeds[rng.choice(self.names)]
        try:
            changed = mutator(rng, data, other)
        except (
            Exception
        ):  # too deep or no text to be written down, or a second edit of what is no longer there
            mutator, changed = flips, flips(rng, data, other)
        if changed and rng.random() < 0.03:
            changed = flips(rng, changed, other)
        return mutator, name, changed

    def judge(self, what, name, data, traced=False, resumed=False):
        """Load a file; keep it if there is something to be found in it."""
        signal.setitimer(signal.ITIMER_REAL, 60)
        with open(self.path, "wb") as file:
            file.write(data)
        try:
            resigned = what.startswith(("resigned", "guided"))
            outcome = self._resume(data) if resumed else self._load(name, data, traced, resigned)
        except FindingError as finding:
            outcome = "finding"
            key = re.sub(r"[\d.]+|'[^']*'", "#", str(finding))[:80]
            self.findings[key] += 1
            if self.findings[key] == 1:
                print(f"FINDING {what} of {name}{' resumed' * resumed}: {str(finding)!a}", flush=True)
                if self.keep:
                    os.makedirs(self.keep, exist_ok=True)
                    kept = f"{what}-{os.getpid()}-{sum(self.findings.values())}"
                    Path(self.keep, kept).write_bytes(data)
        signal.setitimer(signal.ITIMER_REAL, 0)
        self.counts[what + " resumed" * resumed, outcome] += 1
        return outcome

    def _timed(self, call):
        """What a call gives or raises, within its time and without warnings."""
        begin, error, result = time.thread_time(), None, None
        try:
            result = call()
        except KeyboardInterrupt:
            raise
        except BaseException as caught:
            error = caught
        seconds = time.thread_time() - begin
        self.slowest = max(self.slowest, seconds)
        if seconds > SECONDS:
            raise FindingError(f"{seconds:.2f} seconds")
        return result, error

    def _load(self, name, data, traced, resigned):
        if traced:
            self.traced += 1
            tracemalloc.start()
        network, error = self._timed(lambda: bp.load(self.path, threads=1))
        if traced:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            header = min(len(data), struct.unpack("<Q", data[:8].ljust(8, b"\0"))[0] + 8)
            self.largest = max(self.largest, peak / max(1, len(data)))
            over = peak - 2 * len(data) - ALLOWANCE
            self.beyond = max(self.beyond, over / max(1, header))
            if over > PER_BYTE * header:
                raise FindingError(f"{peak} bytes for a file of {len(data)} with a header of {header}")
        if error is not None:
            require_refusal(error, self.path)
            return "refused"
        now = content(self.path)
        if now == self.contents[name]:
            return "the same"
        unsigned = "sha256" not in json.loads(now[0])  # format 1: there is nothing to tell it by
        if not (unsigned or resigned or now in self.contents.values()):
            raise FindingError("another content, and its checksum was not made anew")
        self._use(network)
        return "taken"

    def _use(self, network):
        """A network that was taken predicts, and comes back from a file of its own."""
        try:
            if network.n_inputs <= 10_000:
                network.predict(np.ones((2, network.n_inputs), network.dtype))
            second = self.path + ".saved"
            network.save(second)
            twin = bp.load(second, threads=1)
            repr(network.layers)
        except Exception as error:
            raise FindingError(f"taken, then {type(error).__name__}: {str(error)[:300]}") from error
        same = (twin.layers, twin.seed, twin.epochs, twin.metadata, twin._flat.tobytes()) == (
            network.layers, network.seed, network.epochs, network.metadata, network._flat.tobytes()
        )  # fmt: skip
        if not same:
            raise FindingError("taken, but comes back otherwise")

    def _resume(self, data):
        network = trained_network()
        before = network._flat.tobytes(), network.seed, network.epochs, network._steps
        _, error = self._timed(lambda: train(network, resume=self.path))
        if error is None:
            return "resumed"
        if isinstance(error, FloatingPointError):  # weights that were signed, from which training diverges
            return "diverged"
        require_refusal(error, self.path)
        if before != (network._flat.tobytes(), network.seed, network.epochs, network._steps):
            raise FindingError(f"refused, but the network has changed: {error}")
        return "refused"

    def one(self, rng, index):
        """A file of its own."""
        mutator, name, data = self.mutate(rng)
        self.judge(mutator.__name__, name, data, traced=index % 10 == 0 or len(data) > 20_000)
        if name in self.checkpoints and index % 8 == 0:
            self.judge(mutator.__name__, name, data, resumed=True)


def folder():
    return tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)


def limit():
    """Warnings are errors, and no allocation is for free."""
    warnings.simplefilter("error")
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + SPACE, resource.RLIM_INFINITY))


def work(number, options, results):
    limit()
    oracle = Oracle(options.folder, options.keep)
    begin, index = time.monotonic(), 0
    while index < options.files and time.monotonic() - begin < options.seconds:
        oracle.one(random.Random(f"{options.seed} {number} {index}"), index)
        index += 1
    results.put(
        (index, oracle.counts, oracle.findings, oracle.slowest, oracle.largest, oracle.beyond, oracle.traced)
    )


def report(found, seconds):
    counts = sum((each[1] for each in found), collections.Counter())
    findings = sum((each[2] for each in found), collections.Counter())
    outcomes = sorted({outcome for _, outcome in counts})
    print(f"{'':28}" + "".join(f"{outcome:>10}" for outcome in outcomes))
    for what in sorted({what for what, _ in counts}):
        print(f"{what:28}" + "".join(f"{counts[what, outcome]:>10}" for outcome in outcomes))
    total = sum(each[0] for each in found)
    print(
        f"{'in all':28}"
        + "".join(f"{sum(n for (_, o), n in counts.items() if o == x):>10}" for x in outcomes)
    )
    print(
        f"{total} files in {seconds:.0f} s ({total / seconds:.0f} a second); the slowest took "
        f"{max(each[3] for each in found):.3f} s of its thread; "
        f"{sum(each[6] for each in found)} traced: at most "
        f"{max(each[4] for each in found):.0f} × the file's size, beyond 2 × and {ALLOWANCE} bytes at most "
        f"{max(each[5] for each in found):.1f} a byte of the header"
    )
    for key, number in findings.most_common():
        print(f"{number:>8} × {key!a}")
    return not findings


def run(options):
    begin, share = time.monotonic(), options.files
    options.files = -(-share // options.workers)
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    workers = [context.Process(target=work, args=(n, options, results)) for n in range(options.workers)]
    for worker in workers:
        worker.start()
    found = []
    while len(found) < len(workers):
        try:
            found.append(results.get(timeout=1))
        except Exception:  # queue.Empty: perhaps a worker is gone
            died = [w for w in workers if w.exitcode not in (None, 0)]
            if died:
                sys.exit(f"a worker ended with {died[0].exitcode} at {options.folder}/file-{died[0].pid}")
    return report(found, time.monotonic() - begin)


def guided(options):
    """The same by coverage: libFuzzer chooses what to mutate on."""
    limit()
    oracle = Oracle(options.folder, options.keep)
    corpus = tempfile.mkdtemp(dir=options.folder)
    for number, data in enumerate(oracle.seeds.values()):
        Path(corpus, str(number)).write_bytes(data)
    begin, index = time.monotonic(), 0

    def mutate(data, largest, seed):
        rng = random.Random(seed)
        other = oracle.seeds[rng.choice(oracle.names)]
        try:
            changed = rng.choice(MUTATORS)(rng, data, other)
        except Exception:  # no longer a file that can be taken apart
            changed = atheris.Mutate(data, largest)
        return changed[:largest]

    def once(data):
        nonlocal index
        index += 1
        name = oracle.names[0]
        oracle.judge("guided", name, data, traced=index % 10 == 0)
        if index % 10 == 0:
            oracle.judge("guided", name, data, resumed=True)
        if index % 20_000 == 0 or time.monotonic() - begin > options.seconds:
            one = (
                index,
                oracle.counts,
                oracle.findings,
                oracle.slowest,
                oracle.largest,
                oracle.beyond,
                oracle.traced,
            )
            good = report([one], time.monotonic() - begin)
            sys.stdout.flush()
            if time.monotonic() - begin > options.seconds:
                os._exit(0 if good else 1)

    arguments = [
        sys.argv[0],
        corpus,
        f"-seed={options.seed + 1}",
        "-max_len=60000",
        "-print_final_stats=1",
        "-rss_limit_mb=0",
    ]
    atheris.Setup(arguments, once, custom_mutator=mutate)
    atheris.Fuzz()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=10**9)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--guided", action="store_true", help="by coverage, with atheris")
    parser.add_argument("--keep", help="a folder for the files of findings")
    options = parser.parse_args()
    options.folder = folder()
    if options.guided:
        guided(options)
    sys.exit(0 if run(options) else 1)


if __name__ == "__main__":
    main()
