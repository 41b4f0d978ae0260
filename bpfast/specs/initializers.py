"""Initializers: the initial weights, drawn by a counter-based generator with one stream per parameter."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .spec import Family, Spec, number, spec


class Initializer(Spec):
    """Initial values of a parameter of shape (I, O), or (O,) for a bias."""

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float64]:
        """Draw the initial values, in float64."""
        raise NotImplementedError


initializers: Family[Initializer] = Family("initializer", Initializer)


def generator(seed: int, stream: int) -> np.random.Generator:
    """Return the generator of one parameter: Philox keyed by (seed, stream), independent of all others."""
    return np.random.Generator(np.random.Philox(key=[seed, stream]))


def _fans(shape: tuple[int, ...]) -> tuple[int, int]:
    return (shape[0], shape[-1])


def _uniform(limit: float, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float64]:
    return limit * (2.0 * rng.random(shape) - 1.0)


@initializers.register("xavier_uniform", "glorot_uniform", "xavier", "glorot")
@spec
class XavierUniform(Initializer):
    """U(-a, a) with a = √(6 / (I + O)) (Glorot & Bengio 2010)."""

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float64]:
        return _uniform(math.sqrt(6.0 / sum(_fans(shape))), shape, rng)


@initializers.register("xavier_normal", "glorot_normal")
@spec
class XavierNormal(Initializer):
    """N(0, 2 / (I + O)) (Glorot & Bengio 2010)."""

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float64]:
        return math.sqrt(2.0 / sum(_fans(shape))) * rng.standard_normal(shape)


@initializers.register("he_uniform")
@spec
class HeUniform(Initializer):
    """U(-a, a) with a = √(6 / I) (He et al. 2015)."""

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float64]:
        return _uniform(math.sqrt(6.0 / _fans(shape)[0]), shape, rng)


@initializers.register("he_normal", "he")
@spec
class HeNormal(Initializer):
    """N(0, 2 / I) (He et al. 2015)."""

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float64]:
        return math.sqrt(2.0 / _fans(shape)[0]) * rng.standard_normal(shape)


@initializers.register("lecun_uniform")
@spec
class LeCunUniform(Initializer):
    """U(-a, a) with a = √(3 / I) (LeCun et al. 1998)."""

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float64]:
        return _uniform(math.sqrt(3.0 / _fans(shape)[0]), shape, rng)


@initializers.register("lecun_normal", "lecun")
@spec
class LeCunNormal(Initializer):
    """N(0, 1 / I) (LeCun et al. 1998)."""

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float64]:
        return math.sqrt(1.0 / _fans(shape)[0]) * rng.standard_normal(shape)


@initializers.register("orthogonal")
@spec
class Orthogonal(Initializer):
    """gain · Q with orthonormal rows or columns, by QR decomposition of a normal matrix (Saxe et al. 2014).

    Parameters
    ----------
    gain : float, default 1.0
        The singular value of the result; greater than 0.
    """

    gain: float = 1.0

    def __post_init__(self) -> None:
        self._set("gain", number("Orthogonal", "gain", self.gain, above=0))

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float64]:
        rows, columns = _fans(shape)
        normal = rng.standard_normal((max(rows, columns), min(rows, columns)))
        q, r = np.linalg.qr(normal)
        q *= np.where(np.diag(r) < 0, -1.0, 1.0)
        return self.gain * (q if rows >= columns else q.T).reshape(shape)


@initializers.register("constant")
@spec
class Constant(Initializer):
    """The same value for every element.

    Parameters
    ----------
    value : float, default 0.0
        The value.
    """

    value: float = 0.0

    def __post_init__(self) -> None:
        self._set("value", number("Constant", "value", self.value))

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float64]:
        return np.full(shape, self.value)


@initializers.register("zeros")
@spec
class Zeros(Initializer):
    """0 for every element; the default for biases."""

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float64]:
        return np.zeros(shape)
