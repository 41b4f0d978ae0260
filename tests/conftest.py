"""What the tests share: the two backends, networks and valid targets for every loss."""

import importlib
from pathlib import Path

import numpy as np
import pytest

import bpfast as bp
from bpfast.losses import resolve_loss

BACKENDS = ("native", "reference")
TESTS = Path(__file__).parent
#: Folders whose tests do not train in threads, or do so with every number of threads already.
NOT_THREADS = {"data", "gallery", "onnx", "plotting", "report", "sklearn", "typing"}
#: Words in the names of other such files.
NOT_THREADS_FILES = ("benchmarks", "check_size", "documentation", "evaluation", "fuzz", "readme", "tiles")
#: Words in the names of tests, or of their files, that need an optional package. The first run of `.ci/run`
#: lacks it, so that the run with one thread includes them.
OPTIONAL = ("skl2onnx", "pytorch", "exchange")
#: Folders, and words in the names of files, whose tests run native code.
ISA = {"engine", "native", "reference"}
ISA_FILES = ("spars",)
#: Words in the names of files that do so with every instruction set already, or whose subject the stacks of
#: the layers' tests include.
NOT_ISA_FILES = ("dropout", "tiles", "vmath")
#: Words in the names of files in `native` that a build without OpenMP need not run.
NOT_SERIAL_FILES = ("kernels", "speed", "tiles", "vmath")


def pytest_addoption(parser):
    parser.addoption("--kills", type=int, default=6, help="how often the training of a test is killed (6)")


def _has(name, words):
    return any(word in name for word in words)


def _markers(folders, file, test):
    """The markers of a test by its place: which runs of `.ci/run` repeat it."""
    # Fifty steps take minutes in NumPy, and other tests compare numbers of threads.
    once = folders & NOT_THREADS or _has(file, NOT_THREADS_FILES) or "fifty" in test
    if not once or _has(f"{file} {test}", OPTIONAL):
        yield "threads"
    if (folders & ISA or _has(file, ISA_FILES)) and not _has(file, NOT_ISA_FILES):
        yield "isa"
    if "native" in folders and not _has(file, NOT_SERIAL_FILES):
        yield "serial"
    if "training" in folders and "learning" in file:
        yield "serial"


def pytest_collection_modifyitems(items):
    """Set the markers that `pyproject.toml` declares."""
    for item in items:
        if item.path.is_relative_to(TESTS):
            *folders, _ = item.path.relative_to(TESTS).parts
            for marker in _markers(set(folders), item.path.stem, item.name):
                item.add_marker(marker)


@pytest.fixture(params=BACKENDS)
def backend(request):
    """Every test that asks for it runs once with each engine."""
    return request.param


@pytest.fixture
def kernels(backend):
    """The plain functions of the backend: dense_forward, loss_and_delta, ..."""
    return importlib.import_module("bpfast.kernels" if backend == "native" else "bpfast.reference")


@pytest.fixture
def rng():
    return np.random.default_rng(20240607)


@pytest.fixture
def build(backend):
    """build((3, 4, 2), "tanh", ...): a dense network of these widths with biases that are not 0."""

    def build(
        widths=(3, 4, 2), activation="tanh", loss="squared_error", *, output="identity", bias=True, **options
    ):
        options = {"dtype": "float64", "seed": 1, "backend": backend, **options}
        last = len(widths) - 2
        layers = [
            bp.Dense(
                width,
                output if index == last else activation,
                bias_initializer=bp.XavierUniform(),
                bias=bias,
            )
            for index, width in enumerate(widths[1:])
        ]
        return bp.Network(layers, n_inputs=widths[0], loss=loss, **options)

    return build


def _targets(loss, n_rows, n_outputs, rng):
    kind = resolve_loss(loss).targets
    if kind == "classes":
        return rng.integers(0, n_outputs, n_rows)
    shape = (n_rows, n_outputs)
    if kind == "probabilities":
        return rng.integers(0, 2, shape).astype(float)
    if kind == "signs":
        return rng.choice([-1.0, 1.0], shape)
    if kind == "counts":
        return rng.poisson(2.0, shape).astype(float)
    assert kind == "values", f"no targets for a loss of {kind}: add them here"
    return rng.normal(size=shape)


@pytest.fixture
def make_targets():
    """make_targets(loss, n_rows, n_outputs, rng): targets that the loss takes."""
    return _targets


def _error(array, expected):
    array, expected = np.asarray(array, dtype=float), np.asarray(expected, dtype=float)
    assert array.shape == expected.shape, f"shapes {array.shape} and {expected.shape}"
    scale = np.abs(expected).max()
    return float(np.abs(array - expected).max() / (scale if scale > 0 else 1.0))


@pytest.fixture
def error():
    """error(a, r) = max |a - r| / max |r|, with equal shapes."""
    return _error


@pytest.fixture
def bytes_of():
    """The bytes of all parameters of a network."""
    return lambda net: {name: array.tobytes() for name, array in net.parameters.items()}


@pytest.fixture
def copy_parameters():
    """copy_parameters(source, target)."""

    def copy(source, target):
        for name, array in source.parameters.items():
            target.parameters[name][...] = array

    return copy
