"""The gallery: every example runs, and its figures show what it claims."""

from __future__ import annotations

import builtins
import contextlib
import functools
import io
import math
import os
import pkgutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bpfast as bp
from bpfast import gallery
from bpfast.__main__ import main
from bpfast.activations import activations
from bpfast.losses import losses
from bpfast.penalties import penalties

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")


@functools.cache
def run(name: str) -> tuple[dict[str, Any], str]:
    """The figures of an example and what it prints; it runs once for all tests."""
    printed = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(printed):
        picture = Path(folder) / "picture.png"
        figures = gallery.run(name, picture)
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert os.listdir(folder) == ["picture.png"]
    return figures, printed.getvalue()


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run the command with a mistake; return its one-line error, after which nothing is written."""
    before = sorted(os.listdir())
    assert main(["gallery", *arguments]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("bpfast: error: "), err
    assert err.count("\n") == 1, err
    assert sorted(os.listdir()) == before
    return err


@pytest.fixture
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def without(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Make imports fail as if a package were not installed."""
    real = builtins.__import__

    def refuse(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)


def test_every_module_is_listed() -> None:
    modules = {module.name for module in pkgutil.iter_modules(gallery.__path__)}
    public = {name.replace("_", "-") for name in modules if not name.startswith("_")}
    assert public == set(gallery.ENTRIES)


@pytest.mark.parametrize("name", gallery.ENTRIES)
def test_every_example_is_documented(name: str) -> None:
    module = __import__(f"bpfast.gallery.{name.replace('-', '_')}", fromlist=["main"])
    assert module.__doc__
    assert module.main.__doc__
    line = gallery.ENTRIES[name]
    assert 10 < len(line) < 100
    assert not line.endswith(".")


def test_the_list_of_examples() -> None:
    command = [sys.executable, "-P", "-m", "bpfast", "gallery"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True, encoding="utf-8").stdout
    lines = dict(line.split(maxsplit=1) for line in listed.splitlines())
    assert lines == gallery.ENTRIES


@pytest.mark.usefixtures("_in_tmp_path")
def test_default_and_given_names_of_pictures(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gallery", "activations"]) == 0
    out, err = capsys.readouterr()
    assert "sigmoid" in out
    assert "picture: activations.png" in out
    assert not err
    assert main(["gallery", "activations", "--out", "a.svg"]) == 0
    assert sorted(os.listdir()) == ["a.svg", "activations.png"]
    assert Path("activations.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in Path("a.svg").read_bytes()


@pytest.mark.usefixtures("_in_tmp_path")
def test_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert "no 'sadle'; did you mean 'saddle'?" in error_of(capsys, "sadle")
    assert "did you mean 'learning-rate'?" in error_of(capsys, "Learning_Rate")
    assert "no 'nope' (examples: learning-rate, " in error_of(capsys, "nope")
    assert "no 'qqq' (examples: learning-rate, " in error_of(capsys, "qqq")
    assert "must have the extension of a supported image format" in error_of(
        capsys, "saddle", "--out", "saddle"
    )
    assert "must have the extension of a supported image format" in error_of(
        capsys, "saddle", "--out", "saddle.xyz"
    )
    assert "there is no directory" in error_of(capsys, "saddle", "--out", "nowhere/saddle.png")
    assert "--out needs the NAME of an example" in error_of(capsys, "--out", "saddle.png")
    os.mkdir("folder.png")
    assert "is a directory" in error_of(capsys, "saddle", "--out", "folder.png")
    with pytest.raises(ValueError, match="did you mean 'saddle'"):
        gallery.run("sadle", "saddle.png")


@pytest.mark.usefixtures("_in_tmp_path")
def test_without_matplotlib(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "matplotlib")
    assert 'pip install "bpfast[plot]"' in error_of(capsys, "activations")


@pytest.mark.usefixtures("_in_tmp_path")
@pytest.mark.parametrize("name", ["learning-rate", "penalties", "classical"])
def test_without_scikit_learn(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, "sklearn")
    assert 'pip install "bpfast[all]"' in error_of(capsys, name)


def test_results_are_reproducible(tmp_path: Path) -> None:
    assert gallery.run("saddle", tmp_path / "a.png") == run("saddle")[0]


def test_learning_rate() -> None:
    figures, printed = run("learning-rate")
    excess = {name: figures[name]["excess"] for name in ("too small", "right", "decaying")}
    assert 0 < excess["decaying"] < excess["right"] / 10 < excess["too small"] / 100
    assert not any(figures[name]["ended"] for name in excess)
    too_large = figures["too large"]
    assert "infinite" in too_large["ended"]
    assert too_large["epochs"] < 100
    assert too_large["ended"] in printed
    assert figures["limit"] < 0.7


def test_activations() -> None:
    figures, printed = run("activations")
    assert list(figures) == list(activations)
    assert all(name in printed for name in activations)
    assert figures["sigmoid"]["steepest"] == pytest.approx(0.25, abs=1e-5)
    assert figures["tanh"]["lowest"] == pytest.approx(math.tanh(-5))
    assert (figures["relu"]["left"], figures["relu"]["right"]) == (0, 1)
    assert figures["softplus"]["right"] == pytest.approx(1 / (1 + math.exp(-5)))


def test_losses() -> None:
    figures, printed = run("losses")
    assert set(figures) == set(losses)
    assert all(name in printed for name in losses)
    t = np.array([-2.0, -1, 0, 1, 2])
    expected = {
        "log_loss": np.log1p(np.exp(-t)),
        "cross_entropy": np.log1p(9 * np.exp(-t)),
        "exponential": np.exp(-t),
        "hinge": np.maximum(0, 1 - t),
        "squared_error": t**2,
        "absolute_error": np.abs(t),
        "huber": np.where(np.abs(t) <= 1, t**2 / 2, np.abs(t) - 0.5),
        "quantile": np.abs(t) / 2,
        "poisson": np.exp(t) - t,
    }
    for name, values in expected.items():
        assert figures[name]["loss"] == pytest.approx(values), name
    assert figures["log_loss"]["slope"] == pytest.approx(-1 / (1 + np.exp(t)))
    assert figures["cross_entropy"]["slope"] == pytest.approx(-9 / (9 + np.exp(t)))
    assert figures["poisson"]["slope"] == pytest.approx(np.exp(t) - 1)


def test_penalties() -> None:
    figures, printed = run("penalties")
    assert list(figures) == ["none", *penalties]
    zeros = {name: of["zeros"] for name, of in figures.items()}
    for name in ("l1", "elastic_net", "l0"):
        assert zeros[name] > 0.3, name
        assert f"{zeros[name]:.1%}" in printed
    for name in ("none", "l2", "frobenius"):
        assert zeros[name] == 0, name
    for name in ("l2", "l1", "elastic_net", "frobenius"):
        assert figures[name]["norm"] < 0.7 * figures["none"]["norm"], name
    # L0 leaves the large weights unchanged.
    assert figures["l0"]["norm"] > 0.9 * figures["none"]["norm"]
    assert all(of["accuracy"] >= 0.95 for of in figures.values())


def test_saddle() -> None:
    figures, printed = run("saddle")
    assert figures["ridge"] == {"gradient descent": None, "momentum 0.9": None, "Adam": None}
    assert printed.count("held: after 1000 steps") == 3
    assert len(figures["noise"]) == 20, "all seeds leave"
    near = figures["near"]
    # y grows by 1 + 2 η a step.
    assert near["gradient descent"] == math.ceil(math.log(1000) / math.log(1.02))
    assert max(near["momentum 0.9"], near["Adam"]) < near["gradient descent"] / 3


def test_vanishing() -> None:
    from bpfast.gallery import vanishing

    figures, printed = run("vanishing")
    none = figures["sigmoid"]
    assert none["ratio"] < 1e-6
    assert f"{none['ratio']:.1e}" in printed
    assert none["accuracy"] < 0.2
    assert len(figures["rates"]) == len(vanishing.RATES)
    assert max(figures["rates"].values()) < 0.2, "other optimizers do not help"
    remedies = figures.keys() - {"sigmoid", "rates"}
    assert remedies == {"relu, He", "tanh, Xavier", "BatchNorm", "Residual", "Auxiliary", "pretraining"}
    for name in remedies:
        assert figures[name]["accuracy"] >= 0.93, name
        assert figures[name]["ratio"] > 1e-3, name
        assert name in printed


def test_all_networks_have_the_same_depth() -> None:
    from bpfast.gallery import vanishing

    for name, layers in vanishing.stacks().items():
        net = bp.Network([*layers, bp.Dense(10)], n_inputs=64, loss="squared_error")
        shapes = [W.shape for parameter, W in net.parameters.items() if parameter.endswith(".W")]
        assert [shape for shape in shapes if shape[1] != 10] == [(64, 64)] * 12, name


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("name", ["sigmoid", "tanh, Xavier", "Residual", "Auxiliary", "pretraining"])
def test_vanishing_with_other_seeds(name: str, seed: int) -> None:
    from bpfast.gallery import vanishing

    norms, accuracies = vanishing.train(name, seed=seed)
    assert len(norms) == 13
    if name == "sigmoid":
        assert norms[0] < 1e-6 * norms[-1]
        assert max(accuracies) < 0.2
    else:
        assert accuracies[-1] >= 0.93


def test_batch_renorm() -> None:
    figures, printed = run("batch-renorm")
    assert list(figures) == ["random rows", "pairs of one class", "four of one class"]
    for name in ("none", "BatchNorm", "BatchRenorm"):
        assert min(figures["random rows"][name]) >= 0.95, name
        assert printed.count(name) >= 3
    pairs = figures["pairs of one class"]
    for norm, renorm in zip(pairs["BatchNorm"], pairs["BatchRenorm"], strict=True):
        assert renorm >= norm + 0.05
    assert min(pairs["BatchRenorm"]) >= 0.93
    assert min(figures["four of one class"]["none"]) >= 0.93
    assert max(figures["four of one class"]["BatchNorm"]) < 0.3


@pytest.mark.parametrize("seed", [3, 4])
def test_batch_renorm_with_other_seeds(seed: int) -> None:
    from bpfast.gallery import batch_renorm

    norm, renorm = (batch_renorm.train(name, 2, seed)[-1] for name in ("BatchNorm", "BatchRenorm"))
    assert renorm >= norm + 0.05


@pytest.mark.parametrize("length", [1, 2, 4])
def test_batches_consist_of_runs_of_one_class(length: int) -> None:
    from bpfast.gallery import batch_renorm

    y = np.random.default_rng(4).integers(0, 10, 203)
    order = batch_renorm.batches(y, length, np.random.default_rng(5))
    assert len(order) % batch_renorm.BATCH == 0
    assert len(order) > 203 - 10 * length - batch_renorm.BATCH
    assert len(set(order)) == len(order), "no row occurs twice"
    runs = y[order].reshape(-1, length)
    assert (runs == runs[:, :1]).all()
    # The runs are in random order, not sorted by class.
    assert np.mean(runs[1:, 0] != runs[:-1, 0]) > 0.7
    assert not np.array_equal(order, batch_renorm.batches(y, length, np.random.default_rng(6)))


def test_hopfield_recalls() -> None:
    figures, _ = run("hopfield")
    at = figures["loads"][0.1]
    assert at["projection"] >= 0.95
    assert at["Hebb"] < at["projection"]
    assert all(tried["projection"] >= 0.95 for tried in figures["digits"].values())
    assert figures["rise"] < 1e-12, "the energy never rises"


def test_hopfield_finds_tours() -> None:
    figures, _ = run("hopfield")
    assert len(figures["tours"]) == 10
    for tours in figures["tours"]:
        assert tours["good"] >= 10
        assert tours["valid"] >= tours["good"]
        assert tours["by_chance"] < 0.01
    assert figures["free_energy_rise"] < 1e-12


@pytest.mark.parametrize("seed", range(100, 105))
def test_recall_at_a_tenth_of_other_patterns(seed: int) -> None:
    """The result of the example does not depend on its seed."""
    from bpfast.gallery import hopfield

    random = np.random.default_rng(seed)
    P = random.choice([-1.0, 1.0], size=(20, 200))
    assert hopfield.try_recall("patterns", P, random)["projection"] >= 0.95


@pytest.mark.parametrize("seed", range(100, 110))
def test_tours_of_other_cities(seed: int, every_tour: Any) -> None:
    from bpfast.gallery import _tour

    tours = _tour.tour(seed, every_tour)
    assert tours.good >= 10
    assert tours.ratios.min() >= 1 - 1e-12


@pytest.fixture(scope="module")
def every_tour() -> Any:
    from bpfast.gallery import _tour

    return _tour.every_tour()


def test_learning_rules_of_recall() -> None:
    from bpfast.gallery import hopfield

    P = np.random.default_rng(1).choice([-1.0, 1.0], size=(5, 40))
    outer = sum(np.outer(p, p) for p in P) / 40
    np.testing.assert_allclose(hopfield.hebb(P), outer - np.diag(np.diag(outer)), atol=1e-14)
    onto = np.linalg.pinv(P) @ P
    np.testing.assert_allclose(hopfield.projection(P), onto - np.diag(np.diag(onto)), atol=1e-10)


def test_the_energy_of_a_tour_is_its_length() -> None:
    from bpfast.gallery import _tour

    random = np.random.default_rng(2)
    places = random.uniform(size=(10, 2))
    D = np.linalg.norm(places[:, None] - places[None], axis=2)
    tours = np.array([random.permutation(10) for _ in range(7)])
    V = np.zeros((7, 10, 10))
    V[np.arange(7)[:, None], tours, np.arange(10)] = 1
    np.testing.assert_allclose(_tour.energy(V, D), _tour.lengths(tours, D))
    np.testing.assert_allclose(_tour.entropy(V), 0, atol=1e-12)


def test_the_shortest_tour_of_a_circle(every_tour: Any) -> None:
    from bpfast.gallery import _tour

    angles = 2 * np.pi * np.random.default_rng(3).permutation(10) / 10
    places = np.column_stack((np.cos(angles), np.sin(angles)))
    D = np.linalg.norm(places[:, None] - places[None], axis=2)
    assert every_tour.shape == (math.factorial(9), 10)
    assert _tour.lengths(every_tour, D).min() == pytest.approx(20 * math.sin(math.pi / 10))


def test_classical() -> None:
    figures, printed = run("classical")
    assert list(figures) == ["ridge", "lasso", "logistic regression", "linear SVM", "AdaBoost"]
    for name, of in figures.items():
        assert of["error"] < 1e-3, name
        assert of["intercept_error"] < 1e-3, name
        assert name in printed
    assert figures["lasso"]["zeros"] == 3
    assert figures["ridge"]["zeros"] == 0
