"""Network: the public face of a network; it checks arguments and hands them down to its state."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ._state import BaseNetwork, NetworkState, state_of
from ._summary import layer_widths, summary
from .arrays import Array, checks
from .frozen import FrozenNetwork
from .specs.layers import Layer
from .specs.losses import resolve_loss
from .specs.optimizers import LBFGS, Optimizer, optimizers, resolve_optimizer
from .specs.penalties import Penalty, penalties
from .specs.spec import flag, number
from .storage.load import load_state
from .storage.model_file import save
from .training.callbacks import Callback
from .training.fit import fit
from .training.history import History
from .training.lbfgs import fit_lbfgs
from .training.options import FitOptions
from .training.profile import Profile, timed_epoch


def _one_by_one(call: str, layers: tuple[Any, ...]) -> tuple[Any, ...]:
    """Layers that were named one by one, as they must be."""
    for layer in layers:
        if isinstance(layer, (list, tuple, set, range)):
            raise TypeError(f"{call} takes layers one by one, such as {call}(0, 1); got {layer!r}")
    return layers


class Network(BaseNetwork):
    """A feed-forward network trained by backpropagation.

    Parameters
    ----------
    layers : sequence of Layer
        From input to output, such as ``[bp.Dense(128, "relu"), bp.Dense(10)]``. The last layer
        gives the raw outputs Z: the loss applies its own link (softmax, sigmoid, …).
    n_inputs : int
        Columns of X.
    loss : str, Loss or callable
        What `fit` minimises; a callable is taken as `CustomLoss`.
    dtype : {"float32", "float64"}, default "float32"
        Of parameters and arithmetic.
    seed : int, default 0
        Of the initial weights, the order of the rows and what training draws (`Dropout`, `RReLU`,
        noise on weights); the same seed gives the same bits.
    threads : int, optional
        At most this many; by default ``BPFAST_NUM_THREADS`` or the cores at hand. The result
        does not depend on it.
    backend : {"native", "reference"}, optional
        By default ``BPFAST_BACKEND`` or native.

    Attributes
    ----------
    parameters : mapping of str to array
        What is trained, by name: "0.W", "0.b", "1.gamma", "2.0.W" within a `Residual`, "2.skip.W" its
        projection. Views of one vector: write into them (``net.parameters["0.W"][...] = W``).
    statistics : mapping of str to array
        Running means and variances of normalised columns, in the same way.
    layers : tuple of Layer

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
        _ = self._state.engine  # What the engine does not support is refused here.

    @classmethod
    def _of(cls, state: NetworkState) -> Network:
        """The face of a state."""
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
        """What the loss's link makes of the raw outputs.

        Parameters
        ----------
        X : array or sparse matrix (B, I)

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
        """A predictor with a copy of the weights as they are, which many threads may call at once.

        This network may go on training; while `fit` is at work in another thread, the weights are those
        of the end of its epoch. `freeze_layers` is something else: it keeps layers as they are in
        training.

        Parameters
        ----------
        threads : int or None, default 1
            At most so many compute one call: many callers keep the cores busy by themselves. More of
            them, or None for the cores at hand, shorten large calls that come one at a time.

        Returns
        -------
        FrozenNetwork

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
        """The objective J = mean loss + α Ω(W) of these rows, dense or sparse, as in prediction.

        Without a penalty it is the mean loss. Auxiliary heads have no part in it.
        """
        spec = None if penalty is None else penalties.resolve(penalty, "penalty")
        loss, _ = self._state.evaluate(self._state.check(X, y, sample_weight))
        return loss + self._state.penalty(spec)

    def penalty(self, penalty: Penalty | None) -> float:
        """α Ω(W) of the current weights; 0 for None."""
        return self._state.penalty(penalty)

    def gradients(
        self, X: Any, y: Any, *, sample_weight: Any = None, penalty: Any = None, training: bool = False
    ) -> dict[str, Array]:
        """∂J/∂parameter of these rows, dense or sparse, by the names of `parameters`.

        With a penalty, the gradient of its smooth part is included. By default the passes are those
        of prediction; with `training` those of the next step of `fit`, with all rows as its batch: its
        random draws, the batch's statistics, the auxiliary heads. The network stays as it is.
        """
        state = self._state
        data = state.check(X, y, sample_weight)
        spec = None if penalty is None else penalties.resolve(penalty, "penalty")
        gradient = np.zeros_like(state.flat)
        how = state.next_pass() if flag("gradients", "training", training) else None
        state.objective(data, spec, gradient, training=how)
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
        """Train.

        Parameters
        ----------
        X : array or sparse matrix (B, I)
            SciPy's sparse formats are read as CSR and never made dense, if the first layer is
            `Dense`; the result has the same bits as with the zeros in. Otherwise a batch is. A large
            array mapped from a file (``np.load(path, mmap_mode="r")``), C-contiguous and of the network's
            dtype, is read where it is, to the same bits, and its pages are let go under way.
        y : array (B,) or (B, O)
            What the loss takes: see `bpfast.losses`.
        epochs : int, default 10
            Passes over the data.
        batch_size : int, None or "auto", default "auto"
            Rows a step; None for all of them. By default 32, for Rprop all of them.
        optimizer : str, Optimizer or LBFGS, default "adam"
            Its state is kept for the next call with the same kind of optimizer.
        penalty : Penalty, optional
            On the weights.
        validation : (X, y) or (X, y, sample_weight), optional
            Evaluated after every epoch.
        callbacks : sequence of Callback
            Called after every epoch, and every batch if they want, in order; any ends the training by
            returning True.
        shuffle : bool or "blocks", default True
            A new order of the rows every epoch. With "blocks" rows that lie together stay near each other:
            pieces of about 4 MiB are shuffled, and the rows within each 16 of them, so that an X larger
            than memory is read almost as it lies.
        sample_weight : array (B,), optional
            At least 0; a batch's loss is the weighted mean.
        progress : bool, default False
            A progress bar.
        weight_noise : float, default 0.0
            The deviation of what is added to every weight (not to b, γ, β) in the passes of a step,
            drawn anew by counter for each: W + σ N, N of mean 0, deviation 1 and a nearly normal
            shape. The update is made to W itself (Murray & Edwards 1994).
        resume : path, optional
            Go on with the run of a `Checkpoint` file, to the same bits as if it had never stopped. Weights,
            statistics, seed, optimizer, schedule, the layers' learning rates, callbacks, epoch and batch are
            those of the file, and `epochs` counts from the run's beginning. Data, arguments and backend
            must be those of the run, and so must a custom loss, which can't be compared. A file that is not
            there is an error, except that of a `Checkpoint` among the callbacks: then this is the run's
            beginning, and the same script may be started again and again.

        Returns
        -------
        History

        Raises
        ------
        FloatingPointError
            If the loss becomes NaN or infinite. The weights are those of the last good epoch.
        KeyboardInterrupt
            Within a fraction of a second of Ctrl-C; the steps that were made are kept.
        RuntimeError
            If the network is being trained already, or a signal handler uses it while it is.
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
        """Where the time of a training step goes, layer by layer: ``print(net.profile(X, y))``.

        A copy of the network is trained for two epochs, the second of which is timed in every
        thread; this network is not changed. The parameters are those of `fit`.

        Returns
        -------
        Profile

        Raises
        ------
        RuntimeError
            If the backend is not native.
        """
        if self.backend != "native":
            raise RuntimeError(f"profile times the native engine; this network's backend is {self.backend!r}")
        return timed_epoch(
            state_of(copy.copy(self)),
            self._state.check(X, y, sample_weight),
            batch_size=batch_size,
            optimizer=optimizers.resolve(optimizer, "optimizer"),
            penalty=None if penalty is None else penalties.resolve(penalty, "penalty"),
            shuffle=shuffle,
        )

    def reset_optimizer(self) -> None:
        """Forget the optimizer's state: the next `fit` or `update` starts afresh."""
        self._state.optimizer_state = None

    def forward(self, X: Any, training: bool = False) -> Array:
        """The raw outputs Z (B, O), before the loss's link.

        Parameters
        ----------
        X : array or sparse matrix (B, I)
        training : bool, default False
            Keep what `backward` needs, and make the pass as in a step of `fit`: random numbers anew
            each time, the batch's statistics, which move the running ones. Auxiliary heads are not
            there, since they have no loss.
        """
        state = self._state
        X = checks.features(X, self.n_inputs, self.dtype)
        if not training:
            return state.outputs(X)
        with state.lock:
            state.require_no_fit("forward(training=True)")
            return state.forward(X)

    def backward(self, dY: Any) -> Array:
        """Backpropagate dY = ∂L/∂Z (B, O) of the last ``forward(X, training=True)``.

        Fills `gradient` with ∂L/∂parameter, summed over the rows (for the gradient of a mean divide dY
        by B; `bpfast.kernels.loss_and_delta` does), and returns ∂L/∂X (B, I). Each call begins anew.
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
        """One step of an optimizer with the gradient of the last `backward`.

        A schedule gives the rate of the epochs that `fit` has counted: a loop of one's own, which it
        does not count, passes an optimizer with the rate it wants, and the state goes on.
        """
        state = self._state
        state.require_no_fit("update")
        if not state.has_gradient:
            raise RuntimeError("update needs forward(X, training=True) and backward first")
        spec = optimizers.resolve(optimizer, "optimizer")
        state.update(spec, None if penalty is None else penalties.resolve(penalty, "penalty"))

    @property
    def learning_rate_scales(self) -> dict[str, float]:
        """What the learning rate is multiplied by, by the names of `parameters`."""
        return {name: self._state.lr_scales.get(name, 1.0) for name in self.parameters}

    def scale_learning_rates(self, scales: Mapping[Any, float]) -> None:
        """Train layers, or single parameters, at a multiple of the learning rate from now on.

        Parameters
        ----------
        scales : dict
            From a layer's number in `layers`, its name (``"2.0"`` is the first layer within a
            `Residual` that has number 2) or a parameter's name (``"0.W"``) to a number of at least 0.
            At 0 it stays as it is: no update, no penalty, and the optimizer's state waits. The others
            keep what they had. Where a `BatchNorm` stays, so do its running statistics, and training
            takes them too. The steps of Rprop adapt by themselves: there only 0 counts.

        Examples
        --------
        >>> import bpfast as bp
        >>> net = bp.Network([bp.Dense(32, "relu"), bp.Dense(2)], n_inputs=4, loss="cross_entropy")
        >>> net.scale_learning_rates({0: 0.1, "1.b": 0})
        """
        if not isinstance(scales, Mapping):
            raise TypeError(f"scales must be a dict of layers or parameters; got {scales!r}")
        merged = dict(self._state.lr_scales)
        for key, scale in scales.items():
            value = number("scale_learning_rates", f"scales[{key!r}]", scale, at_least=0)
            merged.update(dict.fromkeys(self._state.names_of(key), value))
        self._state.require_no_fit("scale_learning_rates")
        self._state.lr_scales = {name: scale for name, scale in merged.items() if scale != 1}

    def freeze_layers(self, *layers: int | str) -> None:
        """Keep layers as they are in training: `scale_learning_rates` with 0 for each.

        `freeze` is something else: a read-only predictor with a copy of the weights.

        Parameters
        ----------
        *layers : int or str
            One by one: ``net.freeze_layers(0, 1)``.
        """
        self.scale_learning_rates(dict.fromkeys(_one_by_one("freeze_layers", layers), 0.0))

    def unfreeze_layers(self, *layers: int | str) -> None:
        """Train layers at the full learning rate again; without arguments all of them."""
        named = _one_by_one("unfreeze_layers", layers)
        self.scale_learning_rates(dict.fromkeys(named or tuple(self.parameters), 1.0))

    def copy_parameters(self, other: Network) -> list[str]:
        """Take what has the same name and shape from another network, to start from it.

        Parameters
        ----------
        other : Network
            Such as a loaded one, of which this network shares the first layers.

        Returns
        -------
        list of str
            The names of the parameters and statistics that were taken.

        Examples
        --------
        >>> import bpfast as bp
        >>> ten = bp.Network([bp.Dense(32, "relu"), bp.Dense(10)], n_inputs=64, loss="cross_entropy")
        >>> three = bp.Network([*ten.layers[:-1], bp.Dense(3)], n_inputs=64, loss="cross_entropy")
        >>> three.copy_parameters(ten)
        ['0.W', '0.b']
        """
        if not isinstance(other, Network):
            raise TypeError(f"copy_parameters: other must be a Network; got {other!r}")
        self._state.require_no_fit("copy_parameters")
        ours = {**self.parameters, **self.statistics}
        theirs = {**other.parameters, **other.statistics}
        taken = [name for name in ours if name in theirs and ours[name].shape == theirs[name].shape]
        for name in taken:
            ours[name][...] = theirs[name]
        return taken

    def summary(self) -> str:
        """A table of the layers, as text."""
        return summary(self._state)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the network to a safetensors file; see `bpfast.load`."""
        save(self._state, path)


def load(
    path: str | os.PathLike[str] | Path,
    *,
    loss: Any = None,
    threads: int | None = None,
    backend: str | None = None,
) -> Network:
    """Read a network from a file that `Network.save` or a `Checkpoint` wrote.

    From a checkpoint the optimizer's state is restored too: `fit` continues with it, with bitwise identical
    results from a whole epoch on. (`fit` with ``resume`` also continues within an epoch, with history and
    callbacks.) The network of a model that `bpfast train` wrote takes prepared rows; `bpfast predict` takes
    raw ones.

    Parameters
    ----------
    path : path
    loss : Loss or callable, optional
        Replaces the loss in the file; required for a model with a custom loss.
    threads, backend
        As for `Network`.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is not a model, is damaged (its SHA-256 differs), or was written by a newer version.
    """
    return Network._of(load_state(path, loss=loss, threads=threads, backend=backend))
