"""Layer-wise pretraining: each hidden layer first learns, alone, to describe what it is given.

Deep networks of sigmoids were first trained this way (Hinton et al. 2006; Bengio et al. 2007). From the
input up, every hidden layer learns without targets a code from which its inputs can be made again,
and its codes are what the next layer learns from. `Network.fit` then tunes the whole from there::

    bp.pretrain(net, X, bp.RBM(epochs=20))
    net.fit(X, y)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from .. import backends
from .._state import state_of
from ..arrays import Array, checks
from ..arrays.aligned import aligned_copy
from ..arrays.sparse import dense
from ..network import Network
from ..specs.layers import Dense
from ..specs.spec import flag, integer
from ..training.history import History
from .autoencoder import Autoencoder as Autoencoder
from .boltzmann import RBM as RBM
from .layerwise import Pretrainer, Task, pretrainers


def pretrain(
    network: Network,
    X: Any,
    method: str | Pretrainer = "autoencoder",
    *,
    layers: Sequence[int] | None = None,
    progress: bool = False,
) -> dict[int, History]:
    """Pretrain the hidden `Dense` layers of a network, one after the other from the input up.

    Each starts from its weights as they are and learns from what the layers below make of X, in
    prediction mode, whatever layers these are. Its W and b are then replaced in `Network.parameters`;
    everything else stays, but for the optimizer's state, which is forgotten. The result depends on
    the seed of the network, not on the number of threads.

    Parameters
    ----------
    network : Network
    X : array or sparse matrix (B, I)
        A sparse one is made dense, since what is made of the codes is.
    method : {"autoencoder", "rbm"}, Autoencoder or RBM, default "autoencoder"
    layers : sequence of int, optional
        Which of `network.layers`; by default every `Dense` that is not frozen but the last, which gives
        the outputs. What lies within a `Residual` stays as it is.
    progress : bool, default False
        A progress bar.

    Returns
    -------
    dict of int to History
        By the layer's place in `network.layers`: loss (of an RBM, the mean squared error of the first
        reconstruction), learning_rate and seconds of every epoch.

    Raises
    ------
    FloatingPointError
        If a layer diverges. The network is not changed.
    KeyboardInterrupt
        On Ctrl-C: the layers that were finished are kept, the one at work is as it was.
    RuntimeError
        If the network is being trained.

    Examples
    --------
    >>> import bpfast as bp, numpy as np
    >>> net = bp.Network([bp.Dense(8, "sigmoid"), bp.Dense(2)], n_inputs=4, loss="cross_entropy")
    >>> history = bp.pretrain(net, np.random.default_rng(0).random((50, 4)), bp.RBM(epochs=2))
    >>> len(history[0].loss)
    2
    """
    if not isinstance(network, Network):
        raise TypeError(f"pretrain: network must be a bp.Network; got {type(network).__name__}")
    spec = pretrainers.resolve(method, "pretrain: method")
    flag("pretrain", "progress", progress)
    chosen = _chosen(network, spec, layers)
    V = dense(checks.features(X, network.n_inputs, network.dtype))
    found: dict[str, Array] = {}
    histories = {}
    # What diverges is seen by its figures.
    quiet = np.errstate(over="ignore", under="ignore", invalid="ignore")
    with state_of(network).exclusive(), _Progress(chosen, spec, progress) as tell, quiet:
        try:
            for index in chosen:
                task = Task.of(network, index, _inputs(network, found, index, V), partial(tell, index))
                histories[index] = spec.train(task)
                found.update(task.result())
        except KeyboardInterrupt:
            _adopt(network, found)
            raise
        _adopt(network, found)
    return histories


def _chosen(network: Network, spec: Pretrainer, layers: Sequence[int] | None) -> list[int]:
    """The places of the layers to pretrain, checked."""
    there = [index for index, layer in enumerate(network.layers) if isinstance(layer, Dense)]
    hidden = there[:-1]
    scales = network.learning_rate_scales
    frozen = {i for i in hidden if any(scales.get(f"{i}.{name}") == 0 for name in "Wb")}
    if layers is None:
        chosen = [index for index in hidden if index not in frozen]
        if not chosen:
            more = " that is not frozen" if frozen else ""
            raise ValueError(f"pretrain: this network has no hidden Dense layer{more}")
    else:
        if isinstance(layers, (str, bytes)) or not isinstance(layers, Sequence) or not layers:
            raise TypeError(f"pretrain: layers must be a list of places in network.layers; got {layers!r}")
        chosen = sorted({integer("pretrain", "layers", index, at_least=0) for index in layers})
        for index in set(chosen) - set(hidden):
            what = "the output layer" if index in there else "no Dense layer"
            if index >= len(network.layers):
                what = "not there"
            raise ValueError(
                f"pretrain: layers[{index}] of the network is {what}; its hidden Dense layers are "
                f"{', '.join(map(str, hidden)) or 'none'}"
            )
    for index in chosen:
        if index in frozen:
            raise ValueError(f"pretrain: layers[{index}] of the network is frozen; unfreeze_layers({index})")
        spec.check(network, index)
    return chosen


def _inputs(network: Network, found: Mapping[str, Array], index: int, X: Array) -> Array:
    """What the layers below `index` make of X in prediction, with the weights found so far."""
    program = network.program
    (own,) = (op for op in program.ops if op.W is not None and op.W.name == f"{index}.W")
    if own.source == 0:
        return X
    below = tuple(op for op in program.ops if op.target < own.target and not op.head)
    flat = aligned_copy(state_of(network).flat)
    views = program.views(flat)
    for name, array in found.items():
        views[name][...] = array
    part = replace(program, ops=below, output=own.source, heads=())
    engine = backends.make_engine(part, network.dtype, network.backend, network.threads)
    return engine.outputs(flat, X)


def _adopt(network: Network, found: Mapping[str, Array]) -> None:
    state = state_of(network)
    with state.lock:
        state.forget_tape()
        for name, array in found.items():
            state.parameters[name][...] = array
        if found:
            state.optimizer_state = None


class _Progress:
    """A bar on standard error that moves with the epochs of all layers (tqdm), or nothing."""

    def __init__(self, chosen: list[int], spec: Pretrainer, wanted: bool) -> None:
        self._bar: Any = None
        if wanted:
            # Imported here because it takes longer than the rest of bpfast.
            from tqdm import tqdm

            self._bar = tqdm(total=len(chosen) * spec.epochs, unit="epoch", dynamic_ncols=True)

    def __enter__(self) -> Callable[[int, float], None]:
        return self._tell

    def _tell(self, index: int, loss: float) -> None:
        if self._bar is not None:
            self._bar.update()
            self._bar.set_postfix({"layer": index, "loss": f"{loss:.4g}"}, refresh=False)

    def __exit__(self, *_: Any) -> None:
        if self._bar is not None:
            self._bar.close()
