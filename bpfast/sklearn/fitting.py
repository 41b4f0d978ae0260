"""Fitting of the scikit-learn estimators: the steps of `fit` and `partial_fit`."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state

from .._state import state_of
from ..arrays import Array, checks
from ..network import Network
from ..training.callbacks import CallbackList
from ..training.history import History
from ..training.lbfgs import minimize
from .base import BaseMLP, FitData, Recipe
from .epochs import NOT_FINITE, Options, fit_epochs, held_out_part, scorer_of


class Perceptron(BaseMLP):
    """Base class of classifier and regressor: `fit` and `partial_fit`, except what depends on the targets."""

    validation_scores_: Any
    best_validation_score_: Any
    best_loss_: Any

    def _fit(
        self, X: Any, y: Any, sample_weight: Any, validation_data: Any, incremental: bool, classes: Any = None
    ) -> Any:
        with self._or_as_before():
            self._train(X, y, sample_weight, validation_data, incremental, classes)
        return self

    def _train(
        self, X: Any, y: Any, sample_weight: Any, validation_data: Any, incremental: bool, classes: Any
    ) -> None:
        recipe = self._recipe()
        self._loss()
        stops_early = self.early_stopping and recipe.optimizer is not None
        if stops_early and incremental and validation_data is None:
            raise ValueError(
                "partial_fit does not support early_stopping=True without validation_data: pass "
                "held-out rows as validation_data=(X, y)"
            )
        _require_supported(self, recipe, validation_data)
        first = not hasattr(self, "coefs_") or not (self.warm_start or incremental)
        if incremental:
            self._take_classes(classes, y)
        X, y = self._matrices(X, y, first, **self._y_options)
        weights = self._weights(sample_weight, X.shape[0])
        self._learn_targets(y, incremental)
        Y = self._targets(y)
        own, weights = weights, self._class_weights(y, weights, incremental)
        self.n_outputs_ = self._outputs(Y)
        widths = (X.shape[1], *recipe.hidden, self.n_outputs_)
        random = check_random_state(self.random_state)
        network = self._begin(recipe, widths, X.dtype, random) if first else self._continue(widths)
        data = self._data(network, X, y, Y, weights)
        if recipe.optimizer is None:
            self._minimize(network, recipe, data)
        else:
            held_out = None
            if validation_data is not None:
                held_out = self._validation(network, validation_data)
            elif stops_early:
                # Class weights do not apply to the validation rows, nor do they in `score`.
                held_out = replace(data, weights=own)
            self._epochs(network, recipe, data, held_out, validation_data is None, incremental, random)
        if not all(np.isfinite(array).all() for array in self._arrays()):
            raise ValueError(NOT_FINITE)

    def _begin(self, recipe: Recipe, widths: tuple[int, ...], dtype: Any, random: Any) -> Network:
        """Return a new network, and reset the attributes of a fit."""
        network = self._make_network(widths, dtype, recipe.batch_norm)
        self._set_weights(network, self._draw(recipe, widths, random))
        if any(recipe.dropout):
            # Drawn after everything that scikit-learn draws before the first shuffle.
            network.seed = int(random.randint(2**31 - 1))
        self._adopt(network)
        self.n_layers_ = len(widths)
        self.n_iter_ = self.t_ = 0
        self.out_activation_ = self._out_activation()
        self._no_improvement_count = 0
        for name in ("loss_curve_", "validation_scores_", "validation_loss_curve_", "best_loss_"):
            self.__dict__.pop(name, None)
        return network

    def _continue(self, widths: tuple[int, ...]) -> Network:
        """Return the network of the last fit, which must have these widths."""
        network = self._network()
        if network.program.n_outputs != widths[-1] or network.program.n_inputs != widths[0]:
            raise ValueError(
                f"X and y have {widths[0]} and {widths[-1]} columns; the network fitted before "
                f"has {network.n_inputs} inputs and {network.n_outputs} outputs"
            )
        return network

    def _data(self, network: Network, X: Any, y: Any, Y: Array, weights: Array | None) -> FitData:
        """Return the checked data in the form that the network expects."""
        features = checks.features(X, network.n_inputs, network.dtype)
        targets = checks.targets(network.loss_spec, Y, X.shape[0], network.n_outputs, network.dtype)
        return FitData(features, targets, weights, (X, y))

    def _minimize(self, network: Network, recipe: Recipe, data: FitData) -> None:
        """Train with the solver lbfgs, on all rows at once."""
        penalty = recipe.penalty
        if penalty is not None:
            rows = len(data.X) if data.weights is None else data.weights.sum()
            penalty = type(penalty)(penalty.alpha / rows)
        offset = self._offset(data.Y)
        constant = 0.0 if offset is None else float(np.average(offset, weights=data.weights))
        self.history_ = history = History(planned=self.max_iter)

        def after(value: float, callbacks: CallbackList) -> bool:
            history.add(loss=value + constant, learning_rate=np.nan, seconds=np.nan)
            if self.verbose:
                print(f"Iteration {len(history)}, loss = {history.loss[-1]:.8f}")
            return callbacks.epoch_end()

        callbacks = CallbackList(recipe.callbacks, network, history)
        with callbacks.running():
            found = minimize(
                state_of(network),
                data,
                penalty=penalty,
                loss_scale=self._scale(),
                max_iter=self.max_iter,
                max_fun=self.max_fun,
                tolerance=self.tol,
                after=lambda value: after(value, callbacks),
            )
        self.n_iter_ = min(found.iterations, self.max_iter)
        self.loss_ = found.value + constant
        if not found.converged and np.isfinite(found.value):
            warnings.warn(
                f"lbfgs failed to converge after {self.n_iter_} iteration(s): {found.message}. Increase "
                f"max_iter ({self.max_iter}) or max_fun ({self.max_fun}), or scale the data.",
                ConvergenceWarning,
                stacklevel=5,
            )
        if not np.isfinite(found.value):
            raise ValueError(NOT_FINITE)

    def _epochs(
        self,
        network: Network,
        recipe: Recipe,
        data: FitData,
        held_out: FitData | None,
        split: bool,
        incremental: bool,
        random: Any,
    ) -> None:
        """Train with a stochastic solver; with `split`, the held-out rows are split off the data."""
        rows, stops_early = None, bool(self.early_stopping)
        if held_out is not None and split:
            rows, rest = self._split(data, random)
            held_out = held_out_part(held_out, rest)
        self._start_curves(network, stops_early, held_out is not None)
        options = Options(
            epochs=1 if incremental else self.max_iter,
            rows=rows,
            held_out=held_out,
            score=scorer_of(self, network) if stops_early else None,
            offset=self._offset(data.Y),
            scale=self._scale(),
            incremental=incremental,
        )
        fit_epochs(self, network, recipe, data, options, random)
        self._noise = (network.seed, state_of(network).steps)

    def _start_curves(self, network: Network, stops_early: bool, validates: bool) -> None:
        """Initialize the curves of this fit; those of earlier calls are continued."""
        self.should_stop_ = False
        self.loss_curve_ = self.__dict__.get("loss_curve_", [])
        if validates:
            self.validation_loss_curve_ = self.__dict__.get("validation_loss_curve_", [])
        if not stops_early:
            best = self.__dict__.get("best_loss_")
            self.best_loss_ = np.inf if best is None else best
            self.validation_scores_ = self.best_validation_score_ = None
        elif self.__dict__.get("validation_scores_") is None:
            self.best_loss_ = None
            self.validation_scores_ = []
            self.best_validation_score_ = -np.inf
            self._best = state_of(network).flat.copy()

    def _split(self, data: FitData, random: Any) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the indices of training and held-out rows, split as in scikit-learn."""
        rows = np.arange(len(data.X))
        stratify = self._stratify(data.Y)
        train, held_out = train_test_split(
            rows, random_state=random, test_size=self.validation_fraction, stratify=stratify
        )
        if len(held_out) < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or the size of your dataset."
            )
        return train, held_out

    def _validation(self, network: Network, validation_data: Any) -> FitData:
        """Check validation_data=(X, y) or (X, y, sample_weight)."""
        if not isinstance(validation_data, (tuple, list)) or len(validation_data) not in (2, 3):
            came = type(validation_data).__name__
            if isinstance(validation_data, (tuple, list)):
                came += f" of length {len(validation_data)}"
            raise TypeError(f"validation_data must be (X, y) or (X, y, sample_weight); got {came}")
        X, y, weights = (*validation_data, None)[:3]
        try:
            X, y = self._matrices(X, y, False, **self._y_options)
            weights = self._weights(weights, X.shape[0])
            return self._data(network, X, y, self._targets(y), weights)
        except ValueError as error:
            raise ValueError(f"validation_data: {error}") from error

    # The rest depends on the targets; the defaults are those of a regressor.

    _y_options: ClassVar[dict[str, Any]] = {}

    def _take_classes(self, classes: Any, y: Any) -> None:
        """Set the classes from the first call of `partial_fit`."""

    def _learn_targets(self, y: Array, incremental: bool) -> None:
        """Set the classes of y, or check that they are known."""

    def _targets(self, y: Array) -> Array:
        """Return the targets that the loss expects for y."""
        return y

    def _class_weights(self, y: Array, weights: Array | None, incremental: bool) -> Array | None:
        """Return the weights of the rows multiplied by their class weights."""
        return weights

    def _outputs(self, Y: Array) -> int:
        """Return the number of outputs of the network."""
        return 1 if Y.ndim == 1 else Y.shape[1]

    def _stratify(self, Y: Array) -> Array | None:
        """Return the classes to stratify the split by; None for no stratification."""
        return None

    def _offset(self, Y: Array) -> Array | None:
        """Return the difference between scikit-learn's loss of each row and the network's, if any."""
        return None

    def _scale(self) -> float:
        """Return the factor from the network's mean loss to scikit-learn's."""
        return 1.0

    def _out_activation(self) -> str:
        """Return scikit-learn's name of the output activation."""
        return "identity"

    def _own_score(self, predicted: Array, data: FitData) -> float:
        """Return the default score of predictions, accuracy or R²."""
        raise NotImplementedError


def _require_supported(est: Any, recipe: Recipe, validation_data: Any) -> None:
    """Raise ValueError for parameters that the solver lbfgs does not support."""
    if recipe.optimizer is not None:
        return
    if recipe.penalty is not None and not recipe.penalty.smooth:
        raise ValueError(f"penalty={est.penalty!r} needs a stochastic solver; lbfgs supports 'l2' or None")
    # A warm start keeps the layers of the last fit.
    norms = est.warm_start and est.__dict__.get("batch_norms_", ())
    for name, given in (
        ("dropout", any(recipe.dropout)),
        ("batch_norm", recipe.batch_norm or norms),
        ("validation_data", validation_data is not None),
    ):
        if given:
            raise ValueError(f"{name} needs a stochastic solver, such as 'adam'; got solver='lbfgs'")
