"""The gallery's GAN: what it counts, the gradient that crosses two networks, and that it learns."""

import numpy as np
import pytest

from bpfast import gallery
from bpfast.gallery import gan


def test_points_on_every_mode_cover_eight():
    real = gan.ring(4000, np.random.default_rng(1))
    covered, good = gan.coverage(real)
    assert covered == 8
    # Of a Gaussian in the plane 1 - exp(-9/2) = 98.9 % lie within 3 deviations.
    assert good == pytest.approx(1 - np.exp(-4.5), abs=0.01)


def test_a_mode_with_too_few_points_is_not_covered():
    centres = gan.centres()
    rare = np.repeat(centres, [125, 125, 125, 125, 125, 125, 245, 5], axis=0)
    assert gan.coverage(rare) == (7, 1.0)
    assert gan.coverage(np.repeat(centres[2:3], 50, axis=0)) == (1, 1.0)


def test_points_off_the_modes_count_for_none():
    inside, outside = gan.centres() * (1 + 2.9 * 0.02 / 2), gan.centres() * (1 + 3.1 * 0.02 / 2)
    assert gan.coverage(inside) == (8, 1.0)
    assert gan.coverage(outside) == (0, 0.0)


@pytest.mark.parametrize("packing", [1, 2])
def test_the_gradient_reaches_the_generator_through_the_discriminator(packing, rng, error):
    generator, discriminator = gan.networks(0, packing, dtype="float64")
    noise, real = rng.normal(size=(8, gan.NOISE)), np.ones(8)
    loss, dpoints = gan.judge(discriminator, generator.forward(noise, training=True), real)
    generator.backward(dpoints)
    assert loss == pytest.approx(-np.log(discriminator.predict(packs(generator, noise, packing))).mean())
    given, wanted = [], []
    for name, array in generator.parameters.items():
        flat = array.reshape(-1)
        for i in range(0, flat.size, 97):
            kept, sides = flat[i], []
            for flat[i] in (kept + 1e-6, kept - 1e-6):
                sides.append(-np.log(discriminator.predict(packs(generator, noise, packing))).mean())
            flat[i] = kept
            wanted.append((sides[0] - sides[1]) / 2e-6)
            given.append(generator.gradient[name].reshape(-1)[i])
    assert error(given, wanted) < 1e-6


def packs(generator, noise, packing):
    return generator.forward(noise).reshape(-1, 2 * packing)


def test_the_discriminators_gradient_tells_real_from_generated(rng):
    _, discriminator = gan.networks(0, 2, dtype="float64")
    points, real = rng.normal(size=(12, 2)), np.repeat([1.0, 0.0], 6)
    gan.judge(discriminator, points, real)
    expected = discriminator.gradients(points.reshape(6, 4), [1, 1, 1, 0, 0, 0])
    for name, array in discriminator.gradient.items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-12, atol=1e-15)


def test_the_same_bits_on_each_run():
    runs = [gan.train(0, steps=60) for _ in range(2)]
    (first, losses), (second, again) = runs
    assert gan.sample(first).tobytes() == gan.sample(second).tobytes()
    assert losses.tobytes() == again.tobytes()


def test_it_covers_the_ring_with_three_seeds_and_draws(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "gan.png"
    figures = gallery.run("gan", picture)
    assert len(figures["modes"]) == 3
    assert min(figures["modes"]) >= 7
    assert min(figures["quality"]) >= 0.75
    # What packing is for: without it modes are dropped.
    assert figures["modes_without_packing"] < min(figures["modes"])
    assert picture.stat().st_size > 10_000
    printed = capsys.readouterr().out
    for seed, modes in enumerate(figures["modes"]):
        assert f"seed {seed}, packs of 2: {modes} of 8 modes" in printed
