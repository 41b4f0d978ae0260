"""A process that runs the rows of one peer on request, and the parent's end of the pipe.

JSON lines. To the worker: `{"do": "build", "row": …, "seconds": …}`, `{"do": "go"}`, `{"do": "drop"}`.
From it: `{"ready": true}`, `{"check": …, "repeats": …}`, `{"figure": …}`, or `{"left_out": "why"}`.
A worker sleeps between requests.
"""

from __future__ import annotations

import gc
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

PATIENCE = 900.0  # largest number of seconds for a reply: a compilation, or a long row under contention


class WorkerError(Exception):
    """A worker ended or did not reply; the text has its name and its last output."""


def environment(threads: int) -> dict[str, str]:
    """Environment variables that limit the threads of every library; must be set before its import."""
    count = str(threads)
    names = ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "VECLIB_MAXIMUM", "BPFAST")
    return {
        **os.environ,
        **{f"{name}_NUM_THREADS": count for name in names},
        "XLA_FLAGS": f"--xla_cpu_multi_thread_eigen={'true' if threads > 1 else 'false'}",
        "JAX_PLATFORMS": "cpu",
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
    }


def processors(count: int) -> list[int]:
    """A number of the CPUs that this process may use, on different cores if possible.

    All workers of a pass are pinned to the same CPUs: XLA has no other reliable limit, and the cores of a
    shared machine differ. Empty if the system has no affinity.
    """
    if not hasattr(os, "sched_getaffinity"):
        return []
    cores: dict[str, int] = {}
    allowed = sorted(os.sched_getaffinity(0), reverse=True)
    for cpu in allowed:
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        cores.setdefault(siblings.read_text() if siblings.exists() else str(cpu), cpu)
    chosen = list(cores.values())
    chosen += [cpu for cpu in allowed if cpu not in chosen]
    return chosen[:count]


class Worker:
    """The parent's end of the pipe to a worker.

    Parameters
    ----------
    peer : str
        A name in `peers.PEERS` or `peers.METERS`.
    threads : int
    cpus : list of int
        CPUs that the process is pinned to; empty for no limit.
    """

    def __init__(self, peer: str, threads: int, cpus: Iterable[int] = ()) -> None:
        self.peer = peer
        self.threads = threads
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `close`)
        self._buffer = b""
        command = [sys.executable, __file__, peer, str(threads), ",".join(map(str, cpus))]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment(threads),
        )

    @property
    def name(self) -> str:
        """Peer and threads."""
        return f"{self.peer}@{self.threads}"

    def ready(self) -> dict[str, Any]:
        """Wait until the packages of the peer are imported."""
        return self._reply()

    def ask(self, **order: Any) -> dict[str, Any]:
        """Send an order and wait for the reply."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise WorkerError(self._obituary()) from None
        return self._reply()

    def _reply(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        end = time.monotonic() + PATIENCE
        while b"\n" not in self._buffer:
            if not select.select([self._process.stdout], [], [], max(0.0, end - time.monotonic()))[0]:
                raise WorkerError(f"{self.name} did not reply within {PATIENCE:.0f} s")
            read = os.read(self._process.stdout.fileno(), 1 << 16)
            if not read:
                raise WorkerError(self._obituary())
            self._buffer += read
        line, self._buffer = self._buffer.split(b"\n", 1)
        reply: dict[str, Any] = json.loads(line)
        return reply

    def _obituary(self) -> str:
        self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return f"{self.name} ended with status {self._process.returncode}: {' | '.join(lines[-3:])}"

    def close(self) -> None:
        """Kill the process."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()


def serve(peer: Any, orders: Iterable[str], answer: Any) -> None:
    """Execute the orders, one per line, until the input ends."""
    from rows import BY_NAME
    from work import LeftOutError

    work = None
    for line in orders:
        order = json.loads(line)
        if order["do"] == "build":
            try:
                work = peer.work(BY_NAME[order["row"]])
                check = work.prepare(order["seconds"])
                answer(check=check, repeats=work.repeats, steps=work.steps)
            except LeftOutError as reason:
                work = None
                answer(left_out=str(reason))
            gc.collect()
        elif order["do"] == "go":
            answer(figure=work.measure())
        elif order["do"] == "drop":
            work = None
            gc.collect()
            answer(dropped=True)
        else:
            raise ValueError(f"do must be build, go or drop; got {order['do']!r}")


def main(name: str, threads: int, cpus: list[int]) -> None:
    """Run a worker. Output of libraries goes to stderr: stdout is only for replies."""
    if cpus:
        os.sched_setaffinity(0, cpus)
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**message: Any) -> None:
        replies.write(json.dumps(message) + "\n")
        replies.flush()

    from peers import make
    from work import LeftOutError

    try:
        peer = make(name, threads)
    except (LeftOutError, ImportError) as reason:
        answer(left_out=str(reason))
        return
    answer(ready=True)
    serve(peer, sys.stdin, answer)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), [int(cpu) for cpu in sys.argv[3].split(",") if cpu])
