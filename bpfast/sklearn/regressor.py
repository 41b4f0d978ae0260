"""`MLPRegressor`: its parameters, targets and predictions."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from scipy.special import xlogy
from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score
from sklearn.neural_network import MLPRegressor as TheirRegressor
from sklearn.utils.metaestimators import available_if

from ..arrays import Array
from ..interop.skl2onnx import Convertible
from ..specs.losses import Loss, link_of, resolve_loss
from .base import FitData, supports_partial_fit
from .fitting import Perceptron


class MLPRegressor(Convertible, RegressorMixin, Perceptron):  # type: ignore[misc]
    """Multi-layer perceptron regressor: scikit-learn's `MLPRegressor`, trained natively.

    The parameters are those of `MLPClassifier` without `class_weight`, except for

    Parameters
    ----------
    loss : str or Loss, default "squared_error"
        ``"squared_error"`` and ``"poisson"`` as in scikit-learn: half the squared error and half the
        Poisson deviance. Also ``"absolute_error"``, ``"huber"``, ``"quantile"`` (the median) or an
        object, such as ``bp.Quantile(0.9)`` or ``bp.CustomLoss(f)``.
    scoring : str, callable or None, default None
        As in `MLPClassifier`; None is R², or the loss if it is a quantile loss, for which R² says
        little.

    Attributes
    ----------
    Those of `MLPClassifier`, without `classes_`.

    Examples
    --------
    >>> from bpfast.sklearn import MLPRegressor
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = MLPRegressor(solver="lbfgs", alpha=100, random_state=0)
    >>> bool(make_pipeline(StandardScaler(), model).fit(X, y).score(X, y) > 0.5)
    True
    """

    alias = "SklearnMLPRegressor"
    _theirs = TheirRegressor
    _y_options: ClassVar[dict[str, Any]] = {"y_numeric": True}

    def __init__(
        self,
        loss="squared_error",
        hidden_layer_sizes=(100,),
        activation="relu",
        *,
        solver="adam",
        alpha=0.0001,
        batch_size="auto",
        learning_rate="constant",
        learning_rate_init=0.001,
        power_t=0.5,
        max_iter=200,
        shuffle=True,
        random_state=None,
        tol=1e-4,
        verbose=False,
        warm_start=False,
        momentum=0.9,
        nesterovs_momentum=True,
        early_stopping=False,
        validation_fraction=0.1,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
        n_iter_no_change=10,
        max_fun=15000,
        penalty="l2",
        l1_ratio=0.5,
        dropout=0.0,
        batch_norm=False,
        scoring=None,
        keep_optimizer=False,
        callbacks=None,
        dtype=None,
        n_jobs=None,
    ) -> None:
        self._keep(locals())

    def fit(self, X: Any, y: Any, sample_weight: Any = None, *, validation_data: Any = None) -> MLPRegressor:
        """Fit the model to X and y.

        Parameters
        ----------
        X : array, sparse matrix or data frame (n, n_features)
            Training data.
        y : array (n,) or (n, n_outputs)
            Targets.
        sample_weight, validation_data
            As for `MLPClassifier`.

        Returns
        -------
        self
        """
        return self._fit(X, y, sample_weight, validation_data, incremental=False)

    @available_if(supports_partial_fit)
    def partial_fit(
        self, X: Any, y: Any, sample_weight: Any = None, *, validation_data: Any = None
    ) -> MLPRegressor:
        """Train for one epoch on the given data, continuing from the last call; see `fit`."""
        return self._fit(X, y, sample_weight, validation_data, incremental=True)

    def predict(self, X: Any) -> Array:
        """Predict values (n,), or (n, n_outputs) if there are several outputs."""
        A = self._linked(X)
        return A.ravel() if A.shape[1] == 1 else A

    def _loss(self, dtype: Any = np.float64) -> Loss:
        loss = resolve_loss(self.loss)
        if loss.targets not in ("values", "counts"):
            raise ValueError(f"loss must be a regression loss, such as 'squared_error'; got {self.loss!r}")
        return loss

    def _targets(self, y: Array) -> Array:
        return y.reshape(len(y), -1)

    def _offset(self, Y: Array) -> Array | None:
        if self._loss().name != "poisson":
            return None
        target = Y.astype(np.float64)
        return (xlogy(target, target) - target).sum(axis=1)

    def _scale(self) -> float:
        return {"squared_error": 0.5, "poisson": float(self.n_outputs_)}.get(self._loss().name, 1.0)

    def _out_activation(self) -> str:
        return {"sigmoid": "logistic"}.get(link_of(self._loss()), link_of(self._loss()))

    def _own_score(self, predicted: Array, data: FitData) -> float:
        if not np.isfinite(predicted).all():
            return float("nan")
        return float(r2_score(data.Y, predicted, sample_weight=data.weights))
