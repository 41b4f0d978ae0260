"""Cost of the layers of deep networks, compared with a plain network of the same widths and eager PyTorch.

    python benchmarks/compare_layers.py [--width 256] [--depth 4] [--batch 128] [--threads 1,2] [--rounds 9]

Every network has `depth` blocks of `width` units and an output layer, and is trained with Adam on the
same rows. The epochs of all networks, of bpfast and PyTorch, are interleaved (A B C A B C …) with pauses,
so that threads which spin after their work go to sleep. The table has the median µs of a step, the speed
relative to bpfast's plain network, and PyTorch's time relative to bpfast's.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import bpfast as bp

STEPS = 60
CLASSES = 10
PAUSE = 0.3
RATE = 0.1  # dropout

#: name → block of bpfast with a given number of units.
BLOCKS: dict[str, Callable[[int], list[bp.layers.Layer]]] = {
    "plain": lambda width: [bp.Dense(width, "relu")],
    "BatchNorm + Dropout + Residual": lambda width: [
        bp.Residual(bp.Dense(width), bp.BatchNorm(), bp.Activation("relu"), bp.Dropout(RATE))
    ],
    "BatchNorm": lambda width: [bp.Dense(width), bp.BatchNorm(), bp.Activation("relu")],
    "BatchRenorm": lambda width: [bp.Dense(width), bp.BatchRenorm(), bp.Activation("relu")],
    "LayerNorm": lambda width: [bp.Dense(width), bp.LayerNorm(), bp.Activation("relu")],
    "Dropout": lambda width: [bp.Dense(width, "relu"), bp.Dropout(RATE)],
    "Residual": lambda width: [bp.Residual(bp.Dense(width, "relu"))],
    "PReLU": lambda width: [bp.Dense(width), bp.PReLU()],
    "RReLU": lambda width: [bp.Dense(width), bp.RReLU()],
    "Maxout of 2": lambda width: [bp.Maxout(width, 2)],
    "Auxiliary": lambda width: [bp.Dense(width, "relu"), bp.Auxiliary(CLASSES)],
}


def torch_blocks() -> dict[str, Callable[[int], list[Any]]]:
    """The blocks that PyTorch has, too; empty if it is not installed."""
    try:
        import torch
    except ModuleNotFoundError:
        return {}
    nn = torch.nn

    class Skip(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self, *layers: Any) -> None:
            super().__init__()
            self.layers = nn.Sequential(*layers)

        def forward(self, x: Any) -> Any:
            return x + self.layers(x)

    return {
        "plain": lambda n: [nn.Linear(n, n), nn.ReLU()],
        "BatchNorm + Dropout + Residual": lambda n: [
            Skip(nn.Linear(n, n), nn.BatchNorm1d(n), nn.ReLU(), nn.Dropout(RATE))
        ],
        "BatchNorm": lambda n: [nn.Linear(n, n), nn.BatchNorm1d(n), nn.ReLU()],
        "LayerNorm": lambda n: [nn.Linear(n, n), nn.LayerNorm(n), nn.ReLU()],
        "Dropout": lambda n: [nn.Linear(n, n), nn.ReLU(), nn.Dropout(RATE)],
        "Residual": lambda n: [Skip(nn.Linear(n, n), nn.ReLU())],
        "PReLU": lambda n: [nn.Linear(n, n), nn.PReLU(n)],
        "RReLU": lambda n: [nn.Linear(n, n), nn.RReLU()],
    }


def bpfast_epoch(name: str, options: argparse.Namespace, threads: int, X: Any, y: Any) -> Callable[[], None]:
    """Return a function that trains bpfast's network for an epoch."""
    blocks = [layer for _ in range(options.depth) for layer in BLOCKS[name](options.width)]
    net = bp.Network(
        [*blocks, bp.Dense(CLASSES)], n_inputs=options.width, loss="cross_entropy", threads=threads
    )
    return lambda: net.fit(X, y, epochs=1, batch_size=options.batch, shuffle=False) and None


def torch_epoch(blocks: Any, options: argparse.Namespace, threads: int, X: Any, y: Any) -> Callable[[], None]:
    """Return a function that trains PyTorch's network for an epoch."""
    import torch

    layers = [layer for _ in range(options.depth) for layer in blocks(options.width)]
    net = torch.nn.Sequential(*layers, torch.nn.Linear(options.width, CLASSES))
    rule = torch.optim.Adam(net.parameters())
    loss, (x, target) = torch.nn.CrossEntropyLoss(), (torch.from_numpy(a) for a in (X, y))

    def epoch() -> None:
        torch.set_num_threads(threads)
        for first in range(0, len(x), options.batch):
            rule.zero_grad()
            loss(net(x[first : first + options.batch]), target[first : first + options.batch]).backward()
            rule.step()

    return epoch


def compare(options: argparse.Namespace, threads: int) -> None:
    """Print one table."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(STEPS * options.batch, options.width)).astype(np.float32)
    y = rng.integers(0, CLASSES, len(X))
    runs = {(name, "bpfast"): bpfast_epoch(name, options, threads, X, y) for name in BLOCKS}
    for name, blocks in torch_blocks().items():
        runs[name, "torch"] = torch_epoch(blocks, options, threads, X, y)
    times: dict[tuple[str, str], list[float]] = {run: [] for run in runs}
    for lap in range(options.rounds + 1):
        for run, epoch in runs.items():
            time.sleep(PAUSE)
            start = time.perf_counter()
            epoch()
            if lap:
                times[run].append((time.perf_counter() - start) / STEPS * 1e6)
    median = {run: statistics.median(values) for run, values in times.items()}
    print(f"\n{options.depth} blocks of {options.width}, batch {options.batch}, threads {threads}")
    print("| block | µs per step | speed relative to plain | PyTorch / bpfast |\n|---|--:|--:|--:|")
    for name in BLOCKS:
        ours, theirs = median[name, "bpfast"], median.get((name, "torch"))
        ratio = "-" if theirs is None else f"{theirs / ours:.2f}"
        print(f"| {name} | {ours:.0f} | {median['plain', 'bpfast'] / ours:.2f} | {ratio} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    for threads in map(int, options.threads.split(",")):
        compare(options, threads)


if __name__ == "__main__":
    main()
