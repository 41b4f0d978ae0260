"""Plots of training curves, gradients and results, drawn with matplotlib without its global state."""

from .curves import plot_history, plot_range_test
from .flow import plot_flow, plot_flow_history
from .results import plot_calibration, plot_confusion, plot_importance, plot_predictions
from .style import DPI, dress, new_figure, require_drawable

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
