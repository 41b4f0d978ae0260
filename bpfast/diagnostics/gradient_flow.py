"""Gradient flow: statistics of activations and gradients layer by layer, on one pass or over the epochs."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from .. import kernels, reference
from .._state import NetworkState, state_of
from ..arrays import Array, checks
from ..arrays.aligned import aligned_copy
from ..arrays.sparse import dense, take
from ..engine.interface import Data, OptimizerState
from ..engine.program import Op
from ..network import Network, require_network
from ..plotting import plot_flow, plot_flow_history
from ..specs.activations import Activation
from ..specs.optimizers import Optimizer, optimizers
from ..specs.spec import flag, integer
from ..training.callbacks import Callback
from ..training.history import History

#: Legend of the table.
LEGEND = (
    "A: output of the op; D: ∂L/∂Z of dense ops, ∂L/∂A of others; norm: of D; "
    "flat: share of elements where f is flat;\ndead: share of units flat in all rows; "
    "W: weights, γ or slopes; ΔW: step of the optimizer"
)
#: f counts as flat where |f'| is below this share of its maximum.
FLAT = 0.05


@dataclass(frozen=True)
class OpFlow:
    """Statistics of one op of a network on some rows; NaN where they do not apply.

    Attributes
    ----------
    name : str
        Layer, kind, widths and activation of the op.
    mean, deviation : float
        Mean and standard deviation of its activations A.
    saturated : float
        Share of the elements of Z where f is flat: |f'(z)| < 0.05 max |f'|. For a sigmoid that is
        |z| > 4.4, for tanh |z| > 2.2, for relu z ≤ 0.
    dead : float
        Share of the units that are saturated in all rows.
    delta_mean, delta_deviation, delta_norm : float
        Mean, standard deviation and Frobenius norm of D: ∂L/∂Z for a `Dense` op, ∂L/∂A for others.
    weight_norm, gradient_norm : float
        Norms of W (or γ, or slopes) and of ∂L/∂W.
    update_ratio : float
        ‖ΔW‖ / ‖W‖, with ΔW the step of the optimizer; about 10⁻³ is a rule of thumb.
    """

    name: str
    mean: float
    deviation: float
    saturated: float
    dead: float
    delta_mean: float
    delta_deviation: float
    delta_norm: float
    weight_norm: float
    gradient_norm: float
    update_ratio: float


_STATISTICS = tuple(f.name for f in fields(OpFlow)[1:])


class Flow:
    """Table of `OpFlow`, from input to output; `print` shows it.

    Attributes
    ----------
    ops : tuple of OpFlow
        Statistics of each op.
    loss : float
        Loss of the rows, including that of auxiliary heads.
    rows : int
        Number of rows.
    """

    def __init__(self, ops: tuple[OpFlow, ...], loss: float, rows: int) -> None:
        self.ops, self.loss, self.rows = ops, loss, rows

    def __len__(self) -> int:
        return len(self.ops)

    def __getitem__(self, index: int) -> OpFlow:
        return self.ops[index]

    def __iter__(self) -> Iterator[OpFlow]:
        return iter(self.ops)

    def column(self, name: str) -> Array:
        """Return one statistic of all ops (n_ops,): a numeric attribute of `OpFlow`."""
        if name not in _STATISTICS:
            raise ValueError(f"unknown statistic {name!r} (known: {', '.join(_STATISTICS)})")
        return np.array([getattr(op, name) for op in self.ops])

    @property
    def gradient_ratio(self) -> float:
        """‖∂L/∂W‖ of the first op with weights, over that of the last; far below 1, gradients vanish."""
        norms = self.column("gradient_norm")
        norms = norms[~np.isnan(norms)]
        return float(norms[0] / norms[-1]) if len(norms) and norms[-1] > 0 else math.nan

    def __str__(self) -> str:
        head = (
            "layer",
            "A mean",
            "dev",
            "flat",
            "dead",
            "D mean",
            "dev",
            "norm",
            "W norm",
            "dW norm",
            "ΔW/W",
        )
        shares = ("saturated", "dead")
        lines: list[tuple[str, ...]] = [head]
        for op in self.ops:
            figures = [(f.name, getattr(op, f.name)) for f in fields(op)[1:]]
            texts = (f"{v:.0%}" if name in shares else f"{v:.2g}" for name, v in figures)
            cells = ("" if math.isnan(v) else t for (_, v), t in zip(figures, texts, strict=True))
            lines.append((op.name, *cells))
        widths = [max(len(line[c]) for line in lines) for c in range(len(head))]
        table = [
            "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in lines
        ]
        return "\n".join([*table, LEGEND, f"loss {self.loss:.4g} of {self.rows} rows"])

    def __repr__(self) -> str:
        return f"<bpfast.Flow of {len(self)} ops, {self.rows} rows, loss {self.loss:.4g}>"

    def plot(self, path: Any = None) -> Any:
        """Draw activations, deltas and gradients, write to `path` if given, and return the figure."""
        return plot_flow(self, path)


def gradient_flow(
    network: Network,
    X: Any,
    y: Any,
    *,
    sample_weight: Any = None,
    optimizer: str | Optimizer | None = None,
    training: bool = True,
) -> Flow:
    """Compute statistics of the activations and gradients of every op of a network on some rows.

    If the deviation of A or the norm of D shrinks from layer to layer, or many units are saturated, the
    lower layers learn little (Glorot & Bengio 2010). All rows are used in one forward and one backward
    pass; a few hundred are enough. The network does not change.

    Parameters
    ----------
    network : Network
        Network to inspect.
    X : array or sparse matrix (B, I)
        Rows to pass.
    y : array (B,) or (B, O)
        Their targets.
    sample_weight : array (B,), optional
        Weights of the rows.
    optimizer : str or Optimizer, optional
        Optimizer whose step gives the update ratio. By default the one of the last `fit`, with its
        state; before any training the ratio is NaN.
    training : bool, default True
        Inspect a training step, with dropout, auxiliary heads, and these rows' statistics in
        normalisation layers (running statistics do not change); otherwise a pass in prediction mode.

    Returns
    -------
    Flow
        Printed as a table, whose columns are the attributes of `bpfast.diagnostics.OpFlow`, and drawn
        by ``flow.plot(path)``; ``flow.gradient_ratio`` is ‖∂L/∂W‖ of the first op with weights divided
        by that of the last.

    Examples
    --------
    >>> import bpfast as bp, numpy as np
    >>> X, y = np.random.default_rng(0).normal(size=(50, 4)), np.arange(50) % 3
    >>> deep = [bp.Dense(16, "sigmoid") for _ in range(6)]
    >>> net = bp.Network([*deep, bp.Dense(3)], n_inputs=4, loss="cross_entropy")
    >>> bp.gradient_flow(net, X, y).gradient_ratio < 0.01
    True
    """
    require_network("gradient_flow", network)
    flag("gradient_flow", "training", training)
    state = state_of(network)
    optimizer_state = _optimizer_state(state, optimizer)
    pass_ = _run_pass(state, state.check(X, y, sample_weight), training)
    after = None
    if optimizer_state is not None:
        after = aligned_copy(state.flat)
        rate = optimizer_state.clock.rates(optimizer_state.optimizer.schedule, 1)[0]
        with state.lock:
            state.engine.update(after, pass_.gradient, optimizer_state, rate, None, state.lr_scales)
    return _flow(state, pass_, state.flat, after)


def _optimizer_state(state: NetworkState, optimizer: str | Optimizer | None) -> OptimizerState | None:
    """Return a copy of the optimizer state to make a step with; None without an optimizer."""
    if optimizer is not None:
        spec = optimizers.resolve(optimizer, "gradient_flow: optimizer")
        return OptimizerState.initial(spec, state.program.size, state.dtype)
    own = state.optimizer_state
    if own is None:
        return None
    return OptimizerState(own.optimizer, aligned_copy(own.arrays), own.steps, copy.copy(own.clock))


@dataclass(frozen=True, eq=False)
class _Pass:
    """A forward and backward pass: the ops with their A and D, the flat gradient and the loss."""

    X: Array
    ops: list[tuple[Op, Array, Array]]
    gradient: Array
    loss: float


def _run_pass(state: NetworkState, data: Data, training: bool) -> _Pass:
    """Run a forward and backward pass in training or prediction mode."""
    gradient = np.zeros_like(state.flat)
    with state.lock:
        mode = state.next_pass() if training else None
        loss = state.objective(data, None, gradient, training=mode)
        values = state.engine.values()
    ops = (op for op in state.program.ops if training or not op.head)
    made = [(op, A, D) for op, (A, D) in zip(ops, values, strict=True)]
    return _Pass(dense(data.X), made, gradient, loss)


def _flow(state: NetworkState, pass_: _Pass, before: Array, after: Array | None) -> Flow:
    """Return the table of a pass; update ratios are from parameters `before` to parameters `after`."""
    W, dW = state.program.views(state.flat), state.program.views(pass_.gradient)
    old = state.program.views(before)
    new = None if after is None else state.program.views(after)
    values, rows = {0: pass_.X}, []
    for op, A, D in pass_.ops:
        values[op.target] = A
        saturated, dead = _flat_shares(state, op, values[op.source], W)
        weight = gradient = ratio = math.nan
        if op.W is not None:
            name = op.W.name
            weight, gradient = _norm(W[name]), _norm(dW[name])
            length = _norm(old[name])
            if new is not None and length > 0:
                ratio = _norm(new[name] - old[name]) / length
        figures = (*_moments(A), saturated, dead, *_moments(D), _norm(D), weight, gradient, ratio)
        rows.append(OpFlow(_title(op), *figures))
    return Flow(tuple(rows), pass_.loss, len(pass_.X))


def _title(op: Op) -> str:
    f = "" if op.activation.name == "identity" else f" {op.activation.name}"
    return f"{op.layer} {op.kind} {op.n_in}-{op.n_out}{f}"


def _moments(A: Array) -> tuple[float, float]:
    return float(A.mean(dtype=np.float64)), float(A.std(dtype=np.float64))


def _norm(A: Array) -> float:
    return float(np.linalg.norm(A.astype(np.float64)))


def _flat_shares(state: NetworkState, op: Op, S: Array, W: dict[str, Array]) -> tuple[float, float]:
    """Return the share of elements where an op's f is flat, and of units where it is flat in all rows."""
    if op.activation.name == "identity":
        return math.nan, math.nan
    native = state.backend == "native"
    if op.W is not None:
        b = None if op.b is None else W[op.b.name]
        threads = {"threads": state.threads} if native else {}
        S = (kernels if native else reference).dense_forward(S, W[op.W.name], b, **threads)
    slopes = reference.derivative(S, op.activation)
    if native:
        slopes = kernels.activation_derivative(S, op.activation, threads=state.threads)
    flat = np.abs(slopes) < FLAT * _steepest(op.activation)
    return float(flat.mean()), float(flat.all(axis=0).mean())


@functools.cache
def _steepest(activation: Activation) -> float:
    """Return max |f'|."""
    return float(np.abs(reference.derivative(np.linspace(-8, 8, 1601), activation)).max())


class GradientFlow(Callback):
    """Callback that records `gradient_flow` before training and after every epoch, on the same rows.

    The update ratio is that of the whole epoch: ‖W - W before‖ / ‖W before‖. A second `fit` continues the
    record.

    Parameters
    ----------
    X : array or sparse matrix (B, I)
        Rows to record.
    y : array (B,) or (B, O)
        Their targets.
    sample_weight : array (B,), optional
        Weights of the rows.
    rows : int, default 256
        Number of rows to use, the first ones of X. Each record costs about twice as much as training on
        them: 6 ms for 256 rows of a 784-256-256-10 network, where an epoch of 8,000 rows takes 70 ms.
    training : bool, default True
        As in `gradient_flow`.

    Attributes
    ----------
    flows : list of Flow
        The records.
    epochs : list of int
        Number of epochs after which each was recorded, from 0.

    Examples
    --------
    >>> import bpfast as bp, numpy as np
    >>> X, y = np.random.default_rng(0).normal(size=(100, 4)), np.arange(100) % 3
    >>> net = bp.Network([bp.Dense(8, "sigmoid"), bp.Dense(3)], n_inputs=4, loss="cross_entropy")
    >>> flow = bp.GradientFlow(X, y)
    >>> history = net.fit(X, y, epochs=3, callbacks=[flow])
    >>> flow.column("gradient_norm").shape
    (4, 2)
    """

    def __init__(
        self, X: Any, y: Any, *, sample_weight: Any = None, rows: int = 256, training: bool = True
    ) -> None:
        self.rows = integer("GradientFlow", "rows", rows, at_least=1)
        self.training = flag("GradientFlow", "training", training)
        self.flows: list[Flow] = []
        self.epochs: list[int] = []
        self._given = (X, y, sample_weight)
        self._data: Data | None = None
        self._before: Array | None = None
        self._offset = 0

    def on_fit_begin(self, network: Any, history: History) -> None:
        state = state_of(network)
        data = state.check(*self._given)
        X, Y, weights = data.X, data.Y, data.weights
        first = np.arange(min(self.rows, len(X)))
        weights = None if weights is None else checks.weights(weights[first], len(first))
        self._data = Data(take(X, first), Y[first], weights)
        self._before = None
        self._offset = self.epochs[-1] if self.epochs else 0
        if not self.flows:
            self._record(network, 0)
        self._before = aligned_copy(state.flat)

    def on_epoch_end(self, network: Any, history: History) -> None:
        self._record(network, self._offset + len(history))
        assert self._before is not None
        np.copyto(self._before, state_of(network).flat)

    def state(self) -> dict[str, Any]:
        figures = [[[getattr(op, name) for name in _STATISTICS] for op in flow] for flow in self.flows]
        return {
            "names": [op.name for op in self.flows[0]] if self.flows else [],
            "figures": np.array(figures, dtype=np.float64),
            "losses": np.array([flow.loss for flow in self.flows], dtype=np.float64),
            "rows": [flow.rows for flow in self.flows],
            "epochs": self.epochs,
            "offset": self._offset,
            "before": self._before,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        names, records = state["names"], zip(state["figures"], state["losses"], state["rows"], strict=True)
        self.flows = [
            Flow(
                tuple(OpFlow(name, *row) for name, row in zip(names, figures.tolist(), strict=True)),
                float(loss),
                int(rows),
            )
            for figures, loss, rows in records
        ]
        self.epochs, self._offset, self._before = list(state["epochs"]), state["offset"], state["before"]

    def _record(self, network: Any, epoch: int) -> None:
        assert self._data is not None
        state = state_of(network)
        pass_ = _run_pass(state, self._data, self.training)
        if self._before is None:
            flow = _flow(state, pass_, state.flat, None)
        else:
            flow = _flow(state, pass_, self._before, state.flat)
        self.flows.append(flow)
        self.epochs.append(epoch)

    def column(self, name: str) -> Array:
        """Return one statistic of `OpFlow` for all records and ops (n_records, n_ops)."""
        return np.array([flow.column(name) for flow in self.flows])

    def plot(self, path: Any = None) -> Any:
        """Draw norms, ratios and saturation over the epochs, write to `path` if given, return the figure."""
        return plot_flow_history(self, path)
