"""Options of fit: defaults, and the checks of batch size, shuffle and validation."""

import numpy as np
import pytest

import bpfast as bp
from bpfast.training.options import FitOptions, batch_rows


@pytest.fixture
def check(make):
    """check(**changes): the checked options of a fit to 90 rows."""

    def check(**changes):
        given = {
            "epochs": 2,
            "batch_size": "auto",
            "optimizer": bp.Adam(),
            "penalty": None,
            "validation": None,
            "callbacks": (),
            "shuffle": True,
            "progress": False,
            "weight_noise": 0.0,
            "resume": None,
        }
        return FitOptions.check(make()._state, 90, **(given | changes))

    return check


@pytest.mark.parametrize(
    ("batch_size", "optimizer", "rows"),
    [
        ("auto", bp.Adam(), 32),
        ("auto", bp.Rprop(), 90),
        ("auto", bp.LBFGS(), 90),
        (None, bp.SGD(), 90),
        (7, bp.SGD(), 7),
        (1000, bp.SGD(), 90),
        (90, bp.Rprop(), 90),
    ],
)
def test_rows_per_batch(batch_size, optimizer, rows):
    assert batch_rows(batch_size, 90, optimizer) == rows


@pytest.mark.parametrize("optimizer", [bp.Rprop(), bp.LBFGS()], ids=lambda o: type(o).__name__)
def test_optimizers_that_need_the_full_batch(optimizer):
    with pytest.raises(
        ValueError, match=r"needs the full batch; pass batch_size=None \(got 32 for 90 rows\)"
    ):
        batch_rows(32, 90, optimizer)


def test_defaults(check):
    options = check()
    assert (options.epochs, options.batch_size, options.shuffle) == (2, 32, True)
    assert options.callbacks == []
    assert options.penalty is options.held_out is options.resume is None


def test_names_and_validation_data_are_resolved(check, data):
    X, y = data
    weights = np.linspace(1, 2, 90)
    options = check(
        penalty=bp.L2(0.1), validation=[X, y, weights], progress=True, callbacks=bp.EarlyStopping()
    )
    assert options.penalty == bp.L2(0.1)
    assert len(options.held_out) == 90
    assert options.held_out.weights == pytest.approx(weights)
    assert [type(callback) for callback in options.callbacks] == [bp.ProgressBar, bp.EarlyStopping]


@pytest.mark.parametrize(
    ("changes", "kind", "match"),
    [
        ({"epochs": 0}, ValueError, "fit: epochs must be at least 1; got 0"),
        ({"batch_size": 0}, ValueError, "fit: batch_size must be at least 1; got 0"),
        ({"batch_size": 1}, ValueError, r"batch_size must be at least 2 .* \(layers\[1\]\)"),
        ({"shuffle": 1}, TypeError, "shuffle must be True, False or 'blocks'; got 1"),
        ({"shuffle": "rows"}, TypeError, "shuffle must be True, False or 'blocks'; got 'rows'"),
        ({"progress": 1}, TypeError, "progress must be True or False; got 1"),
        ({"weight_noise": -1}, ValueError, "weight_noise must be at least 0; got -1"),
        ({"validation": 3}, TypeError, r"validation must be \(X, y\) or \(X, y, sample_weight\); got int"),
        ({"validation": (3,)}, TypeError, r"validation must be \(X, y\)"),
        ({"validation": (np.ones((2, 4)), [0, 1])}, ValueError, "validation X has 4 columns"),
        ({"penalty": "l3"}, ValueError, "unknown penalty 'l3'"),
    ],
)
def test_options_are_checked(check, changes, kind, match):
    with pytest.raises(kind, match=match):
        check(**changes)
