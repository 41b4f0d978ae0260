"""Gradient check against finite differences."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._state import NetworkState, state_of
from ..network import Network, require_network
from ..specs.penalties import penalties


def check_gradients(
    network: Network,
    X: Any,
    y: Any,
    *,
    sample_weight: Any = None,
    penalty: Any = None,
    step: float = 1e-5,
    max_parameters: int = 2000,
    training: bool = False,
) -> float:
    """Return the largest relative error of a network's gradients against central differences.

    The differences (J(w + h) - J(w - h)) / 2h are computed in float64 whatever the network's dtype, one
    weight at a time. The network does not change.

    Parameters
    ----------
    network : Network
        Network to check.
    X : array (B, I)
        Rows of the objective J.
    y : array (B,) or (B, O)
        Their targets.
    sample_weight : array (B,), optional
        Weights of the rows.
    penalty : Penalty, optional
        Smooth penalty; none by default.
    step : float, default 1e-5
        Step h, relative to max(1, |w|).
    max_parameters : int, default 2000
        Maximum number of weights to check; in a larger network they are evenly spread.
    training : bool, default False
        Check the objective of the next step of `fit`, as in `Network.gradients`, instead of that in
        prediction mode. The gradient of `BatchRenorm` holds r and d constant, unlike the differences,
        unless both are clipped.

    Returns
    -------
    float
        max |a - r| / max |r| over the weights checked: a the gradient, r the difference.

    Raises
    ------
    ValueError
        If the penalty is not smooth.
    """
    require_network("check_gradients", network)
    spec = None if penalty is None else penalties.resolve(penalty, "penalty")
    if spec is not None and not spec.smooth:
        raise ValueError(
            f"check_gradients: penalty must be smooth; {spec.name} is not differentiable everywhere"
        )
    given = network.gradients(X, y, sample_weight=sample_weight, penalty=spec, training=training)
    counterpart = _in_float64(network)
    data, unused = counterpart.check(X, y, sample_weight), np.zeros_like(counterpart.flat)

    def objective() -> float:
        if not training:
            return counterpart.evaluate(data)[0] + counterpart.penalty(spec)
        return counterpart.objective(data, spec, unused, training=counterpart.next_pass())

    places = [(name, i) for name, array in given.items() for i in range(array.size)]
    chosen = np.unique(np.linspace(0, len(places) - 1, min(len(places), max_parameters)).astype(int))
    worst, scale = 0.0, 0.0
    for name, i in (places[k] for k in chosen):
        flat = counterpart.parameters[name].reshape(-1)
        kept = flat[i]
        h = step * max(1.0, abs(kept))
        sides = []
        for side in (kept + h, kept - h):
            flat[i] = side
            sides.append(objective())
        flat[i] = kept
        slope = (sides[0] - sides[1]) / ((kept + h) - (kept - h))
        worst = max(worst, abs(float(given[name].reshape(-1)[i]) - slope))
        scale = max(scale, abs(slope))
    return worst / scale if scale > 0 else worst


def _in_float64(network: Network) -> NetworkState:
    """Return the state of a copy that computes in float64."""
    state = state_of(network)
    copy = NetworkState(
        state.layers,
        n_inputs=state.program.n_inputs,
        loss=state.loss,
        dtype="float64",
        seed=state.seed,
        threads=state.threads,
        backend=state.backend,
        initialize=False,
    )
    copy.steps, copy.lr_scales = state.steps, state.lr_scales
    for ours, theirs in ((state.parameters, copy.parameters), (state.statistics, copy.statistics)):
        for name, array in ours.items():
            theirs[name][...] = array
    return copy
