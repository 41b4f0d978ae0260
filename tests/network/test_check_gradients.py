"""check_gradients: analytic gradients against finite differences."""

import numpy as np
import pytest

import bpfast as bp
from bpfast.activations import activations
from bpfast.losses import losses

SMOOTH_ACTIVATIONS = [name for name in activations if activations[name].smooth]
SMOOTH_LOSSES = [name for name in losses if losses[name].smooth]


def test_smooth_activations_and_losses():
    assert set(SMOOTH_ACTIVATIONS) == {"identity", "sigmoid", "tanh", "elu", "gelu", "silu", "softplus"}
    assert set(SMOOTH_LOSSES) == set(losses) - {"absolute_error", "hinge", "quantile"}


@pytest.mark.parametrize("activation", SMOOTH_ACTIVATIONS)
@pytest.mark.parametrize("loss", SMOOTH_LOSSES)
def test_gradients_by_differences(build, problem, bytes_of, activation, loss):
    X, y = problem(loss, rows=8)
    net = build((3, 5, 4, 2), activation, loss)
    before = bytes_of(net)
    assert bp.check_gradients(net, X, y) < 1e-6
    assert bp.check_gradients(net, X, y, sample_weight=np.arange(8.0), penalty=bp.L2(0.1)) < 1e-6
    assert bytes_of(net) == before


@pytest.mark.parametrize("activation", sorted(set(activations) - set(SMOOTH_ACTIVATIONS)))
@pytest.mark.parametrize("loss", ["squared_error", "absolute_error", "hinge"])
def test_gradients_away_from_kinks(build, problem, activation, loss):
    assert bp.check_gradients(build((3, 5, 2), activation, loss), *problem(loss)) < 1e-6


@pytest.mark.parametrize("penalty", [bp.L2(0.3), bp.Frobenius(0.3)], ids=str)
def test_gradients_with_penalties(build, problem, penalty):
    assert bp.check_gradients(build(), *problem(), penalty=penalty) < 1e-6


@pytest.mark.parametrize("penalty", [bp.L1(0.1), bp.L0(0.1), bp.ElasticNet(0.1)], ids=str)
def test_check_gradients_rejects_penalties_without_a_derivative(build, problem, penalty):
    with pytest.raises(ValueError, match=rf"penalty must be smooth; {penalty.name} is not diff"):
        bp.check_gradients(build(), *problem(), penalty=penalty)


def test_check_gradients_in_float32(build, problem):
    X, y = problem()
    assert bp.check_gradients(build(dtype="float32"), X.astype("f4").astype("f8"), y.astype("f4")) < 1e-5


def test_check_gradients_detects_a_wrong_gradient(build, problem):
    def wrong(Y, Z):
        return ((Z - Y) ** 2).mean(axis=1), 1.01 * 2 * (Z - Y) / Z.shape[1]

    assert bp.check_gradients(build(loss=wrong), *problem()) == pytest.approx(0.01, rel=1e-3)


def test_check_gradients_of_a_part_of_a_large_network(build, problem):
    X, y = problem()
    assert bp.check_gradients(build((3, 60, 60, 2)), X, y, max_parameters=50) < 1e-6
