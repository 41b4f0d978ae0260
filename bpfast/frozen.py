"""FrozenNetwork: predictions alone, for many threads at once."""

from __future__ import annotations

import os
import weakref
from collections import deque
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from . import backends
from ._state import BaseNetwork, state_of
from ._summary import layer_widths
from .arrays import Array, checks
from .arrays.aligned import aligned_copy
from .engine.interface import Engine, outputs
from .specs.losses import Loss, link_of

#: What `_start` makes anew.
_DERIVED = frozenset(["parameters", "statistics", "_flat", "_idle", "_link_name"])

_living: weakref.WeakSet[FrozenNetwork] = weakref.WeakSet()


def _after_fork() -> None:
    """In a forked child nobody gives an engine back that was at work: the pools start afresh."""
    for frozen in list(_living):
        frozen._idle = deque()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _read_only(flat: Array) -> Array:
    """A copy that begins on a cache line, and that nobody can make writeable again."""
    return np.frombuffer(aligned_copy(flat).data.toreadonly(), flat.dtype)


class FrozenNetwork:
    """What a network predicts with the weights it had; any number of threads may ask at once.

    `Network.freeze` makes it. It holds a copy of the weights that never changes, while the network may
    go on training. No call waits for another: each takes an engine, the memory that a pass works in,
    from a pool of those that are idle, or makes one. There are as many as there were calls at the same
    time, each of 1.3 MB and, for as many rows as the largest call had, at most 256, the hidden values.
    The GIL is released while a call computes, unless that is a matter of a few microseconds, which
    giving it up and getting it back would take as well.

    Attributes
    ----------
    parameters : mapping of str to array
        Those of the network, read-only.
    statistics : mapping of str to array
        Running means and variances of normalised columns, in the same way.
    loss_spec : Loss
        Whose link `predict` applies.
    dtype : numpy.dtype
        Of parameters, arithmetic and results.
    threads : int or None
        At most so many compute one call; None for the cores at hand.
    backend : str
        "native" or "reference".
    metadata : dict of str to str
        A copy of the network's.

    Examples
    --------
    >>> from concurrent.futures import ThreadPoolExecutor
    >>> import bpfast as bp
    >>> net = bp.Network([bp.Dense(32, "relu"), bp.Dense(3)], n_inputs=4, loss="cross_entropy")
    >>> frozen = net.freeze()
    >>> with ThreadPoolExecutor(4) as pool:
    ...     answers = list(pool.map(frozen.predict, [[[1, 2, 3, 4]], [[5, 6, 7, 8]]]))
    >>> answers[0].shape
    (1, 3)
    """

    def __init__(self, network: BaseNetwork, threads: int | None = 1) -> None:
        state = state_of(network)
        self.threads = checks.threads(threads)
        self.loss_spec: Loss = state.loss
        self.dtype = state.dtype
        self.backend = state.backend
        self.metadata = dict(state.metadata)
        self._program = state.program
        self._widths = layer_widths(state.program, len(state.layers))
        with state.lock:
            self._start(state.flat)

    def _start(self, flat: Array) -> None:
        """What is derived from the rest and does not travel in a pickle."""
        self._flat = _read_only(flat)
        self.parameters: Mapping[str, Array] = MappingProxyType(self._program.views(self._flat))
        self.statistics: Mapping[str, Array] = MappingProxyType(self._program.views(self._flat, False))
        self._link_name = link_of(self.loss_spec)
        # Its `pop` and `append` are atomic: there is no lock.
        self._idle: deque[Engine] = deque()
        _living.add(self)

    def __getstate__(self) -> dict[str, Any]:
        kept = {key: value for key, value in self.__dict__.items() if key not in _DERIVED}
        return {**kept, "flat": np.array(self._flat)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        flat = state.pop("flat")
        self.__dict__.update(state)
        self._start(flat)

    def __repr__(self) -> str:
        widths = "-".join(map(str, self._widths))
        size = f"{self.n_parameters} parameters"
        return f"<bpfast.FrozenNetwork {widths} {self.loss_spec.name} {self.dtype} {size}>"

    @property
    def n_inputs(self) -> int:
        """Columns of X."""
        return self._program.n_inputs

    @property
    def n_outputs(self) -> int:
        """Columns of Z."""
        return self._program.n_outputs

    @property
    def n_parameters(self) -> int:
        """Weights, biases and whatever else is trained, in all."""
        return self._program.n_trained

    def predict(self, X: Any) -> Array:
        """What the loss's link makes of the raw outputs: the bits of `Network.predict`.

        Parameters
        ----------
        X : array or sparse matrix (B, I)
            Quickest where it needs no preparation: finite, C-contiguous, of this network's dtype.

        Returns
        -------
        array (B, O)
            Probabilities for cross_entropy (softmax) and log_loss (sigmoid), expected counts for
            poisson (exp), values otherwise.
        """
        idle = self._idle
        try:
            engine = idle.pop()
        except IndexError:
            engine = self._new_engine()
        A = engine.predict(self._flat, X, self._link_name)
        # Behind an error it is not given back: the next call makes a sound one.
        idle.append(engine)
        if A is not None:
            return A
        return backends.predict(self.loss_spec, self.forward(X), self.threads, self.backend)

    __call__ = predict

    def forward(self, X: Any) -> Array:
        """The raw outputs Z (B, O) of X (B, I), before the loss's link."""
        X = checks.features(X, self.n_inputs, self.dtype)
        idle = self._idle
        try:
            engine = idle.pop()
        except IndexError:
            engine = self._new_engine()
        Z = outputs(engine, self._flat, X)
        idle.append(engine)
        return Z

    def _new_engine(self) -> Engine:
        return backends.make_engine(self._program, self.dtype, self.backend, self.threads)
