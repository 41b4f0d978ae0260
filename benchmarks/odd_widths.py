"""Compare odd widths with padded ones in GFLOP/s; fail if one is much slower.

python benchmarks/odd_widths.py [--multiple 8] [--least 0.8] [--threads 1] [--rounds 15]

An odd size is compared with the same work with the size rounded up to a multiple of 8 (a vector of AVX2),
in interleaved rounds of at least 10 ms. The figure is the ratio of GFLOP/s, each from its own multiply-adds;
the ratio of times compares the odd size with the larger one. Exit status 1 if a ratio of GFLOP/s is below
--least.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from typing import Any

import report
from peers import BpFast
from rows import ADAM, KernelRow, PredictRow, Row

BASE = 256
ODD = (77, 33, 5)
ODD_BATCH = 97
FUNCTIONS = ("dense_forward", "propagate_delta", "weight_gradient")
SECONDS = 0.01


def padded(size: int, multiple: int) -> int:
    """The next multiple; multiples stay."""
    return -(-size // multiple) * multiple


def pairs(multiple: int) -> list[tuple[Any, Any]]:
    """Rows with odd sizes, each with its padded counterpart."""

    def up(*sizes: int) -> tuple[int, ...]:
        return tuple(padded(size, multiple) for size in sizes)

    found: list[tuple[Any, Any]] = []
    shapes = [(ODD_BATCH, BASE, BASE)]
    shapes += [shape for odd in ODD for shape in ((BASE, odd, BASE), (BASE, BASE, odd))]
    shapes.append((ODD_BATCH, 77, 33))
    for function in FUNCTIONS:
        found += [(KernelRow("", function, shape), KernelRow("", function, up(*shape))) for shape in shapes]
    nets = [(BASE, 77, BASE), (BASE, 33, BASE), (BASE, BASE, 5), (77, 77, 77), (77, 33, 5)]
    for batch in (BASE, ODD_BATCH):
        for widths in nets:
            (rows,) = up(batch)
            found.append((Row("", widths, batch, ADAM, 20), Row("", up(*widths), rows, ADAM, 20)))
            found.append((PredictRow("", widths, batch), PredictRow("", up(*widths), rows)))
    return found


def compare(peer: BpFast, odd: Any, even: Any, rounds: int) -> tuple[float, float]:
    """Median seconds of both, interleaved."""
    works = [peer.work(row) for row in (odd, even)]
    for work in works:
        work.prepare(SECONDS)
    seconds = [[work.measure() for work in works] for _ in range(rounds)]
    ours, other = (statistics.median(column) for column in zip(*seconds, strict=True))
    return ours, other


def main() -> None:
    """Print one line per pair; exit with status 1 if a ratio is too small."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--multiple", type=int, default=8, help="pad sizes to multiples of this (default: 8)")
    parser.add_argument("--least", type=float, default=0.8, help="smallest ratio of GFLOP/s (default: 0.8)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    for name in ("multiple", "threads", "rounds"):
        if getattr(options, name) < 1:
            parser.error(f"--{name}: must be at least 1; got {getattr(options, name)}")
    peer, lines, failed = BpFast(options.threads), [], 0
    for odd, even in pairs(options.multiple):
        seconds = compare(peer, odd, even, options.rounds)
        gflops = [2e-9 * row.multiply_adds / s for row, s in zip((odd, even), seconds, strict=True)]
        ratio = gflops[0] / gflops[1]
        failed += ratio < options.least
        verdict = "BELOW" if ratio < options.least else ""
        numbers = [*(f"{g:.1f}" for g in gflops), f"{ratio:.2f}", f"{seconds[1] / seconds[0]:.2f}", verdict]
        lines.append([f"{odd.kind} {odd.title}", even.title, *numbers])
    header = [
        "odd",
        "padded",
        "GFLOP/s odd",
        "GFLOP/s padded",
        "ratio",
        "time padded / odd",
        f"≥ {options.least}",
    ]
    print(report.table(header, lines))
    print(f"\n{failed} of {len(lines)} below {options.least}")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
