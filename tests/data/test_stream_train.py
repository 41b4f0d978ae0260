"""`bpfast train` on files that are larger than --memory."""

from __future__ import annotations

import gzip
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bpfast as bp
from bpfast.__main__ import main
from bpfast.cli import console
from bpfast.data import fit_stream, streams

pytest.importorskip("pandas")


@pytest.mark.parametrize("target", ["price", "town"])
def test_training_on_a_csv_in_chunks(
    small_chunks: None, target: str, write_csv: Any, read_csv: Any, houses: Any, run: Any, score_of: Any
) -> None:
    write_csv("houses.csv", houses())
    before = sorted(os.listdir())
    printed, tested = [], []
    for memory in ("256", "0"):
        out = run(
            *("train", "houses.csv", "--target", target, "--epochs", "40", "--learning-rate", "0.01"),
            *("--memory", memory, "--predictions", "test.csv", "--plot", f"curve{memory}.png"),
            *("--out", f"model{memory}"),
        )
        printed.append(out)
        tested.append(read_csv("test.csv"))
    assert abs(score_of(printed[0]) - score_of(printed[1])) < 0.05
    assert [row[0] for row in tested[0]] == [row[0] for row in tested[1]], "the same rows are held out"
    margins = ("task", "data", "split", "imputed", "network", "note")
    lines_of = [[line for line in out.splitlines() if line.startswith(margins)] for out in printed]
    # The rows are shuffled differently, so the best epoch may differ.
    lines_of = [[line for line in lines if "the held-out loss was lowest" not in line] for lines in lines_of]
    assert lines_of[0] == lines_of[1]
    assert "streamed" in printed[1]
    assert "streamed" not in printed[0]
    made = ["curve256.png", "curve0.png", "model256", "model0", "test.csv"]
    assert sorted(os.listdir()) == sorted([*before, *made]), "no temporary file is left"
    network = bp.load("model0")
    rows = houses()
    held = [rows[0], *[rows[1 + int(row[0])] for row in tested[1][1:]]]
    write_csv("held.csv", held)
    run("predict", "model0", "held.csv", "--out", "again.csv")
    assert [row[1:] for row in tested[1]] == read_csv("again.csv")
    assert network.epochs == 40


def test_training_with_chunks_without_targets(
    small_chunks: None, write_csv: Any, run: Any, score_of: Any
) -> None:
    rows = [[f"t{i % 40}", i % 7, "ab"[i % 2] if i < 250 else ""] for i in range(400)]
    write_csv("a.csv", [["c", "x", "y"], *rows])
    words = ("train", "a.csv", "--target", "y", "--no-plot", "--epochs", "1", "--memory")
    assert score_of(run(*words, "256")) == score_of(run(*words, "0"))


def test_training_on_arrays_in_chunks(
    small_chunks: None, read_csv: Any, blobs: Any, idx_bytes: Any, run: Any, score_of: Any
) -> None:
    X, y = blobs(600)
    np.save("X.npy", X)
    np.save("y.npy", y)
    np.savez_compressed("a.npz", X=X, y=np.array(["a", "b", "c"])[y])
    Path("images").write_bytes(gzip.compress(idx_bytes(np.clip(X * 10 + 128, 0, 255))))
    Path("labels").write_bytes(idx_bytes(y))
    for words in (["X.npy", "--labels", "y.npy"], ["a.npz"], ["images", "--labels", "labels"]):
        figures = []
        for memory in ("256", "0.001"):
            out = run("train", *words, "--epochs", "20", "--no-plot", "--memory", memory)
            figures.append(score_of(out))
            run("predict", "model.safetensors", words[0], "--quiet")
            assert len(read_csv("predictions.csv")) == 601
        assert min(figures) > 0.97


def test_streamed_training_is_deterministic(
    monkeypatch: pytest.MonkeyPatch, write_csv: Any, houses: Any, run: Any
) -> None:
    write_csv("houses.csv", houses())
    models = []
    for chunk in (2**20, 2**20):
        monkeypatch.setattr(streams, "CHUNK", chunk)
        words = ["train", "houses.csv", "--target", "price", "--epochs", "2", "--no-plot", "--memory", "0"]
        run(*words)
        models.append(Path("model.safetensors").read_bytes())
    assert models[0] == models[1]


def test_temporary_files_are_unlinked(monkeypatch: pytest.MonkeyPatch, blobs: Any, run: Any) -> None:
    X, y = blobs()
    np.save("X.npy", X)
    np.save("y.npy", y)
    seen: list[Any] = []
    plain = bp.Network.fit

    def fit(network: bp.Network, X: Any, y: Any, **options: Any) -> Any:
        seen.append((type(X), type(options["validation"][0]), options["shuffle"], sorted(os.listdir())))
        return plain(network, X, y, **options)

    monkeypatch.setattr(bp.Network, "fit", fit)
    run("train", "X.npy", "--labels", "y.npy", "--epochs", "1", "--no-plot", "--memory", "0")
    assert seen == [(np.memmap, np.memmap, "blocks", ["X.npy", "y.npy"])]


def test_a_small_file_with_large_prepared_rows(
    write_csv: Any, read_csv: Any, run: Any, score_of: Any
) -> None:
    write_csv("a.csv", [["t", "y"], *([f"t{i % 40}", i % 2] for i in range(4000))])
    size = os.path.getsize("a.csv")
    memory = 1.01 * size / 1e6  # 40 inputs of 4 bytes are more than t12,0
    words = ["train", "a.csv", "--target", "y", "--epochs", "3", "--no-plot", "--predictions", "p.csv"]
    out = run(*words, "--memory", str(memory))
    assert score_of(out) == 1
    assert len(read_csv("p.csv")) == 801


def test_not_enough_disk_space(
    monkeypatch: pytest.MonkeyPatch, write_csv: Any, houses: Any, error_of: Any
) -> None:
    write_csv("houses.csv", houses())
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1, 1, 1000))
    monkeypatch.setenv("TMPDIR", os.getcwd())
    printed = error_of("train", "houses.csv", "--target", "price", "--memory", "0", "--no-plot")
    assert "the prepared rows need" in printed
    assert os.getcwd() in printed


def test_a_disk_that_fills_up_while_writing(
    monkeypatch: pytest.MonkeyPatch, write_csv: Any, houses: Any, error_of: Any
) -> None:
    class Full(io.BytesIO):
        def write(self, _: Any) -> int:
            raise OSError(28, "No space left on device")

    write_csv("houses.csv", houses())
    words = ["train", "houses.csv", "--target", "price", "--memory", "0", "--no-plot", "--quiet"]
    with monkeypatch.context() as patch:
        patch.setattr(fit_stream.tempfile, "TemporaryFile", lambda dir=None: Full())
        assert "cannot write the prepared rows to" in error_of(*words)


def test_a_file_that_changes_between_passes(
    monkeypatch: pytest.MonkeyPatch, write_csv: Any, houses: Any, error_of: Any
) -> None:
    write_csv("a.csv", houses())
    plain = fit_stream.learn

    def learn(*arguments: Any) -> Any:
        prepared = plain(*arguments)
        write_csv("a.csv", houses(300))
        return prepared

    monkeypatch.setattr(fit_stream, "learn", learn)
    words = ["train", "a.csv", "--target", "price", "--memory", "0", "--no-plot", "--quiet"]
    assert "'a.csv' was modified while it was being read" in error_of(*words)


def test_the_digits_from_temporary_files(run: Any, score_of: Any) -> None:
    pytest.importorskip("sklearn")
    assert score_of(run("train", "--memory", "0", "--no-plot")) > 0.95


BAD = {
    "column 'a' of 'a.csv' has no values": [["", i, i % 3] for i in range(60)],
    "column 'a' of 'a.csv' contains inf": [["inf" if i in (3, 4, 5, 6) else i, i, i % 3] for i in range(60)],
    "column 'a' of 'a.csv' contains -inf": [
        ["-inf" if i > 40 else i, "inf" if i < 40 else i, i % 3] for i in range(60)
    ],
    "'b' of 'a.csv' contains inf": [
        [i, {3: "inf", 4: "inf", 50: "-inf"}.get(i, ""), i % 3] for i in range(60)
    ],
    "target 'y' of 'a.csv' contains inf": [[i, i, "inf" if i == 50 else i + 0.5] for i in range(60)],
    "among numbers (row 55, counted from 0); fix it": [
        ["oops" if i == 55 else i, i, "" if i < 5 else i % 3] for i in range(60)
    ],
    "contains 'low' among numbers (row 57": [[i, i, "low" if i == 57 else i] for i in range(60)],
    "1,100 distinct values": [[f"t{i}", i, i % 3] for i in range(1375)],
    "too large to standardise": [[1e200 * (-1) ** i, i, i % 3] for i in range(60)],
    "only one class": [[i, i, "a"] for i in range(60)],
    "is missing in every row": [[i, i, ""] for i in range(60)],
    "too few to hold out": [[i, i, i % 2] for i in range(3)],
    "has a header but no rows": [],
}


@pytest.mark.parametrize("message", BAD)
def test_errors_do_not_depend_on_streaming(
    small_chunks: None, message: str, write_csv: Any, error_of: Any
) -> None:
    write_csv("a.csv", [["a", "b", "y"], *BAD[message]])
    printed = [error_of("train", "a.csv", "--target", "y", "--memory", memory) for memory in ("256", "0")]
    assert message in printed[0]
    assert printed[0] == printed[1]


def test_errors_name_the_row_in_the_file(small_chunks: None, write_csv: Any, error_of: Any) -> None:
    write_csv("a.csv", [["x", "y"], [0, ""], *[[i, i if i % 2 else "no"] for i in range(60)]])
    words = ("train", "a.csv", "--target", "y", "--task", "regression", "--memory")
    printed = {error_of(*words, memory) for memory in ("256", "0")}
    assert len(printed) == 1
    assert "target 'y' of 'a.csv' contains 'no' (row 1, counted from 0)" in printed.pop()


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("a,a,y", "a"),
        ("y,a,y", "y"),
        ('"a",\ufeffa,a', "a"),
        ("a.1,a,y,a", "a"),
    ],
)
@pytest.mark.parametrize("options", ["", "--text a", "--ignore a"])
def test_duplicate_column_names_are_rejected(
    header: str, name: str, options: str, run: Any, error_of: Any
) -> None:
    row = "True,1,2,3"[: 2 * header.count(",") + 4]
    Path("a.csv").write_text(f"{header}\n" + f"{row}\n" * 50, encoding="utf-8")
    Path("b.csv").write_text("a,y\n" + "1,0\n2,1\n" * 30)
    run("train", "b.csv", "--target", "y", "--epochs", "1", "--no-plot")
    train = ("train", "a.csv", "--target", "y", *options.split(), "--memory")
    printed = {error_of(*train, memory) for memory in ("256", "0")}
    printed |= {error_of(*words) for words in (("train", "a.csv"), ("predict", "model.safetensors", "a.csv"))}
    assert printed == {f"bpfast: error: 'a.csv' has two columns named {name!r}; names must be unique\n"}


@pytest.mark.parametrize("end", ["tar", "tar.gz", "TAR.GZ", "tar.bz2", "tar.xz"])
def test_tar_archives_are_rejected(end: str, write_csv: Any, run: Any, error_of: Any) -> None:
    write_csv("a.csv", [["a", "y"], *[[i, i % 2] for i in range(60)]])
    run("train", "a.csv", "--target", "y", "--epochs", "1", "--no-plot")
    packed = f"a.csv.{end}"
    with tarfile.open(packed, f"w:{end.lower().partition('.')[2]}") as archive:  # type: ignore[call-overload]
        archive.add("a.csv")
    train = ("train", packed, "--target", "y", "--memory")
    printed = {error_of(*train, memory) for memory in ("256", "0")}
    printed.add(error_of("predict", "model.safetensors", packed))
    assert printed == {f"bpfast: error: {packed!r} is a tar archive; extract the CSV file from it first\n"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("X.npy", "--labels is required: the file of the labels of 'X.npy'"),
        ("X.npy --labels a.csv", "must be in IDX or NPY format"),
        ("X.npy --labels short.npy", "must have shape (300,)"),
        ("X.npy --labels nothing.npy", "there is no file"),
        ("X.npy --labels X.npy", "must have shape (300,)"),
        ("X.npy --labels y.npy --target y", "--target does not apply to 'X.npy'"),
        ("X.npy --labels y.npy --memory much", "expected a number of megabytes; got 'much'"),
        ("X.npy --labels y.npy --memory -1", "expected a number of megabytes"),
        ("a.csv --target z --memory 0", "has no column 'z'"),
        ("a.csv --target y --ignore z --memory 0", "has no column 'z'"),
    ],
)
def test_user_errors(words: str, message: str, write_csv: Any, blobs: Any, error_of: Any) -> None:
    X, y = blobs()
    np.save("X.npy", X)
    np.save("y.npy", y)
    np.save("short.npy", y[:5])
    write_csv("a.csv", [["x", "y"], [1, 2]])
    assert message in error_of("train", *words.split())


def test_progress_bars(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, write_csv: Any, blobs: Any
) -> None:
    monkeypatch.setattr(console, "MIN_VALUES", 100)
    monkeypatch.setattr(console, "DELAY", 0)
    X, y = blobs()
    np.save("X.npy", X)
    np.save("y.npy", y)
    write_csv("a.csv", [["a", "y"], *([i, i % 2] for i in range(100))])
    briefly = ["--epochs", "1", "--no-plot", "--memory", "0"]
    for words in (["X.npy", "--labels", "y.npy"], ["a.csv", "--target", "y"]):
        assert main(["train", *words, *briefly]) == 0
        err = capsys.readouterr().err
        for name in ("reading targets", "learning", "preparing"):
            assert f"{name}:   0%" in err
        assert main(["train", *words, *briefly, "--quiet"]) == 0
        assert not capsys.readouterr().err
        assert main(["predict", "model.safetensors", words[0]]) == 0
        assert "predicting" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["train", "--rows", "3000"], ["predict", "--megabytes", "0.5"]])
def test_the_benchmark_runs(words: list[str]) -> None:
    script = Path(__file__).parents[2] / "benchmarks" / "large.py"
    small = ["--columns", "16", "--folder", "."]
    if words[0] == "train":
        small += ["--epochs", "1", "--rounds", "1", "--memory", "0.1", "--hidden", "8", "--least", "0"]
    done = subprocess.run([sys.executable, "-P", str(script), *words, *small], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"peak \d+ MB \(at most 600\)", done.stdout)
    assert not os.listdir(), "its files are removed"


def test_report_of_streamed_rows(write_csv: Any, houses: Any, run: Any) -> None:
    pytest.importorskip("matplotlib")
    write_csv("houses.csv", houses())
    words = ["train", "houses.csv", "--target", "town", "--epochs", "5", "--no-plot"]
    for memory in ("256", "0"):
        run(*words, "--memory", memory, "--report", f"report{memory}.html")
    pages = [Path(f"report{memory}.html").read_text(encoding="utf-8") for memory in ("256", "0")]
    for page in pages:
        assert "77 held out" in page
    assert sorted(os.listdir()) == ["houses.csv", "model.safetensors", "report0.html", "report256.html"]


def test_a_missing_tmpdir_is_reported_early(tmp_path, monkeypatch, capsys, rng):
    np.save(tmp_path / "X.npy", rng.normal(size=(50, 3)))
    np.save(tmp_path / "y.npy", np.arange(50) % 2)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    command = ["train", str(tmp_path / "X.npy"), "--labels", str(tmp_path / "y.npy"), "--memory", "0.0001"]
    assert main([*command, "--no-plot", "--out", str(tmp_path / "m")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"bpfast: error: TMPDIR='.*nowhere' is not a directory\n", err)
