"""`MLPClassifier`: its parameters, class labels and predictions."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.sparse import csr_matrix, issparse
from sklearn.base import ClassifierMixin
from sklearn.neural_network import MLPClassifier as TheirClassifier
from sklearn.preprocessing import LabelBinarizer, label_binarize
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import type_of_target, unique_labels

from ..arrays import Array, checks
from ..evaluation import accuracy
from ..interop.skl2onnx import Convertible
from ..specs.losses import CrossEntropy, LogLoss, Loss, resolve_loss
from .base import FitData, supports_partial_fit
from .fitting import Perceptron


def _labels(y: Array) -> Array:
    """The sorted classes in y."""
    return np.unique(y) if y.ndim == 1 and y.dtype != object else unique_labels(y)


def _has_probabilities(est: Any) -> bool:
    if est._has_margins():
        raise AttributeError(f"loss={est.loss!r} does not give probabilities; use decision_function")
    return True


def _has_margins(est: Any) -> bool:
    if not est._has_margins():
        raise AttributeError(f"loss={est.loss!r} gives probabilities; use predict_proba")
    return True


class MLPClassifier(Convertible, ClassifierMixin, Perceptron):  # type: ignore[misc]
    """Multi-layer perceptron classifier: scikit-learn's `MLPClassifier`, trained natively.

    The parameters from `hidden_layer_sizes` to `max_fun` are scikit-learn's, with the same defaults
    and the same validation; what they accept in addition is described here. The parameters after
    `max_fun` are new and have no effect by default.

    Parameters
    ----------
    hidden_layer_sizes : int or sequence of int, default (100,)
        Number of units of each hidden layer.
    activation : str, Activation or a tuple of them, default "relu"
        Activation of the hidden layers. Every activation of bpfast is accepted, such as ``"gelu"``
        or ``bp.LeakyReLU(0.1)``; a tuple holds one activation for each hidden layer.
    solver : {"adam", "sgd", "lbfgs"} or Optimizer, default "adam"
        Also ``"adamw"``, ``"rmsprop"``, ``"adagrad"`` and ``"rprop"``, which use whichever of
        `learning_rate_init`, `beta_1`, `beta_2` and `epsilon` they support, or an object such as
        ``bp.AdamW(0.01, weight_decay=0.1)``, whose settings replace those parameters.
    alpha : float, default 0.0001
        Strength α of `penalty`. The term ½ α Σ w² (l2), α Σ |w| (l1) or
        α Σ (ρ |w| + ½ (1 - ρ) w²) (elasticnet, ρ = `l1_ratio`), divided by the number of rows of the
        batch or the sum of their weights, is added to the loss of the batch.
    batch_size : int or "auto", default "auto"
        Number of rows per step; "auto" is 200, or all rows if there are fewer.
    learning_rate : {"constant", "invscaling", "adaptive"} or Schedule, default "constant"
        The names apply to sgd, as in scikit-learn, and to the solvers that only bpfast has. A
        schedule, such as ``bp.Cosine(0.01, epochs=50)``, works with every stochastic solver except
        rprop and replaces the learning rate of an optimizer object.
    learning_rate_init : float, default 0.001
        Initial learning rate.
    power_t : float, default 0.5
        Exponent of "invscaling": `learning_rate_init` / (t + 1)^power_t after t rows.
    max_iter : int, default 200
        Maximum number of epochs, or of iterations of lbfgs.
    shuffle : bool, default True
        Shuffle the rows before each epoch.
    random_state : int, RandomState or None, default None
        Source of initial weights, splits, row orders and dropout masks.
    tol : float, default 1e-4
        Minimum improvement of the loss or score; for lbfgs, the largest gradient element at which it
        stops.
    verbose : bool, default False
        Print one line per epoch.
    warm_start : bool, default False
        Continue from the current weights when `fit` is called again.
    momentum : float, default 0.9
        Momentum of sgd.
    nesterovs_momentum : bool, default True
        Use Nesterov's momentum.
    early_stopping : bool, default False
        Stop training when the score of held-out rows no longer improves, and restore the weights
        with the best score.
    validation_fraction : float, default 0.1
        Fraction of X to hold out, unless `fit` is given `validation_data`.
    beta_1, beta_2 : float, default 0.9 and 0.999
        Decay rates of Adam's moments.
    epsilon : float, default 1e-8
        Term that keeps Adam's denominator above 0.
    n_iter_no_change : int, default 10
        Training stops after more than this many consecutive epochs without improvement.
    max_fun : int, default 15000
        Maximum number of loss evaluations of lbfgs.
    loss : {"log_loss", "hinge", "exponential"} or Loss, default "log_loss"
        Loss to minimise. hinge and exponential train one output per class against the rest and do
        not give probabilities.
    penalty : {"l2", "l1", "elasticnet"} or None, default "l2"
        Penalty on the weights. L1 sets weights exactly to 0; see `bpfast.penalties`.
    l1_ratio : float, default 0.5
        Share of L1 in the elastic net.
    dropout : float or tuple of float, default 0.0
        Fraction of each hidden layer's outputs that is dropped in training (`bpfast.Dropout`).
    batch_norm : bool, default False
        Normalise Z = X W + b of every hidden layer before the activation: with the mean and variance
        of the batch in training, with running statistics in prediction (`bpfast.BatchNorm`). Row
        weights do not affect these statistics.
    class_weight : dict, list of dict, "balanced" or None, default None
        Weights of the classes, as in scikit-learn; a list holds one dict per label in multilabel
        problems. Held-out rows are not weighted by class. "balanced" is not available in
        `partial_fit`, which sees only part of the data.
    scoring : str, callable or None, default None
        Score for early stopping: the name of a scikit-learn scorer, a callable
        ``(estimator, X, y)``, or ``"loss"`` for the lowest loss; None is accuracy.
    keep_optimizer : bool, default False
        With `warm_start`, also continue with the optimizer's moments and learning rate.
    callbacks : sequence of Callback or None, default None
        `bpfast.Callback` objects, such as ``bp.ProgressBar()``. Their
        ``on_batch_end(network, batch, loss)`` and ``on_epoch_end(network, history)`` are called
        after each batch and epoch and stop training by returning True.
    dtype : {"float32", "float64"} or None, default None
        Data type of weights and arithmetic; None uses that of X. float32 takes about half the time.
    n_jobs : int or None, default None
        Maximum number of threads: None and -1 use all available cores, -2 all but one, and so on.
        Results do not depend on it.

    Attributes
    ----------
    classes_, n_features_in_, feature_names_in_, n_outputs_, n_layers_, out_activation_, n_iter_, t_
        As in scikit-learn. `n_iter_` is 1 after `partial_fit`; ``len(loss_curve_)`` counts all epochs.
    loss_, loss_curve_, best_loss_, validation_scores_, best_validation_score_
        As in scikit-learn.
    coefs_, intercepts_
        As in scikit-learn. They may be changed in place or replaced; predictions follow.
    batch_norms_ : list of tuple of array
        With `batch_norm`, γ, β, running mean and running variance (units,) of each hidden layer;
        otherwise empty. They may be changed like `coefs_`.
    validation_loss_curve_ : list of float
        Loss of the held-out rows after every epoch; only with held-out rows.
    history_ : bpfast.History
        Figures of the last call: loss, learning_rate and seconds, val_loss with held-out rows,
        val_score with early stopping; ``history_.plot()`` draws them.
    should_stop_ : bool
        Whether `tol` and `n_iter_no_change` ended training; use it to end a loop around
        `partial_fit`.

    Notes
    -----
    See `bpfast.sklearn` for where results differ from scikit-learn, and how to reproduce its results.

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
        """Fit the model to X and y.

        Parameters
        ----------
        X : array, sparse matrix or data frame (n, n_features)
            Training data.
        y : array (n,) or (n, n_labels)
            Class labels, or 0 and 1 for each of several labels.
        sample_weight : array (n,), optional
            Nonnegative weights of the rows.
        validation_data : (X, y) or (X, y, sample_weight), optional
            Held-out rows. `validation_loss_curve_` records their loss, and early stopping uses them
            instead of a part of X. In a Pipeline they do not pass through the preceding steps:
            transform them first.

        Returns
        -------
        self
        """
        return self._fit(X, y, sample_weight, validation_data, incremental=False)

    @available_if(supports_partial_fit)
    def partial_fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        classes: Any = None,
        *,
        validation_data: Any = None,
    ) -> MLPClassifier:
        """Train for one epoch on the given data, continuing from the last call.

        Parameters
        ----------
        X, y, sample_weight, validation_data
            As for `fit`.
        classes : array (n_classes,)
            All classes that may occur in any call; required in the first call.

        Returns
        -------
        self
        """
        return self._fit(X, y, sample_weight, validation_data, incremental=True, classes=classes)

    def predict(self, X: Any) -> Array:
        """Predict classes (n,), or labels (n, n_labels) as 0 and 1, sparse if those of `fit` were."""
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
        """Predict probabilities (n, n_classes), in the order of `classes_`."""
        A = self._linked(X)
        return np.hstack([1 - A, A]) if A.shape[1] == 1 else A

    @available_if(_has_probabilities)
    def predict_log_proba(self, X: Any) -> Array:
        """Return the logarithm of `predict_proba`."""
        probabilities = self.predict_proba(X)
        return np.log(probabilities, out=probabilities)

    @available_if(_has_margins)
    def decision_function(self, X: Any) -> Array:
        """Return the raw outputs (n, n_classes), or (n,) for two classes: the margins of the classes.

        Only available with losses that do not give probabilities, hinge and exponential.
        """
        A = self._linked(X)
        return A[:, 0] if A.shape[1] == 1 else A

    def _has_margins(self) -> bool:
        """Whether the loss takes targets -1 and +1, and gives margins instead of probabilities."""
        return self._family().targets == "signs"

    def _family(self) -> Loss:
        """The loss that the parameter names, for one output."""
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
        """Take the classes and the type of target from labels, as validated by LabelBinarizer."""
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
        """Indices into `classes_` for cross_entropy, otherwise a column of 0/1 or -1/+1 per output."""
        several = y.ndim > 1 and type_of_target(y).startswith("multilabel")
        if (self._target_type == "multilabel") != several:
            raise ValueError(
                f"y must be {self._target_type} as in the first call to fit; got {type_of_target(y)}"
            )
        low = -1.0 if self._has_margins() else 0.0
        if self._target_type == "multilabel":
            return np.where(label_binarize(y, classes=self.classes_) > 0, 1.0, low)
        unknown = np.setdiff1d(_labels(y), self.classes_)
        if len(unknown):
            raise ValueError(
                f"y contains {unknown.tolist()[0]!r}, which is not one of the classes {self.classes_}"
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
                f"class_weight={self.class_weight!r} is not supported by partial_fit, which sees only part "
                "of the data; pass a dict, such as compute_class_weight gives for all of the data"
            )
        if isinstance(self.class_weight, dict):
            unknown = [name for name in self.class_weight if name not in self.classes_]
            if unknown:
                raise ValueError(
                    f"class_weight names {unknown[0]!r}, which is not one of the classes {self.classes_}"
                )
        own = compute_sample_weight(self.class_weight, y)
        return checks.weights(own if weights is None else own * weights, len(own), "class_weight")

    def _outputs(self, Y: Array) -> int:
        return len(self.classes_) if Y.ndim == 1 else Y.shape[1]

    def _stratify(self, Y: Array) -> Array | None:
        # The labels that scikit-learn passes to its split: their order decides the rows.
        return np.where(Y[:, 0] > 0, "True", "False") if self.n_outputs_ == 1 else None

    def _scale(self) -> float:
        # scikit-learn sums the loss over labels, and over classes against the rest.
        return 1.0 if self._loss().name == "cross_entropy" else float(self.n_outputs_)

    def _out_activation(self) -> str:
        if self._has_margins():
            return "identity"
        return "softmax" if self._target_type == "multiclass" else "logistic"

    def _own_score(self, predicted: Array, data: FitData) -> float:
        kind = "classes" if self._target_type == "multiclass" else self._loss().targets
        return accuracy(data.Y, predicted, data.weights, kind=kind, linked=True, whole_rows=True)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    def _more_tags(self) -> dict[str, Any]:  # before scikit-learn 1.6
        return {"multilabel": True}
