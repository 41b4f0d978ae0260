"""Plots of training curves."""

from __future__ import annotations

import builtins
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bpfast.plotting import plot_history, require_drawable
from bpfast.training.history import History

pytest.importorskip("matplotlib")


def history(epochs: int = 5, **columns: Any) -> History:
    result = History()
    for epoch in range(epochs):
        figures = {name: values[epoch] for name, values in columns.items()}
        result.add(**{"loss": 1.0 / (epoch + 1), "learning_rate": 0.1, "seconds": 0.1} | figures)
    return result


def labels(axis: Any) -> list[str]:
    return [line.get_label() for line in axis.get_lines()]


def points(axis: Any, which: str) -> list[float]:
    return list(getattr(axis.get_lines()[0], f"get_{which}data")())


def test_loss_alone() -> None:
    figure = plot_history(history())
    (axis,) = figure.axes
    assert labels(axis) == ["training"]
    assert axis.get_ylabel() == "loss"
    assert axis.get_xlabel() == "epoch"
    assert points(axis, "x") == [1, 2, 3, 4, 5]
    assert points(axis, "y") == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4, 1 / 5])


@pytest.mark.parametrize(
    ("metric", "label"), [("val_accuracy", "held-out accuracy"), ("val_r2", "held-out R²")]
)
def test_metric_below(metric: str, label: str) -> None:
    values = [0.1, 0.5, 0.7, 0.9, 0.8]
    columns: dict[str, Any] = {"val_loss": [2.0] * 5, metric: values}
    figure = plot_history(history(**columns))
    top, bottom = figure.axes
    assert labels(top) == ["training", "held-out"]
    assert bottom.get_ylabel() == label
    assert points(bottom, "y") == values
    assert bottom.get_title(loc="right") == "last 0.8000, best 0.9000 in epoch 4"
    assert top.get_position().y0 > bottom.get_position().y0


def test_a_wide_range_has_a_logarithmic_axis() -> None:
    losses = [1.0, 0.1, 0.01, 0.005, 0.001]
    assert plot_history(history(loss=losses)).axes[0].get_yscale() == "log"
    assert plot_history(history(loss=[*losses[:4], -1.0])).axes[0].get_yscale() == "linear"


@pytest.mark.parametrize("epochs", [0, 1])
def test_short_trainings(tmp_path: Path, epochs: int) -> None:
    plot_history(history(epochs), tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_history_plots_itself(tmp_path: Path) -> None:
    figure = history().plot(tmp_path / "a.svg")
    assert b"<svg" in (tmp_path / "a.svg").read_bytes()
    assert len(figure.axes) == 1


def test_unknown_format(tmp_path: Path) -> None:
    for name in ("a.bmpp", "a"):
        with pytest.raises(ValueError, match="must have the extension of a supported image format"):
            plot_history(history(), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_missing_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == "matplotlib":
            raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "bpfast\[plot\]"'):
        require_drawable("a.png")


def test_no_global_state() -> None:
    code = (
        "import sys; from bpfast import History; h = History(); "
        "h.add(loss=1.0, learning_rate=0.1, seconds=1.0); "
        "assert 'matplotlib' not in sys.modules; h.plot(); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True)
