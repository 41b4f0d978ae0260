"""History: losses and metrics of a training run, one entry per epoch."""

from __future__ import annotations

from typing import Any

from ..plotting import plot_history


class History:
    """Losses and metrics of a training run, one entry per epoch.

    Columns are also attributes (``history.loss``) and items (``history["loss"]``).

    Parameters
    ----------
    *more : str
        Names of further columns.
    planned : int, optional
        Number of epochs requested.

    Attributes
    ----------
    columns : dict of str to list of float
        ``loss`` (mean over the epoch's batches, each before its update), ``learning_rate`` (of the
        epoch's last batch), ``seconds`` (of training, without validation); with a penalty ``penalty``
        (α Ω(W) after the epoch); with validation ``val_loss`` and ``val_accuracy`` or ``val_r2``.
    planned : int or None
        Number of epochs requested.
    restored : int or None
        Epoch, from 0, whose weights `EarlyStopping` has restored; None if it has not.
    """

    def __init__(self, *more: str, planned: int | None = None) -> None:
        names = ("loss", "learning_rate", "seconds", *more)
        self.columns: dict[str, list[float]] = {name: [] for name in names}
        self.planned = planned
        self.restored: int | None = None

    def add(self, **figures: float) -> None:
        """Append an epoch."""
        for name, value in figures.items():
            self.columns.setdefault(name, []).append(float(value))

    def __getattr__(self, name: str) -> list[float]:
        try:
            return self.__dict__["columns"][name]  # type: ignore[no-any-return]
        except KeyError:
            raise AttributeError(f"this history has no column {name!r}") from None

    def __getitem__(self, name: str) -> list[float]:
        if name not in self.columns:
            raise KeyError(f"this history has no column {name!r}; it has {', '.join(self.columns)}")
        return self.columns[name]

    def __contains__(self, name: object) -> bool:
        return name in self.columns

    def __len__(self) -> int:
        return len(self.columns["loss"])

    def __repr__(self) -> str:
        if not len(self):
            return "<bpfast.History of 0 epochs>"
        last = ", ".join(f"{name} {values[-1]:.4g}" for name, values in self.columns.items())
        epochs = "epoch" if len(self) == 1 else "epochs"
        return f"<bpfast.History of {len(self)} {epochs}; last: {last}>"

    def plot(self, path: Any = None) -> Any:
        """Draw the curves with matplotlib, write them to `path` if given, and return the figure."""
        return plot_history(self, path)
