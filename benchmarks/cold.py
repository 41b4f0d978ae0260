"""Cold starts: whole processes that run `coldstart.py`, interleaved and timed from outside."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from rows import COLD_ROW
from worker import environment

SCRIPT = Path(__file__).with_name("coldstart.py")
NOT_COLD = {
    "onnxruntime": "it does not train",
    "torch-compile": "its cold start is that of torch plus a compilation of many seconds",
}


def digits() -> tuple[Any, Any]:
    """Load scikit-learn's digits, or random rows of the same shape if it is not installed."""
    n = COLD_ROW.batch * COLD_ROW.batches
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        return COLD_ROW.data()
    X, y = load_digits(return_X_y=True)
    return (X[:n] / 16).astype(np.float32), y[:n]


def run(*words: str) -> tuple[float, dict[str, float]]:
    """Run `coldstart.py` on one thread; return the seconds from start to end and what it printed."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *words], env=environment(1), capture_output=True, text=True
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(" | ".join(done.stderr.strip().splitlines()[-3:]))
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return seconds, figures


def starts(peers: list[str], rounds: int, left_out: list[str]) -> list[dict[str, Any]]:
    """Time import, build and one epoch of digits for every peer; the first run (cold files) is dropped."""
    left_out += [f"{peer} cold: {NOT_COLD[peer]}" for peer in peers if peer in NOT_COLD]
    times: dict[str, list[tuple[float, float]]] = {peer: [] for peer in peers if peer not in NOT_COLD}
    with tempfile.TemporaryDirectory() as folder:
        for name, array in zip("Xy", digits(), strict=True):
            np.save(Path(folder) / f"{name}.npy", array)
        for _ in range(rounds + 1):
            for peer in list(times):
                try:
                    seconds, figures = run("epoch", peer, folder)
                except RuntimeError as error:
                    left_out.append(f"{peer} cold: {error}")
                    del times[peer]
                else:
                    times[peer].append((seconds, figures["mb"]))
    records = []
    for peer, pairs in times.items():
        seconds, memory = (list(column) for column in zip(*pairs[1:], strict=True))
        records.append(
            {
                "peer": peer,
                "median": statistics.median(seconds),
                "minimum": min(seconds),
                "mb": statistics.median(memory),
            }
        )
        print(f"cold {peer}: {1e3 * records[-1]['median']:.0f} ms", file=sys.stderr, flush=True)
    return records


def imports(rounds: int) -> dict[str, float]:
    """Medians of `import numpy`, and of what `import bpfast` adds to it, in ms and MB."""
    runs = [run("imports")[1] for _ in range(rounds + 1)][1:]
    return {name: statistics.median(figures[name] for figures in runs) for name in runs[0]}
