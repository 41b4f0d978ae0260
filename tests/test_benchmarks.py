"""The benchmarks run and their peers do the same work; the figures themselves are not tested."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from rows import BY_NAME, ROWS

FOLDER = Path(__file__).parents[1] / "benchmarks"


def compare(tmp_path, *words):
    command = [sys.executable, str(FOLDER / "compare.py"), *words]
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)


def test_a_comparison_of_bpfast_and_numpy(tmp_path):
    words = ["--rows", "T1,P1,K1,cold", "--peers", "bpfast,numpy", "--threads", "1", "--rounds", "1"]
    done = compare(tmp_path, *words, "--json", "a.json", "--markdown", "a.md")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "a.json").read_text())
    timed = {(r["row"], r["peer"]) for r in result["records"] if r["kind"] in ("train", "predict", "kernel")}
    assert timed == {(row, peer) for row in ("T1", "P1", "K1") for peer in ("bpfast", "numpy")}
    assert {record["peer"] for record in result["cold"]} == {"bpfast", "numpy"}
    assert not [note for note in result["left_out"] if "SAME WORK" in note]
    assert all(0 < record["minimum"] <= record["median"] for record in result["records"])
    assert (tmp_path / "a.md").read_text().strip() == done.stdout.strip()
    assert "| T1 | 13-32-32-1 b32 adam |" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rows", "T99"], "T99 unknown; expected T1"),
        (["--peers", "abacus"], "abacus unknown; expected some of bpfast"),
        (["--threads", "two"], "'two'; expected counts"),
        (["--rounds", "0"], "must be at least 1"),
    ],
)
def test_unknown_options_are_rejected(tmp_path, words, message):
    done = compare(tmp_path, *words)
    assert done.returncode != 0
    assert message in done.stderr


def test_the_work_of_a_row_is_counted():
    row = BY_NAME["T1"]  # 13-32-32-1: three products of each layer but the first delta
    assert row.multiply_adds == 32 * (3 * (13 * 32 + 32 * 32 + 32) - 13 * 32)
    for row in ROWS[:6]:
        X, y = row.data()
        assert len(X) == len(y) == row.batch * row.batches
        assert [W.shape for W, _ in row.weights()] == list(zip(row.widths, row.widths[1:], strict=False))
        assert sum(W.size + b.size for W, b in row.weights()) == row.n_parameters


def test_a_frozen_network_is_served(tmp_path):
    words = ["--seconds", "0.05", "--rounds", "1", "--threads", "1,3", "--shapes", "S2", "--json", "s.json"]
    command = [sys.executable, str(FOLDER / "serving.py"), *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    records = [r for r in json.loads((tmp_path / "s.json").read_text()) if r["peer"] == "bpfast"]
    assert [r["threads"] for r in records] == [1, 3]
    assert all(r["calls"] > 0 and r["rows"] == 16 * r["calls"] for r in records)
    assert all(0 < r["p50"] <= r["p99"] for r in records)
    assert "| 64-100-10 16 rows | bpfast | 3 |" in done.stdout
