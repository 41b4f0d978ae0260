"""Says plainly when the package is imported from a checkout, where nothing is compiled."""

from __future__ import annotations

import importlib.util
import os
import sys

MESSAGE = (
    "bpfast is being imported from its source checkout ({folder}), which is not built. "
    "Install it (pip install .) and run from another directory, or use the command `bpfast`."
)

if importlib.util.find_spec("bpfast.native._core") is None:
    message = MESSAGE.format(folder=os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    if "bpfast" in sys.orig_argv and sys.orig_argv[sys.orig_argv.index("bpfast") - 1] == "-m":
        # `python -m bpfast`: a line for a person, not a traceback.
        raise SystemExit(message)
    raise ImportError(message)
