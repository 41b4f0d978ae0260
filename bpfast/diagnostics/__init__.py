"""Diagnostics: gradient checks, gradient flow, learning-rate range tests, and profiles."""

from ..training.profile import Profile, fma_peak
from .gradient_check import check_gradients
from .gradient_flow import Flow, GradientFlow, OpFlow, gradient_flow
from .learning_rate import RangeTest, find_learning_rate

__all__ = [
    "Flow",
    "GradientFlow",
    "OpFlow",
    "Profile",
    "RangeTest",
    "check_gradients",
    "find_learning_rate",
    "fma_peak",
    "gradient_flow",
]
