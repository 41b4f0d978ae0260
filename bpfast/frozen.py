"""FrozenNetwork: a read-only predictor for concurrent calls."""

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
from .arrays.threads import check_threads
from .engine.interface import Engine, outputs
from .specs.losses import Loss, link_of

#: Attributes that `_start` derives, left out of a pickle.
_DERIVED = frozenset(["parameters", "statistics", "_flat", "_idle", "_link_name"])

_living: weakref.WeakSet[FrozenNetwork] = weakref.WeakSet()


def _after_fork() -> None:
    """Empty the pools in a forked child, where the threads that had taken an engine do not exist."""
    for frozen in list(_living):
        frozen._idle = deque()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _read_only(flat: Array) -> Array:
    """Return a cache-line aligned copy that cannot be made writeable again."""
    return np.frombuffer(aligned_copy(flat).data.toreadonly(), flat.dtype)


class FrozenNetwork:
    """Read-only predictor with the weights of a network, for any number of concurrent calls.

    Returned by `Network.freeze`. It holds a copy of the weights that never changes, while training of the
    network may continue. Calls do not wait for each other: each takes an engine (the working memory of a
    pass) from a pool of idle ones, or creates one. The pool grows to the largest number of concurrent
    calls; an engine takes 1.3 MB plus the hidden activations of the largest call, of at most 256 rows.
    The GIL is released during a call, except for calls of a few microseconds, where releasing it would
    take as long.

    Attributes
    ----------
    parameters : mapping of str to array
        Parameters of the network by name, read-only.
    statistics : mapping of str to array
        Running means and variances of normalised columns by name, read-only.
    loss_spec : Loss
        Loss whose link function `predict` applies.
    dtype : numpy.dtype
        Data type of parameters, arithmetic and results.
    threads : int or None
        Maximum number of threads per call; None for all available cores.
    backend : str
        "native" or "reference".
    program : Program
        The layers as a flat list of ops and one layout of parameters.
    metadata : dict of str to str
        Copy of the network's metadata.

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
        self.threads = check_threads(threads)
        self.loss_spec: Loss = state.loss
        self.dtype = state.dtype
        self.backend = state.backend
        self.metadata = dict(state.metadata)
        self.program = state.program
        self._widths = layer_widths(state.program, len(state.layers))
        with state.lock:
            self._start(state.flat)

    def _start(self, flat: Array) -> None:
        """Set the attributes that are derived from the rest and left out of a pickle."""
        self._flat = _read_only(flat)
        self.parameters: Mapping[str, Array] = MappingProxyType(self.program.views(self._flat))
        self.statistics: Mapping[str, Array] = MappingProxyType(self.program.views(self._flat, False))
        self._link_name = link_of(self.loss_spec)
        # `pop` and `append` of a deque are atomic, so that no lock is needed.
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
        """Number of columns of X."""
        return self.program.n_inputs

    @property
    def n_outputs(self) -> int:
        """Number of columns of Z."""
        return self.program.n_outputs

    @property
    def n_parameters(self) -> int:
        """Total number of trained parameters."""
        return self.program.n_trained

    def predict(self, X: Any) -> Array:
        """Apply the loss's link function to the raw outputs, bitwise identical to `Network.predict`.

        Parameters
        ----------
        X : array or sparse matrix (B, I)
            Rows to predict. Fastest if finite, C-contiguous and of this network's dtype.

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
        # After an error the engine is not returned; the next call creates a new one.
        idle.append(engine)
        if A is not None:
            return A
        return backends.predict(self.loss_spec, self.forward(X), self.threads, self.backend)

    __call__ = predict

    def forward(self, X: Any) -> Array:
        """Return the raw outputs Z (B, O) of X (B, I), before the loss's link function."""
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
        return backends.make_engine(self.program, self.dtype, self.backend, self.threads)
