"""Parse a command line, run its subcommand, and turn errors into one line and an exit status."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import sys
from collections.abc import Sequence
from typing import NoReturn

from ..data.tables import UserError
from ..info import __version__
from . import export, gallery, info, predict, train
from .console import INTERRUPTED, USER_ERROR


class _Parser(argparse.ArgumentParser):
    """Report an error in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; those of this process by default.

    Returns
    -------
    int
        Exit status: 0 on success, 2 after a user error, 130 after Ctrl-C.
    """
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot encode the name of a column must not end a training run.
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    try:
        options = _build_parser().parse_args(argv)
        options.command = shlex.join(["bpfast", *(sys.argv[1:] if argv is None else argv)])
        status: int = options.run(options)
        return status
    except UserError as error:
        return _report(str(error))
    except MemoryError as error:
        return _report(f"not enough memory: {error}")
    except BrokenPipeError:
        # The reader of our output has exited (`| head`).
        sys.stdout = None
        return USER_ERROR
    except KeyboardInterrupt:
        print("bpfast: interrupted", file=sys.stderr)
        return INTERRUPTED
    except SystemExit as exit_request:  # --help and --version
        return int(exit_request.code or 0)


def _report(message: str) -> int:
    print(f"bpfast: error: {' '.join(message.split())}", file=sys.stderr)
    return USER_ERROR


def _build_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="bpfast", description="Train and use dense neural networks.")
    parser.add_argument("--version", action="version", version=f"bpfast {__version__}")
    subcommands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in (train, predict, export, info, gallery):
        command.add_parser(subcommands)
    return parser
