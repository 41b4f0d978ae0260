"""bpfast and scikit-learn on the same work, in turn, in one process: medians and their ratio.

python benchmarks/compare_sklearn.py [--rows T2,T5] [--rounds 9]

One thread each; scikit-learn's BLAS is held to one by threadpoolctl. An epoch of either is one call
of its `fit`, checks of the data included, over the batches; the figure is the epoch's time a batch.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings

from rows import ROWS, Row
from sklearn.neural_network import MLPClassifier, MLPRegressor
from threadpoolctl import threadpool_limits

import bpfast as bp


def peer(row: Row):
    """scikit-learn's network of a row."""
    kind = MLPClassifier if row.loss == "cross_entropy" else MLPRegressor
    adam = isinstance(row.optimizer, bp.Adam)
    return kind(
        hidden_layer_sizes=row.widths[1:-1],
        activation={"relu": "relu", "sigmoid": "logistic"}[row.activation],
        solver="adam" if adam else "sgd",
        momentum=0.0 if adam else row.optimizer.momentum,
        nesterovs_momentum=False,
        alpha=0.0,
        batch_size=row.batch,
        max_iter=1,
        warm_start=True,
    )


def compare(row: Row, rounds: int) -> tuple[float, float]:
    """Median seconds a step: bpfast, scikit-learn."""
    batches = max(4, min(100, int(1e9 / row.multiply_adds)))
    X, y = row.data(batches)
    net, model = row.network(threads=1), peer(row)
    options = {"epochs": 1, "batch_size": row.batch, "optimizer": row.optimizer}
    runs = (
        lambda: net.fit(X, y, **options),
        lambda: model.fit(X, y.ravel() if y.ndim == 2 and y.shape[1] == 1 else y),
    )
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds + 1):
        for run, into in zip(runs, seconds, strict=True):
            start = time.perf_counter()
            run()
            into.append((time.perf_counter() - start) / batches)
    return statistics.median(seconds[0][1:]), statistics.median(seconds[1][1:])


def main() -> None:
    """Print a line a row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default="T1,T2,T3,T4,T5,T6")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    print(f"isa {bp.info()['isa']}, 1 thread, float32, median of {options.rounds}, µs a step")
    print("| row | network | bpfast | scikit-learn | times faster |\n|---|---|---|---|---|")
    with threadpool_limits(1):
        for row in (row for row in ROWS if row.name in options.rows.split(",")):
            ours, theirs = (1e6 * s for s in compare(row, options.rounds))
            name = "-".join(map(str, row.widths)) + f", b{row.batch}, {row.optimizer.name}"
            print(f"| {row.name} | {name} | {ours:.0f} | {theirs:.0f} | {theirs / ours:.1f} |", flush=True)


if __name__ == "__main__":
    main()
