"""Layers, as public API; defined in `bpfast.specs.layers`."""

from .specs.layers import (
    Activation,
    Auxiliary,
    BatchNorm,
    BatchRenorm,
    Dense,
    Dropout,
    Layer,
    LayerNorm,
    Maxout,
    PReLU,
    Residual,
    RReLU,
    layers,
)

__all__ = [
    "Activation",
    "Auxiliary",
    "BatchNorm",
    "BatchRenorm",
    "Dense",
    "Dropout",
    "Layer",
    "LayerNorm",
    "Maxout",
    "PReLU",
    "RReLU",
    "Residual",
    "layers",
]
