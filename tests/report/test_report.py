"""The HTML report of a training run."""

from __future__ import annotations

import base64
import csv
import os
import sys
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bpfast as bp
from bpfast.__main__ import main
from bpfast.training import fit as training

pytest.importorskip("pandas")
pytest.importorskip("matplotlib")

from bpfast.report import HeldOut, Subject, write_report

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """The texts of a page by their tag; checks that tags are balanced."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self._caption = ""
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.tables[self._caption].append([])
        if tag in ("td", "th"):
            self.tables[self._caption][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))
        if self.open[-1:] == ["caption"]:
            self._caption = data
            self.tables[data] = []
        if {"td", "th"} & set(self.open):
            self.tables[self._caption][-1][-1] += data

    def all(self, tag: str) -> list[str]:
        return [text for around, text in self.texts if around == tag]

    @property
    def text(self) -> str:
        return "".join(text for around, text in self.texts if around != "style")

    def pictures(self) -> list[dict[str, str | None]]:
        return [given for tag, given in self.tags if tag == "img"]


def read(path: str | Path) -> Page:
    """Parse a page, and check what holds for every page."""
    text = Path(path).read_text(encoding="utf-8")
    page = Page(text)
    assert text.startswith("<!DOCTYPE html>")
    assert ("html", {"lang": "en"}) in page.tags
    assert "script" not in {tag for tag, _ in page.tags}
    assert "http://" not in text
    assert "https://" not in text
    assert len(page.all("title")) == len(page.all("h1")) == 1
    for tag, given in page.tags:
        assert not [name for name in given if name.startswith("on") or name == "href"], (tag, given)
    for picture in page.pictures():
        head, _, data = str(picture["src"]).partition(",")
        assert head == "data:image/svg+xml;base64"
        assert ET.fromstring(base64.b64decode(data)).tag.endswith("svg")
        assert len(str(picture["alt"])) > 20
    for caption, rows in page.tables.items():
        assert len({len(row) for row in rows}) == 1, caption
    return page


def write_csv(path: str, rows: list[list[Any]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def blobs(names: list[str], n: int = 240, columns: tuple[str, ...] = ("a", "b")) -> list[list[Any]]:
    random = np.random.default_rng(1)
    y = random.integers(len(names), size=n)
    X = random.normal(size=(len(names), len(columns)))[y] * 2 + random.normal(size=(n, len(columns))) * 0.4
    return [
        [*columns, "kind"],
        *([*row, names[k]] for row, k in zip(X.round(4).tolist(), y.tolist(), strict=True)),
    ]


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def train(*arguments: str) -> int:
    return main(["train", *arguments, "--no-plot", "--quiet", "--report", "report.html"])


def test_classification(capsys: pytest.CaptureFixture[str]) -> None:
    write_csv("blobs.csv", blobs(["x", "y", "z"]))
    arguments = ["blobs.csv", "--target", "kind", "--epochs", "30", "--patience", "3", "--hidden", "8"]
    assert train(*arguments, "--predictions", "p.csv") == 0
    printed = capsys.readouterr().out
    page = read("report.html")
    assert page.all("title") == ["kind of blobs.csv"]
    headline = next(text for text in page.all("p") if text.startswith("Test accuracy"))
    assert headline[1:-1] in printed
    assert "used only to choose the best of 30 epochs: slightly optimistic" in headline
    assert "240: 192 for training, 48 held out" in page.text
    assert page.all("code") == [
        "bpfast train blobs.csv --target kind --epochs 30 --patience 3 --hidden 8 --predictions p.csv "
        "--no-plot --quiet --report report.html"
    ]
    assert "Adam(learning_rate=0.001" in page.text
    assert len(page.pictures()) == 4, "curves, confusion, calibration, importance"

    balance = page.tables["Rows of each class"]
    assert sum(int(row[1]) for row in balance[1:]) == 192
    assert sum(int(row[2]) for row in balance[1:]) == 48
    scores = next(rows for caption, rows in page.tables.items() if caption.startswith("Precision"))
    with open("p.csv", newline="") as file:
        predicted = list(csv.reader(file))[1:]
    rows = [row[-1] for row in blobs(["x", "y", "z"])[1:]]
    for label, precision, recall, _, support in scores[1:]:
        true = [rows[int(line[0])] == label for line in predicted]
        said = [line[1] == label for line in predicted]
        right = sum(a and b for a, b in zip(true, said, strict=True))
        assert int(support) == sum(true)
        assert float(recall) == pytest.approx(right / sum(true), abs=1e-4)
        assert float(precision) == pytest.approx(right / max(1, sum(said)), abs=1e-4)
    layers = page.tables["Layers, from input to output"]
    assert [row[1] for row in layers[1:]] == ["8", "3"]
    assert [row[3] for row in layers[1:]] == ["24", "27"]


def test_regression() -> None:
    random = np.random.default_rng(3)
    a, b = random.normal(size=200), random.normal(size=200)
    price = 1e5 + 2e4 * a
    price[7] += 9e6
    price[13] -= 9e6
    town = np.where(b > 0, "north", "south")
    rows: list[list[Any]] = [["a", "b", "town", "extra", "price"]]
    cells = zip(a, b, town, price, strict=True)
    rows += [
        [x, "" if index % 10 == 0 else y, where, index, cost]
        for index, (x, y, where, cost) in enumerate(cells)
    ]
    write_csv("prices.csv", rows)
    assert train("prices.csv", "--target", "price", "--epochs", "20", "--ignore", "extra") == 0
    page = read("report.html")
    assert "20 (b 20)" in page.text
    assert len(page.pictures()) == 3, "curves, predictions, importance"
    found = page.tables["Largest errors (rows are numbered from 0)"]
    assert found[0] == ["row", "true", "predicted", "error", "a", "b", "town"]
    assert len(found) == 11
    held_out = {int(row[0]) for row in found[1:]}
    assert held_out <= set(range(200))
    row = found[1]
    true, predicted, error = (float(cell.replace(",", "")) for cell in row[1:4])
    assert error == pytest.approx(predicted - true, abs=2)
    assert true == pytest.approx(price[int(row[0])], rel=1e-3)
    assert row[6] == town[int(row[0])]
    errors = [abs(float(row[3].replace(",", ""))) for row in found[1:]]
    assert errors == sorted(errors, reverse=True)
    importance = page.tables["Decrease of the R², in descending order"]
    assert {row[0] for row in importance[1:]} == {"a", "b", "town"}
    assert "None" not in page.text


def test_binary_calibration_is_of_the_second_class() -> None:
    write_csv("two.csv", blobs(["no", "yes"]))
    assert train("two.csv", "--target", "kind", "--epochs", "3") == 0
    page = read("report.html")
    assert "Most frequent confusions" not in page.tables
    assert "Calibration" in page.all("h2")


NASTY = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror='alert(2)'>",
    "a & b &amp; c",
    "\N{GRINNING FACE} emoji",
    "\u05e9\u05dc\u05d5\u05dd",
    "$x^{$ \\frac",
    "bell\x07",
    "class with a name that is so long that it is cut in the middle of a picture, but not in a table",
]


def test_names_are_escaped() -> None:
    columns = ("<b>bold</b>", "</td><td onclick='x'>")
    write_csv("<i>&'.csv", blobs(NASTY, 320, columns))
    target = "\u05e9 </title><script>"
    Path("data.csv").write_text(
        Path("<i>&'.csv").read_text(encoding="utf-8").replace(",kind", f",{target}", 1), encoding="utf-8"
    )
    os.replace("data.csv", "<i>&'.csv")
    assert train("<i>&'.csv", "--target", target, "--epochs", "2") == 0
    page = read("report.html")
    assert page.all("title") == [f"\u2068{target}\u2069 of <i>&'.csv"]
    shown = {row[0] for row in page.tables["Rows of each class"][1:]}
    assert shown == {name.replace("\x07", "\N{REPLACEMENT CHARACTER}") for name in NASTY}
    assert {row[0] for row in page.tables["Decrease of the accuracy, in descending order"][1:]} == set(
        columns
    )


def test_more_than_fifty_classes() -> None:
    write_csv("many.csv", blobs([f"class {k:02}" for k in range(55)], 700))
    assert train("many.csv", "--target", "kind", "--epochs", "1", "--hidden", "0") == 0
    page = read("report.html")
    assert "A confusion matrix of 55 classes is too large to draw." in page.text
    assert len(page.tables["Rows of each class"]) == 56


def test_without_held_out_rows() -> None:
    write_csv("two.csv", blobs(["no", "yes"]))
    assert train("two.csv", "--target", "kind", "--epochs", "2", "--validation", "0") == 0
    page = read("report.html")
    assert "No rows were held out" in page.text
    assert not {"Confusion", "Calibration", "Classes"} & set(page.all("h2"))
    assert len(page.pictures()) == 1


@pytest.mark.parametrize("epochs", [0, 3])
def test_report_of_an_interrupted_training(epochs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    write_csv("two.csv", blobs(["no", "yes"]))
    done, whole = [], training.run_epoch

    def run_epoch(*arguments: Any) -> Any:
        if len(done) == epochs:
            raise KeyboardInterrupt
        done.append(True)
        return whole(*arguments)

    monkeypatch.setattr(training, "run_epoch", run_epoch)
    assert train("two.csv", "--target", "kind") == 130
    page = read("report.html")
    after = "after epoch 3" if epochs else "partway through epoch 1"
    assert f"The training was interrupted; the network has the weights {after}." in page.text
    assert f"{epochs} of at most" in page.text
    assert "Confusion" in page.all("h2")


def test_errors_are_raised_before_training(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_csv("two.csv", blobs(["no", "yes"]))
    before = sorted(os.listdir())
    common = ["train", "two.csv", "--target", "kind", "--no-plot", "--report"]
    for path, message in (
        ("nowhere/r.html", "no directory"),
        ("two.csv", "given twice"),
        ("model.safetensors", "given twice"),
    ):
        assert main([*common, path]) == 2
        assert message in capsys.readouterr().err
    # Makes the import fail as if matplotlib were not installed.
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main([*common, "r.html"]) == 2
    assert 'pip install "bpfast[plot]"' in capsys.readouterr().err
    assert sorted(os.listdir()) == before


def network(loss: str, outputs: int) -> bp.Network:
    layers = [bp.Residual(bp.Dense(3, "tanh")), bp.Dense(outputs)]
    return bp.Network(layers, n_inputs=3, loss=loss, seed=1)


def test_write_report() -> None:
    random = np.random.default_rng(0)
    X = random.normal(size=(300, 3))
    y = (X[:, 0] > 0).astype(np.int64)
    net = network("log_loss", 1)
    history = net.fit(X[:200], y[:200], epochs=5, optimizer=bp.Adam(bp.Cosine(0.01, epochs=5)))
    held_out = HeldOut(y[200:], net.predict(X[200:]), X[200:].astype(np.float32))
    write_report("r.html", net, history, held_out, classes=[0, 1], subject=Subject("Mine", "Good."))
    page = read("r.html")
    assert page.all("h1") == ["Mine"]
    assert {"0", "1", "2"} == {
        row[0] for row in page.tables["Decrease of the accuracy, in descending order"][1:]
    }
    layers = [row[0] for row in page.tables["Layers, from input to output"][1:]]
    assert layers == ["0 residual", "· 0.0 dense", "1 dense"]


def test_report_of_an_untrained_network() -> None:
    net = network("squared_error", 1)
    for history in (None, bp.History()):
        write_report("r.html", net, history)
        page = read("r.html")
        assert "No epoch was completed" in page.text
        assert "No rows were held out" in page.text


def test_an_error_keeps_the_old_page() -> None:
    Path("r.html").write_text("old")
    net = network("squared_error", 2)
    with pytest.raises(ValueError, match="one number per row"):
        write_report("r.html", net, None, HeldOut(np.ones((4, 2)), np.ones((4, 2))))
    assert Path("r.html").read_text() == "old"
    assert os.listdir() == ["r.html"]


def test_the_network_is_checked() -> None:
    with pytest.raises(TypeError, match=r"write_report: network must be a bp.Network; got str$"):
        write_report("report.html", "model.safetensors")  # type: ignore[arg-type]
    assert not os.path.exists("report.html")
