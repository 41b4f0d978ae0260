"""Autoencoders: a layer learns a code from which its inputs can be reconstructed."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._state import state_of
from ..arrays import Array
from ..engine.interface import Data
from ..network import Network
from ..specs.layers import Dense
from ..specs.losses import Loss, resolve_loss
from ..specs.optimizers import Optimizer, optimizers
from ..specs.penalties import Penalty, penalties
from ..specs.spec import flag, number, spec
from ..training.callbacks import CallbackList
from ..training.history import History
from ..training.loop import Epoch, Trainer, train
from .layerwise import Pretrainer, Report, Task, in_unit_range, pretrainers


@pretrainers.register("autoencoder")
@spec
class Autoencoder(Pretrainer):
    """Autoencoder: encode H = f(X̃ W + b), decode R = g(H V + c), minimise L(X, R) (Bengio et al. 2007).

    X̃ is X, or X corrupted anew each epoch, so that the layer learns to undo the corruption (the denoising
    autoencoder, Vincent et al. 2008). V and c are discarded after pretraining. With V = Wᵀ the gradient has
    two parts: ∂L/∂W = X̃ᵀ D_H + D_Rᵀ H.

    Parameters
    ----------
    epochs : int, default 10
        Number of passes over the data per layer.
    batch_size : int or None, default 32
        Rows per step; None for all rows.
    optimizer : str or Optimizer, default "adam"
        Optimizer, started afresh for each layer.
    tied : bool, default True
        Whether V = Wᵀ. If not, V is a separate matrix, initialized as in a `Dense` layer.
    corruption : float, default 0.0
        Share of the inputs that is set to 0; at least 0, less than 1.
    noise : float, default 0.0
        Standard deviation of the Gaussian noise added to the inputs.
    loss : str or Loss, optional
        Loss L. By default log_loss, with g the sigmoid, for a layer whose inputs are all from 0 to 1, and
        squared_error, with g the identity, for others.
    penalty : Penalty, optional
        Penalty on the weights; none by default.
    """

    optimizer: str | Optimizer = "adam"
    tied: bool = True
    corruption: float = 0.0
    noise: float = 0.0
    loss: str | Loss | None = None
    penalty: str | Penalty | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("optimizer", optimizers.resolve(self.optimizer, "Autoencoder: optimizer"))
        assert isinstance(self.optimizer, Optimizer)
        if self.optimizer.full_batch and self.batch_size is not None:
            raise ValueError(
                f"Autoencoder: {type(self.optimizer).__name__} needs the full batch; pass batch_size=None "
                f"(got {self.batch_size})"
            )
        flag("Autoencoder", "tied", self.tied)
        self._set("corruption", number("Autoencoder", "corruption", self.corruption, at_least=0, below=1))
        self._set("noise", number("Autoencoder", "noise", self.noise, at_least=0))
        if self.loss is not None:
            self._set("loss", resolve_loss(self.loss))
            assert isinstance(self.loss, Loss)
            if self.loss.targets not in ("values", "probabilities"):
                raise ValueError(
                    f"Autoencoder: loss must take values or probabilities as targets; {self.loss.name} "
                    f"takes {self.loss.targets}"
                )
        if self.penalty is not None:
            self._set("penalty", penalties.resolve(self.penalty, "Autoencoder: penalty"))

    def train(self, task: Task) -> History:
        n_inputs, network = task.W.shape[0], task.network
        encoder = network.layers[task.index]
        assert isinstance(encoder, Dense)
        loss = self.loss
        if loss is None:
            loss = "log_loss" if in_unit_range(task.X) else "squared_error"
        auto = Network(
            [Dense(encoder.units, encoder.activation, bias=encoder.bias), Dense(n_inputs)],
            n_inputs=n_inputs,
            loss=loss,
            dtype=network.dtype,
            seed=int(task.rng.integers(2**63)),
            threads=network.threads,
            backend=network.backend,
        )
        learned = {"0.W": task.W} | ({"0.b": task.b} if task.biased else {})
        for name, array in learned.items():
            auto.parameters[name][...] = array
        history = (_fit_tied if self.tied else _fit_free)(self, task, auto)
        for name, array in learned.items():
            array[...] = auto.parameters[name]
        return history


def corrupted(X: Array, corruption: float, noise: float, rng: np.random.Generator) -> Array:
    """Return X with a share of its elements set to 0 and Gaussian noise of deviation `noise` added."""
    dtype: Any = X.dtype.type
    if corruption > 0:
        X = np.where(rng.random(X.shape, dtype) < corruption, dtype(0), X)
    if noise > 0:
        X = X + dtype(noise) * rng.standard_normal(X.shape, dtype)
    return X


def _fit_free(spec: Autoencoder, task: Task, auto: Network) -> History:
    """Train an autoencoder whose V is a separate matrix."""
    assert isinstance(spec.optimizer, Optimizer)
    # Without corruption, which differs every epoch, one fit does all epochs.
    clean = spec.corruption == 0 and spec.noise == 0
    whole = History(planned=spec.epochs)
    for _ in range(1 if clean else spec.epochs):
        try:
            history = auto.fit(
                corrupted(task.X, spec.corruption, spec.noise, task.rng),
                task.X,
                epochs=spec.epochs if clean else 1,
                batch_size=spec.batch_size,
                optimizer=spec.optimizer,
                penalty=spec.penalty,
                callbacks=[Report(task.report)],
            )
        except FloatingPointError as error:
            raise task.diverged(auto.epochs) from error
        for name, column in history.columns.items():
            whole.columns.setdefault(name, []).extend(column)
    return whole


def tied_gradient(auto: Network, corrupt: Array, X: Array) -> float:
    """Return the loss of an autoencoder with V = Wᵀ; write the gradient of W, b and c to `gradient`.

    Parameters
    ----------
    auto : Network
        Network of two `Dense` layers.
    corrupt : array (B, I)
        X̃, the rows to encode.
    X : array (B, I)
        The rows to reconstruct.

    Returns
    -------
    float
        Mean loss.
    """
    state = state_of(auto)
    np.copyto(state.parameters["1.W"], state.parameters["0.W"].T)
    value = state.objective(Data(corrupt, X), None, state.gradient)
    views = state.program.views(state.gradient)
    encoder, decoder = views["0.W"], views["1.W"]
    encoder += decoder.T
    # V follows W: its own gradient must not enter a norm or a step.
    decoder[...] = 0
    return value


class _TiedTrainer(Trainer):
    """Epochs of an autoencoder with V = Wᵀ."""

    def __init__(self, spec: Autoencoder, task: Task, auto: Network) -> None:
        assert isinstance(spec.optimizer, Optimizer)
        self.spec, self.task, self.auto, self.state = spec, task, auto, state_of(auto)
        self.schedule = spec.optimizer.schedule
        self.optimizer_state = self.state.optimizer_state_for(spec.optimizer)
        self.rows = len(task.X) if spec.batch_size is None else spec.batch_size
        self.n_batches = -(-len(task.X) // self.rows)
        self.epochs = 0

    def epoch(self) -> Epoch:
        spec, task, state = self.spec, self.task, self.state
        assert spec.penalty is None or isinstance(spec.penalty, Penalty)
        rates = self.optimizer_state.clock.rates(self.schedule, self.n_batches)
        damaged = corrupted(task.X, spec.corruption, spec.noise, task.rng)
        losses, counts = np.empty(self.n_batches), np.empty(self.n_batches)
        for k, (batch, rate) in enumerate(zip(task.batches(self.rows), rates, strict=True)):
            losses[k] = tied_gradient(self.auto, damaged[batch], task.X[batch])
            counts[k] = len(batch)
            state.engine.update(state.flat, state.gradient, self.optimizer_state, rate, spec.penalty)
        return Epoch(losses, counts, rates[-1])

    def figures(self, epoch: Epoch) -> dict[str, float]:
        self.task.require_finite(self.epochs, epoch.loss, self.state.flat)
        self.epochs += 1
        return {"loss": epoch.loss}

    def advance(self, figures: dict[str, float]) -> None:
        self.optimizer_state.clock.advance(self.schedule, figures["loss"])


def _fit_tied(spec: Autoencoder, task: Task, auto: Network) -> History:
    """Train an autoencoder with V = Wᵀ."""
    history = History(planned=spec.epochs)
    callbacks = CallbackList([Report(task.report)], auto, history)
    with callbacks.running():
        train(_TiedTrainer(spec, task, auto), callbacks, history, spec.epochs)
    return history
