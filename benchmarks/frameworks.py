"""Peers that are frameworks: PyTorch, eager and compiled, and JAX."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from work import LeftOutError, Peer, Work, calls, first


class Torch(Peer):
    """Eager: `nn.Sequential`, a fused optimizer, gradients set to None."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        import torch

        torch.set_num_threads(threads)
        torch.set_num_interop_threads(1)
        self.torch = torch

    def _model(self, row: Any) -> Any:
        torch = self.torch
        activation = {"relu": torch.nn.ReLU, "sigmoid": torch.nn.Sigmoid}[row.activation]
        layers: list[Any] = []
        for W, b in row.weights():
            linear = torch.nn.Linear(*W.shape)
            with torch.no_grad():
                linear.weight.copy_(torch.from_numpy(W).T)
                linear.bias.copy_(torch.from_numpy(b))
            layers += [linear, activation()]
        return torch.nn.Sequential(*layers[:-1])

    def _batches(self, row: Any, X: Any, y: Any) -> list[tuple[Any, Any]]:
        X, y = self.torch.from_numpy(X), self.torch.from_numpy(y)
        return list(zip(X.split(row.batch), y.split(row.batch), strict=True))

    def _loss(self, row: Any) -> Any:
        functions = self.torch.nn.functional
        return {"squared_error": functions.mse_loss, "cross_entropy": functions.cross_entropy}[row.loss]

    def train(self, row: Any, X: Any, y: Any) -> Work:
        torch, model, loss = self.torch, self._model(row), self._loss(row)
        batches, rule = self._batches(row, X, y), row.rule
        if rule.name == "adam":
            optimizer = torch.optim.Adam(model.parameters(), lr=rule.learning_rate, fused=True)
        else:
            optimizer = torch.optim.SGD(
                model.parameters(), lr=rule.learning_rate, momentum=rule.momentum, fused=True
            )

        def run(k: int) -> None:
            for _ in range(k):
                for x, target in batches:
                    optimizer.zero_grad(set_to_none=True)
                    loss(model(x), target).backward()
                    optimizer.step()

        def check() -> float:
            with torch.no_grad():
                return float(loss(model(batches[0][0]), batches[0][1]))

        return Work(run, len(batches), check)

    def predict(self, row: Any) -> Work:
        torch, model, X = self.torch, self._model(row.training()), row.data()

        def run() -> Any:
            with torch.inference_mode():
                return torch.softmax(model(torch.from_numpy(X)), 1).numpy()

        return calls(run, first)


class TorchCompile(Torch):
    """One graph per step: loss, gradients by `torch.func.grad`, and the update, compiled together.

    On small networks this was up to three times as fast as a compiled forward pass with a fused or
    compiled optimizer. Guards are skipped because shapes do not change.
    """

    def _compile(self, function: Any) -> Any:
        self.torch._dynamo.reset()
        compiler = self.torch.compiler
        if hasattr(compiler, "skip_all_guards_unsafe"):
            options = {"guard_filter_fn": compiler.skip_all_guards_unsafe}
            return self.torch.compile(function, fullgraph=True, options=options)
        return self.torch.compile(function, fullgraph=True)

    def train(self, row: Any, X: Any, y: Any) -> Work:
        torch, rule, loss = self.torch, row.rule, self._loss(row)
        batches = self._batches(row, X, y)
        activation = {"relu": torch.relu, "sigmoid": torch.sigmoid}[row.activation]
        parameters = [p.detach().clone() for p in self._model(row).parameters()]
        means = [torch.zeros_like(p) for p in parameters]
        squares = [torch.zeros_like(p) for p in parameters]
        time = torch.zeros(())

        def objective(parameters: Any, x: Any, target: Any) -> Any:
            for index in range(0, len(parameters), 2):
                x = activation(x) if index else x
                x = torch.nn.functional.linear(x, parameters[index], parameters[index + 1])
            return loss(x, target)

        def step(parameters: Any, means: Any, squares: Any, time: Any, x: Any, target: Any) -> None:
            gradients = torch.func.grad(objective)(parameters, x, target)
            if rule.name == "adam":
                time += 1
                rate, scale = rule.learning_rate / (1 - 0.9**time), 1 / (1 - 0.999**time)
                for p, m, v, g in zip(parameters, means, squares, gradients, strict=True):
                    m.mul_(0.9).add_(g, alpha=0.1)
                    v.mul_(0.999).addcmul_(g, g, value=0.001)
                    p.sub_(rate * m / ((v * scale).sqrt() + 1e-8))
            else:
                for p, m, g in zip(parameters, means, gradients, strict=True):
                    p.sub_(m.mul_(rule.momentum).add_(g) if rule.momentum else g, alpha=rule.learning_rate)

        compiled = self._compile(step)

        def run(k: int) -> None:
            with torch.no_grad():
                for _ in range(k):
                    for x, target in batches:
                        compiled(parameters, means, squares, time, x, target)

        def check() -> float:
            with torch.no_grad():
                return float(objective(parameters, *batches[0]))

        return self._where_it_builds(Work(run, len(batches), check))

    def predict(self, row: Any) -> Work:
        torch, model, X = self.torch, self._model(row.training()), row.data()
        compiled = self._compile(lambda x: torch.softmax(model(x), 1))

        def run() -> Any:
            with torch.inference_mode():
                return compiled(torch.from_numpy(X)).numpy()

        return self._where_it_builds(calls(run, first))

    def _where_it_builds(self, work: Work) -> Work:
        """The work; if its compilation fails in `prepare`, the row is left out."""
        prepare = work.prepare

        def attempt(seconds: float) -> float | None:
            try:
                return prepare(seconds)
            except self.torch._dynamo.exc.TorchDynamoException as error:
                raise LeftOutError(f"torch.compile: {str(error).strip().splitlines()[0]}") from error

        work.prepare = attempt
        return work


class Jax(Peer):
    """All epochs in one call under `jit`: a `lax.scan` over the batches, with donated buffers."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        import jax

        self.jax = jax

    def _outputs(self, row: Any, parameters: Any, x: Any) -> Any:
        activation = {"relu": self.jax.nn.relu, "sigmoid": self.jax.nn.sigmoid}[row.activation]
        for index, (W, b) in enumerate(parameters):
            x = (activation(x) if index else x) @ W + b
        return x

    def _loss(self, row: Any, parameters: Any, x: Any, target: Any) -> Any:
        jnp, z = self.jax.numpy, self._outputs(row, parameters, x)
        if row.loss == "squared_error":
            return jnp.mean((z - target) ** 2)
        truth = self.jax.nn.one_hot(target, z.shape[1], dtype=z.dtype)
        return -jnp.mean(jnp.sum(self.jax.nn.log_softmax(z) * truth, axis=1))

    def _step(self, row: Any, carry: Any, batch: Any) -> tuple[Any, None]:
        """One training step; the carry is (parameters, the two states of the rule, time)."""
        jax, rule = self.jax, row.rule
        parameters, means, squares, time = carry
        gradients = jax.grad(partial(self._loss, row))(parameters, *batch)
        time = time + 1
        each = jax.tree_util.tree_map
        if rule.name == "adam":
            means = each(lambda m, g: 0.9 * m + 0.1 * g, means, gradients)
            squares = each(lambda v, g: 0.999 * v + 0.001 * g * g, squares, gradients)
            rate, scale = rule.learning_rate / (1 - 0.9**time), 1 / (1 - 0.999**time)
            parameters = each(
                lambda p, m, v: p - rate * m / (jax.numpy.sqrt(v * scale) + 1e-8), parameters, means, squares
            )
        else:
            if rule.momentum:
                gradients = means = each(lambda m, g: rule.momentum * m + g, means, gradients)
            parameters = each(lambda p, g: p - rule.learning_rate * g, parameters, gradients)
        return (parameters, means, squares, time), None

    def train(self, row: Any, X: Any, y: Any) -> Work:
        jax, n = self.jax, len(X) // row.batch
        y = y.astype(np.int32) if y.ndim == 1 else y
        batches = tuple(jax.numpy.asarray(a.reshape(n, row.batch, *a.shape[1:])) for a in (X, y))
        parameters = [tuple(jax.numpy.array(a) for a in layer) for layer in row.weights()]
        zeros = partial(jax.tree_util.tree_map, jax.numpy.zeros_like)
        adam, momentum = row.rule.name == "adam", row.rule.momentum
        carry = [
            (
                parameters,
                zeros(parameters) if adam or momentum else None,
                zeros(parameters) if adam else None,
                jax.numpy.zeros((), np.float32),
            )
        ]
        # Unrolling four steps is a few per cent faster if a step takes microseconds.
        unroll = 4 if row.multiply_adds < 1e6 else 1

        @partial(jax.jit, donate_argnums=0)
        def train(carry: Any, batches: Any, epochs: Any) -> Any:
            def epoch(_: Any, carry: Any) -> Any:
                return jax.lax.scan(partial(self._step, row), carry, batches, unroll=unroll)[0]

            return jax.lax.fori_loop(0, epochs, epoch, carry)

        def run(k: int) -> None:
            carry[0] = jax.block_until_ready(train(carry[0], batches, k))

        return Work(run, n, lambda: float(self._loss(row, carry[0][0], *(a[0] for a in batches))))

    def predict(self, row: Any) -> Work:
        jax, X, trained = self.jax, row.data(), row.training()
        parameters = [tuple(jax.numpy.array(a) for a in layer) for layer in row.weights()]
        predict = jax.jit(lambda parameters, x: jax.nn.softmax(self._outputs(trained, parameters, x)))
        return calls(lambda: np.asarray(predict(parameters, X)), first)
