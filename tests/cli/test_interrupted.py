"""`bpfast train` interrupted by Ctrl-C, and resumed from a checkpoint."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bpfast as bp
from bpfast.__main__ import main
from bpfast.cli import train, train_data

pytest.importorskip("sklearn")
pytest.importorskip("pandas")
pytest.importorskip("matplotlib")


def test_interrupted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, score_of: Any
) -> None:
    kept: dict[str, Any] = {}

    class Interrupted(train._Recorder):
        def on_epoch_end(self, network: bp.Network, history: bp.History) -> None:
            super().on_epoch_end(network, history)
            if len(history) == 3:
                kept.update({name: array.copy() for name, array in network.parameters.items()})
                network.parameters["0.W"][...] += 1  # as if the next epoch had begun
                raise KeyboardInterrupt

    monkeypatch.setattr(train, "_Recorder", Interrupted)
    assert main(["train"]) == 130
    out = capsys.readouterr().out
    assert "interrupted; the model has the weights after epoch 3" in out
    assert "wrote" in out
    assert score_of(out) > 0.3
    network = bp.load("model.safetensors")
    for name, array in network.parameters.items():
        np.testing.assert_array_equal(array, kept[name])
    assert Path("curve.png").exists()


def test_interrupted_before_training(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train_data, "_read", interrupt)
    assert main(["train"]) == 130
    assert capsys.readouterr().err == "bpfast: interrupted\n"


def test_ctrl_c() -> None:
    command = [sys.executable, "-u", "-m", "bpfast", "train", "--epochs", "1000000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        seen = b""
        while b"val_loss" not in seen:
            byte = process.stderr.read(1)
            assert byte, seen
            seen += byte
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert b"interrupted; the model has the weights after epoch" in out
    assert b"Traceback" not in err
    assert bp.load("model.safetensors").n_inputs == 64
    assert Path("curve.png").exists()


def test_resuming_from_a_checkpoint(
    capsys: pytest.CaptureFixture[str], write_csv: Any, houses: Any, error_of: Any
) -> None:
    """The same command resumes and gives the same model; a checkpoint of another run is rejected."""
    write_csv("houses.csv", houses())
    command = ["train", "houses.csv", "--target", "price", "--no-plot", "--patience", "9", "--seed", "3"]

    def run(out: str, *more: str) -> str:
        assert main([*command, "--out", out, *more]) == 0
        return capsys.readouterr().out

    run("plain", "--epochs", "6")
    assert "resumed" not in run("kept", "--epochs", "2", "--checkpoint", "run")
    assert "resumed   after epoch 2\n" in run("kept", "--epochs", "6", "--checkpoint", "run")
    assert Path("kept").read_bytes() == Path("plain").read_bytes()
    printed = run("kept", "--epochs", "6", "--checkpoint", "run")
    assert "resumed   after epoch 6 (already complete)\n" in printed
    assert Path("kept").read_bytes() == Path("plain").read_bytes()
    printed = error_of(*command, "--batch-size", "8", "--epochs", "6", "--checkpoint", "run")
    assert "had batch_size 32; this fit has batch_size 8; pass another --checkpoint file" in printed
    printed = error_of(*command, "--hidden", "9", "--epochs", "6", "--checkpoint", "run")
    assert "error: the network in 'run' has layers" in printed
    assert "; pass another --checkpoint file\n" in printed
    assert "is given twice" in error_of(*command, "--out", "kept", "--checkpoint", "kept")


def test_ctrl_c_after_resuming_keeps_complete_epochs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, write_csv: Any, houses: Any
) -> None:
    """Interrupted in the first epoch after resuming, the model is that of the last complete epoch."""
    write_csv("houses.csv", houses())
    command = ["train", "houses.csv", "--target", "price", "--no-plot", "--out", "m", "--checkpoint", "run"]
    assert main([*command, "--epochs", "2"]) == 0

    def half(network: bp.Network, *rest: Any) -> None:
        network.parameters["0.W"][...] = 7
        raise KeyboardInterrupt

    monkeypatch.setattr("bpfast.training.fit.run_epoch", half)
    assert main([*command, "--epochs", "5"]) == 130
    assert "interrupted; the model has the weights after epoch 2" in capsys.readouterr().out
    assert (bp.load("m")._state.flat == bp.load("run")._state.flat).all()


def test_a_checkpoint_that_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, write_csv: Any, houses: Any, error_of: Any
) -> None:
    write_csv("houses.csv", houses())

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("bpfast.storage.model_file.write_atomically", full)
    command = ["train", "houses.csv", "--target", "price", "--no-plot", "--checkpoint", "run", "--quiet"]
    assert "cannot write 'run': No space left on device" in error_of(*command)
