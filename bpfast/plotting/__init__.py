"""Pictures, with matplotlib and without its global state: of a training and of what came out."""

from .results import plot_calibration, plot_confusion, plot_importance, plot_predictions
from .style import DPI, dress, new_figure, require_drawable
from .training import plot_flow, plot_flow_history, plot_history, plot_range_test

__all__ = [
    "DPI",
    "dress",
    "new_figure",
    "plot_calibration",
    "plot_confusion",
    "plot_flow",
    "plot_flow_history",
    "plot_history",
    "plot_importance",
    "plot_predictions",
    "plot_range_test",
    "require_drawable",
]
