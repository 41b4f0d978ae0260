"""Fine-tuning of a network: learning rates by layer, frozen layers, copied parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ._state import BaseNetwork
from .specs.spec import number


class FineTuning(BaseNetwork):
    """Base class of `bpfast.Network` with what transfer learning needs."""

    @property
    def learning_rate_scales(self) -> dict[str, float]:
        """Multipliers of the learning rate, by the names of `parameters`."""
        return {name: self._state.lr_scales.get(name, 1.0) for name in self.parameters}

    def scale_learning_rates(self, scales: Mapping[Any, float]) -> None:
        """Set multipliers of the learning rate for layers or single parameters.

        Parameters
        ----------
        scales : dict
            Multipliers, at least 0, by a layer's index in `layers`, its name (``"2.0"`` is the first
            layer inside a `Residual` at index 2) or a parameter's name (``"0.W"``). Those not named keep
            their multiplier. At 0 a parameter does not change: no update, no penalty, and the optimizer's
            state is left alone; a `BatchNorm` at 0 also keeps its running statistics and normalises with
            them in training. Rprop adapts its own step sizes, so only 0 has an effect there.

        Examples
        --------
        >>> import bpfast as bp
        >>> net = bp.Network([bp.Dense(32, "relu"), bp.Dense(2)], n_inputs=4, loss="cross_entropy")
        >>> net.scale_learning_rates({0: 0.1, "1.b": 0})
        """
        if not isinstance(scales, Mapping):
            raise TypeError(f"scales must be a dict by layer or parameter; got {scales!r}")
        merged = dict(self._state.lr_scales)
        for key, scale in scales.items():
            value = number("scale_learning_rates", f"scales[{key!r}]", scale, at_least=0)
            merged.update(dict.fromkeys(self._state.names_of(key), value))
        self._state.require_no_fit("scale_learning_rates")
        self._state.lr_scales = {name: scale for name, scale in merged.items() if scale != 1}

    def freeze_layers(self, *layers: int | str) -> None:
        """Exclude layers from training: `scale_learning_rates` with 0 for each.

        For a read-only predictor with a copy of the weights, see `freeze`.

        Parameters
        ----------
        *layers : int or str
            Layers as separate arguments: ``net.freeze_layers(0, 1)``.
        """
        self.scale_learning_rates(dict.fromkeys(_one_by_one("freeze_layers", layers), 0.0))

    def unfreeze_layers(self, *layers: int | str) -> None:
        """Train layers at the full learning rate again; all of them if none is given."""
        named = _one_by_one("unfreeze_layers", layers)
        self.scale_learning_rates(dict.fromkeys(named or tuple(self.parameters), 1.0))

    def copy_parameters(self, other: BaseNetwork) -> list[str]:
        """Copy parameters and statistics of the same name and shape from another network.

        Parameters
        ----------
        other : Network
            Network to copy from, such as a loaded one with the same first layers.

        Returns
        -------
        list of str
            Names of the parameters and statistics that were copied.

        Examples
        --------
        >>> import bpfast as bp
        >>> ten = bp.Network([bp.Dense(32, "relu"), bp.Dense(10)], n_inputs=64, loss="cross_entropy")
        >>> three = bp.Network([*ten.layers[:-1], bp.Dense(3)], n_inputs=64, loss="cross_entropy")
        >>> three.copy_parameters(ten)
        ['0.W', '0.b']
        """
        if not isinstance(other, BaseNetwork):
            raise TypeError(f"copy_parameters: other must be a Network; got {other!r}")
        self._state.require_no_fit("copy_parameters")
        ours = {**self.parameters, **self.statistics}
        theirs = {**other.parameters, **other.statistics}
        taken = [name for name in ours if name in theirs and ours[name].shape == theirs[name].shape]
        for name in taken:
            ours[name][...] = theirs[name]
        return taken


def _one_by_one(call: str, layers: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the layers; refuse a list of them as one argument."""
    for layer in layers:
        if isinstance(layer, (list, tuple, set, range)):
            raise TypeError(f"{call} takes layers one by one, such as {call}(0, 1); got {layer!r}")
    return layers
