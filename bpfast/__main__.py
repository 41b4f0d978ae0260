"""The command line: `bpfast train|predict|export|info|gallery`, also as `python -m bpfast`."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import sys
from collections.abc import Sequence
from typing import NoReturn

from .backends import BACKENDS
from .cli import commands
from .cli import predict as predicting
from .cli.export import add_export
from .data.preparation import TASKS
from .data.tables import UserError
from .info import __version__

MISTAKE = 2


class _Parser(argparse.ArgumentParser):
    """Complains in one line, as everything else here does."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line.

    Parameters
    ----------
    argv : sequence of str, optional
        By default the arguments of this process.

    Returns
    -------
    int
        The exit status: 0, 2 after a mistake of the person, 130 after Ctrl-C.
    """
    for stream in (sys.stdout, sys.stderr):
        # A terminal that can't spell a column's name must not end a training.
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    try:
        options = _parser().parse_args(argv)
        options.command = shlex.join(["bpfast", *(sys.argv[1:] if argv is None else argv)])
        status: int = options.run(options)
        return status
    except UserError as error:
        print(f"bpfast: error: {' '.join(str(error).split())}", file=sys.stderr)
        return MISTAKE
    except MemoryError as error:
        print(f"bpfast: error: not enough memory: {' '.join(str(error).split())}", file=sys.stderr)
        return MISTAKE
    except BrokenPipeError:
        # Whoever read our output has left (`| head`): nobody is there to be told.
        sys.stdout = None
        return MISTAKE
    except KeyboardInterrupt:
        print("bpfast: interrupted", file=sys.stderr)
        return commands.INTERRUPTED
    except SystemExit as leaving:  # --help and --version
        return int(leaving.code or 0)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="bpfast", description="Train dense networks by backpropagation, and use them.")
    parser.add_argument("--version", action="version", version=f"bpfast {__version__}")
    subcommands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_train(subcommands)
    _add_predict(subcommands)
    add_export(subcommands)
    command = subcommands.add_parser(
        "info", help="what this installation is", description="Print the version and what runs here."
    )
    command.set_defaults(run=commands.info)
    _add_gallery(subcommands)
    return parser


def _add_train(subcommands: argparse._SubParsersAction[_Parser]) -> None:
    command = subcommands.add_parser(
        "train",
        help="train a network on a file, or on embedded digits",
        description="Train a network and write it, with how its inputs are prepared, to a file. "
        "Without FILE: the classic sigmoid network on scikit-learn's digits.",
    )
    command.set_defaults(run=commands.train)
    data = command.add_argument_group("data")
    data.add_argument(
        "file", nargs="?", metavar="FILE", help="CSV with a header, NPZ, NPY or idx; perhaps .gz"
    )
    data.add_argument("--target", metavar="NAME", help="column of a CSV, or array of an NPZ (there: y)")
    data.add_argument("--features", metavar="NAME", help="array of an NPZ with the inputs (X)")
    data.add_argument("--labels", metavar="FILE", help="NPY or idx file of the labels, for one of those")
    data.add_argument("--ignore", type=_names, default=(), metavar="A,B", help="columns to leave out")
    data.add_argument("--text", type=_names, default=(), metavar="A,B", help="columns to take as categories")
    data.add_argument("--task", choices=TASKS, help="by default told from the target")
    data.add_argument(
        "--memory",
        type=_megabytes,
        default=_megabytes("256"),
        metavar="MB",
        help="what the file, or its prepared rows, may take in memory (256); beyond it the file is read part "
        "by part, and the prepared rows are trained on from temporary files without a name, in $TMPDIR if "
        "that is set, else in the folder of the model",
    )
    data.add_argument(
        "--validation", type=_share, default=0.2, metavar="SHARE", help="of the rows to hold out (0.2)"
    )
    model = command.add_argument_group("network and training")
    model.add_argument(
        "--hidden", type=_widths, metavar="128,64", help="units of the hidden layers; 0 for none"
    )
    model.add_argument("--activation", metavar="NAME", help="of the hidden layers (relu)")
    model.add_argument("--optimizer", metavar="NAME", help="adam, sgd, … (adam)")
    model.add_argument("--learning-rate", type=float, metavar="X", help="by default the optimizer's")
    model.add_argument("--momentum", type=float, metavar="X", help="of sgd")
    model.add_argument("--batch-size", type=int, metavar="N", help="rows a step (32)")
    model.add_argument(
        "--epochs", type=_positive, metavar="N", help="passes over the data (by its size: 20 to 200)"
    )
    model.add_argument("--penalty", metavar="NAME", help="l2, l1, elastic_net, l0 or frobenius")
    model.add_argument("--alpha", type=float, metavar="X", help="strength of the penalty (1e-4)")
    model.add_argument(
        "--patience", type=_positive, metavar="N", help="stop after N epochs without a better held-out loss"
    )
    model.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the weights, the split and the order (0)"
    )
    model.add_argument("--dtype", choices=("float32", "float64"), default="float32", help="(float32)")
    _add_engine(model)
    result = command.add_argument_group("output")
    result.add_argument(
        "--out", default="model.safetensors", metavar="FILE", help="the model (model.safetensors)"
    )
    result.add_argument(
        "--checkpoint",
        metavar="FILE",
        help="keep the run here after every epoch; if it is there already, go on with it",
    )
    picture = result.add_mutually_exclusive_group()
    picture.add_argument("--plot", metavar="FILE", help="picture of the curves (curve.png)")
    picture.add_argument("--no-plot", action="store_true", help="no picture")
    result.add_argument(
        "--report", metavar="FILE", help="page of HTML about the training, to show and to keep"
    )
    result.add_argument("--predictions", metavar="FILE", help="CSV of the held-out rows' predictions")
    result.add_argument("--quiet", action="store_true", help="print the result alone")


def _add_predict(subcommands: argparse._SubParsersAction[_Parser]) -> None:
    command = subcommands.add_parser(
        "predict",
        help="predict the rows of a file with a trained model",
        description="Write a CSV with a line for each row of FILE: the prediction and, of a "
        "classification, the probability of each class. FILE (CSV, NPZ, NPY or idx, perhaps .gz) may be "
        "larger than memory: it is read part by part.",
    )
    command.set_defaults(run=predicting.predict)
    command.add_argument("model", metavar="MODEL", help="what `bpfast train` wrote")
    command.add_argument(
        "file", metavar="FILE", help="raw rows with the columns that the model was trained on"
    )
    command.add_argument("--features", metavar="NAME", help="array of an NPZ with the inputs")
    command.add_argument("--out", default="predictions.csv", metavar="FILE", help="(predictions.csv)")
    _add_engine(command)
    command.add_argument("--quiet", action="store_true", help="print the result alone")


def _add_gallery(subcommands: argparse._SubParsersAction[_Parser]) -> None:
    command = subcommands.add_parser(
        "gallery",
        help="what grew out of backpropagation, each as one picture",
        description="Without NAME: the list. With it: run that example, print its figures and draw its "
        "picture; each takes less than a minute and is one short file in bpfast/gallery.",
    )
    command.set_defaults(run=commands.gallery)
    command.add_argument("name", nargs="?", metavar="NAME", help="one of the list")
    command.add_argument("--out", metavar="PICTURE", help="(NAME.png)")


def _add_engine(group: argparse._ActionsContainer) -> None:
    group.add_argument("--threads", type=int, metavar="N", help="at most; by default the cores at hand")
    group.add_argument("--backend", choices=BACKENDS, help="native, or the NumPy reference")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _widths(text: str) -> tuple[int, ...]:
    try:
        widths = tuple(int(part) for part in text.split(","))
    except ValueError:
        widths = (-1,)
    if widths == (0,):
        return ()
    if min(widths) < 1:
        raise argparse.ArgumentTypeError(f"widths such as 128,64 are wanted; got {text!r}")
    return widths


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise argparse.ArgumentTypeError(f"a share from 0 to below 1 is wanted; got {text!r}")
    return share


def _megabytes(text: str) -> int:
    try:
        size = float(text)
    except ValueError:
        size = -1.0
    if not 0 <= size < 1e12:
        raise argparse.ArgumentTypeError(f"a number of megabytes is wanted; got {text!r}")
    return int(size * 1e6)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number of at least 1 is wanted; got {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
