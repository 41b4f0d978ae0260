"""Penalties, as public API; defined in `bpfast.specs.penalties`."""

from .specs.penalties import (
    L0,
    L1,
    L2,
    ElasticNet,
    Frobenius,
    Penalty,
    penalties,
)

__all__ = ["L0", "L1", "L2", "ElasticNet", "Frobenius", "Penalty", "penalties"]
