"""Restricted Boltzmann machines: a layer learns the distribution of its inputs."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from .. import kernels
from ..arrays import Array
from ..network import Network
from ..reference import formulas as reference
from ..specs.activations import Activation
from ..specs.layers import Dense
from ..specs.schedules import Clock, Schedule, resolve_rate
from ..specs.spec import integer, number, spec
from ..training.callbacks import CallbackList
from ..training.history import History
from ..training.loop import Epoch, Trainer, train
from .layerwise import Pretrainer, Report, Task, in_unit_range, pretrainers

VISIBLE = ("binary", "gaussian")


@pretrainers.register("rbm")
@spec
class RBM(Pretrainer):
    """Restricted Boltzmann machine, trained by contrastive divergence CD-k (Hinton 2002; Hinton et al. 2006).

    p(v, h) ∝ exp(vW·h + c·v + b·h), so that p(h = 1 | v) = sigmoid(vW + b), which is the layer, and
    p(v = 1 | h) = sigmoid(hWᵀ + c). The gradient of log p(v) is ⟨vᵀh⟩ under the data minus ⟨vᵀh⟩ under the
    model; the latter is estimated after k steps of Gibbs sampling from the data::

        W ← W + Δ,  Δ ← μ Δ + η (v₀ᵀ p(h | v₀) / B - v_kᵀ p(h | v_k) / B - λ W)

    Hidden states are sampled, except that the last ones and v_k are probabilities (Hinton 2012, section
    3). c starts at the log odds of the inputs' means, or at the means for Gaussian units. The layer's
    activation must be the sigmoid.

    Parameters
    ----------
    epochs : int, default 10
        Number of passes over the data per layer.
    batch_size : int or None, default 32
        Rows per step; None for all rows.
    learning_rate : float or Schedule, default 0.1
        Learning rate η, or a schedule. Gaussian units need about a hundredth of the default.
    steps : int, default 1
        Number k of Gibbs sampling steps.
    momentum : float, default 0.9
        Momentum μ; at least 0, less than 1.
    initial_momentum : float, default 0.5
        Momentum μ during the first `initial_epochs`.
    initial_epochs : int, default 5
        Number of epochs with the initial momentum.
    weight_decay : float, default 1e-4
        Weight decay λ ≥ 0; biases do not decay.
    visible : {"binary", "gaussian"}, default "binary"
        Visible units of the lowest layer: binary units need inputs from 0 to 1; Gaussian units,
        p(v | h) = N(hWᵀ + c, 1), need columns of about unit variance. Higher layers have binary units.
    """

    learning_rate: float | Schedule = 0.1
    steps: int = 1
    momentum: float = 0.9
    initial_momentum: float = 0.5
    initial_epochs: int = 5
    weight_decay: float = 1e-4
    visible: str = "binary"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("learning_rate", resolve_rate("RBM", self.learning_rate))
        self._set("steps", integer("RBM", "steps", self.steps, at_least=1))
        for field in ("momentum", "initial_momentum"):
            self._set(field, number("RBM", field, getattr(self, field), at_least=0, below=1))
        self._set("initial_epochs", integer("RBM", "initial_epochs", self.initial_epochs, at_least=0))
        self._set("weight_decay", number("RBM", "weight_decay", self.weight_decay, at_least=0))
        if self.visible not in VISIBLE:
            raise ValueError(f"RBM: visible must be one of {', '.join(VISIBLE)}; got {self.visible!r}")

    def check(self, network: Network, index: int) -> None:
        layer = network.layers[index]
        assert isinstance(layer, Dense)
        assert isinstance(layer.activation, Activation)
        if layer.activation.name != "sigmoid":
            raise ValueError(
                f"pretrain: layers[{index}] has the activation {layer.activation.name}; an RBM pretrains "
                f"sigmoid layers only (bp.Autoencoder pretrains any)"
            )

    def train(self, task: Task) -> History:
        history = History(planned=self.epochs)
        callbacks = CallbackList([Report(task.report)], task.network, history)
        with callbacks.running():
            train(_DivergenceTrainer(self, task, *self._visible(task)), callbacks, history, self.epochs)
        return history

    def _visible(self, task: Task) -> tuple[str, Array]:
        """Return the kind of the visible units, and their initial biases."""
        X, layers = task.X, task.network.layers
        lowest = not any(isinstance(layer, Dense) for layer in layers[: task.index])
        means = X.mean(axis=0)
        if lowest and self.visible == "gaussian":
            return "gaussian", means
        if not in_unit_range(X):
            hint = "; scale them, or pass visible='gaussian'" if lowest else ""
            raise ValueError(
                f"pretrain: the inputs of layers[{task.index}] range from {X.min():g} to {X.max():g}; the "
                f"binary units of an RBM need values from 0 to 1{hint}"
            )
        # One row of ones and one of zeros are added, so that no odds are infinite.
        shares = (means * len(X) + 1) / (len(X) + 2)
        return "binary", np.log(shares / (1 - shares))


class _DivergenceTrainer(Trainer):
    """Epochs of contrastive divergence with momentum; changes the task's W and b."""

    def __init__(self, spec: RBM, task: Task, visible: str, c: Array) -> None:
        assert isinstance(spec.learning_rate, Schedule)
        self.spec, self.task, self.visible, self.c = spec, task, visible, c
        self.schedule, self.clock = spec.learning_rate, Clock()
        self.weights = [task.W, task.b, c] if task.biased else [task.W, c]
        self.velocity = [np.zeros_like(array) for array in self.weights]
        self.rows = len(task.X) if spec.batch_size is None else spec.batch_size
        self.n_batches = -(-len(task.X) // self.rows)
        self.epochs = 0

    def epoch(self) -> Epoch:
        spec, task = self.spec, self.task
        momentum = spec.initial_momentum if self.epochs < spec.initial_epochs else spec.momentum
        rates = self.clock.rates(self.schedule, self.n_batches)
        losses, counts = np.empty(self.n_batches), np.empty(self.n_batches)
        for k, (batch, rate) in enumerate(zip(task.batches(self.rows), rates, strict=True)):
            losses[k], counts[k] = self._step(task.X[batch], rate, momentum), len(batch)
        return Epoch(losses, counts, rates[-1])

    def _step(self, X: Array, rate: float, momentum: float) -> float:
        """Make one step on a batch; return the error of the first reconstruction."""
        spec, task = self.spec, self.task
        dW, db, dc, error = contrastive_divergence(
            X,
            task.W,
            task.b,
            self.c,
            task.rng,
            steps=spec.steps,
            visible=self.visible,
            threads=task.network.threads,
            backend=task.network.backend,
        )
        dW -= spec.weight_decay * task.W
        slopes = [dW, db, dc] if task.biased else [dW, dc]
        for array, delta, slope in zip(self.weights, self.velocity, slopes, strict=True):
            delta *= momentum
            delta += rate * slope
            array += delta
        return error

    def figures(self, epoch: Epoch) -> dict[str, float]:
        self.task.require_finite(self.epochs, epoch.loss, *self.weights)
        self.epochs += 1
        return {"loss": epoch.loss}

    def advance(self, figures: dict[str, float]) -> None:
        self.clock.advance(self.schedule, figures["loss"])


def contrastive_divergence(
    X: Array,
    W: Array,
    b: Array,
    c: Array,
    rng: np.random.Generator,
    *,
    steps: int = 1,
    visible: str = "binary",
    threads: int | None = None,
    backend: str = "native",
) -> tuple[Array, Array, Array, float]:
    """Estimate the gradient of the mean log p(v) of the rows of X by CD-k; see `RBM`.

    Parameters
    ----------
    X : array (B, I)
        Visible states v₀.
    W : array (I, O)
        Weights.
    b : array (O,)
        Biases of the hidden units.
    c : array (I,)
        Biases of the visible units.
    rng : numpy.random.Generator
        Generator of the states: h (B, O) with `random`, then, except in the last step, v (B, I) with
        `random` or `standard_normal`.
    steps : int, default 1
        Number k of Gibbs sampling steps.
    visible : {"binary", "gaussian"}, default "binary"
        Kind of the visible units.
    threads : int, optional
        Maximum number of threads; all available cores by default.
    backend : {"native", "reference"}, default "native"
        Engine to compute with.

    Returns
    -------
    dW : array (I, O)
    db : array (O,)
    dc : array (I,)
        Gradients of W, b and c.
    error : float
        Mean squared error of the first reconstruction, as probabilities or means.
    """
    if backend == "reference":
        forward, gradient = reference.dense_forward, reference.weight_gradient
    else:
        forward = partial(kernels.dense_forward, threads=threads)
        gradient = partial(kernels.weight_gradient, threads=threads)
    dtype: Any = W.dtype.type
    Wt, link = np.ascontiguousarray(W.T), "sigmoid" if visible == "binary" else "identity"
    H = H0 = forward(X, W, b, "sigmoid")
    V, error = X, 0.0
    for step in range(steps):
        states = (rng.random(H.shape, dtype) < H).astype(dtype)
        V = forward(states, Wt, c, link)
        if step == 0:
            error = float(np.square(X - V).mean(dtype=np.float64))
        if step < steps - 1 and visible == "binary":
            V = (rng.random(V.shape, dtype) < V).astype(dtype)
        elif step < steps - 1:
            V += rng.standard_normal(V.shape, dtype)
        H = forward(V, W, b, "sigmoid")
    (dW, db), (model_W, model_b) = gradient(X, H0), gradient(V, H)
    share = dtype(1 / len(X))
    return (dW - model_W) * share, (db - model_b) * share, (X - V).sum(axis=0) * share, error
