"""PyTorch's modules as networks, networks as modules, and modules trained by bpfast.

What PyTorch has to be is an ``nn.Sequential``, nested or not, of the modules that have a row in
`bpfast.interop._torch_modules`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

try:
    import torch
    from torch import nn
except ImportError:
    raise ImportError('bpfast.interop.torch needs PyTorch: pip install "bpfast[torch]"') from None

from ..._state import state_of
from ...network import Network
from ...specs.losses import link_of
from ...specs.spec import flag
from ...training.history import History
from ..common import Slot
from .modules import LINK_MODULES, LINKS, Exp, Residual, leaves_of, make_all, read_module
from .rules import read_optimizer

__all__ = ["Exp", "Residual", "from_torch", "to_torch", "train_torch"]


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
    """A network that predicts what a PyTorch module does, with its weights.

    Parameters
    ----------
    module : torch.nn.Module
        An ``nn.Sequential``, nested or not, of Linear, BatchNorm1d, LayerNorm, Dropout, PReLU, RReLU,
        Sigmoid, Tanh, ReLU, LeakyReLU, ELU, SELU, GELU, SiLU, Softplus, Flatten, Identity, of
        ``Linear, MaxPool1d(k)`` (a `Maxout`) and of `Residual`; or one of them alone. Of these exact
        classes, on the CPU, all float32 or all float64. It is not changed.
    loss : str, Loss or PyTorch's
        As for `Network`; or a module such as ``nn.CrossEntropyLoss()``.
    n_inputs : int, optional
        Columns of X, where no module tells.
    dtype : {"float32", "float64"}, optional
        By default the module's.
    seed, threads, backend
        As for `Network`.

    Returns
    -------
    Network
        Its raw outputs, ``net.forward(X)``, are those of the module in eval mode. A last Softmax,
        LogSoftmax or Sigmoid that is the loss's link is left out, since the loss applies it: then
        ``net.predict(X)`` gives the module's outputs, or the exponential of a LogSoftmax. Such a
        Sigmoid with an Identity behind it is an activation. What does not require grad is frozen; a
        frozen BatchNorm keeps its statistics in training too. A PReLU of one slope gets one a column.

    Raises
    ------
    ValueError
        If the module has what bpfast would not compute alike: the message names it.

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


def to_torch(net: Network, *, link: bool = False) -> Any:
    """A PyTorch module that predicts what a network does, with its weights.

    Parameters
    ----------
    net : Network
    link : bool, default False
        Put the loss's link at the end: then the module gives what ``net.predict`` gives, otherwise
        the raw outputs of ``net.forward``, which PyTorch's losses want (``nn.CrossEntropyLoss``).

    Returns
    -------
    torch.nn.Sequential
        In eval mode (``module.train()`` before training it), of the network's dtype; what is frozen
        does not require grad. A `Maxout` becomes ``Linear, MaxPool1d``, a `BatchRenorm` a
        BatchNorm1d, which predicts alike and trains without its correction; auxiliary heads have no
        part in prediction and are left out. A `Residual`, and the link exp, are classes of this
        module, which has to be there when such a model is unpickled.

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
    modules, slots, _ = make_all(net.layers, net.n_inputs, dtype)
    arrays, scales = {**net.parameters, **net.statistics}, net.learning_rate_scales
    for slot in slots:
        slot.store(arrays[slot.name])
        if scales.get(slot.name) == 0:
            slot.source.requires_grad_(False)
    if flag("to_torch", "link", link):
        modules += LINK_MODULES[own]()
    elif modules and LINKS.get(type(modules[-1])) == own:
        modules.append(nn.Identity())  # It is an activation: the link is not there.
    return nn.Sequential(*modules).eval()


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
    """Train a PyTorch module in bpfast: its parameters and running statistics move in place.

    Parameters
    ----------
    module : torch.nn.Module
        As for `from_torch`. It trains as in train mode, whatever mode it is in; a BatchNorm1d without
        anything that requires grad keeps its statistics, and must be in eval mode, where PyTorch
        would do so too. Parameters that do not require grad stay.
    X : tensor, array or sparse matrix (B, I)
        Tensors on the CPU are read where they are. With more dimensions where the module begins with
        Flatten.
    y : tensor or array
        What the loss takes.
    loss : str, Loss or PyTorch's
        Such as ``nn.CrossEntropyLoss()``, if what it was made with can be done here.
    optimizer : str, Optimizer, LBFGS or PyTorch's
        Of PyTorch SGD, Adam, AdamW, RMSprop, Adagrad and Rprop, new, with one group of parameters and
        without weight_decay: its numbers are read, its state is not kept.
    epochs, batch_size, validation, sample_weight
        As for `Network.fit`.
    seed, threads, backend
        As for `Network`: what is drawn in training comes from this seed, not from PyTorch's.
    **options
        The other parameters of `Network.fit`: ``penalty``, ``callbacks``, ``shuffle``, ``progress``,
        ``weight_noise``.

    Returns
    -------
    History

    Raises
    ------
    TypeError, ValueError
        If the module, the loss or the data are not as they must be.
    FloatingPointError
        If the loss becomes NaN or infinite.
    KeyboardInterrupt
        The steps that were made are written back before.

    Notes
    -----
    After any other error the module is as it was before.

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
    slots = read.stack.named()
    _require_trainable(module, slots)
    rule = read_optimizer(optimizer, [p for p in module.parameters() if p.requires_grad])
    if isinstance(validation, (tuple, list)):
        held = zip(("X", "y", "sample_weight"), validation, strict=False)
        read_held = [_as_array(f"validation {name}", value, flattens and name == "X") for name, value in held]
        validation = (*read_held, *validation[3:])
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
    """A tensor as the array that it shares its memory with; anything else as it is."""
    if isinstance(value, torch.Tensor):
        if value.device.type != "cpu" or value.layout is not torch.strided:
            layout = str(value.layout).removeprefix("torch.")
            raise ValueError(
                f"{name} is a {layout} tensor on {value.device}; a dense one on the CPU is wanted"
            )
        try:
            value = value.detach().numpy()
        except TypeError:
            raise TypeError(
                f"{name} is a tensor of {value.dtype}; real numbers are wanted (float32)"
            ) from None
    if flatten and getattr(value, "ndim", 0) > 2 and len(value):
        value = value.reshape(len(value), -1)
    return value


def _require_trainable(module: Any, slots: Mapping[str, Slot]) -> None:
    """Refuse what would train otherwise here than there, or could not be written back."""
    seen: dict[int, str] = {}
    for name, p in module.named_parameters(remove_duplicate=False):
        if id(p) in seen:
            raise ValueError(
                f"module has one parameter twice ({seen[id(p)]}, {name}); bpfast trains each apart"
            )
        seen[id(p)] = name
    _require_apart(module)
    for slot in slots.values():
        if slot.trained and slot.shared:
            raise ValueError("module has a PReLU of one slope for several columns; nn.PReLU(width) is wanted")
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
                f"{what} in eval mode, itself in train mode; bpfast trains with all in train mode"
            )


def _require_apart(module: Any) -> None:
    """Refuse numbers that lie where others do: what is written to the one would change the other."""
    named = [*module.named_parameters(), *module.named_buffers(remove_duplicate=False)]
    # What does not require grad is not written, and may lie in itself; not in what is written.
    written = {name for name, t in named if t.requires_grad or not isinstance(t, nn.Parameter)}
    end, before = 0, ""
    for name, tensor in sorted(named, key=lambda pair: pair[1].data_ptr()):
        if not tensor.numel():
            continue
        reach, overlaps = _reach(tensor)
        if overlaps and name in written:
            raise ValueError(f"module has {name} expanded, one number in several places; .clone() is wanted")
        if tensor.data_ptr() < end:
            raise ValueError(
                f"module has {before} and {name} in the same memory; bpfast trains each apart: "
                f".clone() is wanted"
            )
        end, before = tensor.data_ptr() + reach * tensor.element_size(), name


def _reach(tensor: Any) -> tuple[int, bool]:
    """How many numbers a tensor spans in memory, and whether it may have one of them in two places."""
    reach, overlaps = 1, False
    for stride, extent in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if extent > 1:
            overlaps |= stride < reach
            reach += (extent - 1) * stride
    return reach, overlaps


def _write_back(module: Any, slots: Mapping[str, Slot], net: Network) -> None:
    """Everything that moves, from a network to the module that it was read from."""
    for name, array in net.parameters.items():
        if slots[name].trained:
            slots[name].store(array)
    for name, array in net.statistics.items():
        slots[name].store(array)
    for m in module.modules():
        if type(m) is nn.BatchNorm1d and any(p.requires_grad for p in m.parameters()):
            m.num_batches_tracked += state_of(net).steps
