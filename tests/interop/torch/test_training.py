"""Modules trained by `train_torch`, compared with PyTorch's own training loop."""

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch")

from torch import nn  # noqa: E402

import bpfast as bp  # noqa: E402
from bpfast.interop.torch import (  # noqa: E402
    Residual,
    counterparts,
    from_torch,
    train_torch,
)

torch.set_num_threads(1)


N_INPUTS, N_OUTPUTS, ROWS = 5, 3, 16


@pytest.fixture
def make_module(perturb):
    """make_module(): a new module with most kinds of layers, always with the same parameters."""

    def make():
        torch.manual_seed(5)
        body = nn.Sequential(nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 4))
        module = nn.Sequential(
            nn.Flatten(),
            nn.Linear(N_INPUTS, 8),
            nn.BatchNorm1d(8, momentum=0.3),
            nn.PReLU(8),
            nn.Sequential(nn.Linear(8, 12), nn.MaxPool1d(2), nn.LayerNorm(6)),
            Residual(body, nn.Linear(6, 4, bias=False)),
            nn.ELU(),
            nn.Linear(4, N_OUTPUTS),
        ).double()
        perturb(module, 1)
        return module

    return make


def loop(module, X, y, loss, optimizer, epochs, batch_size):
    """Train in PyTorch; return the mean loss of every epoch."""
    losses = []
    module.train()
    for _ in range(epochs):
        total = 0.0
        for start in range(0, len(X), batch_size):
            optimizer.zero_grad()
            value = loss(module(X[start : start + batch_size]), y[start : start + batch_size])
            value.backward()
            optimizer.step()
            total += value.item() * len(X[start : start + batch_size])
        losses.append(total / len(X))
    return losses


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(8)
    X = torch.randn(40, N_INPUTS, generator=generator, dtype=torch.float64)
    return X, torch.randint(0, N_OUTPUTS, (40,), generator=generator)


@pytest.fixture
def assert_same_state(relative):
    """assert_same_state(module, counterpart, tolerance=1e-9): compare all parameters and statistics."""

    def check(module, counterpart, tolerance=1e-9):
        theirs = counterpart.state_dict()
        for name, tensor in module.state_dict().items():
            assert relative(tensor.numpy(), theirs[name]) <= tolerance, name

    return check


def optimizer_of(kind):
    options = {
        torch.optim.SGD: {"lr": 0.05, "momentum": 0.9, "nesterov": True},
        torch.optim.Adam: {"lr": 0.01, "betas": (0.8, 0.99), "eps": 1e-6},
        torch.optim.AdamW: {"lr": 0.01, "weight_decay": 0.0, "eps": 1e-6},
        torch.optim.RMSprop: {"lr": 0.01, "eps": 1e-4},
        torch.optim.Adagrad: {"lr": 0.02, "eps": 1e-6},
        torch.optim.Rprop: {"lr": 0.002, "etas": (0.4, 1.1)},
    }
    return lambda module: kind([p for p in module.parameters() if p.requires_grad], **options[kind])


@pytest.mark.parametrize("kind", counterparts.OPTIMIZERS, ids=lambda kind: kind.__name__)
def test_optimizers_of_pytorch(kind, data, make_module, assert_same_state):
    """The gradient of b before a BatchNorm is only rounding error, which some rules would scale up."""
    X, y = data
    module = make_module()
    counterpart = copy.deepcopy(module)
    batch = 40 if kind is torch.optim.Rprop else 8
    for m in (module, counterpart):
        m[1].bias.requires_grad_(False)
    make = optimizer_of(kind)
    expected = loop(counterpart, X, y, nn.CrossEntropyLoss(), make(counterpart), 4, batch)
    history = train_torch(
        module,
        X,
        y,
        loss=nn.CrossEntropyLoss(),
        optimizer=make(module),
        epochs=4,
        batch_size=batch,
        shuffle=False,
    )
    np.testing.assert_allclose(history.loss, expected, rtol=1e-9)
    assert_same_state(module, counterpart)


#: Loss of PyTorch → what draws its targets; None for class labels.
TARGETS = {
    nn.MSELoss(): torch.randn,
    nn.L1Loss(): torch.randn,
    nn.HuberLoss(delta=0.4): torch.randn,
    nn.SmoothL1Loss(): torch.randn,
    nn.CrossEntropyLoss(): None,
    nn.NLLLoss(): None,
    nn.BCEWithLogitsLoss(): torch.rand,
    nn.BCELoss(): torch.rand,
    nn.PoissonNLLLoss(): torch.rand,
}


@pytest.mark.parametrize("loss", TARGETS, ids=lambda loss: type(loss).__name__)
def test_losses_of_pytorch(loss, data, make_module, assert_same_state):
    X, y = data
    make = TARGETS[loss]
    if make is not None:
        y = make((40, N_OUTPUTS), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    module = make_module()
    module.extend({nn.NLLLoss: [nn.LogSoftmax(1)], nn.BCELoss: [nn.Sigmoid()]}.get(type(loss), []))
    counterpart = copy.deepcopy(module)
    expected = loop(
        counterpart, X, y, loss, torch.optim.SGD(counterpart.parameters(), 0.05, momentum=0.9), 3, 10
    )
    history = train_torch(
        module, X, y, loss=loss, optimizer=bp.SGD(0.05, 0.9), epochs=3, batch_size=10, shuffle=False
    )
    np.testing.assert_allclose(history.loss, expected, rtol=1e-9)
    assert_same_state(module, counterpart)
    assert module[2].num_batches_tracked == 12


def test_every_loss_of_the_table_is_tested():
    assert {type(loss) for loss in TARGETS} == set(counterparts.LOSSES)


def test_frozen_parameters_and_statistics_do_not_change(data, make_module, assert_same_state):
    X, y = data
    module = make_module()
    module[1].requires_grad_(False)
    module[2].requires_grad_(False).eval()
    counterpart = copy.deepcopy(module)
    before = copy.deepcopy(module.state_dict())
    for m in (module, counterpart):
        m.train = None  # `loop` calls it, which would update the statistics.
    counterpart.train = lambda: None
    loop(counterpart, X, y, nn.CrossEntropyLoss(), optimizer_of(torch.optim.SGD)(counterpart), 3, 8)
    train_torch(
        module,
        X,
        y,
        loss="cross_entropy",
        optimizer=bp.SGD(0.05, 0.9, True),
        epochs=3,
        batch_size=8,
        shuffle=False,
    )
    assert_same_state(module, counterpart)
    assert all(torch.equal(t, before[f"2.{name}"]) for name, t in module[2].state_dict().items())
    assert torch.equal(module[1].weight, before["1.weight"])


def test_all_kinds_of_data_give_identical_results():
    """Arrays, tensors, images and rows give identical results, written to the tensors of the module."""
    generator = np.random.default_rng(3)
    images, y = generator.normal(size=(30, 1, 2, 2)).astype("float32"), generator.integers(0, 2, 30)
    weights = generator.random(30)
    torch.manual_seed(0)
    start = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.Dropout(0.2), nn.ReLU(), nn.Linear(8, 2))
    results = set()
    for tensors in (False, True):
        for flat in (False, True):
            module = copy.deepcopy(start)
            tensor = module[1].weight
            given = images.reshape(30, 4) if flat else images
            given, targets, counts = ((torch.from_numpy(a) if tensors else a) for a in (given, y, weights))
            if tensors:
                given = given.requires_grad_()
            history = train_torch(
                module,
                given,
                targets,
                loss=nn.CrossEntropyLoss,
                epochs=3,
                validation=(given, targets, counts),
                sample_weight=counts,
                seed=4,
                penalty=bp.L2(1e-3),
            )
            assert {"penalty", "val_loss", "val_accuracy"} <= set(history.columns)
            assert module[1].weight is tensor
            assert tensor.requires_grad
            results.add(b"".join(p.detach().numpy().tobytes() for p in module.parameters()))
    assert len(results) == 1
    net = from_torch(start, loss="cross_entropy", seed=4)
    net.fit(images.reshape(30, 4), y, epochs=3, sample_weight=weights, penalty=bp.L2(1e-3))
    written = (net.parameters[name].T.tobytes() for name in ("0.W", "0.b", "3.W", "3.b"))
    assert results == {b"".join(written)}


def test_options_that_pytorch_does_not_have(data, relative, make_module):
    """L-BFGS, a penalty and a quantile loss."""
    X, _ = data
    module = make_module()
    options = {"loss": bp.Quantile(0.7), "penalty": bp.L2(1e-3), "optimizer": bp.LBFGS(), "epochs": 4}
    net = from_torch(module, loss=bp.Quantile(0.7))
    train_torch(module, X, X[:, :3], **options)
    del options["loss"]
    net.fit(X.numpy(), X[:, :3].numpy(), **options)
    assert relative(net.forward(X.numpy()), module.eval()(X)) <= 1e-12


def test_n_inputs_from_the_data(data):
    module = nn.Sequential(nn.PReLU())
    with pytest.raises(TypeError, match="n_inputs is needed"):
        from_torch(module, loss="squared_error")
    X = data[0][:, :1]
    train_torch(module.double(), X, X * 2, loss=nn.MSELoss(), epochs=50, optimizer=bp.SGD(0.1))
    assert module[0].weight.item() == pytest.approx(2, abs=2)
    assert from_torch(module, loss="squared_error", n_inputs=3).parameters["0.slope"].shape == (3,)


class Interrupt(bp.Callback):
    def __init__(self, error, epoch):
        self.error, self.epoch = error, epoch

    def on_epoch_end(self, network, history):
        if len(history) == self.epoch:
            raise self.error


def test_an_interrupt_keeps_completed_steps(data, make_module, assert_same_state):
    X, y = data
    module, whole = make_module(), make_module()
    options = {"loss": "cross_entropy", "batch_size": 8}
    with pytest.raises(KeyboardInterrupt):
        train_torch(module, X, y, epochs=9, callbacks=[Interrupt(KeyboardInterrupt(), 2)], **options)
    train_torch(whole, X, y, epochs=2, **options)
    assert_same_state(module, whole, 0)
    assert module[2].num_batches_tracked == 10


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"callbacks": [Interrupt(RuntimeError("no more"), 2)]}, RuntimeError),
        ({"optimizer": bp.SGD(1e200)}, FloatingPointError),
        ({"epochs": 0}, ValueError),
        ({"colour": "red"}, TypeError),
        ({"validation": (np.zeros((3, 4)), np.zeros(3))}, ValueError),
        ({"sample_weight": torch.ones(3)}, ValueError),
        ({"batch_size": 1}, ValueError),
    ],
    ids=["callback", "diverged", "epochs", "option", "validation", "weights", "batch"],
)
def test_an_error_leaves_the_module_unchanged(options, error, data, make_module, assert_same_state):
    module = make_module()
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(error):
        train_torch(module, *data, loss="cross_entropy", **options)
    assert_same_state(module, make_module(), 0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
