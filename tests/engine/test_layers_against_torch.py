"""Dropout, BatchNorm, LayerNorm, PReLU and clipping compared with PyTorch in float64."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is an oracle of the tests; pip install torch")

import bpfast as bp  # noqa: E402

torch.set_num_threads(1)
INPUTS, HIDDEN, OUTPUTS, ROWS = 5, 70, 3, 23
LAYERS = {
    "batch_norm": (
        bp.BatchNorm(momentum=0.2, epsilon=1e-4),
        lambda: torch.nn.BatchNorm1d(HIDDEN, momentum=0.2, eps=1e-4),
    ),
    "layer_norm": (bp.LayerNorm(epsilon=1e-4), lambda: torch.nn.LayerNorm(HIDDEN, eps=1e-4)),
    "prelu": (bp.PReLU(0.3), lambda: torch.nn.PReLU(HIDDEN, init=0.3)),
    "residual": (bp.Residual(bp.Dense(HIDDEN, "tanh")), None),
}


class Skip(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.dense = torch.nn.Linear(HIDDEN, HIDDEN)

    def forward(self, x):
        return x + torch.tanh(self.dense(x))


#: Of a layer's parameters, our names → theirs.
NAMES = {
    "batch_norm": {"gamma": "weight", "beta": "bias"},
    "layer_norm": {"gamma": "weight", "beta": "bias"},
    "prelu": {"slope": "weight"},
    "residual": {"0.W": "dense.weight", "0.b": "dense.bias"},
}
over_layers = pytest.mark.parametrize("name", LAYERS)
over_backends = pytest.mark.parametrize("backend", ["native", "reference"])


def pair(name, backend, rng):
    """The same network in both libraries, with random parameters."""
    layer, make = LAYERS[name]
    net = bp.Network(
        [bp.Dense(HIDDEN, "tanh"), layer, bp.Dense(OUTPUTS)],
        n_inputs=INPUTS,
        loss="squared_error",
        dtype="float64",
        backend=backend,
    )
    for array in net.parameters.values():
        array += rng.normal(0, 0.3, array.shape)
    middle = Skip() if make is None else make()
    twin = torch.nn.Sequential(
        torch.nn.Linear(INPUTS, HIDDEN), torch.nn.Tanh(), middle, torch.nn.Linear(HIDDEN, OUTPUTS)
    ).double()
    with torch.no_grad():
        for ours, theirs in places(net, twin, name):
            theirs.copy_(torch.from_numpy(net.parameters[ours].T.copy()))
    return net, twin


def places(net, twin, name):
    """Names in bpfast and tensors in PyTorch of the same parameters."""
    found = [("0.W", twin[0].weight), ("0.b", twin[0].bias), ("2.W", twin[3].weight), ("2.b", twin[3].bias)]
    theirs = dict(twin[2].named_parameters())
    found += [(f"1.{ours}", theirs[named]) for ours, named in NAMES[name].items()]
    assert {ours for ours, _ in found} == set(net.parameters)
    return found


@over_backends
@over_layers
def test_outputs_and_gradients(name, backend, rng, error):
    net, twin = pair(name, backend, rng)
    X, dY = rng.normal(2, 3, size=(ROWS, INPUTS)), rng.normal(size=(ROWS, OUTPUTS))
    x = torch.from_numpy(X).requires_grad_()
    twin.train()
    for _ in range(3):  # The running statistics move each time.
        Z = twin(x)
        assert error(net.forward(X, training=True), Z.detach()) < 1e-10
    Z.backward(torch.from_numpy(dY))
    assert error(net.backward(dY), x.grad) < 1e-10
    for ours, theirs in places(net, twin, name):
        assert error(net.gradient[ours], theirs.grad.numpy().T) < 1e-10, ours
    if name == "batch_norm":
        assert error(net.statistics["1.mean"], twin[2].running_mean) < 1e-10
        assert error(net.statistics["1.variance"], twin[2].running_var) < 1e-10
    twin.eval()
    assert error(net.predict(X), twin(x).detach()) < 1e-10


@over_backends
@over_layers
def test_training(name, backend, rng, error):
    net, twin = pair(name, backend, rng)
    X, Y = rng.normal(size=(40, INPUTS)), rng.normal(size=(40, OUTPUTS))
    rule = torch.optim.SGD(twin.parameters(), 0.05, momentum=0.9)
    net.fit(X, Y, epochs=5, batch_size=8, shuffle=False, optimizer=bp.SGD(0.05, momentum=0.9, clip_norm=0.3))
    x, y = torch.from_numpy(X), torch.from_numpy(Y)
    for _ in range(5):
        for first in range(0, 40, 8):
            rule.zero_grad()
            torch.nn.functional.mse_loss(twin(x[first : first + 8]), y[first : first + 8]).backward()
            # Theirs divides by the norm + 1e-6.
            norm = torch.sqrt(sum((p.grad**2).sum() for p in twin.parameters()))
            for p in twin.parameters():
                p.grad *= min(1.0, 0.3 / float(norm))
            rule.step()
    for ours, theirs in places(net, twin, name):
        # The b before a BatchNorm has a gradient of 0 but for rounding.
        assert error(net.parameters[ours], theirs.detach().numpy().T) < 1e-10, ours


@over_backends
def test_the_statistics_of_dropout(backend):
    X = np.ones((2000, 50))
    net = bp.Network([bp.Dropout(0.3)], n_inputs=50, loss="squared_error", dtype="float64", backend=backend)
    torch.manual_seed(0)
    ours = net.forward(X, training=True)
    theirs = torch.nn.functional.dropout(torch.ones(2000, 50, dtype=torch.float64), 0.3).numpy()
    assert set(np.unique(ours)) == set(np.unique(theirs)) == {0.0, 1 / 0.7}
    deviation = np.sqrt(0.3 * 0.7 / X.size)
    for M in (ours, theirs):
        assert abs((M == 0).mean() - 0.3) < 4 * deviation
        assert np.abs((M == 0).mean(axis=0) - 0.3).max() < 5 * np.sqrt(0.3 * 0.7 / 2000)
        assert np.abs((M == 0).mean(axis=1) - 0.3).max() < 6 * np.sqrt(0.3 * 0.7 / 50)


@over_backends
def test_rrelu_in_prediction(backend, rng, error):
    X = rng.normal(size=(ROWS, INPUTS))
    net = bp.Network(
        [bp.RReLU(0.1, 0.4)], n_inputs=INPUTS, loss="squared_error", dtype="float64", backend=backend
    )
    theirs = torch.nn.functional.rrelu(torch.from_numpy(X), 0.1, 0.4, training=False)
    assert error(net.predict(X), theirs) < 1e-15
