"""Where the arrays of a layer are stored in Keras's layers, and which functions are links of losses."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from ..common import Slot

#: Function that a loss applies itself → name of the link.
LINKS: dict[Any, str] = {
    keras.activations.softmax: "softmax",
    keras.activations.sigmoid: "sigmoid",
    keras.activations.exponential: "exp",
}


def slot(name: str, variable: Any) -> Slot:
    """Make a slot for a variable, which has bpfast's shape."""
    if variable is None:
        return Slot(name, trained=False)
    raw = np.asarray(keras.ops.convert_to_numpy(variable))
    return Slot(name, bool(variable.trainable), variable, raw, lambda v, values: v.assign(values))


def dense_slots(m: Any) -> list[Slot]:
    """Slots of a Dense."""
    return [slot("W", m.kernel), *([slot("b", m.bias)] if m.use_bias else [])]


def norm_slots(m: Any) -> list[Slot]:
    """Slots of a LayerNormalization, and the trained ones of a BatchNormalization."""
    return [slot("gamma", m.gamma), slot("beta", m.beta)]


def batch_norm_slots(m: Any) -> list[Slot]:
    """Slots of a BatchNormalization."""
    return [*norm_slots(m), slot("mean", m.moving_mean), slot("variance", m.moving_variance)]
