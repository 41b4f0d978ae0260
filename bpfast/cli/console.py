"""What the subcommands share: lines on standard output, progress, mistakes, files that can be written."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator

from ..data.preparation import Counts
from ..data.streams import Stream
from ..data.tables import UserError

#: A file with fewer numbers shows no bar, nor does one that is read faster, in seconds.
FEW, DELAY = 2**20, 0.5


@contextlib.contextmanager
def mistakes() -> Iterator[None]:
    """Turn the library's complaints about what it was given into a line for a person."""
    try:
        yield
    except (ValueError, TypeError, FileNotFoundError, ModuleNotFoundError) as error:
        raise UserError(str(error)) from None


@contextlib.contextmanager
def writing(path: str) -> Iterator[None]:
    """Name the file that a full disk or the like kept from being written."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path!r} can't be written: {error.strerror or error}") from None


def require_writable(outputs: list[str], inputs: list[str]) -> None:
    """Refuse before the work what would fail after it."""
    seen = {os.path.realpath(path) for path in inputs}
    for path in outputs:
        if os.path.realpath(path) in seen:
            raise UserError(f"{path!r} is named twice; it would be overwritten")
        seen.add(os.path.realpath(path))
        if os.path.isdir(path):
            raise UserError(f"{path!r} is a directory; a file is wanted")
        folder = os.path.dirname(os.path.abspath(path))
        if not os.path.isdir(folder):
            raise UserError(f"{path!r} can't be written: there is no directory {folder!r}")
        if os.path.exists(path) and not os.path.isfile(path):
            continue  # a pipe or a device: nothing is written beside it
        with writing(path), tempfile.TemporaryFile(dir=folder):
            pass


class Printer:
    """Prints a line with a margin; when quiet only what matters always."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet

    def __call__(self, margin: str, text: str, always: bool = False) -> None:
        if always or not self.quiet:
            print(f"{margin:<9} {text}", flush=True)

    @contextlib.contextmanager
    def progress(self, what: str, stream: Stream) -> Iterator[Callable[[int], None]]:
        """A bar on standard error for a pass over a stream; what moves it."""
        from tqdm import tqdm

        with tqdm(
            total=stream.total,
            desc=what,
            unit=stream.unit,
            unit_scale=True,
            dynamic_ncols=True,
            leave=False,
            delay=DELAY,
            disable=self.quiet or stream.numbers < FEW,
        ) as bar:
            yield bar.update

    def counts(self, counts: Counts) -> None:
        """What preparing met with."""
        if counts.imputed:
            self("imputed", f"missing values: {_by_column(counts.imputed)}")
        if counts.unseen:
            self("unseen", f"texts that no training row had: {_by_column(counts.unseen)}; their inputs are 0")
        if counts.ignored:
            self("ignored", f"columns that the model does not use: {', '.join(counts.ignored)}")


def _by_column(counts: dict[str, int]) -> str:
    columns = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    return f"{sum(counts.values()):,} ({columns})"


def refuse_foreign(options: object, path: str, kind: str) -> None:
    """Options that another kind of file takes are mistakes, not to be passed over."""
    homes = {
        "labels": ("idx", "npy"),
        "features": ("npz",),
        "target": ("csv", "npz"),
        "ignore": ("csv",),
        "text": ("csv",),
    }
    for name, kinds in homes.items():
        if getattr(options, name, None) and kind not in kinds:
            raise UserError(f"--{name} does not go with {path!r}, which is of the kind {kind}")
