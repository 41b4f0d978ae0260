"""Each kernel and its NumPy counterpart: `pytest benchmarks/bench_kernels.py --benchmark-only`."""

import numpy as np
import pytest

from bpfast import kernels, reference

SHAPES = {"T2": (200, 64, 100), "T3": (32, 784, 128), "T4": (256, 200, 200), "1024": (1024, 1024, 1024)}
MODULES = {"native": kernels, "reference": reference}


@pytest.fixture(params=list(MODULES))
def module(request):
    return MODULES[request.param]


@pytest.fixture(params=["float32", "float64"])
def arrays(request, shape):
    B, I, O = SHAPES[shape]
    rng = np.random.default_rng(0)
    sizes = {"X": (B, I), "W": (I, O), "b": (O,), "D": (B, O)}
    return {name: rng.standard_normal(size).astype(request.param) for name, size in sizes.items()}


def run(benchmark, module, function, *arguments):
    """Run on one thread; for NumPy's BLAS, set OPENBLAS_NUM_THREADS=1."""
    options = {"threads": 1} if module is kernels else {}
    benchmark.group = f"{function} {arguments[0].dtype} {[a.shape for a in arguments if hasattr(a, 'shape')]}"
    benchmark(getattr(module, function), *arguments, **options)


@pytest.mark.parametrize("shape", list(SHAPES))
def bench_dense_forward(benchmark, module, arrays, shape):
    run(benchmark, module, "dense_forward", arrays["X"], arrays["W"], arrays["b"], "relu")


@pytest.mark.parametrize("shape", list(SHAPES))
def bench_activation_derivative(benchmark, module, arrays, shape):
    run(benchmark, module, "activation_derivative", arrays["D"], "sigmoid")


@pytest.mark.parametrize("shape", list(SHAPES))
def bench_propagate_delta(benchmark, module, arrays, shape):
    run(benchmark, module, "propagate_delta", arrays["D"], arrays["W"], arrays["X"], "relu")


@pytest.mark.parametrize("shape", list(SHAPES))
def bench_weight_gradient(benchmark, module, arrays, shape):
    run(benchmark, module, "weight_gradient", arrays["X"], arrays["D"])


@pytest.mark.parametrize("shape", list(SHAPES))
def bench_loss_and_delta(benchmark, module, arrays, shape):
    Z = arrays["D"]
    Y = np.arange(len(Z)) % Z.shape[1]
    options = {"threads": 1} if module is kernels else {}
    benchmark.group = f"cross_entropy {Z.dtype} {Z.shape}"
    benchmark(module.loss_and_delta, "cross_entropy", Y, Z, **options)
