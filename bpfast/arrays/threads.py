"""Number of threads: the check of what a caller passes, and the default.

A native engine receives the result as its maximum; `team_for` in src/runtime.pxi chooses how many of them a
call uses, depending on its size.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from ..native import _core

#: Maximum number of threads that a caller may ask for.
MAX_THREADS = 1024


def check_threads(value: Any) -> int | None:
    """Check a number of threads; None stands for the default."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"threads must be an integer or None; got {value!r}")
    if not 1 <= value <= MAX_THREADS:
        raise ValueError(f"threads must be from 1 to {MAX_THREADS}; got {value}")
    return int(value)


def default_threads() -> int:
    """Return `BPFAST_NUM_THREADS` if set, else the number of cores this process may use.

    The cores are limited further by OpenMP's own limit: `OMP_NUM_THREADS`, or what joblib or threadpoolctl
    set for worker processes that share the cores.
    """
    text = os.environ.get("BPFAST_NUM_THREADS")
    if text:
        if not text.isdecimal() or not 1 <= int(text) <= MAX_THREADS:
            raise ValueError(f"BPFAST_NUM_THREADS must be an integer from 1 to {MAX_THREADS}; got {text!r}")
        return int(text)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, _core.thread_limit()))
