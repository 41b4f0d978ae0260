"""Models of the command line, exported with their preparation."""

import json
import re

import numpy as np
import pytest

import bpfast as bp
from bpfast.__main__ import main

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from bpfast.interop.onnx import (  # noqa: E402
    from_onnx,
    onnx_inputs,
    to_onnx,
)

#: Of predictions, relative to the largest element.
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}


@pytest.fixture
def houses(tmp_path, rng):
    """A CSV file with numbers, text, missing values in both, and one text that is rare."""
    n = 300
    area, age = rng.normal(100, 30, n), rng.integers(0, 80, n)
    town = np.array(["Aa", "B, b", "Çç", 'Q"q'])[rng.integers(0, 4, n)]
    price = 1e5 + 2e3 * area + 5e4 * (town == "Çç") - 500 * age + rng.normal(0, 1e4, n)
    columns = {
        "label": np.round(area, 2).astype(str),
        "town": town.astype(object),
        "age": age.astype(str).astype(object),
    }
    columns["age"][rng.random(n) < 0.1] = ""
    columns["town"][rng.random(n) < 0.1] = ""
    columns["town"][-1] = "only here"
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(columns | {"price": price, "dear": np.where(price > 3e5, "yes", "no")})
    path = tmp_path / "houses.csv"
    frame.to_csv(path, index=False)
    return path


def trained(path, tmp_path, *options):
    """Train, export and predict on the command line; return the three paths."""
    model, exported, out = (str(tmp_path / name) for name in ("m.safetensors", "m.onnx", "p.csv"))
    quiet = ["--no-plot", "--quiet"]
    assert main(["train", str(path), "--epochs", "3", "--out", model, *quiet, *options]) == 0
    assert main(["export", model, exported]) == 0
    assert main(["predict", model, str(path), "--out", out, "--quiet"]) == 0
    return model, exported, out


def raw(exported, feed):
    session = ort.InferenceSession(exported, providers=["CPUExecutionProvider"])
    return dict(zip([output.name for output in session.get_outputs()], session.run(None, feed), strict=True))


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_a_regression_model_takes_raw_rows(houses, tmp_path, dtype, error, capsys):
    import pandas

    options = ("--target", "price", "--ignore", "dear", "--dtype", dtype)
    model, exported, out = trained(houses, tmp_path, *options)
    assert "inputs: 3 columns; outputs: variable" in capsys.readouterr().out
    expected = pandas.read_csv(out)["prediction"].to_numpy()
    frame = pandas.read_csv(houses)
    for rows in (str(houses), frame, frame.to_dict("list")):
        feed = onnx_inputs(exported, rows)
        assert error(raw(exported, feed)["variable"][:, 0], expected) <= TOLERANCE[dtype]
    # No input has the name of an output; `onnx_inputs` knows the original names.
    assert list(feed) == ["label_2", "town", "age"]
    alone = to_onnx(bp.load(model), preparation=False)
    assert [i.name for i in alone.graph.input] == ["X"]
    assert from_onnx(alone).layers[-1] == bp.Dense(1)
    # The lines in the docstring, which do without bpfast.
    names = [i.name for i in onnx.load(exported).graph.input]
    feed = {
        names[0]: frame[["label"]].to_numpy("float64"),
        names[1]: frame[["town"]].fillna("").astype(str).to_numpy(object),
        names[2]: frame[["age"]].to_numpy("float64"),
    }
    assert error(raw(exported, feed)["variable"][:, 0], expected) <= TOLERANCE[dtype]


def test_a_classifier_outputs_labels_and_probabilities(houses, tmp_path, error):
    import pandas

    options = ("--target", "dear", "--ignore", "price")
    _, exported, out = trained(houses, tmp_path, *options)
    expected = pandas.read_csv(out)
    outputs = raw(exported, onnx_inputs(exported, houses))
    assert outputs["label"].tolist() == expected["prediction"].tolist()
    assert set(outputs["label"]) == {"no", "yes"}
    columns = expected[["probability_no", "probability_yes"]].to_numpy()
    assert error(outputs["probabilities"], columns) <= 1e-5
    properties = {p.key: json.loads(p.value) for p in onnx.load(exported).metadata_props if p.key != "target"}
    assert properties["classes"] == ["no", "yes"]
    assert properties["columns"] == ["label", "town", "age"]


@pytest.mark.parametrize("classes", [[3, 5, 9], [True, False], ["u", "v", "w"], [0.5, 1.5]])
def test_arrays_are_a_single_input_and_labels_keep_their_type(classes, tmp_path, rng, error):
    X = rng.normal(size=(80, 4))
    y = np.array(classes)[rng.integers(0, len(classes), 80)]
    X[:, 0] += np.searchsorted(np.unique(y), y)
    X[3, 1] = np.nan
    path = tmp_path / "rows.npz"
    np.savez(path, images=X.reshape(80, 2, 2), y=y)
    _, exported, out = trained(path, tmp_path, "--task", "classification", "--features", "images")
    outputs = raw(exported, onnx_inputs(exported, path))
    with open(out, encoding="utf-8") as file:
        assert [str(label) for label in outputs["label"].tolist()] == [line.split(",")[0] for line in file][
            1:
        ]
    np.testing.assert_array_equal(raw(exported, {"X": X})["label"], outputs["label"])
    assert set(outputs["label"].tolist()) <= set(classes)


def test_a_model_of_the_digits_is_exported(tmp_path, error):
    from sklearn.datasets import load_digits

    model, exported = str(tmp_path / "m.safetensors"), str(tmp_path / "m.onnx")
    assert main(["train", "--epochs", "2", "--out", model, "--no-plot", "--quiet"]) == 0
    assert main(["export", model, exported]) == 0
    X = load_digits().data
    outputs = raw(exported, onnx_inputs(exported, X))
    net = bp.load(model)
    assert error(outputs["probabilities"], net.predict(X / 16)) <= 1e-5


def test_errors_of_onnx_inputs(houses, tmp_path):
    import pandas

    _, exported, _ = trained(houses, tmp_path, "--target", "price", "--ignore", "dear")
    frame = pandas.read_csv(houses)
    with pytest.raises(ValueError, match="rows lack columns that the model takes: town"):
        onnx_inputs(exported, frame.drop(columns="town"))
    with pytest.raises(ValueError, match="column 'age' must contain numbers: could not convert"):
        onnx_inputs(exported, frame.assign(age="old"))
    with pytest.raises(ValueError, match="rows must have named columns: label, town, age; got"):
        onnx_inputs(exported, frame.to_numpy())
    with pytest.raises(ValueError, match=re.escape("depends on 3 inputs (")):
        from_onnx(exported)
    net = bp.Network([bp.Dense(3)], n_inputs=4, loss="squared_error")
    with pytest.raises(ValueError, match=r"rows must have shape \(N, 4\); got \(2, 3\)"):
        onnx_inputs(to_onnx(net), np.ones((2, 3)))


def test_errors_of_the_export_command(tmp_path, capsys):
    model = str(tmp_path / "m.safetensors")
    assert main(["export", model]) == 2
    assert "there is no model file" in capsys.readouterr().err
    bp.Network([bp.Dense(3)], n_inputs=4, loss="squared_error").save(model)
    for out, message in (
        (model, "is both input and output"),
        (str(tmp_path), "is a directory"),
        (f"{model}/x/y", "no directory"),
    ):
        assert main(["export", model, out]) == 2
        assert message in capsys.readouterr().err
    assert main(["export", model, str(tmp_path / "m.onnx"), "--network-alone"]) == 0
    assert "inputs: X; outputs: variable" in capsys.readouterr().out
