"""Network: the public interface, which checks arguments and passes them on to the state."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from ._fine_tuning import FineTuning
from ._state import NetworkState, state_of
from ._summary import layer_widths, summary
from .arrays import Array, checks
from .frozen import FrozenNetwork
from .specs.layers import Layer
from .specs.losses import resolve_loss
from .specs.optimizers import LBFGS, Optimizer, optimizers, resolve_optimizer
from .specs.penalties import Penalty, penalties
from .specs.spec import file_path, flag
from .storage.load import load_state
from .storage.model_file import save
from .training.callbacks import Callback
from .training.fit import fit
from .training.history import History
from .training.lbfgs import fit_lbfgs
from .training.options import FitOptions
from .training.profile import Profile, timed_epoch


class Network(FineTuning):
    """A feed-forward network trained by backpropagation.

    Parameters
    ----------
    layers : sequence of Layer
        Layers from input to output, such as ``[bp.Dense(128, "relu"), bp.Dense(10)]``. The last
        layer returns the raw outputs Z: the loss applies its own link (softmax, sigmoid, …).
    n_inputs : int
        Number of columns of X.
    loss : str, Loss or callable
        Loss that `fit` minimises; a callable is wrapped in a `CustomLoss`.
    dtype : {"float32", "float64"}, default "float32"
        Data type of parameters and arithmetic.
    seed : int, default 0
        Seed of the initial weights, the order of the rows and the random numbers of training
        (`Dropout`, `RReLU`, weight noise). The same seed gives bitwise identical results.
    threads : int, optional
        Maximum number of threads; by default ``BPFAST_NUM_THREADS`` or all available cores. Results
        do not depend on it.
    backend : {"native", "reference"}, optional
        Engine to compute with; by default ``BPFAST_BACKEND`` or "native".

    Attributes
    ----------
    parameters : mapping of str to array
        Trained parameters by name: "0.W", "0.b", "1.gamma"; "2.0.W" is inside a `Residual`, "2.skip.W" is
        its projection. All are views of one vector: write into them (``net.parameters["0.W"][...] = W``).
    statistics : mapping of str to array
        Running means and variances of normalised columns, likewise.
    layers : tuple of Layer
        The layers, from input to output.

    Examples
    --------
    >>> import bpfast as bp
    >>> net = bp.Network([bp.Dense(32, "sigmoid"), bp.Dense(10)], n_inputs=64, loss="cross_entropy")
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        *,
        n_inputs: int,
        loss: Any,
        dtype: Any = "float32",
        seed: int = 0,
        threads: int | None = None,
        backend: str | None = None,
    ) -> None:
        if isinstance(layers, Layer) or not isinstance(layers, Sequence) or not layers:
            raise TypeError(
                f"layers must be a list of at least one layer, such as [bp.Dense(10)]; got {layers!r}"
            )
        for index, layer in enumerate(layers):
            if not isinstance(layer, Layer):
                raise TypeError(f"layers[{index}] must be a layer, such as bp.Dense(10); got {layer!r}")
        self._state = NetworkState(
            layers,
            n_inputs=n_inputs,
            loss=resolve_loss(loss),
            dtype=dtype,
            seed=seed,
            threads=threads,
            backend=backend,
        )
        _ = self._state.engine  # Layers that the engine does not support raise here.

    @classmethod
    def _of(cls, state: NetworkState) -> Network:
        """Wrap a state in a network."""
        network = cls.__new__(cls)
        network._state = state
        return network

    def __copy__(self) -> Network:
        """A deep copy: two networks never share weights."""
        return copy.deepcopy(self)

    def __repr__(self) -> str:
        widths = "-".join(map(str, layer_widths(self.program, len(self.layers))))
        return f"<bpfast.Network {widths} {self.loss_spec.name} {self.dtype} {self.n_parameters} parameters>"

    def predict(self, X: Any) -> Array:
        """Apply the loss's link function to the raw outputs.

        Parameters
        ----------
        X : array or sparse matrix (B, I)
            Rows to predict.

        Returns
        -------
        array (B, O)
            Probabilities for cross_entropy (softmax) and log_loss (sigmoid), expected counts for
            poisson (exp), values otherwise.
        """
        state = self._state
        ready = state.predict_ready(X)
        if ready is not None:
            return ready
        return state.link(state.outputs(checks.features(X, state.program.n_inputs, state.dtype)))

    def freeze(self, threads: int | None = 1) -> FrozenNetwork:
        """Return a read-only predictor with a copy of the current weights, for concurrent calls.

        Training of this network may continue; while `fit` runs in another thread, the copy is taken at
        the end of an epoch. To exclude layers from training, see `freeze_layers`.

        Parameters
        ----------
        threads : int or None, default 1
            Maximum number of threads per call. One is best for many concurrent callers, which keep the
            cores busy by themselves; more, or None for all available cores, speed up single large calls.

        Returns
        -------
        FrozenNetwork
            The predictor.

        Examples
        --------
        >>> import bpfast as bp
        >>> net = bp.Network([bp.Dense(32, "relu"), bp.Dense(1)], n_inputs=4, loss="squared_error")
        >>> frozen = net.freeze()
        >>> frozen.predict([[1, 2, 3, 4]]).shape
        (1, 1)
        """
        return FrozenNetwork(self, threads)

    def loss(self, X: Any, y: Any, *, sample_weight: Any = None, penalty: Any = None) -> float:
        """Return the objective J = mean loss + α Ω(W) in prediction mode.

        Auxiliary heads do not contribute.

        Parameters
        ----------
        X : array or sparse matrix (B, I)
            Rows to evaluate.
        y : array (B,) or (B, O)
            Their targets, as in `fit`.
        sample_weight : array (B,), optional
            Weights of the rows, at least 0.
        penalty : Penalty, optional
            Penalty Ω; none by default.

        Returns
        -------
        float
            J, or the mean loss without a penalty.
        """
        spec = None if penalty is None else penalties.resolve(penalty, "penalty")
        loss, _ = self._state.evaluate(self._state.check(X, y, sample_weight))
        return loss + self._state.penalty(spec)

    def penalty(self, penalty: Penalty | None) -> float:
        """Return α Ω(W) of the current weights; 0 for None."""
        return self._state.penalty(penalty)

    def gradients(
        self, X: Any, y: Any, *, sample_weight: Any = None, penalty: Any = None, training: bool = False
    ) -> dict[str, Array]:
        """Return the gradient of the objective `loss`, without changing the network.

        Parameters
        ----------
        X, y, sample_weight, penalty
            As for `loss`. Of a penalty, the gradient of the smooth part is included.
        training : bool, default False
            Differentiate the next step of `fit` with all rows as its batch (its random numbers, the
            batch's statistics, the auxiliary heads) instead of a pass in prediction mode.

        Returns
        -------
        dict of str to array
            ∂J/∂parameter by the names of `parameters`.
        """
        state = self._state
        data = state.check(X, y, sample_weight)
        spec = None if penalty is None else penalties.resolve(penalty, "penalty")
        gradient = np.zeros_like(state.flat)
        mode = state.next_pass() if flag("gradients", "training", training) else None
        state.objective(data, spec, gradient, training=mode)
        return state.program.views(gradient)

    def fit(
        self,
        X: Any,
        y: Any,
        *,
        epochs: int = 10,
        batch_size: int | str | None = "auto",
        optimizer: str | Optimizer | LBFGS = "adam",
        penalty: str | Penalty | None = None,
        validation: tuple[Any, ...] | None = None,
        callbacks: Sequence[Callback] = (),
        shuffle: bool | str = True,
        sample_weight: Any = None,
        progress: bool = False,
        weight_noise: float = 0.0,
        resume: str | os.PathLike[str] | None = None,
    ) -> History:
        """Train the network.

        Parameters
        ----------
        X : array or sparse matrix (B, I)
            Training rows. SciPy's sparse formats are converted to CSR and, if the first layer is `Dense`,
            never made dense; otherwise one batch at a time is. A large memory-mapped array
            (``np.load(path, mmap_mode="r")``), C-contiguous and of the network's dtype, is read in place
            and its pages are released as training proceeds. Results are bitwise identical in each case.
        y : array (B,) or (B, O)
            Targets, of the kind that the loss expects: see `bpfast.losses`.
        epochs : int, default 10
            Number of passes over the data.
        batch_size : int, None or "auto", default "auto"
            Rows per step; None for all rows. "auto" is 32, or all rows for Rprop and LBFGS.
        optimizer : str, Optimizer or LBFGS, default "adam"
            Optimizer. Its state is kept for the next call with the same kind of optimizer.
        penalty : Penalty, optional
            Penalty on the weights; none by default.
        validation : (X, y) or (X, y, sample_weight), optional
            Held-out rows that are evaluated after every epoch.
        callbacks : Callback or sequence of Callback, default ()
            Called in order after every epoch, and after every batch if they define `on_batch_end`; any of
            them ends the training by returning True.
        shuffle : bool or "blocks", default True
            Whether to reorder the rows every epoch. "blocks" keeps neighbouring rows close together:
            blocks of about 4 MiB are shuffled, then the rows within every 16 of them, so that an X larger
            than memory is read almost sequentially.
        sample_weight : array (B,), optional
            Weights of the rows, at least 0; the loss of a batch is the weighted mean.
        progress : bool, default False
            Whether to show a progress bar.
        weight_noise : float, default 0.0
            Standard deviation σ of the noise added to every weight (not to b, γ, β) in the passes of each
            step: W + σ N, with N of mean 0, deviation 1 and nearly normal, drawn by counter. The update
            is applied to W itself (Murray & Edwards 1994).
        resume : path, optional
            `Checkpoint` file of a run to continue, with results bitwise identical to an uninterrupted run.
            Parameters, statistics, seed, optimizer, schedule, learning rate scales, callbacks, epoch and
            batch are restored from the file; `epochs` counts from the beginning of the run. Data,
            arguments and backend must be those of the run, and so must a custom loss, which cannot be
            compared. If the file does not exist but belongs to a `Checkpoint` among the callbacks, the
            run begins here, so that the same script may be started repeatedly.

        Returns
        -------
        History
            Loss, learning rate, seconds and validation metrics of every epoch.

        Raises
        ------
        FloatingPointError
            If the loss becomes NaN or infinite. The network keeps the weights of the last good epoch.
        KeyboardInterrupt
            Within a fraction of a second of Ctrl-C. The steps made so far are kept.
        RuntimeError
            If the network is already being trained, or is used by a signal handler meanwhile.
        """
        rule = resolve_optimizer(optimizer)
        run = fit_lbfgs if isinstance(rule, LBFGS) else fit
        state = self._state
        with state.exclusive():
            data = state.check(X, y, sample_weight)
            options = FitOptions.check(
                state,
                len(data),
                epochs=epochs,
                batch_size=batch_size,
                optimizer=rule,
                penalty=penalty,
                validation=validation,
                callbacks=callbacks,
                shuffle=shuffle,
                progress=progress,
                weight_noise=weight_noise,
                resume=resume,
            )
            return run(self, data, options)

    def profile(
        self,
        X: Any,
        y: Any,
        *,
        batch_size: int | str | None = "auto",
        optimizer: str | Optimizer = "adam",
        penalty: str | Penalty | None = None,
        shuffle: bool = True,
        sample_weight: Any = None,
    ) -> Profile:
        """Measure the time of a training step layer by layer: ``print(net.profile(X, y))``.

        A copy of the network is trained for two epochs, the second of which is timed in every
        thread; this network does not change. The parameters are those of `fit`.

        Returns
        -------
        Profile
            Seconds of each op and phase; printed as a table.

        Raises
        ------
        RuntimeError
            If the backend is not native.
        """
        if self.backend != "native":
            raise RuntimeError(f"profile needs the native backend; got backend {self.backend!r}")
        return timed_epoch(
            state_of(copy.copy(self)),
            self._state.check(X, y, sample_weight),
            batch_size=batch_size,
            optimizer=optimizers.resolve(optimizer, "optimizer"),
            penalty=None if penalty is None else penalties.resolve(penalty, "penalty"),
            shuffle=shuffle,
        )

    def reset_optimizer(self) -> None:
        """Discard the optimizer's state: the next `fit` or `update` starts afresh."""
        self._state.optimizer_state = None

    def forward(self, X: Any, training: bool = False) -> Array:
        """Return the raw outputs Z (B, O), before the loss's link function.

        Parameters
        ----------
        X : array or sparse matrix (B, I)
            Input rows.
        training : bool, default False
            Run the pass as in a step of `fit` and store what `backward` needs: with new random numbers
            each time and the batch's statistics, which update the running ones. Auxiliary heads are
            skipped.

        Returns
        -------
        array (B, O)
            Raw outputs Z.
        """
        state = self._state
        X = checks.features(X, self.n_inputs, self.dtype)
        if not training:
            return state.outputs(X)
        with state.lock:
            state.require_no_fit("forward(training=True)")
            return state.forward(X)

    def backward(self, dY: Any) -> Array:
        """Backpropagate ∂L/∂Z of the last ``forward(X, training=True)``; fill `gradient`.

        Parameters
        ----------
        dY : array (B, O)
            ∂L/∂Z. Gradients are summed over the rows: for the gradient of a mean, divide by B, as
            `bpfast.kernels.loss_and_delta` does.

        Returns
        -------
        array (B, I)
            ∂L/∂X.

        Raises
        ------
        RuntimeError
            If there was no ``forward(X, training=True)`` before.
        """
        state = self._state
        state.require_no_fit("backward")
        if not state.taped_rows:
            raise RuntimeError("backward needs forward(X, training=True) first")
        D = checks.matrix(
            "dY",
            dY,
            rows=state.taped_rows,
            columns=self.n_outputs,
            dtype=self.dtype,
            taker="the last forward",
        )
        checks.finite("dY", D)
        return state.backward(D)

    def update(self, optimizer: str | Optimizer, penalty: str | Penalty | None = None) -> None:
        """Make one step of an optimizer with the gradient of the last `backward`.

        A schedule is evaluated at the number of epochs counted by `fit`. A custom loop, whose epochs are
        not counted, passes an optimizer with the learning rate of each step; its state is kept.

        Parameters
        ----------
        optimizer : str or Optimizer
            Optimizer of the step.
        penalty : Penalty, optional
            Penalty on the weights; none by default.
        """
        state = self._state
        state.require_no_fit("update")
        if not state.has_gradient:
            raise RuntimeError("update needs forward(X, training=True) and backward first")
        spec = optimizers.resolve(optimizer, "optimizer")
        state.update(spec, None if penalty is None else penalties.resolve(penalty, "penalty"))

    def summary(self) -> str:
        """Return a table of the layers as text."""
        return summary(self._state)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the network to a safetensors file atomically; see `bpfast.load`."""
        save(self._state, file_path("save", "path", path))


def require_network(owner: str, network: Any) -> None:
    """Raise TypeError unless `network` is a `Network`."""
    if not isinstance(network, Network):
        raise TypeError(f"{owner}: network must be a bp.Network; got {type(network).__name__}")


def load(
    path: str | os.PathLike[str],
    *,
    loss: Any = None,
    threads: int | None = None,
    backend: str | None = None,
) -> Network:
    """Read a network from a file written by `Network.save` or a `Checkpoint`.

    From a checkpoint, the optimizer's state is restored too, and a further `fit` is bitwise identical to
    an uninterrupted run if the checkpoint was written after a whole epoch. (`fit` with ``resume`` also
    continues within an epoch, with history and callbacks.) The network of a model written by `bpfast train`
    expects prepared rows; `bpfast predict` prepares raw ones.

    Parameters
    ----------
    path : path
        File to read.
    loss : str, Loss or callable, optional
        Loss that replaces the one in the file; required for a model with a custom loss.
    threads, backend
        As for `Network`.

    Returns
    -------
    Network
        The network, with its counters, statistics and metadata.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is not a model, is damaged (its SHA-256 differs), or was written by a newer version.
    """
    file_path("load", "path", path)
    return Network._of(load_state(path, loss=loss, threads=threads, backend=backend))
