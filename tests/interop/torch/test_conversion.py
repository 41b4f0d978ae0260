"""PyTorch modules as networks, and networks as PyTorch modules."""

import copy
import io
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="needs PyTorch")

from torch import nn  # noqa: E402

import bpfast as bp  # noqa: E402
from bpfast.activations import activations  # noqa: E402
from bpfast.interop.torch import (  # noqa: E402
    Exp,
    Residual,
    from_torch,
    to_torch,
    train_torch,
    write_module,
)
from bpfast.layers import layers  # noqa: E402
from bpfast.losses import LINKS  # noqa: E402

torch.set_num_threads(1)


N_INPUTS, N_OUTPUTS, ROWS = 5, 3, 16


TOLERANCE = {"float32": 1e-6, "float64": 1e-13}


def test_the_tables_are_complete():
    assert set(write_module.MAKERS) == {layers[name] for name in layers}
    assert set(write_module.FUNCTIONS) == set(activations) - {"identity"}
    assert set(write_module.LINK_MODULES) == set(LINKS)


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
    """Draw a Sequential for inputs of this width, and return it with the width of its output."""
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
def test_random_modules_are_converted_both_ways(drawn, tail, dtype, seed, relative, perturb):
    module, width = drawn
    if tail:
        module.append(nn.Linear(width, N_OUTPUTS))
    module.to(getattr(torch, dtype)).eval()
    perturb(module, seed)
    x = torch.randn(ROWS, N_INPUTS, generator=torch.Generator().manual_seed(seed)).to(getattr(torch, dtype))
    before = copy.deepcopy(module.state_dict())
    net = from_torch(module, loss="squared_error", n_inputs=N_INPUTS, dtype=dtype)
    Z = module(x)
    # Where a sum cancels, both are inexact: the error of PyTorch in float32 gives the scale.
    truth = copy.deepcopy(module).double()(x.double())
    single = relative(copy.deepcopy(module).float()(x.float()).detach().numpy(), truth)
    own = single * np.finfo(dtype).eps / np.finfo("float32").eps
    assert relative(net.forward(x.numpy()), Z) <= max(TOLERANCE[dtype], 3 * own)
    # The module converted back has the same outputs, and the original has not changed.
    again = to_torch(net)
    assert relative(net.forward(x.numpy()), again(x)) <= max(TOLERANCE[dtype], 3 * own)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def layer_lists(depth):
    """Lists of bpfast layers, drawn by hypothesis."""
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


#: Losses with every link except exp, which multiplies the relative error of Z by Z.
LOSSES = ["squared_error", "cross_entropy", "log_loss"]


@random_stacks
@given(
    stack=layer_lists(2),
    output=st.sampled_from(["identity", "sigmoid", "relu"]),
    loss=st.sampled_from(LOSSES),
    dtype=st.sampled_from(["float32", "float64"]),
    seed=st.integers(0, 1000),
)
def test_random_networks_are_converted_both_ways(stack, output, loss, dtype, seed, relative):
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
def test_converted_modules_can_be_pickled(link, relative):
    loss = {"identity": "squared_error", "sigmoid": "log_loss", "softmax": "cross_entropy", "exp": "poisson"}
    net = bp.Network([bp.Residual(bp.Maxout(6)), bp.Dense(2)], n_inputs=5, loss=loss[link], dtype="float64")
    module = to_torch(net, link=True)
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    X = np.linspace(-1, 1, 35).reshape(7, 5)
    loaded = torch.load(file, weights_only=False)
    assert relative(loaded(torch.from_numpy(X)).detach().numpy(), net.predict(X)) <= 1e-14
    # The file refers to public names only.
    assert {type(m).__module__ for m in loaded.modules() if isinstance(m, (Residual, Exp))} == {
        "bpfast.interop.torch"
    }


def test_to_torch_ignores_the_random_generator_and_the_default_device():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    net = bp.Network([bp.Maxout(4), bp.BatchNorm(), bp.Dense(2)], n_inputs=5, loss="squared_error")
    with torch.device("meta"):
        module = to_torch(net)
    assert not module.training
    assert {tensor.device.type for tensor in module.state_dict().values()} == {"cpu"}
    assert torch.equal(torch.rand(4), expected)


def test_a_module_that_occurs_twice(relative):
    """One ReLU may occur twice; a Linear that does becomes two layers, and cannot be trained."""
    relu, linear = nn.ReLU(), nn.Linear(4, 4)
    module = nn.Sequential(linear, relu, nn.Linear(4, 4), relu, nn.Sequential(linear, relu))
    x = torch.randn(9, 4)
    net = from_torch(module, loss="squared_error")
    assert [layer.text for layer in net.layers] == ["relu"] * 3
    assert relative(net.forward(x.numpy()), module(x)) <= 1e-6
    with pytest.raises(ValueError, match=r"one parameter twice \(0\.weight, 4\.0\.weight\)"):
        train_torch(module, x, x, loss="squared_error")


def test_frozen_parameters_are_converted_both_ways():
    module = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    module[0].weight.requires_grad_(False)
    module[1].requires_grad_(False)
    net = from_torch(module, loss="squared_error")
    scales = {name for name, scale in net.learning_rate_scales.items() if scale == 0}
    assert scales == {"0.W", "1.gamma", "1.beta"}
    back = to_torch(net)
    assert [p.requires_grad for p in back.parameters()] == [p.requires_grad for p in module.parameters()]


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
def test_a_final_link_is_that_of_the_loss(last, loss, made_of, relative):
    module = nn.Sequential(nn.Linear(4, 3), last).double()
    x = torch.randn(9, 4, dtype=torch.float64)
    net = from_torch(module, loss=loss)
    assert relative(net.predict(x.numpy()), made_of(module[0](x))) < 1e-14


def test_errors_of_to_torch():
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
def test_pytorch_is_optional(code, answer):
    found = subprocess.run(
        [sys.executable, "-P", "-c", f"import sys\n{code}"], capture_output=True, text=True
    )
    assert found.stdout.strip() == answer, found.stderr
