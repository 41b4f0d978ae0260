"""Throughput and latency of a frozen network that is shared by threads, as in a server.

    python benchmarks/serving.py [--seconds 1] [--rounds 5] [--threads 1,2,4,16] [--shapes S1,S2]

Every thread predicts as fast as it can and compares each result with the expected bits; a difference ends
the run. Slices of about a second are interleaved over the numbers of threads and the peers, so that all see
the same load of the machine; the figures are medians over the rounds. CPUs are the processor seconds per
second of the process: if other processes occupy a core, more threads do not help. ONNX Runtime takes part
if it is installed, with one session that is shared by the threads and runs each call on one thread.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from rows import PredictRow

SHAPES = [
    PredictRow(f"S{index}", widths, batch)
    for index, (widths, batch) in enumerate(
        [
            ((64, 100, 10), 1),
            ((64, 100, 10), 16),
            ((784, 256, 256, 10), 1),
            ((784, 256, 256, 10), 16),
            ((784, 256, 256, 10), 64),
            ((784, 256, 256, 10), 256),
        ],
        1,
    )
]
#: Number of latencies that a thread keeps: the last ones.
KEPT = 100_000


@dataclass
class Slice:
    """Results of all threads in a slice of time."""

    seconds: float
    processor_seconds: float
    calls: int
    latencies: Any
    wrong: list[str]


@dataclass
class Figures:
    """Figures of one shape, peer and number of threads: one entry per round."""

    rates: list[float] = field(default_factory=list)
    cpus: list[float] = field(default_factory=list)
    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)

    def add(self, taken: Slice) -> None:
        """Add the figures of a round."""
        self.rates.append(taken.calls / taken.seconds)
        self.cpus.append(taken.processor_seconds / taken.seconds)
        p50, p99 = np.percentile(taken.latencies, [50, 99])
        self.p50.append(float(p50))
        self.p99.append(float(p99))


def run_slice(predict: Callable[[Any], Any], X: Any, expected: bytes, threads: int, seconds: float) -> Slice:
    """Call `predict` in threads for a number of seconds, and check every result."""
    gate = threading.Barrier(threads + 1)
    stop = threading.Event()
    counts = [0] * threads
    latencies = [np.empty(KEPT) for _ in range(threads)]
    wrong: list[str] = []

    def work(me: int) -> None:
        mine, own, clock, stopped = latencies[me], X.copy(), time.perf_counter, stop.is_set
        calls = 0
        gate.wait()
        while not stopped():
            start = clock()
            result = predict(own)
            mine[calls % KEPT] = clock() - start
            calls += 1
            if result.tobytes() != expected:
                wrong.append(f"thread {me}, call {calls}")
                break
        counts[me] = calls

    workers = [threading.Thread(target=work, args=(me,)) for me in range(threads)]
    for worker in workers:
        worker.start()
    gate.wait()
    start, used = time.perf_counter(), time.process_time()
    stop.wait(seconds)
    stop.set()
    # Time and calls are counted until the last call has ended.
    for worker in workers:
        worker.join()
    seconds, used = time.perf_counter() - start, time.process_time() - used
    kept = [mine[:calls] for mine, calls in zip(latencies, counts, strict=True)]
    return Slice(seconds, used, sum(counts), np.concatenate(kept), wrong)


def bpfast(row: PredictRow) -> Callable[[Any], Any]:
    """`predict` of the frozen network."""
    return network(row).freeze().predict


def network(row: PredictRow) -> Any:
    """The network of bpfast with the weights of the row."""
    net = row.training().network()
    for index, (W, b) in enumerate(row.weights()):
        net.parameters[f"{index}.W"][...] = W
        net.parameters[f"{index}.b"][...] = b
    return net


def onnxruntime(row: PredictRow) -> Callable[[Any], Any]:
    """A session that runs each call on the calling thread."""
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    nodes, initializers, value = [], [], "X"
    last = len(row.widths) - 2
    for index, (W, b) in enumerate(row.weights()):
        initializers += [numpy_helper.from_array(W, f"W{index}"), numpy_helper.from_array(b, f"b{index}")]
        nodes.append(helper.make_node("Gemm", [value, f"W{index}", f"b{index}"], [f"Z{index}"]))
        kind = "Softmax" if index == last else "Relu"
        value = f"A{index}"
        nodes.append(helper.make_node(kind, [f"Z{index}"], [value]))
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, row.widths[0]])],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, [None, row.widths[-1]])],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda X: session.run(None, {"X": X})[0]


PEERS: dict[str, Callable[[PredictRow], Callable[[Any], Any]]] = {
    "bpfast": bpfast,
    "onnxruntime": onnxruntime,
}


def calls_of(row: PredictRow) -> dict[str, Callable[[Any], Any]]:
    """The installed peers, after checking that they agree."""
    X, found = row.data(), {}
    for name, make in PEERS.items():
        try:
            found[name] = make(row)
        except ImportError:
            continue
        error = np.abs(found[name](X) - found["bpfast"](X)).max()
        if error > 1e-5:
            raise SystemExit(f"{name} differs for {row.title} by {error:g}")
    return found


def measure(row: PredictRow, threads: list[int], rounds: int, seconds: float) -> dict[Any, Figures]:
    """Measure a shape; return the figures by peer and number of threads."""
    X, calls = row.data(), calls_of(row)
    figures: dict[Any, Figures] = {(peer, n): Figures() for peer in calls for n in threads}
    for _ in range(rounds):
        for peer, n in figures:
            gc.collect()
            taken = run_slice(calls[peer], X, calls[peer](X).tobytes(), n, seconds)
            if taken.wrong:
                raise SystemExit(f"{row.title}: {peer} gave a wrong result in {taken.wrong[0]}")
            figures[peer, n].add(taken)
    return figures


def table(row: PredictRow, figures: dict[Any, Figures]) -> list[dict[str, Any]]:
    """One record per line of the table."""
    records = []
    for (peer, n), found in figures.items():
        first = next(f for (other, _), f in figures.items() if other == peer).rates
        ratios = [a / b for a, b in zip(found.rates, first, strict=True)]
        rate = float(np.median(found.rates))
        records.append(
            {
                "shape": row.title,
                "multiply_adds": row.batch * sum(a * b for a, b in pairwise(row.widths)),
                "peer": peer,
                "threads": n,
                "calls": rate,
                "rows": rate * row.batch,
                "ratio": float(np.median(ratios)),
                "cpus": float(np.median(found.cpus)),
                "p50": 1e6 * float(np.median(found.p50)),
                "p99": 1e6 * float(np.median(found.p99)),
            }
        )
    return records


def main() -> None:
    """Measure the shapes and print the table."""
    parser = argparse.ArgumentParser(description="Throughput of a frozen network that is shared by threads.")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a slice (default: 1)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds (default: 5)")
    parser.add_argument("--threads", default="1,2,4,16", help="numbers of threads (default: 1,2,4,16)")
    parser.add_argument("--shapes", default=",".join(row.name for row in SHAPES), help="names (default: all)")
    parser.add_argument("--json", help="write the records to this file, too")
    options = parser.parse_args()
    chosen = options.shapes.split(",")
    unknown = set(chosen) - {row.name for row in SHAPES}
    if unknown:
        first, last = SHAPES[0].name, SHAPES[-1].name
        parser.error(f"--shapes: {', '.join(sorted(unknown))} unknown; expected {first} to {last}")
    threads = [int(n) for n in options.threads.split(",")]
    if min(threads) < 1 or options.rounds < 1:
        parser.error("--threads and --rounds must be at least 1")
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    print(f"{os.cpu_count()} CPUs, load {load:.2f} at the start; latencies in µs; ", end="")
    print(f"× is relative to {threads[0]} thread{'' if threads[0] == 1 else 's'}\n")
    print("| shape | peer | threads | calls/s | rows/s | × | CPUs | p50 | p99 |")
    print("|---|---|--:|--:|--:|--:|--:|--:|--:|")
    records = []
    for row in (row for row in SHAPES if row.name in chosen):
        for r in table(row, measure(row, threads, options.rounds, options.seconds)):
            records.append(r)
            print(
                f"| {r['shape']} | {r['peer']} | {r['threads']} | {r['calls']:,.0f} | {r['rows']:,.0f} "
                f"| {r['ratio']:.2f} | {r['cpus']:.2f} | {r['p50']:.1f} | {r['p99']:.1f} |",
                flush=True,
            )
    if options.json:
        with open(options.json, "w") as file:
            json.dump(records, file, indent=1)


if __name__ == "__main__":
    main()
