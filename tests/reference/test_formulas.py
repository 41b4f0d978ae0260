"""The formulas, one number at a time: against scalar arithmetic written out here, and central differences."""

import math

import numpy as np
import pytest
from scipy import special

import bpfast as bp
from bpfast import reference
from bpfast.activations import activations
from bpfast.losses import losses
from bpfast.penalties import penalties
from bpfast.specs.initializers import generator, initializers

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
    """The function of each element, in Python's floats."""
    return np.array([function(*map(float, values)) for values in zip(*arrays, strict=True)])


def test_every_activation_is_here():
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
def test_derivative_at_zero_is_the_left_one(kernels, spec, slope):
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


# ---------------------------------------------------------------------------------------------
# The four functions of a dense layer, by loops.


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


# ---------------------------------------------------------------------------------------------
# Losses.


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


def test_every_loss_is_here():
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
def test_log_loss_of_a_sure_row_keeps_relative_accuracy(kernels, dtype, z, y):
    """-log sigmoid(z) is exp(-z) for large z: softplus(z) - z would lose its digits."""
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


# ---------------------------------------------------------------------------------------------
# Penalties: the value through `penalty` and `loss`, the gradient through `gradients`, the proximal
# step through an update with a gradient of 0.


def norm(values):
    return math.sqrt(math.fsum(w * w for w in values))


#: specification → Ω(values of one matrix), its smooth gradient, its proximal step at threshold η α.
PENALTIES = {
    bp.L2(0.3): (lambda v: 0.5 * norm(v) ** 2, lambda v: v, None),
    bp.L1(0.2): (lambda v: math.fsum(map(abs, v)), lambda v: [0.0] * len(v), abs),
    bp.ElasticNet(0.25, l1_ratio=0.3): (
        lambda v: 0.3 * math.fsum(map(abs, v)) + 0.35 * norm(v) ** 2,
        lambda v: [0.7 * w for w in v],
        lambda w: 0.3 * abs(w),
    ),
    bp.ElasticNet(0.25, l1_ratio=0.0): (lambda v: 0.5 * norm(v) ** 2, lambda v: v, None),
    bp.ElasticNet(0.25, l1_ratio=1.0): (lambda v: math.fsum(map(abs, v)), lambda v: [0.0] * len(v), abs),
    bp.L0(0.02): (lambda v: float(sum(w != 0 for w in v)), lambda v: [0.0] * len(v), lambda w: float(w != 0)),
    bp.Frobenius(0.4): (norm, lambda v: [w / norm(v) for w in v], None),
}
over_penalties = pytest.mark.parametrize("spec", PENALTIES, ids=str)


def test_every_penalty_is_here():
    assert {spec.name for spec in PENALTIES} == set(penalties)


def matrices(net):
    return {name: W.reshape(-1).tolist() for name, W in net.parameters.items() if name.endswith("W")}


@over_penalties
def test_penalty_value(build, rng, spec):
    net, X, Y = build(), rng.normal(size=(6, 3)), rng.normal(size=(6, 2))
    net.parameters["0.W"][0, 0] = 0.0  # an L0 that is not the size
    expected = spec.alpha * math.fsum(PENALTIES[spec][0](values) for values in matrices(net).values())
    assert net.penalty(spec) == pytest.approx(expected, rel=1e-14)
    assert net.loss(X, Y, penalty=spec) == pytest.approx(net.loss(X, Y) + expected, rel=1e-14)


@over_penalties
def test_penalty_gradient(build, error, rng, spec):
    net, X, Y = build(), rng.normal(size=(6, 3)), rng.normal(size=(6, 2))
    plain, punished = net.gradients(X, Y), net.gradients(X, Y, penalty=spec)
    for name, W in net.parameters.items():
        if name.endswith("b"):
            assert punished[name].tobytes() == plain[name].tobytes()
            continue
        slope = [spec.alpha * g for g in PENALTIES[spec][1](W.reshape(-1).tolist())]
        assert error(punished[name] - plain[name], np.reshape(slope, W.shape)) <= 1e-13 or not any(slope)
        if not any(slope):
            assert punished[name].tobytes() == plain[name].tobytes()


@pytest.mark.parametrize("spec", [bp.L2(0.3), bp.ElasticNet(0.25, 0.0), bp.Frobenius(0.4)], ids=str)
def test_penalty_gradient_by_differences(build, spec):
    net = build()
    X, Y, h = np.zeros((1, 3)), np.zeros((1, 2)), 1e-6
    plain, punished = net.gradients(X, Y), net.gradients(X, Y, penalty=spec)
    for name, W in net.parameters.items():
        for place in np.ndindex(W.shape):
            kept, sides = W[place], []
            for side in (h, -h):
                W[place] = kept + side
                sides.append(net.penalty(spec))
            W[place] = kept
            slope = (sides[0] - sides[1]) / (2 * h)
            assert punished[name][place] - plain[name][place] == pytest.approx(slope, abs=1e-9)


def step_without_gradient(net, learning_rate, penalty):
    net.forward(np.zeros((1, net.n_inputs)), training=True)
    net.backward(np.zeros((1, net.n_outputs)))
    net.update(bp.SGD(learning_rate), penalty)


@over_penalties
def test_penalised_step(build, spec):
    """W ← argmin over v of ½ (v - u)² + η α Ω(v) with u = W - η α Ω'(W), found here by trying."""
    rate = 0.5
    net = build((4, 6, 3))
    before = {name: array.copy() for name, array in net.parameters.items()}
    step_without_gradient(net, rate, spec)
    grid = np.linspace(-2, 2, 8001).tolist()
    _, slope, cost = PENALTIES[spec]
    moved = 0
    for name, W in before.items():
        after = net.parameters[name].reshape(-1).tolist()
        if name.endswith("b"):
            assert after == W.tolist()
            continue
        values = W.reshape(-1).tolist()
        for w, v, g in zip(values, after, slope(values), strict=True):
            u = w - rate * spec.alpha * g
            moved += v != w
            if cost is None:
                assert v == pytest.approx(u, rel=1e-14)
                continue

            def objective(x, u=u):
                return 0.5 * (x - u) ** 2 + rate * spec.alpha * cost(x)

            assert objective(v) <= min(map(objective, [*grid, 0.0, u])) + 1e-15
    assert moved > 0


def test_soft_threshold_by_hand(backend):
    net = bp.Network([bp.Dense(1)], n_inputs=5, loss="squared_error", dtype="float64", backend=backend)
    net.parameters["0.W"][:, 0] = [0.5, -0.5, 0.25, -0.2, 0.0]
    step_without_gradient(net, 0.5, bp.L1(0.5))
    assert net.parameters["0.W"][:, 0].tolist() == [0.25, -0.25, 0.0, 0.0, 0.0]


def test_hard_threshold_by_hand(backend):
    net = bp.Network([bp.Dense(1)], n_inputs=5, loss="squared_error", dtype="float64", backend=backend)
    # √(2 η α) = √(2 · ½ · ¼) = ½
    net.parameters["0.W"][:, 0] = [0.5, -0.5, 0.5000001, -0.75, 0.1]
    step_without_gradient(net, 0.5, bp.L0(0.25))
    assert net.parameters["0.W"][:, 0].tolist() == [0.0, 0.0, 0.5000001, -0.75, 0.0]


def test_frobenius_of_zeros(backend):
    net = bp.Network([bp.Dense(2, initializer="zeros")], n_inputs=3, loss="squared_error", backend=backend)
    step_without_gradient(net, 0.5, bp.Frobenius(1.0))
    assert not net.parameters["0.W"].any()
    assert net.penalty(bp.Frobenius(1.0)) == 0.0


@over_dtypes
@pytest.mark.parametrize("penalty", [bp.L1(0.2), bp.ElasticNet(0.25, 0.8), bp.L0(0.02)], ids=str)
@pytest.mark.parametrize("optimizer", [bp.SGD(0.1), bp.SGD(0.05, momentum=0.5)], ids=["plain", "momentum"])
def test_sparse_penalties_give_weights_of_exactly_0(backend, rng, dtype, penalty, optimizer):
    X = rng.normal(size=(200, 10))
    y = 2 * X[:, 3] - 1.5 * X[:, 7] + 0.01 * rng.normal(size=200)
    net = bp.Network([bp.Dense(1)], n_inputs=10, loss="squared_error", dtype=dtype, backend=backend)
    net.fit(X, y, epochs=60, batch_size=50, optimizer=optimizer, penalty=penalty)
    W = net.parameters["0.W"][:, 0]
    assert np.flatnonzero(W).tolist() == [3, 7]
    plain = bp.Network([bp.Dense(1)], n_inputs=10, loss="squared_error", dtype=dtype, backend=backend)
    plain.fit(X, y, epochs=60, batch_size=50, optimizer=optimizer)
    assert np.count_nonzero(plain.parameters["0.W"]) == 10


# ---------------------------------------------------------------------------------------------
# Where training starts and in what order it goes.

#: name → the standard deviation of (I, O) = (60, 90), the bound or None.
SPREADS = {
    "xavier_uniform": (math.sqrt(2 / 150), math.sqrt(6 / 150)),
    "xavier_normal": (math.sqrt(2 / 150), None),
    "he_uniform": (math.sqrt(2 / 60), math.sqrt(6 / 60)),
    "he_normal": (math.sqrt(2 / 60), None),
    "lecun_uniform": (math.sqrt(1 / 60), math.sqrt(3 / 60)),
    "lecun_normal": (math.sqrt(1 / 60), None),
    "orthogonal": (math.sqrt(1 / 90), None),
    "constant": (0.0, 0.0),
    "zeros": (0.0, 0.0),
}


def test_every_initializer_is_here():
    assert set(SPREADS) == set(initializers)


@pytest.mark.parametrize("name", SPREADS)
def test_initializer_spread(name):
    deviation, bound = SPREADS[name]
    W = initializers.resolve(name).draw((60, 90), generator(3, 0))
    assert W.shape == (60, 90)
    assert W.std() == pytest.approx(deviation, rel=0.04, abs=1e-15)
    assert abs(W.mean()) <= 4 * deviation / math.sqrt(W.size)
    if bound is not None:
        assert np.abs(W).max() <= bound
        assert np.abs(W).max() >= 0.99 * bound
    elif name != "orthogonal":
        # A normal has 4.6 % beyond two deviations; a uniform none.
        assert (np.abs(W) > 2 * deviation).mean() == pytest.approx(0.0455, abs=0.012)


@pytest.mark.parametrize("shape", [(7, 4), (4, 7), (5, 5), (6, 1), (1, 6)])
def test_orthogonal_has_orthonormal_rows_or_columns(shape):
    Q = bp.Orthogonal(gain=1.5).draw(shape, generator(0, 0))
    small = Q @ Q.T if shape[0] < shape[1] else Q.T @ Q
    assert Q.shape == shape
    assert np.abs(small - 2.25 * np.eye(min(shape))).max() <= 1e-14


def test_constant_initializer_and_bias(backend):
    layer = bp.Dense(4, initializer=bp.Constant(0.25), bias_initializer=bp.Constant(-1.5))
    net = bp.Network([layer], n_inputs=3, loss="squared_error", backend=backend)
    assert (net.parameters["0.W"] == 0.25).all()
    assert (net.parameters["0.b"] == -1.5).all()


def mix64(z):
    """SplitMix64's finaliser, in Python's integers."""
    mask = 2**64 - 1
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


@pytest.mark.parametrize(("seed", "epoch"), [(0, 0), (0, 1), (7, 3), (2**63 - 1, 12345)])
@pytest.mark.parametrize("n", [1, 2, 3, 50])
def test_permutation_by_scalars(n, seed, epoch):
    key = mix64((mix64(seed) + epoch) % 2**64)
    order = list(range(n))
    for i in range(n - 1, 0, -1):
        draw = mix64((key + i * 0x9E3779B97F4A7C15) % 2**64)
        j = ((draw >> 32) * (i + 1)) >> 32
        order[i], order[j] = order[j], order[i]
    assert reference.permutation(n, seed, epoch).tolist() == order
    assert sorted(order) == list(range(n))


def test_permutations_are_even():
    """Each of the 24 orders of four rows about as often, over epochs and over seeds."""
    for orders in (
        [tuple(reference.permutation(4, 5, epoch)) for epoch in range(2400)],
        [tuple(reference.permutation(4, seed, 0)) for seed in range(2400)],
    ):
        counts = np.unique(np.array(orders), axis=0, return_counts=True)[1]
        assert len(counts) == 24
        # χ² of 23 degrees of freedom passes 55 once in 5,000 times.
        assert ((counts - 100) ** 2 / 100).sum() < 55
