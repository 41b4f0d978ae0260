"""Agreement with PyTorch's autograd and optimizers in float64."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is an oracle of the tests; pip install torch")

import bpfast as bp  # noqa: E402
from bpfast.activations import activations  # noqa: E402
from bpfast.losses import losses  # noqa: E402

torch.set_num_threads(1)
F = torch.nn.functional
INPUTS, HIDDEN, OUTPUTS, B = 4, 5, 3, 9

ACTIVATIONS = {
    bp.Identity(): lambda z: z,
    bp.Sigmoid(): torch.sigmoid,
    bp.Tanh(): torch.tanh,
    bp.ReLU(): F.relu,
    bp.LeakyReLU(0.05): lambda z: F.leaky_relu(z, 0.05),
    bp.ELU(0.7): lambda z: F.elu(z, 0.7),
    bp.SELU(): F.selu,
    bp.GELU(): F.gelu,
    bp.SiLU(): F.silu,
    bp.Softplus(): lambda z: F.softplus(z, threshold=1000.0),
}


def rowwise(function, **options):
    """A loss of PyTorch per row: the mean over the outputs."""
    return lambda z, y: function(z, y, reduction="none", **options).mean(dim=1)


#: loss → (torch's loss of each row, torch's link)
LOSSES = {
    bp.SquaredError(): (rowwise(F.mse_loss), lambda z: z),
    bp.AbsoluteError(): (rowwise(F.l1_loss), lambda z: z),
    bp.LogLoss(): (rowwise(F.binary_cross_entropy_with_logits), torch.sigmoid),
    bp.CrossEntropy(): (
        lambda z, y: F.cross_entropy(z, y, reduction="none"),
        lambda z: torch.softmax(z, dim=1),
    ),
    bp.Exponential(): (lambda z, y: torch.exp(-y * z).mean(dim=1), lambda z: z),
    bp.Hinge(): (lambda z, y: torch.clamp(1 - y * z, min=0).mean(dim=1), lambda z: z),
    bp.Quantile(0.7): (
        lambda z, y: torch.maximum(0.7 * (y - z), -0.3 * (y - z)).mean(dim=1),
        lambda z: z,
    ),
    bp.Huber(0.6): (rowwise(F.huber_loss, delta=0.6), lambda z: z),
    bp.Poisson(): (rowwise(F.poisson_nll_loss, log_input=True, full=False), torch.exp),
}
over_activations = pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
over_losses = pytest.mark.parametrize("loss", LOSSES, ids=str)


def test_everything_is_here():
    assert {spec.name for spec in ACTIVATIONS} == set(activations)
    assert {spec.name for spec in LOSSES} == set(losses)


class Twin:
    """A PyTorch network with the same weights and two hidden layers of `activation`."""

    def __init__(self, net, activation, loss):
        self.parameters = {
            name: torch.tensor(array.copy(), requires_grad=True) for name, array in net.parameters.items()
        }
        self.activation, (self.row_losses, self.link) = ACTIVATIONS[activation], LOSSES[loss]

    def outputs(self, X):
        p, A = self.parameters, torch.as_tensor(X)
        for layer in range(3):
            A = A @ p[f"{layer}.W"] + p[f"{layer}.b"]
            if layer < 2:
                A = self.activation(A)
        return A

    def loss(self, X, y, weights=None):
        rows = self.row_losses(self.outputs(X), torch.as_tensor(y))
        if weights is None:
            return rows.mean()
        weights = torch.as_tensor(weights)
        return (weights * rows).sum() / weights.sum()


@pytest.fixture
def pair(build, rng, make_targets):
    """pair(activation, loss) -> network, twin, X, y."""

    def pair(activation, loss, soft=False):
        net = build((INPUTS, HIDDEN, HIDDEN, OUTPUTS), activation, loss)
        X = rng.normal(size=(B, INPUTS))
        y = rng.dirichlet(np.ones(OUTPUTS), B) if soft else make_targets(loss, B, OUTPUTS, rng)
        return net, Twin(net, activation, loss), X, y

    return pair


def check(net, twin, X, y, weights, error):
    """Outputs, prediction, loss and every gradient."""
    value = twin.loss(X, y, weights)
    value.backward()
    Z = twin.outputs(X).detach()
    assert error(net.forward(X), Z) <= 1e-10
    assert error(net.predict(X), twin.link(Z)) <= 1e-10
    assert net.loss(X, y, sample_weight=weights) == pytest.approx(value.item(), rel=1e-10)
    gradients = net.gradients(X, y, sample_weight=weights)
    assert list(gradients) == list(twin.parameters)
    for name, gradient in gradients.items():
        assert error(gradient, twin.parameters[name].grad) <= 1e-10, name


@over_activations
@over_losses
def test_outputs_loss_and_gradients(pair, error, activation, loss):
    check(*pair(activation, loss), None, error)


@over_losses
@pytest.mark.parametrize("kind", ["fractions", "counts", "zeros"])
def test_sample_weights(pair, error, rng, loss, kind):
    weights = {
        "fractions": rng.random(B),
        "counts": np.arange(1.0, B + 1),
        "zeros": np.array([0.0, 2.0, 0.0, 1.0, 0.0, 0.5, 3.0, 0.0, 0.0]),
    }[kind]
    check(*pair(bp.Tanh(), loss), weights, error)


@over_activations
def test_soft_targets(pair, error, rng, activation):
    check(*pair(activation, bp.CrossEntropy(), soft=True), None, error)
    check(*pair(activation, bp.CrossEntropy(), soft=True), rng.random(B), error)


@over_activations
def test_gradient_of_the_inputs(pair, error, activation):
    net, twin, X, _ = pair(activation, bp.SquaredError())
    inputs = torch.tensor(X, requires_grad=True)
    dZ = np.cos(np.arange(B * OUTPUTS)).reshape(B, OUTPUTS)
    (twin.outputs(inputs) * torch.as_tensor(dZ)).sum().backward()
    net.forward(X, training=True)
    assert error(net.backward(dZ), inputs.grad) <= 1e-10
    for name, gradient in net.gradient.items():
        assert error(gradient, twin.parameters[name].grad) <= 1e-10, name


#: optimizer → the same in torch, from a list of groups (weights, biases).
OPTIMIZERS = {
    bp.SGD(0.1): lambda g: torch.optim.SGD(g, lr=0.1),
    bp.SGD(0.05, momentum=0.9): lambda g: torch.optim.SGD(g, lr=0.05, momentum=0.9),
    bp.SGD(0.05, momentum=0.9, nesterov=True): lambda g: torch.optim.SGD(
        g, lr=0.05, momentum=0.9, nesterov=True
    ),
    bp.Adam(): lambda g: torch.optim.Adam(g),
    bp.Adam(0.02, 0.8, 0.95, 1e-3): lambda g: torch.optim.Adam(g, lr=0.02, betas=(0.8, 0.95), eps=1e-3),
    bp.AdamW(): lambda g: torch.optim.AdamW(decaying(g, 0.01)),
    bp.AdamW(0.02, weight_decay=0.5): lambda g: torch.optim.AdamW(decaying(g, 0.5), lr=0.02),
    bp.RMSprop(0.01): lambda g: torch.optim.RMSprop(g, lr=0.01, alpha=0.9, eps=1e-8),
    bp.RMSprop(0.01, 0.7, 1e-2): lambda g: torch.optim.RMSprop(g, lr=0.01, alpha=0.7, eps=1e-2),
    bp.Adagrad(0.05): lambda g: torch.optim.Adagrad(g, lr=0.05, eps=1e-10),
    bp.Adagrad(0.05, 0.1): lambda g: torch.optim.Adagrad(g, lr=0.05, eps=0.1),
    bp.Rprop(): lambda g: torch.optim.Rprop(g, lr=0.01),
    bp.Rprop(0.05, 0.3, 1.7, 0.01, 0.3): lambda g: torch.optim.Rprop(
        g, lr=0.05, etas=(0.3, 1.7), step_sizes=(0.01, 0.3)
    ),
}


def decaying(groups, decay):
    """Decay on the weights alone."""
    weights, biases = groups
    return [{**weights, "weight_decay": decay}, {**biases, "weight_decay": 0.0}]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
@pytest.mark.parametrize("loss", [bp.CrossEntropy(), bp.SquaredError()], ids=str)
@pytest.mark.parametrize("penalty", [None, bp.L2(0.1)], ids=str)
def test_ten_steps(pair, error, optimizer, loss, penalty):
    net, twin, X, y = pair(bp.Tanh(), loss)
    named = twin.parameters.items()
    groups = [{"params": [p for name, p in named if name.endswith(kind)]} for kind in ("W", "b")]
    other = OPTIMIZERS[optimizer](groups)
    for _ in range(10):
        other.zero_grad()
        objective = twin.loss(X, y)
        if penalty is not None:
            objective = objective + 0.5 * penalty.alpha * sum((p**2).sum() for p in groups[0]["params"])
        objective.backward()
        other.step()
    net.fit(X, y, epochs=10, batch_size=None, shuffle=False, optimizer=optimizer, penalty=penalty)
    for name, array in net.parameters.items():
        assert error(array, twin.parameters[name].detach()) <= 1e-9, name


def test_frobenius_norm(pair, error):
    net, twin, X, y = pair(bp.SiLU(), bp.CrossEntropy())
    weights = [p for name, p in twin.parameters.items() if name.endswith("W")]
    objective = twin.loss(X, y) + 0.3 * sum(torch.linalg.matrix_norm(W) for W in weights)
    objective.backward()
    assert net.loss(X, y, penalty=bp.Frobenius(0.3)) == pytest.approx(objective.item(), rel=1e-12)
    for name, gradient in net.gradients(X, y, penalty=bp.Frobenius(0.3)).items():
        assert error(gradient, twin.parameters[name].grad) <= 1e-10, name


def test_minibatches_with_a_schedule(pair, error):
    """Three epochs of batches of 4, 4 and 1 rows, a rate for each batch by torch's own decay."""
    net, twin, X, y = pair(bp.GELU(), bp.CrossEntropy())
    other = torch.optim.SGD(twin.parameters.values(), lr=0.1)
    decay = torch.optim.lr_scheduler.ExponentialLR(other, gamma=0.8 ** (1 / 3))
    for _ in range(3):
        for start in (0, 4, 8):
            other.zero_grad()
            twin.loss(X[start : start + 4], y[start : start + 4]).backward()
            other.step()
            decay.step()
    options = {"batch_size": 4, "shuffle": False, "optimizer": bp.SGD(bp.ExponentialDecay(0.1, 0.8))}
    net.fit(X, y, epochs=3, **options)
    for name, array in net.parameters.items():
        assert error(array, twin.parameters[name].detach()) <= 1e-9, name
