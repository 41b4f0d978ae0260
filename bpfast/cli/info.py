"""The subcommand `info`: version and capabilities of this installation."""

from __future__ import annotations

import argparse

from ..info import info
from .console import mistakes
from .options import Subcommands


def add_parser(subcommands: Subcommands) -> None:
    """Add the subcommand to the command line."""
    command = subcommands.add_parser(
        "info",
        help="show version and capabilities of this installation",
        description="Print the version, the instruction set and the number of threads in use.",
    )
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print what `bpfast.info` returns."""
    with mistakes():
        facts = info()
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        if isinstance(value, (list, tuple)):
            value = ", ".join(str(item) for item in value)
        elif isinstance(value, bool):
            value = "yes" if value else "no"
        print(f"{name:<{width}}  {value}")
    return 0
