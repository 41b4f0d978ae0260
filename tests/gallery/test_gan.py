"""The GAN of the gallery: coverage of modes, the gradient through two networks, and training."""

import numpy as np
import pytest

from bpfast import gallery
from bpfast.gallery import gan


def test_points_on_every_mode_cover_eight():
    real = gan.ring(4000, np.random.default_rng(1))
    covered, good = gan.coverage(real)
    assert covered == 8
    # 1 - exp(-9/2) = 98.9 % of a two-dimensional Gaussian lies within 3 standard deviations.
    assert good == pytest.approx(1 - np.exp(-4.5), abs=0.01)


def test_a_mode_with_too_few_points_is_not_covered():
    centres = gan.centres()
    rare = np.repeat(centres, [125, 125, 125, 125, 125, 125, 245, 5], axis=0)
    assert gan.coverage(rare) == (7, 1.0)
    assert gan.coverage(np.repeat(centres[2:3], 50, axis=0)) == (1, 1.0)


def test_points_far_from_all_modes_do_not_count():
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
    computed, expected = [], []
    for name, array in generator.parameters.items():
        flat = array.reshape(-1)
        for i in range(0, flat.size, 97):
            kept, sides = flat[i], []
            for flat[i] in (kept + 1e-6, kept - 1e-6):
                sides.append(-np.log(discriminator.predict(packs(generator, noise, packing))).mean())
            flat[i] = kept
            expected.append((sides[0] - sides[1]) / 2e-6)
            computed.append(generator.gradient[name].reshape(-1)[i])
    assert error(computed, expected) < 1e-6


def packs(generator, noise, packing):
    return generator.forward(noise).reshape(-1, 2 * packing)


def test_the_gradient_of_the_discriminator(rng):
    _, discriminator = gan.networks(0, 2, dtype="float64")
    points, real = rng.normal(size=(12, 2)), np.repeat([1.0, 0.0], 6)
    gan.judge(discriminator, points, real)
    expected = discriminator.gradients(points.reshape(6, 4), [1, 1, 1, 0, 0, 0])
    for name, array in discriminator.gradient.items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-12, atol=1e-15)


def test_results_are_bitwise_reproducible():
    runs = [gan.train(0, steps=60) for _ in range(2)]
    (first, losses), (second, again) = runs
    assert gan.sample(first).tobytes() == gan.sample(second).tobytes()
    assert losses.tobytes() == again.tobytes()


def test_coverage_with_three_seeds_and_picture(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "gan.png"
    figures = gallery.run("gan", picture)
    assert len(figures["modes"]) == 3
    assert min(figures["modes"]) >= 7
    assert min(figures["quality"]) >= 0.75
    # Without packing, modes are dropped.
    assert figures["modes_without_packing"] < min(figures["modes"])
    assert picture.stat().st_size > 10_000
    printed = capsys.readouterr().out
    for seed, modes in enumerate(figures["modes"]):
        assert f"seed {seed}, packs of 2: {modes} of 8 modes" in printed
