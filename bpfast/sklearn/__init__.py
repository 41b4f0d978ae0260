"""`MLPClassifier` and `MLPRegressor`: scikit-learn's, with its parameters, attributes and numbers.

``from bpfast.sklearn import MLPClassifier`` in place of ``from sklearn.neural_network import
MLPClassifier`` is the whole change. With the same integer `random_state` the weights start the same
and the rows come in the same order, so that in float64 the loss curve, the weights and the predictions
are scikit-learn's up to rounding. `from_sklearn` takes a fitted model of scikit-learn's over, `to_network`
gives the `bpfast.Network` of a fitted one.

Training in parts, until held-out rows say that it is enough::

    est = MLPClassifier(early_stopping=True)
    for X_part, y_part in parts:
        est.partial_fit(X_part, y_part, classes=classes, validation_data=(X_val, y_val))
        if est.should_stop_:  # the weights are those of the best score
            break

An interval that holds nine of ten targets::

    low, high = (MLPRegressor(loss=bp.Quantile(q)).fit(X, y).predict(X_new) for q in (0.05, 0.95))

Where numbers differ from scikit-learn's, why, and how to get the old ones:

``squared_error`` with several outputs
    There the loss is the mean over outputs, the gradient that of their sum (scikit-learn's issue 8349).
    Here the gradient is the loss's. For k outputs the old numbers come from `learning_rate_init` times
    k (sgd) or `epsilon` divided by k (adam), and `alpha` divided by k; `loss_curve_` then holds the
    smaller penalty. With lbfgs, whose search the wrong gradient misled, they do not come back.
``partial_fit`` of the regressor with ``solver="lbfgs"``
    There it is a whole fit; here, as with the classifier, there is none: call `fit` with `warm_start`.
``partial_fit`` after `set_params`
    There the optimizer stays what it was at first. Here another solver, momentum, beta or epsilon counts
    from the next call on; the learning rate stays where it is, unless the solver is another.
``partial_fit`` with ``early_stopping``
    There it is refused. Here it goes by ``validation_data=(X, y)``, and is refused without.
`warm_start` with other `hidden_layer_sizes`
    The fitted layers stay, as there; there another number of layers is an error later on. So they do
    with another `batch_norm`.
`warm_start` with `early_stopping`
    There the second fit trains on in the arrays in which the best weights are kept, and may end with
    others. Here it ends with the best.
A loss or a weight that becomes NaN or infinite
    There the epochs go on to the last. Here the first such epoch ends the fit, with the same ValueError;
    with early stopping the best weights are kept, and a ConvergenceWarning says so.
An error in the middle of `fit`
    There the estimator is left half changed, here as it was before the call.
``loss="poisson"`` with negative targets, negative sample weights
    There a NaN, or a loss without bound. Here a ValueError.
A batch whose weights are all 0
    There a ZeroDivisionError. Here its loss is 0, and its gradient that of nothing.
The dtype of predictions
    There the larger of X's and the weights'. Here the weights'.
``momentum=1``
    Is the largest float64 below 1.
"""

from .estimators import MLPClassifier, MLPRegressor, from_sklearn

__all__ = ["MLPClassifier", "MLPRegressor", "from_sklearn"]
