"""Files larger than memory: `bpfast train` streamed and in memory, and `bpfast predict`.

python benchmarks/large.py train   [--rows 1000000] [--epochs 2] [--rounds 2] [--memory 256] [--least 0.9]
python benchmarks/large.py predict [--megabytes 2000]
                                   [--columns N] [--most 600] [--folder DIR] [--threads N]

train: writes a file of random float32 rows with ten classes to a temporary folder and runs commands on it,
interleaved: streamed (by default 4.1 GB with --memory 256), and in memory (which needs two copies of the
rows). It prints the samples per second of the training epochs, the peak of the resident memory including
mapped pages, and the seconds of the passes before. Exit status 1 if the streamed peak exceeds --most (MB),
or the median ratio of the speeds is below --least.

predict: predicts a CSV and an NPY file of a given size with a small regression and prints the megabytes and
rows per second, and the peak. Exit status 1 if the peak exceeds --most.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

CLASSES = 10
BLOCK = 4096
#: --memory in MB of the runs in memory: more than any file.
EVERYTHING = 10**9


@dataclass(frozen=True)
class Figures:
    """Figures of one command."""

    speed: float
    peak: float
    seconds: float
    passes: str
    accuracy: str

    def line(self, name: str) -> str:
        """A line of the table."""
        return (
            f"{name:<10} {self.speed:>11,.0f} {self.peak:>9,.0f} {self.seconds:>9.1f}  "
            f"{self.accuracy:<8} {self.passes}"
        )


def make(folder: Path, rows: int, columns: int) -> None:
    """Write X.npy and y.npy; the class is the largest of ten products with the row."""
    random = np.random.default_rng(0)
    W = random.standard_normal((columns, CLASSES), dtype=np.float32)
    y = np.empty(rows, np.int64)
    header = {"descr": "<f4", "fortran_order": False, "shape": (rows, columns)}
    with open(folder / "X.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, rows, BLOCK):
            X = random.standard_normal((min(BLOCK, rows - start), columns), dtype=np.float32)
            y[start : start + len(X)] = (X @ W).argmax(axis=1)
            file.write(X.data)
    np.save(folder / "y.npy", y)


def command(folder: Path, words: list[str]) -> tuple[str, float, float]:
    """Run bpfast in its own process; return its output, its seconds and its peak in MB."""
    start = time.perf_counter()
    with open(folder / "said", "w+b") as said:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "bpfast", *words], cwd=folder, stdout=said, stderr=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        text = said.read().decode()
    if process.returncode:
        raise SystemExit(f"bpfast {' '.join(words)} failed with exit status {process.returncode}: {text}")
    # Linux counts in KiB, macOS in bytes.
    return text, seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def train(folder: Path, memory: float, options: argparse.Namespace) -> Figures:
    """Run `bpfast train` in its own process."""
    words = ["train", "X.npy", "--labels", "y.npy", "--memory", str(memory), "--hidden", str(options.hidden)]
    words += ["--batch-size", str(options.batch_size), "--epochs", str(options.epochs), "--no-plot"]
    if options.threads:
        words += ["--threads", str(options.threads)]
    text, seconds, peak = command(folder, words)
    speed = re.search(r"speed +([\d,]+) samples", text)
    accuracy = re.search(r"test accuracy ([\d.]+)", text)
    passes = re.search(r"streamed +(.*?): ", text)
    assert speed
    assert accuracy
    return Figures(
        float(speed[1].replace(",", "")),
        peak,
        seconds,
        passes[1] if passes else "",
        accuracy[1],
    )


def available() -> float:
    """Available memory in MB."""
    found = re.search(r"MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text())
    assert found
    return int(found[1]) * 1024 / 1e6


def training(options: argparse.Namespace) -> int:
    """Train on a file, streamed and in memory, interleaved."""
    size = options.rows * options.columns * 4 / 1e6
    needed = 2.1 * size + 500
    if os.path.exists("/proc/meminfo") and available() < needed:
        raise SystemExit(f"{needed:,.0f} MB needed, but {available():,.0f} available; use fewer --rows")
    ratios, peaks = [], []
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        make(folder, options.rows, options.columns)
        widths = f"{options.columns}-{options.hidden}-{CLASSES}"
        print(f"{options.rows:,} rows, {size:,.0f} MB; {widths}, batches of {options.batch_size}")
        print(f"{'':<10} {'samples/s':>11} {'peak MB':>9} {'seconds':>9}  accuracy passes", flush=True)
        for _ in range(options.rounds):
            streamed = train(folder, options.memory, options)
            print(streamed.line("streamed"), flush=True)
            held = train(folder, EVERYTHING, options)
            print(held.line("in memory"), flush=True)
            ratios.append(streamed.speed / held.speed)
            peaks.append(streamed.peak)
    ratio, peak = statistics.median(ratios), max(peaks)
    print(f"streamed: {ratio:.3f} of the speed in memory (at least {options.least:g})")
    print(f"peak {peak:,.0f} MB (at most {options.most:g})")
    return 0 if ratio >= options.least and peak <= options.most else 1


def predicting(options: argparse.Namespace) -> int:
    """Predict a CSV file and an NPY file."""
    columns, peaks = options.columns, []
    random = np.random.default_rng(0)
    block = random.standard_normal((BLOCK, columns), dtype=np.float32)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        names = ",".join(f"c{index}" for index in range(columns))
        lines = "".join(",".join(f"{value:.6f}" for value in row) + "\n" for row in block.tolist())
        targets = block.sum(axis=1)
        np.savez(folder / "few.npz", X=block, y=targets)
        with open(folder / "few.csv", "w") as file:
            file.write(f"{names},y\n")
            file.writelines(f"{a},{b}\n" for a, b in zip(lines.splitlines(), targets, strict=True))
        # The same rows are repeated: the cost does not depend on their values.
        with open(folder / "many.csv", "w") as file:
            file.write(f"{names}\n")
            while file.tell() < 1e6 * options.megabytes:
                file.write(lines)
        repeats = -(-int(1e6 * options.megabytes) // block.nbytes)
        with open(folder / "many.npy", "wb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": (repeats * BLOCK, columns)}
            np.lib.format.write_array_header_1_0(file, header)
            for _ in range(repeats):
                file.write(block.data)
        print(f"{columns} columns; one output")
        print(
            f"{'':<10} {'MB':>7} {'rows':>11} {'seconds':>8} {'MB/s':>6} {'rows/s':>9} {'peak MB':>8}",
            flush=True,
        )
        for few, many in (("few.csv", "many.csv"), ("few.npz", "many.npy")):
            words = ["--target", "y"] if few == "few.csv" else []
            command(folder, ["train", few, *words, "--epochs", "1", "--no-plot"])
            threads = ["--threads", str(options.threads)] if options.threads else []
            text, seconds, peak = command(folder, ["predict", "model.safetensors", many, *threads])
            found = re.search(r"([\d,]+) predictions", text)
            assert found
            rows, size = int(found[1].replace(",", "")), (folder / many).stat().st_size / 1e6
            print(
                f"{many:<10} {size:>7,.0f} {rows:>11,} {seconds:>8.1f} {size / seconds:>6.0f} "
                f"{rows / seconds:>9,.0f} {peak:>8,.0f}",
                flush=True,
            )
            peaks.append(peak)
    print(f"peak {max(peaks):,.0f} MB (at most {options.most:g})")
    return 0 if max(peaks) <= options.most else 1


def main() -> int:
    """Parse the command line and run one of the two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    subcommands = parser.add_subparsers(required=True, metavar="train|predict")
    one, other = subcommands.add_parser("train"), subcommands.add_parser("predict")
    one.set_defaults(run=training)
    one.add_argument("--rows", type=int, default=1_000_000)
    one.add_argument("--hidden", type=int, default=256)
    one.add_argument("--batch-size", type=int, default=128)
    one.add_argument("--epochs", type=int, default=2)
    one.add_argument("--rounds", type=int, default=2)
    one.add_argument("--memory", type=float, default=256, help="MB for the streamed runs")
    one.add_argument("--least", type=float, default=0.9, help="smallest ratio of the speeds")
    other.set_defaults(run=predicting)
    other.add_argument("--megabytes", type=float, default=2000)
    for command_parser, columns in ((one, 1024), (other, 64)):
        command_parser.add_argument("--columns", type=int, default=columns)
        command_parser.add_argument("--threads", type=int, default=0)
        command_parser.add_argument("--most", type=float, default=600, help="largest peak in MB, streamed")
        command_parser.add_argument("--folder", help="parent of the temporary folder")
    options = parser.parse_args()
    status: int = options.run(options)
    return status


if __name__ == "__main__":
    sys.exit(main())
