"""Options that several subcommands share, and types of option values."""

from __future__ import annotations

import argparse
from typing import Any, TypeAlias

from ..arrays.threads import MAX_THREADS
from ..backends import BACKENDS

Subcommands: TypeAlias = "argparse._SubParsersAction[Any]"


def add_engine_options(group: argparse._ActionsContainer) -> None:
    """Add --threads and --backend."""
    group.add_argument(
        "--threads",
        type=threads,
        metavar="N",
        help="maximum number of threads (default: all available cores)",
    )
    group.add_argument("--backend", choices=BACKENDS, help="native engine or NumPy reference")


def add_quiet_option(group: argparse._ActionsContainer) -> None:
    """Add --quiet."""
    group.add_argument("--quiet", action="store_true", help="print only the result")


def names(text: str) -> tuple[str, ...]:
    """Comma-separated names."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def widths(text: str) -> tuple[int, ...]:
    """Comma-separated widths of hidden layers; 0 for none."""
    try:
        values = tuple(int(part) for part in text.split(","))
    except ValueError:
        values = (-1,)
    if values == (0,):
        return ()
    if min(values) < 1:
        raise argparse.ArgumentTypeError(f"expected widths such as 128,64; got {text!r}")
    return values


def share(text: str) -> float:
    """A number from 0 to below 1."""
    value = _float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to below 1; got {text!r}")
    return value


def megabytes(text: str) -> int:
    """Bytes, given as a number of megabytes."""
    size = _float(text)
    if not 0 <= size < 1e12:
        raise argparse.ArgumentTypeError(f"expected a number of megabytes; got {text!r}")
    return int(size * 1e6)


def positive(text: str) -> int:
    """An integer of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected an integer of at least 1; got {text!r}")
    return int(text)


def threads(text: str) -> int:
    """A number of threads."""
    if not text.isdecimal() or not 1 <= int(text) <= MAX_THREADS:
        raise argparse.ArgumentTypeError(f"expected an integer from 1 to {MAX_THREADS}; got {text!r}")
    return int(text)


def _float(text: str) -> float:
    """The number, or -1 if the text is not one."""
    try:
        return float(text)
    except ValueError:
        return -1.0
