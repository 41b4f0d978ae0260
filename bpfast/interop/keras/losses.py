"""Keras's losses whose counterparts in bpfast compute exactly the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from ...specs.losses import AbsoluteError, CrossEntropy, Hinge, Huber, LogLoss, Loss, Poisson, SquaredError

#: Name of the function of a Keras loss → what makes the loss from its configuration.
LOSSES: dict[str, Callable[[dict[str, Any]], Loss]] = {
    "mean_squared_error": lambda c: SquaredError(),
    "mean_absolute_error": lambda c: AbsoluteError(),
    "huber": lambda c: Huber(c.get("delta", 1.0)),
    "hinge": lambda c: Hinge(),
    "poisson": lambda c: Poisson(),
    "binary_crossentropy": lambda c: LogLoss(),
    "categorical_crossentropy": lambda c: CrossEntropy(),
    "sparse_categorical_crossentropy": lambda c: CrossEntropy(),
}

#: Allowed values of a configuration.
_ALLOWED: dict[str, tuple[Any, ...]] = {
    "reduction": ("sum_over_batch_size", "mean"),
    "label_smoothing": (0.0,),
    "axis": (-1,),
    "ignore_class": (None,),
}


def read_loss(loss: Any) -> tuple[Loss, bool]:
    """Read a Keras loss, its name or its function; also return whether it expects the link applied."""
    if isinstance(loss, (list, tuple)) and len(loss) == 1:
        loss = loss[0]
    if isinstance(loss, str):
        loss = keras.losses.get(loss)
    if isinstance(loss, type):
        loss = loss()
    function = getattr(loss, "fn", loss)
    name = getattr(function, "__name__", type(loss).__name__)
    if name not in LOSSES or function is not getattr(keras.losses, name):
        raise ValueError(f"loss {name} has no counterpart in bpfast (of Keras's: {', '.join(LOSSES)})")
    # The delta of Huber is not in its configuration.
    config = {**getattr(loss, "_fn_kwargs", {}), **loss.get_config()} if loss is not function else {}
    for key, allowed in _ALLOWED.items():
        if config.get(key, allowed[0]) not in allowed:
            raise ValueError(f"loss {name}: {key} must be {allowed[0]!r} for bpfast; got {config[key]!r}")
    return LOSSES[name](config), not config.get("from_logits", False)
