"""Typical code of users, as mypy sees it; `test_mypy.py` checks it and never runs it.

A comment `reveals: TEXT` says what the type of the line contains, and `error: CODE` which error the line has.
There must be no other errors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, reveal_type

import numpy as np
from numpy.typing import NDArray

import bpfast as bp
from bpfast import evaluation, kernels, reference
from bpfast.layers import Layer
from bpfast.losses import Loss

X = np.zeros((8, 4), np.float32)
y = np.zeros(8, np.int64)


def build() -> bp.Network:
    layers: list[Layer] = [
        bp.Residual(bp.Dense(4, bias=False), bp.BatchNorm(), bp.Activation("relu"), bp.Dropout(0.1)),
        bp.Auxiliary(3, weight=0.3),
        bp.Maxout(8, 2),
        bp.Dense(3, bp.LeakyReLU(0.1), bp.HeNormal()),
    ]
    return bp.Network(layers, n_inputs=4, loss="cross_entropy", dtype="float64", threads=2)


def train(net: bp.Network) -> None:
    history = net.fit(
        X,
        y,
        epochs=3,
        batch_size=None,
        optimizer=bp.Adam(bp.Cosine(1e-3, epochs=3), clip_norm=1.0),
        penalty=bp.ElasticNet(1e-4),
        validation=(X, y),
        callbacks=[bp.EarlyStopping(patience=2), bp.Checkpoint("run.safetensors"), bp.GradientFlow(X, y)],
        shuffle="blocks",
        resume=Path("run.safetensors"),
    )
    reveal_type(history)  # reveals: bpfast.training.history.History
    reveal_type(history.loss)  # reveals: list[float]
    reveal_type(history["val_loss"][-1])  # reveals: float
    reveal_type(len(history))  # reveals: int
    net.fit(X, y, optimizer=bp.LBFGS())
    net.fit(X, y, optimizer="sgd", penalty="l2")
    net.scale_learning_rates({0: 0.1, "1": 0.0})
    net.freeze_layers(0, "1")


def use(net: bp.Network) -> NDArray[Any]:
    reveal_type(net.predict(X))  # reveals: numpy.ndarray[
    reveal_type(net.loss(X, y))  # reveals: float
    reveal_type(net.gradients(X, y))  # reveals: dict[str, numpy.ndarray[
    reveal_type(net.parameters["0.W"])  # reveals: numpy.ndarray[
    reveal_type(net.summary())  # reveals: str
    reveal_type(net.layers)  # reveals: tuple[bpfast.specs.layers.Layer, ...]
    reveal_type(net.freeze())  # reveals: bpfast.frozen.FrozenNetwork
    reveal_type(net.freeze(threads=None).predict([[1.0, 2.0, 3.0, 4.0]]))  # reveals: numpy.ndarray[
    net.save(Path("model.safetensors"))
    reveal_type(bp.load("model.safetensors"))  # reveals: bpfast.network.Network
    print(net.profile(X, y), bp.gradient_flow(net, X, y), bp.find_learning_rate(net, X, y))
    reveal_type(bp.__version__)  # reveals: str
    reveal_type(bp.info())  # reveals: dict[str, Any]
    return net.predict(X)


def step_by_step(net: bp.Network) -> None:
    Z = net.forward(X, training=True)
    reveal_type(Z)  # reveals: numpy.ndarray[
    net.backward(Z)
    net.update(bp.RMSprop(1e-3), bp.L2(1e-4))


def kernel_functions() -> None:
    W, b = np.zeros((4, 3)), np.zeros(3)
    A = kernels.dense_forward(X, W, b, "sigmoid")
    reveal_type(A)  # reveals: numpy.ndarray[
    loss, D = reference.loss_and_delta("cross_entropy", y, A)
    reveal_type(loss)  # reveals: float
    reveal_type(D)  # reveals: numpy.ndarray[


class StopBelow(bp.Callback):
    """A callback of a user, with the types of bpfast."""

    def __init__(self, least: float) -> None:
        self.least = least
        self.losses: list[float] = []

    def on_fit_begin(self, network: bp.Network, history: bp.History) -> None:
        self.losses = []

    def on_batch_end(self, network: bp.Network, batch: int, loss: float) -> bool | None:
        self.losses.append(loss)
        return None

    def on_epoch_end(self, network: bp.Network, history: bp.History) -> bool:
        return history.loss[-1] < self.least

    def on_fit_end(self, network: bp.Network, history: bp.History) -> None:
        print(network.n_parameters, len(history))

    def state(self) -> dict[str, Any]:
        return {"losses": self.losses}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.losses = list(state["losses"])


@dataclass(frozen=True)
class SlowSGD(bp.SGD):
    """An optimizer of a user: other defaults."""

    learning_rate: float = 1e-4


@dataclass(frozen=True)
class Wide(bp.Dense):
    """A layer of a user: it inherits from another."""

    units: int = 1024


def absolute(Y: NDArray[Any], Z: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    return np.abs(Z - Y).sum(axis=1), np.sign(Z - Y)


def own_parts() -> None:
    loss: Loss = bp.CustomLoss(absolute, output_link="identity")
    function: Callable[[Any, Any], tuple[Any, Any]] = absolute
    net = bp.Network([Wide(), bp.Dense(1)], n_inputs=4, loss=loss)
    net.fit(X, y, callbacks=[StopBelow(0.1), bp.ProgressBar()], optimizer=SlowSGD())
    bp.Network([bp.Dense(1)], n_inputs=4, loss=function)


def estimators() -> None:
    from bpfast.sklearn import MLPClassifier, MLPRegressor, from_sklearn

    classifier = MLPClassifier(hidden_layer_sizes=(10,), dropout=0.1, loss=bp.CrossEntropy()).fit(X, y)
    reveal_type(classifier)  # reveals: MLPClassifier
    reveal_type(classifier.predict(X))  # reveals: numpy.ndarray[
    reveal_type(classifier.predict_proba(X))  # reveals: Any
    reveal_type(MLPRegressor(loss=bp.Quantile(0.9)).fit(X, y))  # reveals: MLPRegressor
    reveal_type(classifier.to_network())  # reveals: bpfast.network.Network
    from_sklearn(classifier)


def exchange(net: bp.Network, module: Any) -> None:
    from bpfast.interop.onnx import from_onnx, onnx_inputs, to_onnx
    from bpfast.interop.torch import from_torch, to_torch, train_torch

    to_onnx(net, "model.onnx")
    to_onnx(net.freeze(), Path("model.onnx"), preparation=False)
    reveal_type(onnx_inputs("model.onnx", X))  # reveals: dict[str, numpy.ndarray[
    reveal_type(from_onnx("model.onnx"))  # reveals: bpfast.network.Network
    reveal_type(from_torch(module, loss="cross_entropy"))  # reveals: bpfast.network.Network
    reveal_type(train_torch(module, X, y, loss="cross_entropy"))  # reveals: bpfast.training.history.History
    to_torch(net, link=True)


def reports(net: bp.Network) -> None:
    from bpfast.plotting import plot_confusion
    from bpfast.report import write_report

    print(write_report, plot_confusion, evaluation)
    reveal_type(bp.check_gradients(net, X, y))  # reveals: float


def mistakes(net: bp.Network) -> None:
    bp.Network([bp.Dense(1)], n_inputs="4", loss="squared_error")  # error: arg-type
    bp.Network([bp.Dense(1)], n_inputs=4)  # error: call-arg
    bp.Network(["dense"], n_inputs=4, loss="squared_error")  # error: list-item
    bp.Dense("10")  # error: arg-type
    net.fit(X, y, epochs="ten")  # error: arg-type
    net.fit(X, y, optimizer=bp.Dense)  # error: arg-type
    net.fit(X, y, callbacks=[bp.L2(1e-4)])  # error: list-item
    net.fit(X, y, epoch=3)  # error: call-arg
    net.train(X, y)  # error: attr-defined
    bp.Adam(learning_rate="fast")  # error: arg-type
    text: str = net.loss(X, y)  # error: assignment
    print(text)
    net.freeze().fit(X, y)  # error: attr-defined
