"""What this installation is and what it will use."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

import numpy as np

from . import backends, checks

try:
    __version__ = metadata.version("bpfast")
except metadata.PackageNotFoundError:  # run from a folder that nobody installed
    __version__ = "0+unknown"


def info() -> dict[str, Any]:
    """The version, and how the native engine runs here.

    Returns
    -------
    dict
        ``version``; ``backend`` (the default); ``isa`` (the instruction set in use) and
        ``isas`` (those that this build has and this CPU can run); ``openmp`` (whether the build
        has it; without it everything runs on one thread); ``threads`` (the default number);
        ``compiler``; ``python``; ``numpy``; ``machine``.
    """
    from . import _border

    return {
        "version": __version__,
        "backend": backends.resolve_backend(None),
        "isa": _border.isa(),
        "isas": _border.isas(),
        "openmp": _border.openmp(),
        "threads": checks.default_threads() if _border.openmp() else 1,
        "compiler": _border.compiler(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "machine": platform.machine(),
    }
