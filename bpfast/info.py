"""What this installation is and what it will use."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from . import backends
from .arrays import checks

# The build reads the version here: asking importlib.metadata at import costs as much as the rest.
__version__ = "0.1.0"


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
    import platform

    from .native import _core

    return {
        "version": __version__,
        "backend": backends.resolve_backend(None),
        "isa": _core.isa(),
        "isas": _core.isas(),
        "openmp": _core.openmp(),
        "threads": checks.default_threads() if _core.openmp() else 1,
        "compiler": _core.compiler(),
        "python": ".".join(map(str, sys.version_info[:3])),
        "numpy": np.__version__,
        "machine": platform.machine(),
    }
