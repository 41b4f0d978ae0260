"""PyTorch's modules and bpfast's layers: what each becomes as the other, in tables of exact classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from ...arrays import Array, checks
from ...network import Network
from ...specs import activations as functions
from ...specs import layers
from ...specs.losses import Loss, link_of
from ...specs.spec import integer
from ..common import Slot, Stack, at_place, pieces_order
from .rules import LossRow, read_loss


class Residual(nn.Module):  # type: ignore[misc]
    """A = X + F(X), or F(X) + skip(X): what `to_torch` makes of a `bpfast.Residual`.

    Parameters
    ----------
    body : nn.Sequential
        F.
    skip : nn.Linear, optional
        The projection P, where F(X) has other columns than X; without a bias.
    """

    __module__ = "bpfast.interop.torch"  # Where a pickle looks for it.

    def __init__(self, body: Any, skip: Any = None) -> None:
        super().__init__()
        self.body = body
        self.skip = nn.Identity() if skip is None else skip

    def forward(self, x: Any) -> Any:
        return self.body(x) + self.skip(x)


class Exp(nn.Module):  # type: ignore[misc]
    """A = exp(Z): the link of the poisson loss, which PyTorch has no module for."""

    __module__ = "bpfast.interop.torch"

    def forward(self, z: Any) -> Any:
        return torch.exp(z)


#: The modules that a loss applies by itself → the link's name.
LINKS: dict[type, str] = {nn.Softmax: "softmax", nn.LogSoftmax: "softmax", nn.Sigmoid: "sigmoid", Exp: "exp"}


def _put(tensor: Any, values: Array) -> None:
    with torch.no_grad():
        tensor.copy_(torch.from_numpy(np.array(values.T)))


def _slot(name: str, tensor: Any) -> Slot:
    """A slot on a tensor, whose axes are bpfast's in the other order."""
    if tensor is None:
        return Slot(name, trained=False)
    return Slot(name, bool(tensor.requires_grad), tensor, tensor.detach().numpy().T, _put)


def _linear_slots(m: Any) -> list[Slot]:
    return [_slot("W", m.weight), *([] if m.bias is None else [_slot("b", m.bias)])]


def _norm_slots(m: Any) -> list[Slot]:
    return [_slot("gamma", m.weight), _slot("beta", m.bias)]


def _batch_norm_slots(m: Any) -> list[Slot]:
    return [*_norm_slots(m), _slot("mean", m.running_mean), _slot("variance", m.running_var)]


def _require(m: Any, **wanted: Any) -> None:
    for name, value in wanted.items():
        if getattr(m, name) != value:
            raise ValueError(f"{name} must be {value!r} for bpfast; got {getattr(m, name)!r}")


def _read_linear(stack: Stack, m: Any) -> None:
    stack.require_width(m.in_features)
    stack.append(layers.Dense(m.out_features, bias=m.bias is not None), _linear_slots(m), m.out_features)


def _read_batch_norm(stack: Stack, m: Any) -> None:
    stack.require_width(m.num_features)
    _require(m, track_running_stats=True)
    if m.momentum is None:
        raise ValueError("momentum must be a number for bpfast; got None (a cumulative average)")
    stack.append(layers.BatchNorm(momentum=m.momentum, epsilon=m.eps), _batch_norm_slots(m))


def _read_layer_norm(stack: Stack, m: Any) -> None:
    if len(m.normalized_shape) != 1:
        raise ValueError(f"normalized_shape must be one number for bpfast; got {tuple(m.normalized_shape)}")
    stack.require_width(m.normalized_shape[0])
    stack.append(layers.LayerNorm(epsilon=m.eps), _norm_slots(m))


def _read_prelu(stack: Stack, m: Any) -> None:
    shared = m.num_parameters == 1 and stack.width > 1
    if not shared:
        stack.require_width(m.num_parameters)
    slot = _slot("slope", m.weight)
    stack.append(layers.PReLU(), [replace(slot, order=np.zeros(stack.width, int)) if shared else slot])


def _read_max_pool(stack: Stack, m: Any) -> None:
    pieces = m.kernel_size[0] if isinstance(m.kernel_size, tuple) else m.kernel_size
    stride = m.stride[0] if isinstance(m.stride, tuple) else m.stride
    if stride != pieces or m.padding not in (0, (0,)) or m.dilation not in (1, (1,)):
        raise ValueError("stride must be kernel_size, padding 0 and dilation 1 for bpfast's Maxout")
    _require(m, ceil_mode=False, return_indices=False)
    stack.maxout(pieces)


def _read_residual(stack: Stack, m: Any) -> None:
    inner = Stack(stack.width)
    leaves = list(leaves_of(m.body, "body"))
    _require_known(leaves)
    _require_plain("skip", m.skip)
    _read_modules(inner, leaves)
    projection = None
    if inner.width != stack.width:
        if type(m.skip) is not nn.Linear or m.skip.bias is not None:
            raise ValueError(f"skip must be a Linear without a bias, {stack.width} to {inner.width} columns")
        stack.require_width(m.skip.in_features)
        inner.require_width(m.skip.out_features)
        (projection,) = _linear_slots(m.skip)
    elif type(m.skip) is not nn.Identity:
        raise ValueError("skip must be an Identity where its columns stay the same")
    stack.residual(inner, projection)


def _gelu(m: Any) -> functions.Activation:
    _require(m, approximate="none")
    return functions.GELU()


def _softplus(m: Any) -> functions.Activation:
    _require(m, beta=1.0)
    if m.threshold < 20:
        raise ValueError(f"threshold must be at least 20 for bpfast; got {m.threshold!r}")
    return functions.Softplus()


#: PyTorch's activations, the exact classes, to bpfast's.
ACTIVATIONS: dict[type, Callable[[Any], functions.Activation]] = {
    nn.Sigmoid: lambda m: functions.Sigmoid(),
    nn.Tanh: lambda m: functions.Tanh(),
    nn.ReLU: lambda m: functions.ReLU(),
    nn.LeakyReLU: lambda m: functions.LeakyReLU(m.negative_slope) if m.negative_slope else functions.ReLU(),
    nn.ELU: lambda m: functions.ELU(m.alpha),
    nn.SELU: lambda m: functions.SELU(),
    nn.GELU: _gelu,
    nn.SiLU: lambda m: functions.SiLU(),
    nn.Softplus: _softplus,
}

#: The other modules, the exact classes, to what they append.
READERS: dict[type, Callable[[Stack, Any], None]] = {
    nn.Identity: lambda stack, m: None,
    nn.Flatten: lambda stack, m: _require(m, start_dim=1, end_dim=-1),
    nn.Linear: _read_linear,
    nn.Dropout: lambda stack, m: stack.append(layers.Dropout(m.p)),
    nn.BatchNorm1d: _read_batch_norm,
    nn.LayerNorm: _read_layer_norm,
    nn.PReLU: _read_prelu,
    nn.RReLU: lambda stack, m: stack.append(layers.RReLU(m.lower, m.upper)),
    nn.MaxPool1d: _read_max_pool,
    Residual: _read_residual,
}


def _require_plain(where: str, module: Any) -> None:
    """Refuse a module that computes something else than its class."""
    if not isinstance(module, nn.Module):
        raise TypeError(f"{where} must be a torch.nn.Module; got {type(module).__name__}")
    if module._forward_hooks or module._forward_pre_hooks:
        raise ValueError(f"{where} ({type(module).__name__}) has hooks, which bpfast would not run")
    if "forward" in vars(module):
        raise ValueError(
            f"{where} ({type(module).__name__}) has a forward of its own, which bpfast would not run"
        )


def leaves_of(module: Any, where: str = "module") -> Iterator[tuple[str, Any]]:
    """The modules of nested Sequentials in order, each with its place."""
    _require_plain(where, module)
    if type(module) is nn.Sequential:
        # Not by named_children, which leaves out what comes again, such as one ReLU in several places.
        for index, child in enumerate(module):
            yield from leaves_of(child, f"{where}[{index}]")
    else:
        yield where, module


def _read_modules(stack: Stack, leaves: list[tuple[str, Any]]) -> None:
    for where, m in leaves:
        at_place(f"{where} ({type(m).__name__})", partial(_read_one, stack, m))


def _read_one(stack: Stack, m: Any) -> None:
    kind = type(m)
    if kind in ACTIVATIONS:
        stack.activate(ACTIVATIONS[kind](m))
    elif kind in READERS:
        READERS[kind](stack, m)
    else:
        raise ValueError("it is the link of a loss (a softmax cross_entropy's), and stands at the end alone")


def _require_known(leaves: list[tuple[str, Any]]) -> None:
    known = (*ACTIVATIONS, *READERS)
    for where, m in leaves:
        if type(m) in known or type(m) in LINKS:
            continue
        near = next((kind for kind in (nn.Sequential, *known) if isinstance(m, kind)), None)
        hint = "" if near is None else f"; a subclass of {near.__name__} may compute something else"
        names = ", ".join(kind.__name__ for kind in known)
        raise ValueError(f"{where} ({type(m).__name__}): bpfast reads an nn.Sequential of {names}{hint}")


@dataclass(frozen=True)
class ReadModule:
    """A module as layers, and the loss that it is for."""

    n_inputs: int
    stack: Stack
    loss: Loss
    dtype: np.dtype[Any]

    def network(self, **options: Any) -> Network:
        return self.stack.network(self.n_inputs, self.loss, **{"dtype": self.dtype, **options})


def read_module(module: Any, loss: Any, n_inputs: int | None, otherwise: int | None = None) -> ReadModule:
    """Read a module; `otherwise` is how many columns it takes where neither it nor the caller tells."""
    spec, row = read_loss(loss)
    leaves = list(leaves_of(module))
    _require_known(leaves)
    dtype = _dtype(module)
    kept = _without_link(leaves, spec, row)
    width = next((w for w in (n_inputs, _inputs(leaves), otherwise) if w is not None), None)
    if width is None:
        raise TypeError("n_inputs is needed: no module of these tells how many columns it takes")
    width = integer("from_torch", "n_inputs", width, at_least=1)
    stack = Stack(width)
    _read_modules(stack, kept)
    return ReadModule(width, stack, spec, dtype)


#: The attribute that tells how many columns a module takes.
_TAKES = {nn.Linear: "in_features", nn.BatchNorm1d: "num_features", nn.LayerNorm: "normalized_shape"}


def _inputs(leaves: list[tuple[str, Any]]) -> int | None:
    """The columns of the first module that tells how many it takes; those before it keep them."""
    for where, m in leaves:
        takes = getattr(m, _TAKES.get(type(m), ""), None)
        if type(m) is nn.PReLU and m.num_parameters > 1:
            takes = m.num_parameters
        if type(m) is Residual:
            takes = _inputs(list(leaves_of(m.body, where)))
        if takes is not None:
            return int(takes[-1] if isinstance(takes, tuple) else takes)
    return None


def _dtype(module: Any) -> np.dtype[Any]:
    """The one dtype of a module's numbers, which must be where NumPy can read them."""
    found = set()
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if tensor.device.type != "cpu":
            raise ValueError(f"module has {name} on device {tensor.device}; module.cpu() is wanted")
        if tensor.is_inference():
            raise ValueError(f"module has {name} made in inference mode; copy.deepcopy(module) is wanted")
        if tensor.is_floating_point():
            found.add(str(tensor.dtype).removeprefix("torch."))
    if not found:
        return checks.DTYPES["float32"]
    if len(found) > 1 or not found <= set(checks.DTYPES):
        raise ValueError(
            f"module has {' and '.join(sorted(found))}; all float32 (module.float()) or all float64 is wanted"
        )
    return checks.DTYPES[found.pop()]


def _without_link(leaves: list[tuple[str, Any]], loss: Loss, row: LossRow | None) -> list[tuple[str, Any]]:
    """The modules, less the last where it is the link that the loss applies by itself."""
    where, last = leaves[-1] if leaves else ("module", None)
    kind, own = LINKS.get(type(last)), link_of(loss)
    name = type(last).__name__
    if row is not None and (kind == own if row.link is None else type(last) is not row.link):
        wanted = "the raw outputs" if row.link is None else f"{row.link.__name__} as the last module"
        raise ValueError(f"{where} is {name}; the loss that was given takes {wanted}")
    if last is not None and kind == "softmax" and last.dim not in (1, -1):
        raise ValueError(f"{where} ({name}): dim must be 1 or -1; got {last.dim!r}")
    if kind in ("softmax", "exp") and kind != own:
        fits = "cross_entropy" if kind == "softmax" else "poisson"
        raise ValueError(f"{where} ({name}) is the link of loss={fits!r}; {loss.name} does without it")
    return leaves[:-1] if kind == own else leaves


# What a layer becomes: its modules, its slots on them, and its width.
_Made = tuple[list[Any], list[Slot], int]


def _new_linear(width: int, units: int, bias: bool, dtype: Any) -> Any:
    """A Linear that is yet to be filled: PyTorch's random numbers stay where they are."""
    return nn.utils.skip_init(nn.Linear, width, units, bias=bias, dtype=dtype)


def _function(activation: Any) -> list[Any]:
    return [] if activation.name == "identity" else [FUNCTIONS[activation.name](activation)]


def _make_dense(layer: Any, width: int, dtype: Any) -> _Made:
    m = _new_linear(width, layer.units, layer.bias, dtype)
    return [m, *_function(layer.activation)], _linear_slots(m), layer.units


def _make_maxout(layer: Any, width: int, dtype: Any) -> _Made:
    m = _new_linear(width, layer.units * layer.pieces, layer.bias, dtype)
    order = pieces_order(layer.units, layer.pieces)
    slots = [replace(slot, order=order) for slot in _linear_slots(m)]
    return [m, nn.MaxPool1d(layer.pieces)], slots, layer.units


def _make_batch_norm(layer: Any, width: int, dtype: Any) -> _Made:
    options = {"device": "cpu", "dtype": dtype}
    m = nn.BatchNorm1d(width, eps=layer.epsilon, momentum=layer.momentum, **options)
    return [m], _batch_norm_slots(m), width


def _make_layer_norm(layer: Any, width: int, dtype: Any) -> _Made:
    m = nn.LayerNorm(width, eps=layer.epsilon, device="cpu", dtype=dtype)
    return [m], _norm_slots(m), width


def _make_prelu(layer: Any, width: int, dtype: Any) -> _Made:
    m = nn.PReLU(width, device="cpu", dtype=dtype)
    return [m], [_slot("slope", m.weight)], width


def _make_residual(layer: Any, width: int, dtype: Any) -> _Made:
    modules, slots, inner = make_all(layer.layers, width, dtype)
    skip = None if inner == width else _new_linear(width, inner, False, dtype)
    if skip is not None:
        slots += [replace(slot, name="skip.W") for slot in _linear_slots(skip)]
    return [Residual(nn.Sequential(*modules), skip)], slots, inner


def make_all(stack: Sequence[Any], width: int, dtype: Any) -> _Made:
    """Layers one after the other; the names of the slots begin with their numbers."""
    modules: list[Any] = []
    slots: list[Slot] = []
    for index, layer in enumerate(stack):
        made, own, width = MAKERS[type(layer)](layer, width, dtype)
        modules += made
        slots += [replace(slot, name=f"{index}.{slot.name}") for slot in own]
    return modules, slots, width


#: bpfast's activations to PyTorch's. Beyond its threshold PyTorch's softplus is z: at 40 to the last bit.
FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "sigmoid": lambda f: nn.Sigmoid(),
    "tanh": lambda f: nn.Tanh(),
    "relu": lambda f: nn.ReLU(),
    "leaky_relu": lambda f: nn.LeakyReLU(f.slope),
    "elu": lambda f: nn.ELU(f.alpha),
    "selu": lambda f: nn.SELU(),
    "gelu": lambda f: nn.GELU(),
    "silu": lambda f: nn.SiLU(),
    "softplus": lambda f: nn.Softplus(threshold=40.0),
}

#: bpfast's layers to modules; every one has its row.
MAKERS: dict[type[layers.Layer], Callable[[Any, int, Any], _Made]] = {
    layers.Dense: _make_dense,
    layers.Activation: lambda layer, width, dtype: (_function(layer.activation), [], width),
    layers.Dropout: lambda layer, width, dtype: ([nn.Dropout(layer.rate)], [], width),
    layers.BatchNorm: _make_batch_norm,
    layers.BatchRenorm: _make_batch_norm,
    layers.LayerNorm: _make_layer_norm,
    layers.Maxout: _make_maxout,
    layers.PReLU: _make_prelu,
    layers.RReLU: lambda layer, width, dtype: ([nn.RReLU(layer.lower, layer.upper)], [], width),
    layers.Residual: _make_residual,
    layers.Auxiliary: lambda layer, width, dtype: ([], [], width),
}

#: The loss's link to modules.
LINK_MODULES: dict[str, Callable[[], list[Any]]] = {
    "identity": lambda: [],
    "sigmoid": lambda: [nn.Sigmoid()],
    "softmax": lambda: [nn.Softmax(dim=1)],
    "exp": lambda: [Exp()],
}
