"""`to_torch`: networks as PyTorch modules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ...network import Network
from ...specs import layers
from ...specs.losses import link_of
from ...specs.spec import flag
from ..common import Slot, pieces_order
from .modules import LINKS, Exp, Residual, batch_norm_slots, linear_slots, norm_slots, slot

# The modules of a layer, its slots in them, and its width.
_Made = tuple[list[Any], list[Slot], int]


def _new_linear(width: int, units: int, bias: bool, dtype: Any) -> Any:
    """Make a Linear without initial values, so that PyTorch's random generator does not advance."""
    return nn.utils.skip_init(nn.Linear, width, units, bias=bias, dtype=dtype)


def _function(activation: Any) -> list[Any]:
    return [] if activation.name == "identity" else [FUNCTIONS[activation.name](activation)]


def _make_dense(layer: Any, width: int, dtype: Any) -> _Made:
    m = _new_linear(width, layer.units, layer.bias, dtype)
    return [m, *_function(layer.activation)], linear_slots(m), layer.units


def _make_maxout(layer: Any, width: int, dtype: Any) -> _Made:
    m = _new_linear(width, layer.units * layer.pieces, layer.bias, dtype)
    order = pieces_order(layer.units, layer.pieces)
    slots = [replace(each, order=order) for each in linear_slots(m)]
    return [m, nn.MaxPool1d(layer.pieces)], slots, layer.units


def _make_batch_norm(layer: Any, width: int, dtype: Any) -> _Made:
    options = {"device": "cpu", "dtype": dtype}
    m = nn.BatchNorm1d(width, eps=layer.epsilon, momentum=layer.momentum, **options)
    return [m], batch_norm_slots(m), width


def _make_layer_norm(layer: Any, width: int, dtype: Any) -> _Made:
    m = nn.LayerNorm(width, eps=layer.epsilon, device="cpu", dtype=dtype)
    return [m], norm_slots(m), width


def _make_prelu(layer: Any, width: int, dtype: Any) -> _Made:
    m = nn.PReLU(width, device="cpu", dtype=dtype)
    return [m], [slot("slope", m.weight)], width


def _make_residual(layer: Any, width: int, dtype: Any) -> _Made:
    modules, slots, inner = _make_all(layer.layers, width, dtype)
    skip = None if inner == width else _new_linear(width, inner, False, dtype)
    if skip is not None:
        slots += [replace(each, name="skip.W") for each in linear_slots(skip)]
    return [Residual(nn.Sequential(*modules), skip)], slots, inner


def _make_all(stack: Sequence[Any], width: int, dtype: Any) -> _Made:
    """Make the modules of consecutive layers; the names of the slots begin with the layers' numbers."""
    modules: list[Any] = []
    slots: list[Slot] = []
    for index, layer in enumerate(stack):
        made, own, width = MAKERS[type(layer)](layer, width, dtype)
        modules += made
        slots += [replace(each, name=f"{index}.{each.name}") for each in own]
    return modules, slots, width


#: Name of an activation → module. Above its threshold PyTorch's softplus is z, which is exact from 40 on.
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

#: Layer → what makes its modules.
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

#: Name of a link → its modules.
LINK_MODULES: dict[str, Callable[[], list[Any]]] = {
    "identity": lambda: [],
    "sigmoid": lambda: [nn.Sigmoid()],
    "softmax": lambda: [nn.Softmax(dim=1)],
    "exp": lambda: [Exp()],
}


def to_torch(net: Network, *, link: bool = False) -> Any:
    """Convert a network to a PyTorch module with the same weights and predictions.

    Parameters
    ----------
    net : Network
        Network to convert; it is not changed.
    link : bool, default False
        Append the link of the loss. The module then returns what ``net.predict`` returns, otherwise
        the raw outputs of ``net.forward``, which PyTorch's losses expect (``nn.CrossEntropyLoss``).

    Returns
    -------
    torch.nn.Sequential
        Module in eval mode (call ``module.train()`` before training it) with the dtype of the network;
        frozen parameters do not require grad. A `Maxout` becomes ``Linear, MaxPool1d``. A
        `BatchRenorm` becomes a BatchNorm1d, which has the same predictions but trains without the
        correction. Auxiliary heads are left out, as in prediction. `Residual` and `Exp`, the link exp,
        are classes of ``bpfast.interop.torch``, which must be importable to unpickle such a module.

    Examples
    --------
    >>> import bpfast as bp
    >>> net = bp.Network([bp.Dense(32, "relu"), bp.Dense(3)], n_inputs=4, loss="cross_entropy")
    >>> from bpfast.interop.torch import to_torch
    >>> to_torch(net, link=True)
    Sequential(
      (0): Linear(in_features=4, out_features=32, bias=True)
      (1): ReLU()
      (2): Linear(in_features=32, out_features=3, bias=True)
      (3): Softmax(dim=1)
    )
    """
    if not isinstance(net, Network):
        raise TypeError(f"to_torch: net must be a bpfast.Network; got {net!r}")
    dtype = {"float32": torch.float32, "float64": torch.float64}[str(net.dtype)]
    own = link_of(net.loss_spec)
    modules, slots, _ = _make_all(net.layers, net.n_inputs, dtype)
    arrays, scales = {**net.parameters, **net.statistics}, net.learning_rate_scales
    for each in slots:
        each.store(arrays[each.name])
        if scales.get(each.name) == 0:
            each.source.requires_grad_(False)
    if flag("to_torch", "link", link):
        modules += LINK_MODULES[own]()
    elif modules and LINKS.get(type(modules[-1])) == own:
        modules.append(nn.Identity())  # so that `from_torch` reads it as an activation
    return nn.Sequential(*modules).eval()
