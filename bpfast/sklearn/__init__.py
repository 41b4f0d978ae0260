"""`MLPClassifier` and `MLPRegressor` with scikit-learn's parameters, attributes and results.

To switch, replace ``from sklearn.neural_network import MLPClassifier`` by ``from bpfast.sklearn import
MLPClassifier``. With the same integer `random_state`, the initial weights and the order of the rows are
the same, so that in float64 the loss curve, the weights and the predictions agree with scikit-learn's up
to rounding. `from_sklearn` converts a fitted scikit-learn model; `to_network` returns the `bpfast.Network`
of a fitted estimator.

Incremental training with early stopping on held-out rows::

    est = MLPClassifier(early_stopping=True)
    for X_part, y_part in parts:
        est.partial_fit(X_part, y_part, classes=classes, validation_data=(X_val, y_val))
        if est.should_stop_:  # the weights are those with the best score
            break

A prediction interval that contains nine out of ten targets::

    low, high = (MLPRegressor(loss=bp.Quantile(q)).fit(X, y).predict(X_new) for q in (0.05, 0.95))

Differences from scikit-learn, their reasons, and how to reproduce its results:

``squared_error`` with several outputs
    In scikit-learn the loss is the mean over outputs but the gradient that of their sum (issue 8349).
    Here the gradient is that of the loss. For k outputs, scikit-learn's results are obtained with
    `learning_rate_init` multiplied by k (sgd) or `epsilon` divided by k (adam), and `alpha` divided by k;
    `loss_curve_` then contains the smaller penalty. With lbfgs, whose line search the wrong gradient
    misleads, they cannot be reproduced.
``partial_fit`` of the regressor with ``solver="lbfgs"``
    In scikit-learn it is a whole fit; here it is not available, as in the classifier: call `fit` with
    `warm_start`.
``partial_fit`` after `set_params`
    In scikit-learn the optimizer of the first call is kept. Here a changed solver, momentum, beta or
    epsilon applies from the next call on; the current learning rate is kept unless the solver changes.
``partial_fit`` with ``early_stopping``
    scikit-learn does not support it. Here it uses ``validation_data=(X, y)``, which is required.
`warm_start` with other `hidden_layer_sizes`
    The fitted layers are kept, as in scikit-learn, where a different number of layers leads to an error
    later. The same applies to another `batch_norm`.
`warm_start` with `early_stopping`
    In scikit-learn the second fit trains in the arrays that hold the best weights, and may end with other
    weights. Here it ends with the best.
A loss or weight that becomes NaN or infinite
    scikit-learn continues to the last epoch. Here the first such epoch ends the fit with the same
    ValueError; with early stopping the best weights are kept, with a ConvergenceWarning.
An error during `fit`
    In scikit-learn the estimator is left half changed. Here it is left as it was before the call.
``loss="poisson"`` with negative targets, negative sample weights
    In scikit-learn the loss becomes NaN or has no lower bound. Here a ValueError is raised.
A batch whose weights are all 0
    In scikit-learn a ZeroDivisionError is raised. Here its loss and its gradient are 0.
The dtype of predictions
    In scikit-learn it is the larger one of the dtypes of X and the weights. Here it is that of the weights.
``momentum=1``
    It is replaced by the largest float64 below 1.
"""

try:
    import sklearn as _sklearn  # noqa: F401
except ModuleNotFoundError:
    raise ModuleNotFoundError("bpfast.sklearn needs scikit-learn: pip install 'bpfast[sklearn]'") from None

from .classifier import MLPClassifier
from .convert import from_sklearn
from .regressor import MLPRegressor

__all__ = ["MLPClassifier", "MLPRegressor", "from_sklearn"]
