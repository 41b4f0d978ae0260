"""The estimators in scikit-learn's tools: searches, pipelines, calibration, pickles, parallel workers."""

import copy
import pickle
import subprocess
import sys
import time

import joblib
import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from sklearn.ensemble import BaggingClassifier, VotingClassifier
from sklearn.inspection import permutation_importance
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score, learning_curve
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import bpfast as bp
from bpfast.sklearn import MLPClassifier, MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, Y = load_digits(return_X_y=True)
X, Y = X[:700] / 16, Y[:700]
OPTIONS = {
    "hidden_layer_sizes": (32,),
    "random_state": 0,
    "max_iter": 20,
    "batch_size": 50,
    "learning_rate_init": 0.01,
}


def arrays(est):
    """All arrays that a prediction depends on."""
    return [*est.coefs_, *est.intercepts_, *(array for norm in est.batch_norms_ for array in norm)]


@pytest.fixture
def est():
    return MLPClassifier(**OPTIONS)


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_grid_search(est, backend):
    """Two workers give bitwise identical results to one, in bounded time."""
    grid = {"hidden_layer_sizes": [(16,), (32, 16)], "alpha": [1e-4, 1.0], "activation": ["relu", "gelu"]}
    alone = GridSearchCV(est, grid, cv=2).fit(X, Y)
    start = time.perf_counter()
    with joblib.parallel_config(backend):
        together = GridSearchCV(est, grid, cv=2, n_jobs=2).fit(X, Y)
    assert time.perf_counter() - start < 60
    assert (alone.cv_results_["mean_test_score"] == together.cv_results_["mean_test_score"]).all()
    assert together.best_score_ > 0.8


def test_workers_of_a_pool_share_the_cores():
    """The processes use the number of threads that joblib gives them."""
    code = (
        "import joblib, bpfast\n"
        "def threads(_):\n    return bpfast.info()['threads']\n"
        "with joblib.parallel_config('loky', inner_max_num_threads=1):\n"
        "    print(set(joblib.Parallel(n_jobs=2)(joblib.delayed(threads)(i) for i in range(4))))\n"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "{1}"


def test_pipelines(est):
    model = make_pipeline(StandardScaler(), est).fit(X, Y)
    assert model.score(X, Y) > 0.95
    assert cross_val_score(model, X, Y, cv=3).mean() > 0.85
    assert cross_val_predict(est, X, Y, cv=3, method="predict_proba").shape == (700, 10)
    model.set_params(mlpclassifier__alpha=0.5, mlpclassifier__dropout=0.1, mlpclassifier__batch_norm=True)
    assert "alpha=0.5" in repr(model)
    assert model.fit(X, Y).score(X, Y) > 0.95
    assert "MLPClassifier" in model._repr_html_()


def test_learning_curve(est):
    sizes, train, test = learning_curve(est, X, Y, train_sizes=[60, 200, 400], cv=3)
    assert list(sizes) == [60, 200, 400]
    assert test.mean(axis=1)[0] < test.mean(axis=1)[-1]
    assert train.shape == test.shape == (3, 3)


def test_meta_estimators(est):
    assert CalibratedClassifierCV(est, cv=2).fit(X, Y).predict_proba(X).sum(axis=1) == pytest.approx(1)
    margins = MLPClassifier(loss="hinge", **OPTIONS)
    assert CalibratedClassifierCV(margins, cv=2).fit(X, Y).score(X, Y) > 0.9
    assert VotingClassifier([("a", est), ("b", margins)]).fit(X, Y).score(X, Y) > 0.9
    assert BaggingClassifier(est, 3, random_state=0, n_jobs=2).fit(X, Y).score(X, Y) > 0.9
    assert OneVsRestClassifier(est).fit(X, Y).score(X, Y) > 0.9


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_permutation_importance(n_jobs):
    Xd, yd = load_diabetes(return_X_y=True, as_frame=True)
    Xd = Xd / Xd.std()
    model = MLPRegressor(hidden_layer_sizes=(), solver="lbfgs", max_iter=500).fit(Xd, yd)
    found = permutation_importance(model, Xd, yd, n_repeats=3, random_state=0, n_jobs=n_jobs)
    assert Xd.columns[found.importances_mean.argmax()] in ("bmi", "s5", "s1")


def test_data_frames(est):
    frame = pd.DataFrame(X, columns=[f"pixel {i}" for i in range(64)])
    est.set_params(early_stopping=True, scoring="balanced_accuracy").fit(frame, pd.Series(Y))
    assert list(est.feature_names_in_) == list(frame.columns)
    assert est.score(frame, Y) > 0.9
    with pytest.raises(ValueError, match="feature names"):
        est.predict(frame.rename(columns={"pixel 0": "x"}))
    scaled = make_pipeline(StandardScaler(), clone(est)).set_output(transform="pandas").fit(frame, Y)
    assert list(scaled[-1].feature_names_in_) == list(frame.columns)


def test_metadata_routing(est):
    weights = np.where(Y == 3, 0.0, 1.0)
    with sklearn.config_context(enable_metadata_routing=True):
        asked = clone(est).set_fit_request(sample_weight=True, validation_data=True)
        scaler = StandardScaler().set_fit_request(sample_weight=False)
        model = make_pipeline(scaler, asked).fit(X, Y, sample_weight=weights, validation_data=(X, Y))
        request = asked.get_metadata_routing()
    assert request.fit.requests == {"sample_weight": True, "validation_data": True}
    assert (model.predict(X) != 3).all()
    assert len(model[-1].validation_loss_curve_) == model[-1].n_iter_


COPIES = {
    "pickle": lambda est, _: pickle.loads(pickle.dumps(est)),
    "joblib": lambda est, path: joblib.load(joblib.dump(est, path / "est.joblib")[0]),
    "deepcopy": lambda est, _: copy.deepcopy(est),
}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dropout": 0.3},
        {"batch_norm": True},
        {"batch_norm": True, "dropout": 0.3, "early_stopping": True},
        {"early_stopping": True},
        {"solver": bp.AdamW(0.01)},
    ],
    ids=str,
)
def test_copies_can_be_trained_further(est, tmp_path, how, options):
    """A copy has the same predictions, trains identically, and shares no memory."""
    est.set_params(**options).fit(X, Y)
    more = {"validation_data": (X, Y)} if options.get("early_stopping") else {}
    twin = COPIES[how](est, tmp_path)
    assert (twin.predict_proba(X) == est.predict_proba(X)).all()
    before = [array.copy() for array in arrays(est)]
    twin.partial_fit(X, Y, **more)
    assert all((a == b).all() for a, b in zip(arrays(est), before, strict=True))
    est.partial_fit(X, Y, **more)
    assert all((a == b).all() for a, b in zip(arrays(est), arrays(twin), strict=True))
    assert est.loss_curve_ == twin.loss_curve_


def test_a_clone_is_unfitted(est):
    est.set_params(solver=bp.SGD(0.1), activation=bp.LeakyReLU(0.2), learning_rate=bp.Cosine(0.1, 5)).fit(
        X, Y
    )
    twin = clone(est)
    assert twin.get_params()["solver"] == bp.SGD(0.1)
    assert not hasattr(twin, "coefs_")
    assert not hasattr(twin, "batch_norms_")
    assert (twin.fit(X, Y).coefs_[0] == est.coefs_[0]).all()


def test_a_pickle_contains_the_weights_once(est):
    X, y = load_breast_cancer(return_X_y=True)
    est.set_params(hidden_layer_sizes=(500,), solver="lbfgs", max_iter=3).fit(
        StandardScaler().fit_transform(X), y
    )
    weights = sum(array.nbytes for array in (*est.coefs_, *est.intercepts_))
    assert len(pickle.dumps(est)) < 1.2 * weights + 5000


def test_results_do_not_depend_on_threads(est):
    fits = [clone(est).set_params(n_jobs=n).fit(X, Y).coefs_[0] for n in (1, 2, -1, -2, None)]
    assert all((fit == fits[0]).all() for fit in fits)


def test_without_scikit_learn():
    code = "import sys; sys.modules['sklearn'] = None; import bpfast, bpfast.sklearn"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert "bpfast.sklearn needs scikit-learn: pip install 'bpfast[sklearn]'" in done.stderr
