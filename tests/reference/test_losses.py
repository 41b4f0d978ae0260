"""Losses, against scalar arithmetic and central differences."""

import math

import numpy as np
import pytest

import bpfast as bp
from bpfast.losses import losses

EPS = {"float32": 1.2e-7, "float64": 2.3e-16}


def sigmoid(z):
    return 1 / (1 + math.exp(-z)) if z >= 0 else math.exp(z) / (1 + math.exp(z))


def softplus(z):
    return max(z, 0.0) + math.log1p(math.exp(-abs(z)))


over_dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])


def huber(threshold):
    def value(y, z):
        r = abs(z - y)
        return 0.5 * r * r if r <= threshold else threshold * (r - 0.5 * threshold)

    def slope(y, z):
        return max(-threshold, min(threshold, z - y))

    return value, slope


def quantile(q):
    return (
        lambda y, z: q * (y - z) if y > z else (1 - q) * (z - y),
        lambda y, z: -q if y > z else (1 - q if y < z else 0.0),
    )


#: specification → L(y, z), ∂L/∂z for one row and output.
POINTWISE = {
    bp.SquaredError(): (lambda y, z: (z - y) ** 2, lambda y, z: 2 * (z - y)),
    bp.AbsoluteError(): (lambda y, z: abs(z - y), lambda y, z: math.copysign(1.0, z - y)),
    bp.LogLoss(): (
        lambda y, z: -(y * -softplus(-z) + (1 - y) * -softplus(z)),
        lambda y, z: sigmoid(z) - y,
    ),
    bp.LogLoss(cap=0.7): (
        lambda y, z: min(0.7, -(y * -softplus(-z) + (1 - y) * -softplus(z))),
        lambda y, z: sigmoid(z) - y,
    ),
    bp.Exponential(): (lambda y, z: math.exp(-y * z), lambda y, z: -y * math.exp(-y * z)),
    bp.Hinge(): (lambda y, z: max(0.0, 1 - y * z), lambda y, z: -y if y * z < 1 else 0.0),
    bp.Huber(): huber(1.0),
    bp.Huber(0.3): huber(0.3),
    bp.Quantile(): quantile(0.5),
    bp.Quantile(0.9): quantile(0.9),
    bp.Poisson(): (lambda y, z: math.exp(z) - y * z, lambda y, z: math.exp(z) - y),
}


def log_softmax(row):
    top = max(row)
    total = top + math.log(math.fsum(math.exp(z - top) for z in row))
    return [z - total for z in row]


def row_loss(spec, y, z):
    """The loss of one row: the mean over its outputs, or cross-entropy."""
    if spec.name == "cross_entropy":
        shares = y if isinstance(y, list) else [float(o == y) for o in range(len(z))]
        loss = -math.fsum(p * log for p, log in zip(shares, log_softmax(z), strict=True))
        return loss if spec.cap is None else min(loss, spec.cap)
    value = POINTWISE[spec][0]
    return math.fsum(value(a, b) for a, b in zip(y, z, strict=True)) / len(z)


def row_delta(spec, y, z):
    if spec.name == "cross_entropy":
        shares = y if isinstance(y, list) else [float(o == y) for o in range(len(z))]
        return [math.exp(log) - p for p, log in zip(shares, log_softmax(z), strict=True)]
    return [POINTWISE[spec][1](a, b) / len(z) for a, b in zip(y, z, strict=True)]


LOSSES = [*POINTWISE, bp.CrossEntropy(), bp.CrossEntropy(cap=0.9)]
over_losses = pytest.mark.parametrize("spec", LOSSES, ids=str)
over_weights = pytest.mark.parametrize("weights", [None, [0.5, 0.0, 2.0, 1.0, 0.25, 3.0, 0.0]])


def test_every_loss_is_tested():
    assert {spec.name for spec in LOSSES} == set(losses)


def soft_targets(rng, rows, outputs):
    return rng.dirichlet(np.ones(outputs), rows)


@over_losses
@over_weights
@over_dtypes
@pytest.mark.parametrize("targets", ["hard", "soft"])
def test_loss_and_delta_by_loops(kernels, error, rng, make_targets, spec, weights, dtype, targets):
    rows, outputs = 7, 3
    Z = (2 * rng.normal(size=(rows, outputs))).astype(dtype)
    Y = make_targets(spec, rows, outputs, rng)
    if targets == "soft" and spec.targets == "classes":
        Y = soft_targets(rng, rows, outputs).astype(dtype)
    elif targets == "soft" and spec.targets == "probabilities":
        Y = rng.random((rows, outputs)).astype(dtype)
    elif Y.dtype.kind == "f":
        Y = Y.astype(dtype)
    w = [1.0] * rows if weights is None else weights
    value, D = kernels.loss_and_delta(spec, Y, Z, sample_weight=weights)
    total = math.fsum(w)
    expected = math.fsum(w[r] * row_loss(spec, Y[r].tolist(), Z[r].tolist()) for r in range(rows)) / total
    expected_D = [
        [w[r] * d / total for d in row_delta(spec, Y[r].tolist(), Z[r].tolist())] for r in range(rows)
    ]
    assert type(value) is float
    assert D.dtype == dtype
    assert value == pytest.approx(expected, rel=16 * EPS[dtype], abs=0)
    assert error(D, expected_D) <= 16 * EPS[dtype]


# The gradient of a capped loss has no cap.
@pytest.mark.parametrize("spec", [spec for spec in LOSSES if getattr(spec, "cap", None) is None], ids=str)
@over_weights
def test_delta_by_differences(kernels, error, rng, make_targets, spec, weights):
    rows, outputs, h = 7, 3, 1e-5
    Z, Y = rng.normal(size=(rows, outputs)), make_targets(spec, rows, outputs, rng)
    slopes = np.empty_like(Z)
    for place in np.ndindex(Z.shape):
        sides = []
        for side in (h, -h):
            moved = Z.copy()
            moved[place] += side
            sides.append(kernels.loss_and_delta(spec, Y, moved, sample_weight=weights)[0])
        slopes[place] = (sides[0] - sides[1]) / (2 * h)
    D = kernels.loss_and_delta(spec, Y, Z, sample_weight=weights)[1]
    assert error(D, slopes) <= 1e-8


def test_delta_where_the_gradient_jumps(kernels):
    Z = np.array([[1.0], [-1.0], [0.5]])
    assert kernels.loss_and_delta("absolute_error", Z, Z)[1].tolist() == [[0.0]] * 3
    assert kernels.loss_and_delta("hinge", np.ones((1, 1)), np.ones((1, 1)))[1].tolist() == [[0.0]]


def test_one_column_of_targets_in_one_dimension(kernels):
    Z, y = np.array([[0.5], [2.0]]), np.array([1.0, -1.0])
    flat, column = kernels.loss_and_delta("huber", y, Z), kernels.loss_and_delta("huber", y[:, None], Z)
    assert flat[0] == column[0]
    assert (flat[1] == column[1]).all()


@over_dtypes
@pytest.mark.parametrize(
    ("y", "expected", "delta"),
    [
        (0, 0.0, [0.0, 0.0, 0.0]),
        (1, 2e4, [1.0, -1.0, 0.0]),
        (2, 1e4, [1.0, 0.0, -1.0]),
        ([0.5, 0.5, 0.0], 1e4, [0.5, -0.5, 0.0]),
        ([0.0, 0.25, 0.75], 1.25e4, [1.0, -0.25, -0.75]),
    ],
)
def test_cross_entropy_far_out(kernels, dtype, y, expected, delta):
    value, D = kernels.loss_and_delta("cross_entropy", np.array([y]), np.array([[1e4, -1e4, 0.0]], dtype))
    assert value == expected
    assert D.tolist() == [delta]


@over_dtypes
@pytest.mark.parametrize(
    ("y", "z", "expected", "delta"),
    [
        (1.0, 1e4, 0.0, 0.0),
        (0.0, 1e4, 1e4, 1.0),
        (1.0, -1e4, 1e4, -1.0),
        (0.0, -1e4, 0.0, 0.0),
        (0.25, 1e4, 7500.0, 0.75),
        (0.25, -1e4, 2500.0, -0.25),
    ],
)
def test_log_loss_far_out(kernels, dtype, y, z, expected, delta):
    value, D = kernels.loss_and_delta("log_loss", np.array([[y]], dtype), np.array([[z]], dtype))
    assert value == expected
    assert D.tolist() == [[delta]]


@pytest.mark.parametrize(("dtype", "z"), [("float32", 12.0), ("float64", 12.0), ("float64", 30.0)])
@pytest.mark.parametrize("y", [0.0, 1.0])
def test_log_loss_of_a_confident_row_keeps_relative_accuracy(kernels, dtype, z, y):
    """-log sigmoid(z) is exp(-z) for large z: softplus(z) - z would lose accuracy."""
    Z = np.array([[z if y else -z]], dtype)
    value, _ = kernels.loss_and_delta("log_loss", np.array([[y]], dtype), Z)
    assert value == pytest.approx(math.log1p(math.exp(-z)), rel=8 * EPS[dtype], abs=0)


@over_dtypes
def test_links_far_out(backend, dtype):
    X = np.array([[1e4, -1e4, 0.0], [-1e4, 0.0, -1e4]])
    expected = {
        "cross_entropy": [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]],
        "log_loss": [[1.0, 0.0, 0.5], [0.0, 0.5, 0.0]],
        "squared_error": X.tolist(),
    }
    for loss, values in expected.items():
        net = bp.Network([bp.Dense(3)], n_inputs=3, loss=loss, dtype=dtype, backend=backend)
        net.parameters["0.W"][...] = np.eye(3)
        assert net.predict(X).tolist() == values


CAPS = [("float32", 80.0), ("float64", 700.0)]


@pytest.mark.parametrize(("dtype", "cap"), CAPS)
@pytest.mark.parametrize(
    ("name", "y", "sign"), [("exponential", 1.0, -1), ("exponential", -1.0, 1), ("poisson", 2.0, 1)]
)
class TestCap:
    def test_below(self, kernels, dtype, cap, name, y, sign):
        z = sign * (cap - 1)
        value, D = kernels.loss_and_delta(name, np.array([[y]], dtype), np.array([[z]], dtype))
        top = math.exp(cap - 1)
        exact = (top - y * z, top - y) if name == "poisson" else (top, -y * top)
        # exp(z) magnifies the rounding of its argument, but z is exact here.
        assert value == pytest.approx(exact[0], rel=16 * EPS[dtype], abs=0)
        assert float(D[0, 0]) == pytest.approx(exact[1], rel=16 * EPS[dtype], abs=0)

    @pytest.mark.parametrize("beyond", [0.0, 1.0, 1e4])
    def test_reached(self, kernels, dtype, cap, name, y, sign, beyond):
        Y, Z = np.array([[y], [1.0]], dtype), np.array([[sign * (cap + beyond)], [0.0]], dtype)
        text = (
            rf"{name}: the exponent reached the cap of {cap:g} for {dtype}.*largest \|Z\| is {cap + beyond:g}"
        )
        with pytest.raises(FloatingPointError, match=text):
            kernels.loss_and_delta(name, Y, Z)

    def test_a_row_without_weight_does_not_count(self, kernels, dtype, cap, name, y, sign):
        Y, Z = np.array([[y], [1.0]], dtype), np.array([[sign * (cap + 5)], [0.0]], dtype)
        value, D = kernels.loss_and_delta(name, Y, Z, sample_weight=[0.0, 2.0])
        assert value == 1.0
        assert D.tolist() == [[0.0], [0.0 if name == "poisson" else -1.0]]

    def test_in_a_network(self, backend, dtype, cap, name, y, sign):
        net = bp.Network([bp.Dense(1)], n_inputs=1, loss=name, dtype=dtype, backend=backend)
        net.parameters["0.W"][...] = 1.0
        X, Y = [[sign * (cap + 1)]], [[y]]
        for call in (net.loss, net.gradients):
            with pytest.raises(FloatingPointError, match=rf"{name}: the exponent reached the cap"):
                call(X, Y)
        before = net.parameters["0.W"].tobytes()
        with pytest.raises(FloatingPointError, match=rf"epoch 0, batch 0.*exponent of the {name} loss"):
            net.fit(X, Y, epochs=1)
        assert net.parameters["0.W"].tobytes() == before


@over_dtypes
@pytest.mark.parametrize(("name", "y", "z"), [("exponential", 1.0, 1e4), ("poisson", 0.0, -1e4)])
def test_exponentials_fall_to_zero(kernels, dtype, name, y, z):
    value, D = kernels.loss_and_delta(name, np.array([[y]], dtype), np.array([[z]], dtype))
    # The exponent is far below where exp vanishes.
    assert value == 0.0
    assert D.tolist() == [[0.0]]
