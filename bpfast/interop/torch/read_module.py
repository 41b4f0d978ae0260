"""`from_torch`: PyTorch modules as networks, by tables of exact classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from torch import nn

from ...arrays import checks
from ...network import Network
from ...specs import activations as functions
from ...specs import layers
from ...specs.losses import Loss, link_of
from ...specs.spec import integer
from ..common import Stack, read_at
from .counterparts import LossRow, read_loss
from .modules import LINKS, Residual, batch_norm_slots, linear_slots, norm_slots, slot


def _require(m: Any, **expected: Any) -> None:
    for name, value in expected.items():
        if getattr(m, name) != value:
            raise ValueError(f"{name} must be {value!r} for bpfast; got {getattr(m, name)!r}")


def _read_linear(stack: Stack, m: Any) -> None:
    stack.require_width(m.in_features)
    stack.append(layers.Dense(m.out_features, bias=m.bias is not None), linear_slots(m), m.out_features)


def _read_batch_norm(stack: Stack, m: Any) -> None:
    stack.require_width(m.num_features)
    _require(m, track_running_stats=True)
    if m.momentum is None:
        raise ValueError("momentum must be a number for bpfast; got None (a cumulative average)")
    stack.append(layers.BatchNorm(momentum=m.momentum, epsilon=m.eps), batch_norm_slots(m))


def _read_layer_norm(stack: Stack, m: Any) -> None:
    if len(m.normalized_shape) != 1:
        raise ValueError(f"normalized_shape must be one number for bpfast; got {tuple(m.normalized_shape)}")
    stack.require_width(m.normalized_shape[0])
    stack.append(layers.LayerNorm(epsilon=m.eps), norm_slots(m))


def _read_prelu(stack: Stack, m: Any) -> None:
    shared = m.num_parameters == 1 and stack.width > 1
    if not shared:
        stack.require_width(m.num_parameters)
    slope = slot("slope", m.weight)
    stack.append(layers.PReLU(), [replace(slope, order=np.zeros(stack.width, int)) if shared else slope])


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
            raise ValueError(
                f"skip must be a Linear without a bias, from {stack.width} to {inner.width} columns"
            )
        stack.require_width(m.skip.in_features)
        inner.require_width(m.skip.out_features)
        (projection,) = linear_slots(m.skip)
    elif type(m.skip) is not nn.Identity:
        raise ValueError("skip must be an Identity if the number of columns does not change")
    stack.residual(inner, projection)


def _gelu(m: Any) -> functions.Activation:
    _require(m, approximate="none")
    return functions.GELU()


def _softplus(m: Any) -> functions.Activation:
    _require(m, beta=1.0)
    if m.threshold < 20:
        raise ValueError(f"threshold must be at least 20 for bpfast; got {m.threshold!r}")
    return functions.Softplus()


#: Exact class of an activation module → activation.
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

#: Exact class of another module → what appends its layer.
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
    """Raise an error if a module computes something other than its class does."""
    if not isinstance(module, nn.Module):
        raise TypeError(f"{where} must be a torch.nn.Module; got {type(module).__name__}")
    if module._forward_hooks or module._forward_pre_hooks:
        raise ValueError(f"{where} ({type(module).__name__}) has hooks, which bpfast would not run")
    if "forward" in vars(module):
        raise ValueError(f"{where} ({type(module).__name__}) has its own forward, which bpfast would not run")


def leaves_of(module: Any, where: str = "module") -> Iterator[tuple[str, Any]]:
    """Iterate over the modules of nested Sequentials in order, each with its position."""
    _require_plain(where, module)
    if type(module) is nn.Sequential:
        # named_children would skip a module that occurs again, such as one ReLU in several positions.
        for index, child in enumerate(module):
            yield from leaves_of(child, f"{where}[{index}]")
    else:
        yield where, module


def _read_modules(stack: Stack, leaves: list[tuple[str, Any]]) -> None:
    for where, m in leaves:
        read_at(f"{where} ({type(m).__name__})", partial(_read_one, stack, m))


def _read_one(stack: Stack, m: Any) -> None:
    kind = type(m)
    if kind in ACTIVATIONS:
        stack.activate(ACTIVATIONS[kind](m))
    elif kind in READERS:
        READERS[kind](stack, m)
    else:
        raise ValueError("it is the link of a loss, such as cross_entropy, and must be the last module")


def _require_known(leaves: list[tuple[str, Any]]) -> None:
    known = (*ACTIVATIONS, *READERS)
    for where, m in leaves:
        if type(m) in known or type(m) in LINKS:
            continue
        near = next((kind for kind in (nn.Sequential, *known) if isinstance(m, kind)), None)
        hint = "" if near is None else f"; a subclass of {near.__name__} may compute something else"
        names = ", ".join(kind.__name__ for kind in known)
        raise ValueError(
            f"{where} ({type(m).__name__}) cannot be converted; bpfast reads "
            f"an nn.Sequential of {names}{hint}"
        )


@dataclass(frozen=True)
class ReadModule:
    """A module as layers, with the loss to use it with.

    Attributes
    ----------
    n_inputs : int
        Number of columns that the module takes.
    stack : Stack
        Its layers.
    loss : Loss
        Loss, without whose link the layers are read.
    dtype : dtype
        Data type of its parameters.
    """

    n_inputs: int
    stack: Stack
    loss: Loss
    dtype: np.dtype[Any]

    def network(self, **options: Any) -> Network:
        """Make a network of the layers."""
        return self.stack.network(self.n_inputs, self.loss, **{"dtype": self.dtype, **options})


def read_module(module: Any, loss: Any, n_inputs: int | None, default: int | None = None) -> ReadModule:
    """Read a module; `default` is its number of inputs if neither it nor `n_inputs` determines that."""
    spec, row = read_loss(loss)
    leaves = list(leaves_of(module))
    _require_known(leaves)
    dtype = _dtype(module)
    kept = _without_link(leaves, spec, row)
    width = next((w for w in (n_inputs, _inputs(leaves), default) if w is not None), None)
    if width is None:
        raise TypeError("n_inputs is needed: none of the modules determines the number of columns")
    width = integer("from_torch", "n_inputs", width, at_least=1)
    stack = Stack(width)
    _read_modules(stack, kept)
    return ReadModule(width, stack, spec, dtype)


#: Module → attribute with the number of columns that it takes.
_WIDTHS = {nn.Linear: "in_features", nn.BatchNorm1d: "num_features", nn.LayerNorm: "normalized_shape"}


def _inputs(leaves: list[tuple[str, Any]]) -> int | None:
    """Return the number of columns of the first module that fixes it; modules before it keep it."""
    for where, m in leaves:
        width = getattr(m, _WIDTHS.get(type(m), ""), None)
        if type(m) is nn.PReLU and m.num_parameters > 1:
            width = m.num_parameters
        if type(m) is Residual:
            width = _inputs(list(leaves_of(m.body, where)))
        if width is not None:
            return int(width[-1] if isinstance(width, tuple) else width)
    return None


def _dtype(module: Any) -> np.dtype[Any]:
    """Return the common dtype of a module's tensors; NumPy must be able to read them."""
    found = set()
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if tensor.device.type != "cpu":
            raise ValueError(f"module has {name} on device {tensor.device}; use module.cpu()")
        if tensor.is_inference():
            raise ValueError(f"module has {name} created in inference mode; use copy.deepcopy(module)")
        if tensor.is_floating_point():
            found.add(str(tensor.dtype).removeprefix("torch."))
    if not found:
        return checks.DTYPES["float32"]
    if len(found) > 1 or not found <= set(checks.DTYPES):
        raise ValueError(
            "module must be all float32 (use module.float()) or all float64; "
            f"got {' and '.join(sorted(found))}"
        )
    return checks.DTYPES[found.pop()]


def _without_link(leaves: list[tuple[str, Any]], loss: Loss, row: LossRow | None) -> list[tuple[str, Any]]:
    """Return the modules without the last one if it is the link that the loss applies itself."""
    where, last = leaves[-1] if leaves else ("module", None)
    kind, own = LINKS.get(type(last)), link_of(loss)
    name = type(last).__name__
    if row is not None and (kind == own if row.link is None else type(last) is not row.link):
        expected = "raw outputs" if row.link is None else f"{row.link.__name__} as the last module"
        raise ValueError(f"{where} is {name}, but the given loss takes {expected}")
    if last is not None and kind == "softmax" and last.dim not in (1, -1):
        raise ValueError(f"{where} ({name}): dim must be 1 or -1; got {last.dim!r}")
    if kind in ("softmax", "exp") and kind != own:
        fits = "cross_entropy" if kind == "softmax" else "poisson"
        raise ValueError(f"{where} ({name}) is the link of loss={fits!r}, which {loss.name} does not use")
    return leaves[:-1] if kind == own else leaves


def from_torch(
    module: Any,
    *,
    loss: Any,
    n_inputs: int | None = None,
    dtype: Any = None,
    seed: int = 0,
    threads: int | None = None,
    backend: str | None = None,
) -> Network:
    """Convert a PyTorch module to a network with the same weights and predictions.

    Parameters
    ----------
    module : torch.nn.Module
        An ``nn.Sequential``, which may be nested, of Linear, BatchNorm1d, LayerNorm, Dropout, PReLU,
        RReLU, Sigmoid, Tanh, ReLU, LeakyReLU, ELU, SELU, GELU, SiLU, Softplus, Flatten, Identity,
        ``Linear, MaxPool1d(k)`` (a `Maxout`) and `Residual`; or a single one of them. Subclasses are
        not accepted. It must be on the CPU and all float32 or all float64. It is not changed.
    loss : str, Loss or torch.nn.Module
        As for `Network`, or a PyTorch loss such as ``nn.CrossEntropyLoss()``.
    n_inputs : int, optional
        Number of columns of X; needed if the modules do not determine it.
    dtype : {"float32", "float64"}, optional
        Data type of the network; by default that of the module.
    seed, threads, backend
        As for `Network`.

    Returns
    -------
    Network
        Its raw outputs, ``net.forward(X)``, are those of the module in eval mode. A final Softmax,
        LogSoftmax or Sigmoid that is the link of the loss is left out because the loss applies it;
        then ``net.predict(X)`` gives the module's outputs, or the exponential of those of a LogSoftmax.
        A Sigmoid followed by an Identity is read as an activation. Parameters that do not require grad
        are frozen; a frozen BatchNorm keeps its statistics in training as well. A PReLU with a single
        slope gets one slope per column.

    Raises
    ------
    ValueError
        If the module cannot be converted exactly; the message says why.

    Examples
    --------
    >>> from torch import nn
    >>> from bpfast.interop.torch import from_torch
    >>> module = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 3))
    >>> from_torch(module, loss="cross_entropy")
    <bpfast.Network 4-32-3 cross_entropy float32 259 parameters>
    """
    read = read_module(module, loss, n_inputs)
    own = {} if dtype is None else {"dtype": dtype}
    return read.network(seed=seed, threads=threads, backend=backend, **own)
