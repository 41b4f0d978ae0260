"""The vectorised elementary functions, within the maximum errors that their table states."""

import functools

import mpmath
import numpy as np
import pytest
import scipy.special

from bpfast.native import _core

ISAS = _core.isas()
FUSED = [isa for isa in ISAS if isa != "baseline"]
DTYPES = ("float32", "float64")
#: Arguments at which a function changes its formula, overflows or becomes subnormal.
RANGES = {
    "exp": [(-104, -87), (-88, 89), (-1, 1)],
    "expm1": [(-18, 89), (-1, 1), (-1e-3, 1e-3)],
    "log": [(0.5, 2), (0.99, 1.01), (0, 2**-120)],
    "log1p": [(-1, 1), (-1e-3, 1e-3), (1, 100)],
    "tanh": [(-10, 10), (-0.5, 0.5)],
    "erf": [(-4, 4), (-1.1, 1.1)],
    "sigmoid": [(-104, 20), (-2, 2)],
    "softplus": [(-104, 20), (-2, 2)],
    "normal_cdf": [(-14.3, 6), (-2, 2)],
}
#: The same for float64, whose ranges are wider.
WIDER = {
    "exp": [(-746, -708), (-745, 710)],
    "expm1": [(-38, 710)],
    "log": [(0, 2**-1015)],
    "log1p": [],
    "tanh": [(-20, 20)],
    "erf": [(-6, 6)],
    "sigmoid": [(-746, -30)],
    "softplus": [(-746, -30)],
    "normal_cdf": [(-38.6, -14)],
}
#: Arguments at which a search over all floats and many doubles found the largest errors, with FMA and not.
WORST = {
    "exp": [5.198683738708496, 5.199066162109375, -29.446832213344351, 105.01853665087219],
    "expm1": [0.3469526171684265, 0.34734848141670227, 0.34673159762627015, 0.34673316785475877],
    "log": [0.7061485648155212, 1.4133185148239136, 0.7058516919436183, 0.70681645648472669],
    "log1p": [0.42161211371421814, 0.4268120229244232, 0.41490254449300029, 0.41886307992901567],
    "tanh": [0.12464199215173721, 0.06104687601327896, 0.20547884987648368, -0.030351588544976382],
    "erf": [0.9978796243667603, 0.9998279213905334, 1.0676856900983804, 0.99743958174128433],
    "sigmoid": [-4.157293796539307, -4.1581654402956154],
    "softplus": [-2.757007598876953, -2.7432341430913119],
    "normal_cdf": [-5.664186954498291, -0.001036047819070518, -31.674102282895856, -30.150977018863298],
}
FLOAT64 = {
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "tanh": np.tanh,
    "erf": scipy.special.erf,
    "sigmoid": scipy.special.expit,
    "softplus": lambda x: np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))),
    "normal_cdf": scipy.special.ndtr,
}
EXACT = {
    "exp": mpmath.exp,
    "expm1": mpmath.expm1,
    "log": mpmath.log,
    "log1p": mpmath.log1p,
    "tanh": mpmath.tanh,
    "erf": mpmath.erf,
    "sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)),
    "softplus": lambda x: x if x > 800 else mpmath.log1p(mpmath.exp(x)),
    # Beyond 40 it is 0 or 1, which mpmath would compute at length.
    "normal_cdf": lambda x: mpmath.erfc(-max(-40, min(x, 40)) / mpmath.sqrt(2)) / 2,
}
INF, NAN = np.inf, np.nan
SPECIALS = (0.0, -0.0, INF, -INF, NAN)
#: The results for those five.
SPECIAL_RESULTS = {
    "exp": (1.0, 1.0, INF, 0.0, NAN),
    "expm1": (0.0, -0.0, INF, -1.0, NAN),
    "log": (-INF, -INF, INF, NAN, NAN),
    "log1p": (0.0, -0.0, INF, NAN, NAN),
    "tanh": (0.0, -0.0, 1.0, -1.0, NAN),
    "erf": (0.0, -0.0, 1.0, -1.0, NAN),
    "sigmoid": (0.5, 0.5, 1.0, 0.0, NAN),
    "softplus": (np.log(2), np.log(2), INF, 0.0, NAN),
    "normal_cdf": (0.5, 0.5, 1.0, 0.0, NAN),
}
FUNCTIONS = list(SPECIAL_RESULTS)


@pytest.fixture(params=ISAS)
def isa(request, monkeypatch):
    """Run with each instruction set of this CPU, in this process."""
    monkeypatch.setenv("BPFAST_ISA", request.param)
    return request.param


def elementary(name, x):
    y = np.full_like(x, 7)
    _core.elementary(name, x, y)
    return y


@functools.cache
def sample(name, dtype):
    """All magnitudes, subnormal ones included, then dense ranges, where the function is finite."""
    bits, everywhere, swept = (np.uint32, 2**20, 2**17) if dtype == "float32" else (np.uint64, 8000, 4000)
    step = np.iinfo(bits).max // everywhere
    x = (np.arange(everywhere, dtype=bits) * bits(step)).view(dtype)
    ranges = RANGES[name] + (WIDER[name] if dtype == "float64" else [])
    sweeps = [np.linspace(*ends, swept, dtype=dtype) for ends in ranges]
    x = np.concatenate([x[np.isfinite(x)], np.array(WORST[name], dtype), *sweeps])
    return x[x > {"log": 0, "log1p": -1}.get(name, -INF)]


def ulp(value, dtype):
    """The unit in the last place of numbers of this type as large as value."""
    info = np.finfo(dtype)
    exponent = np.clip(np.frexp(value)[1] - 1, info.minexp, info.maxexp - 1)
    return np.ldexp(1.0, exponent - info.nmant)


@functools.cache
def truth(name, dtype):
    """The true values at the sample in float64, and their errors in ulp; the largest number for infinity."""
    x, top = sample(name, dtype), float(np.finfo(dtype).max)
    if dtype == "float32":
        with np.errstate(over="ignore", under="ignore"):
            return np.clip(FLOAT64[name](x.astype(np.float64)), -top, top), 0.0
    with mpmath.workprec(100):
        exact = [EXACT[name](mpmath.mpf(v)) for v in x.tolist()]
        exact = [min(v, mpmath.mpf(top)) for v in exact]
        value = np.array([float(v) for v in exact])
        units = ulp(value, dtype)
        rest = [float((v - h) / u) for v, h, u in zip(exact, value.tolist(), units.tolist(), strict=True)]
    return value, np.array(rest)


def test_every_function_has_its_truth():
    assert set(_core.elementary_ulp()) == set(FUNCTIONS) == set(FLOAT64) == set(EXACT)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_error_is_within_what_is_stated(name, dtype, isa):
    top = np.finfo(dtype).max
    y = np.clip(elementary(name, sample(name, dtype)), -top, top).astype(np.float64)
    value, rest = truth(name, dtype)
    worst = np.abs((y - value) / ulp(value, dtype) - rest).max()
    assert worst <= _core.elementary_ulp()[name]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_special_values(name, dtype, isa):
    y = elementary(name, np.array(SPECIALS, dtype))
    expected = np.array(SPECIAL_RESULTS[name], dtype)
    np.testing.assert_allclose(y, expected, rtol=1e-6)
    zero = expected == 0
    assert (np.signbit(y[zero]) == np.signbit(expected[zero])).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_tail_is_bitwise_identical_to_the_middle(name, dtype, isa):
    x = sample(name, dtype)
    x = x[:: len(x) // 100].copy()
    whole = elementary(name, x)
    for n in range(1, 41):
        y = np.full(n + 20, 7, dtype)
        _core.elementary(name, x[:n], y[:n])
        assert y[:n].tobytes() == whole[:n].tobytes()
        assert (y[n:] == 7).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_results_with_fma_are_bitwise_identical(name, dtype, monkeypatch):
    bits = set()
    for isa in FUSED:
        monkeypatch.setenv("BPFAST_ISA", isa)
        bits.add(elementary(name, sample(name, dtype)).tobytes())
    assert len(bits) <= 1
