"""Compare the estimators with scikit-learn's: interleaved full fits with the same data and parameters.

    python benchmarks/compare_estimators.py --mnist images.gz labels.gz --housing california-housing.csv

Each library runs in its own process, which is started once, with a given number of threads. A round is
one fit of each; the table has the medians, their ratio and the scores on held-out rows. Rows whose files
are not given are left out.
"""

from __future__ import annotations

import argparse
import gzip
import multiprocessing
import statistics
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Row:
    """One comparison: the name of an estimator, the source of its data, its parameters."""

    name: str
    kind: str
    data: str
    options: dict[str, Any]


ROWS = (
    Row("digits, defaults", "MLPClassifier", "digits", {}),
    Row("breast cancer, defaults", "MLPClassifier", "cancer", {}),
    Row("MNIST (128,), 20 epochs", "MLPClassifier", "mnist", {"hidden_layer_sizes": (128,), "max_iter": 20}),
    Row(
        "MNIST (256, 256), 20 epochs",
        "MLPClassifier",
        "mnist",
        {"hidden_layer_sizes": (256, 256), "max_iter": 20},
    ),
    Row(
        "housing (100, 100), 50 epochs",
        "MLPRegressor",
        "housing",
        {"hidden_layer_sizes": (100, 100), "max_iter": 50},
    ),
)


def load(data: str, files: dict[str, Any], dtype: str) -> tuple[Any, ...]:
    """Load X, X_test, y, y_test of a data set with a dtype."""
    from sklearn.datasets import load_breast_cancer, load_digits
    from sklearn.model_selection import train_test_split
    from sklearn.preprocessing import StandardScaler

    if data == "mnist":
        with gzip.open(files["mnist"][0]) as images, gzip.open(files["mnist"][1]) as labels:
            X = np.frombuffer(images.read(), np.uint8, offset=16).reshape(-1, 784) / 255
            y = np.frombuffer(labels.read(), np.uint8, offset=8).astype(np.int64)
        return X[:8000].astype(dtype), X[8000:].astype(dtype), y[:8000], y[8000:]
    if data == "housing":
        import pandas as pd

        frame = pd.read_csv(files["housing"]).dropna()
        y = frame.pop("median_house_value").to_numpy() / 1e5
        X = pd.get_dummies(frame).to_numpy(np.float64)
    else:
        X, y = (load_digits if data == "digits" else load_breast_cancer)(return_X_y=True)
    X, X_test, y, y_test = train_test_split(X, y, test_size=0.2, random_state=0)
    if data != "digits":
        scaler = StandardScaler().fit(X)
        X, X_test = scaler.transform(X), scaler.transform(X_test)
    target = y.astype(dtype) if data == "housing" else y
    return X.astype(dtype), X_test.astype(dtype), target, y_test


def fit(library: str, row: Row, files: dict[str, Any], dtype: str, threads: int) -> tuple[float, float]:
    """Run one fit; return its seconds and its score on the held-out rows."""
    from threadpoolctl import threadpool_limits

    X, X_test, y, y_test = load(row.data, files, dtype)
    if library == "bpfast":
        from bpfast import sklearn as module

        options = {**row.options, "n_jobs": threads}
    else:
        from sklearn import neural_network as module

        options = row.options
    est = getattr(module, row.kind)(random_state=0, **options)
    # Threads of the other process spin for a while after its work: wait until they sleep.
    time.sleep(0.3)
    with warnings.catch_warnings(), threadpool_limits(threads):
        warnings.simplefilter("ignore")
        begin = time.perf_counter()
        est.fit(X, y)
        seconds = time.perf_counter() - begin
        return seconds, est.score(X_test, y_test)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--mnist", nargs=2, metavar=("IMAGES", "LABELS"), help="IDX files with 10,000 rows")
    parser.add_argument("--housing", metavar="CSV", help="file with the target median_house_value")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "float64"])
    given = parser.parse_args()
    files = {"mnist": given.mnist, "housing": given.housing}
    rows = [row for row in ROWS if files.get(row.data, True)]
    spawn = multiprocessing.get_context("spawn")
    workers = {name: ProcessPoolExecutor(1, spawn) for name in ("bpfast", "scikit-learn")}
    print("| row | dtype | threads | bpfast s | scikit-learn s | scikit-learn / bpfast | scores |")
    print("|---|---|---|---|---|---|---|")
    for dtype in given.dtypes:
        for threads in given.threads:
            ratios = []
            for row in rows:
                seconds: dict[str, list[float]] = {name: [] for name in workers}
                scores: dict[str, float] = {}
                for lap in range(given.rounds + 1):
                    for name, worker in workers.items():
                        took, scores[name] = worker.submit(fit, name, row, files, dtype, threads).result()
                        if lap:  # the first warms up
                            seconds[name].append(took)
                ours, theirs = (statistics.median(seconds[name]) for name in workers)
                ratios.append(theirs / ours)
                shown = " / ".join(f"{scores[name]:.4f}" for name in workers)
                print(
                    f"| {row.name} | {dtype} | {threads} | {ours:.3f} | {theirs:.3f} | {theirs / ours:.1f} "
                    f"| {shown} |",
                    flush=True,
                )
            mean = statistics.geometric_mean(ratios)
            print(f"| geometric mean | {dtype} | {threads} | | | {mean:.2f} | |", flush=True)


if __name__ == "__main__":
    main()
