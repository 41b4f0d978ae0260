"""The figures of `compare.py` as Markdown tables with a summary."""

from __future__ import annotations

import math
import statistics
from typing import Any

from rows import BY_NAME

Record = dict[str, Any]
KINDS = {
    "train": "Training, µs per step",
    "predict": "Prediction, µs per call",
    "kernel": "Kernels, µs per call",
}
LARGE = 32 << 20  # bytes of parameters that fit in no cache: then bandwidth is the limit


def figure(value: float) -> str:
    """Three significant digits."""
    if not math.isfinite(value) or value == 0:
        return str(value)
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def percent(share: float | None) -> str:
    """A share as a percentage, such as 78 %."""
    return "" if share is None else f"{100 * share:.0f} %"


def table(header: list[str], lines: list[list[str]]) -> str:
    """A Markdown table."""
    rule = ["---"] * len(header)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [header, rule, *lines])


class Figures:
    """The records of one pass, by row and peer.

    Parameters
    ----------
    records : list of dict
    threads : int
    contended : bool
    """

    def __init__(self, records: list[Record], threads: int, contended: bool) -> None:
        self.threads = threads
        self.contended = contended
        self._records = [r for r in records if r["pass"] == threads and r["contended"] == contended]
        self._by_key = {(r["kind"], r["row"], r["peer"], r["threads"]): r for r in self._records}

    def rows(self, kind: str) -> list[str]:
        """The rows that bpfast ran, in order."""
        return [name for name, row in BY_NAME.items() if row.kind == kind and self.median(name, "bpfast")]

    def median(self, row: str, peer: str, threads: int | None = None, field: str = "median") -> float | None:
        """Seconds, or None if the peer did not run the row."""
        record = self._by_key.get((BY_NAME[row].kind, row, peer, threads or self.threads))
        return None if record is None else float(record[field])

    def peers(self, kind: str) -> list[str]:
        """All peers except bpfast, in the order they ran."""
        names = dict.fromkeys(r["peer"] for r in self._records if r["kind"] == kind)
        return [name for name in names if name != "bpfast"]

    def ratio(self, row: str, peer: str) -> float | None:
        """A peer's time relative to bpfast's."""
        theirs, ours = self.median(row, peer), self.median(row, "bpfast")
        return None if theirs is None or ours is None else theirs / ours

    def fastest(self, row: str, kind: str) -> tuple[str, float] | None:
        """The fastest peer and its ratio to bpfast."""
        ratios = [(ratio, peer) for peer in self.peers(kind) if (ratio := self.ratio(row, peer)) is not None]
        return (min(ratios)[1], min(ratios)[0]) if ratios else None

    def geometric_mean(self, kind: str, peer: str) -> float | None:
        """Geometric mean of the ratios over the rows that both ran."""
        ratios = [ratio for row in self.rows(kind) if (ratio := self.ratio(row, peer)) is not None]
        return statistics.geometric_mean(ratios) if ratios else None

    def speedup(self, row: str) -> float | None:
        """bpfast's time on one thread, in the same rounds, relative to its time on all."""
        one, all_ = self.median(row, "bpfast", 1), self.median(row, "bpfast")
        return None if one is None or all_ is None or self.threads == 1 else one / all_

    def peak(self, row: str | None = None, threads: int | None = None) -> float | None:
        """Median of the FMA peak in GFLOP/s, in the rounds of a row or of all rows."""
        count = threads or self.threads
        values = [
            r["median"]
            for r in self._records
            if r["kind"] == "peak" and r["threads"] == count and row in (None, r["row"])
        ]
        return statistics.median(values) if values else None

    def bandwidth(self, threads: int | None = None) -> float | None:
        """Median memory bandwidth in GB/s."""
        values = [
            r["median"]
            for r in self._records
            if r["kind"] == "memory" and r["threads"] == (threads or self.threads)
        ]
        return values[0] if values else None

    def gflops(self, row: str) -> float | None:
        """GFLOP/s of bpfast."""
        seconds = self.median(row, "bpfast")
        return None if seconds is None else 2e-9 * BY_NAME[row].multiply_adds / seconds

    def share_of_peak(self, row: str) -> float | None:
        """bpfast's GFLOP/s as a share of the peak in the same rounds."""
        peak, gflops = self.peak(row), self.gflops(row)
        return None if peak is None or gflops is None else gflops / peak

    def share_of_bandwidth(self, row: str) -> float | None:
        """The least traffic of an uncached training step as a share of the bandwidth, for large networks."""
        bandwidth, seconds, spec = self.bandwidth(), self.median(row, "bpfast"), BY_NAME[row]
        if bandwidth is None or seconds is None or spec.kind != "train" or 4 * spec.n_parameters < LARGE:
            return None
        return float(1e-9 * spec.bytes / seconds / bandwidth)


def passes(result: dict[str, Any]) -> list[Figures]:
    """All passes of a result, in the order they ran."""
    keys = dict.fromkeys((r["pass"], r["contended"]) for r in result["records"])
    return [Figures(result["records"], threads, contended) for threads, contended in keys]


def pass_table(figures: Figures, kind: str) -> str:
    """One table: bpfast, its shares, every peer, and the ratio of the fastest."""
    peers = figures.peers(kind)
    measured = not figures.contended
    shares = ["of peak"] if measured and figures.peak() else []
    if shares and any(figures.share_of_bandwidth(row) for row in figures.rows(kind)):
        shares.append("of bandwidth")
    scaling = ["bpfast, 1 thread", "1 thread / all"] if figures.threads > 1 else []
    header = ["row", "work", "bpfast", *shares, *scaling, *peers, "fastest peer / bpfast"]
    lines = []
    for row in figures.rows(kind):
        cells = [row, BY_NAME[row].title, micro(figures.median(row, "bpfast"))]
        cells += [percent(figures.share_of_peak(row))] if shares else []
        cells += [percent(figures.share_of_bandwidth(row))] if len(shares) > 1 else []
        if scaling:
            cells += [micro(figures.median(row, "bpfast", 1)), times(figures.speedup(row))]
        cells += [micro(figures.median(row, peer)) for peer in peers]
        fastest = figures.fastest(row, kind)
        lines.append([*cells, f"{fastest[1]:.2f} ({fastest[0]})" if fastest else ""])
    means = [times(figures.geometric_mean(kind, peer)) for peer in peers]
    padding = [""] * (1 + len(shares) + len(scaling))
    lines.append(["", "geometric mean / bpfast", *padding, *means, ""])
    return table(header, lines)


def micro(seconds: float | None) -> str:
    """Microseconds."""
    return "" if seconds is None else figure(1e6 * seconds)


def times(ratio: float | None) -> str:
    """A ratio."""
    return "" if ratio is None else f"{ratio:.2f}"


def machine_lines(result: dict[str, Any]) -> list[str]:
    """Processor, versions, and the limits of the machine."""
    machine = result["machine"]
    info = machine["bpfast"]
    versions = ", ".join(f"{name} {number or '-'}" for name, number in machine["versions"].items())
    lines = [
        f"{machine['cpu']}, {machine['cpus']} CPUs available; bpfast with {info['isa']}; float32; medians of "
        f"{result['rounds']} interleaved rounds. {versions}."
    ]
    for figures in passes(result):
        for threads in dict.fromkeys((1, figures.threads)):
            peak, bandwidth = figures.peak(None, threads), figures.bandwidth(threads)
            limits = [f"FMA peak {peak:.1f} GFLOP/s"] if peak else []
            limits += [f"memory {bandwidth:.1f} GB/s"] if bandwidth else []
            if limits:
                lines.append(f"Pass with {figures.threads}, {threads} thread(s): {', '.join(limits)}.")
    return lines


def cold_tables(result: dict[str, Any]) -> list[str]:
    """Cold starts and the cost of the import."""
    parts = []
    ours = next((r["median"] for r in result["cold"] if r["peer"] == "bpfast"), None)
    if result["cold"]:
        lines = [
            [
                r["peer"],
                f"{1e3 * r['median']:.0f}",
                f"{1e3 * r['minimum']:.0f}",
                f"{r['mb']:.0f}",
                times(r["median"] / ours if ours else None),
            ]
            for r in result["cold"]
        ]
        parts += [
            "### Cold start: a process that imports, builds and trains one epoch of digits",
            table(["peer", "ms", "minimum ms", "MB", "relative to bpfast"], lines),
        ]
    if imports := result["imports"]:
        parts.append(
            f"`import bpfast` adds {imports['bpfast_ms']:.1f} ms and {imports['bpfast_mb']:.1f} MB to "
            f"`import numpy` ({imports['numpy_ms']:.1f} ms, {imports['numpy_mb']:.1f} MB)."
        )
    return parts


def summary(result: dict[str, Any]) -> dict[str, Any]:
    """The main figures by name; ratios are relative to bpfast, above 1 if bpfast is faster."""
    found: dict[str, Any] = {}
    for figures in passes(result):
        where = f"{figures.threads} thread{'s' * (figures.threads > 1)}"
        where += ", contended" if figures.contended else ""
        for kind in KINDS:
            rows = figures.rows(kind)
            each = {row: pair for row in rows if (pair := figures.fastest(row, kind))}
            if each:
                worst = min(each, key=lambda row: each[row][1])
                found[f"{kind}, {where}: fastest peer / bpfast, smallest"] = [worst, *each[worst]]
                found[f"{kind}, {where}: rows where a peer is faster"] = [
                    row for row, (_, ratio) in each.items() if ratio < 1
                ]
            for peer in figures.peers(kind) if rows else []:
                found[f"{kind}, {where}: geometric mean of {peer} / bpfast"] = figures.geometric_mean(
                    kind, peer
                )
            for word, value in (("peak", figures.share_of_peak), ("bandwidth", figures.share_of_bandwidth)):
                if shares := {row: share for row in rows if (share := value(row)) is not None}:
                    found[f"{kind}, {where}: share of {word}"] = shares
            if speedups := {row: times for row in rows if (times := figures.speedup(row)) is not None}:
                found[f"{kind}, {where}: 1 thread / {figures.threads} threads"] = speedups
        if (many := figures.peak()) and (one := figures.peak(None, 1)) and figures.threads > 1:
            found[f"{where}: FMA peak relative to 1 thread"] = many / one
    return found


def summary_lines(result: dict[str, Any]) -> list[str]:
    """The summary as a list."""
    lines = []
    for name, value in summary(result).items():
        if isinstance(value, dict):
            text = ", ".join(f"{row} {figure(number)}" for row, number in value.items())
        elif isinstance(value, list):
            text = ", ".join(figure(v) if isinstance(v, float) else str(v) for v in value) or "none"
        else:
            text = "" if value is None else figure(value)
        lines.append(f"- {name}: {text}")
    return lines


def markdown(result: dict[str, Any]) -> str:
    """The whole report in Markdown."""
    parts = ["\n".join(machine_lines(result))]
    for figures in passes(result):
        for kind, title in KINDS.items():
            if figures.rows(kind):
                state = ", while another process keeps a core busy" if figures.contended else ""
                threads = f"{figures.threads} thread{'s' * (figures.threads > 1)}"
                parts += [f"### {title}, {threads}{state}", pass_table(figures, kind)]
    parts += cold_tables(result)
    if lines := summary_lines(result):
        parts += ["### Summary (ratios are relative to bpfast; above 1 bpfast is faster)", "\n".join(lines)]
    if result["left_out"]:
        parts += ["### Left out", "\n".join(f"- {note}" for note in result["left_out"])]
    return "\n\n".join(parts)
