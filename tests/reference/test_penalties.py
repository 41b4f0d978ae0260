"""Penalties: the value through `penalty` and `loss`, the gradient through `gradients`, the proximal step
through an update with a gradient of 0.
"""

import math

import numpy as np
import pytest

import bpfast as bp
from bpfast.penalties import penalties

over_dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])


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


def test_every_penalty_is_tested():
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
    """W ← argmin over v of ½ (v - u)² + η α Ω(v) with u = W - η α Ω'(W), found here by search."""
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
