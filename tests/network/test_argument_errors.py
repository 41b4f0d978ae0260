"""Other invalid arguments: of fit, of a network, and in the environment."""

import numpy as np
import pytest

import bpfast as bp
from bpfast import backends
from bpfast.arrays.threads import default_threads


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
        option("batch_size", 2.5, TypeError, r"batch_size must be an integer, None or 'auto'; got 2\.5"),
        option("batch_size", True, TypeError, r"batch_size must be an integer, None or 'auto'; got True"),
        option("batch_size", "32", TypeError, r"batch_size must be an integer, None or 'auto'; got '32'"),
        option("batch_size", "full", TypeError, r"batch_size must be an integer, None or 'auto'; got 'full'"),
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
        option("callbacks", [bp.EarlyStopping], TypeError, r"object or a list of them; got <class"),
        option(
            "callbacks",
            bp.EarlyStopping,
            TypeError,
            r"pass an object, EarlyStopping\(\.\.\.\), not",
        ),
        option("callbacks", bp.Checkpoint, TypeError, r"pass an object, Checkpoint\(\.\.\.\), not"),
        option("callbacks", [bp.Checkpoint], TypeError, r"pass an object, Checkpoint\(\.\.\.\), not"),
        option("callbacks", None, TypeError, r"callbacks must be a Callback object or a list of them; got N"),
        option("callbacks", 3, TypeError, r"callbacks must be"),
        option(
            "callbacks", [print], TypeError, r"a Callback object or a list of them; got <built-in function"
        ),
        option(
            "callbacks",
            "early",
            TypeError,
            r"callbacks must be a Callback object or a list of them; got 'early'",
        ),
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
def test_early_stopping_on_a_column_that_is_not_recorded(trained, data, unchanged, monitor):
    """The error is raised before the first epoch."""
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
        option("loss", None, TypeError, r"loss must be a name, a Loss object or a function; got None"),
        option("loss", 3, TypeError, r"loss must be a name, a Loss object or a function; got 3"),
        option("loss", bp.Adam(), TypeError, r"loss must be a name, a Loss object or a function; got Adam"),
        option("loss", bp.Adam, TypeError, r"loss must be a name, a Loss object or a function"),
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


@pytest.mark.parametrize("value", ["gpu", "Native", "reference ", "0"])
def test_environment_backend(monkeypatch, backend, value):
    monkeypatch.setenv("BPFAST_BACKEND", value)
    with pytest.raises(ValueError, match=rf"BPFAST_BACKEND must be one of native, reference; got '{value}'"):
        network()
    assert network(backend=backend).backend == backend


@pytest.mark.parametrize("unset", [True, False])
def test_environment_backend_is_used(monkeypatch, backend, unset):
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
        default_threads()


@pytest.mark.parametrize("value", ["1", "2", "1024"])
def test_environment_threads_are_used(monkeypatch, value):
    monkeypatch.setenv("BPFAST_NUM_THREADS", value)
    assert default_threads() == int(value)
    monkeypatch.setenv("BPFAST_NUM_THREADS", "")
    assert default_threads() >= 1
