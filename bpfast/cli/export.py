"""The subcommand `export`: a model file becomes one that other programs read."""

from __future__ import annotations

import argparse
import os
from typing import Any

from ..data.tables import UserError
from ..storage import model_file as files


def add_export(subcommands: argparse._SubParsersAction[Any]) -> None:
    """Add the subcommand to the command line."""
    command = subcommands.add_parser(
        "export",
        help="write a trained model as ONNX",
        description="Write MODEL as ONNX, which ONNX Runtime and others predict with. What `bpfast train` "
        "wrote takes raw rows there too: each column of a CSV is an input, gaps and texts included.",
    )
    command.set_defaults(run=export)
    command.add_argument("model", metavar="MODEL", help="what `bpfast train` or Network.save wrote")
    command.add_argument("out", nargs="?", default="model.onnx", metavar="OUT", help="(model.onnx)")
    command.add_argument(
        "--network-alone", action="store_true", help="leave the preparation out: take prepared rows, X"
    )


def export(options: argparse.Namespace) -> int:
    """Write a model of `train` as ONNX."""
    if os.path.realpath(options.model) == os.path.realpath(options.out):
        raise UserError(f"{options.out!r} is named twice; it would be overwritten")
    try:
        from ..interop.onnx import to_onnx

        network = files.load(options.model)
        model = to_onnx(network, options.out, preparation=not options.network_alone)
    except (ValueError, TypeError, ModuleNotFoundError, FileNotFoundError, IsADirectoryError) as error:
        raise UserError(str(error)) from None
    except OSError as error:
        raise UserError(f"{options.out!r} can't be written: {error.strerror or error}") from None
    takes, gives = ([value.name for value in values] for values in (model.graph.input, model.graph.output))
    shown = takes[0] if len(takes) == 1 else f"{len(takes)} columns"
    print(f"{'wrote':<9} {options.out}: takes {shown}, gives {', '.join(gives)}")
    return 0
