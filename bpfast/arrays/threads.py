"""Number of threads: the check of what a caller passes, and the default.

A native engine receives the result as its maximum; `team_for` in src/runtime.pxi chooses how many of them a
call uses, depending on its size.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from ..native import _core


def check_threads(value: Any) -> int | None:
    """Check a number of threads; None stands for the default."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"threads must be an integer or None; got {value!r}")
    if not 1 <= value <= 1024:
        raise ValueError(f"threads must be from 1 to 1024; got {value}")
    return int(value)


def default_threads() -> int:
    """Return `BPFAST_NUM_THREADS` if set, else the number of cores this process may use.

    The cores are limited further by OpenMP's own limit: `OMP_NUM_THREADS`, or what joblib or threadpoolctl
    set for worker processes that share the cores.
    """
    text = os.environ.get("BPFAST_NUM_THREADS")
    if text:
        if not text.isdecimal() or not 1 <= int(text) <= 1024:
            raise ValueError(f"BPFAST_NUM_THREADS must be an integer from 1 to 1024; got {text!r}")
        return int(text)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, _core.thread_limit()))
