"""`from_sklearn`: fitted scikit-learn estimators as estimators of bpfast."""

from __future__ import annotations

import copy
from typing import Any

from sklearn.base import is_classifier
from sklearn.neural_network import MLPClassifier as TheirClassifier
from sklearn.neural_network import MLPRegressor as TheirRegressor
from sklearn.utils.validation import check_is_fitted

from .._state import state_of
from .classifier import MLPClassifier
from .regressor import MLPRegressor


def from_sklearn(estimator: Any) -> MLPClassifier | MLPRegressor:
    """Convert a fitted scikit-learn estimator, with its parameters, weights and figures.

    Predictions are the same, and `partial_fit` or a warm start continues from its weights; the
    optimizer's moments start at 0.

    Parameters
    ----------
    estimator : sklearn.neural_network.MLPClassifier or MLPRegressor
        Fitted estimator; it is not changed.

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
            "from_sklearn takes a fitted MLPClassifier or MLPRegressor of scikit-learn (of a pipeline, its "
            f"last step); got {kind_of.__module__}.{kind_of.__name__}"
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
