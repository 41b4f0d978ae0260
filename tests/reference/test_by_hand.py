"""One step of backpropagation worked out on paper: Z = XW + b, A = sigmoid(Z), D, dW, W - η dW.

Three inputs, two hidden sigmoid units, one output, squared error; every operation below is on single
numbers, so that it can be followed with a pocket calculator.
"""

from itertools import pairwise
from math import exp

import numpy as np
import pytest

import bpfast as bp

RATE = 0.5
W1 = [[0.15, -0.25], [0.20, 0.30], [-0.35, 0.40]]
B1 = [0.35, -0.10]
W2 = [0.45, -0.50]
B2 = 0.60

#: the inputs and the target of each sample
SAMPLES = {
    "one": [((0.05, 0.10, -0.80), 0.25)],
    "two": [((0.05, 0.10, -0.80), 0.25), ((-1.20, 0.40, 0.70), 0.90)],
}


def sigmoid(z):
    return 1.0 / (1.0 + exp(-z))


def gradients_of_one_sample(x, y, output_is_sigmoid):
    """(loss, dW1 as six numbers, db1 as two, dW2 as two, db2) of a sample."""
    x1, x2, x3 = x
    # forward: Z = XW + b, A = sigmoid(Z)
    z1 = x1 * W1[0][0] + x2 * W1[1][0] + x3 * W1[2][0] + B1[0]
    z2 = x1 * W1[0][1] + x2 * W1[1][1] + x3 * W1[2][1] + B1[1]
    a1, a2 = sigmoid(z1), sigmoid(z2)
    z = a1 * W2[0] + a2 * W2[1] + B2
    # the loss and the output's delta, D = ∂L/∂z
    if output_is_sigmoid:
        a = sigmoid(z)
        loss = (a - y) * (a - y)
        d = 2.0 * (a - y) * a * (1.0 - a)
    else:
        loss = (z - y) * (z - y)
        d = 2.0 * (z - y)
    # the hidden deltas, D_prev = (D Wᵀ) ⊙ f'(Z_prev)
    d1 = d * W2[0] * a1 * (1.0 - a1)
    d2 = d * W2[1] * a2 * (1.0 - a2)
    # dW = AᵀD, db = Σ D
    dw1 = [[x1 * d1, x1 * d2], [x2 * d1, x2 * d2], [x3 * d1, x3 * d2]]
    return loss, dw1, [d1, d2], [a1 * d, a2 * d], d


def by_hand(samples, output_is_sigmoid):
    """The mean loss and the new weights after W ← W - η dW."""
    parts = [gradients_of_one_sample(x, y, output_is_sigmoid) for x, y in samples]
    n = len(parts)
    loss = sum(part[0] for part in parts) / n
    new_w1 = [[W1[i][j] - RATE * sum(p[1][i][j] for p in parts) / n for j in range(2)] for i in range(3)]
    new_b1 = [B1[j] - RATE * sum(p[2][j] for p in parts) / n for j in range(2)]
    new_w2 = [[W2[j] - RATE * sum(p[3][j] for p in parts) / n] for j in range(2)]
    new_b2 = [B2 - RATE * sum(p[4] for p in parts) / n]
    return loss, {"0.W": new_w1, "0.b": new_b1, "1.W": new_w2, "1.b": new_b2}


def network(backend, output, dtype="float64"):
    layers = [bp.Dense(2, "sigmoid"), bp.Dense(1, output)]
    net = bp.Network(layers, n_inputs=3, loss="squared_error", dtype=dtype, backend=backend)
    for name, values in {"0.W": W1, "0.b": B1, "1.W": [[W2[0]], [W2[1]]], "1.b": [B2]}.items():
        net.parameters[name][...] = values
    return net


@pytest.mark.parametrize("output", ["identity", "sigmoid"])
@pytest.mark.parametrize("count", SAMPLES)
@pytest.mark.parametrize("way", ["fit", "loop"])
def test_one_step(backend, output, count, way):
    samples = SAMPLES[count]
    X, y = np.array([x for x, _ in samples]), np.array([[y] for _, y in samples])
    loss, expected = by_hand(samples, output == "sigmoid")
    net = network(backend, output)
    assert net.loss(X, y) == pytest.approx(loss, rel=1e-13)
    if way == "fit":
        history = net.fit(X, y, epochs=1, batch_size=None, optimizer=bp.SGD(RATE))
        assert history.loss == pytest.approx([loss], rel=1e-13)
    else:
        outputs = net.forward(X, training=True)
        net.backward(2 * (outputs - y) / len(y))
        net.update(bp.SGD(RATE))
    for name, values in expected.items():
        difference = np.abs(net.parameters[name] - np.array(values)).max()
        assert difference <= 1e-12, f"{name} is off by {difference}"
        assert not np.allclose(values, network(backend, output).parameters[name], rtol=0, atol=1e-4)


def test_the_numbers_themselves(backend):
    """The identity output with one sample, as decimals on paper (to ten places)."""
    net = network(backend, "identity")
    X, y = [[0.05, 0.10, -0.80]], [0.25]
    # Z = (0.6575, -0.4025), A = (0.6586985747, 0.4007118365)
    assert net.forward(X)[0, 0] == pytest.approx(0.6960584404, abs=1e-10)
    gradients = net.gradients(X, y)
    assert gradients["1.b"].tolist() == pytest.approx([0.8921168808], abs=1e-10)
    assert gradients["0.b"].tolist() == pytest.approx([0.0902524701, -0.1071173038], abs=1e-10)


@pytest.mark.parametrize("output", ["identity", "sigmoid"])
def test_the_loss_falls(backend, output):
    net = network(backend, output)
    X, y = np.array([x for x, _ in SAMPLES["two"]]), np.array([y for _, y in SAMPLES["two"]])
    losses = net.fit(X, y, epochs=30, batch_size=None, optimizer=bp.SGD(RATE)).loss
    assert all(later < earlier for earlier, later in pairwise(losses))
