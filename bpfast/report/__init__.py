"""A self-contained HTML report about a trained network."""

from .page import HeldOut, Subject, write_report

__all__ = [
    "HeldOut",
    "Subject",
    "write_report",
]
