"""The estimators: parameters, targets, predictions."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import numpy as np

from .._state import state_of
from ..arrays import Array

try:
    import sklearn as _sklearn  # noqa: F401
except ModuleNotFoundError:
    raise ModuleNotFoundError("bpfast.sklearn needs scikit-learn: pip install 'bpfast[sklearn]'") from None
from scipy.sparse import csr_matrix, issparse
from sklearn.base import ClassifierMixin, RegressorMixin, is_classifier
from sklearn.metrics import r2_score
from sklearn.neural_network import MLPClassifier as TheirClassifier
from sklearn.neural_network import MLPRegressor as TheirRegressor
from sklearn.preprocessing import LabelBinarizer, label_binarize
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import type_of_target, unique_labels
from sklearn.utils.validation import check_is_fitted

from ..arrays import checks
from ..interop.skl2onnx import Convertible
from ..specs.losses import CrossEntropy, LogLoss, Loss, link_of, resolve_loss
from .base import FitData
from .fitting import Perceptron

__all__ = ["MLPClassifier", "MLPRegressor", "from_sklearn"]


def _trains_in_parts(est: Any) -> bool:
    if isinstance(est.solver, str) and est.solver == "lbfgs":
        raise AttributeError("partial_fit needs a stochastic solver, such as 'adam'; got solver='lbfgs'")
    return True


def _labels(y: Array) -> Array:
    """The classes in y, in order."""
    return np.unique(y) if y.ndim == 1 and y.dtype != object else unique_labels(y)


def _has_probabilities(est: Any) -> bool:
    if est._has_margins():
        raise AttributeError(f"loss={est.loss!r} gives no probabilities; decision_function gives its values")
    return True


def _has_margins(est: Any) -> bool:
    if not est._has_margins():
        raise AttributeError(f"loss={est.loss!r} gives probabilities: predict_proba")
    return True


class MLPClassifier(Convertible, ClassifierMixin, Perceptron):  # type: ignore[misc]
    """A dense network that classifies: scikit-learn's `MLPClassifier`, trained natively.

    Parameters from `hidden_layer_sizes` to `max_fun` are scikit-learn's, with its defaults and its
    checks; what more they take is said here. Those behind them are new, and off by default.

    Parameters
    ----------
    hidden_layer_sizes : int or sequence of int, default (100,)
    activation : str, Activation or a tuple of them, default "relu"
        Also every activation of bpfast, such as ``"gelu"`` or ``bp.LeakyReLU(0.1)``; a tuple has
        one for each hidden layer.
    solver : {"adam", "sgd", "lbfgs"} or Optimizer, default "adam"
        Also ``"adamw"``, ``"rmsprop"``, ``"adagrad"`` and ``"rprop"`` with `learning_rate_init`,
        `beta_1`, `beta_2` and `epsilon` as far as they take them, or an object such as
        ``bp.AdamW(0.01, weight_decay=0.1)``, whose numbers count in place of those parameters.
    alpha : float, default 0.0001
        The strength α of `penalty`: a batch's loss has ½ α Σ w² (l2), α Σ |w| (l1) or
        α Σ (ρ |w| + ½ (1 - ρ) w²) (elasticnet, ρ = `l1_ratio`) added, divided by the batch's rows, or
        by the sum of their weights.
    batch_size : int or "auto", default "auto"
        Rows a step; by default 200, or all rows if there are fewer.
    learning_rate : {"constant", "invscaling", "adaptive"} or Schedule, default "constant"
        The names are for sgd, as there, and for the solvers that are new. A schedule, such as
        ``bp.Cosine(0.01, epochs=50)``, is for every stochastic solver but rprop, also in place of an
        optimizer object's own rate.
    learning_rate_init : float, default 0.001
        The rate to begin with.
    power_t : float, default 0.5
        The exponent of "invscaling": `learning_rate_init` / (t + 1)^power_t after t rows.
    max_iter : int, default 200
        Epochs, or iterations of lbfgs, at most.
    shuffle : bool, default True
        A new order of the rows every epoch.
    random_state : int, RandomState or None, default None
        Where initial weights, splits, orders and dropout come from.
    tol : float, default 1e-4
        What counts as improvement of loss or score; of lbfgs, the largest gradient to end with.
    verbose : bool, default False
        Print a line an epoch.
    warm_start : bool, default False
        `fit` goes on from the weights there are.
    momentum : float, default 0.9
        Of sgd.
    nesterovs_momentum : bool, default True
        Look ahead along the momentum.
    early_stopping : bool, default False
        End by the score of held-out rows, and go back to the weights of the best.
    validation_fraction : float, default 0.1
        The share of X that is held out, unless `fit` is given `validation_data`.
    beta_1, beta_2 : float, default 0.9 and 0.999
        The decay of Adam's moments.
    epsilon : float, default 1e-8
        What keeps Adam from dividing by 0.
    n_iter_no_change : int, default 10
        The training ends after more epochs than so without improvement.
    max_fun : int, default 15000
        Evaluations of the loss by lbfgs, at most.
    loss : {"log_loss", "hinge", "exponential"} or Loss, default "log_loss"
        hinge and exponential take one output a class against the rest, and give no probabilities.
    penalty : {"l2", "l1", "elasticnet"} or None, default "l2"
        L1 makes weights exactly 0; see `bpfast.penalties`.
    l1_ratio : float, default 0.5
        The share of L1 in the elastic net.
    dropout : float or tuple of float, default 0.0
        The share of each hidden layer's outputs that training leaves out (`bpfast.Dropout`).
    batch_norm : bool, default False
        Normalise Z = X W + b of every hidden layer, before the activation: in training by the mean and
        variance of the batch, in prediction by running ones (`bpfast.BatchNorm`). In these, rows count
        alike, whatever their weights.
    class_weight : dict, list of dict, "balanced" or None, default None
        What a class counts, as in scikit-learn; a list has a dict for each of several labels. Held-out
        rows count without. "balanced" is not for `partial_fit`, which sees a part of the data.
    scoring : str, callable or None, default None
        What early stopping goes by: a scorer of scikit-learn's, a callable ``(estimator, X, y)``, or
        ``"loss"`` for the least loss; None for accuracy.
    keep_optimizer : bool, default False
        With `warm_start`, go on with the optimizer's moments and rate too.
    callbacks : sequence of Callback or None, default None
        `bpfast.Callback` objects, such as ``bp.ProgressBar()``, whose ``on_epoch_end(network, history)``
        and ``on_batch_end(network, batch, loss)`` are called after each, and end the training by
        returning True.
    dtype : {"float32", "float64"} or None, default None
        Of the weights and the arithmetic; None for that of X. float32 takes about half the time.
    n_jobs : int or None, default None
        Threads, at most; None and -1 for the cores at hand, -2 for all but one and so on. Results do
        not depend on it.

    Attributes
    ----------
    classes_, n_features_in_, feature_names_in_, n_outputs_, n_layers_, out_activation_, n_iter_, t_
        As in scikit-learn. `n_iter_` is 1 after a `partial_fit`: ``len(loss_curve_)`` counts them all.
    loss_, loss_curve_, best_loss_, validation_scores_, best_validation_score_
        As in scikit-learn.
    coefs_, intercepts_
        As in scikit-learn. They may be changed in place, or replaced: predictions follow.
    batch_norms_ : list of tuple of array
        With `batch_norm`, γ, β, running mean and running variance (units,) of each hidden layer; else
        empty. Changes count as those of `coefs_` do.
    validation_loss_curve_ : list of float
        The loss of the held-out rows after every epoch; absent where there are none.
    history_ : bpfast.History
        The figures of the last call: loss, learning_rate and seconds, val_loss with held-out rows,
        val_score with early stopping; ``history_.plot()`` draws them.
    should_stop_ : bool
        Whether `tol` and `n_iter_no_change` ended the training; what a loop around `partial_fit`
        goes by.

    Notes
    -----
    See `bpfast.sklearn` for where numbers differ from scikit-learn's, and how to get the old ones.

    Examples
    --------
    >>> from bpfast.sklearn import MLPClassifier
    >>> from sklearn.datasets import load_digits
    >>> X, y = load_digits(return_X_y=True)
    >>> MLPClassifier(random_state=0).fit(X, y).score(X, y)
    1.0
    """

    alias = "SklearnMLPClassifier"
    _theirs = TheirClassifier
    _target_type: str
    _sparse_labels: bool

    def __init__(
        self,
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
        loss="log_loss",
        penalty="l2",
        l1_ratio=0.5,
        dropout=0.0,
        batch_norm=False,
        class_weight=None,
        scoring=None,
        keep_optimizer=False,
        callbacks=None,
        dtype=None,
        n_jobs=None,
    ) -> None:
        self._keep(locals())

    def fit(self, X: Any, y: Any, sample_weight: Any = None, *, validation_data: Any = None) -> MLPClassifier:
        """Fit to X and y.

        Parameters
        ----------
        X : array, sparse matrix or data frame (n, n_features)
        y : array (n,) or (n, n_labels)
            Classes, or 0 and 1 for each of several labels.
        sample_weight : array (n,), optional
            At least 0.
        validation_data : (X, y) or (X, y, sample_weight), optional
            Held-out rows: `validation_loss_curve_` follows them, and early stopping goes by them in
            place of a part of X. In a Pipeline they do not pass through the steps before this one:
            transform them first.

        Returns
        -------
        self
        """
        return self._fit(X, y, sample_weight, validation_data, incremental=False)

    @available_if(_trains_in_parts)
    def partial_fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        classes: Any = None,
        *,
        validation_data: Any = None,
    ) -> MLPClassifier:
        """One epoch over the given data, from where the last call ended.

        Parameters
        ----------
        X, y, sample_weight, validation_data
            As for `fit`.
        classes : array (n_classes,)
            All that will ever come; needed in the first call.

        Returns
        -------
        self
        """
        return self._fit(X, y, sample_weight, validation_data, incremental=True, classes=classes)

    def predict(self, X: Any) -> Array:
        """The classes (n,), or the labels (n, n_labels) as 0 and 1, sparse if they were in `fit`."""
        A = self._linked(X)
        threshold = 0.0 if self._has_margins() else 0.5
        if self._target_type == "multilabel":
            labels = (threshold < A).astype(int)
            return csr_matrix(labels) if self._sparse_labels else labels
        if self._target_type == "multiclass":
            return self.classes_[A.argmax(axis=1)]
        return self.classes_[(A[:, 0] > threshold).astype(int) * (len(self.classes_) - 1)]

    @available_if(_has_probabilities)
    def predict_proba(self, X: Any) -> Array:
        """The probabilities (n, n_classes), in the order of `classes_`."""
        A = self._linked(X)
        return np.hstack([1 - A, A]) if A.shape[1] == 1 else A

    @available_if(_has_probabilities)
    def predict_log_proba(self, X: Any) -> Array:
        """The logarithms of `predict_proba`."""
        probabilities = self.predict_proba(X)
        return np.log(probabilities, out=probabilities)

    @available_if(_has_margins)
    def decision_function(self, X: Any) -> Array:
        """The raw outputs (n, n_classes), or (n,) for two classes: the classes' margins.

        There where the loss has no probabilities, hinge and exponential.
        """
        A = self._linked(X)
        return A[:, 0] if A.shape[1] == 1 else A

    # ---- targets

    def _has_margins(self) -> bool:
        """Whether the loss takes -1 and +1, and gives values instead of probabilities."""
        return self._family().targets == "signs"

    def _family(self) -> Loss:
        """The loss as the parameter names it, for one output."""
        loss = resolve_loss(self.loss)
        if loss.name not in ("log_loss", "hinge", "exponential"):
            raise ValueError(f"loss must be 'log_loss', 'hinge' or 'exponential'; got {self.loss!r}")
        return loss

    def _loss(self, dtype: Any = np.float64) -> Loss:
        loss = self._family()
        if loss.name != "log_loss":
            return loss
        several = self.__dict__.get("_target_type") == "multiclass"
        return (CrossEntropy if several else LogLoss)(cap=-np.log(np.finfo(dtype).eps))

    def _take_classes(self, classes: Any, y: Any) -> None:
        known = self.__dict__.get("classes_")
        if known is None and classes is None:
            raise ValueError("classes must be passed on the first call to partial_fit.")
        if classes is None:
            return
        if known is None:
            self._set_classes(y if type_of_target(y).startswith("multilabel") else classes)
        elif not np.array_equal(known, unique_labels(classes)):
            raise ValueError(
                f"`classes={classes!r}` is not the same as on last call to partial_fit, was: {known!r}"
            )

    def _set_classes(self, y: Any) -> None:
        """Classes and the kind of target from labels; LabelBinarizer knows what labels may be."""
        self.classes_ = LabelBinarizer().fit(y).classes_
        self._sparse_labels = issparse(y)
        if type_of_target(y).startswith("multilabel"):
            self._target_type = "multilabel"
        else:
            self._target_type = "binary" if len(self.classes_) <= 2 else "multiclass"

    def _learn_targets(self, y: Array, incremental: bool) -> None:
        if not hasattr(self, "classes_") or not (self.warm_start or incremental):
            self._set_classes(y)
            return
        found = _labels(y)
        if self.warm_start and set(found) != set(self.classes_):
            raise ValueError(
                "warm_start can only be used where `y` has the same classes as in the previous call to fit."
                f" Previously got {self.classes_}, `y` has {found}"
            )
        if len(np.setdiff1d(found, self.classes_, assume_unique=True)):
            raise ValueError(
                "`y` has classes not in `self.classes_`. "
                f"`self.classes_` has {self.classes_}. 'y' has {found}."
            )

    def _targets(self, y: Array) -> Array:
        """Places in classes_ for cross_entropy, else a column of 0 and 1, or of -1 and +1, an output."""
        several = y.ndim > 1 and type_of_target(y).startswith("multilabel")
        if (self._target_type == "multilabel") != several:
            raise ValueError(
                f"y is {type_of_target(y)}; the targets of the first fit were {self._target_type}"
            )
        low = -1.0 if self._has_margins() else 0.0
        if self._target_type == "multilabel":
            return np.where(label_binarize(y, classes=self.classes_) > 0, 1.0, low)
        unknown = np.setdiff1d(_labels(y), self.classes_)
        if len(unknown):
            raise ValueError(
                f"y holds {unknown.tolist()[0]!r}, which is not among the classes {self.classes_}"
            )
        codes = np.searchsorted(self.classes_, y)
        if self._target_type == "binary":
            return np.where(codes == 1, 1.0, low)[:, None]
        if low == 0:
            return codes
        return np.where(codes[:, None] == np.arange(len(self.classes_)), 1.0, low)

    def _class_weights(self, y: Array, weights: Array | None, incremental: bool) -> Array | None:
        if self.class_weight is None:
            return weights
        if incremental and isinstance(self.class_weight, str):
            raise ValueError(
                f"class_weight={self.class_weight!r} is not for partial_fit, which sees a part of the data: "
                "pass the weights, as compute_class_weight gives them for all of it"
            )
        if isinstance(self.class_weight, dict):
            unknown = [name for name in self.class_weight if name not in self.classes_]
            if unknown:
                raise ValueError(
                    f"class_weight names {unknown[0]!r}, which is not among the classes {self.classes_}"
                )
        own = compute_sample_weight(self.class_weight, y)
        return checks.weights(own if weights is None else own * weights, len(own), "class_weight")

    def _outputs(self, Y: Array) -> int:
        return len(self.classes_) if Y.ndim == 1 else Y.shape[1]

    def _stratify(self, Y: Array) -> Array | None:
        # By the names that scikit-learn's split gives them.
        return np.where(Y[:, 0] > 0, "True", "False") if self.n_outputs_ == 1 else None

    def _scale(self) -> float:
        # One loss a row: over several labels, or classes against the rest, the sum.
        return 1.0 if self._loss().name == "cross_entropy" else float(self.n_outputs_)

    def _out_activation(self) -> str:
        if self._has_margins():
            return "identity"
        return "softmax" if self._target_type == "multiclass" else "logistic"

    def _own_score(self, predicted: Array, data: FitData) -> float:
        if self._target_type == "multiclass":
            goal = data.Y if data.Y.ndim == 1 else data.Y.argmax(axis=1)
            right = predicted.argmax(axis=1) == goal
        else:
            threshold = 0.0 if self._has_margins() else 0.5
            right = ((predicted > threshold) == (threshold < data.Y)).all(axis=1)
        return float(np.average(right, weights=data.weights))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    def _more_tags(self) -> dict[str, Any]:  # before scikit-learn 1.6
        return {"multilabel": True}


class MLPRegressor(Convertible, RegressorMixin, Perceptron):  # type: ignore[misc]
    """A dense network that predicts numbers: scikit-learn's `MLPRegressor`, trained natively.

    Parameters are `MLPClassifier`'s, less `class_weight`, and

    Parameters
    ----------
    loss : str or Loss, default "squared_error"
        ``"squared_error"`` and ``"poisson"`` as in scikit-learn, half the squared error and half the
        Poisson deviance; also ``"absolute_error"``, ``"huber"``, ``"quantile"`` (the median) or an
        object, such as ``bp.Quantile(0.9)`` or ``bp.CustomLoss(f)``.
    scoring : str, callable or None, default None
        As there; None for R², of which a quantile's prediction may have little: for it, the loss.

    Attributes
    ----------
    Those of `MLPClassifier`, less `classes_`.

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
        """Fit to X and y.

        Parameters
        ----------
        X : array, sparse matrix or data frame (n, n_features)
        y : array (n,) or (n, n_outputs)
        sample_weight, validation_data
            As for `MLPClassifier`.

        Returns
        -------
        self
        """
        return self._fit(X, y, sample_weight, validation_data, incremental=False)

    @available_if(_trains_in_parts)
    def partial_fit(
        self, X: Any, y: Any, sample_weight: Any = None, *, validation_data: Any = None
    ) -> MLPRegressor:
        """One epoch over the given data, from where the last call ended; see `fit`."""
        return self._fit(X, y, sample_weight, validation_data, incremental=True)

    def predict(self, X: Any) -> Array:
        """The predictions (n,), or (n, n_outputs) if there are several."""
        A = self._linked(X)
        return A.ravel() if A.shape[1] == 1 else A

    # ---- targets

    def _loss(self, dtype: Any = np.float64) -> Loss:
        loss = resolve_loss(self.loss)
        if loss.targets not in ("values", "counts"):
            raise ValueError(f"loss must be one of a regression, such as 'squared_error'; got {self.loss!r}")
        return loss

    def _targets(self, y: Array) -> Array:
        return y.reshape(len(y), -1)

    def _offset(self, Y: Array) -> Array | None:
        if self._loss().name != "poisson":
            return None
        from scipy.special import xlogy

        goal = Y.astype(np.float64)
        return (xlogy(goal, goal) - goal).sum(axis=1)

    def _scale(self) -> float:
        return {"squared_error": 0.5, "poisson": float(self.n_outputs_)}.get(self._loss().name, 1.0)

    def _out_activation(self) -> str:
        return {"sigmoid": "logistic"}.get(link_of(self._loss()), link_of(self._loss()))

    def _own_score(self, predicted: Array, data: FitData) -> float:
        if not np.isfinite(predicted).all():
            return float("nan")
        return float(r2_score(data.Y, predicted, sample_weight=data.weights))


def from_sklearn(estimator: Any) -> MLPClassifier | MLPRegressor:
    """Take a fitted estimator of scikit-learn's over: its parameters, weights and figures.

    Predictions are the same, and `partial_fit` or a warm start goes on from its weights; the
    optimizer's moments start anew.

    Parameters
    ----------
    estimator : sklearn.neural_network.MLPClassifier or MLPRegressor
        It is not changed.

    Returns
    -------
    MLPClassifier or MLPRegressor

    Raises
    ------
    TypeError
        If it is another kind of estimator.
    sklearn.exceptions.NotFittedError
        If it has not been fitted.
    """
    if not isinstance(estimator, (TheirClassifier, TheirRegressor)):
        kind_of = type(estimator)
        raise TypeError(
            "from_sklearn takes a fitted MLPClassifier or MLPRegressor of scikit-learn's, of a pipeline its "
            f"last step; got {kind_of.__module__}.{kind_of.__name__}"
        )
    check_is_fitted(estimator)
    kind = MLPClassifier if is_classifier(estimator) else MLPRegressor
    ours = kind(**copy.deepcopy(estimator.get_params(deep=False)))
    for name, value in vars(estimator).items():
        if name.endswith("_") and not name.startswith("_"):
            setattr(ours, name, copy.deepcopy(value))
    if isinstance(ours, MLPClassifier):
        softmax = ours.out_activation_ == "softmax"
        single = "binary" if ours.n_outputs_ == 1 else "multilabel"
        ours._target_type = "multiclass" if softmax else single
        ours._sparse_labels = bool(estimator._label_binarizer.sparse_input_)
    ours._no_improvement_count = 0
    ours._best = state_of(ours._network()).flat.copy()
    return ours
