"""A process that is timed from outside: import, build and one epoch of digits, or the cost of imports.

python benchmarks/coldstart.py epoch PEER FOLDER    the folder has X.npy and y.npy
python benchmarks/coldstart.py imports              milliseconds and MB of NumPy, and what bpfast adds
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path


def memory_mb(field: str) -> float:
    """VmRSS (current) or VmHWM (peak) in MB; always the peak if there is no /proc."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith(field))
        return int(line.split()[1]) / 1024
    import resource

    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def epoch(peer: str, folder: Path) -> dict[str, float]:
    """Train one epoch of the peer; return the peak memory."""
    import numpy as np
    from peers import make
    from rows import COLD_ROW

    X, y = (np.load(folder / f"{name}.npy") for name in "Xy")
    make(peer, 1).train(COLD_ROW, X, y).run(1)
    return {"mb": memory_mb("VmHWM")}


def imports() -> dict[str, float]:
    """Time and memory of `import numpy`, then of `import bpfast`."""
    figures = {}
    for package in ("numpy", "bpfast"):
        memory, start = memory_mb("VmRSS"), time.perf_counter()
        __import__(package)
        figures[f"{package}_ms"] = 1e3 * (time.perf_counter() - start)
        figures[f"{package}_mb"] = memory_mb("VmRSS") - memory
    return figures


if __name__ == "__main__":
    print(json.dumps(imports() if sys.argv[1] == "imports" else epoch(sys.argv[2], Path(sys.argv[3]))))
