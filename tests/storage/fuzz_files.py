"""Fuzz `bpfast.load` and ``fit(resume=)`` with mutated model files; not collected as a test.

    python tests/storage/fuzz_files.py --files 1000000 --workers 2 --seed 0    # structured mutations
    python tests/storage/fuzz_files.py --guided --seconds 600    # guided by coverage: pip install atheris

A file must load, or raise a one-line ValueError that names it, within a second and within memory of twice
its size plus that of the Python objects (`ALLOWANCE`, `PER_BYTE`). A mutated file that loads must have the
content of the original or a new valid checksum; then the network must predict, and be restored from a file
saved from it. Anything else is a finding: it is printed, and its file is kept (``--keep``).
"""

import argparse
import collections
import importlib.util
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

    INSTRUMENTED = [
        f"bpfast.{name}"
        for name in (
            "storage",
            "training.checkpoint",
            "training.resume",
            "specs",
            "engine.program",
        )
    ]
    with atheris.instrument_imports(include=INSTRUMENTED):
        import bpfast as bp
        from bpfast.storage import model_file
else:
    import bpfast as bp
    from bpfast.storage import model_file

_spec = importlib.util.spec_from_file_location(
    "file_mutations", Path(__file__).with_name("file_mutations.py")
)
mutations = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(mutations)
MUTATORS = mutations.MUTATORS

#: Bytes that a load may allocate beyond twice the file: a constant, and per byte of its header, whose layers
#: become Python objects (the 19 bytes of ``{"name": "dropout"}`` become 1,600).
ALLOWANCE, PER_BYTE = 2**18, 96
#: Limits: bytes of a message, besides the name of the file; seconds of a load; address space of a worker.
LONGEST, SECONDS, SPACE = 1000, 1.0, 4 * 2**30
KEPT = Path(__file__).parent / "models"
DATA = np.random.default_rng(0).normal(size=(24, 5)), np.arange(24) % 3


class InterruptAfter(bp.Callback):
    """Raises KeyboardInterrupt after a number of batches."""

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
    """Return the bytes of a file of every kind, by name."""
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
    for number in range(1, model_file.FORMAT + 1):
        result[f"format {number}"] = (KEPT / f"model-format-{number}.safetensors").read_bytes()
    train(trained_network(), bp.Checkpoint(path))
    result["checkpoint"] = Path(path).read_bytes()
    try:
        train(trained_network(), bp.Checkpoint(path, batches=1), InterruptAfter(7))
    except KeyboardInterrupt:
        result["checkpoint within an epoch"] = Path(path).read_bytes()
    return result


class FindingError(Exception):
    """A load did something that it must not do."""


def content(path):
    """Return the header and tensors of a bpfast file."""
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        header = json.loads(file.metadata()["bpfast"])
    return json.dumps(header), {n: (a.dtype.str, a.shape, a.tobytes()) for n, a in tensors.items()}


def require_refusal(error, path):
    if type(error) not in (ValueError, model_file.AdvisedError):
        raise FindingError(f"{type(error).__name__}: {str(error)[:300]}") from error
    text = str(error)
    if not text.isprintable():
        raise FindingError(f"a message that is not one printable line: {text[:300]!a}")
    if len(text) > LONGEST + len(path):
        raise FindingError(f"a message of {len(text)} characters: {text[len(path) :][:200]!a}")
    if os.path.basename(path) not in text:
        raise FindingError(f"a message without the file's name: {text[:300]!a}")


class Oracle:
    """Loads files one by one, judges the outcome and counts.

    Attributes
    ----------
    folder : path
        Folder in which the files are written.
    counts : Counter of (mutator, outcome)
    slowest, largest, beyond : float
        Maximum seconds of a load; maximum of the peak memory divided by the file's size; maximum bytes
        beyond twice the file and the constant allowance, per byte of the header.
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
        """Return a mutator, the name of the seed, and the mutated data."""
        mutator, name = rng.choice(MUTATORS), rng.choice(self.names)
        if mutator is mutations.resigned_training and rng.random() < 0.9:
            name = rng.choice(self.checkpoints)
        data, other = self.seeds[name], self.seeds[rng.choice(self.names)]
        try:
            changed = mutator(rng, data, other)
        except Exception:  # The mutation cannot be written, or the value to mutate no longer exists.
            mutator, changed = mutations.flips, mutations.flips(rng, data, other)
        if changed and rng.random() < 0.03:
            changed = mutations.flips(rng, changed, other)
        return mutator, name, changed

    def judge(self, what, name, data, traced=False, resumed=False):
        """Load a file and return the outcome; keep the file of a finding."""
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
        """Return the result and the error of a call, which must end in time."""
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
            return "unchanged"
        unsigned = "sha256" not in json.loads(now[0])  # Format 1 has no checksum.
        if not (unsigned or resigned or now in self.contents.values()):
            raise FindingError("other content without a new checksum")
        self._use(network)
        return "loaded"

    def _use(self, network):
        """A loaded network must predict, and be restored from a file saved from it."""
        try:
            if network.n_inputs <= 10_000:
                network.predict(np.ones((2, network.n_inputs), network.dtype))
            second = self.path + ".saved"
            network.save(second)
            copy = bp.load(second, threads=1)
            repr(network.layers)
        except Exception as error:
            raise FindingError(f"loaded, then {type(error).__name__}: {str(error)[:300]}") from error
        same = (copy.layers, copy.seed, copy.epochs, copy.metadata, copy._state.flat.tobytes()) == (
            network.layers, network.seed, network.epochs, network.metadata, network._state.flat.tobytes()
        )  # fmt: skip
        if not same:
            raise FindingError("loaded, but differs after saving")

    def _resume(self, data):
        network = trained_network()
        before = network._state.flat.tobytes(), network.seed, network.epochs, network._state.steps
        _, error = self._timed(lambda: train(network, resume=self.path))
        if error is None:
            return "resumed"
        if isinstance(error, FloatingPointError):  # Mutated weights with a new checksum.
            return "diverged"
        require_refusal(error, self.path)
        if before != (network._state.flat.tobytes(), network.seed, network.epochs, network._state.steps):
            raise FindingError(f"refused, but the network has changed: {error}")
        return "refused"

    def one(self, rng, index):
        """Judge one mutated file."""
        mutator, name, data = self.mutate(rng)
        self.judge(mutator.__name__, name, data, traced=index % 10 == 0 or len(data) > 20_000)
        if name in self.checkpoints and index % 8 == 0:
            self.judge(mutator.__name__, name, data, resumed=True)


def folder():
    return tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)


def limit():
    """Turn warnings into errors, and limit the address space."""
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
        f"{total} files in {seconds:.0f} s ({total / seconds:.0f} per second); the slowest took "
        f"{max(each[3] for each in found):.3f} s of CPU time; "
        f"{sum(each[6] for each in found)} traced: at most "
        f"{max(each[4] for each in found):.0f} × the file's size; beyond 2 × and {ALLOWANCE} bytes, at most "
        f"{max(each[5] for each in found):.1f} per byte of the header"
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
        except Exception:  # queue.Empty: a worker may have died.
            died = [w for w in workers if w.exitcode not in (None, 0)]
            if died:
                sys.exit(f"a worker ended with {died[0].exitcode} at {options.folder}/file-{died[0].pid}")
    return report(found, time.monotonic() - begin)


def guided(options):
    """Fuzz guided by coverage: libFuzzer chooses the files to mutate further."""
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
        except Exception:  # The file can no longer be parsed.
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
    parser.add_argument("--guided", action="store_true", help="guided by coverage, with atheris")
    parser.add_argument("--keep", help="folder for the files of findings")
    options = parser.parse_args()
    options.folder = folder()
    if options.guided:
        guided(options)
    sys.exit(0 if run(options) else 1)


if __name__ == "__main__":
    main()
