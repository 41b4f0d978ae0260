"""Modules of PyTorch as networks, networks as modules, and modules trained here as PyTorch trains them."""

import copy
import io
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="PyTorch is exchanged with; pip install torch")

from torch import nn  # noqa: E402

import bpfast as bp  # noqa: E402
from bpfast.activations import activations  # noqa: E402
from bpfast.interop.torch import Exp, Residual, from_torch, to_torch, train_torch  # noqa: E402
from bpfast.interop.torch import counterparts, write_module  # noqa: E402
from bpfast.layers import layers  # noqa: E402
from bpfast.losses import LINKS  # noqa: E402

torch.set_num_threads(1)
N_INPUTS, N_OUTPUTS, ROWS = 5, 3, 16
TOLERANCE = {"float32": 1e-6, "float64": 1e-13}


def test_every_layer_activation_and_link_has_a_row():
    assert set(write_module.MAKERS) == {layers[name] for name in layers}
    assert set(write_module.FUNCTIONS) == set(activations) - {"identity"}
    assert set(write_module.LINK_MODULES) == set(LINKS)


def relative(array, expected):
    expected = expected.detach().numpy() if isinstance(expected, torch.Tensor) else expected
    scale = np.abs(expected).max()
    return float(np.abs(array - expected).max() / (scale if scale > 0 else 1))


def perturb(module, seed):
    """Parameters and running statistics that are all random; variances stay positive."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if tensor.is_floating_point():
                noise = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
                if name.endswith("var"):
                    noise = noise.abs() + 0.2
                elif noise.ndim == 2:
                    noise /= noise.shape[1] ** 0.5
                tensor.copy_(noise)


# ---- random modules, drawn as what makes them from a width ----

SIMPLE = [
    lambda w: nn.Sigmoid(),
    lambda w: nn.Tanh(),
    lambda w: nn.ReLU(),
    lambda w: nn.LeakyReLU(0.2),
    lambda w: nn.LeakyReLU(0),
    lambda w: nn.ELU(0.7),
    lambda w: nn.SELU(),
    lambda w: nn.GELU(),
    lambda w: nn.SiLU(),
    lambda w: nn.Softplus(),
    lambda w: nn.Identity(),
    lambda w: nn.Flatten(),
    lambda w: nn.Dropout(0.3),
    lambda w: nn.BatchNorm1d(w, momentum=0.3, eps=1e-2),
    lambda w: nn.BatchNorm1d(w, eps=1e-2, affine=False),
    lambda w: nn.LayerNorm(w, eps=1e-2),
    lambda w: nn.LayerNorm([w], eps=1e-2, bias=False),
    lambda w: nn.LayerNorm(w, eps=1e-2, elementwise_affine=False),
    lambda w: nn.PReLU(),
    lambda w: nn.PReLU(w),
    lambda w: nn.RReLU(0.1, 0.4),
]


@st.composite
def modules(draw, width, depth=2):
    """A Sequential for this width, and the width of its output."""
    made = []
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.integers(0, 3 if depth else 2))
        if kind == 0:
            out = draw(st.integers(1, 9))
            made.append(nn.Linear(width, out, bias=draw(st.booleans())))
            width = out
            if draw(st.integers(0, 4)) == 0:
                made.append(nn.MaxPool1d(width))
                width = 1
        elif kind < 3:
            made.append(draw(st.sampled_from(SIMPLE))(width))
        else:
            inner, out = draw(modules(width, depth - 1))
            if draw(st.booleans()):
                inner = Residual(inner, None if out == width else nn.Linear(width, out, bias=False))
            made.append(inner)
            width = out
    return nn.Sequential(*made), width


random_stacks = settings(
    max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)


@random_stacks
@given(
    drawn=modules(N_INPUTS),
    tail=st.booleans(),
    dtype=st.sampled_from(["float32", "float64"]),
    seed=st.integers(0, 1000),
)
def test_random_modules(drawn, tail, dtype, seed):
    module, width = drawn
    if tail:
        module.append(nn.Linear(width, N_OUTPUTS))
    module.to(getattr(torch, dtype)).eval()
    perturb(module, seed)
    x = torch.randn(ROWS, N_INPUTS, generator=torch.Generator().manual_seed(seed)).to(getattr(torch, dtype))
    before = copy.deepcopy(module.state_dict())
    net = from_torch(module, loss="squared_error", n_inputs=N_INPUTS, dtype=dtype)
    Z = module(x)
    # Where a sum cancels, PyTorch is as far from the truth; how far in float32 tells of both.
    truth = copy.deepcopy(module).double()(x.double())
    single = relative(copy.deepcopy(module).float()(x.float()).detach().numpy(), truth)
    own = single * np.finfo(dtype).eps / np.finfo("float32").eps
    assert relative(net.forward(x.numpy()), Z) <= max(TOLERANCE[dtype], 3 * own)
    # Back again it says the same, and nothing of the module has moved.
    again = to_torch(net)
    assert relative(net.forward(x.numpy()), again(x)) <= max(TOLERANCE[dtype], 3 * own)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def layer_lists(depth):
    """Lists of bpfast's layers."""
    activation = st.sampled_from([activations[name]() for name in activations])
    width = st.integers(1, 7)
    kinds = [
        st.builds(bp.Dense, width, activation, bias=st.booleans()),
        st.builds(bp.Activation, activation),
        st.builds(bp.Dropout, st.floats(0, 0.6)),
        st.builds(lambda m: bp.BatchNorm(momentum=m, epsilon=1e-2), st.floats(0.05, 1)),
        st.just(bp.BatchRenorm(epsilon=1e-2)),
        st.just(bp.LayerNorm(epsilon=1e-2)),
        st.builds(bp.Maxout, width, st.integers(1, 3), bias=st.booleans()),
        st.builds(bp.PReLU, st.floats(-0.5, 0.5)),
        st.builds(bp.RReLU, st.floats(0, 0.2), st.floats(0.2, 0.6)),
        st.builds(bp.Auxiliary, st.just(N_OUTPUTS), st.none(), st.floats(0.1, 2)),
    ]
    if depth > 0:
        kinds.append(layer_lists(depth - 1).map(lambda inner: bp.Residual(*inner)))
    return st.lists(st.one_of(kinds), min_size=1, max_size=4)


#: Losses with every link but exp, behind which an error of Z is as large as Z times it.
LOSSES = ["squared_error", "cross_entropy", "log_loss"]


@random_stacks
@given(
    stack=layer_lists(2),
    output=st.sampled_from(["identity", "sigmoid", "relu"]),
    loss=st.sampled_from(LOSSES),
    dtype=st.sampled_from(["float32", "float64"]),
    seed=st.integers(0, 1000),
)
def test_random_networks(stack, output, loss, dtype, seed):
    rng = np.random.default_rng(seed)
    net = bp.Network(
        [*stack, bp.Dense(N_OUTPUTS, output)], n_inputs=N_INPUTS, loss=loss, dtype=dtype, seed=seed
    )
    for array in net.parameters.values():
        array += rng.normal(0, 0.3, array.shape)
    for name, array in net.statistics.items():
        array[...] = (
            rng.normal(size=array.shape) if name.endswith("mean") else rng.uniform(0.2, 3, array.shape)
        )
    X = rng.normal(size=(ROWS, N_INPUTS)).astype(dtype)
    for link, outputs in ((False, net.forward), (True, net.predict)):
        module = to_torch(net, link=link)
        assert relative(module(torch.from_numpy(X)).detach().numpy(), outputs(X)) <= TOLERANCE[dtype]
        again = from_torch(module, loss=loss)
        assert again.forward(X).tobytes() == net.forward(X).tobytes()
        assert again.predict(X).tobytes() == net.predict(X).tobytes()


@pytest.mark.parametrize("link", ["identity", "sigmoid", "softmax", "exp"])
def test_what_is_made_can_be_pickled(link):
    loss = {"identity": "squared_error", "sigmoid": "log_loss", "softmax": "cross_entropy", "exp": "poisson"}
    net = bp.Network([bp.Residual(bp.Maxout(6)), bp.Dense(2)], n_inputs=5, loss=loss[link], dtype="float64")
    module = to_torch(net, link=True)
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    X = np.linspace(-1, 1, 35).reshape(7, 5)
    loaded = torch.load(file, weights_only=False)
    assert relative(loaded(torch.from_numpy(X)).detach().numpy(), net.predict(X)) <= 1e-14
    # Nobody else's private modules are named in the file.
    assert {type(m).__module__ for m in loaded.modules() if isinstance(m, (Residual, Exp))} == {
        "bpfast.interop.torch"
    }


def test_to_torch_takes_neither_random_numbers_nor_the_default_device():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    net = bp.Network([bp.Maxout(4), bp.BatchNorm(), bp.Dense(2)], n_inputs=5, loss="squared_error")
    with torch.device("meta"):
        module = to_torch(net)
    assert not module.training
    assert {tensor.device.type for tensor in module.state_dict().values()} == {"cpu"}
    assert torch.equal(torch.rand(4), expected)


def test_a_module_in_two_places():
    """One ReLU may stand twice; one Linear that does becomes two, and could not be trained."""
    relu, linear = nn.ReLU(), nn.Linear(4, 4)
    module = nn.Sequential(linear, relu, nn.Linear(4, 4), relu, nn.Sequential(linear, relu))
    x = torch.randn(9, 4)
    net = from_torch(module, loss="squared_error")
    assert [layer.text for layer in net.layers] == ["relu"] * 3
    assert relative(net.forward(x.numpy()), module(x)) <= 1e-6
    with pytest.raises(ValueError, match=r"one parameter twice \(0\.weight, 4\.0\.weight\)"):
        train_torch(module, x, x, loss="squared_error")


def test_frozen_both_ways():
    module = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    module[0].weight.requires_grad_(False)
    module[1].requires_grad_(False)
    net = from_torch(module, loss="squared_error")
    scales = {name for name, scale in net.learning_rate_scales.items() if scale == 0}
    assert scales == {"0.W", "1.gamma", "1.beta"}
    back = to_torch(net)
    assert [p.requires_grad for p in back.parameters()] == [p.requires_grad for p in module.parameters()]


# ---- links ----


@pytest.mark.parametrize(
    ("last", "loss", "made_of"),
    [
        (nn.Softmax(1), "cross_entropy", lambda z: torch.softmax(z, 1)),
        (nn.Softmax(-1), "cross_entropy", lambda z: torch.softmax(z, 1)),
        (nn.LogSoftmax(1), nn.NLLLoss(), lambda z: torch.softmax(z, 1)),
        (nn.Sigmoid(), "log_loss", torch.sigmoid),
        (nn.Sigmoid(), nn.BCELoss(), torch.sigmoid),
        (Exp(), "poisson", torch.exp),
        (nn.Sigmoid(), "squared_error", torch.sigmoid),
        (nn.Sequential(nn.Sigmoid(), nn.Identity()), "log_loss", lambda z: torch.sigmoid(torch.sigmoid(z))),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_link_at_the_end_is_that_of_the_loss(last, loss, made_of):
    module = nn.Sequential(nn.Linear(4, 3), last).double()
    x = torch.randn(9, 4, dtype=torch.float64)
    net = from_torch(module, loss=loss)
    assert relative(net.predict(x.numpy()), made_of(module[0](x))) < 1e-14


# ---- training, beside PyTorch's own loop ----


def a_module():
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


def loop(module, X, y, loss, optimizer, epochs, batch_size):
    """PyTorch's way; the mean loss of every epoch."""
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


def assert_same_state(module, twin, tolerance=1e-9):
    theirs = twin.state_dict()
    for name, tensor in module.state_dict().items():
        assert relative(tensor.numpy(), theirs[name]) <= tolerance, name


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
def test_the_optimizers_of_pytorch(kind, data):
    """The b before a BatchNorm is 0 but for rounding, which rules that scale it would make large."""
    X, y = data
    module = a_module()
    twin = copy.deepcopy(module)
    batch = 40 if kind is torch.optim.Rprop else 8
    for m in (module, twin):
        m[1].bias.requires_grad_(False)
    make = optimizer_of(kind)
    expected = loop(twin, X, y, nn.CrossEntropyLoss(), make(twin), 4, batch)
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
    assert_same_state(module, twin)


#: A targets' tensor for each loss of PyTorch, and the link that must end the module.
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
def test_the_losses_of_pytorch(loss, data):
    X, y = data
    make = TARGETS[loss]
    if make is not None:
        y = make((40, N_OUTPUTS), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    module = a_module()
    module.extend({nn.NLLLoss: [nn.LogSoftmax(1)], nn.BCELoss: [nn.Sigmoid()]}.get(type(loss), []))
    twin = copy.deepcopy(module)
    expected = loop(twin, X, y, loss, torch.optim.SGD(twin.parameters(), 0.05, momentum=0.9), 3, 10)
    history = train_torch(
        module, X, y, loss=loss, optimizer=bp.SGD(0.05, 0.9), epochs=3, batch_size=10, shuffle=False
    )
    np.testing.assert_allclose(history.loss, expected, rtol=1e-9)
    assert_same_state(module, twin)
    assert module[2].num_batches_tracked == 12


def test_every_loss_of_the_table_is_tried():
    assert {type(loss) for loss in TARGETS} == set(counterparts.LOSSES)


def test_frozen_parts_and_statistics_stay(data):
    X, y = data
    module = a_module()
    module[1].requires_grad_(False)
    module[2].requires_grad_(False).eval()
    twin = copy.deepcopy(module)
    before = copy.deepcopy(module.state_dict())
    for m in (module, twin):
        m.train = None  # The loop calls it, and would wake the statistics.
    twin.train = lambda: None
    loop(twin, X, y, nn.CrossEntropyLoss(), optimizer_of(torch.optim.SGD)(twin), 3, 8)
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
    assert_same_state(module, twin)
    assert all(torch.equal(t, before[f"2.{name}"]) for name, t in module[2].state_dict().items())
    assert torch.equal(module[1].weight, before["1.weight"])


def test_float32_arrays_images_weights_and_validation():
    """Data of every kind gives the same bits; what comes back is in the module's own tensors."""
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


def test_what_only_bpfast_has(data):
    """L-BFGS, a penalty and a loss that PyTorch has none of."""
    X, _ = data
    module = a_module()
    options = {"loss": bp.Quantile(0.7), "penalty": bp.L2(1e-3), "optimizer": bp.LBFGS(), "epochs": 4}
    net = from_torch(module, loss=bp.Quantile(0.7))
    train_torch(module, X, X[:, :3], **options)
    del options["loss"]
    net.fit(X.numpy(), X[:, :3].numpy(), **options)
    assert relative(net.forward(X.numpy()), module.eval()(X)) <= 1e-12


def test_n_inputs_from_the_data_where_no_module_tells(data):
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


def test_an_interrupt_keeps_what_was_learned(data):
    X, y = data
    module, whole = a_module(), a_module()
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
def test_after_an_error_the_module_is_as_before(options, error, data):
    module = a_module()
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(error):
        train_torch(module, *data, loss="cross_entropy", **options)
    assert_same_state(module, a_module(), 0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


# ---- what is refused, in one line ----


class Wide(nn.Linear):
    pass


class Own(nn.Module):
    def forward(self, x):
        return x


def hooked():
    module = nn.Sequential(nn.Linear(4, 2))
    module[0].register_forward_hook(lambda *_: None)
    return module


def overridden(module, place):
    m = module.get_submodule(place)
    m.forward = lambda x: 2 * type(m).forward(m, x)
    return module


def broken(value):
    module = nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2))
    with torch.no_grad():
        (module[0].weight if np.isnan(value) else module[1].running_var)[0] = value
    return module


REFUSED = {
    "no module": ([nn.Linear(4, 2)], "module must be a torch.nn.Module"),
    "unknown": (
        nn.Sequential(nn.Linear(4, 2), Own()),
        r"module\[1\] \(Own\): bpfast reads",
    ),
    "subclass": (nn.Sequential(Wide(4, 2)), "a subclass of Linear may compute something else"),
    "unflatten": (nn.Sequential(nn.Unflatten(1, (2, 2))), r"module\[0\] \(Unflatten\)"),
    "flatten": (nn.Sequential(nn.Flatten(0), nn.Linear(4, 2)), "start_dim must be 1"),
    "width": (
        nn.Sequential(nn.Linear(4, 2), nn.Linear(3, 1)),
        r"\[1\] \(Linear\): takes 3 columns; it gets 2",
    ),
    "nested": (
        nn.Sequential(nn.Linear(4, 2), nn.Sequential(nn.ReLU(), nn.BatchNorm1d(3))),
        r"module\[1\]\[1\] \(BatchNorm1d\): takes 3",
    ),
    "norm": (nn.Sequential(nn.Linear(4, 2), nn.LayerNorm(3)), "takes 3 columns"),
    "norm of two": (
        nn.Sequential(nn.Linear(4, 2), nn.LayerNorm((2, 2))),
        "normalized_shape must be one",
    ),
    "prelu": (nn.Sequential(nn.Linear(4, 2), nn.PReLU(3)), "takes 3 columns"),
    "gelu": (nn.Sequential(nn.Linear(4, 2), nn.GELU("tanh")), "approximate must be 'none'"),
    "softplus": (nn.Sequential(nn.Linear(4, 2), nn.Softplus(beta=2)), "beta must be 1"),
    "threshold": (nn.Sequential(nn.Linear(4, 2), nn.Softplus(threshold=5)), "threshold must be at least 20"),
    "momentum": (
        nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2, momentum=None)),
        "momentum must be a",
    ),
    "statistics": (
        nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2, track_running_stats=False)),
        "track_running_stats must be True",
    ),
    "slope": (
        nn.Sequential(nn.Linear(4, 2), nn.LeakyReLU(-1)),
        r"\(LeakyReLU\): .*greater than 0",
    ),
    "rate": (nn.Sequential(nn.Linear(4, 2), nn.Dropout(1.0)), r"\(Dropout\): .*less than 1"),
    "pool": (nn.Sequential(nn.Linear(4, 6), nn.MaxPool1d(3, 1)), "stride must be kernel_size"),
    "pool first": (nn.Sequential(nn.MaxPool1d(2), nn.Linear(2, 2)), "behind a dense layer"),
    "pool ragged": (nn.Sequential(nn.Linear(4, 5), nn.MaxPool1d(2)), "behind a dense layer"),
    "inner softmax": (nn.Sequential(nn.Linear(4, 2), nn.Softmax(1), nn.Tanh()), "it is the link of a loss"),
    "skip": (
        nn.Sequential(Residual(nn.Linear(4, 2), nn.Linear(4, 2))),
        "skip must be a Linear",
    ),
    "no skip": (nn.Sequential(Residual(nn.Linear(4, 2))), "skip must be a Linear"),
    "own skip": (
        nn.Sequential(Residual(nn.Linear(4, 4), nn.Linear(4, 4, False))),
        "skip must be an Identity",
    ),
    "half": (nn.Sequential(nn.Linear(4, 2)).half(), "module has float16; all float32"),
    "mixed": (nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2).double()), "module has float32 and float64"),
    "device": (nn.Sequential(nn.Linear(4, 2, device="meta")), r"0\.weight on device meta; module.cpu\(\)"),
    "hooks": (hooked(), r"module\[0\] \(Linear\) has hooks"),
    "forward": (
        overridden(nn.Sequential(nn.Linear(4, 2)), "0"),
        r"module\[0\] \(Linear\) has a forward of its",
    ),
    "forward of all": (
        overridden(nn.Sequential(nn.Linear(4, 2)), ""),
        r"module \(Sequential\) has a forward of its own",
    ),
    "forward of a skip": (
        overridden(nn.Sequential(Residual(nn.Linear(4, 4))), "0.skip"),
        r"skip \(Identity\) has a forward of its own",
    ),
    "parametrised": (
        nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 2))),
        "a subclass of Linear may",
    ),
    "not finite": (broken(np.nan), r"0.W is not finite in float32"),
    "variance": (broken(-1.0), r"1.variance is below 0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_module_that_bpfast_can_not_be(name):
    module, message = REFUSED[name]
    for call in (
        lambda: from_torch(module, loss="squared_error"),
        lambda: train_torch(module, np.zeros((6, 4)), np.zeros((6, 2)), loss="squared_error"),
    ):
        with pytest.raises((ValueError, TypeError), match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("last", "loss", "message"),
    [
        ([nn.Softmax(1)], "squared_error", "Softmax\\) is the link of loss='cross_entropy'"),
        ([nn.Softmax(1)], nn.CrossEntropyLoss(), "is Softmax; the loss that was given takes the raw outputs"),
        ([nn.Softmax(0)], "cross_entropy", "dim must be 1 or -1; got 0"),
        ([nn.Sigmoid()], nn.BCEWithLogitsLoss(), "takes the raw outputs"),
        ([], nn.NLLLoss(), "is Linear; the loss that was given takes LogSoftmax as the last module"),
        ([nn.Softmax(1)], nn.NLLLoss(), "takes LogSoftmax as the last module"),
        ([nn.Sigmoid()], nn.NLLLoss(), "takes LogSoftmax as the last module"),
        ([], nn.BCELoss(), "takes Sigmoid as the last module"),
        ([Exp()], "log_loss", "Exp\\) is the link of loss='poisson'"),
        ([], nn.MSELoss(reduction="sum"), "loss MSELoss: reduction must be 'mean' for bpfast; got 'sum'"),
        ([], nn.CrossEntropyLoss(weight=torch.ones(2)), "weight must be None for bpfast; got a tensor"),
        ([], nn.CrossEntropyLoss(label_smoothing=0.1), "label_smoothing must be 0.0"),
        ([], nn.SmoothL1Loss(beta=0.5), "beta must be 1.0"),
        ([], nn.PoissonNLLLoss(log_input=False), "log_input must be True"),
        ([], nn.KLDivLoss(), "loss KLDivLoss has no counterpart"),
        ([], "mean", "unknown loss"),
    ],
    ids=str,
)
def test_a_loss_that_does_not_fit(last, loss, message):
    with pytest.raises(ValueError, match=message):
        from_torch(nn.Sequential(nn.Linear(4, 2), *last), loss=loss)


def tied():
    module = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    module[2].weight = module[0].weight
    return module


def over_one_another(begin, expanded=False):
    """Linears whose weights lie in one memory, or one whose weights are one number."""
    memory = torch.zeros(40)
    module = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    module[0].weight = nn.Parameter(memory[:16].view(4, 4))
    second = torch.zeros(1, 4).expand(4, 4) if expanded else memory[begin : begin + 16].view(4, 4)
    module[2].weight = nn.Parameter(second)
    return module


def one_mean():
    module = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 4), nn.BatchNorm1d(4))
    module[2].running_mean = module[0].running_mean
    return module


def in_part(kind, training):
    module = nn.Sequential(nn.Linear(4, 4), kind)
    module[1].train(training)
    return module


UNTRAINABLE = {
    "tied": (tied(), "one parameter twice"),
    "one memory": (over_one_another(0), r"0\.weight and 2\.weight in the same memory"),
    "in part one memory": (over_one_another(15), r"0\.weight and 2\.weight in the same memory"),
    "one mean": (one_mean(), r"0\.running_mean and 2\.running_mean in the same memory"),
    "expanded": (over_one_another(0, expanded=True), r"module has 2\.weight expanded"),
    "one slope": (nn.Sequential(nn.Linear(4, 4), nn.PReLU()), r"nn.PReLU\(width\) is wanted"),
    "not affine": (in_part(nn.BatchNorm1d(4, affine=False), True), r"call its \.eval\(\)"),
    "frozen": (in_part(nn.BatchNorm1d(4).requires_grad_(False), True), r"call its \.eval\(\)"),
    "asleep": (in_part(nn.BatchNorm1d(4), False), r"BatchNorm1d \(1\) in eval mode"),
    "no dropout": (in_part(nn.Dropout(), False), r"Dropout \(1\) in eval mode"),
}


@pytest.mark.parametrize("name", UNTRAINABLE)
def test_a_module_that_can_be_read_but_not_trained(name):
    module, message = UNTRAINABLE[name]
    from_torch(module, loss="squared_error")
    with pytest.raises(ValueError, match=message):
        train_torch(module, np.zeros((6, 4)), np.zeros((6, 4)), loss="squared_error")


def test_weights_side_by_side_in_one_memory_train():
    """Only what overlaps is refused, and what is frozen may be expanded."""
    X, y = np.eye(4, dtype="float32"), np.ones((4, 4), "float32")
    module = over_one_another(16)
    train_torch(module, X, y, loss="squared_error", epochs=1)
    assert module[2].bias.abs().max() > 0
    module = over_one_another(0, expanded=True)
    module[2].weight.requires_grad_(False)
    bias = module[2].bias.clone()
    train_torch(module, X, y, loss="squared_error", epochs=1)
    assert (module[2].bias != bias).all()
    assert not module[2].weight.any()


def stepped(module):
    optimizer = torch.optim.SGD(module.parameters(), 0.1, momentum=0.9)
    module(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    return optimizer


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: torch.optim.SGD(m.parameters(), 0.1, weight_decay=0.1), "SGD has weight_decay 0.1, which"),
        (lambda m: torch.optim.AdamW(m.parameters()), "AdamW has weight_decay 0.01, which"),
        (lambda m: torch.optim.Adam(m.parameters(), amsgrad=True), "amsgrad must be False"),
        (lambda m: torch.optim.SGD(m.parameters(), 0.1, maximize=True), "maximize must be False"),
        (lambda m: torch.optim.NAdam(m.parameters()), "optimizer NAdam has no counterpart"),
        (lambda m: torch.optim.SGD([m.weight], 0.1), "does not have all parameters"),
        (
            lambda m: torch.optim.SGD([{"params": [m.weight]}, {"params": [m.bias]}], 0.1),
            "2 parameter",
        ),
        (stepped, "has made steps"),
    ],
)
def test_an_optimizer_that_does_not_fit(make, message):
    module = nn.Linear(4, 2)
    with pytest.raises(ValueError, match=message):
        train_torch(module, np.zeros((6, 4)), np.zeros((6, 2)), loss="squared_error", optimizer=make(module))


@pytest.mark.parametrize(
    ("X", "y", "error", "message"),
    [
        (
            torch.zeros(6, 4, dtype=torch.bfloat16),
            torch.zeros(6, 2),
            TypeError,
            "X is a tensor of",
        ),
        (torch.zeros(6, 4, device="meta"), torch.zeros(6, 2), ValueError, "X is a strided tensor on meta"),
        (torch.zeros(6, 4).to_sparse(), torch.zeros(6, 2), ValueError, "X is a sparse_coo tensor on cpu"),
        (torch.zeros(6, 2, 2), torch.zeros(6, 2), ValueError, "X must be a matrix"),
        (torch.zeros(6, 5), torch.zeros(6, 2), ValueError, "X has 5 columns; this network takes 4"),
        (torch.zeros(6, 4), torch.zeros(5, 2), ValueError, "y has 5 rows; X has 6"),
        (torch.full((6, 4), torch.nan), torch.zeros(6, 2), ValueError, "X holds nan at row 0"),
    ],
)
def test_data_that_does_not_fit(X, y, error, message):
    with pytest.raises(error, match=message):
        train_torch(nn.Linear(4, 2), X, y, loss="squared_error")


def test_to_torch_wants_a_network():
    with pytest.raises(TypeError, match=r"net must be a bpfast\.Network"):
        to_torch(nn.Linear(4, 2))
    net = bp.Network([bp.Dense(2)], n_inputs=4, loss="squared_error")
    with pytest.raises(TypeError, match="link must be True or False"):
        to_torch(net, link="softmax")


@pytest.mark.parametrize(
    ("code", "answer"),
    [
        ("import bpfast; print([m for m in ('torch', 'keras', 'onnx') if m in sys.modules])", "[]"),
        (
            "sys.modules['torch'] = None\ntry: import bpfast.interop.torch\nexcept ImportError as e: "
            "print(e)",
            'bpfast.interop.torch needs PyTorch: pip install "bpfast[torch]"',
        ),
    ],
    ids=["not imported", "not there"],
)
def test_pytorch_is_an_option(code, answer):
    found = subprocess.run(
        [sys.executable, "-P", "-c", f"import sys\n{code}"], capture_output=True, text=True
    )
    assert found.stdout.strip() == answer, found.stderr
