"""The command line: train, predict, info."""

from __future__ import annotations

import csv
import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bpfast as bp
from bpfast.__main__ import main
from bpfast.cli import commands

pytest.importorskip("sklearn")
pytest.importorskip("pandas")
pytest.importorskip("matplotlib")


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write_csv(path: str, rows: list[list[Any]]) -> str:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


def read_csv(path: str) -> list[list[str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def houses(n: int = 200, seed: int = 0) -> list[list[Any]]:
    """A made-up table: two numbers, a text and holes; the price follows from them."""
    random = np.random.default_rng(seed)
    rows: list[list[Any]] = [["rooms", "area", "town", "price", "note"]]
    for index in range(n):
        rooms, area = int(random.integers(1, 6)), float(random.uniform(30, 200))
        town = ["Aa", "Bee", "Cé, the"][int(random.integers(3))]
        price = 50_000 + 20_000 * rooms + 900 * area + (90_000 if town == "Bee" else 0)
        area_shown = "" if index % 17 == 0 else repr(area)
        rows.append([rooms, area_shown, "" if index % 29 == 0 else town, repr(price), 1])
    return rows


def flowers() -> list[list[Any]]:
    from sklearn.datasets import load_iris  # type: ignore[import-untyped, unused-ignore]

    data = load_iris()
    names = data.target_names[data.target]
    return [
        ["a", "b", "c", "d", "kind"],
        *([*row, name] for row, name in zip(data.data.tolist(), names, strict=True)),
    ]


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that a mistake is answered with."""
    before = sorted(os.listdir())
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert err.startswith("bpfast: error: "), err
    assert err.count("\n") == 1, err
    assert "Traceback" not in out + err
    assert sorted(os.listdir()) == before, "a mistake writes nothing"
    return err


def figure_of(output: str) -> float:
    found = re.search(r"test (?:accuracy|R²) (-?[\d.]+)", output)
    assert found, output
    return float(found[1])


def test_train_without_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train"]) == 0
    out, err = capsys.readouterr()
    assert figure_of(out) >= 0.95
    assert "samples per second" in out
    assert "359 rows, not trained on" in out
    assert "50/50" in err, "a progress bar"
    assert Path("curve.png").read_bytes().startswith(b"\x89PNG")
    network = bp.load("model.safetensors")
    assert list(network.program.widths) == [64, 64, 10]
    assert network.epochs == 50


def test_the_same_seed_gives_the_same_bits(capsys: pytest.CaptureFixture[str]) -> None:
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert main(["train", "--epochs", "2", "--no-plot", "--quiet", "--seed", seed, "--out", name]) == 0
    assert Path("a").read_bytes() == Path("b").read_bytes() != Path("c").read_bytes()
    out, err = capsys.readouterr()
    assert not err
    assert out.count("\n") == 3, "quiet prints the result alone"
    assert not Path("curve.png").exists()


def test_regression_and_its_predictions(capsys: pytest.CaptureFixture[str]) -> None:
    rows = houses()
    write_csv("houses.csv", rows)
    train = ["train", "houses.csv", "--target", "price", "--hidden", "16", "--learning-rate", "0.01"]
    assert main([*train, "--ignore", "note", "--epochs", "60", "--predictions", "test.csv"]) == 0
    out = capsys.readouterr().out
    assert figure_of(out) > 0.85
    assert "regression of 'price'" in out
    assert "missing values: 19 (area 12, town 7)" in out

    tested = read_csv("test.csv")
    assert tested[0] == ["row", "prediction"]
    assert len(tested) == 41
    held_out = [rows[1 + int(row)] for row, _ in tested[1:]]
    prices = np.array([float(row[3]) for row in held_out])
    predicted = np.array([float(row[1]) for row in tested[1:]])
    r2 = 1 - ((prices - predicted) ** 2).mean() / prices.var()
    assert r2 == pytest.approx(figure_of(out), abs=1e-4)

    write_csv("held.csv", [["junk", *rows[0][:3]], *[["?", *row[:3]] for row in held_out]])
    assert main(["predict", "model.safetensors", "held.csv"]) == 0
    out = capsys.readouterr().out
    assert "does not use: junk" in out
    assert "40 predictions of 'price'" in out
    again = read_csv("predictions.csv")
    assert again[0] == ["prediction"]
    assert [row[0] for row in again[1:]] == [row[1] for row in tested[1:]], "to the last bit"


def test_classification_and_its_predictions(capsys: pytest.CaptureFixture[str]) -> None:
    rows = flowers()
    write_csv("iris.csv", rows)
    assert main(["train", "iris.csv", "--target", "kind", "--predictions", "test.csv", "--epochs", "40"]) == 0
    out = capsys.readouterr().out
    assert "classification of 'kind'" in out
    assert "text with 3 different values" in out
    tested = read_csv("test.csv")
    classes = ["setosa", "versicolor", "virginica"]
    assert tested[0] == ["row", "prediction", *(f"probability_{name}" for name in classes)]
    truth = [rows[1 + int(row[0])][4] for row in tested[1:]]
    right = np.mean([row[1] == label for row, label in zip(tested[1:], truth, strict=True)])
    assert right == pytest.approx(figure_of(out), abs=1e-4)
    assert right >= 0.85
    assert [truth.count(name) for name in classes] == [10, 10, 10], "stratified"
    shares = np.array([[float(value) for value in row[2:]] for row in tested[1:]])
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-6)
    assert [classes[index] for index in shares.argmax(axis=1)] == [row[1] for row in tested[1:]]

    write_csv("held.csv", [rows[0], *[rows[1 + int(row[0])] for row in tested[1:]]])
    assert main(["predict", "model.safetensors", "held.csv", "--out", "again.csv", "--quiet"]) == 0
    assert [row[1:] for row in tested] == read_csv("again.csv")


def test_unseen_and_missing_values_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    write_csv("houses.csv", houses())
    assert main(["train", "houses.csv", "--target", "price", "--epochs", "1", "--no-plot"]) == 0
    write_csv("new.csv", [["rooms", "area", "town", "note"], [1, "", "Moon", 1], [2, 50, "Aa", ""]])
    capsys.readouterr()
    assert main(["predict", "model.safetensors", "new.csv"]) == 0
    out = capsys.readouterr().out
    assert "missing values: 2 (area 1, note 1)" in out
    assert "texts that no training row had: 1 (town 1)" in out
    write_csv("new.csv", [["rooms", "area", "note"], [1, 1, 1]])
    os.remove("predictions.csv")
    assert "lacks a column that the model needs: 'town'" in error_of(
        capsys, "predict", "model.safetensors", "new.csv"
    )


def test_integer_labels_come_back_as_they_were(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [[i % 7, 10 if i % 7 < 3 else 20] for i in range(60)]
    write_csv("a.csv", [["x", "y"], *rows, ["3", ""]])
    assert main(["train", "a.csv", "--target", "y", "--epochs", "1", "--no-plot", "--dtype", "float64"]) == 0
    out = capsys.readouterr().out
    assert "2 different whole numbers" in out
    assert "rows without a target are left out: 1" in out
    assert main(["predict", "model.safetensors", "a.csv"]) == 0
    head, *lines = read_csv("predictions.csv")
    assert head == ["prediction", "probability_10", "probability_20"]
    assert {line[0] for line in lines} <= {"10", "20"}
    assert len(lines) == 61


def test_npz_and_idx(capsys: pytest.CaptureFixture[str]) -> None:
    from sklearn.datasets import load_digits

    data = load_digits()
    np.savez("a.npz", X=data.data[:600], y=data.target[:600], again=data.data[:5])
    assert main(["train", "a.npz", "--epochs", "15", "--no-plot"]) == 0
    assert figure_of(capsys.readouterr().out) > 0.85
    assert main(["predict", "model.safetensors", "a.npz", "--features", "again", "--out", "p.csv"]) == 0
    assert len(read_csv("p.csv")) == 6

    def idx(path: str, array: Any) -> None:
        head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
        Path(path).write_bytes(head + array.astype(np.uint8).tobytes())

    idx("images", (data.images[:600] * 15.9).astype(np.uint8))
    idx("labels", data.target[:600])
    assert main(["train", "images", "--labels", "labels", "--epochs", "15", "--no-plot"]) == 0
    out = capsys.readouterr().out
    assert figure_of(out) > 0.85
    assert "divided by 255" in out
    assert main(["predict", "model.safetensors", "images"]) == 0
    assert len(read_csv("predictions.csv")) == 601
    os.remove("predictions.csv")
    np.savez("narrow.npz", X=data.data[:5, :7])
    assert "has 7 values a row; this model takes 64" in error_of(
        capsys, "predict", "model.safetensors", "narrow.npz"
    )


def test_early_stopping_says_what_the_held_out_rows_did(capsys: pytest.CaptureFixture[str]) -> None:
    write_csv("iris.csv", flowers())
    command = ["train", "iris.csv", "--target", "kind", "--learning-rate", "0.05", "--patience", "3"]
    assert main([*command, "--epochs", "500", "--penalty", "l2", "--alpha", "0.001"]) == 0
    out = capsys.readouterr().out
    assert "at most 500 epochs" in out
    assert "somewhat optimistic" in out
    assert "l2 0.001" in out
    assert bp.load("model.safetensors").epochs < 500


def test_no_rows_held_out(capsys: pytest.CaptureFixture[str]) -> None:
    write_csv("iris.csv", flowers())
    assert main(["train", "iris.csv", "--target", "kind", "--validation", "0", "--epochs", "2"]) == 0
    assert "none held out" in capsys.readouterr().out
    assert Path("curve.png").exists()


def test_no_hidden_layer_and_full_batches() -> None:
    write_csv("iris.csv", flowers())
    command = ["train", "iris.csv", "--target", "kind", "--no-plot", "--epochs", "3"]
    assert main([*command, "--hidden", "0", "--optimizer", "rprop"]) == 0
    assert len(bp.load("model.safetensors").layers) == 1


def test_interrupted(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    kept: dict[str, Any] = {}

    class Interrupted(commands._Recorder):
        def on_epoch_end(self, network: bp.Network, history: bp.History) -> None:
            super().on_epoch_end(network, history)
            if len(history) == 3:
                kept.update({name: array.copy() for name, array in network.parameters.items()})
                network.parameters["0.W"][...] += 1  # as if the next epoch had begun
                raise KeyboardInterrupt

    monkeypatch.setattr(commands, "_Recorder", Interrupted)
    assert main(["train"]) == 130
    out = capsys.readouterr().out
    assert "interrupted; the model has its state after epoch 3" in out
    assert "wrote" in out
    assert figure_of(out) > 0.3
    network = bp.load("model.safetensors")
    for name, array in network.parameters.items():
        np.testing.assert_array_equal(array, kept[name])
    assert Path("curve.png").exists()


def test_interrupted_before_training(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "_read", interrupt)
    assert main(["train"]) == 130
    assert capsys.readouterr().err == "bpfast: interrupted\n"


def test_unexpected_errors_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(commands, "_describe", fail)
    with pytest.raises(ValueError, match="a bug"):
        main(["train"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train --activation rellu", "did you mean 'relu'"),
        ("train --optimizer adan", "did you mean 'adam'"),
        ("train --penalty l3 --alpha 1", "unknown penalty 'l3'"),
        ("train --alpha 1", "name one, such as --penalty l2"),
        ("train --learning-rate -0.1", "learning_rate must be greater than 0"),
        ("train --learning-rate nan", "learning_rate must be"),
        ("train --learning-rate fast", "invalid float value: 'fast'"),
        ("train --momentum 1.5", "momentum must be"),
        ("train --optimizer adam --momentum 0.5", "belongs to the optimizer sgd"),
        ("train --hidden 64,-3", "widths such as 128,64"),
        ("train --hidden 64,a", "widths such as 128,64"),
        ("train --epochs 0", "whole number of at least 1"),
        ("train --batch-size 0", "batch_size must be at least 1"),
        ("train --optimizer rprop --batch-size 7", "needs the full batch"),
        ("train --validation 1", "a share from 0 to below 1"),
        ("train --validation 0 --patience 3", "--validation 0 leaves none"),
        ("train --seed -1", "seed must be at least 0"),
        ("train --threads 0", "threads must be from 1"),
        ("train --dtype float16", "invalid choice"),
        ("train --backend cuda", "invalid choice"),
        ("train --target y", "--target needs a FILE"),
        ("train --out nowhere/model.safetensors", "there is no directory"),
        ("train --out .", "is a directory"),
        ("train --plot curve.bmpp", "names no picture format"),
        ("train --plot a.png --out a.png", "named twice"),
        ("train iris.csv --target kind --out iris.csv", "named twice"),
        ("train iris.csv", "--target is needed: the column of 'iris.csv'"),
        ("train iris.csv --target kin", "did you mean 'kind'"),
        ("train iris.csv --target kind --labels a", "--labels does not go with 'iris.csv'"),
        ("train iris.csv --target kind --ignore e", "has no column 'e'"),
        ("train iris.csv --target kind --task regression", "a regression takes numbers"),
        ("train irs.csv --target kind", "there is no file 'irs.csv'; did you mean 'iris.csv'"),
        ("train one.csv --target y", "one class only"),
        ("train few.csv --target y", "too few"),
        ("train junk.csv --target y", "holds 'oops' among numbers"),
        (
            "train one.csv --target x --optimizer sgd --learning-rate 1e30 --quiet",
            "helps; no file was written",
        ),
        ("predict iris.csv iris.csv", "is not a model file"),
        ("predict nothing.safetensors iris.csv", "there is no model file"),
        ("predict . iris.csv", "is a directory"),
        ("predict bare.safetensors iris.csv", "`bpfast train` did not write it"),
        ("predict broken.safetensors iris.csv", "is broken: it is not an object"),
        ("predict iris.csv", "the following arguments are required"),
        ("fly", "invalid choice: 'fly'"),
        ("", "arguments are required"),
    ],
)
def test_mistakes(capsys: pytest.CaptureFixture[str], arguments: str, message: str) -> None:
    write_csv("iris.csv", flowers())
    write_csv("one.csv", [["x", "y"], *([i, "a"] for i in range(30))])
    write_csv("few.csv", [["x", "y"], [1, 0.5], [2, 1.5], [3, 2.5]])
    write_csv("junk.csv", [["x", "y"], *([i, i] for i in range(30)), [1, "oops"]])
    network = bp.Network([bp.Dense(2)], n_inputs=4, loss="cross_entropy")
    network.save("bare.safetensors")
    network.metadata["preparation"] = "[]"
    network.save("broken.safetensors")
    assert message in error_of(capsys, *arguments.split())


def test_without_matplotlib(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert 'pip install "bpfast[plot]"' in error_of(capsys, "train", "--plot", "a.png")
    assert main(["train", "--epochs", "1"]) == 0
    assert "no curve.png: pictures need matplotlib" in capsys.readouterr().out
    assert os.listdir() == ["model.safetensors"]


@pytest.mark.parametrize("name", ["pandas", "sklearn"])
def test_without_extras(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    write_csv("iris.csv", flowers())
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, f"{name}.datasets", None)
    arguments = ["train"] if name == "sklearn" else ["train", "iris.csv", "--target", "kind"]
    assert 'pip install "bpfast[all]"' in error_of(capsys, *arguments)


def test_a_folder_that_is_read_only(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkdir("locked")
    os.chmod("locked", 0o500)

    def refuse(**_: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    if os.access("locked", os.W_OK):  # root may write anywhere: it is told what others are told
        monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    said = error_of(capsys, "train", "--out", "locked/model.safetensors")
    assert "'locked/model.safetensors' can't be written: Permission denied" in said
    assert not os.listdir("locked")


def test_a_model_that_does_not_fit_its_preparation(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--epochs", "1", "--no-plot", "--quiet"]) == 0
    text = bp.load("model.safetensors").metadata["preparation"]
    network = bp.Network([bp.Dense(2)], n_inputs=4, loss="cross_entropy")
    network.metadata["preparation"] = text
    network.save("model.safetensors")
    write_csv("iris.csv", flowers())
    capsys.readouterr()
    assert "it makes 64 inputs and 10 outputs, the network has 4 and 2" in error_of(
        capsys, "predict", "model.safetensors", "iris.csv"
    )


def test_info_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    for name, value in bp.info().items():
        assert re.search(rf"^{name} +\S", out, re.MULTILINE), (name, value)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"bpfast {bp.__version__}\n"
    for command in ("train", "predict", "info"):
        assert main([command, "--help"]) == 0
        assert f"usage: bpfast {command}" in capsys.readouterr().out


def test_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "bpfast", "info"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "version" in done.stdout
    done = subprocess.run(
        [sys.executable, "-m", "bpfast", "train", "nothing"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "bpfast: error: there is no file 'nothing'\n"


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
    assert b"interrupted; the model has its state after epoch" in out
    assert b"Traceback" not in err
    assert bp.load("model.safetensors").n_inputs == 64
    assert Path("curve.png").exists()


def test_inside_an_unbuilt_checkout(tmp_path: Path) -> None:
    """The sources are found first there: a line says so, whichever way they are imported."""
    package = Path(bp.__file__).parent
    compiled = shutil.ignore_patterns("*.so", "*.pyd", "__pycache__")
    shutil.copytree(package, tmp_path / "bpfast", ignore=compiled)
    said = []
    for arguments in (["-m", "bpfast", "info"], ["-c", "import bpfast"]):
        done = subprocess.run([sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 1
        said.append(done.stderr)
    assert said[0].startswith(f"bpfast is being imported from its source checkout ({tmp_path})")
    assert "Traceback" not in said[0]
    assert "ImportError: bpfast is being imported from its source checkout" in said[1]


def test_a_run_that_is_kept_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    """Stopped, the same command goes on; the model is the same; another run is told apart."""
    write_csv("houses.csv", houses())
    command = ["train", "houses.csv", "--target", "price", "--no-plot", "--patience", "9", "--seed", "3"]

    def run(out: str, *more: str) -> str:
        assert main([*command, "--out", out, *more]) == 0
        return capsys.readouterr().out

    run("plain", "--epochs", "6")
    assert "resumed" not in run("kept", "--epochs", "2", "--checkpoint", "run")
    assert "resumed   a run of 2 epochs\n" in run("kept", "--epochs", "6", "--checkpoint", "run")
    assert Path("kept").read_bytes() == Path("plain").read_bytes()
    said = run("kept", "--epochs", "6", "--checkpoint", "run")
    assert "resumed   a run of 6 epochs; it was complete\n" in said
    assert Path("kept").read_bytes() == Path("plain").read_bytes()
    said = error_of(capsys, *command, "--batch-size", "8", "--epochs", "6", "--checkpoint", "run")
    assert "had batch_size 32; this fit has batch_size 8" in said
    assert "is named twice" in error_of(capsys, *command, "--out", "kept", "--checkpoint", "kept")


def test_ctrl_c_after_a_resume_keeps_whole_epochs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted in the first epoch of this process, the model is that of the last whole one."""
    write_csv("houses.csv", houses())
    command = ["train", "houses.csv", "--target", "price", "--no-plot", "--out", "m", "--checkpoint", "run"]
    assert main([*command, "--epochs", "2"]) == 0

    def half(network: bp.Network, *rest: Any) -> None:
        network.parameters["0.W"][...] = 7
        raise KeyboardInterrupt

    monkeypatch.setattr("bpfast.training.fit.run_epoch", half)
    assert main([*command, "--epochs", "5"]) == 130
    assert "interrupted; the model has its state after epoch 2" in capsys.readouterr().out
    assert (bp.load("m")._flat == bp.load("run")._flat).all()


def test_a_checkpoint_that_can_not_be_written_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_csv("houses.csv", houses())

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("bpfast.storage.model_file.write_atomically", full)
    command = ["train", "houses.csv", "--target", "price", "--no-plot", "--checkpoint", "run", "--quiet"]
    assert "'run' can't be written: No space left on device" in error_of(capsys, *command)
