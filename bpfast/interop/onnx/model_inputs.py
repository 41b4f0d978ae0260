"""`onnx_inputs`: raw rows as the inputs of an exported model."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx

from ...arrays import Array
from ...data import tables
from .read_model import read_model


def onnx_inputs(model: onnx.ModelProto | str | os.PathLike[str], rows: Any) -> dict[str, Array]:
    """Convert raw rows to the inputs of a model that `to_onnx` made, as ONNX Runtime takes them.

    Without bpfast, three lines convert a data frame::

        numbers = {name: frame[[name]].to_numpy("float64") for name in number_columns}
        texts = {name: frame[[name]].fillna("").astype(str).to_numpy(object) for name in text_columns}
        label, probabilities = session.run(None, numbers | texts)

    Parameters
    ----------
    model : ModelProto or path
        Exported model.
    rows : pandas.DataFrame, mapping, array or path
        Columns by name, of which those that the model needs are used; an array (N, n) for a model with
        the single input X. A path names a file that `bpfast predict` accepts (CSV, NPZ or IDX), which
        is read in the same way: numbers and booleans in a text column keep their spelling, which a
        data frame keeps only if it was read with ``dtype={name: str}``.

    Returns
    -------
    dict of str to array
        Inputs for ``session.run(None, onnx_inputs(model, rows))``.

    Raises
    ------
    ValueError
        If a column is missing, or contains text instead of numbers.

    Examples
    --------
    >>> import bpfast as bp
    >>> from bpfast.interop.onnx import onnx_inputs, to_onnx
    >>> net = bp.Network([bp.Dense(3)], n_inputs=2, loss="squared_error")
    >>> onnx_inputs(to_onnx(net), [[1, 2]])["X"].dtype
    dtype('float32')
    """
    proto = read_model(model)
    inputs = list(proto.graph.input)
    texts = [i for i in inputs if i.type.tensor_type.elem_type == onnx.TensorProto.STRING]
    properties = {p.key: p.value for p in proto.metadata_props}
    columns = [i.name for i in inputs]
    if "columns" in properties:
        columns = [str(name) for name in json.loads(properties["columns"])]
    named = dict(zip((i.name for i in inputs), columns, strict=True))
    if isinstance(rows, (str, os.PathLike)):
        features = properties.get("features", tables.FEATURES)
        rows = _columns_of(os.fspath(rows), [named[i.name] for i in texts], features)
    if "columns" not in properties and len(inputs) == 1 and not texts:
        return {inputs[0].name: _matrix(inputs[0], rows)}
    if not hasattr(rows, "keys"):
        raise ValueError(f"rows must have named columns: {tables.listed(columns)}; got {type(rows)!r}")
    missing = [name for name in columns if name not in rows]
    if missing:
        raise ValueError(f"rows lack columns that the model takes: {tables.listed(missing)}")
    text_names = {text.name for text in texts}
    return {
        name: _texts(rows[column]) if name in text_names else _numbers(column, rows[column])
        for name, column in named.items()
    }


def _columns_of(path: str, texts: list[str], features: str) -> Mapping[str, Array]:
    """Read the columns of a file; those in `texts` keep their spelling."""
    kind = tables.kind_of(path)
    if kind == "npz":
        return tables.read_npz(path, features=features).columns
    if kind == "idx":
        return tables.read_idx(path).columns
    return tables.read_csv(path, text=texts, lenient=True).columns


def _matrix(declared: Any, rows: Any) -> Array:
    """Convert rows to the single input of a model."""
    kind = onnx.helper.tensor_dtype_to_np_dtype(declared.type.tensor_type.elem_type)
    width = declared.type.tensor_type.shape.dim[1].dim_value
    if isinstance(rows, Mapping):
        rows = np.column_stack(list(rows.values()))
    X = np.asarray(rows, dtype=kind)
    if X.ndim != 2 or X.shape[1] != width:
        raise ValueError(f"rows must have shape (N, {width}); got {X.shape}")
    return np.ascontiguousarray(X)


def _numbers(name: str, values: Any) -> Array:
    """Convert a column to numbers (N, 1), NaN where missing."""
    array = _plain(values)
    if array.dtype == object:
        array = np.array([np.nan if value is None else value for value in array], dtype=object)
    try:
        return np.asarray(array, dtype=np.float64).reshape(-1, 1)
    except (ValueError, TypeError) as error:
        raise ValueError(f"column {name!r} must contain numbers: {error}") from None


def _texts(values: Any) -> Array:
    """Convert a column to strings (N, 1), empty where missing."""
    array = _plain(values).astype(object)
    missing = [value is None or (isinstance(value, float) and np.isnan(value)) for value in array]
    texts = ["" if absent else str(value) for value, absent in zip(array, missing, strict=True)]
    return np.array(texts, dtype=object).reshape(-1, 1)


def _plain(values: Any) -> Array:
    """Convert a column to an array, with None for the missing values of pandas."""
    if not hasattr(values, "dtype"):
        return np.array(values, dtype=object)  # otherwise NaN among strings would become a string
    if hasattr(values, "notna") and not isinstance(values.dtype, np.dtype):
        values = values.astype(object).where(values.notna(), None)
    return np.asarray(values)
