"""TODO"""

from __future__ import annotations

from typing import Any


class History:
    """What `fit` saw, one entry an epoch.

    Attributes
    ----------
    columns : dict of str to list of float
        ``loss`` (the mean over the epoch's batches, each before its update), ``learning_rate``
        (of the epoch's last batch), ``seconds`` (of training alone); with a penalty ``penalty``
        (α Ω(W) after the epoch); with validation ``val_loss`` and ``val_accuracy`` or ``val_r2``.
        Also as attributes and by ``history["loss"]``.
    planned : int or None
        The epochs that were asked for.
    restored : int or None
        The epoch, from 0, whose weights `EarlyStopping` put back; None where the last ones stay.
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
            raise AttributeError(f"this history has no {name!r}") from None

    def __getitem__(self, name: str) -> list[float]:
        if name not in self.columns:
            raise KeyError(f"this history has no {name!r}; it has {', '.join(self.columns)}")
        return self.columns[name]

    def __contains__(self, name: object) -> bool:
        return name in self.columns

    def __len__(self) -> int:
        return len(self.columns["loss"])

    def __repr__(self) -> str:
        if not len(self):
            return "<bpfast.History of 0 epochs>"
        last = ", ".join(f"{name} {values[-1]:.4g}" for name, values in self.columns.items())
        return f"<bpfast.History of {len(self)} epochs; last: {last}>"

    def plot(self, path: Any = None) -> Any:
        """Draw the curves with matplotlib; write them to `path` if given. Returns the figure."""
        from ..plotting import plot_history

        return plot_history(self, path)
