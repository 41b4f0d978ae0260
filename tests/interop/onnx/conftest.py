"""Shared by the tests of ONNX: models are run by ONNX Runtime."""

import numpy as np
import pytest


def _run(model, feed):
    import onnxruntime

    if not isinstance(feed, dict):
        feed = {"X": np.ascontiguousarray(feed)}
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip([output.name for output in session.get_outputs()], session.run(None, feed), strict=True))


def _predicted(model, X):
    outputs = _run(model, X)
    (values,) = (outputs[name] for name in ("probabilities", "scores", "variable") if name in outputs)
    return values


@pytest.fixture(scope="session")
def run():
    """run(model, feed): the outputs of a model in ONNX Runtime, by name."""
    return _run


@pytest.fixture(scope="session")
def predicted():
    """predicted(model, X): the output of ONNX Runtime that corresponds to `predict`."""
    return _predicted
