"""Bad input at every border: an error that names the argument and what is wanted, and nothing changed."""

import copy
import datetime
import math
from contextlib import contextmanager

import numpy as np
import pytest
from scipy import sparse

import bpfast as bp
from bpfast import backends
from bpfast.arrays import checks
from bpfast.initializers import initializers
from bpfast.penalties import penalties

ROWS = 8


@pytest.fixture
def data(rng, make_targets):
    """data(loss, outputs) -> X (8, 3), y."""
    return lambda loss="squared_error", outputs=2: (
        rng.normal(size=(ROWS, 3)),
        make_targets(loss, ROWS, outputs, rng),
    )


@pytest.fixture
def trained(build, data):
    """trained(loss, outputs, dtype): a network that has trained an epoch, so that it has a state to lose."""

    def trained(loss="squared_error", outputs=2, dtype="float32"):
        net = build((3, 4, outputs), loss=loss, dtype=dtype)
        net.fit(*data(loss, outputs), epochs=1, batch_size=3, optimizer=bp.Adam(bp.Cosine(0.01, 5)))
        return net

    return trained


@pytest.fixture
def unchanged(bytes_of, data):
    """with unchanged(net): weights and epochs as before, and the next epoch as if nothing had been."""

    @contextmanager
    def unchanged(net):
        twin = copy.deepcopy(net)
        yield
        assert bytes_of(net) == bytes_of(twin)
        assert net.epochs == twin.epochs
        X, y = data(net.loss_spec.name, net.n_outputs)
        options = {"epochs": 1, "batch_size": 3, "optimizer": bp.Adam(bp.Cosine(0.01, 5))}
        histories = [each.fit(X, y, **options) for each in (net, twin)]
        assert histories[0].learning_rate == histories[1].learning_rate
        assert bytes_of(net) == bytes_of(twin)

    return unchanged


def table(**cases):
    """parametrize over cases, named by their keys with spaces."""
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


# ---------------------------------------------------------------------------------------------
# X.

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
def test_x(trained, data, unchanged, call, value, kind, match):
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
def test_validation_x(trained, data, unchanged, value, kind, match):
    net, (X, y) = trained(), data()
    with (
        unchanged(net),
        pytest.raises(kind, match="validation " + match),
    ):
        net.fit(X, y, epochs=1, validation=(value, y))


# ---------------------------------------------------------------------------------------------
# y, by the loss.


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
def test_y(trained, data, unchanged, call, loss, y, kind, match):
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
def test_y_of_one_output(trained, data, unchanged, loss):
    net, (X, y) = trained(loss, 1), data(loss, 1)
    for bad, match in (
        (np.hstack([y, y]), r"y has 2 columns, but the network has 1 output"),
        (y[:5, 0], r"y has 5 rows"),
    ):
        with unchanged(net), pytest.raises(ValueError, match=match):
            net.fit(X, bad, epochs=1)


# ---------------------------------------------------------------------------------------------
# sample_weight.


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
def test_sample_weight(trained, data, unchanged, call, value, kind, match):
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


# ---------------------------------------------------------------------------------------------
# The other arguments of fit.


def option(name, value, kind, match):
    return pytest.param({name: value}, kind, match, id=f"{name}={str(value)[:40]}")


@pytest.mark.parametrize(
    ("options", "kind", "match"),
    [
        option("epochs", 0, ValueError, r"epochs must be at least 1; got 0"),
        option("epochs", -3, ValueError, r"epochs must be at least 1; got -3"),
        option("epochs", 2.0, TypeError, r"epochs must be an integer; got 2\.0"),
        option("epochs", True, TypeError, r"epochs must be an integer; got True"),
        option("epochs", "10", TypeError, r"epochs must be an integer; got '10'"),
        option("epochs", None, TypeError, r"epochs must be an integer; got None"),
        option("batch_size", 0, ValueError, r"batch_size must be at least 1; got 0"),
        option("batch_size", -1, ValueError, r"batch_size must be at least 1; got -1"),
        option("batch_size", 2.5, TypeError, r"batch_size must be an integer; got 2\.5"),
        option("batch_size", True, TypeError, r"batch_size must be an integer; got True"),
        option("batch_size", "32", TypeError, r"batch_size must be an integer; got '32'"),
        option("shuffle", 1, TypeError, r"shuffle must be True, False or 'blocks'; got 1"),
        option("shuffle", "yes", TypeError, r"shuffle must be True, False or 'blocks'; got 'yes'"),
        option("shuffle", None, TypeError, r"shuffle must be True, False or 'blocks'; got None"),
        option("progress", 1, TypeError, r"progress must be True or False; got 1"),
        option("optimizer", "adan", ValueError, r"unknown optimizer 'adan'; did you mean 'adam'"),
        option("optimizer", "AdamW ", ValueError, r"unknown optimizer 'AdamW '; did you mean 'adamw'"),
        option("optimizer", 0.1, TypeError, r"optimizer must be a name or an Optimizer object; got 0.1"),
        option("optimizer", None, TypeError, r"optimizer must be a name or an Optimizer object; got None"),
        option(
            "optimizer", bp.L2(0.1), TypeError, r"optimizer must be a name or an Optimizer object; got L2"
        ),
        option("optimizer", bp.L2, TypeError, r"optimizer must be a name or an Optimizer object"),
        option("penalty", "l3", ValueError, r"unknown penalty 'l3'; did you mean 'l\d'"),
        option("penalty", "l2", TypeError, r"penalty 'l2' has required parameters; .*bp\.L2\("),
        option("penalty", bp.L2, TypeError, r"penalty .*has required parameters; .*bp\.L2\("),
        option("penalty", 0.1, TypeError, r"penalty must be a name or a Penalty object; got 0.1"),
        option("penalty", [bp.L1(0.1)], TypeError, r"penalty must be a name or a Penalty object; got \[L1"),
        option("callbacks", [bp.EarlyStopping], TypeError, r"callbacks must be Callback objects; got <class"),
        option("callbacks", bp.EarlyStopping, TypeError, r"callbacks must be"),
        option("callbacks", None, TypeError, r"callbacks must be"),
        option("callbacks", 3, TypeError, r"callbacks must be"),
        option(
            "callbacks", [print], TypeError, r"callbacks must be Callback objects; got <built-in function"
        ),
        option("callbacks", "early", TypeError, r"callbacks must be Callback objects; got 'e"),
        option("validation", 0.1, TypeError, r"validation must be \(X, y\) or \(X, y, sample_weight\)"),
        option("validation", (np.zeros((2, 3)),), TypeError, r"validation must be \(X, y\) or"),
        option(
            "validation", (1, 2, 3, 4), TypeError, r"validation must be \(X, y\) or \(X, y, sample_weight\)"
        ),
        option("validation", np.zeros((2, 3)), TypeError, r"validation must be \(X, y\) or"),
        option("validation", "Xy", TypeError, r"validation must be \(X, y\) or \(X, y, sample_weight\)"),
        option("validation", True, TypeError, r"validation must be \(X, y\) or \(X, y, sample_weight\)"),
    ],
)
def test_fit_options(trained, data, unchanged, options, kind, match):
    net, (X, y) = trained(), data()
    with unchanged(net), pytest.raises(kind, match=match):
        net.fit(X, y, **{"epochs": 1, **options})


def test_validation_of_another_length(trained, data, unchanged):
    net, (X, y) = trained(), data()
    with (
        unchanged(net),
        pytest.raises(ValueError, match=r"validation y has 5 rows, but (validation )?X has 8"),
    ):
        net.fit(X, y, validation=(X, y[:5]))


@pytest.mark.parametrize("monitor", ["val_loss", "val_accuracy", "accuracy", "lost"])
def test_early_stopping_on_what_is_not_recorded(trained, data, unchanged, monitor):
    """Known before the first epoch: nothing is trained."""
    net, (X, y) = trained(), data()
    text = rf"EarlyStopping monitors '{monitor}', which this fit does not record"
    with unchanged(net), pytest.raises(ValueError, match=text):
        net.fit(X, y, epochs=3, callbacks=[bp.EarlyStopping(monitor)])


@pytest.mark.parametrize("call", ["loss", "gradients", "update"])
def test_penalty_of_other_calls(trained, data, unchanged, call):
    net, (X, y) = trained(), data()
    calls = {
        "loss": lambda penalty: net.loss(X, y, penalty=penalty),
        "gradients": lambda penalty: net.gradients(X, y, penalty=penalty),
        "update": lambda penalty: net.update("adam", penalty),
    }
    for penalty, kind in (("l3", ValueError), ("l1", TypeError), (0.1, TypeError)):
        net.forward(X, training=True)
        net.backward(y)
        with unchanged(net), pytest.raises(kind, match=r"penalty"):
            calls[call](penalty)


# ---------------------------------------------------------------------------------------------
# Building a network.


def network(**options):
    options = {"layers": [bp.Dense(2)], "n_inputs": 3, "loss": "squared_error", **options}
    return bp.Network(options.pop("layers"), **options)


@pytest.mark.parametrize(
    ("options", "kind", "match"),
    [
        option("layers", [], TypeError, r"layers must be a list .*; got \[\]"),
        option("layers", bp.Dense(2), TypeError, r"layers must be a list .*; got Dense"),
        option("layers", None, TypeError, r"layers must be a list .*; got None"),
        option("layers", 3, TypeError, r"layers must be a list .*; got 3"),
        option("layers", {bp.Dense(2)}, TypeError, r"layers must be a list of at least one layer"),
        option(
            "layers",
            [bp.Dense],
            TypeError,
            r"layers\[0\] must be a layer, such as bp\.Dense\(10\); got <class",
        ),
        option("layers", [bp.Dense(2), "relu"], TypeError, r"layers\[1\] must be a layer.*got 'relu'"),
        option("layers", [bp.Dense(2), bp.ReLU()], TypeError, r"layers\[1\] must be a layer.*got ReLU"),
        option("layers", [128, 10], TypeError, r"layers\[0\] must be a layer.*got 128"),
        option("n_inputs", 0, ValueError, r"n_inputs must be at least 1; got 0"),
        option("n_inputs", 3.0, TypeError, r"n_inputs must be an integer; got 3\.0"),
        option("n_inputs", True, TypeError, r"n_inputs must be an integer; got True"),
        option("n_inputs", "3", TypeError, r"n_inputs must be an integer; got '3'"),
        option("n_inputs", 2**45, ValueError, r"too large: parameter .* exceeds the limit of \d+ parameters"),
        option(
            "loss", "sqared_error", ValueError, r"unknown loss 'sqared_error'; did you mean 'squared_error'"
        ),
        option(
            "loss", "crossentropy", ValueError, r"unknown loss 'crossentropy'; did you mean 'cross_entropy'"
        ),
        option("loss", "zzz", ValueError, r"unknown loss 'zzz' \(known: squared_error, .*poisson\)"),
        option("loss", None, TypeError, r"loss must be a name or a Loss object; got None"),
        option("loss", 3, TypeError, r"loss must be a name or a Loss object; got 3"),
        option("loss", bp.Adam(), TypeError, r"loss must be a name or a Loss object; got Adam"),
        option("loss", bp.Adam, TypeError, r"loss must be a name or a Loss object"),
        option("loss", bp.CustomLoss, TypeError, r"loss .*has required parameters; .*bp\.CustomLoss\("),
        option("dtype", "float16", ValueError, r"dtype must be 'float32' or 'float64'; got 'float16'"),
        option("dtype", "int32", ValueError, r"dtype must be 'float32' or 'float64'; got 'int32'"),
        option("dtype", "nonsense", ValueError, r"dtype must be 'float32' or 'float64'; got 'nonsense'"),
        option("dtype", 32, ValueError, r"dtype must be 'float32' or 'float64'; got 32"),
        option("dtype", None, ValueError, r"dtype must be 'float32' or 'float64'; got None"),
        option("dtype", ">f8", ValueError, r"dtype must be 'float32' or 'float64'; got '>f8'"),
        option("seed", -1, ValueError, r"seed must be at least 0; got -1"),
        option("seed", 2**63, ValueError, r"seed must be below 2\*\*63; got 9223372036854775808"),
        option("seed", 1.5, TypeError, r"seed must be an integer; got 1\.5"),
        option("seed", None, TypeError, r"seed must be an integer; got None"),
        option("seed", True, TypeError, r"seed must be an integer; got True"),
        option("seed", "0", TypeError, r"seed must be an integer; got '0'"),
        option("threads", 0, ValueError, r"threads must be from 1 to 1024; got 0"),
        option("threads", 5000, ValueError, r"threads must be from 1 to 1024; got 5000"),
        option("threads", 1.0, TypeError, r"threads must be an integer or None; got 1\.0"),
        option("threads", True, TypeError, r"threads must be an integer or None; got True"),
        option("threads", "2", TypeError, r"threads must be an integer or None; got '2'"),
        option("backend", "gpu", ValueError, r"backend must be one of native, reference; got 'gpu'"),
        option("backend", "", ValueError, r"backend must be one of native, reference; got ''"),
        option("backend", 1, ValueError, r"backend must be one of native, reference; got 1"),
    ],
)
def test_network_options(backend, options, kind, match):
    with pytest.raises(kind, match=match):
        network(**{"backend": backend, **options})


def test_cross_entropy_of_one_output(backend):
    with pytest.raises(
        ValueError, match=r"cross_entropy needs at least 2 outputs; for one output use log_loss"
    ):
        network(layers=[bp.Dense(1)], loss="cross_entropy", backend=backend)


@pytest.mark.parametrize(
    ("make", "kind", "match"),
    [
        (lambda: bp.Dense(0), ValueError, r"Dense: units must be at least 1; got 0"),
        (lambda: bp.Dense(-5), ValueError, r"Dense: units must be at least 1; got -5"),
        (lambda: bp.Dense(2.0), TypeError, r"Dense: units must be an integer; got 2\.0"),
        (lambda: bp.Dense(True), TypeError, r"Dense: units must be an integer; got True"),
        (lambda: bp.Dense("10"), TypeError, r"Dense: units must be an integer; got '10'"),
        (lambda: bp.Dense(2, "sigmod"), ValueError, r"unknown activation 'sigmod'; did you mean 'sigmoid'"),
        (
            lambda: bp.Dense(2, "leakyrelu"),
            ValueError,
            r"unknown activation 'leakyrelu'; did you mean 'leaky_relu'",
        ),
        (lambda: bp.Dense(2, "ReLu"), ValueError, r"unknown activation 'ReLu'; did you mean 'relu'"),
        (
            lambda: bp.Dense(2, None),
            TypeError,
            r"activation must be a name or an Activation object; got None",
        ),
        (lambda: bp.Dense(2, math.tanh), TypeError, r"activation must be a name or an Activation object"),
        (lambda: bp.Dense(2, 10), TypeError, r"activation must be a name or an Activation object; got 10"),
        (lambda: bp.Dense(2, bp.Huber()), TypeError, r"activation must be .*; got Huber"),
        (
            lambda: bp.Dense(2, initializer="xavir"),
            ValueError,
            r"unknown initializer 'xavir'; did you mean 'xavier'",
        ),
        (
            lambda: bp.Dense(2, initializer=0.1),
            TypeError,
            r"initializer must be a name or an Initializer object",
        ),
        (
            lambda: bp.Dense(2, bias_initializer="zero"),
            ValueError,
            r"initializer 'zero'; did you mean 'zeros'",
        ),
        (lambda: bp.Dense(2, bias=1), TypeError, r"Dense: bias must be True or False; got 1"),
        (lambda: bp.Activation("tanhh"), ValueError, r"unknown activation 'tanhh'; did you mean 'tanh'"),
        (lambda: bp.Activation(3), TypeError, r"activation must be a name or an Activation object; got 3"),
        (lambda: bp.LeakyReLU(0), ValueError, r"LeakyReLU: slope must be greater than 0; got 0"),
        (lambda: bp.LeakyReLU(-0.1), ValueError, r"LeakyReLU: slope must be greater than 0; got -0\.1"),
        (lambda: bp.LeakyReLU("0.1"), TypeError, r"LeakyReLU: slope must be a number; got '0\.1'"),
        (lambda: bp.ELU(math.nan), ValueError, r"ELU: alpha must be greater than 0.*finite; got nan"),
        (lambda: bp.ELU(True), TypeError, r"ELU: alpha must be a number; got True"),
        (lambda: bp.Constant("1"), TypeError, r"Constant: value must be a number; got '1'"),
        (lambda: bp.Constant(math.inf), ValueError, r"Constant: value must be finite; got inf"),
        (lambda: bp.Orthogonal(0), ValueError, r"Orthogonal: gain must be greater than 0; got 0"),
        (lambda: bp.Quantile(1.0), ValueError, r"Quantile: quantile must be greater than 0 and less than 1"),
        (lambda: bp.Quantile("x"), TypeError, r"Quantile: quantile must be a number; got 'x'"),
        (lambda: bp.Adam(epsilon_hat=1), TypeError, r"Adam: epsilon_hat must be True or False; got 1"),
        (lambda: bp.Huber(0), ValueError, r"Huber: threshold must be greater than 0; got 0"),
        (lambda: bp.Huber(None), TypeError, r"Huber: threshold must be a number; got None"),
        (lambda: bp.CustomLoss(3), TypeError, r"CustomLoss: function must be callable; got 3"),
        (
            lambda: bp.CustomLoss(abs, "relu"),
            ValueError,
            r"output_link must be one of identity, .*; got 'relu'",
        ),
        (lambda: bp.SGD(-0.1), ValueError, r"SGD: learning_rate must be greater than 0; got -0\.1"),
        (lambda: bp.SGD(0), ValueError, r"SGD: learning_rate must be greater than 0; got 0"),
        (
            lambda: bp.SGD(math.inf),
            ValueError,
            r"SGD: learning_rate must be greater than 0 and finite; got inf",
        ),
        (lambda: bp.SGD(10**400), ValueError, r"SGD: learning_rate must be .*finite"),
        (lambda: bp.SGD(math.nan), ValueError, r"SGD: learning_rate must be greater than 0.*; got nan"),
        (lambda: bp.SGD("0.1"), TypeError, r"SGD: learning_rate must be a number; got '0\.1'"),
        (lambda: bp.SGD(True), TypeError, r"SGD: learning_rate must be a number; got True"),
        (lambda: bp.SGD(None), TypeError, r"SGD: learning_rate must be a number; got None"),
        (lambda: bp.SGD(1j), TypeError, r"SGD: learning_rate must be a number; got 1j"),
        (lambda: bp.SGD(bp.Cosine), TypeError, r"SGD: learning_rate must be a number; got <class"),
        (lambda: bp.SGD(np.array([0.1])), TypeError, r"SGD: learning_rate must be a number; got array"),
        (
            lambda: bp.SGD(0.1, momentum=1.0),
            ValueError,
            r"SGD: momentum must be at least 0 and less than 1; got 1",
        ),
        (
            lambda: bp.SGD(0.1, momentum=-0.1),
            ValueError,
            r"SGD: momentum must be at least 0 and less than 1; got -0",
        ),
        (lambda: bp.SGD(0.1, nesterov=True), ValueError, r"SGD: nesterov requires momentum greater than 0"),
        (lambda: bp.SGD(0.1, 0.9, "yes"), TypeError, r"SGD: nesterov must be True or False; got 'yes'"),
        (lambda: bp.Adam(beta_1=1.0), ValueError, r"Adam: beta_1 must be at least 0 and less than 1; got 1"),
        (lambda: bp.Adam(beta_2=-1), ValueError, r"Adam: beta_2 must be at least 0 and less than 1; got -1"),
        (lambda: bp.Adam(epsilon=0), ValueError, r"Adam: epsilon must be greater than 0; got 0"),
        (lambda: bp.Adam("fast"), TypeError, r"Adam: learning_rate must be a number; got 'fast'"),
        (lambda: bp.AdamW(weight_decay=-1), ValueError, r"AdamW: weight_decay must be at least 0; got -1"),
        (lambda: bp.AdamW(beta_1=2), ValueError, r"AdamW: beta_1 must be at least 0 and less than 1; got 2"),
        (lambda: bp.RMSprop(rho=1), ValueError, r"RMSprop: rho must be at least 0 and less than 1; got 1"),
        (lambda: bp.RMSprop(epsilon=-1), ValueError, r"RMSprop: epsilon must be greater than 0; got -1"),
        (lambda: bp.Adagrad(epsilon=0), ValueError, r"Adagrad: epsilon must be greater than 0; got 0"),
        (lambda: bp.Rprop(bp.Cosine(0.1, 5)), TypeError, r"Rprop: learning_rate must be a number"),
        (
            lambda: bp.Rprop(eta_minus=1),
            ValueError,
            r"Rprop: eta_minus must be greater than 0 and less than 1",
        ),
        (lambda: bp.Rprop(eta_plus=1), ValueError, r"Rprop: eta_plus must be greater than 1; got 1"),
        (lambda: bp.Rprop(step_min=1, step_max=0.5), ValueError, r"Rprop: step_min must be at most step_max"),
        (lambda: bp.L2(-1), ValueError, r"L2: alpha must be at least 0; got -1"),
        (lambda: bp.L1("a"), TypeError, r"L1: alpha must be a number; got 'a'"),
        (lambda: bp.L0(math.nan), ValueError, r"L0: alpha must be at least 0.*; got nan"),
        (lambda: bp.Frobenius(True), TypeError, r"Frobenius: alpha must be a number; got True"),
        (
            lambda: bp.ElasticNet(0.1, 1.5),
            ValueError,
            r"ElasticNet: l1_ratio must be at least 0 and at most 1; got 1",
        ),
        (lambda: bp.StepDecay(0.1, every=0), ValueError, r"StepDecay: every must be at least 1; got 0"),
        (
            lambda: bp.StepDecay(0.1, factor=0),
            ValueError,
            r"StepDecay: factor must be greater than 0 and at most 1",
        ),
        (lambda: bp.StepDecay(-1), ValueError, r"StepDecay: learning_rate must be greater than 0; got -1"),
        (
            lambda: bp.ExponentialDecay(0.1, 1.1),
            ValueError,
            r"ExponentialDecay: factor must be .*at most 1; got 1\.1",
        ),
        (lambda: bp.InverseTime(0.1, decay=-1), ValueError, r"InverseTime: decay must be at least 0; got -1"),
        (lambda: bp.InverseTime(0.1, power=-1), ValueError, r"InverseTime: power must be at least 0; got -1"),
        (lambda: bp.Cosine(0.1, 0), ValueError, r"Cosine: epochs must be at least 1; got 0"),
        (lambda: bp.Cosine(0.1, 2.5), TypeError, r"Cosine: epochs must be an integer; got 2\.5"),
        (lambda: bp.Cosine(0.1, 5, final=-1), ValueError, r"Cosine: final must be at least 0; got -1"),
        (lambda: bp.WarmUp(0.1, epochs=0), ValueError, r"WarmUp: epochs must be greater than 0; got 0"),
        (
            lambda: bp.WarmUp(0.1, start=0),
            ValueError,
            r"WarmUp: start must be greater than 0 and at most 1; got 0",
        ),
        (lambda: bp.WarmUp(-0.1), ValueError, r"WarmUp: learning_rate must be greater than 0; got -0\.1"),
        (
            lambda: bp.WarmUp(bp.ReduceOnPlateau(0.1)),
            TypeError,
            r"must not be a ReduceOnPlateau; use ReduceOnPlateau\(WarmUp",
        ),
        (
            lambda: bp.ReduceOnPlateau(0.1, factor=1),
            ValueError,
            r"factor must be greater than 0 and less than 1; got 1",
        ),
        (lambda: bp.ReduceOnPlateau(0.1, patience=0), ValueError, r"patience must be at least 1; got 0"),
        (lambda: bp.ReduceOnPlateau(0.1, min_delta=-1), ValueError, r"min_delta must be at least 0; got -1"),
        (lambda: bp.ReduceOnPlateau(0.1, floor=-1), ValueError, r"floor must be at least 0; got -1"),
        (
            lambda: bp.EarlyStopping(patience=0),
            ValueError,
            r"EarlyStopping: patience must be at least 1; got 0",
        ),
        (
            lambda: bp.EarlyStopping(patience=1.5),
            TypeError,
            r"EarlyStopping: patience must be an integer; got 1\.5",
        ),
        (
            lambda: bp.EarlyStopping(min_delta=-1),
            ValueError,
            r"EarlyStopping: min_delta must be at least 0; got -1",
        ),
        (lambda: bp.EarlyStopping(monitor=3), TypeError, r"EarlyStopping: monitor must be .*; got 3"),
        (lambda: bp.EarlyStopping(restore_best=1), TypeError, r"restore_best must be True or False; got 1"),
        (lambda: penalties.resolve("ridge", "penalty"), TypeError, r"pass an object such as bp\.L2\("),
        (
            lambda: initializers.from_config({"value": 1}),
            ValueError,
            r"initializer configuration must be an object with a name",
        ),
    ],
)
def test_specifications(make, kind, match):
    with pytest.raises(kind, match=match):
        make()


@pytest.mark.parametrize("value", [np.float32(0.5), np.float64(0.5), np.int64(1), 1])
def test_numbers_of_numpy_are_numbers(value):
    assert bp.SGD(value).schedule.rate(0.0) == float(value)
    assert bp.Dense(np.int32(3)).units == 3


# ---------------------------------------------------------------------------------------------
# The environment.


@pytest.mark.parametrize("value", ["gpu", "Native", "reference ", "0"])
def test_environment_backend(monkeypatch, backend, value):
    monkeypatch.setenv("BPFAST_BACKEND", value)
    with pytest.raises(ValueError, match=rf"BPFAST_BACKEND must be one of native, reference; got '{value}'"):
        network()
    assert network(backend=backend).backend == backend


@pytest.mark.parametrize("unset", [True, False])
def test_environment_backend_taken(monkeypatch, backend, unset):
    monkeypatch.setenv("BPFAST_BACKEND", backend)
    assert network().backend == backend
    if unset:
        monkeypatch.delenv("BPFAST_BACKEND")
    else:
        monkeypatch.setenv("BPFAST_BACKEND", "")
    assert backends.resolve_backend(None) == "native"


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", "5000", " ", "1,2", "²"])
def test_environment_threads(monkeypatch, value):
    monkeypatch.setenv("BPFAST_NUM_THREADS", value)
    with pytest.raises(ValueError, match=r"BPFAST_NUM_THREADS must be an integer from 1 to 1024; got"):
        checks.default_threads()


@pytest.mark.parametrize("value", ["1", "2", "1024"])
def test_environment_threads_taken(monkeypatch, value):
    monkeypatch.setenv("BPFAST_NUM_THREADS", value)
    assert checks.default_threads() == int(value)
    monkeypatch.setenv("BPFAST_NUM_THREADS", "")
    assert checks.default_threads() >= 1


# ---------------------------------------------------------------------------------------------
# The kernels.


@pytest.mark.parametrize(
    ("call", "kind", "match"),
    [
        (
            lambda k: k.dense_forward(np.ones((2, 3)), np.ones((4, 2))),
            ValueError,
            r"X has 3 columns; W expects 4",
        ),
        (
            lambda k: k.dense_forward(np.ones(3), np.ones((3, 2))),
            ValueError,
            r"X must be a 2-dimensional array",
        ),
        (
            lambda k: k.dense_forward(np.ones((2, 3)), np.ones(3)),
            ValueError,
            r"W must be a 2-dimensional array",
        ),
        (lambda k: k.dense_forward(np.ones((0, 3)), np.ones((3, 2))), ValueError, r"X has no rows"),
        (
            lambda k: k.dense_forward(np.ones((2, 3)), np.ones((3, 2)), np.ones(3)),
            ValueError,
            r"b has shape \(3,\)",
        ),
        (lambda k: k.dense_forward([["a"]], [[1.0]]), TypeError, r"X contains strings"),
        (
            lambda k: k.dense_forward(sparse.csr_array((2, 3)), np.ones((3, 2))),
            TypeError,
            r"X is a sparse matrix; expected a dense array \(X\.toarray\(\)\)",
        ),
        (
            lambda k: k.weight_gradient(sparse.csc_matrix((2, 3)), np.ones((2, 2))),
            TypeError,
            r"A_prev is a sparse matrix; expected a dense array",
        ),
        (lambda k: k.dense_forward([[1.0]], [[1j]]), TypeError, r"W contains complex128"),
        (
            lambda k: k.dense_forward([[1.0]], [[1.0]], None, "tan"),
            ValueError,
            r"unknown activation 'tan'; did you",
        ),
        (
            lambda k: k.dense_forward([[1.0]], [[1.0]], out=[[0.0]]),
            TypeError,
            r"out must be a NumPy array; got list",
        ),
        (
            lambda k: k.dense_forward([[1.0]], [[1.0]], out=np.ones(1)),
            ValueError,
            r"out must have shape \(1, 1\); got \(1,\)",
        ),
        (
            lambda k: k.dense_forward([[1.0]], [[1.0]], out=np.ones((1, 1), "f4")),
            TypeError,
            r"out must have dtype float64; got float32",
        ),
        (
            lambda k: k.dense_forward([[1.0]], [[1.0]], out=np.broadcast_to(np.ones(1), (1, 1))),
            ValueError,
            r"out must be writable; got a read-only array",
        ),
        (
            lambda k: k.activation_derivative(np.ones((0, 2)), "relu"),
            ValueError,
            r"Z is empty, shape \(0, 2\)",
        ),
        (lambda k: k.activation_derivative("z", "relu"), TypeError, r"Z contains strings"),
        (
            lambda k: k.propagate_delta(np.ones((2, 3)), np.ones((4, 2)), np.ones((2, 4)), "relu"),
            ValueError,
            r"D has 3 columns; W expects 2",
        ),
        (
            lambda k: k.propagate_delta(np.ones((2, 2)), np.ones((4, 2)), np.ones((2, 3)), "relu"),
            ValueError,
            r"Z_prev has 3 columns; W expects 4",
        ),
        (
            lambda k: k.propagate_delta(np.ones((2, 2)), np.ones((4, 2)), np.ones((3, 4)), "relu"),
            ValueError,
            r"Z_prev has 3 rows; D expects 2",
        ),
        (
            lambda k: k.weight_gradient(np.ones((2, 3)), np.ones((3, 2))),
            ValueError,
            r"A_prev has 2 rows; D expects 3",
        ),
        (lambda k: k.loss_and_delta("huber", [0.0], [0.0]), ValueError, r"Z must be a 2-dimensional array"),
        (
            lambda k: k.loss_and_delta("huber", [0.0, 1.0], [[0.0]]),
            ValueError,
            r"Y has 2 rows, but [XZ] has 1",
        ),
        (
            lambda k: k.loss_and_delta("hinge", [0.0], [[0.0]]),
            ValueError,
            r"Y contains 0; hinge expects -1 or \+1",
        ),
        (lambda k: k.loss_and_delta("cross_entropy", [3], [[0.0, 1.0]]), ValueError, r"Y contains class 3"),
        (
            lambda k: k.loss_and_delta("huge", [0.0], [[0.0]]),
            ValueError,
            r"unknown loss 'huge'; did you mean 'h",
        ),
        (
            lambda k: k.loss_and_delta("huber", [0.0], [[0.0]], sample_weight=[0.0]),
            ValueError,
            r"sample_weight is all 0",
        ),
    ],
)
def test_kernels(kernels, call, kind, match):
    with pytest.raises(kind, match=match):
        call(kernels)


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, "2", 5000], ids=lambda value: f"native {value}")
def test_threads_of_kernels(threads):
    """Of the native kernels: the reference has none to ask for."""
    from bpfast import kernels

    with pytest.raises((TypeError, ValueError), match=r"threads must be"):
        kernels.dense_forward([[1.0]], [[1.0]], threads=threads)
