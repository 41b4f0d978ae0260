"""bpfast and its peers side by side on the same work: training, prediction, kernels, cold start.

python benchmarks/compare.py [--rows T1,T4,predict] [--peers bpfast,jax] [--threads 1,2] [--rounds 9]
                             [--json FILE] [--markdown FILE]

Every peer runs in its own process. The rounds of the processes are interleaved (A B C A B C …), so that
drift affects all alike, and they sleep in between. In a pass with n threads, all of them are pinned to
the same n cores. All have the same weights, data and order of batches, without shuffling, and a check
(the loss after an epoch, a mean of the result) verifies that they did the same work. A time is the median
over the rounds, per step (per call for predictions); a round repeats it for at least 30 ms. Leave the
machine idle meanwhile. `pip install -r benchmarks/requirements.txt` installs the peers; those that are not
installed are listed as left out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import cold
import report
from peers import METERS, PEERS
from rows import BY_NAME, KERNEL_ROWS, PREDICT_ROWS, ROWS
from worker import Worker, WorkerError, processors

GROUPS = {
    "train": [row.name for row in ROWS],
    "predict": [row.name for row in PREDICT_ROWS],
    "kernels": [row.name for row in KERNEL_ROWS],
    "cold": [],
    "contention": [],
}
IDLE_SECONDS = 0.03
CONTENDED_SECONDS = 0.2  # many time slices of the scheduler
PAUSE = 0.03  # between rounds: threads that spin after their work go to sleep
TOLERANCE = {"train": 1e-2, "predict": 1e-4, "kernel": 1e-4}


def chosen(text: str) -> tuple[list[str], set[str]]:
    """Parse `--rows`: the names of rows, in the order of the tables, and the groups."""
    words = [word for word in text.split(",") if word]
    groups = {word for word in words if word in GROUPS}
    names = {word for word in words if word in BY_NAME}
    if unknown := [word for word in words if word not in groups | names]:
        raise SystemExit(
            f"--rows: {', '.join(unknown)} unknown; expected T1…T{len(ROWS)}, P1…P{len(PREDICT_ROWS)}, "
            f"K1…K{len(KERNEL_ROWS)}, {', '.join(GROUPS)}"
        )
    names |= {name for group in groups for name in GROUPS[group]}
    if "contention" in groups and not names - set(GROUPS["kernels"]):
        names |= set(GROUPS["train"] + GROUPS["predict"])
        groups.add("only contention")
    return [name for name in BY_NAME if name in names], groups


def installed(peers: list[str], left_out: list[str]) -> list[str]:
    """The peers whose packages are installed; the others are added to `left_out`."""
    found = []
    for peer in peers:
        missing = [package for package in PEERS[peer][2] if version(package) is None]
        if missing:
            left_out.append(f"{peer}: not installed ({', '.join(missing)})")
        else:
            found.append(peer)
    return found


def version(package: str) -> str | None:
    """The installed version, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def machine() -> dict[str, Any]:
    """Describe the machine and the packages."""
    import bpfast

    cpuinfo = Path("/proc/cpuinfo")
    names = (
        [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        if (cpuinfo.exists())
        else []
    )
    packages = sorted({package for _, _, needed in PEERS.values() for package in needed})
    return {
        "cpu": names[0].split(":")[1].strip() if names else platform.processor(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": platform.platform(),
        "bpfast": bpfast.info(),
        "versions": {package: version(package) for package in packages},
    }


@contextmanager
def busy(cpus: list[int]) -> Iterator[None]:
    """Keep one core busy with another process, on whichever core the scheduler chooses."""
    code = f"import os\nwhile os.getppid() == {os.getpid()}:\n    for _ in range(10**6): pass"
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        if cpus:
            os.sched_setaffinity(process.pid, cpus)
        yield
    finally:
        process.kill()
        process.wait()


class Pass:
    """All chosen rows with one number of threads, idle or contended.

    Parameters
    ----------
    threads : int
    contended : bool
        Whether another process keeps one of the cores busy; then without kernels and meters.
    rounds : int
    left_out : list of str
        Receives a reason for each peer that does not run a row.
    """

    def __init__(self, threads: int, contended: bool, rounds: int, left_out: list[str]) -> None:
        self.threads = threads
        self.contended = contended
        self.rounds = rounds
        self.left_out = left_out
        self.records: list[dict[str, Any]] = []

    def run(self, names: list[str], peers: list[str]) -> list[dict[str, Any]]:
        """Run every peer and row and return the records. bpfast also runs on one thread, for comparison."""
        counts = [self.threads] if self.threads == 1 else [self.threads, 1]
        entrants = [(peer, self.threads) for peer in peers]
        if "bpfast" in peers and self.threads > 1:
            entrants.append(("bpfast", 1))
        if not self.contended:
            entrants += [(meter, n) for meter in METERS for n in counts]
        cpus = processors(self.threads)
        if 0 < len(cpus) < self.threads:
            self.left_out.append(f"{self.threads} threads shared {len(cpus)} CPU: no speed-up possible")
        with ExitStack() as stack:
            workers = []
            for peer, threads in entrants:
                worker = Worker(peer, threads, cpus)
                stack.callback(worker.close)
                workers.append(worker)
            workers = [worker for worker in workers if self._heard(worker, "", worker.ready)]
            if self.contended:
                stack.enter_context(busy(cpus))
            memory = [worker for worker in workers if worker.peer == "memory"]
            if names:
                self._row(names[0], memory)
            for name in names:
                self._row(name, [worker for worker in workers if worker not in memory])
        return self.records

    def _heard(self, worker: Worker, name: str, ask: Any, **order: Any) -> Any:
        """The reply, or None after noting the reason."""
        try:
            reply = ask(**order)
        except WorkerError as error:
            reply = {"left_out": str(error)}
        if "left_out" not in reply:
            return reply
        where = f" {name}" if name else ""
        note = f"{worker.peer}{where}: {reply['left_out']}"
        if note not in self.left_out and reply["left_out"] not in EXPECTED:
            self.left_out.append(note)
        return None

    def _row(self, name: str, workers: list[Worker]) -> None:
        """Measure one row: build all, run interleaved rounds, drop all."""
        row = BY_NAME[name]
        seconds = CONTENDED_SECONDS if self.contended else IDLE_SECONDS
        figures: dict[Worker, list[float]] = {}
        built = {}
        for worker in workers:
            if reply := self._heard(worker, name, worker.ask, do="build", row=name, seconds=seconds):
                built[worker], figures[worker] = reply, []
        for _ in range(self.rounds):
            for worker in list(figures):
                time.sleep(PAUSE)
                if reply := self._heard(worker, name, worker.ask, do="go"):
                    figures[worker].append(reply["figure"])
                else:
                    del figures[worker]
        for worker, values in figures.items():
            self.records.append(self._record(row, worker, built[worker], values))
            self._heard(worker, name, worker.ask, do="drop")
        self._compare_checks(row)
        if workers and workers[0].peer not in METERS:
            self._say(row)

    def _record(self, row: Any, worker: Worker, built: dict[str, Any], values: list[float]) -> dict[str, Any]:
        meter = worker.peer in METERS
        return {
            "pass": self.threads,
            "contended": self.contended,
            "row": row.name,
            "kind": worker.peer if meter else row.kind,
            "peer": worker.peer,
            "threads": worker.threads,
            "median": statistics.median(values),
            "minimum": min(values),
            "maximum": max(values),
            "figures": values,
            "gflops": None if meter else 2e-9 * row.multiply_adds / statistics.median(values),
            "steps_a_round": built["repeats"] * built["steps"],
            "check": built["check"],
        }

    def _here(self, row: Any) -> list[dict[str, Any]]:
        return [record for record in self.records if record["row"] == row.name and record["kind"] == row.kind]

    def _compare_checks(self, row: Any) -> None:
        checks = [(r["peer"], r["check"]) for r in self._here(row) if r["check"] is not None]
        for peer, check in checks[1:]:
            expected = checks[0][1]
            if not abs(check - expected) <= TOLERANCE[row.kind] * abs(expected):
                note = f"{peer} {row.name}: NOT THE SAME WORK: {check:.6g}; {checks[0][0]} {expected:.6g}"
                self.left_out.append(note)

    def _say(self, row: Any) -> None:
        figures = (f"{r['peer']}@{r['threads']} {report.figure(1e6 * r['median'])}" for r in self._here(row))
        where = "contended" if self.contended else "idle"
        print(f"{self.threads} {where} {row.name}: {', '.join(figures)} µs", file=sys.stderr, flush=True)


#: Reasons that are expected and not listed.
EXPECTED = {"it does not train", "it does not predict", "it has no such kernel"}


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--rows", default=",".join(GROUPS), help=f"names such as T1, P4, K2, or {', '.join(GROUPS)} (all)"
    )
    parser.add_argument("--peers", default=",".join(PEERS), help=f"some of {', '.join(PEERS)} (default: all)")
    parser.add_argument(
        "--threads",
        default="1,2",
        help="numbers of threads (default: 1,2); contention uses the largest",
    )
    parser.add_argument("--rounds", type=int, default=9, help="rounds of every peer (default: 9)")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--markdown", type=Path, help="write the tables to this file, too")
    options = parser.parse_args()
    options.peers = options.peers.split(",")
    if unknown := [peer for peer in options.peers if peer not in PEERS]:
        parser.error(f"--peers: {', '.join(unknown)} unknown; expected some of {', '.join(PEERS)}")
    try:
        options.threads = [int(count) for count in options.threads.split(",")]
    except ValueError:
        parser.error(f"--threads: {options.threads!r}; expected counts such as 1,2")
    if min(options.threads) < 1 or options.rounds < 1:
        parser.error(f"--threads {options.threads} and --rounds {options.rounds} must be at least 1")
    return options


def main() -> None:
    """Run the comparison, print the tables and write the files."""
    options = arguments()
    names, groups = chosen(options.rows)
    result: dict[str, Any] = {
        "machine": machine(),
        "rounds": options.rounds,
        "records": [],
        "cold": [],
        "imports": {},
        "left_out": [],
    }
    peers = installed(options.peers, result["left_out"])
    try:
        if "only contention" not in groups:
            for threads in options.threads if names else []:
                result["records"] += Pass(threads, False, options.rounds, result["left_out"]).run(
                    names, peers
                )
        if "contention" in groups:
            rows = [name for name in names if BY_NAME[name].kind != "kernel"]
            contended = Pass(max(options.threads), True, options.rounds, result["left_out"])
            result["records"] += contended.run(rows, peers)
        if "cold" in groups:
            result["cold"] = cold.starts(peers, options.rounds, result["left_out"])
            result["imports"] = cold.imports(options.rounds)
    finally:
        text = report.markdown(result)
        print(text)
        if options.json:
            options.json.write_text(json.dumps(result | {"summary": report.summary(result)}, indent=1) + "\n")
        if options.markdown:
            options.markdown.write_text(text + "\n")


if __name__ == "__main__":
    main()
