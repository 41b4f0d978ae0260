"""Capsules with dynamic routing on the digits (Sabour, Frosst & Hinton 2017).

A capsule is a vector: its length, from 0 to 1, is the probability that an entity is present, its direction
describes it. Letters: B rows, P primary capsules, J = 10 digit capsules.

    u_p = squash(z_p)                      z: output of a dense network on the pixels (B, P, 8)
    û_pj = u_p W_pj                        the prediction of capsule p for digit j (B, P, J, 8)
    b_pj = 0, and then three times:
        c_pj = softmax_j(b_pj)             how capsule p distributes itself over the digits
        v_j = squash(Σ_p c_pj û_pj)        the digit capsules (B, J, 8)
        b_pj ← b_pj + û_pj · v_j           agreement increases the share

The dense parts are bpfast networks: one from pixels to z, and for each primary capsule a single layer
without bias whose W consists of the W_pj. Squashing and routing are NumPy, with an explicit backward pass
through all three iterations: no c is treated as constant. The gradient that is passed to `backward` of the
networks, and that of W, are checked against central differences. Of the network in the paper the
convolutions (a dense layer suffices for 8 × 8 pixels) and the decoder are left out.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import bpfast as bp

from ..arrays import Array
from ..kernels import link
from ._common import COLOURS, digits, dress, figure, write

PRIMARY, DIM, CLASSES, ITERATIONS = 16, 8, 10, 3
EPOCHS, BATCH = 20, 64

#: c (B, P, J), s and v (B, J, K) of each iteration of routing.
Tape = list[tuple[Array, Array, Array]]


def squash(S: Array) -> Array:
    """Return v = |s|² / (1 + |s|²) · s / |s|, which has the direction of s and a length from 0 to 1."""
    n = np.linalg.norm(S, axis=-1, keepdims=True)
    V: Array = S * n / (1 + n**2)
    return V


def squash_backward(S: Array, dV: Array) -> Array:
    """Return ∂L/∂s = f dv + f′ (s·dv) s / |s| with f = |s| / (1 + |s|²)."""
    n = np.linalg.norm(S, axis=-1, keepdims=True)
    along = (S * dV).sum(axis=-1, keepdims=True) / np.maximum(n, np.finfo(S.dtype).tiny)
    dS: Array = dV * n / (1 + n**2) + S * along * (1 - n**2) / (1 + n**2) ** 2
    return dS


def route(U: Array, iterations: int = ITERATIONS) -> Tape:
    """Route û (B, P, J, K) by agreement."""
    b, tape = np.zeros_like(U[..., 0]), Tape()
    for _ in range(iterations):
        c = link("softmax", b.reshape(-1, b.shape[2])).reshape(b.shape)
        s = np.einsum("bpj,bpjk->bjk", c, U)
        v = squash(s)
        b = b + np.einsum("bpjk,bjk->bpj", U, v)
        tape.append((c, s, v))
    return tape


def route_backward(U: Array, tape: Tape, dV: Array) -> Array:
    """Return ∂L/∂û from ∂L/∂v of the last iteration, through all iterations and their agreements."""
    dU, db = np.zeros_like(U), np.zeros_like(U[..., 0])
    for c, s, v in reversed(tape):
        # The loss depends on the last v, each agreement on the v before it: db is 0 at first.
        dU += np.einsum("bpj,bjk->bpjk", db, v)
        ds = squash_backward(s, dV + np.einsum("bpj,bpjk->bjk", db, U))
        dU += np.einsum("bpj,bjk->bpjk", c, ds)
        dc = np.einsum("bpjk,bjk->bpj", U, ds)
        db = db + c * (dc - (c * dc).sum(axis=2, keepdims=True))
        dV = np.zeros_like(dV)
    return dU


def margin_loss(V: Array, y: Array) -> tuple[float, Array]:
    """Return the margin loss of digit capsules (B, J, K) for classes y (B,), and ∂L/∂v.

    Mean over the rows of Σ_j T_j max(0, 0.9 - |v_j|)² + ½ (1 - T_j) max(0, |v_j| - 0.1)², T_j = 1
    for the correct class, else 0.
    """
    n = np.linalg.norm(V, axis=2)
    T = np.eye(CLASSES, dtype=V.dtype)[y]
    missing, surplus = T * np.maximum(0, 0.9 - n), (1 - T) * np.maximum(0, n - 0.1)
    dn = (surplus - 2 * missing) / len(V)
    dV = V * (dn / np.maximum(n, np.finfo(V.dtype).tiny))[:, :, None]
    return float((missing**2 + 0.5 * surplus**2).sum() / len(V)), dV


class Capsules:
    """The network: from pixels (B, 64) to digit capsules (B, J, K), and back."""

    def __init__(self, seed: int = 0, dtype: str = "float32") -> None:
        # The networks only see the gradient of margin_loss; their own loss is not used.
        options: dict[str, Any] = {"loss": "squared_error", "dtype": dtype}
        layers = [bp.Dense(128, "relu"), bp.Dense(PRIMARY * DIM)]
        self.pixels = bp.Network(layers, n_inputs=64, seed=seed, **options)
        one = [bp.Dense(CLASSES * DIM, bias=False)]
        seeds = range(seed + 1, seed + 1 + PRIMARY)
        self.expect = [bp.Network(one, n_inputs=DIM, seed=s, **options) for s in seeds]

    @property
    def networks(self) -> list[bp.Network]:
        """All networks that are trained."""
        return [self.pixels, *self.expect]

    def expectations(self, z: Array, training: bool = False) -> Array:
        """Return û (B, P, J, K) of z (B, P, 8)."""
        u = squash(z)
        U = np.stack([net.forward(u[:, p], training) for p, net in enumerate(self.expect)], axis=1)
        return U.reshape(len(z), PRIMARY, CLASSES, DIM)

    def routing(self, X: Array) -> Tape:
        """Return c, s and v of every iteration for pixels X."""
        return route(self.expectations(self.pixels.forward(X).reshape(-1, PRIMARY, DIM)))

    def forward(self, X: Array) -> Array:
        """Return the digit capsules v (B, J, K), and keep what `backward` needs."""
        self.z = self.pixels.forward(X, training=True).reshape(-1, PRIMARY, DIM)
        self.U = self.expectations(self.z, training=True)
        self.tape = route(self.U)
        return self.tape[-1][2]

    def backward(self, dV: Array) -> Array:
        """Compute the gradients of all weights from ∂L/∂v; return ∂L/∂z."""
        dU = route_backward(self.U, self.tape, dV).reshape(len(dV), PRIMARY, -1)
        du = np.stack([net.backward(dU[:, p]) for p, net in enumerate(self.expect)], axis=1)
        dz = squash_backward(self.z, du)
        self.pixels.backward(dz.reshape(len(dz), -1))
        return dz

    def update(self, optimizer: bp.Adam) -> None:
        """Make one optimizer step with the gradients of the last `backward`."""
        for network in self.networks:
            network.update(optimizer)


def train(epochs: int = EPOCHS, seed: int = 0) -> tuple[Capsules, Array]:
    """Return a trained network, and the mean loss and held-out accuracy of each epoch (epochs, 2)."""
    X, y, X_held, y_held = digits()
    capsules, rng, rate = Capsules(seed), np.random.default_rng(seed), bp.Cosine(3e-3, epochs)
    history = np.empty((epochs, 2))
    for epoch in range(epochs):
        losses = []
        for rows in np.array_split(rng.permutation(len(X)), round(len(X) / BATCH)):
            loss, dV = margin_loss(capsules.forward(X[rows]), y[rows])
            capsules.backward(dV)
            capsules.update(bp.Adam(rate.rate(epoch)))
            losses.append(loss)
        longest = np.linalg.norm(capsules.routing(X_held)[-1][2], axis=2).argmax(axis=1)
        history[epoch] = np.mean(losses), np.mean(longest == y_held)
    return capsules, history


def check(capsules: Capsules) -> tuple[float, float]:
    """Compare ∂L/∂z and ∂L/∂W with central differences in float64; return max |a - r| / max |r| of both.

    Every seventh element is compared. Labels are random, so that a trained network has a loss as well.
    """
    double, rng = Capsules(dtype="float64"), np.random.default_rng(1)
    for network, source in zip(double.networks, capsules.networks, strict=True):
        for name, array in source.parameters.items():
            network.parameters[name][...] = array
    X, y = digits("float64")[2][:4], rng.integers(0, CLASSES, 4)
    dz = double.backward(margin_loss(double.forward(X), y)[1])
    z = double.z.copy()

    def error(pairs: list[tuple[Array, Array]], h: float = 1e-5) -> float:
        computed: list[float] = []
        expected: list[float] = []
        for array, gradient in pairs:
            flat = array.reshape(-1)
            for i in range(0, flat.size, 7):
                kept, sides = flat[i], []
                for flat[i] in (kept + h, kept - h):
                    sides.append(margin_loss(route(double.expectations(z))[-1][2], y)[0])
                flat[i] = kept
                expected.append((sides[0] - sides[1]) / (2 * h))
            computed.extend(gradient.reshape(-1)[::7])
        return float(np.abs(np.subtract(computed, expected)).max() / np.abs(expected).max())

    return error([(z, dz)]), error([(net.parameters["0.W"], net.gradient["0.W"]) for net in double.expect])


def main(picture: str) -> dict[str, Any]:
    """Check the gradients, train, and show the effect of agreement."""
    before = check(Capsules())
    capsules, history = train(EPOCHS)
    errors = np.maximum(before, check(capsules))
    print(f"gradients against central differences: ∂L/∂z {errors[0]:.1e}, ∂L/∂W {errors[1]:.1e}")
    print(f"{EPOCHS} epochs: loss {history[-1, 0]:.4f}, held-out accuracy {history[-1, 1]:.4f}")

    _, _, X, y = digits()
    tape, rows, agreement = capsules.routing(X), np.arange(len(y)), []
    for i, (c, _, v) in enumerate(tape, 1):
        n = np.linalg.norm(v, axis=2)
        wrong = np.where(np.eye(CLASSES, dtype=bool)[y], 0, n).max(axis=1)
        figures = (float(n[rows, y].mean()), float(wrong.mean()), float(c[rows, :, y].mean()))
        print("iteration {}: |v| {:.3f} correct, {:.3f} longest wrong; c {:.3f} correct".format(i, *figures))
        agreement.append(figures)
    draw(history, np.array(agreement), X[0], y[0], [c[0] for c, _, _ in tape], picture)
    return {
        "accuracy": float(history[-1, 1]),
        "gradient_errors": errors.tolist(),
        "coupling": [share for _, _, share in agreement],
    }


def draw(history: Array, agreement: Array, x: Array, digit: int, C: list[Array], picture: str) -> None:
    """Draw the training, the effect of agreement, and the couplings c of one digit x per iteration."""
    fig = figure(12.0, 7.0)
    layout: Any = [["accuracy"] * 2 + ["agreement"] * 2, ["x", 1, 2, 3]]
    axes: Any = fig.subplot_mosaic(layout)
    axis = axes["accuracy"]
    axis.plot(np.arange(1, len(history) + 1), history[:, 1], color=COLOURS[0], marker="o", markersize=4)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set_title(f"accuracy: {history[-1, 1]:.4f} at the end", fontsize="medium")
    dress(axis, "epoch", "held-out accuracy")

    axis = axes["agreement"]
    names = ("|v| of the correct digit", "|v| of the longest wrong one", "c of the correct digit")
    for values, name, colour in zip(agreement.T, names, COLOURS, strict=False):
        axis.plot([1, 2, 3], values, marker="o", color=colour, label=name)
    axis.set(xticks=[1, 2, 3], ylim=(0, 1))
    axis.set_title("the effect of agreement", fontsize="medium")
    axis.legend(frameon=False, fontsize="small")
    dress(axis, "iteration", "mean over the held-out rows")

    axes["x"].imshow(x.reshape(8, 8), cmap="gray_r")
    axes["x"].set(xticks=[], yticks=[], xlabel=f"a held-out {digit}")
    for i, c in enumerate(C, 1):
        image = axes[i].imshow(c, vmin=0, vmax=np.max(C), aspect="auto")
        axes[i].set(xlabel="digit capsule", xticks=range(CLASSES))
        axes[i].set_title(f"its couplings c in iteration {i}", fontsize="medium")
    axes[1].set_ylabel("primary capsule")
    fig.colorbar(image, ax=axes[3], label="c")
    write(fig, picture)
