"""A few thousand mutated files of fuzz_files.py, always the same ones."""

import importlib.util
import random
from pathlib import Path

import pytest

FILES = 3000


@pytest.fixture(scope="module")
def fuzz():
    path = Path(__file__).parent / "fuzz_files.py"
    spec = importlib.util.spec_from_file_location("fuzz_files", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_mutated_files_are_refused_or_intact(fuzz, tmp_path):
    oracle = fuzz.Oracle(tmp_path)
    for index in range(FILES):
        oracle.one(random.Random(index), index)
    assert not oracle.findings
    outcomes = {outcome: 0 for _, outcome in oracle.counts}
    for (_, outcome), number in oracle.counts.items():
        outcomes[outcome] += number
    # Files with a new checksum reach the checks after it.
    assert outcomes["refused"] > FILES // 2
    assert outcomes["loaded"] > FILES // 50
    assert outcomes["unchanged"] > FILES // 50
    assert oracle.traced >= FILES // 10
    assert {what for what, _ in oracle.counts} >= {mutator.__name__ for mutator in fuzz.MUTATORS}


def test_the_oracle_detects_faults(fuzz, tmp_path, monkeypatch):
    """Without the checksum, or with another error, it reports findings."""
    oracle = fuzz.Oracle(tmp_path)
    data = oracle.seeds["dense float32"]
    changed = data[:-1] + bytes([data[-1] ^ 1])
    assert oracle.judge("flips", "dense float32", changed) == "refused"
    with monkeypatch.context() as patch:
        patch.setattr(fuzz.model_file.Stored, "verify", lambda file: None)
        assert oracle.judge("flips", "dense float32", changed) == "finding"
    for error in (
        TypeError("no"),
        ValueError("two\nlines"),
        ValueError(f"{oracle.path} {'x' * 2000}"),
        ValueError("what"),
    ):

        def fails(*args, error=error, **kwargs):
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(fuzz.bp, "load", fails)
            assert oracle.judge("flips", "dense float32", changed) == "finding"
    assert oracle.judge("flips", "dense float32", data, traced=True) == "unchanged"
    assert sum(oracle.findings.values()) == 5
