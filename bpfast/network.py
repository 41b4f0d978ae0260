"""Network: a program, its flat parameters and an engine."""

from __future__ import annotations

import copy
import numbers
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import backends
from .arrays import Array, checks
from .arrays.aligned import aligned, aligned_copy
from .arrays.sparse import Features
from .engine import interface as engines
from .engine.program import compile_program
from .frozen import FrozenNetwork
from .reference import formulas as reference
from .reference.engine import head_losses
from .specs.layers import Layer
from .specs.losses import Loss, link_of, resolve_loss
from .specs.optimizers import LBFGS, Optimizer, optimizers, resolve_optimizer
from .specs.penalties import Penalty, penalties
from .specs.spec import flag, integer, number

if TYPE_CHECKING:
    from .training.callbacks import Callback
    from .training.history import History
    from .training.profile import Profile


#: What `_start` makes anew.
_DERIVED = frozenset(
    [
        "parameters",
        "statistics",
        "_gradient_memory",
        "_made",
        "_ready",
        "_link_name",
        "_lock",
        "_fitting",
        "_taped",
        "_backed",
    ]
)

_living: weakref.WeakSet[Network] = weakref.WeakSet()


def _after_fork() -> None:
    """In a forked child nobody is left to release a lock that was held: engines start afresh."""
    for network in list(_living):
        network._start()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _one_by_one(call: str, layers: tuple[Any, ...]) -> tuple[Any, ...]:
    """Layers that were named one by one, as they are wanted."""
    for layer in layers:
        if isinstance(layer, (list, tuple, set, range)):
            raise TypeError(f"{call} takes layers one by one, such as {call}(0, 1); got {layer!r}")
    return layers


class Network:
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
        self._describe(layers, n_inputs, resolve_loss(loss), dtype, seed, threads, backend)
        self._flat = self.program.initial(self.seed, self.dtype)
        self._start()
        _ = self._engine  # What it does not take is refused here.

    def _describe(
        self,
        layers: Sequence[Layer],
        n_inputs: int,
        loss: Loss,
        dtype: Any,
        seed: int,
        threads: int | None,
        backend: str | None,
    ) -> None:
        """All but the weights."""
        self.layers = tuple(layers)
        self.loss_spec = loss
        self.dtype = checks.dtype_of(dtype)
        self.seed = integer("Network", "seed", seed, at_least=0)
        self.threads = checks.threads(threads)
        self.backend = backends.resolve_backend(backend)
        program = compile_program(self.layers, integer("Network", "n_inputs", n_inputs, at_least=1))
        self.program = program.with_losses(self.loss_spec)
        if self.loss_spec.name == "cross_entropy" and self.n_outputs < 2:
            raise ValueError("cross_entropy needs at least 2 outputs; for one output use log_loss")
        #: Free text kept with the model in its file, such as how its inputs were prepared.
        self.metadata: dict[str, str] = {}
        self._state: engines.OptimizerState | None = None
        self._epochs = 0
        # Of training, over all calls: what the next step's random ops draw from.
        self._steps = 0
        self._lr_scales: dict[str, float] = {}

    @classmethod
    def blank(
        cls,
        layers: Sequence[Layer],
        *,
        n_inputs: int,
        loss: Loss,
        dtype: Any,
        seed: int,
        threads: int | None,
        backend: str | None,
    ) -> Network:
        """A network whose parameters are 0 and still to be written, of checked layers and loss."""
        network = cls.__new__(cls)
        network._describe(layers, n_inputs, loss, dtype, seed, threads, backend)
        network._flat = aligned(network.program.size, network.dtype)
        network._flat[...] = 0
        network._start()
        return network

    def _start(self) -> None:
        """What is derived from the rest and does not travel in a pickle."""
        self.parameters: Mapping[str, Array] = MappingProxyType(self.program.views(self._flat))
        #: Running means and variances of normalised columns, by name: what training moves, not trains.
        self.statistics: Mapping[str, Array] = MappingProxyType(self.program.views(self._flat, False))
        self._gradient_memory: Array | None = None
        self._link_name = link_of(self.loss_spec)
        self._lock = threading.RLock()
        self._new_engine()
        self._fitting = False
        self._taped = 0
        self._backed = False
        _living.add(self)

    @property
    def _gradient(self) -> Array:
        """The flat gradient of `backward`, made when it is first asked for: many networks never do."""
        if self._gradient_memory is None:
            self._gradient_memory = np.zeros(self._flat.shape, self.dtype)
        return self._gradient_memory

    @property
    def gradient(self) -> Mapping[str, Array]:
        """What `backward` has filled: ∂L/∂parameter by the names of `parameters`."""
        return MappingProxyType(self.program.views(self._gradient))

    _made: engines.Engine | None
    _ready: Callable[[Array, Any, str], Array | None] | None

    @property
    def _engine(self) -> engines.Engine:
        """Made when it is first asked for: a network may be loaded, or copied, to be looked at."""
        with self._lock:
            if self._made is None:
                self._made = backends.make_engine(self.program, self.dtype, self.backend, self.threads)
            return self._made

    def _new_engine(self) -> None:
        """An engine that holds no rows of a call before."""
        with self._lock:
            self._made = None
            # Its `predict`, near for calls of a microsecond.
            self._ready = None

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in _DERIVED}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._flat = aligned_copy(self._flat)
        self._start()

    def __copy__(self) -> Network:
        """A deep copy: two networks never share weights."""
        return copy.deepcopy(self)

    def __repr__(self) -> str:
        widths = "-".join(map(str, self._widths()))
        return f"<bpfast.Network {widths} {self.loss_spec.name} {self.dtype} {self.n_parameters} parameters>"

    def _widths(self) -> list[int]:
        """Of X, and behind each layer with weights."""
        widths = [self.n_inputs]
        for index in range(len(self.layers)):
            ops = [op for op in self.program.ops if op.layer.split(".")[0] == str(index) and not op.head]
            if any(op.kind == "dense" for op in ops):
                widths.append(ops[-1].n_out)
        return widths

    @property
    def n_inputs(self) -> int:
        """Columns of X."""
        return self.program.n_inputs

    @property
    def n_outputs(self) -> int:
        """Columns of Z."""
        return self.program.n_outputs

    @property
    def n_parameters(self) -> int:
        """Weights, biases and whatever else is trained, in all."""
        return sum(parameter.size for parameter in self.program.parameters if parameter.trained)

    @property
    def epochs(self) -> int:
        """Epochs trained so far, over all calls of `fit`."""
        return self._epochs

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
        ready = self.predict_ready(X)
        if ready is not None:
            return ready
        return self._link(self._outputs(checks.features(X, self.n_inputs, self.dtype)))

    def _outputs(self, X: Features) -> Array:
        """The raw outputs in prediction; of a large array in a file in blocks that are let go."""
        with self._lock:
            return engines.outputs(self._engine, self._flat, X)

    def predict_ready(self, X: Any) -> Array | None:
        """`predict` where X needs no preparation, else None.

        That is a finite C-contiguous array of at least one row, of this network's dtype and width.
        """
        with self._lock:
            ready = self._ready
            if ready is None:
                ready = self._ready = self._engine.predict
            return ready(self._flat, X, self._link_name)

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

    def _link(self, Z: Array) -> Array:
        return backends.predict(self.loss_spec, Z, self.threads, self.backend)

    def loss(self, X: Any, y: Any, *, sample_weight: Any = None, penalty: Any = None) -> float:
        """The objective J = mean loss + α Ω(W) of these rows, dense or sparse, as in prediction.

        Without a penalty it is the mean loss. Auxiliary heads have no part in it.
        """
        X, Y, w = self._data(X, y, sample_weight)
        spec = None if penalty is None else penalties.resolve(penalty, "penalty")
        return self._evaluate(X, Y, w)[0] + self.penalty(spec)

    def _evaluate(self, X: Features, Y: Array, w: Array | None) -> tuple[float, Array]:
        """The mean loss and the raw outputs."""
        Z = self._outputs(X)
        return backends.evaluate(self.loss_spec, Y, Z, w, self.threads, self.backend)[0], Z

    def penalty(self, penalty: Penalty | None) -> float:
        """α Ω(W) of the weights as they are."""
        if penalty is None:
            return 0.0
        return sum(
            reference.penalty_value(penalty, self.parameters[p.name])
            for p in self.program.parameters
            if p.penalised
        )

    def gradients(
        self, X: Any, y: Any, *, sample_weight: Any = None, penalty: Any = None, training: bool = False
    ) -> dict[str, Array]:
        """∂J/∂parameter of these rows, dense or sparse, by the names of `parameters`.

        With a penalty, the gradient of its smooth part is included. By default the passes are those
        of prediction; with `training` those of the next step of `fit`, with all rows as its batch: its
        random draws, the batch's statistics, the auxiliary heads. The network stays as it is.
        """
        X, Y, w = self._data(X, y, sample_weight)
        spec = None if penalty is None else penalties.resolve(penalty, "penalty")
        flat = np.zeros_like(self._flat)
        how = self._next_step() if flag("gradients", "training", training) else None
        self._objective(X, Y, w, spec, flat, training=how)
        return self.program.views(flat)

    def _next_step(self) -> engines.TrainingPass:
        """The passes of the next step of training, which move no statistics."""
        return engines.TrainingPass((self.seed, self._steps), 0.0, True, lr_scales=self._lr_scales)

    def _objective(
        self,
        X: Features,
        Y: Array,
        w: Array | None,
        penalty: Penalty | None,
        gradient: Array,
        loss_scale: float = 1.0,
        training: engines.TrainingPass | None = None,
    ) -> float:
        """J = loss_scale · mean loss + α Ω(W), and its flat gradient, in place, on checked data."""
        with self._lock:
            self._taped, self._backed = 0, False
            Z = self._engine.forward(self._flat, X, training)
            value, D = backends.evaluate(self.loss_spec, Y, Z, w, self.threads, self.backend)
            beside, deltas = head_losses(self._engine, Y, w, loss_scale)
            if loss_scale != 1:
                D = D * D.dtype.type(loss_scale)
            self._engine.backward(self._flat, D, gradient, heads=deltas)
        if penalty is not None:
            views = self.program.views(gradient)
            for p in self.program.parameters:
                if p.penalised:
                    views[p.name] += reference.penalty_gradient(penalty, self.parameters[p.name])
        return value * loss_scale + beside + self.penalty(penalty)

    def _data(self, X: Any, y: Any, sample_weight: Any) -> tuple[Features, Array, Array | None]:
        X = checks.features(X, self.n_inputs, self.dtype)
        Y = checks.targets(self.loss_spec, y, len(X), self.n_outputs, self.dtype)
        return X, Y, checks.weights(sample_weight, len(X))

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
        from .training.fit import fit, search

        rule = resolve_optimizer(optimizer)
        train: Callable[..., History] = search if isinstance(rule, LBFGS) else fit
        with self._training():
            return train(
                self,
                *self._data(X, y, sample_weight),
                epochs=integer("fit", "epochs", epochs, at_least=1),
                batch_size=batch_size,
                optimizer=rule,
                penalty=None if penalty is None else penalties.resolve(penalty, "penalty"),
                validation=validation,
                callbacks=callbacks,
                shuffle=shuffle,
                progress=progress,
                weight_noise=number("fit", "weight_noise", weight_noise, at_least=0),
                resume=resume,
            )

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
        from .training.fit import timed_epoch

        if self.backend != "native":
            raise RuntimeError(f"profile times the native engine; this network's backend is {self.backend!r}")
        return timed_epoch(
            copy.copy(self),
            *self._data(X, y, sample_weight),
            batch_size=batch_size,
            optimizer=optimizers.resolve(optimizer, "optimizer"),
            penalty=None if penalty is None else penalties.resolve(penalty, "penalty"),
            shuffle=shuffle,
        )

    def _require_no_fit(self, call: str) -> None:
        if self._fitting:
            raise RuntimeError(f"{call} while fit is at work on this network; wait for its end")

    @contextmanager
    def _training(self) -> Iterator[None]:
        with self._lock:
            if self._fitting:
                raise RuntimeError("this network is being trained already; one fit at a time")
            self._fitting = True
        try:
            yield
        finally:
            self._fitting = False

    def _optimizer_state(self, optimizer: Optimizer) -> engines.OptimizerState:
        """The state to go on with: moments survive a change of numbers, the clock of no schedule."""
        state = self._state
        if state is None or state.optimizer.rule != optimizer.rule:
            state = engines.OptimizerState.initial(optimizer, self.program.size, self.dtype)
        elif state.optimizer.learning_rate != optimizer.learning_rate:
            state.clock = type(state.clock)()
        state.optimizer = optimizer
        self._state = state
        return state

    def reset_optimizer(self) -> None:
        """Forget the optimizer's state: the next `fit` or `update` starts afresh."""
        self._state = None

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
        X = checks.features(X, self.n_inputs, self.dtype)
        if not training:
            return self._outputs(X)
        with self._lock:
            self._require_no_fit("forward(training=True)")
            self._taped, self._backed = len(X), False
            how = engines.TrainingPass((self.seed, self._steps), lr_scales=self._lr_scales)
            self._steps += 1
            return self._engine.forward(self._flat, X, how)

    def backward(self, dY: Any) -> Array:
        """Backpropagate dY = ∂L/∂Z (B, O) of the last ``forward(X, training=True)``.

        Fills `gradient` with ∂L/∂parameter, summed over the rows (for the gradient of a mean divide dY
        by B; `bpfast.kernels.loss_and_delta` does), and returns ∂L/∂X (B, I). Each call begins anew.
        """
        self._require_no_fit("backward")
        if not self._taped:
            raise RuntimeError("backward needs forward(X, training=True) before it")
        D = checks.matrix(
            "dY", dY, rows=self._taped, columns=self.n_outputs, dtype=self.dtype, taker="the last forward"
        )
        checks.finite("dY", D)
        with self._lock:
            self._backed = True
            dX = np.empty((len(D), self.n_inputs), self.dtype)
            self._engine.backward(self._flat, D, self._gradient, dX)
        return dX

    def update(self, optimizer: str | Optimizer, penalty: str | Penalty | None = None) -> None:
        """One step of an optimizer with the gradient of the last `backward`.

        A schedule gives the rate of the epochs that `fit` has counted: a loop of one's own, which it
        does not count, passes an optimizer with the rate it wants, and the state goes on.
        """
        self._require_no_fit("update")
        if not self._backed:
            raise RuntimeError("update needs forward(X, training=True) and backward before it")
        spec = optimizers.resolve(optimizer, "optimizer")
        punish = None if penalty is None else penalties.resolve(penalty, "penalty")
        with self._lock:
            state = self._optimizer_state(spec)
            rate = spec.schedule.rate(float(state.clock.epoch))
            self._engine.update(self._flat, self._gradient, state, rate, punish, self._lr_scales)

    @property
    def learning_rate_scales(self) -> dict[str, float]:
        """What the learning rate is multiplied by, by the names of `parameters`."""
        return {name: self._lr_scales.get(name, 1.0) for name in self.parameters}

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
        rates = dict(self._lr_scales)
        for key, scale in scales.items():
            value = number("scale_learning_rates", f"scales[{key!r}]", scale, at_least=0)
            rates.update(dict.fromkeys(self._names_of(key), value))
        self._require_no_fit("scale_learning_rates")
        self._lr_scales = {name: rate for name, rate in rates.items() if rate != 1}

    def _names_of(self, key: Any) -> list[str]:
        """The parameters of a layer, or the one of this name."""
        if isinstance(key, bool) or not isinstance(key, (numbers.Integral, str)):
            raise TypeError(f"a layer's number or a name such as '0.W' is wanted; got {key!r}")
        n = len(self.layers)
        if not isinstance(key, str):
            if not -n <= int(key) < n:
                raise ValueError(f"there is no layer {key}; this network has layers 0 to {n - 1}")
            key = str(int(key) % n)
        found = [p for p in self.parameters if p == key or p.startswith(f"{key}.")]
        if not found and not any(f"{op.layer}.".startswith(f"{key}.") for op in self.program.ops):
            raise ValueError(
                f"there are no parameters in {key!r}; this network has {', '.join(self.parameters)}"
            )
        return found

    def _moves(self) -> NDArray[np.bool_]:
        """Which elements of the flat vector training may change."""
        moves = np.zeros(self._flat.shape, bool)
        for p in self.program.parameters:
            moves[p.block] = p.trained and self._lr_scales.get(p.name, 1.0) > 0
        return moves

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
        self._require_no_fit("copy_parameters")
        ours = {**self.parameters, **self.statistics}
        theirs = {**other.parameters, **other.statistics}
        taken = [name for name in ours if name in theirs and ours[name].shape == theirs[name].shape]
        for name in taken:
            ours[name][...] = theirs[name]
        return taken

    def summary(self) -> str:
        """A table of the layers, as text."""
        rows = [("layer", "output", "", "parameters")]
        for index, layer in enumerate(self.layers):
            rows += self._summary_rows(layer, str(index), 0)
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        lines = [
            f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:<{widths[2]}}  {row[3]:>{widths[3]}}"
            for row in rows
        ]
        bytes_ = self._flat.nbytes
        total = (
            f"{self.n_inputs} inputs, {self.n_parameters:,} parameters "
            f"({bytes_ / 1024:,.1f} KiB {self.dtype}), loss {self.loss_spec.name}"
        )
        return "\n".join([*lines, total])

    def _summary_rows(self, layer: Layer, name: str, depth: int) -> list[tuple[str, str, str, str]]:
        """A layer's line, and those of the layers within."""
        within = getattr(layer, "layers", ())
        children = tuple(f"{name}.{index}." for index in range(len(within)))
        below = [p for p in self.program.parameters if p.trained and p.name.startswith(f"{name}.")]
        own = [p for p in below if not p.name.startswith(children)]
        made = [op for op in self.program.ops if f"{op.layer}.".startswith(f"{name}.")]
        # A head is beside the way: what comes in goes on.
        width = made[-1].n_in if made[-1].head else made[-1].n_out
        words = [layer.text] if layer.text else []
        if any(op.layer == f"{name}.skip" for op in made):
            words.append("projection")
        scales = {self._lr_scales.get(p.name, 1.0) for p in own}
        if scales and scales != {1.0}:
            words.append("frozen" if scales == {0.0} else f"rate × {min(scales):g}")
        label = "  " * depth + f"{name} {layer.name}"
        rows = [(label, str(width), ", ".join(words), f"{sum(p.size for p in own):,}")]
        for index, inner in enumerate(within):
            rows += self._summary_rows(inner, f"{name}.{index}", depth + 1)
        return rows

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the network to a safetensors file; see `bpfast.load`."""
        from .storage.model_file import save

        save(self, path)
