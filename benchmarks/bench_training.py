"""A training step of each row, native and reference.

`pytest benchmarks/bench_training.py --benchmark-only`
"""

import pytest
from rows import ROWS


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def bench_step(benchmark, row, backend):
    """Time an epoch of a few batches on one thread; the name of the group says how many."""
    batches = max(1, min(50, int(2e8 / row.multiply_adds)))
    X, y = row.data(batches)
    net = row.network(threads=1, backend=backend)
    benchmark.group = f"{row.name}: {batches} steps of {row.title}"
    benchmark.extra_info["gflop"] = 2e-9 * row.multiply_adds * batches
    rounds = 3 if row.multiply_adds > 1e9 else 20
    benchmark.pedantic(
        net.fit,
        (X, y),
        {"epochs": 1, "batch_size": row.batch, "optimizer": row.optimizer},
        rounds=rounds,
        warmup_rounds=1,
    )
