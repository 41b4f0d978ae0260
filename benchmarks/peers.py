"""The peers: bpfast, its NumPy reference, scikit-learn, ONNX Runtime, and the limits of the machine.

PyTorch and JAX are in `frameworks.py`. Packages are imported when a peer is created, in its process.
"""

from __future__ import annotations

import importlib
import time
import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from work import LeftOutError, Peer, Work, calls, first, mean_size


class BpFast(Peer):
    """`net.fit` and `net.predict`, with all of their checks."""

    backend = "native"

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        import bpfast
        import bpfast.kernels

        self.bp = bpfast

    def _network(self, row: Any) -> Any:
        net = row.network(threads=self.threads, backend=self.backend)
        for index, (W, b) in enumerate(row.weights()):
            net.parameters[f"{index}.W"][...] = W
            net.parameters[f"{index}.b"][...] = b
        return net

    def train(self, row: Any, X: Any, y: Any) -> Work:
        net, optimizer = self._network(row), row.optimizer

        def run(k: int) -> None:
            net.fit(X, y, epochs=k, batch_size=row.batch, optimizer=optimizer, shuffle=False)

        return Work(run, len(X) // row.batch, lambda: net.loss(X[: row.batch], y[: row.batch]))

    def predict(self, row: Any) -> Work:
        net, X = self._network(row.training()), row.data()
        return calls(lambda: net.predict(X), first)

    def kernel(self, row: Any) -> Work:
        kernels, arrays, threads = self.bp.kernels, row.data(), self.threads
        X, W, b, D = (arrays[name] for name in "XWbD")
        A, D_prev = np.empty_like(D), np.empty_like(X)
        return {
            "dense_forward": calls(
                lambda: kernels.dense_forward(X, W, b, "relu", out=A, threads=threads), mean_size
            ),
            "propagate_delta": calls(
                lambda: kernels.propagate_delta(D, W, X, "relu", out=D_prev, threads=threads), mean_size
            ),
            "weight_gradient": calls(
                lambda: kernels.weight_gradient(X, D, threads=threads), lambda r: mean_size(r[0])
            ),
        }[row.function]


class NumPy(BpFast):
    """The reference engine; the kernels are written here with NumPy's BLAS and work in place."""

    backend = "reference"

    def kernel(self, row: Any) -> Work:
        arrays = row.data()
        X, W, b, D = (arrays[name] for name in "XWbD")
        A, D_prev, dW = np.empty_like(D), np.empty_like(X), np.empty_like(W)

        def dense_forward() -> Any:
            np.matmul(X, W, out=A)
            np.add(A, b, out=A)
            return np.maximum(A, 0, out=A)

        def propagate_delta() -> Any:
            np.matmul(D, W.T, out=D_prev)
            return np.multiply(D_prev, X > 0, out=D_prev)

        def weight_gradient() -> Any:
            return np.matmul(X.T, D, out=dW), D.sum(axis=0)

        if row.function == "weight_gradient":
            return calls(weight_gradient, lambda result: mean_size(result[0]))
        return calls({f.__name__: f for f in (dense_forward, propagate_delta)}[row.function], mean_size)


class ScikitLearn(Peer):
    """`partial_fit` for an epoch (it forms the batches itself) and `predict_proba`."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        import sklearn.neural_network

        warnings.simplefilter("ignore")
        self.networks = sklearn.neural_network

    def _model(self, row: Any) -> Any:
        classifies = row.loss == "cross_entropy"
        kind = self.networks.MLPClassifier if classifies else self.networks.MLPRegressor
        return kind(
            hidden_layer_sizes=row.widths[1:-1],
            activation={"relu": "relu", "sigmoid": "logistic"}[row.activation],
            solver=row.rule.name,
            learning_rate_init=row.rule.learning_rate,
            momentum=row.rule.momentum,
            nesterovs_momentum=False,
            alpha=0.0,
            batch_size=row.batch,
            shuffle=False,
            random_state=0,
        )

    def train(self, row: Any, X: Any, y: Any) -> Work:
        model = self._model(row)
        y = y.ravel() if row.widths[-1] == 1 else y
        options = {"classes": np.arange(row.widths[-1])} if row.loss == "cross_entropy" else {}

        def run(k: int) -> None:
            for _ in range(k):
                model.partial_fit(X, y, **options)

        return Work(run, len(X) // row.batch)

    def predict(self, row: Any) -> Work:
        trained, X = row.training(), row.data()
        model = self._model(trained)
        model.partial_fit(*trained.data(), classes=np.arange(row.widths[-1]))
        model.coefs_, model.intercepts_ = (list(arrays) for arrays in zip(*row.weights(), strict=True))
        return calls(lambda: model.predict_proba(X), first)


class OnnxRuntime(Peer):
    """A session with a model of Gemm, Relu and Softmax."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        import onnxruntime

        self.ort = onnxruntime

    def _model(self, row: Any) -> bytes:
        from onnx import TensorProto, helper, numpy_helper

        nodes, constants, name = [], [], "X"
        layers = row.weights()
        for index, (W, b) in enumerate(layers):
            constants += [numpy_helper.from_array(W, f"W{index}"), numpy_helper.from_array(b, f"b{index}")]
            nodes.append(helper.make_node("Gemm", [name, f"W{index}", f"b{index}"], [f"Z{index}"]))
            last = index + 1 == len(layers)
            name = "Y" if last else f"A{index}"
            options = {"axis": 1} if last else {}
            nodes.append(helper.make_node("Softmax" if last else "Relu", [f"Z{index}"], [name], **options))
        inputs, outputs = (
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", width])
            for name, width in (("X", row.widths[0]), ("Y", row.widths[-1]))
        )
        graph = helper.make_graph(nodes, "network", [inputs], [outputs], constants)
        opset = [helper.make_opsetid("", 17)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=8)
        return bytes(model.SerializeToString())

    def predict(self, row: Any) -> Work:
        options = self.ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        session = self.ort.InferenceSession(self._model(row), options, providers=["CPUExecutionProvider"])
        feed = {"X": row.data()}
        return calls(lambda: session.run(["Y"], feed)[0], first)


class Meter(Work):
    """Work that measures a figure of the machine instead of seconds."""

    def __init__(self, measure: Callable[[], float]) -> None:
        super().__init__(lambda k: measure())
        self.measure = measure

    def prepare(self, seconds: float) -> None:
        """Warm up: memory is touched, clocks rise."""
        self.run(1)


class Machine(Peer):
    """Not a peer: the FMA peak in GFLOP/s, measured in the rounds of each row."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        import bpfast.diagnostics

        if not hasattr(bpfast.diagnostics, "fma_peak"):
            raise LeftOutError("this bpfast has no bpfast.diagnostics.fma_peak")
        self.fma_peak = bpfast.diagnostics.fma_peak

    def work(self, row: Any) -> Work:
        return Meter(lambda: float(self.fma_peak(dtype="float32", threads=self.threads)))


class Memory(Peer):
    """Not a peer: the bandwidth in GB/s of c = a + b on arrays of 128 MB, divided among the threads."""

    def work(self, row: Any) -> Work:
        from concurrent.futures import ThreadPoolExecutor

        n = 32 << 20
        a, b, c = np.ones(n, np.float32), np.ones(n, np.float32), np.empty(n, np.float32)
        edges = [n * thread // self.threads for thread in range(self.threads + 1)]
        parts = [slice(*edge) for edge in pairwise(edges)]
        pool = ThreadPoolExecutor(self.threads)

        def measure() -> float:
            start = time.perf_counter()
            list(pool.map(lambda part: np.add(a[part], b[part], out=c[part]), parts))  # without the GIL
            return 3 * a.nbytes / (time.perf_counter() - start) / 1e9

        return Meter(measure)


#: Name → module, class, packages that must be installed.
PEERS = {
    "bpfast": ("peers", "BpFast", ["bpfast"]),
    "jax": ("frameworks", "Jax", ["jax", "jaxlib"]),
    "torch": ("frameworks", "Torch", ["torch"]),
    "torch-compile": ("frameworks", "TorchCompile", ["torch"]),
    "sklearn": ("peers", "ScikitLearn", ["scikit-learn"]),
    "onnxruntime": ("peers", "OnnxRuntime", ["onnxruntime", "onnx"]),
    "numpy": ("peers", "NumPy", ["bpfast", "numpy"]),
}
METERS = {"peak": ("peers", "Machine", ["bpfast"]), "memory": ("peers", "Memory", ["numpy"])}


def make(name: str, threads: int) -> Peer:
    """Create a peer by name; imports its packages."""
    module, kind, _ = (PEERS | METERS)[name]
    peer: Peer = getattr(importlib.import_module(module), kind)(threads)
    return peer
