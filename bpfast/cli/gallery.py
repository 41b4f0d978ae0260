"""The subcommand `gallery`: list the examples, or run one."""

from __future__ import annotations

import argparse

from .. import gallery
from ..data.tables import UserError
from ..plotting import require_drawable
from .console import mistakes, require_writable, writing
from .options import Subcommands


def add_parser(subcommands: Subcommands) -> None:
    """Add the subcommand to the command line."""
    command = subcommands.add_parser(
        "gallery",
        help="run the examples, each of which draws a plot",
        description="Without NAME: list the examples. With NAME: run that example, print its results and "
        "draw its plot. Each takes less than a minute and is one short file in bpfast/gallery.",
    )
    command.set_defaults(run=run)
    command.add_argument("name", nargs="?", metavar="NAME", help="name of the example")
    command.add_argument("--out", metavar="FILE", help="image file of the plot (default: NAME.png)")


def run(options: argparse.Namespace) -> int:
    """List the gallery, or run one of its examples."""
    if options.name is None:
        if options.out:
            raise UserError("--out needs the NAME of an example (see `bpfast gallery`)")
        width = max(len(name) for name in gallery.ENTRIES)
        for name, line in gallery.ENTRIES.items():
            print(f"{name:<{width}}  {line}")
        return 0
    picture = options.out or f"{options.name}.png"
    with mistakes():
        gallery.require(options.name)
        require_drawable(picture)
    require_writable([picture], [])
    with writing(picture):
        gallery.run(options.name, picture)
    return 0
