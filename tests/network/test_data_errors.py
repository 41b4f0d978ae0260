"""Invalid X, y and sample_weight: the error names the argument, and the network does not change."""

import datetime
import math

import numpy as np
import pytest
from scipy import sparse

ROWS = 8


def table(**cases):
    """Parametrize over cases; their keys, with spaces, are the ids."""
    width = len(next(iter(cases.values())))
    names = "value, kind, match" if width == 3 else "value, match"
    return pytest.mark.parametrize(names, cases.values(), ids=[key.replace("_", " ") for key in cases])


def holding(value, dtype=float, shape=(ROWS, 3), place=(2, 1)):
    array = np.zeros(shape, dtype)
    array[place[: len(shape)]] = value
    return array


def sparse_with_place(column):
    X = sparse.csr_array(holding(1.0))
    X.indices[0] = column
    return X


bad_x = table(
    too_wide=(np.zeros((ROWS, 4)), ValueError, r"X has 4 columns; this network expects 3"),
    too_narrow=(np.zeros((ROWS, 2)), ValueError, r"X has 2 columns; this network expects 3"),
    one_dimension=(np.zeros(ROWS), ValueError, r"X must be a 2-dimensional array .*got shape \(8,\)"),
    a_row_alone=(
        [1.0, 2.0, 3.0],
        ValueError,
        r"X must be a 2-dimensional array with one row per sample; got shape \(3,\)",
    ),
    three_dimensions=(
        np.zeros((ROWS, 3, 1)),
        ValueError,
        r"X must be a 2-dimensional array .*got shape \(8, 3, 1\)",
    ),
    a_number=(1.0, ValueError, r"X must be a 2-dimensional array .*got shape \(\)"),
    no_rows=(np.zeros((0, 3)), ValueError, r"X has no rows; at least 1 is required"),
    no_columns=(np.zeros((ROWS, 0)), ValueError, r"X has no columns; at least 1 is required"),
    an_empty_list=([], ValueError, r"X must be a 2-dimensional array .*got shape \(0,\)"),
    nan=(holding(math.nan), ValueError, r"X contains NaN in row 2, column 1; all values must be finite"),
    inf=(holding(math.inf), ValueError, r"X contains infinity in row 2, column 1; all values must be finite"),
    minus_inf=(
        holding(-math.inf),
        ValueError,
        r"X contains -infinity in row 2, column 1; all values must be finite",
    ),
    both_infs=(
        holding([math.inf, -math.inf], place=(2, slice(0, 2))),
        ValueError,
        r"X contains infinity in row 2, column 0; all values must be finite",
    ),
    nan_in_float32=(
        holding(math.nan, "f4"),
        ValueError,
        r"X contains NaN in row 2, column 1; all values must be finite",
    ),
    too_large=(
        holding(1e300),
        ValueError,
        r"X contains 1e\+300 in row 2, column 1, which is too large for float32",
    ),
    strings=(np.full((ROWS, 3), "1.5"), TypeError, r"X contains strings; expected real numbers"),
    bytes=(np.full((ROWS, 3), b"1"), TypeError, r"X contains strings; expected real numbers"),
    objects=(
        holding("a", object),
        TypeError,
        r"X contains objects \(mixed or missing values\); expected real numbers",
    ),
    missing=([[1.0, None, 2.0]] * ROWS, TypeError, r"X contains objects \(mixed or missing values\)"),
    large_integers=([[2**70, 0, 0]] * ROWS, TypeError, r"X contains objects"),
    none=(None, TypeError, r"X contains objects"),
    a_dictionary=({"a": 1}, TypeError, r"X contains objects"),
    complex=(np.zeros((ROWS, 3), complex), TypeError, r"X contains complex128 values; expected real numbers"),
    long_double=(
        np.zeros((ROWS, 3), np.longdouble),
        TypeError,
        r"X contains (float128|longdouble|float96) values; expected real",
    ),
    dates=(
        np.full((ROWS, 3), np.datetime64("2024-01-01")),
        TypeError,
        r"X contains datetime64\[D\] values; expected real numbers",
    ),
    python_dates=([[datetime.date(2024, 1, 1)] * 3] * ROWS, TypeError, r"X contains objects"),
    records=(np.zeros((ROWS, 3), [("a", "f8")]), TypeError, r"X contains \[\('a', .*expected real numbers"),
    ragged=([[1.0, 2.0, 3.0], [1.0]], ValueError, r"X is not a rectangular array"),
    masked=(
        np.ma.masked_equal(holding(1.0), 1.0),
        TypeError,
        r"X is a masked array; fill its masked entries",
    ),
    sparse_and_too_wide=(sparse.csr_array((ROWS, 4)), ValueError, r"X has 4 columns; this network expects 3"),
    sparse_without_rows=(sparse.csc_array((0, 3)), ValueError, r"X has no rows; at least 1 is required"),
    sparse_nan=(
        sparse.coo_array(holding(math.nan)),
        ValueError,
        r"X contains NaN in row 2, column 1; all values must be finite",
    ),
    sparse_too_large=(
        sparse.csr_matrix(holding(1e300)),
        ValueError,
        r"X contains 1e\+300 in row 2, column 1, which is too large for float32",
    ),
    sparse_complex=(
        sparse.csr_array((ROWS, 3), dtype=complex),
        TypeError,
        r"X contains complex128 values; expected real numbers",
    ),
    sparse_places=(
        sparse_with_place(3),
        ValueError,
        r"X\.indices contains column 3 in row 2; columns must be 0 to 2",
    ),
)


@bad_x
@pytest.mark.parametrize("call", ["fit", "predict", "loss", "gradients", "forward", "forward for training"])
def test_invalid_x(trained, data, unchanged, call, value, kind, match):
    net, (_, y) = trained(), data()
    calls = {
        "fit": lambda: net.fit(value, y),
        "predict": lambda: net.predict(value),
        "loss": lambda: net.loss(value, y),
        "gradients": lambda: net.gradients(value, y),
        "forward": lambda: net.forward(value),
        "forward for training": lambda: net.forward(value, training=True),
    }
    with unchanged(net), pytest.raises(kind, match=match):
        calls[call]()


@bad_x
def test_invalid_validation_x(trained, data, unchanged, value, kind, match):
    net, (X, y) = trained(), data()
    with (
        unchanged(net),
        pytest.raises(kind, match="validation " + match),
    ):
        net.fit(X, y, epochs=1, validation=(value, y))


def y_cases(*cases):
    return [pytest.param(*case, id=f"{case[0]}: {case[-1][:40]}") for case in cases]


ones = np.ones((ROWS, 2))
bad_y = pytest.mark.parametrize(
    ("loss", "y", "kind", "match"),
    y_cases(
        ("squared_error", np.zeros((7, 2)), ValueError, r"y has 7 rows, but X has 8"),
        ("squared_error", np.zeros((9, 2)), ValueError, r"y has 9 rows, but X has 8"),
        ("squared_error", np.zeros((0, 2)), ValueError, r"y has 0 rows, but X has 8"),
        ("squared_error", np.zeros((ROWS, 3)), ValueError, r"y has 3 columns, but the network has 2 outputs"),
        ("squared_error", np.zeros((ROWS, 0)), ValueError, r"y has 0 columns, but the network has 2 outputs"),
        (
            "squared_error",
            np.zeros(ROWS),
            ValueError,
            r"y must have shape \(8, 2\) for squared_error with 2 outputs; got shape \(8,\)",
        ),
        (
            "squared_error",
            np.zeros((ROWS, 2, 1)),
            ValueError,
            r"y must have 1 or 2 dimensions; got shape \(8, 2, 1\)",
        ),
        ("squared_error", 1.0, ValueError, r"y must have 1 or 2 dimensions; got shape \(\)"),
        (
            "squared_error",
            holding(math.nan, shape=(ROWS, 2)),
            ValueError,
            r"y contains NaN in row 2, column 1; all values must be finite",
        ),
        (
            "squared_error",
            holding(-math.inf, shape=(ROWS, 2)),
            ValueError,
            r"y contains -infinity in row 2, column 1",
        ),
        (
            "squared_error",
            holding(1e300, shape=(ROWS, 2)),
            ValueError,
            r"y contains 1e\+300 .*too large for float32",
        ),
        ("squared_error", np.full((ROWS, 2), "a"), TypeError, r"y contains strings; expected real numbers"),
        ("squared_error", holding(None, object, (ROWS, 2)), TypeError, r"y contains objects"),
        ("squared_error", 1j * ones, TypeError, r"y contains complex128 values; expected real numbers"),
        ("squared_error", [[1.0, 2.0], [1.0]] * 4, ValueError, r"y is not a rectangular array"),
        ("squared_error", np.ma.masked_equal(ones, 1.0), TypeError, r"y is a masked array"),
        (
            "squared_error",
            sparse.csr_array(ones),
            TypeError,
            r"y is a sparse matrix; expected a dense array",
        ),
        ("squared_error", None, TypeError, r"y contains objects"),
        (
            "cross_entropy",
            [0, 1, 2, 0, 1, 0, 1, 0],
            ValueError,
            r"y contains class 2; classes must be 0 to 1",
        ),
        (
            "cross_entropy",
            [0, 1, -1, 0, 1, 0, 1, 0],
            ValueError,
            r"y contains class -1; classes must be 0 to 1",
        ),
        (
            "cross_entropy",
            np.full(ROWS, 10**12),
            ValueError,
            r"y contains class 1e\+12; classes must be 0 to 1",
        ),
        (
            "cross_entropy",
            np.full(ROWS, 2**64 - 1, "u8"),
            ValueError,
            r"y contains class .* classes must be 0 to 1",
        ),
        (
            "cross_entropy",
            np.full(ROWS, 0.5),
            ValueError,
            r"y contains 0\.5; cross_entropy expects integer classes",
        ),
        (
            "cross_entropy",
            holding(math.nan, shape=(ROWS,)),
            ValueError,
            r"y contains NaN in row 2; all values must be finite",
        ),
        (
            "cross_entropy",
            holding(math.inf, shape=(ROWS,)),
            ValueError,
            r"y contains infinity in row 2; all values must be finite",
        ),
        ("cross_entropy", np.full(ROWS, "cat"), TypeError, r"y contains strings; expected real numbers"),
        ("cross_entropy", np.zeros(7, int), ValueError, r"y has 7 rows, but X has 8"),
        (
            "cross_entropy",
            np.zeros((ROWS, 1)),
            ValueError,
            r"y has 1 column.*pass integer classes as a 1-dimensional array",
        ),
        (
            "cross_entropy",
            ones,
            ValueError,
            r"y has a row that sums to 2; .*probabilities of each row to sum to 1",
        ),
        (
            "cross_entropy",
            0 * ones,
            ValueError,
            r"y has a row that sums to 0; .*probabilities of each row to sum to 1",
        ),
        (
            "cross_entropy",
            [[1.5, -0.5]] * ROWS,
            ValueError,
            r"y contains (1\.5|-0\.5); cross_entropy expects 0, 1 or",
        ),
        (
            "log_loss",
            2 * ones,
            ValueError,
            r"y contains 2; log_loss expects 0, 1 or probabilities in between",
        ),
        ("log_loss", -1 * ones, ValueError, r"y contains -1; log_loss expects 0, 1 or probabilities"),
        ("exponential", 0 * ones, ValueError, r"y contains 0; exponential expects -1 or \+1"),
        ("exponential", 0.5 * ones, ValueError, r"y contains 0\.5; exponential expects -1 or \+1"),
        ("hinge", 0 * ones, ValueError, r"y contains 0; hinge expects -1 or \+1"),
        ("hinge", 2 * ones, ValueError, r"y contains 2; hinge expects -1 or \+1"),
        ("poisson", -1 * ones, ValueError, r"y contains -1; poisson expects values of at least 0"),
        (
            "huber",
            np.zeros(ROWS),
            ValueError,
            r"y must have shape \(8, 2\) for huber with 2 outputs; got shape \(8,\)",
        ),
    ),
)


@bad_y
@pytest.mark.parametrize("call", ["fit", "loss", "gradients", "validation"])
def test_invalid_y(trained, data, unchanged, call, loss, y, kind, match):
    net, (X, good) = trained(loss), data(loss)
    calls = {
        "fit": lambda: net.fit(X, y),
        "loss": lambda: net.loss(X, y),
        "gradients": lambda: net.gradients(X, y),
        "validation": lambda: net.fit(X, good, epochs=1, validation=(X, y)),
    }
    with unchanged(net), pytest.raises(kind, match=("^validation " if call == "validation" else "^") + match):
        calls[call]()


@pytest.mark.parametrize("loss", ["log_loss", "hinge", "poisson"])
def test_invalid_y_with_one_output(trained, data, unchanged, loss):
    net, (X, y) = trained(loss, 1), data(loss, 1)
    for bad, match in (
        (np.hstack([y, y]), r"y has 2 columns, but the network has 1 output$"),
        (np.hstack([y, y])[:, :0], r"y has 0 columns, but the network has 1 output$"),
        (y[:5, 0], r"y has 5 rows"),
    ):
        with unchanged(net), pytest.raises(ValueError, match=match):
            net.fit(X, bad, epochs=1)


@table(
    too_short=(np.ones(7), ValueError, r"must have shape \(8,\), as X has 8 rows; got \(7,\)"),
    a_column=(np.ones((ROWS, 1)), ValueError, r"must have shape \(8,\), as X has 8 rows; got \(8, 1\)"),
    a_number=(2.0, ValueError, r"must have shape \(8,\), as X has 8 rows; got \(\)"),
    negative=(holding(-0.5, shape=(ROWS,)), ValueError, r"contains -0\.5; weights must be at least 0"),
    all_zero=(np.zeros(ROWS), ValueError, r"is all 0; at least one weight must be greater than 0"),
    nan=(holding(math.nan, shape=(ROWS,)), ValueError, r"contains NaN in row 2; all values must be finite"),
    inf=(
        holding(math.inf, shape=(ROWS,)),
        ValueError,
        r"contains infinity in row 2; all values must be finite",
    ),
    whose_sum_overflows=(np.full(ROWS, 1e308), ValueError, r"is too large: the sum of the weights"),
    strings=(np.full(ROWS, "1"), TypeError, r"contains strings; expected real numbers"),
    objects=([None] * ROWS, TypeError, r"contains objects"),
    complex=(np.ones(ROWS, complex), TypeError, r"contains complex128"),
    ragged=([[1.0], [1.0, 2.0]], ValueError, r"is not a rectangular array"),
    balanced=("balanced", TypeError, r"contains strings; expected real numbers"),
    masked=(np.ma.masked_equal(np.ones(ROWS), 1.0), TypeError, r"is a masked array"),
)
@pytest.mark.parametrize("call", ["fit", "loss", "gradients", "validation"])
def test_invalid_sample_weight(trained, data, unchanged, call, value, kind, match):
    net, (X, y) = trained(), data()
    prefix = "^validation sample_weight .*" if call == "validation" else "^sample_weight .*"
    calls = {
        "fit": lambda: net.fit(X, y, sample_weight=value),
        "loss": lambda: net.loss(X, y, sample_weight=value),
        "gradients": lambda: net.gradients(X, y, sample_weight=value),
        "validation": lambda: net.fit(X, y, epochs=1, validation=(X, y, value)),
    }
    with unchanged(net), pytest.raises(kind, match=prefix + match):
        calls[call]()
