"""The native kernels compared with their counterparts in `bpfast.reference`."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bpfast import kernels, reference
from bpfast.activations import activations
from bpfast.losses import losses

SIZES = (1, 2, 7, 16, 17, 33, 100)
SHAPES = list(itertools.product(SIZES, SIZES, SIZES))
THREADS = (1, 2, 3, 5)
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}
DTYPES = pytest.mark.parametrize("dtype", list(TOLERANCE))


pytestmark = pytest.mark.usefixtures("every_thread_works")


def draw(rng, dtype, *shape):
    return rng.normal(size=shape).astype(dtype)


def check(cases, native, twin, error, tolerance):
    """Every case with 1, 2, 3 and 5 threads: bitwise identical, and equal to the reference.

    The threads are the outer loop, since a team is made anew when its size changes.
    """
    runs = [[[np.asarray(a) for a in native(case, n)] for case in cases] for n in THREADS]
    for results in runs[1:]:
        for case, one, other in zip(cases, runs[0], results, strict=True):
            assert [a.tobytes() for a in one] == [a.tobytes() for a in other], case
    for case, result in zip(cases, runs[0], strict=True):
        for a, r in zip(result, twin(case), strict=True):
            assert a.dtype == r.dtype
            assert error(a, r) <= tolerance, [np.shape(array) for array in case]


@DTYPES
@pytest.mark.parametrize("activation", list(activations))
def test_dense_forward(activation, dtype, rng, error):
    # Z near 1: in the tail of GELU a rounding of Z counts Z² times.
    cases = [
        (
            draw(rng, dtype, B, I),
            draw(rng, dtype, I, O) / np.sqrt(I).astype(dtype),
            None if index % 3 == 0 else draw(rng, dtype, O),
        )
        for index, (B, I, O) in enumerate(SHAPES)
    ]
    check(
        cases,
        lambda case, n: [kernels.dense_forward(*case, activation, threads=n)],
        lambda case: [reference.dense_forward(*case, activation)],
        error,
        TOLERANCE[dtype],
    )


@DTYPES
@pytest.mark.parametrize("activation", list(activations))
def test_activation_derivative(activation, dtype, rng, error):
    shapes = [(n,) for n in SIZES] + list(itertools.product(SIZES, SIZES)) + [(2, 3, 5)]
    check(
        [(3 * draw(rng, dtype, *shape),) for shape in shapes],
        lambda case, n: [kernels.activation_derivative(*case, activation, threads=n)],
        lambda case: [reference.activation_derivative(*case, activation)],
        error,
        TOLERANCE[dtype],
    )


@DTYPES
@pytest.mark.parametrize("activation", list(activations))
def test_propagate_delta(activation, dtype, rng, error):
    check(
        [(draw(rng, dtype, B, O), draw(rng, dtype, I, O), draw(rng, dtype, B, I)) for B, I, O in SHAPES],
        lambda case, n: [kernels.propagate_delta(*case, activation, threads=n)],
        lambda case: [reference.propagate_delta(*case, activation)],
        error,
        TOLERANCE[dtype],
    )


@DTYPES
def test_weight_gradient(dtype, rng, error):
    check(
        [(draw(rng, dtype, B, I), draw(rng, dtype, B, O)) for B, I, O in [*SHAPES, (700, 130, 70)]],
        lambda case, n: kernels.weight_gradient(*case, threads=n),
        lambda case: reference.weight_gradient(*case),
        error,
        TOLERANCE[dtype],
    )


@DTYPES
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("loss", list(losses))
def test_loss_and_delta(loss, weighted, dtype, rng, error, make_targets):
    cases = []
    for B, O in [*itertools.product(SIZES, SIZES), (3, 700)]:
        if loss == "cross_entropy" and O == 1:
            continue
        Z, Y = draw(rng, dtype, B, O), make_targets(loss, B, O, rng)
        w = rng.integers(0, 3, B) + (np.arange(B) == 0) if weighted else None
        cases += [(Y, Z, w), (np.eye(O)[Y], Z, w)] if loss == "cross_entropy" else [(Y, Z, w)]

    def run(module, case, **options):
        value, D = module.loss_and_delta(loss, *case[:2], sample_weight=case[2], **options)
        return np.float64(value), D

    check(
        cases,
        lambda case, n: run(kernels, case, threads=n),
        lambda case: run(reference, case),
        error,
        TOLERANCE[dtype],
    )


@DTYPES
@pytest.mark.parametrize("name", list(reference.LINKS))
def test_link(name, dtype, rng, error):
    check(
        [(draw(rng, dtype, *shape),) for shape in itertools.product(SIZES, SIZES)],
        lambda case, n: [kernels.link(name, *case, threads=n)],
        lambda case: [reference.link(name, *case)],
        error,
        TOLERANCE[dtype],
    )


def test_a_row_does_not_depend_on_its_neighbours(rng):
    """The position of a row among tiles and blocks does not change its result."""
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
    assert (kept[0] == X).all()
    assert (kept[1] == W).all()


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
    # Into one of the inputs.
    assert kernels.dense_forward(X, W, out=X) is X
    assert (expected == X).all()


@pytest.mark.parametrize(
    ("out", "error", "match"),
    [
        (np.empty((6, 3), np.float32), ValueError, r"out must have shape \(6, 4\); got \(6, 3\)"),
        (np.empty((6, 4)), TypeError, "out must have dtype float32; got float64"),
        ([[0.0]], TypeError, "out must be a NumPy array"),
        (np.frombuffer(bytes(96), np.float32).reshape(6, 4), ValueError, "out must be writable"),
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
    """Any input gives a result, or a TypeError, ValueError or FloatingPointError."""
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
            said = str(error)
            if not said:
                pytest.fail(f"{name}: an error without a word")


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
    # A short sum may nearly cancel: the bound is relative to the size of its terms.
    for result, expected in pairs:
        scale = max(np.abs(expected).max(), 1.0)
        assert np.abs(result - expected).max() <= TOLERANCE[dtype] * scale
