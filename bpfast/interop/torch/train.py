"""`train_torch`: PyTorch modules trained in place by bpfast."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..._state import state_of
from ...network import Network
from ...training.history import History
from ..common import Slot
from .counterparts import read_optimizer
from .read_module import leaves_of, read_module


def train_torch(
    module: Any,
    X: Any,
    y: Any,
    *,
    loss: Any,
    epochs: int = 10,
    batch_size: int | str | None = "auto",
    optimizer: Any = "adam",
    validation: tuple[Any, ...] | None = None,
    sample_weight: Any = None,
    seed: int = 0,
    threads: int | None = None,
    backend: str | None = None,
    **options: Any,
) -> History:
    """Train a PyTorch module in bpfast; its parameters and running statistics change in place.

    Parameters
    ----------
    module : torch.nn.Module
        As for `from_torch`. It is trained as in train mode, whatever its mode is. A BatchNorm1d
        without any parameter that requires grad keeps its statistics; it must be in eval mode, in
        which PyTorch keeps them too. Parameters that do not require grad do not change.
    X : tensor, array or sparse matrix (B, I)
        Training data. Tensors on the CPU are read in place. X may have more dimensions if the module
        begins with Flatten.
    y : tensor or array
        Targets in a form that the loss takes.
    loss : str, Loss or torch.nn.Module
        As for `Network`, or a PyTorch loss such as ``nn.CrossEntropyLoss()`` whose options bpfast
        supports.
    optimizer : str, Optimizer, LBFGS or torch.optim.Optimizer
        As for `Network.fit`, or a PyTorch optimizer that has not made steps yet: SGD, Adam, AdamW,
        RMSprop, Adagrad or Rprop, with one parameter group and without weight_decay. Its settings are
        read; its state is not updated.
    epochs, batch_size, validation, sample_weight
        As for `Network.fit`.
    seed, threads, backend
        As for `Network`. Random numbers in training come from this seed, not from PyTorch's generator.
    **options
        The other parameters of `Network.fit`: ``penalty``, ``callbacks``, ``shuffle``, ``progress``,
        ``weight_noise``.

    Returns
    -------
    History

    Raises
    ------
    TypeError, ValueError
        If the module, the loss or the data are not supported.
    FloatingPointError
        If the loss becomes NaN or infinite.
    KeyboardInterrupt
        After the completed steps have been written to the module.

    Notes
    -----
    Any other error leaves the module unchanged.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from bpfast.interop.torch import train_torch
    >>> X, y = torch.rand(60, 4), torch.arange(60) % 3
    >>> module = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 3))
    >>> optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    >>> history = train_torch(module, X, y, loss=nn.CrossEntropyLoss(), optimizer=optimizer, epochs=5)
    >>> len(history.loss)
    5
    """
    flattens = type(next(leaves_of(module), ("", None))[1]) is nn.Flatten
    X, y = _as_array("X", X, flattens), _as_array("y", y)
    read = read_module(module, loss, None, X.shape[-1] if getattr(X, "ndim", 0) == 2 else None)
    slots = read.stack.named_slots()
    _require_trainable(module, slots)
    rule = read_optimizer(optimizer, [p for p in module.parameters() if p.requires_grad])
    if isinstance(validation, (tuple, list)):
        named = zip(("X", "y", "sample_weight"), validation, strict=False)
        arrays = [_as_array(f"validation {name}", value, flattens and name == "X") for name, value in named]
        validation = (*arrays, *validation[3:])
    net = read.network(seed=seed, threads=threads, backend=backend)
    options |= {"validation": validation, "sample_weight": _as_array("sample_weight", sample_weight)}
    try:
        history = net.fit(X, y, epochs=epochs, batch_size=batch_size, optimizer=rule, **options)
    except KeyboardInterrupt:
        _write_back(module, slots, net)
        raise
    _write_back(module, slots, net)
    return history


def _as_array(name: str, value: Any, flatten: bool = False) -> Any:
    """Return a tensor as an array that shares its memory; other values are returned unchanged."""
    if isinstance(value, torch.Tensor):
        if value.device.type != "cpu" or value.layout is not torch.strided:
            layout = str(value.layout).removeprefix("torch.")
            raise ValueError(
                f"{name} must be a dense tensor on the CPU; got a {layout} tensor on {value.device}"
            )
        try:
            value = value.detach().numpy()
        except TypeError:
            raise TypeError(
                f"{name} must be a tensor of a NumPy dtype, such as float32; got {value.dtype}"
            ) from None
    if flatten and getattr(value, "ndim", 0) > 2 and len(value):
        value = value.reshape(len(value), -1)
    return value


def _require_trainable(module: Any, slots: Mapping[str, Slot]) -> None:
    """Raise an error if training differs from PyTorch's, or cannot be written back to the module."""
    seen: dict[int, str] = {}
    for name, p in module.named_parameters(remove_duplicate=False):
        if id(p) in seen:
            raise ValueError(
                f"module has one parameter twice ({seen[id(p)]}, {name}), which bpfast would train separately"
            )
        seen[id(p)] = name
    _require_separate_memory(module)
    for slot in slots.values():
        if slot.trained and slot.shared:
            raise ValueError("module has a PReLU with one slope for several columns; use nn.PReLU(width)")
    _require_modes(module)


def _require_modes(module: Any) -> None:
    """Raise an error if a layer's mode lets it behave differently from bpfast's training."""
    for name, m in module.named_modules():
        if type(m) not in (nn.BatchNorm1d, nn.Dropout, nn.RReLU):
            continue
        fixed = type(m) is nn.BatchNorm1d and not any(p.requires_grad for p in m.parameters())
        what = f"module has a {type(m).__name__} ({name or 'itself'})"
        if fixed and m.training:
            raise ValueError(
                f"{what} in train mode with nothing to train; bpfast would keep its statistics, as PyTorch "
                f"does in eval mode: call its .eval()"
            )
        if not fixed and module.training and not m.training:
            raise ValueError(
                f"{what} in eval mode while the module is in train mode; bpfast trains "
                f"all of it in train mode"
            )


def _require_separate_memory(module: Any) -> None:
    """Raise an error if tensors overlap in memory: writing one would change the other."""
    named = [*module.named_parameters(), *module.named_buffers(remove_duplicate=False)]
    # A parameter that does not require grad is not written: it may overlap itself, but not a written one.
    written = {name for name, t in named if t.requires_grad or not isinstance(t, nn.Parameter)}
    end, before = 0, ""
    for name, tensor in sorted(named, key=lambda pair: pair[1].data_ptr()):
        if not tensor.numel():
            continue
        reach, overlaps = _reach(tensor)
        if overlaps and name in written:
            raise ValueError(
                f"module has {name} expanded, with several elements in the same memory; use .clone()"
            )
        if tensor.data_ptr() < end:
            raise ValueError(
                f"module has {before} and {name} in the same memory, which bpfast would train separately; "
                f"use .clone()"
            )
        end, before = tensor.data_ptr() + reach * tensor.element_size(), name


def _reach(tensor: Any) -> tuple[int, bool]:
    """Return how many elements a tensor spans in memory, and whether its elements may overlap."""
    reach, overlaps = 1, False
    for stride, extent in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if extent > 1:
            overlaps |= stride < reach
            reach += (extent - 1) * stride
    return reach, overlaps


def _write_back(module: Any, slots: Mapping[str, Slot], net: Network) -> None:
    """Write trained parameters and running statistics to the module that the network was read from."""
    for name, array in net.parameters.items():
        if slots[name].trained:
            slots[name].store(array)
    for name, array in net.statistics.items():
        slots[name].store(array)
    for m in module.modules():
        if type(m) is nn.BatchNorm1d and any(p.requires_grad for p in m.parameters()):
            m.num_batches_tracked += state_of(net).steps
