"""Five classical models as networks with one layer, compared with scikit-learn's solutions.

All minimise J = mean loss + α Ω(W) with `Dense(1)`; the loss and the penalty make the model:

    ridge                squared_error   L2    Hoerl & Kennard 1970
    lasso                squared_error   L1    Tibshirani 1996
    logistic regression  log_loss        L2    Cox 1958
    linear SVM           hinge           L2    Cortes & Vapnik 1995
    AdaBoost             exponential           Freund & Schapire 1997

scikit-learn sums where bpfast averages, so that the strength of each penalty is converted as the comments
show. The networks are trained with full batches in float64 until they converge.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import bpfast as bp

from ..arrays import Array
from ._common import COLOURS, breast_cancer, diabetes, dress, figure, write

#: Number of coefficients of each model to print.
SHOWN = 4

#: Coefficients, intercept.
Solution = tuple[Array, float]


def descend(X: Array, y: Array, loss: str, rate: Any, epochs: int, penalty: Any = None) -> Solution:
    """Minimise J by gradient descent from 0."""
    net = bp.Network([bp.Dense(1, initializer="zeros")], n_inputs=X.shape[1], loss=loss, dtype="float64")
    net.fit(X, y, epochs=epochs, batch_size=None, optimizer=bp.SGD(rate), penalty=penalty, shuffle=False)
    return net.parameters["0.W"][:, 0].copy(), float(net.parameters["0.b"][0])


def solution(model: Any) -> Solution:
    """Return the coefficients of a linear model of scikit-learn."""
    return np.ravel(model.coef_), float(np.ravel(model.intercept_)[0])


def ridge(X: Array, y: Array) -> tuple[Solution, Solution]:
    """scikit-learn: Σ (y - z)² + a ‖W‖², so α = 2 a / n, since L2 is ½ ‖W‖²."""
    from sklearn.linear_model import Ridge

    a = 10.0
    mine = descend(X, y, "squared_error", 0.2, 5000, bp.L2(2 * a / len(X)))
    return mine, solution(Ridge(alpha=a).fit(X, y))


def lasso(X: Array, y: Array) -> tuple[Solution, Solution]:
    """scikit-learn: ½ mean (y - z)² + a ‖W‖₁, so α = 2 a."""
    from sklearn.linear_model import Lasso

    a = 2.0
    mine = descend(X, y, "squared_error", 0.2, 5000, bp.L1(2 * a))
    return mine, solution(Lasso(alpha=a, tol=1e-10).fit(X, y))


def logistic(X: Array, y: Array) -> tuple[Solution, Solution]:
    """scikit-learn: C Σ loss + ½ ‖W‖², so α = 1 / (n C); log_loss takes labels 0 and 1."""
    from sklearn.linear_model import LogisticRegression

    C = 1.0
    mine = descend(X, (y + 1) / 2, "log_loss", 0.5, 20000, bp.L2(1 / (len(X) * C)))
    return mine, solution(LogisticRegression(C=C, tol=1e-10, max_iter=10000).fit(X, y))


def svm(X: Array, y: Array) -> tuple[Solution, Solution]:
    """scikit-learn: C Σ loss + ½ ‖W‖². The slope of the hinge jumps: the rate must decay to 0.

    The comparison is with `SVC`, since `LinearSVC` penalises the intercept.
    """
    from sklearn.svm import SVC

    C = 0.05
    rate = bp.ExponentialDecay(1.0, factor=0.999)
    mine = descend(X, y, "hinge", rate, 15000, bp.L2(1 / (len(X) * C)))
    return mine, solution(SVC(kernel="linear", C=C, tol=1e-10).fit(X, y))


def adaboost(X: Array, y: Array) -> tuple[Solution, Solution]:
    """AdaBoost adds stumps one by one, each with the weight that reduces mean exp(-y z) most.

    The inputs are ±1: whether each of ten columns is above its median. A sum of stumps is a linear
    function of them, and after many rounds the one with the lowest loss, which the network finds
    too. Rounds with a stump that has the same output on both sides make up the intercept.
    """
    from sklearn.ensemble import AdaBoostClassifier
    from sklearn.tree import DecisionTreeClassifier

    mine = descend(X, y, "exponential", 0.5, 5000)
    stump = DecisionTreeClassifier(max_depth=1)
    model = AdaBoostClassifier(stump, n_estimators=600, random_state=0).fit(X, y)
    # scikit-learn (since 1.6) weights a stump by log((1 - error) / error), twice the optimal weight,
    # counts it for both classes, and divides by the sum of the weights: Σ / 4 reverts this.
    scale = model.estimator_weights_.sum() / 4
    all_no = -np.ones(X.shape[1])
    one_yes = all_no + 2 * np.eye(X.shape[1])
    f = scale * model.decision_function(np.vstack([all_no, one_yes]))
    W = (f[1:] - f[0]) / 2
    return mine, (W, float(f[0] + W.sum()))


def main(picture: str) -> dict[str, Any]:
    """Fit the five models with both libraries; print and draw the coefficients."""
    X, y, names = diabetes()
    Xc, yc, names_c = breast_cancer()
    answers = np.where(Xc[:, 20:] > np.median(Xc[:, 20:], axis=0), 1.0, -1.0)
    models = {
        "ridge": (ridge, X, y, names),
        "lasso": (lasso, X, y, names),
        "logistic regression": (logistic, Xc, yc, names_c),
        "linear SVM": (svm, Xc, yc, names_c),
        "AdaBoost": (adaboost, answers, yc, names_c[20:]),
    }
    sheet = figure(10.5, 6.4)
    axes = sheet.subplots(2, 3)
    figures: dict[str, Any] = {}
    for axis, (name, (fit, inputs, targets, columns)) in zip(axes.flat, models.items(), strict=False):
        (W, b), (V, c) = fit(inputs, targets)
        error = float(np.abs(W - V).max() / np.abs(V).max())
        figures[name] = {
            "error": error,
            "intercept_error": abs(b - c) / abs(c),
            "coefficients": W.tolist(),
            "zeros": int(np.sum(W == 0)),
        }
        print(f"{name}: {len(W)} coefficients, {np.sum(W == 0)} of them 0; differ by {error:.1e}")
        print(f"  {'':<24} {'bpfast':>12} {'scikit-learn':>13}")
        rows = [*zip(columns, W, V, strict=True)][:SHOWN]
        for column, w, v in [*rows, ("intercept", b, c)]:
            print(f"  {column:<24} {w:12.6f} {v:13.6f}")
        axis.axhline(0, color="#999999", linewidth=0.8)
        place = range(1, len(W) + 1)
        axis.plot(place, V, "o", color=COLOURS[0], fillstyle="none", markersize=8, label="scikit-learn")
        axis.plot(place, W, ".", color=COLOURS[1], markersize=6, label="bpfast, one layer")
        axis.set_title(f"{name}\nlargest difference {error:.0e} of the largest", fontsize="small")
        dress(axis, "input", "coefficient")
        axis.xaxis.get_major_locator().set_params(integer=True)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    axes[1, 2].axis("off")
    axes[1, 2].legend(handles, labels, frameon=False, loc="center")
    write(sheet, picture)
    return figures
