"""Output, progress bars, error handling and checks that the subcommands share."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator

from tqdm import tqdm

from ..data.preparation import Counts
from ..data.streams import Stream
from ..data.tables import UserError

#: Exit statuses.
USER_ERROR, INTERRUPTED = 2, 130
#: No progress bar is shown for fewer values than this, nor before this many seconds.
MIN_VALUES, DELAY = 2**20, 0.5


@contextlib.contextmanager
def mistakes() -> Iterator[None]:
    """Turn the library's errors about invalid arguments into one-line user errors."""
    try:
        yield
    except (ValueError, TypeError, FileNotFoundError, ModuleNotFoundError) as error:
        raise UserError(str(error)) from None


@contextlib.contextmanager
def writing(path: str) -> Iterator[None]:
    """Turn an error while writing a file, such as a full disk, into a user error that names the file."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path!r}: {error.strerror or error}") from None


def require_writable(outputs: list[str], inputs: list[str]) -> None:
    """Check before a long computation that its outputs can be written.

    Raises
    ------
    UserError
        If an output is also an input or another output, or cannot be written.
    """
    seen = {os.path.realpath(path) for path in inputs}
    for path in outputs:
        if os.path.realpath(path) in seen:
            raise UserError(f"{path!r} is given twice; it would be overwritten")
        seen.add(os.path.realpath(path))
        if os.path.isdir(path):
            raise UserError(f"{path!r} is a directory, not a file")
        folder = os.path.dirname(os.path.abspath(path))
        if not os.path.isdir(folder):
            raise UserError(f"cannot write {path!r}: there is no directory {folder!r}")
        if os.path.exists(path) and not os.path.isfile(path):
            continue  # a pipe or a device: no temporary file is created next to it
        with writing(path), tempfile.TemporaryFile(dir=folder):
            pass


class Printer:
    """Print lines with a label in the margin; if quiet, only those marked `always`."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet

    def __call__(self, label: str, text: str, always: bool = False) -> None:
        if always or not self.quiet:
            print(f"{label:<9} {text}", flush=True)

    @contextlib.contextmanager
    def progress(self, description: str, stream: Stream) -> Iterator[Callable[[int], None]]:
        """Show a progress bar on standard error; the context is the function that advances it."""
        with tqdm(
            total=stream.total,
            desc=description,
            unit=stream.unit,
            unit_scale=True,
            dynamic_ncols=True,
            leave=False,
            delay=DELAY,
            disable=self.quiet or stream.n_values < MIN_VALUES,
        ) as bar:
            yield bar.update

    def counts(self, counts: Counts) -> None:
        """Print missing values, unseen categories and unused columns."""
        if counts.imputed:
            self("imputed", f"missing values: {_by_column(counts.imputed)}")
        if counts.unseen:
            self(
                "unseen",
                f"categories not seen in training: {_by_column(counts.unseen)}; encoded as all zeros",
            )
        if counts.ignored:
            self("ignored", f"columns not used by the model: {', '.join(counts.ignored)}")


def _by_column(counts: dict[str, int]) -> str:
    columns = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    return f"{sum(counts.values()):,} ({columns})"


def refuse_unsupported(options: object, path: str, kind: str) -> None:
    """Raise a user error if an option does not apply to this kind of file."""
    supported = {
        "labels": ("idx", "npy"),
        "features": ("npz",),
        "target": ("csv", "npz"),
        "ignore": ("csv",),
        "text": ("csv",),
    }
    for name, kinds in supported.items():
        if getattr(options, name, None) and kind not in kinds:
            raise UserError(f"--{name} does not apply to {path!r}, which is in {kind.upper()} format")
