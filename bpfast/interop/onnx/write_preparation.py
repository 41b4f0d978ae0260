"""The preparation of a command-line model in ONNX: from raw columns to X, from predictions to the target.

It does the arithmetic of `bpfast.data.preparation` in the same order: in float64, then cast.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any

import numpy as np

from ...arrays import Array
from ...data.preparation import NumberColumn, Preparation, TextColumn
from .write_graph import ML_DOMAIN, Graph, value_info


def write_inputs(g: Graph, prepared: Preparation) -> tuple[str, list[Any]]:
    """Write the conversion of raw columns to X; return the name of X and the declared inputs.

    Each column of a CSV file is an input, in the order of the model: numbers (N, 1) of float64 or
    strings (N, 1). Data without named columns are a single input X (N, n) of float64.
    """
    if prepared.kind != "csv":
        X = g.name("X")
        numbers = [column for column in prepared.columns if isinstance(column, NumberColumn)]
        return _standardised(g, X, numbers), [value_info(X, np.float64, ["N", len(numbers)])]
    names = [g.name(column.name or "column") for column in prepared.columns]
    inputs, blocks = [], []
    pairs = list(zip(names, prepared.columns, strict=True))
    for is_text, group in groupby(pairs, lambda pair: isinstance(pair[1], TextColumn)):
        members = list(group)
        inputs += [value_info(name, str if is_text else np.float64, ["N", 1]) for name, _ in members]
        if is_text:
            blocks += [_one_hot(g, name, column) for name, column in members]
        else:
            raw = _side_by_side(g, [name for name, _ in members])
            blocks.append(_standardised(g, raw, [column for _, column in members]))
    return _side_by_side(g, blocks), inputs


def _side_by_side(g: Graph, columns: list[str]) -> str:
    return columns[0] if len(columns) == 1 else g.node("Concat", *columns, axis=1)


def _standardised(g: Graph, raw: str, columns: list[Any]) -> str:
    """Write (x - mean) / scale, with `fill` where x is NaN."""

    def row(what: str) -> str:
        return g.tensor(what, np.array([getattr(column, what) for column in columns], np.float64))

    filled = g.node("Where", g.node("IsNaN", raw), row("fill"), raw)
    X = g.node("Div", g.node("Sub", filled, row("mean")), row("scale"))
    return X if g.double else g.cast(X, g.dtype)


def _one_hot(g: Graph, raw: str, column: Any) -> str:
    """Write the one-hot columns of a category; an empty string is `fill`, unseen text all zeros."""
    numbers = {"": column.categories.index(column.fill)}
    numbers |= {text: number for number, text in enumerate(column.categories)}
    number = g.node(
        "LabelEncoder",
        raw,
        domain=ML_DOMAIN,
        keys_strings=list(numbers),
        values_int64s=list(numbers.values()),
        default_int64=-1,
    )
    ones = g.node("OneHotEncoder", number, domain=ML_DOMAIN, cats_int64s=list(range(column.width)), zeros=1)
    shape = g.tensor("shape", np.array([0, column.width], np.int64))
    block = g.node("Reshape", ones, shape)
    return g.cast(block, g.dtype) if g.double else block


def write_values(g: Graph, Z: str, prepared: Preparation, output: str) -> None:
    """Write predictions of a regression in the units of its target, in float64."""
    value = Z if g.double else g.cast(Z, np.float64)
    scaled = g.node("Mul", value, g.number(prepared.scale, np.float64))
    g.node("Add", scaled, g.number(prepared.mean, np.float64), output=output)


def write_label(g: Graph, best: str, classes: tuple[Any, ...], output: str) -> type:
    """Write the label of the class with index `best`; return the type of the labels."""
    array, kind = _labels(classes)
    g.node("Gather", g.tensor("classes", array), best, output=output)
    return kind


def _labels(classes: tuple[Any, ...]) -> tuple[Array, type]:
    """Return the classes as an array, and their common type."""
    for kind in (str, bool, int):
        if all(type(label) is kind for label in classes):
            return np.array(classes, dtype=object if kind is str else kind), kind
    if all(isinstance(label, (int, float)) and not isinstance(label, bool) for label in classes):
        return np.array(classes, dtype=np.float64), float
    raise ValueError(f"classes must have one type to be an ONNX output; got {classes}")
