"""The native kernels against their twins in `bpfast.reference`."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bpfast import _engine, kernels, reference
from bpfast.activations import activations
from bpfast.losses import losses

SIZES = (1, 2, 7, 16, 17, 33, 100)
SHAPES = list(itertools.product(SIZES, SIZES, SIZES))
THREADS = (1, 2, 3, 5)
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}
DTYPES = pytest.mark.parametrize("dtype", list(TOLERANCE))


@pytest.fixture(autouse=True)
def every_thread_works():
    """However small the work: results must not depend on the threads."""
    old = _engine.work_per_thread(1e-9)
    yield
    _engine.work_per_thread(old)


def draw(rng, dtype, *shape):
    return rng.normal(size=shape).astype(dtype)


def dtype_root(dtype, n):
    return np.sqrt(n).astype(dtype)


def same_bits(results):
    first, *others = [[a.tobytes() for a in result] for result in results]
    return all(other == first for other in others)


@DTYPES
@pytest.mark.parametrize("activation", list(activations))
def test_dense_forward(activation, dtype, rng, error):
    for B, I, O in SHAPES:
        # Z near 1: in the tail of GELU a rounding of Z counts Z² times.
        X, W, b = draw(rng, dtype, B, I), draw(rng, dtype, I, O) / dtype_root(dtype, I), draw(rng, dtype, O)
        for bias in (b, None):
            results = [kernels.dense_forward(X, W, bias, activation, threads=n) for n in THREADS]
            assert results[0].dtype == dtype
            assert same_bits([[a] for a in results]), (B, I, O)
            expected = reference.dense_forward(X, W, bias, activation)
            assert error(results[0], expected) <= TOLERANCE[dtype], (B, I, O)


@DTYPES
@pytest.mark.parametrize("activation", list(activations))
def test_activation_derivative(activation, dtype, rng, error):
    for shape in [(n,) for n in SIZES] + list(itertools.product(SIZES, SIZES)) + [(2, 3, 5)]:
        Z = 3 * draw(rng, dtype, *shape)
        results = [kernels.activation_derivative(Z, activation, threads=n) for n in THREADS]
        assert same_bits([[a] for a in results]), shape
        assert error(results[0], reference.activation_derivative(Z, activation)) <= TOLERANCE[dtype], shape


@DTYPES
@pytest.mark.parametrize("activation", list(activations))
def test_propagate_delta(activation, dtype, rng, error):
    for B, I, O in SHAPES:
        D, W, Z = draw(rng, dtype, B, O), draw(rng, dtype, I, O), draw(rng, dtype, B, I)
        results = [kernels.propagate_delta(D, W, Z, activation, threads=n) for n in THREADS]
        assert same_bits([[a] for a in results]), (B, I, O)
        expected = reference.propagate_delta(D, W, Z, activation)
        assert error(results[0], expected) <= TOLERANCE[dtype], (B, I, O)


@DTYPES
def test_weight_gradient(dtype, rng, error):
    for B, I, O in [*SHAPES, (700, 130, 70)]:
        A, D = draw(rng, dtype, B, I), draw(rng, dtype, B, O)
        results = [kernels.weight_gradient(A, D, threads=n) for n in THREADS]
        assert same_bits(results), (B, I, O)
        for result, expected in zip(results[0], reference.weight_gradient(A, D), strict=True):
            assert error(result, expected) <= TOLERANCE[dtype], (B, I, O)


@DTYPES
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("loss", list(losses))
def test_loss_and_delta(loss, weighted, dtype, rng, error, make_targets):
    for B, O in [*itertools.product(SIZES, SIZES), (3, 700)]:
        if loss == "cross_entropy" and O == 1:
            continue
        Z, Y = draw(rng, dtype, B, O), make_targets(loss, B, O, rng)
        w = rng.integers(0, 3, B) + (np.arange(B) == 0) if weighted else None
        kinds = [Y, np.eye(O)[Y]] if loss == "cross_entropy" else [Y]
        for targets in kinds:
            results = [
                kernels.loss_and_delta(loss, targets, Z, sample_weight=w, threads=n) for n in THREADS
            ]
            assert same_bits([[np.float64(v), D] for v, D in results]), (B, O)
            value, D = reference.loss_and_delta(loss, targets, Z, sample_weight=w)
            assert results[0][0] == pytest.approx(value, rel=TOLERANCE[dtype])
            assert error(results[0][1], D) <= TOLERANCE[dtype], (B, O)


@DTYPES
@pytest.mark.parametrize("name", list(reference.LINKS))
def test_link(name, dtype, rng, error):
    for shape in itertools.product(SIZES, SIZES):
        Z = draw(rng, dtype, *shape)
        results = [kernels.link(name, Z, threads=n) for n in THREADS]
        assert same_bits([[a] for a in results])
        assert error(results[0], reference.link(name, Z)) <= TOLERANCE[dtype], shape


def test_a_row_does_not_depend_on_its_neighbours(rng):
    """The place of a row among tiles and blocks changes no bit of it."""
    X, W, b = draw(rng, "float32", 41, 300), draw(rng, "float32", 300, 53), draw(rng, "float32", 53)
    whole = kernels.dense_forward(X, W, b, "gelu")
    for rows in (slice(0, 1), slice(3, 10), slice(13, 41)):
        assert kernels.dense_forward(X[rows], W, b, "gelu").tobytes() == whole[rows].tobytes()
    some = kernels.dense_forward(X, W[:, 20:37], b[20:37], "gelu")
    assert some.tobytes() == np.ascontiguousarray(whole[:, 20:37]).tobytes()


def test_layouts_are_copied_and_inputs_left_alone(rng, error):
    X, W = draw(rng, "float64", 9, 14)[:, ::2], np.asfortranarray(draw(rng, "float64", 7, 5))
    kept = X.copy(), W.copy()
    expected = np.tanh(X @ W)
    assert error(kernels.dense_forward(X, W, activation="tanh"), expected) < 1e-12
    assert (X == kept[0]).all()
    assert (W == kept[1]).all()


def test_integers_and_mixed_dtypes_promote():
    X, W = np.arange(6).reshape(2, 3), np.ones((3, 2), np.float32)
    result = kernels.dense_forward(X, W)
    assert result.dtype == np.float64
    assert result.tolist() == [[3, 3], [12, 12]]
    assert kernels.dense_forward(X.astype(np.float32), W).dtype == np.float32
    assert kernels.dense_forward(X.astype(np.float16), W).dtype == np.float32


def test_out_takes_the_result(rng):
    X, W = draw(rng, "float32", 6, 4), draw(rng, "float32", 4, 4)
    expected = kernels.dense_forward(X, W)
    out = np.empty((6, 4), np.float32)
    assert kernels.dense_forward(X, W, out=out) is out
    assert (out == expected).all()
    strided = np.empty((6, 8), np.float32)[:, ::2]
    assert kernels.dense_forward(X, W, out=strided) is strided
    assert (strided == expected).all()
    # Into one of its own inputs.
    assert kernels.dense_forward(X, W, out=X) is X
    assert (X == expected).all()


@pytest.mark.parametrize(
    ("out", "error", "match"),
    [
        (np.empty((6, 3), np.float32), ValueError, r"out has shape \(6, 3\); \(6, 4\) is wanted"),
        (np.empty((6, 4)), TypeError, "out is float64; float32 is wanted"),
        ([[0.0]], TypeError, "out must be a NumPy array"),
        (np.frombuffer(bytes(96), np.float32).reshape(6, 4), ValueError, "out is read-only"),
    ],
)
def test_out_that_does_not_fit(out, error, match):
    X, W = np.ones((6, 4), np.float32), np.ones((4, 4), np.float32)
    for module in (kernels, reference):
        with pytest.raises(error, match=match):
            module.dense_forward(X, W, out=out)


def test_nan_spreads_and_does_not_crash():
    Z = np.array([[np.nan, 1.0, -np.inf, np.inf]])
    for name in activations:
        A = kernels.dense_forward(Z, np.eye(4)[:, :1], activation=name)
        assert np.isnan(A).all(), name
        assert np.isnan(kernels.activation_derivative(Z, name)[0, 0]) or name in (
            "identity",
            "relu",
            "leaky_relu",
            "elu",
            "selu",
        )


FLOATS = st.floats(allow_nan=True, allow_infinity=True, width=32)
ARRAYS = hnp.arrays(
    dtype=st.sampled_from([np.float32, np.float64, np.int8, np.int64, np.bool_]),
    shape=hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=20),
)
ANYTHING = st.one_of(ARRAYS, st.none(), st.text(max_size=3), FLOATS, st.lists(FLOATS, max_size=3))
NAMES = st.one_of(st.sampled_from([*activations, *losses]), st.text(max_size=4))
COUNTS = st.one_of(st.none(), st.integers(-2, 7), FLOATS)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_argument_crashes_a_kernel(data):
    """Whatever comes in: a result, or a TypeError, ValueError or FloatingPointError."""
    name = data.draw(
        st.sampled_from(
            ["dense_forward", "activation_derivative", "propagate_delta", "weight_gradient", "loss_and_delta"]
        )
    )
    arrays = [data.draw(ANYTHING) for _ in range(4)]
    arguments = {
        "dense_forward": (*arrays[:3], data.draw(NAMES)),
        "activation_derivative": (arrays[0], data.draw(NAMES)),
        "propagate_delta": (*arrays[:3], data.draw(NAMES)),
        "weight_gradient": tuple(arrays[:2]),
        "loss_and_delta": (data.draw(NAMES), *arrays[:2]),
    }[name]
    options = {"threads": data.draw(COUNTS)}
    if name in ("dense_forward", "activation_derivative", "propagate_delta"):
        options["out"] = data.draw(st.one_of(st.none(), ARRAYS))
    elif name == "loss_and_delta":
        options["sample_weight"] = arrays[3]
    with np.errstate(all="ignore"):
        try:
            getattr(kernels, name)(*arguments, **options)
        except (TypeError, ValueError, FloatingPointError) as error:
            assert str(error)


SIDES = st.integers(1, 40)


@settings(max_examples=100, deadline=None)
@given(B=SIDES, I=SIDES, O=SIDES, dtype=st.sampled_from(list(TOLERANCE)), seed=st.integers(0, 2**32 - 1))
def test_any_shape_agrees_with_the_reference(B, I, O, dtype, seed):
    rng = np.random.default_rng(seed)
    X, W, b, D = (draw(rng, dtype, *s) for s in ((B, I), (I, O), (O,), (B, O)))
    pairs = [
        (kernels.dense_forward(X, W, b, "sigmoid"), reference.dense_forward(X, W, b, "sigmoid")),
        (kernels.propagate_delta(D, W, X, "tanh"), reference.propagate_delta(D, W, X, "tanh")),
        *zip(kernels.weight_gradient(X, D), reference.weight_gradient(X, D), strict=True),
    ]
    # A short sum may cancel to nearly nothing: the bound is on the sizes that went into it.
    for result, expected in pairs:
        scale = max(np.abs(expected).max(), 1.0)
        assert np.abs(result - expected).max() <= TOLERANCE[dtype] * scale
