"""Raise a clear error if the package is imported from a source checkout without compiled modules."""

from __future__ import annotations

import importlib.util
import os
import sys

MESSAGE = (
    "bpfast is imported from its source checkout ({folder}), which has no compiled modules. "
    "Install it (pip install .) and run from another directory, or use the command `bpfast`."
)

if importlib.util.find_spec("bpfast.native._core") is None:
    message = MESSAGE.format(folder=os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    if "bpfast" in sys.orig_argv and sys.orig_argv[sys.orig_argv.index("bpfast") - 1] == "-m":
        # `python -m bpfast`: a single line in place of a traceback.
        raise SystemExit(message)
    raise ImportError(message)
