"""Activations and dense layers, against scalar arithmetic and central differences."""

import math

import numpy as np
import pytest
from scipy import special

import bpfast as bp
from bpfast.activations import activations

EPS = {"float32": 1.2e-7, "float64": 2.3e-16}


def sigmoid(z):
    return 1 / (1 + math.exp(-z)) if z >= 0 else math.exp(z) / (1 + math.exp(z))


def softplus(z):
    return max(z, 0.0) + math.log1p(math.exp(-abs(z)))


def normal_cdf(z):
    return 0.5 * math.erfc(-z / math.sqrt(2))


def normal_density(z):
    return math.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)


LAMBDA, ALPHA = 1.0507009873554804934, 1.6732632423543772848
#: specification → f, f', where f' jumps.
ACTIVATIONS = {
    bp.Identity(): (lambda z: z, lambda z: 1.0),
    bp.Sigmoid(): (sigmoid, lambda z: sigmoid(z) * sigmoid(-z)),
    bp.Tanh(): (math.tanh, lambda z: 1 / math.cosh(z) ** 2),
    bp.ReLU(): (lambda z: max(0.0, z), lambda z: 1.0 if z > 0 else 0.0),
    bp.LeakyReLU(): (lambda z: z if z > 0 else 0.01 * z, lambda z: 1.0 if z > 0 else 0.01),
    bp.LeakyReLU(0.3): (lambda z: z if z > 0 else 0.3 * z, lambda z: 1.0 if z > 0 else 0.3),
    bp.ELU(): (lambda z: z if z > 0 else math.expm1(z), lambda z: 1.0 if z > 0 else math.exp(z)),
    bp.ELU(0.4): (
        lambda z: z if z > 0 else 0.4 * math.expm1(z),
        lambda z: 1.0 if z > 0 else 0.4 * math.exp(z),
    ),
    bp.SELU(): (
        lambda z: LAMBDA * (z if z > 0 else ALPHA * math.expm1(z)),
        lambda z: LAMBDA * (1.0 if z > 0 else ALPHA * math.exp(z)),
    ),
    bp.GELU(): (lambda z: z * normal_cdf(z), lambda z: normal_cdf(z) + z * normal_density(z)),
    bp.SiLU(): (
        lambda z: z * sigmoid(z),
        lambda z: sigmoid(z) + z * sigmoid(z) * sigmoid(-z),
    ),
    bp.Softplus(): (softplus, sigmoid),
}
over_activations = pytest.mark.parametrize("spec", ACTIVATIONS, ids=str)
over_dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])


def apply(kernels, spec, Z):
    """f(Z) through dense_forward with W = 1."""
    return kernels.dense_forward(Z.reshape(-1, 1), np.ones((1, 1), Z.dtype), None, spec).reshape(-1)


def scalars(function, *arrays):
    """Apply a function to each element with Python floats."""
    return np.array([function(*map(float, values)) for values in zip(*arrays, strict=True)])


def test_every_activation_is_tested():
    assert {spec.name for spec in ACTIVATIONS} == set(activations)


@over_activations
@over_dtypes
@pytest.mark.parametrize("reach", [0.01, 1.0, 8.0, 40.0])
def test_activation_and_derivative(kernels, error, spec, dtype, reach):
    Z = np.linspace(-reach, reach, 401).astype(dtype)
    f, slope = ACTIVATIONS[spec]
    A = apply(kernels, spec, Z)
    assert A.dtype == dtype
    assert error(A, scalars(f, Z)) <= 8 * EPS[dtype]
    F = kernels.activation_derivative(Z, spec)
    assert F.dtype == dtype
    assert error(F, scalars(slope, Z)) <= 8 * EPS[dtype]


@over_activations
def test_derivative_by_differences(kernels, error, spec):
    Z = np.linspace(-7.03, 7.01, 300)  # no point within h of 0, where some jump
    h = 1e-5
    slope = (apply(kernels, spec, Z + h) - apply(kernels, spec, Z - h)) / (2 * h)
    assert error(kernels.activation_derivative(Z, spec), slope) <= 1e-9


@pytest.mark.parametrize(
    ("spec", "slope"),
    [(bp.ReLU(), 0.0), (bp.LeakyReLU(0.3), 0.3), (bp.ELU(0.4), 0.4), (bp.SELU(), LAMBDA * ALPHA)],
    ids=str,
)
def test_derivative_at_zero_is_the_left_derivative(kernels, spec, slope):
    for zero in (0.0, -0.0):
        assert kernels.activation_derivative(np.array([zero]), spec)[0] == pytest.approx(slope, rel=1e-15)


@pytest.mark.parametrize(
    ("spec", "low", "high", "low_slope", "high_slope"),
    [
        (bp.Sigmoid(), 0.0, 1.0, 0.0, 0.0),
        (bp.Tanh(), -1.0, 1.0, 0.0, 0.0),
        (bp.ReLU(), 0.0, 1e4, 0.0, 1.0),
        (bp.ELU(), -1.0, 1e4, 0.0, 1.0),
        (bp.SELU(), -LAMBDA * ALPHA, LAMBDA * 1e4, 0.0, LAMBDA),
        (bp.GELU(), 0.0, 1e4, 0.0, 1.0),
        (bp.SiLU(), 0.0, 1e4, 0.0, 1.0),
        (bp.Softplus(), 0.0, 1e4, 0.0, 1.0),
    ],
    ids=lambda value: value.name if hasattr(value, "name") else None,
)
@over_dtypes
def test_activation_far_out(kernels, spec, low, high, low_slope, high_slope, dtype):
    Z = np.array([-1e4, 1e4], dtype)
    close = {"rel": 2 * EPS[dtype], "abs": 0.0}
    assert apply(kernels, spec, Z).tolist() == pytest.approx([low, high], **close)
    slopes = kernels.activation_derivative(Z, spec).tolist()
    assert slopes == pytest.approx([low_slope, high_slope], **close)


TAILS = {"float64": [-700.0, -300.5, -100.0, -40.0, -37.0], "float32": [-80.0, -40.5, -20.0, -17.0]}


@over_dtypes
@pytest.mark.parametrize(
    ("name", "f", "slope"),
    [("sigmoid", sigmoid, lambda z: sigmoid(z) * sigmoid(-z)), ("softplus", softplus, sigmoid)],
)
def test_tails_keep_relative_accuracy(kernels, dtype, name, f, slope):
    Z = np.array(TAILS[dtype], dtype)
    values, slopes = apply(kernels, name, Z), kernels.activation_derivative(Z, name)
    assert (values > 0).all()
    assert (slopes > 0).all()
    assert np.abs(values / scalars(f, Z) - 1).max() <= 8 * EPS[dtype]
    assert np.abs(slopes / scalars(slope, Z) - 1).max() <= 8 * EPS[dtype]
    mirrored = kernels.activation_derivative(-Z, "sigmoid")
    assert np.abs(mirrored / scalars(lambda z: sigmoid(z) * sigmoid(-z), Z) - 1).max() <= 8 * EPS[dtype]


def test_sigmoid_agrees_with_scipy(kernels, error):
    Z = np.linspace(-30, 30, 500)
    assert np.abs(apply(kernels, "sigmoid", Z) / special.expit(Z) - 1).max() <= 8 * EPS["float64"]
    assert error(apply(kernels, "gelu", Z), Z * special.ndtr(Z)) <= 8 * EPS["float64"]


@over_dtypes
@pytest.mark.parametrize("with_bias", [True, False])
def test_dense_forward_by_loops(kernels, error, rng, dtype, with_bias):
    X, W, b = (rng.normal(size=s).astype(dtype) for s in ((5, 3), (3, 4), (4,)))
    A = kernels.dense_forward(X, W, b if with_bias else None, "sigmoid")
    expected = [
        [
            sigmoid(math.fsum(float(X[r, i]) * float(W[i, o]) for i in range(3)) + with_bias * float(b[o]))
            for o in range(4)
        ]
        for r in range(5)
    ]
    assert A.dtype == dtype
    assert error(A, expected) <= 8 * EPS[dtype]


@over_dtypes
def test_propagate_delta_by_loops(kernels, error, rng, dtype):
    D, W, Z = (rng.normal(size=s).astype(dtype) for s in ((5, 4), (3, 4), (5, 3)))
    D_prev = kernels.propagate_delta(D, W, Z, "tanh")
    expected = [
        [
            math.fsum(float(D[r, o]) * float(W[i, o]) for o in range(4)) / math.cosh(float(Z[r, i])) ** 2
            for i in range(3)
        ]
        for r in range(5)
    ]
    assert D_prev.dtype == dtype
    assert error(D_prev, expected) <= 8 * EPS[dtype]


@over_dtypes
def test_weight_gradient_by_loops(kernels, error, rng, dtype):
    A, D = rng.normal(size=(5, 3)).astype(dtype), rng.normal(size=(5, 4)).astype(dtype)
    dW, db = kernels.weight_gradient(A, D)
    expected = [
        [math.fsum(float(A[r, i]) * float(D[r, o]) for r in range(5)) for o in range(4)] for i in range(3)
    ]
    assert error(dW, expected) <= 8 * EPS[dtype]
    assert error(db, [math.fsum(map(float, D[:, o])) for o in range(4)]) <= 8 * EPS[dtype]
    assert dW.dtype == db.dtype == dtype
