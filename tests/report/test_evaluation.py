"""Metrics compared with scikit-learn, and the plots of results."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bpfast import evaluation
from bpfast.training.callbacks import EarlyStopping
from bpfast.training.history import History

RANDOM = np.random.default_rng(5)


def guesses(n: int = 400, classes: int = 4) -> tuple[Any, Any]:
    Z = RANDOM.normal(size=(n, classes)) * 2
    P = np.exp(Z) / np.exp(Z).sum(axis=1, keepdims=True)
    y = np.array([RANDOM.choice(classes, p=row) for row in P])
    return y, P


@pytest.mark.parametrize("classes", [2, 3, 50])
def test_confusion_matrix_matches_scikit_learn(classes: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    y, P = guesses(600, classes)
    guessed = evaluation.labels_of(P)
    counts = evaluation.confusion_matrix(y, guessed, classes)
    names = list(range(classes))
    assert np.array_equal(counts, metrics.confusion_matrix(y, guessed, labels=names))
    scores = evaluation.class_scores(counts)
    wanted = metrics.precision_recall_fscore_support(y, guessed, labels=names, zero_division=0.0)
    for mine, theirs in zip(
        (scores.precision, scores.recall, scores.f1, scores.support), wanted, strict=True
    ):
        np.testing.assert_allclose(mine, theirs, rtol=1e-14)


@pytest.mark.parametrize("bins", [5, 10, 15])
def test_calibration_matches_scikit_learn(bins: int) -> None:
    theirs = pytest.importorskip("sklearn.calibration")
    y, P = guesses(classes=3)
    # Includes the edges themselves.
    stated = np.concatenate([P[:, 1], np.linspace(0, 1, bins + 1)])
    came_true = np.concatenate([y == 1, np.arange(bins + 1) % 2 == 0])
    found = evaluation.calibration(came_true, stated, bins)
    observed, mean = theirs.calibration_curve(came_true, stated, n_bins=bins)
    np.testing.assert_allclose(found.observed, observed, rtol=1e-13)
    np.testing.assert_allclose(found.stated, mean, rtol=1e-13)
    assert found.all_counts.sum() == len(stated)


def test_expected_calibration_error_by_hand() -> None:
    # Two bins: (0.2, 0.4 -> 0, 1) and (0.6, 0.9, 0.9 -> 1, 1, 0).
    found = evaluation.calibration([0, 1, 1, 1, 0], [0.2, 0.4, 0.6, 0.9, 0.9], bins=2)
    assert found.counts.tolist() == [2, 3]
    assert found.error == pytest.approx(2 / 5 * abs(0.5 - 0.3) + 3 / 5 * abs(2 / 3 - 0.8))
    assert evaluation.calibration([1, 0, 1], [1.0, 0.0, 1.0]).error == 0.0


def test_stated_probabilities() -> None:
    y, P = guesses(classes=3)
    right, stated = evaluation.stated_probabilities(y, P)
    assert np.array_equal(stated, P.max(axis=1))
    assert np.array_equal(right, P.argmax(axis=1) == y)
    right, stated = evaluation.stated_probabilities(np.array(["a", "b", "c"])[y], P, ["a", "b", "c"], of="b")
    assert np.array_equal(stated, P[:, 1])
    assert np.array_equal(right, y == 1)
    for column in (P[:, 0], P[:, :1]):
        right, stated = evaluation.stated_probabilities(y == 0, column, [False, True])
        assert np.array_equal(stated, P[:, 0])
        assert np.array_equal(right, y == 0)


def test_regression_scores_match_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    y = RANDOM.normal(size=200) * 1e4
    predicted = y + RANDOM.normal(size=200) * 3e3
    for truth in (y, np.full(200, 7.0)):
        scores = evaluation.regression_scores(truth, predicted[:, None])
        assert scores.r2 == pytest.approx(metrics.r2_score(truth, predicted), rel=1e-12)
        mean = metrics.mean_absolute_error(truth, predicted)
        assert scores.mean_absolute_error == pytest.approx(mean, rel=1e-12)
        root = metrics.root_mean_squared_error(truth, predicted)
        assert scores.root_mean_squared_error == pytest.approx(root, rel=1e-12)
    assert evaluation.regression_scores([2.0, 2.0], [2.0, 2.0]).r2 == 1.0


@pytest.mark.parametrize("weighted", [False, True])
def test_accuracy_matches_scikit_learn(weighted: bool) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    y, P = guesses(300, 3)
    weights = RANDOM.uniform(size=300) if weighted else None
    expected = pytest.approx(metrics.accuracy_score(y, P.argmax(axis=1), sample_weight=weights), rel=1e-12)
    assert evaluation.accuracy(y, P, weights) == expected
    assert evaluation.accuracy(np.eye(3)[y], P, weights) == expected
    assert evaluation.accuracy(y, P.argmax(axis=1), weights) == expected
    labels, Z = RANDOM.integers(0, 2, size=(300, 3)), RANDOM.normal(size=(300, 3))
    subset = pytest.approx(metrics.accuracy_score(labels, Z > 0, sample_weight=weights), rel=1e-12)
    assert evaluation.accuracy(labels, Z, weights, kind="probabilities", whole_rows=True) == subset
    link = 1 / (1 + np.exp(-Z))
    assert (
        evaluation.accuracy(labels, link, weights, kind="probabilities", linked=True, whole_rows=True)
        == subset
    )
    assert evaluation.accuracy(2 * labels - 1, Z, weights, kind="signs", whole_rows=True) == subset
    shares = np.average((labels == (Z > 0)).mean(axis=1), weights=weights)
    assert evaluation.accuracy(labels, Z, weights, kind="probabilities") == pytest.approx(shares, rel=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_r2_matches_scikit_learn(weighted: bool) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    y = RANDOM.normal(size=(200, 3)) * 1e4
    predicted = y + RANDOM.normal(size=(200, 3)) * 3e3
    y[:, 2] = 7.0
    weights = RANDOM.uniform(size=200) if weighted else None
    for columns in (slice(None), 0, 2):
        expected = metrics.r2_score(y[:, columns], predicted[:, columns], sample_weight=weights)
        assert evaluation.r2(y[:, columns], predicted[:, columns], weights) == pytest.approx(
            expected, rel=1e-12
        )
    assert evaluation.r2(y[:, 2], y[:, 2], weights) == 1.0


def test_permutation_importance() -> None:
    X = RANDOM.normal(size=(500, 4))
    y = 3 * X[:, 0] + X[:, 2]
    kept = X.copy()

    def score(rows: Any) -> float:
        return evaluation.regression_scores(y, 3 * rows[:, 0] + rows[:, 2]).r2

    groups = {"large": slice(0, 1), "none": slice(1, 2), "small": slice(2, 3), "all": slice(0, 4)}
    found = evaluation.permutation_importance(score, X, groups)
    assert found == evaluation.permutation_importance(score, X, groups)
    assert np.array_equal(X, kept)
    means = {name: mean for name, (mean, _) in found.items()}
    assert means["none"] == 0.0
    # Shuffling a term of variance v adds 2 v to the mean squared error: 2 · 9/10, 2 · 1/10, 2.
    assert means["large"] == pytest.approx(1.8, rel=0.15)
    assert means["small"] == pytest.approx(0.2, rel=0.25)
    assert means["all"] == pytest.approx(2.0, rel=0.15)


ERRORS: list[tuple[Any, str]] = [
    (lambda: evaluation.confusion_matrix([0, 1], [0], 2), "must have the same length"),
    (lambda: evaluation.confusion_matrix([0, 2], [0, 1], 2), "y_true must contain class numbers from 0 to 1"),
    (
        lambda: evaluation.confusion_matrix([0, 1], [0.5, 1.0], 2),
        "y_predicted must contain integer class numbers",
    ),
    (
        lambda: evaluation.class_numbers(["a", "x"], ["a", "b"]),
        "y_true contains 'x', which is not one of the 2 classes",
    ),
    (lambda: evaluation.class_numbers([3], ["a", "b"]), "y_true contains 3"),
    (lambda: evaluation.class_numbers(["a"], ["a", "a"]), "at least one appears twice"),
    (lambda: evaluation.class_numbers(np.eye(3), [0, 1, 2]), "one label per row"),
    (lambda: evaluation.labels_of(np.ones((2, 2), dtype=int)), "probabilities must be floats"),
    (lambda: evaluation.labels_of(np.array([[0.2, 1.2]])), "from 0 to 1"),
    (lambda: evaluation.labels_of(np.array([[0.2, 0.8]]), "abc"), "of 2 classes, but 3 classes were given"),
    (lambda: evaluation.calibration([0], [np.nan]), "from 0 to 1"),
    (lambda: evaluation.calibration([], []), "needs at least one row"),
    (lambda: evaluation.calibration([0.5], [0.5]), "only 0 and 1"),
    (lambda: evaluation.calibration([0], [0.5], bins=0), "bins must be"),
    (
        lambda: evaluation.regression_scores([1.0], [np.inf]),
        "predicted contains NaN or infinity; all values must be finite",
    ),
    (lambda: evaluation.regression_scores([], []), "at least one row"),
    (lambda: evaluation.regression_scores([1.0, 2.0], [1.0]), "must have the same length"),
    (lambda: evaluation.regression_scores(np.ones((2, 2)), np.ones((2, 2))), "one number per row"),
]


@pytest.mark.parametrize(("call", "message"), ERRORS, ids=[message for _, message in ERRORS])
def test_errors(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_plot_confusion(tmp_path: Path) -> None:
    plotting = pytest.importorskip("bpfast.plotting")
    pytest.importorskip("matplotlib")
    y = ["cat", "dog", "dog", "eel"]
    figure = plotting.plot_confusion(y, ["cat", "dog", "cat", "eel"], path=tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    axis = figure.axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["cat", "dog", "eel"]
    assert [text.get_text() for text in axis.texts] == [
        *("1\n100%", "0", "0"),
        *("1\n50%", "1\n50%", "0"),
        *("0", "0", "1\n100%"),
    ]
    assert axis.get_title(loc="left") == "3 of 4 correct (75.00%)"
    np.testing.assert_allclose(axis.images[0].get_array(), [[1, 0, 0], [0.5, 0.5, 0], [0, 0, 1]])
    P = np.eye(3)[[0, 1, 0, 2]]
    same = plotting.plot_confusion([0, 1, 1, 2], P, ["cat", "dog", "eel"])
    assert [text.get_text() for text in same.axes[0].texts] == [text.get_text() for text in axis.texts]
    with pytest.raises(ValueError, match="labels of different types"):
        plotting.plot_confusion(np.array(["a", 1], dtype=object), np.array([1, 1], dtype=object))


@pytest.mark.parametrize("classes", [20, 50])
def test_plot_confusion_with_unusual_names(classes: int, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from bpfast.plotting import plot_confusion

    odd = [
        "a$x^$b\\frac{",
        "<b>&",
        "\N{GRINNING FACE}\U0001fae8",
        "\u05e9\u05dc",
        "a\nb",
        "\u7c7b",
        "x" * 200,
    ]
    names = [f"{odd[k % len(odd)]} {k}" for k in range(classes)]
    y, P = guesses(300, classes)
    figure = plot_confusion(y, P, names, path=tmp_path / "a.svg")
    shown = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert len(shown) == classes
    assert max(map(len, shown)) <= 24
    assert len(set(shown)) == classes, "shortened names stay distinct"


def test_plot_calibration() -> None:
    pytest.importorskip("matplotlib")
    from bpfast.plotting import plot_calibration

    y, P = guesses(classes=3)
    figure = plot_calibration(y, P, bins=15)
    top, bottom = figure.axes
    found = evaluation.calibration(P.argmax(axis=1) == y, P.max(axis=1), 15)
    assert top.get_title(loc="left") == f"expected calibration error {found.error:.4f} (15 bins)"
    np.testing.assert_allclose(top.get_lines()[1].get_ydata(), found.observed)
    assert [bar.get_height() for bar in bottom.patches] == found.all_counts.tolist()
    assert bottom.get_xlabel() == "probability of the predicted class"
    other = plot_calibration(y, P, ["a", "b", "$c$"], of="$c$")
    assert other.axes[1].get_xlabel() == "predicted probability of $c$"
    second = plot_calibration(y == 1, P[:, 1], [False, True])
    assert second.axes[1].get_xlabel() == "predicted probability of the second class"


@pytest.mark.parametrize("n", [1, 300, 5000])
def test_plot_predictions(n: int, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from bpfast.plotting import plot_predictions

    y = RANDOM.normal(size=n) * 100
    errors = RANDOM.normal(size=n)
    errors[0] = 50.0
    figure = plot_predictions(y, y + errors, path=tmp_path / "a.pdf", name="price in $")
    left, right = figure.axes[:2]
    assert left.get_xlabel() == "true: price in $"
    score = evaluation.regression_scores(y, y + errors)
    assert left.get_title(loc="left").startswith(f"R² {score.r2:.4f}, mean absolute error")
    assert len(left.collections) == (n > 2000), "many points are drawn as a density"
    counted = sum(bar.get_height() for bar in right.patches)
    hidden = 0 if n == 1 else round(n / 100)
    assert counted == n - hidden
    assert right.get_xlabel() == "predicted − true" + (
        f" ({hidden} larger errors not shown)" if hidden else ""
    )


def test_plot_importance() -> None:
    pytest.importorskip("matplotlib")
    from bpfast.plotting import plot_importance

    found = {f"column {k}": (k / 100, 0.01) for k in range(30)}
    (axis,) = plot_importance(found, unit="R²").axes
    names = [label.get_text() for label in axis.get_yticklabels()]
    assert names == [f"column {k}" for k in range(29, 9, -1)]
    assert axis.get_xlabel() == "decrease of the R² when the column is shuffled"
    alike = {"x" * 40 + str(k) + "y" * 40: (1.0 - k / 10, 0.0) for k in range(3)}
    (axis,) = plot_importance(alike).axes
    assert len({label.get_text() for label in axis.get_yticklabels()}) == 3
    with pytest.raises(ValueError, match="at least one column"):
        plot_importance({})


def test_plot_history_marks_the_restored_epoch() -> None:
    pytest.importorskip("matplotlib")
    history = History()
    for epoch, loss in enumerate([1.0, 0.6, 0.5, 0.7]):
        history.add(loss=1 / (epoch + 1), val_loss=loss, learning_rate=0.1 / 10**epoch, seconds=0.1)
    history.restored = 2
    top, rates = history.plot().axes
    names = [text.get_text() for text in top.get_legend().get_texts()]
    assert names == ["training", "held-out", "lowest, epoch 3 (kept)"]
    assert top.collections[0].get_offsets().tolist() == [[3.0, 0.5]]
    assert rates.get_ylabel() == "learning rate"
    assert rates.get_yscale() == "log"
    assert list(rates.get_lines()[1].get_xdata()) == [3, 3]


@pytest.mark.parametrize("restore", [True, False])
def test_early_stopping_records_the_restored_epoch(restore: bool) -> None:
    import bpfast as bp

    X = RANDOM.normal(size=(40, 3))
    y = RANDOM.normal(size=40)
    network = bp.Network([bp.Dense(30, "tanh"), bp.Dense(1)], n_inputs=3, loss="squared_error")
    stopping = EarlyStopping(patience=3, restore_best=restore)
    history = network.fit(
        X[:20], y[:20], epochs=200, optimizer=bp.Adam(0.03), validation=(X[20:], y[20:]), callbacks=[stopping]
    )
    assert len(history) < 200
    assert history.restored == (stopping.best_epoch if restore else None)


def test_plotting_does_not_change_global_state() -> None:
    pytest.importorskip("matplotlib")
    code = (
        "import sys, numpy as np, matplotlib as m; before = m.rcParams.copy();"
        "state = np.random.get_state()[1];"
        "from bpfast import plotting as p; P = np.array([[.2, .8], [.6, .4]]);"
        "p.plot_confusion([0, 1], P); p.plot_calibration([0, 1], P); p.plot_predictions([1., 2.], [1., 3.]);"
        "assert m.rcParams.copy() == before; assert 'matplotlib.pyplot' not in sys.modules;"
        "assert (np.random.get_state()[1] == state).all()"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True)
