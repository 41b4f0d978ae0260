"""Options of the plan of an epoch: order, loss scale, penalty strengths, objective."""

import numpy as np
import pytest

import bpfast as bp
from bpfast.engine.interface import Data, OptimizerState, Plan
from bpfast.native import _core
from bpfast.penalties import penalties

ROWS, BATCH = 37, 8
BATCHES = -(-ROWS // BATCH)
RATES = np.full(BATCHES, 0.05)
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}


@pytest.fixture(autouse=True)
def every_thread_works():
    old = _core.work_per_thread(0)
    yield
    _core.work_per_thread(old)


@pytest.fixture
def epoch(build, rng, make_targets):
    """epoch(...): run one epoch on this backend; return losses, counts and the weights."""
    X = rng.normal(size=(ROWS, 5))
    y = {loss: make_targets(loss, ROWS, 3, rng) for loss in ("cross_entropy", "squared_error")}
    weights = rng.random(ROWS)

    def run(
        *, loss="cross_entropy", weighted=False, dtype="float64", batch_size=BATCH, rates=RATES, **options
    ):
        threads = options.pop("threads", 1)
        backend = {"backend": options.pop("backend")} if "backend" in options else {}
        penalty, shuffle = options.pop("penalty", None), options.pop("shuffle", None)
        net = build((5, 11, 3), "tanh", loss, dtype=dtype, threads=threads, **backend)
        state = OptimizerState.initial(bp.Adam(), net.program.size, net.dtype)
        plan = Plan(net.loss_spec, batch_size, rates, penalty, shuffle, (0, 0), **options)
        Xs = X.astype(dtype)
        Y = y[loss] if y[loss].ndim == 1 else y[loss].astype(dtype)
        losses, counts = net._state.engine.train(
            net._state.flat, state, Data(Xs, Y, weights if weighted else None), plan
        )
        return losses, counts, net._state.flat.copy()

    run.weights = weights
    return run


over_dtypes = pytest.mark.parametrize("dtype", list(TOLERANCE))
ALPHAS = np.array([0.5, 0.25, 0.1, 0.0, 2.0])


@over_dtypes
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", [None, *penalties])
def test_both_engines_agree(epoch, rng, error, name, weighted, dtype):
    """Every penalty in the objective, α of each batch, an order and a scale, native against NumPy."""
    options = {
        "penalty": None if name is None else penalties[name](7.0),
        "alphas": None if name is None else ALPHAS / 50,
        "objective": True,
        "loss_scale": 3.0,
        "order": rng.permutation(ROWS),
        "dtype": dtype,
        "weighted": weighted,
    }
    native, expected = epoch(backend="native", **options), epoch(backend="reference", **options)
    for mine, theirs in zip(native, expected, strict=True):
        assert error(mine, theirs) <= TOLERANCE[dtype]


@pytest.mark.parametrize("name", list(penalties))
def test_the_same_bits_at_any_number_of_threads(epoch, rng, name):
    options = {
        "penalty": penalties[name](0.01),
        "alphas": ALPHAS / 50,
        "objective": True,
        "order": rng.permutation(ROWS),
        "backend": "native",
    }
    results = {
        tuple(part.tobytes() for part in epoch(threads=threads, **options)) for threads in (1, 2, 3, 5)
    }
    assert len(results) == 1


def test_an_order_is_the_shuffled_order(epoch):
    """The order of (seed, epoch), given as row numbers, gives bitwise identical results."""
    by_seed = epoch(shuffle=(3, 1))
    by_number = epoch(order=bp.reference.permutation(ROWS, 3, 1))
    for one, other in zip(by_seed, by_number, strict=True):
        assert one.tobytes() == other.tobytes()


def test_an_order_may_leave_rows_out(build, rng):
    """Training on some rows of X is training on a copy of them."""
    X, y = rng.normal(size=(ROWS, 5)), rng.integers(0, 3, ROWS)
    rows = rng.permutation(ROWS)[:20]
    bits = []
    for Xs, ys, order in ((X, y, rows), (X[rows], y[rows], None)):
        net = build((5, 11, 3), "tanh", "cross_entropy")
        state = OptimizerState.initial(bp.SGD(0.1), net.program.size, net.dtype)
        plan = Plan(net.loss_spec, BATCH, np.full(3, 0.1), None, None, (0, 0), order=order)
        losses, _ = net._state.engine.train(net._state.flat, state, Data(Xs, ys), plan)
        bits.append((losses.tobytes(), net._state.flat.tobytes()))
    assert bits[0] == bits[1]


def test_the_scale_multiplies_loss_and_gradient(epoch, build, rng, error):
    """One batch with a scale of 2 is a step of gradient descent with twice the rate."""
    X, y = rng.normal(size=(ROWS, 5)), rng.normal(size=(ROWS, 3))
    ends, losses = [], []
    for scale, rate in ((2.0, 0.1), (1.0, 0.2)):
        net = build((5, 11, 3), "tanh")
        state = OptimizerState.initial(bp.SGD(rate), net.program.size, net.dtype)
        plan = Plan(net.loss_spec, ROWS, np.array([rate]), None, None, (0, 0), loss_scale=scale)
        losses.append(net._state.engine.train(net._state.flat, state, Data(X, y), plan)[0][0])
        ends.append(net._state.flat)
    assert error(ends[0], ends[1]) <= 1e-14
    assert losses[0] == pytest.approx(2 * losses[1], rel=1e-14)


@pytest.mark.parametrize("name", list(penalties))
def test_the_objective_is_the_loss_and_the_penalty(build, rng, name):
    X, y, penalty = rng.normal(size=(ROWS, 5)), rng.integers(0, 3, ROWS), penalties[name](0.3)
    net = build((5, 40, 3), "tanh", "cross_entropy")
    expected = net.loss(X, y, penalty=penalty)
    state = OptimizerState.initial(bp.SGD(0.1), net.program.size, net.dtype)
    plan = Plan(net.loss_spec, ROWS, np.array([0.1]), penalty, None, (0, 0), objective=True)
    assert net._state.engine.train(net._state.flat, state, Data(X, y), plan)[0][0] == pytest.approx(
        expected, rel=1e-12
    )


@pytest.mark.parametrize("bad", [[0, ROWS], [-1, 0], []])
def test_the_native_engine_checks_an_order(epoch, bad):
    """Wrong row numbers would become wrong addresses."""
    with pytest.raises(ValueError, match="order must"):
        epoch(backend="native", order=np.array(bad, np.int64), rates=np.array([0.1]))
