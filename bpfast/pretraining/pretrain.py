"""Layer-wise pretraining: each hidden layer first learns, without targets, to represent its inputs.

Deep networks of sigmoids were first trained this way (Hinton et al. 2006; Bengio et al. 2007). From the
input up, every hidden layer learns a code from which its inputs can be reconstructed, and its codes
are the inputs of the next layer. `Network.fit` then trains the whole network from there::

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
from ..network import Network, require_network
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

    Each layer starts from its current weights and learns from the output, in prediction mode, of the
    layers below it, of any kind. Its W and b are then replaced in `Network.parameters`; nothing else
    changes, except that the optimizer's state is discarded. The result depends on the seed of the network,
    not on the number of threads.

    Parameters
    ----------
    network : Network
        Network to pretrain.
    X : array or sparse matrix (B, I)
        Training rows; a sparse matrix is converted to dense.
    method : {"autoencoder", "rbm"}, Autoencoder or RBM, default "autoencoder"
        Method that pretrains a layer.
    layers : sequence of int, optional
        Indices in `network.layers` of the layers to pretrain. By default every `Dense` layer that is not
        frozen, except the last, which is the output layer. Layers inside a `Residual` are not pretrained.
    progress : bool, default False
        Whether to show a progress bar.

    Returns
    -------
    dict of int to History
        By index in `network.layers`: loss (for an RBM, the mean squared error of the first
        reconstruction), learning_rate and seconds of every epoch.

    Raises
    ------
    FloatingPointError
        If a layer diverges. The network does not change.
    KeyboardInterrupt
        On Ctrl-C. Finished layers are kept; the current one does not change.
    RuntimeError
        If the network is already being trained.

    Examples
    --------
    >>> import bpfast as bp, numpy as np
    >>> net = bp.Network([bp.Dense(8, "sigmoid"), bp.Dense(2)], n_inputs=4, loss="cross_entropy")
    >>> history = bp.pretrain(net, np.random.default_rng(0).random((50, 4)), bp.RBM(epochs=2))
    >>> len(history[0].loss)
    2
    """
    require_network("pretrain", network)
    spec = pretrainers.resolve(method, "pretrain: method")
    flag("pretrain", "progress", progress)
    chosen = _chosen(network, spec, layers)
    V = dense(checks.features(X, network.n_inputs, network.dtype))
    found: dict[str, Array] = {}
    histories = {}
    # Divergence is detected from the loss and the weights.
    quiet = np.errstate(over="ignore", under="ignore", invalid="ignore")
    with state_of(network).exclusive(), _Progress(chosen, spec, progress) as report, quiet:
        try:
            for index in chosen:
                task = Task.of(network, index, _inputs(network, found, index, V), partial(report, index))
                histories[index] = spec.train(task)
                found.update(task.result())
        except KeyboardInterrupt:
            _set_weights(network, found)
            raise
        _set_weights(network, found)
    return histories


def _chosen(network: Network, spec: Pretrainer, layers: Sequence[int] | None) -> list[int]:
    """Return the indices of the layers to pretrain, checked."""
    dense_layers = [index for index, layer in enumerate(network.layers) if isinstance(layer, Dense)]
    hidden = dense_layers[:-1]
    scales = network.learning_rate_scales
    frozen = {i for i in hidden if any(scales.get(f"{i}.{name}") == 0 for name in "Wb")}
    if layers is None:
        chosen = [index for index in hidden if index not in frozen]
        if not chosen:
            more = " that is not frozen" if frozen else ""
            raise ValueError(f"pretrain: this network has no hidden Dense layer{more}")
    else:
        if isinstance(layers, (str, bytes)) or not isinstance(layers, Sequence) or not layers:
            raise TypeError(f"pretrain: layers must be a list of indices in network.layers; got {layers!r}")
        chosen = sorted({integer("pretrain", "layers", index, at_least=0) for index in layers})
        for index in set(chosen) - set(hidden):
            what = "is the output layer" if index in dense_layers else "is not a Dense layer"
            if index >= len(network.layers):
                what = "does not exist"
            raise ValueError(
                f"pretrain: layers[{index}] of the network {what}; its hidden Dense layers are "
                f"{', '.join(map(str, hidden)) or 'none'}"
            )
    for index in chosen:
        if index in frozen:
            raise ValueError(
                f"pretrain: layers[{index}] of the network is frozen; call unfreeze_layers({index}) first"
            )
        spec.check(network, index)
    return chosen


def _inputs(network: Network, found: Mapping[str, Array], index: int, X: Array) -> Array:
    """Return the output of the layers below `index` in prediction mode, with the weights found so far."""
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


def _set_weights(network: Network, found: Mapping[str, Array]) -> None:
    """Write the weights found to the network; discard what they invalidate."""
    state = state_of(network)
    with state.lock:
        state.forget_tape()
        for name, array in found.items():
            state.parameters[name][...] = array
        if found:
            state.optimizer_state = None


class _Progress:
    """Progress bar on standard error over the epochs of all layers (tqdm), or nothing."""

    def __init__(self, chosen: list[int], spec: Pretrainer, show: bool) -> None:
        self._bar: Any = None
        if show:
            # Imported here because tqdm takes longer to import than the rest of bpfast.
            from tqdm import tqdm

            self._bar = tqdm(total=len(chosen) * spec.epochs, unit="epoch", dynamic_ncols=True)

    def __enter__(self) -> Callable[[int, float], None]:
        return self._report

    def _report(self, index: int, loss: float) -> None:
        if self._bar is not None:
            self._bar.update()
            self._bar.set_postfix({"layer": index, "loss": f"{loss:.4g}"}, refresh=False)

    def __exit__(self, *_: Any) -> None:
        if self._bar is not None:
            self._bar.close()
