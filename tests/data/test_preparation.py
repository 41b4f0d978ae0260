"""Preparation: learned from the training rows, stored as JSON, applied row by row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bpfast.data import fit_table, tables
from bpfast.data.preparation import NumberColumn, Preparation, TextColumn
from bpfast.data.tables import UserError

CSV = "n,t,c,y\n1,x,5,10\n2,y,5,20\n,x,5,30\n4,,5,40\n9,w,5,60\n"


def table_of(tmp_path: Path, content: str = CSV, **options: Any) -> tables.Table:
    path = tmp_path / "a.csv"
    path.write_text(content, encoding="utf-8")
    return tables.read_csv(str(path), **{"target": "y"} | options)


def learned(table: tables.Table, rows: list[int] | None = None) -> Preparation:
    assert table.target is not None
    chosen = np.arange(len(table)) if rows is None else np.array(rows)
    return fit_table.learn(table, table.target, "regression", (), chosen)


def test_learns_only_from_the_training_rows(tmp_path: Path) -> None:
    prepared = learned(table_of(tmp_path), [0, 1, 2, 3])
    numbers = np.array([1.0, 2.0, 4.0])
    assert prepared.columns == (
        NumberColumn("n", 2.0, numbers.mean(), numbers.std()),
        TextColumn("t", "x", ("x", "y")),
        NumberColumn("c", 5.0, 5.0, 1.0),
    )
    assert prepared.mean == 25
    assert prepared.scale == float(np.std([10, 20, 30, 40]))


def test_inputs_and_counts(tmp_path: Path) -> None:
    table = table_of(tmp_path)
    prepared = learned(table, [0, 1, 2, 3])
    X, counts = prepared.inputs(table, np.float64)
    mean, scale = 7 / 3, np.std([1, 2, 4])
    np.testing.assert_allclose(X[:, 0], (np.array([1, 2, 2, 4, 9]) - mean) / scale)
    np.testing.assert_array_equal(X[:, 1:3], [[1, 0], [0, 1], [1, 0], [1, 0], [0, 0]])
    np.testing.assert_array_equal(X[:, 3], 0)
    assert counts.imputed == {"n": 1, "t": 1}
    assert counts.unseen == {"t": 1}
    assert prepared.n_inputs == X.shape[1] == 4


def test_a_row_does_not_depend_on_other_rows(tmp_path: Path) -> None:
    prepared = learned(table_of(tmp_path))
    whole, _ = prepared.inputs(table_of(tmp_path), np.float32)
    part, counts = prepared.inputs(
        table_of(tmp_path, "extra,c,t,n\n8,5,w,9\n", target=None, text=prepared.texts, lenient=True),
        np.float32,
    )
    np.testing.assert_array_equal(part[0], whole[4])
    assert counts.ignored == ["extra"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("n,t\n1,x\n", "lacks a column that the model needs: 'c'"),
        ("t\nx\n", "lacks 2 columns that the model needs: 'n', 'c'"),
        ("n,t,c\n1,x,5\nfive,x,5\n", r"contains 'five' \(row 1, counted from 0\)"),
        ("n,t,c\ninf,x,5\n", "contains inf"),
    ],
)
def test_invalid_rows(tmp_path: Path, text: str, message: str) -> None:
    prepared = learned(table_of(tmp_path))
    with pytest.raises(UserError, match=message):
        prepared.inputs(table_of(tmp_path, text, target=None, text=prepared.texts, lenient=True), np.float32)


def test_unnamed_columns_are_matched_by_position() -> None:
    X = np.arange(12.0).reshape(4, 3)
    columns = {f"x{j}": X[:, j] for j in range(3)}
    prepared = learned(tables.Table("npz", "a", columns, np.arange(4.0), "y"))
    assert prepared.inputs(tables.Table("npz", "b", columns), np.float64)[0].std(axis=0) == pytest.approx(1)
    with pytest.raises(UserError, match="has 2 values per row; this model needs 3"):
        prepared.inputs(tables.Table("idx", "b", {"x0": X[:, 0], "x1": X[:, 1]}), np.float64)


def test_images_are_divided_by_their_full_scale() -> None:
    columns = {"x0": np.array([0, 255, 51], np.uint8)}
    table = tables.Table("idx", "a", columns, np.arange(3.0), "label", 255.0)
    assert learned(table).inputs(table, np.float64)[0][:, 0].tolist() == [0, 1, 0.2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,y\n,1\n,2\n", "column 'a' of .* has no values"),
        ("a,y\ninf,1\n2,2\n", "column 'a' of .* contains inf"),
        ("a,y\n1,inf\n2,2\n", "target 'y' of .* contains inf"),
        ("a,y\n1,low\n2,2\n", "target 'y' of .* contains 'low'"),
        ("a,y\n1e200,1\n-1e200,2\n", "too large to standardise"),
        ("a,y\n" + "".join(f"{i},{i}\n" for i in range(20)) + "oops,3\n", "contains 'oops' among numbers"),
        ("a,y\n" + "".join(f"t{i},{i}\n" for i in range(1100)), "1,100 distinct values"),
    ],
)
def test_columns_that_cannot_be_learned(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        learned(table_of(tmp_path, text))


def test_text_among_numbers_declared_categorical(tmp_path: Path) -> None:
    text = "a,y\n" + "".join(f"{i},{i}\n" for i in range(20)) + "oops,3\n"
    assert learned(table_of(tmp_path, text, text=["a"])).n_inputs == 21


@pytest.mark.parametrize(
    ("target", "task"),
    [
        (np.array(["a", "b"], dtype=object), "classification"),
        (np.array([True, False], dtype=object), "classification"),
        (np.arange(20), "classification"),
        (np.array([0.0, 1.0]), "classification"),
        (np.arange(21), "regression"),
        (np.array([0.5, 1.0]), "regression"),
    ],
)
def test_infer_task(target: Any, task: str) -> None:
    assert fit_table.infer_task(target)[0] == task


def test_split_is_stratified() -> None:
    labels = np.repeat([0, 1, 2, 3], [700, 200, 99, 1])
    rows, held_out = fit_table.split(labels, 1000, 0.2, 3)
    assert sorted([*rows, *held_out]) == list(range(1000))
    assert np.abs(np.bincount(labels[held_out], minlength=4) - [140, 40, 20, 0]).max() <= 1
    assert len(held_out) == 200
    again = fit_table.split(labels, 1000, 0.2, 3)[1]
    other = fit_table.split(labels, 1000, 0.2, 4)[1]
    np.testing.assert_array_equal(again, held_out)
    assert set(other) != set(held_out)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_split_trains_on_every_class(share: float) -> None:
    labels = np.arange(40) % 4
    rows, held_out = fit_table.split(labels, 40, share, 0)
    assert len(held_out) == round(40 * share)
    assert set(labels[rows]) == {0, 1, 2, 3}


def test_split_without_held_out_rows_and_with_too_few() -> None:
    rows, held_out = fit_table.split(None, 5, 0.0, 0)
    assert len(rows) == 5
    assert len(held_out) == 0
    for n in (1, 2, 3, 6):
        with pytest.raises(UserError, match="too few"):
            fit_table.split(None, n, 0.2, 0)
    with pytest.raises(UserError, match=r"40 rows are too few for 39 classes: .* only 1 can be held out"):
        fit_table.split(np.maximum(np.arange(40), 1), 40, 0.2, 0)


def test_the_reason_for_a_task_counts_one_value() -> None:
    assert fit_table.infer_task(np.ones(3))[1] == "the target has 1 distinct integer value"
    assert fit_table.infer_task(np.full(3, 0.5))[1] == "the target has 1 distinct value"


@pytest.mark.parametrize(
    ("target", "classes"),
    [
        (np.array([3.0, 1.0, 3.0]), (1, 3)),
        (np.array([0.5, 1.0]), (0.5, 1.0)),
        (np.array(["b", "a"], dtype=object), ("a", "b")),
        (np.array([True, False], dtype=object), (False, True)),
    ],
)
def test_classes_keep_their_type(target: Any, classes: tuple[Any, ...]) -> None:
    found, numbers = fit_table.class_numbers(target, "y")
    assert found == classes
    assert [type(label) for label in found] == [type(label) for label in classes]
    table = tables.Table("csv", "a", {"x": np.arange(len(target))}, target, "y")
    prepared = fit_table.learn(table, target, "classification", found, np.arange(len(target)))
    np.testing.assert_array_equal(prepared.targets(target), numbers)
    back = Preparation.from_json(prepared.to_json())
    assert [type(label) for label in back.classes] == [type(label) for label in classes]


def test_json_round_trip(tmp_path: Path) -> None:
    prepared = learned(table_of(tmp_path))
    assert Preparation.from_json(prepared.to_json()) == prepared


def _set(path: str, value: Any) -> Any:
    def change(content: dict[str, Any]) -> None:
        *way, last = path.split(".")
        place: Any = content
        for step in way:
            place = place[int(step)] if step.isdecimal() else place[step]
        place[last] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        _set("format", "1"),
        _set("format", 99),
        _set("task", "clustering"),
        _set("columns", {}),
        _set("columns", []),
        _set("columns", [1]),
        _set("columns.0.type", "image"),
        _set("columns.0.name", "t"),
        _set("columns.0.scale", 0),
        _set("columns.0.mean", "0"),
        _set("columns.0.fill", True),
        _set("columns.1.categories", "xy"),
        _set("columns.1.categories", ["x", "x"]),
        _set("columns.1.categories", ["x", 1]),
        _set("columns.1.fill", "elsewhere"),
        _set("classes", "ab"),
        _set("scale", float("nan")),
        _set("scale", -1),
        _set("target", None),
    ],
)
def test_invalid_json_is_rejected(tmp_path: Path, change: Any) -> None:
    content = json.loads(learned(table_of(tmp_path)).to_json())
    change(content)
    with pytest.raises(ValueError, match=r"\w"):
        Preparation.from_json(json.dumps(content))


@pytest.mark.parametrize("text", ["", "null", "[]", "{", "[" * 100_000])
def test_json_that_is_not_an_object_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        Preparation.from_json(text)
