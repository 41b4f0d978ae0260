"""The capsules of the gallery: squashing, routing, margin loss, the gradient check, and training."""

import numpy as np
import pytest

from bpfast import gallery
from bpfast.gallery import capsule


def slopes(f, array, h=1e-6):
    """Central differences of f() with respect to the elements of an array that f reads."""
    result = np.empty_like(array)
    for place in np.ndindex(array.shape):
        kept, sides = array[place], []
        for array[place] in (kept + h, kept - h):
            sides.append(f())
        array[place] = kept
        result[place] = (sides[0] - sides[1]) / (2 * h)
    return result


def test_squash_keeps_the_direction_and_bounds_the_length():
    S = np.array([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    expected = [[0.6 * 25 / 26, 0.8 * 25 / 26], [0.6 * 0.25 / 1.25, 0.8 * 0.25 / 1.25], [0, 0]]
    np.testing.assert_allclose(capsule.squash(S), expected, rtol=1e-15)


def test_the_gradient_of_squash(rng, error):
    S, G = rng.normal(size=(5, 4)), rng.normal(size=(5, 4))
    numeric = slopes(lambda: (G * capsule.squash(S)).sum(), S)
    assert error(capsule.squash_backward(S, G), numeric) < 1e-8
    assert not capsule.squash_backward(np.zeros((1, 4)), G[:1]).any()


def test_routing_starts_uniform_and_follows_agreement():
    # Two capsules have equal predictions for digit 0 and opposite ones for digit 1.
    U = np.array([[[[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [-1.0, 0.0]]]])
    tape = capsule.route(U)
    first, _, v = tape[0]
    np.testing.assert_array_equal(first, np.full((1, 2, 2), 0.5))
    # s = (1, 0) for digit 0, squashed to half of it; 0 for digit 1.
    np.testing.assert_allclose(v, [[[0.5, 0.0], [0.0, 0.0]]], atol=1e-15)
    second = tape[1][0]
    np.testing.assert_allclose(second[0, :, 0], 1 / (1 + np.exp(-0.5)), rtol=1e-14)
    third = tape[2][0]
    assert (third[0, :, 0] > second[0, :, 0]).all()
    np.testing.assert_allclose(third.sum(axis=2), 1, rtol=1e-14)


@pytest.mark.parametrize("iterations", [1, 2, 3, 5])
def test_the_gradient_goes_through_every_iteration(iterations, rng, error):
    U, G = rng.normal(size=(3, 4, 5, 2)), rng.normal(size=(3, 5, 2))
    numeric = slopes(lambda: (G * capsule.route(U, iterations)[-1][2]).sum(), U)
    tape = capsule.route(U, iterations)
    assert error(capsule.route_backward(U, tape, G), numeric) < 1e-8
    # Treating the couplings of the last iteration as constant gives a different gradient.
    if iterations > 1:
        assert error(capsule.route_backward(U, tape[-1:], G), numeric) > 1e-2


def test_the_margin_loss_by_hand(rng, error):
    V = np.zeros((2, 10, 3))
    V[0, 4, 1], V[0, 7, 0], V[0, 8, 2] = 0.95, 0.4, 0.05
    V[1, 2, 0] = 0.3
    # Row 0, class 4: only capsule 7 is too long. Row 1, class 1: missing, and capsule 2 too long.
    expected = (0.5 * 0.3**2 + 0.9**2 + 0.5 * 0.2**2) / 2
    assert capsule.margin_loss(V, np.array([4, 1]))[0] == pytest.approx(expected, rel=1e-14)
    V, y = rng.normal(0, 0.3, (4, 10, 3)), np.array([0, 3, 9, 3])
    assert error(capsule.margin_loss(V, y)[1], slopes(lambda: capsule.margin_loss(V, y)[0], V)) < 1e-8


def test_the_check_detects_an_incomplete_backward_pass(monkeypatch):
    right = capsule.check(capsule.Capsules(seed=3))
    assert max(right) < 1e-6
    whole = capsule.route_backward
    monkeypatch.setattr(capsule, "route_backward", lambda U, tape, dV: whole(U, tape[-1:], dV))
    wrong = capsule.check(capsule.Capsules(seed=3))
    assert min(wrong) > 1e-4


def test_results_are_bitwise_reproducible(bytes_of):
    (first, history), (second, again) = (capsule.train(epochs=1, seed=5) for _ in range(2))
    assert history.tobytes() == again.tobytes()
    for a, b in zip(first.networks, second.networks, strict=True):
        assert bytes_of(a) == bytes_of(b)


def test_accuracy_and_picture(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "capsule.png"
    figures = gallery.run("capsule", picture)
    assert figures["accuracy"] >= 0.95
    assert max(figures["gradient_errors"]) < 1e-6
    even, once, twice = figures["coupling"]
    assert even == pytest.approx(0.1, abs=1e-6)
    assert even < once < twice
    assert picture.stat().st_size > 10_000
    assert f"held-out accuracy {figures['accuracy']:.4f}" in capsys.readouterr().out
