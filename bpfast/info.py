"""Version and configuration of this installation."""

from __future__ import annotations

import platform
import sys
from typing import Any

import numpy as np

from . import backends
from .arrays.threads import default_threads
from .native import _core

# The build reads the version from here. importlib.metadata would double the import time.
__version__ = "0.1.0"


def info() -> dict[str, Any]:
    """Return the version and how the native engine runs on this machine.

    Returns
    -------
    dict
        ``version``; ``backend`` (the default); ``isa`` (the instruction set in use); ``isas`` (the
        instruction sets of this build that this CPU supports); ``openmp`` (whether the build has OpenMP;
        without it everything runs on one thread); ``threads`` (the default number); ``compiler``;
        ``python``; ``numpy``; ``machine``.
    """
    return {
        "version": __version__,
        "backend": backends.resolve_backend(None),
        "isa": _core.isa(),
        "isas": _core.isas(),
        "openmp": _core.openmp(),
        "threads": default_threads() if _core.openmp() else 1,
        "compiler": _core.compiler(),
        "python": ".".join(map(str, sys.version_info[:3])),
        "numpy": np.__version__,
        "machine": platform.machine(),
    }
