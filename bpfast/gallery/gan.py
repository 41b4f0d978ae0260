"""A generative adversarial network on a ring of eight Gaussians (Goodfellow et al. 2014).

The generator G turns noise z into points G(z). The discriminator D sees real points x and generated ones and
learns to distinguish them; s is its raw output, p = sigmoid(s) the probability of "real":

    discriminator   minimise  -log p(x) - log(1 - p(G(z)))
    generator       minimise  -log p(G(z)),  a loss that does not saturate while D is better

The generator never sees real points, only ∂loss/∂G(z): the result of the discriminator's `backward` is the
argument of its own.

A generator tends to drop modes, since D judges points one at a time and each of them looks real. Therefore D
judges packs of two points of one kind, side by side in a row (packing, PacGAN; Lin et al. 2018): points that
are too often too close to each other give the generator away. The first seed is also trained without packing.
The ring, of radius 2 and standard deviation 0.02, is that of Metz et al. (2017); Adam with β₁ = 0.5 that of
Radford et al. (2016).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import bpfast as bp

from ..arrays import Array
from ..kernels import loss_and_delta
from ._common import COLOURS, dress, figure, write

MODES, RADIUS, DEVIATION = 8, 2.0, 0.02
SEEDS = (0, 1, 2)
STEPS, BATCH, NOISE = 5000, 256, 2
#: Number of samples; a mode is covered if 2 % of them lie within 3 standard deviations of it.
SAMPLES, SHARE = 2500, 0.02


def centres() -> Array:
    """Return the centre of each mode (8, 2)."""
    angle = 2 * np.pi * np.arange(MODES) / MODES
    return RADIUS * np.column_stack([np.cos(angle), np.sin(angle)])


def ring(n: int, rng: np.random.Generator) -> Array:
    """Draw n real points (n, 2)."""
    return centres()[rng.integers(0, MODES, n)] + rng.normal(0, DEVIATION, (n, 2))


def coverage(points: Array) -> tuple[int, float]:
    """Return how many modes points (n, 2) cover, and the share within 3 standard deviations of a mode."""
    distance = np.linalg.norm(points[:, None] - centres(), axis=2)
    good = distance.min(axis=1) <= 3 * DEVIATION
    shares = np.bincount(distance.argmin(axis=1)[good], minlength=MODES) / len(points)
    return int((shares >= SHARE).sum()), float(good.mean())


def networks(seed: int, packing: int, dtype: str = "float32") -> tuple[bp.Network, bp.Network]:
    """Make a generator, from noise to a point, and a discriminator, from a pack of points to s."""
    # The generator is trained with the gradient from the discriminator; its own loss is not used.
    generator = bp.Network(
        [bp.Dense(64, "tanh"), bp.Dense(64, "tanh"), bp.Dense(2)],
        n_inputs=NOISE,
        loss="squared_error",
        dtype=dtype,
        seed=2 * seed,
    )
    discriminator = bp.Network(
        [bp.Dense(64, "leaky_relu"), bp.Dense(64, "leaky_relu"), bp.Dense(1)],
        n_inputs=2 * packing,
        loss="log_loss",
        dtype=dtype,
        seed=2 * seed + 1,
    )
    return generator, discriminator


def judge(discriminator: bp.Network, points: Array, real: Array) -> tuple[float, Array]:
    """Return the mean log loss of the discriminator and its gradient with respect to points (n, 2).

    `real` is 1 for each point that counts as real, else 0, and equal within a pack. The gradients of
    the discriminator's parameters are stored in it.
    """
    packs = points.reshape(-1, discriminator.n_inputs)
    labels = real.reshape(len(packs), -1)[:, :1]
    S = discriminator.forward(packs, training=True)
    loss, dS = loss_and_delta(discriminator.loss_spec, labels, S)
    return loss, discriminator.backward(dS).reshape(points.shape)


def train(seed: int, packing: int = 2, steps: int = STEPS) -> tuple[bp.Network, Array]:
    """Train a generator and a discriminator; return the generator and the losses (steps, 2) of D and G."""
    rng = np.random.default_rng(seed)
    generator, discriminator = networks(seed, packing)
    adam = bp.Adam(1e-3, beta_1=0.5)
    real, generated = np.ones(BATCH), np.zeros(BATCH)
    losses = np.empty((steps, 2))
    for step in range(steps):
        # The discriminator learns from real and generated points in one batch.
        points = np.concatenate([ring(BATCH, rng), generator.forward(rng.normal(size=(BATCH, NOISE)))])
        losses[step, 0], _ = judge(discriminator, points, np.concatenate([real, generated]))
        discriminator.update(adam)
        # The generator learns to have its points count as real; the discriminator is not updated.
        points = generator.forward(rng.normal(size=(BATCH, NOISE)), training=True)
        losses[step, 1], dpoints = judge(discriminator, points, real)
        generator.backward(dpoints)
        generator.update(adam)
    return generator, losses


def sample(generator: bp.Network, n: int = SAMPLES) -> Array:
    """Return n generated points (n, 2), always from the same noise."""
    return generator.forward(np.random.default_rng(2014).normal(size=(n, NOISE)))


def main(picture: str) -> dict[str, Any]:
    """Train with three seeds, and the first one also without packing."""
    print(f"{MODES} Gaussians on a ring, {STEPS} steps of {BATCH} points, {SAMPLES} samples per seed")
    modes, quality, clouds, curves = [], [], [], []
    for seed, packing in [*((seed, 2) for seed in SEEDS), (SEEDS[0], 1)]:
        generator, losses = train(seed, packing, STEPS)
        points = sample(generator)
        covered, good = coverage(points)
        how = "packs of 2" if packing > 1 else "no packing"
        print(f"seed {seed}, {how}: {covered} of {MODES} modes, {good:.1%} within 3 deviations")
        modes.append(covered)
        quality.append(good)
        clouds.append((f"seed {seed}, {how}: {covered} of {MODES}", points))
        curves.append(losses)
    draw(clouds, curves, picture)
    return {
        "modes": modes[: len(SEEDS)],
        "quality": quality[: len(SEEDS)],
        "modes_without_packing": modes[-1],
        "quality_without_packing": quality[-1],
    }


def draw(clouds: list[tuple[str, Array]], curves: list[Array], picture: str) -> None:
    """Draw the real points and those of each generator, and the losses with packing."""
    fig = figure(12.0, 6.6)
    grid = fig.add_gridspec(2, 4)
    places = [grid[0, 1], grid[0, 2], grid[0, 3], grid[1, 0]]
    real = ("real", ring(SAMPLES, np.random.default_rng(0)))
    # Each seed has the colour of its curves; the real points and those without packing have their own.
    colours = (COLOURS[6], *COLOURS[: len(SEEDS)], COLOURS[3])
    for place, (title, points), colour in zip([grid[0, 0], *places], [real, *clouds], colours, strict=True):
        axis = fig.add_subplot(place)
        axis.scatter(points[:, 0], points[:, 1], s=2, alpha=0.3, color=colour, linewidths=0)
        axis.set(xlim=(-2.7, 2.7), ylim=(-2.7, 2.7), aspect="equal")
        axis.set_title(title, fontsize="medium")
        dress(axis, "x₁", "x₂")

    axis = fig.add_subplot(grid[1, 1:])
    width = max(1, STEPS // 100)
    for seed, losses, colour in zip(SEEDS, curves, COLOURS, strict=False):
        # Means over a hundredth of the training, since single batches are noisy.
        means = losses[: len(losses) // width * width].reshape(-1, width, 2).mean(axis=1)
        steps = width * (np.arange(len(means)) + 0.5)
        axis.plot(steps, means[:, 0], color=colour, label=f"discriminator, seed {seed}")
        axis.plot(steps, means[:, 1], color=colour, linestyle="--", label=f"generator, seed {seed}")
    axis.axhline(math.log(2), color="#333333", linewidth=0.8, linestyle=":", label="log 2: p = ½ everywhere")
    low, high = axis.get_ylim()
    axis.set_ylim(low, high + 0.25 * (high - low))  # room for the legend
    axis.set_title("losses, with packing", fontsize="medium")
    axis.legend(frameon=False, fontsize="small", ncols=4, loc="upper center")
    dress(axis, "step", "mean loss")
    write(fig, picture)
