"""scikit-learn's own checks: of any estimator, and its tests of its perceptrons with ours in their place."""

import importlib.util
import inspect
import warnings

import pytest
import sklearn.neural_network
from sklearn.utils.estimator_checks import parametrize_with_checks

from bpfast.sklearn import MLPClassifier, MLPRegressor

#: The cases of scikit-learn's test file that reach into an attribute that is not public: its name.
PRIVATE = {"test_gradient": "_loss_grad_lbfgs"}


@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks([MLPClassifier(), MLPRegressor()])
def test_any_estimator(estimator, check):
    check(estimator)


@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks([MLPClassifier(batch_norm=True), MLPRegressor(batch_norm=True)])
def test_any_estimator_with_batch_norm(estimator, check):
    if check.func.__name__.startswith("check_sample_weight_equivalence"):
        # A row of weight 0 affects the statistics of its batch like any other row.
        with pytest.raises(AssertionError, match="sample_weight"):
            check(estimator)
        return
    check(estimator)


def _their_tests():
    """scikit-learn's own tests of its estimators, with both names replaced."""
    spec = importlib.util.find_spec("sklearn.neural_network.tests.test_mlp")
    module = importlib.util.module_from_spec(spec)
    theirs = sklearn.neural_network.MLPClassifier, sklearn.neural_network.MLPRegressor
    sklearn.neural_network.MLPClassifier, sklearn.neural_network.MLPRegressor = MLPClassifier, MLPRegressor
    try:
        spec.loader.exec_module(module)
    finally:
        sklearn.neural_network.MLPClassifier, sklearn.neural_network.MLPRegressor = theirs
    assert module.MLPClassifier is MLPClassifier
    return module


THEIRS = _their_tests()


def _cases():
    """Every test function with the arguments of its parametrize marks."""
    for name, function in vars(THEIRS).items():
        if not name.startswith("test_") or not callable(function):
            continue
        marks = getattr(function, "pytestmark", [])
        cases = [{}]
        for mark in (mark for mark in marks if mark.name == "parametrize"):
            names, values = mark.args[:2]
            names = [each.strip() for each in names.split(",")] if isinstance(names, str) else list(names)
            rows = [value if len(names) > 1 else (value,) for value in values]
            cases = [{**case, **dict(zip(names, row, strict=True))} for case in cases for row in rows]
        for index, case in enumerate(cases):
            yield pytest.param(function, case, id=f"{name}-{index}" if case else name)


@pytest.mark.parametrize(("function", "case"), list(_cases()))
def test_tests_of_sklearn(function, case, request):
    if function.__name__ in PRIVATE:
        attribute = PRIVATE[function.__name__]
        assert attribute in inspect.getsource(function)
        assert not hasattr(MLPClassifier(), attribute)
        return
    fixtures = {"global_random_seed": 42}
    values = {
        name: fixtures[name] if name in fixtures else request.getfixturevalue(name)
        for name in inspect.signature(function).parameters
        if name not in case
    }
    filters = [mark.args for mark in getattr(function, "pytestmark", []) if mark.name == "filterwarnings"]
    with warnings.catch_warnings():
        # As in the configuration of scikit-learn, warnings are not errors.
        warnings.simplefilter("ignore" if filters else "default")
        function(**case, **values)


def test_excluded_tests_exist():
    """The excluded tests exist; all others run."""
    assert set(PRIVATE) <= set(vars(THEIRS))
