"""Fixtures of the tests of the command line: small CSV files, one-line errors, printed scores."""

import csv
import os
import re

import numpy as np
import pytest

from bpfast.__main__ import main


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def write_csv():
    """write_csv(path, rows): write a CSV file; returns the path."""

    def write_csv(path, rows):
        with open(path, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)
        return path

    return write_csv


@pytest.fixture
def read_csv():
    """read_csv(path): the rows of a CSV file, as strings."""

    def read_csv(path):
        with open(path, newline="", encoding="utf-8") as file:
            return list(csv.reader(file))

    return read_csv


@pytest.fixture
def houses():
    """houses(n, seed): two numbers, a text, missing values, and a price that follows from them."""

    def houses(n=200, seed=0):
        random = np.random.default_rng(seed)
        rows = [["rooms", "area", "town", "price", "note"]]
        for index in range(n):
            rooms, area = int(random.integers(1, 6)), float(random.uniform(30, 200))
            town = ["Aa", "Bee", "Cé, the"][int(random.integers(3))]
            price = 50_000 + 20_000 * rooms + 900 * area + (90_000 if town == "Bee" else 0)
            area_shown = "" if index % 17 == 0 else repr(area)
            rows.append([rooms, area_shown, "" if index % 29 == 0 else town, repr(price), 1])
        return rows

    return houses


@pytest.fixture
def iris():
    """iris(): the iris dataset, with the species as text."""

    def iris():
        from sklearn.datasets import load_iris

        data = load_iris()
        names = data.target_names[data.target]
        return [
            ["a", "b", "c", "d", "kind"],
            *([*row, name] for row, name in zip(data.data.tolist(), names, strict=True)),
        ]

    return iris


@pytest.fixture
def error_of(capsys):
    """error_of(*words): the one-line error of a command that fails; nothing is written."""

    def error_of(*words):
        before = sorted(os.listdir())
        assert main(words) == 2
        out, err = capsys.readouterr()
        assert err.startswith("bpfast: error: "), err
        assert err.count("\n") == 1, err
        assert "Traceback" not in out + err
        assert sorted(os.listdir()) == before, "an error writes nothing"
        return err

    return error_of


@pytest.fixture
def score_of():
    """score_of(output): the accuracy or R² that `bpfast train` printed."""

    def score_of(output):
        found = re.search(r"test (?:accuracy|R²) (-?[\d.]+)", output)
        assert found, output
        return float(found[1])

    return score_of
