"""The subcommand `export`: write a trained model in a format that other programs read."""

from __future__ import annotations

import argparse
import os

from ..data.tables import UserError
from ..network import load
from .options import Subcommands


def add_parser(subcommands: Subcommands) -> None:
    """Add the subcommand to the command line."""
    command = subcommands.add_parser(
        "export",
        help="export a trained model to ONNX",
        description="Write MODEL as an ONNX model, for ONNX Runtime and others. A model of `bpfast train` "
        "includes its preprocessing: each column of the CSV file is an input, and missing values and text "
        "are handled in the graph.",
    )
    command.set_defaults(run=run)
    command.add_argument("model", metavar="MODEL", help="model file of `bpfast train` or Network.save")
    command.add_argument(
        "out", nargs="?", default="model.onnx", metavar="OUT", help="file to write (default: model.onnx)"
    )
    command.add_argument(
        "--network-alone",
        action="store_true",
        help="leave out the preprocessing: the input is the matrix X of prepared rows",
    )


def run(options: argparse.Namespace) -> int:
    """Write a model as ONNX."""
    if os.path.realpath(options.model) == os.path.realpath(options.out):
        raise UserError(f"{options.out!r} is both input and output; it would be overwritten")
    try:
        # Importing the module requires onnx, which is optional.
        from ..interop.onnx import to_onnx

        network = load(options.model)
        model = to_onnx(network, options.out, preparation=not options.network_alone)
    except (ValueError, TypeError, ModuleNotFoundError, FileNotFoundError, IsADirectoryError) as error:
        raise UserError(str(error)) from None
    except OSError as error:
        raise UserError(f"cannot write {options.out!r}: {error.strerror or error}") from None
    inputs, outputs = ([value.name for value in values] for values in (model.graph.input, model.graph.output))
    shown = inputs[0] if len(inputs) == 1 else f"{len(inputs)} columns"
    print(f"{'wrote':<9} {options.out} (inputs: {shown}; outputs: {', '.join(outputs)})")
    return 0
