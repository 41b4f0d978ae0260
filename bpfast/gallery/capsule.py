"""Capsules with dynamic routing on the digits (Sabour, Frosst & Hinton 2017).

A capsule is a vector: its length, from 0 to 1, says how likely it is that a thing is there, its
direction how the thing looks. Letters: B rows, P primary capsules, J = 10 digit capsules.

    u_p = squash(z_p)                      z of a dense network on the pixels (B, P, 8)
    û_pj = u_p W_pj                        what capsule p expects of digit j (B, P, J, 8)
    b_pj = 0, and then three times:
        c_pj = softmax_j(b_pj)             how capsule p shares itself out among the digits
        v_j = squash(Σ_p c_pj û_pj)        the digit capsules (B, J, 8)
        b_pj ← b_pj + û_pj · v_j           who agrees gets more

The dense parts are networks of bpfast, on the native engine: one from pixels to z, and for each
primary capsule one of a single layer without bias, whose W holds the W_pj. Squashing and routing
are NumPy, with a backward pass by hand through all three iterations: no c is taken as constant. The
gradient that it hands to the networks' `backward`, and that of W, are checked against central
differences. Of the paper's network the convolutions (a dense layer does for 8 × 8 pixels) and the
decoder are left out.
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

#: For each iteration of the routing c (B, P, J), s and v (B, J, K).
Tape = list[tuple[Array, Array, Array]]


def squash(S: Array) -> Array:
    """v = |s|² / (1 + |s|²) · s / |s|: the direction stays, the length comes between 0 and 1."""
    n = np.linalg.norm(S, axis=-1, keepdims=True)
    V: Array = S * n / (1 + n**2)
    return V


def squash_backward(S: Array, dV: Array) -> Array:
    """∂L/∂s = f dv + f′ (s·dv) s / |s| with f = |s| / (1 + |s|²)."""
    n = np.linalg.norm(S, axis=-1, keepdims=True)
    along = (S * dV).sum(axis=-1, keepdims=True) / np.maximum(n, np.finfo(S.dtype).tiny)
    dS: Array = dV * n / (1 + n**2) + S * along * (1 - n**2) / (1 + n**2) ** 2
    return dS


def route(U: Array, iterations: int = ITERATIONS) -> Tape:
    """Routing by agreement of û (B, P, J, K)."""
    b, tape = np.zeros_like(U[..., 0]), Tape()
    for _ in range(iterations):
        c = link("softmax", b.reshape(-1, b.shape[2])).reshape(b.shape)
        s = np.einsum("bpj,bpjk->bjk", c, U)
        v = squash(s)
        b = b + np.einsum("bpjk,bjk->bpj", U, v)
        tape.append((c, s, v))
    return tape


def route_backward(U: Array, tape: Tape, dV: Array) -> Array:
    """∂L/∂û from ∂L/∂v of the last iteration, back through every iteration and its agreement."""
    dU, db = np.zeros_like(U), np.zeros_like(U[..., 0])
    for c, s, v in reversed(tape):
        # The loss sees the last v alone, an agreement the v before it alone: db is 0 at first.
        dU += np.einsum("bpj,bjk->bpjk", db, v)
        ds = squash_backward(s, dV + np.einsum("bpj,bpjk->bjk", db, U))
        dU += np.einsum("bpj,bjk->bpjk", c, ds)
        dc = np.einsum("bpjk,bjk->bpj", U, ds)
        db = db + c * (dc - (c * dc).sum(axis=2, keepdims=True))
        dV = np.zeros_like(dV)
    return dU


def margin_loss(V: Array, y: Array) -> tuple[float, Array]:
    """The margin loss of digit capsules (B, J, K) for classes y (B,), and ∂L/∂v.

    Mean over the rows of Σ_j T_j max(0, 0.9 - |v_j|)² + ½ (1 - T_j) max(0, |v_j| - 0.1)², T_j = 1
    for the right class, else 0.
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
        # What is minimised is margin_loss; of it these networks see the gradient alone.
        options: dict[str, Any] = {"loss": "squared_error", "dtype": dtype}
        layers = [bp.Dense(128, "relu"), bp.Dense(PRIMARY * DIM)]
        self.pixels = bp.Network(layers, n_inputs=64, seed=seed, **options)
        one = [bp.Dense(CLASSES * DIM, bias=False)]
        seeds = range(seed + 1, seed + 1 + PRIMARY)
        self.expect = [bp.Network(one, n_inputs=DIM, seed=s, **options) for s in seeds]

    @property
    def networks(self) -> list[bp.Network]:
        """All that learns."""
        return [self.pixels, *self.expect]

    def expectations(self, z: Array, training: bool = False) -> Array:
        """û (B, P, J, K) of z (B, P, 8)."""
        u = squash(z)
        U = np.stack([net.forward(u[:, p], training) for p, net in enumerate(self.expect)], axis=1)
        return U.reshape(len(z), PRIMARY, CLASSES, DIM)

    def routing(self, X: Array) -> Tape:
        """Every iteration's c, s and v for pixels X."""
        return route(self.expectations(self.pixels.forward(X).reshape(-1, PRIMARY, DIM)))

    def forward(self, X: Array) -> Array:
        """The digit capsules v (B, J, K) in training: what `backward` needs is kept."""
        self.z = self.pixels.forward(X, training=True).reshape(-1, PRIMARY, DIM)
        self.U = self.expectations(self.z, training=True)
        self.tape = route(self.U)
        return self.tape[-1][2]

    def backward(self, dV: Array) -> Array:
        """From ∂L/∂v to the gradients of all weights; returns ∂L/∂z, with which the pixels' went on."""
        dU = route_backward(self.U, self.tape, dV).reshape(len(dV), PRIMARY, -1)
        du = np.stack([net.backward(dU[:, p]) for p, net in enumerate(self.expect)], axis=1)
        dz = squash_backward(self.z, du)
        self.pixels.backward(dz.reshape(len(dz), -1))
        return dz

    def update(self, optimizer: bp.Adam) -> None:
        """One step of an optimizer with the gradients of the last `backward`."""
        for network in self.networks:
            network.update(optimizer)


def train(epochs: int = EPOCHS, seed: int = 0) -> tuple[Capsules, Array]:
    """A trained network, and for each epoch its mean loss and the held-out accuracy (epochs, 2)."""
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
    """The errors of ∂L/∂z and ∂L/∂W against central differences, in float64: max |a - r| / max |r|.

    Of every seventh element. The labels are drawn at random: a trained network errs as well.
    """
    twin, rng = Capsules(dtype="float64"), np.random.default_rng(1)
    for network, source in zip(twin.networks, capsules.networks, strict=True):
        for name, array in source.parameters.items():
            network.parameters[name][...] = array
    X, y = digits("float64")[2][:4], rng.integers(0, CLASSES, 4)
    dz = twin.backward(margin_loss(twin.forward(X), y)[1])
    z = twin.z.copy()

    def error(pairs: list[tuple[Array, Array]], h: float = 1e-5) -> float:
        given: list[float] = []
        wanted: list[float] = []
        for array, gradient in pairs:
            flat = array.reshape(-1)
            for i in range(0, flat.size, 7):
                kept, sides = flat[i], []
                for flat[i] in (kept + h, kept - h):
                    sides.append(margin_loss(route(twin.expectations(z))[-1][2], y)[0])
                flat[i] = kept
                wanted.append((sides[0] - sides[1]) / (2 * h))
            given.extend(gradient.reshape(-1)[::7])
        return float(np.abs(np.subtract(given, wanted)).max() / np.abs(wanted).max())

    return error([(z, dz)]), error([(net.parameters["0.W"], net.gradient["0.W"]) for net in twin.expect])


def main(picture: str) -> dict[str, Any]:
    """Check the gradients, train, and see what the agreement does."""
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
        print("iteration {}: |v| {:.3f} right, {:.3f} longest wrong; c {:.3f} right".format(i, *figures))
        agreement.append(figures)
    draw(history, np.array(agreement), X[0], y[0], [c[0] for c, _, _ in tape], picture)
    return {
        "accuracy": float(history[-1, 1]),
        "gradient_errors": errors.tolist(),
        "coupling": [share for _, _, share in agreement],
    }


def draw(history: Array, agreement: Array, x: Array, digit: int, C: list[Array], picture: str) -> None:
    """The training, what the agreement does, and the couplings c of one digit x, an iteration each."""
    fig = figure(12.0, 7.0)
    layout: Any = [["accuracy"] * 2 + ["agreement"] * 2, ["x", 1, 2, 3]]
    axes: Any = fig.subplot_mosaic(layout)
    axis = axes["accuracy"]
    axis.plot(np.arange(1, len(history) + 1), history[:, 1], color=COLOURS[0], marker="o", markersize=4)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set_title(f"accuracy: {history[-1, 1]:.4f} at the end", fontsize="medium")
    dress(axis, "epoch", "held-out accuracy")

    axis = axes["agreement"]
    names = ("|v| of the right digit", "|v| of the longest wrong one", "c of the right digit")
    for values, name, colour in zip(agreement.T, names, COLOURS, strict=False):
        axis.plot([1, 2, 3], values, marker="o", color=colour, label=name)
    axis.set(xticks=[1, 2, 3], ylim=(0, 1))
    axis.set_title("what the agreement does", fontsize="medium")
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
