"""Layers of deep networks: gradients, both engines, thread counts, and their formulas."""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import bpfast as bp
from bpfast.layers import layers as table
from bpfast.reference import ops as reference_ops

N_INPUTS, N_OUTPUTS, ROWS = 5, 3, 11


def dense(units, activation="identity"):
    """A Dense with b ≠ 0. Before a BatchNorm the gradient of b is 0, and errors are relative."""
    return bp.Dense(units, activation, bias_initializer=bp.XavierUniform())


def renorm(r_max, d_max, end=0, **options):
    """A BatchRenorm whose corrections start immediately."""
    return bp.BatchRenorm(r_max=r_max, d_max=d_max, begin=0, end=end, **options)


#: For each layer of the table, stacks with it: alone, first, and among others.
STACKS = {
    "dense": [[dense(4, "tanh")]],
    "activation": [[bp.Activation("sigmoid")], [dense(4), bp.Activation("softplus")]],
    "dropout": [[bp.Dropout(0.4)], [dense(6, "tanh"), bp.Dropout(0.3)]],
    "batch_norm": [
        [bp.BatchNorm()],
        [dense(4), bp.BatchNorm(momentum=0.3, epsilon=1e-3), bp.Activation("tanh")],
    ],
    "batch_renorm": [[renorm(1.01, 0.01)], [dense(4), renorm(1.05, 0.02, end=2)]],
    "layer_norm": [[bp.LayerNorm()], [dense(20, "tanh"), bp.LayerNorm(epsilon=1e-2)]],
    "maxout": [[bp.Maxout(4, 3)], [bp.Maxout(70, 2, bias=False)]],
    "prelu": [[bp.PReLU(-0.1)], [dense(130), bp.PReLU()]],
    "rrelu": [[bp.RReLU()], [dense(71), bp.RReLU(-0.2, 0.9)]],
    "residual": [
        [bp.Residual(dense(4, "tanh"), dense(5))],
        [bp.Residual(dense(4, "tanh")), bp.Residual(bp.Residual(bp.BatchNorm()), dense(7, "sigmoid"))],
    ],
    "auxiliary": [
        [bp.Auxiliary(N_OUTPUTS), dense(4, "tanh")],
        [bp.Residual(dense(4, "tanh"), bp.Auxiliary(N_OUTPUTS, weight=2.0)), bp.Dropout(0.2)],
    ],
}
CASES = [pytest.param(stack, id=f"{name}{k}") for name in STACKS for k, stack in enumerate(STACKS[name])]


def network(stack, backend="native", loss="cross_entropy", **options):
    """A network of the stack followed by an output layer."""
    options = {"dtype": "float64", "seed": 4, "backend": backend, **options}
    return bp.Network([*stack, dense(N_OUTPUTS)], n_inputs=N_INPUTS, loss=loss, **options)


@pytest.fixture
def data(rng):
    return rng.normal(size=(ROWS, N_INPUTS)), rng.integers(0, N_OUTPUTS, ROWS)


def tensors(net):
    return {**net.parameters, **net.statistics}


def unlike(ours, theirs):
    """The largest error of a parameter or statistic, relative to its largest element."""
    worst = 0.0
    for name, array in tensors(ours).items():
        other = tensors(theirs)[name]
        scale = np.abs(other).max()
        worst = max(worst, float(np.abs(array - other).max() / (scale if scale > 0 else 1)))
    return worst


def push_away(net):
    """Set running statistics to extreme values, so that both corrections are clipped and constant."""
    for name, array in net.statistics.items():
        array[...] = 30.0 if name.endswith("mean") else 1e-4


def test_every_layer_is_tested():
    assert set(STACKS) == set(table)


@pytest.mark.parametrize("training", [False, True], ids=["prediction", "training"])
@pytest.mark.parametrize("stack", CASES)
def test_gradients(stack, training, backend, data):
    net = network(stack, backend)
    push_away(net)
    assert bp.check_gradients(net, *data, penalty=bp.L2(0.1), training=training, step=1e-6) < 1e-6


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-5)])
@pytest.mark.parametrize("stack", CASES)
def test_one_step(stack, dtype, tolerance, data, error):
    X, y = data
    nets = [network(stack, backend, dtype=dtype) for backend in ("native", "reference")]
    histories = [
        net.fit(X, y, epochs=1, batch_size=None, optimizer=bp.SGD(0.5), penalty=bp.L2(0.01)) for net in nets
    ]
    assert unlike(*nets) <= tolerance
    assert error(histories[0].loss, histories[1].loss) <= tolerance
    assert error(nets[0].predict(X), nets[1].predict(X)) <= tolerance


@pytest.mark.parametrize("stack", CASES)
def test_fifty_steps(stack, data):
    X, y = data
    nets = [network(stack, backend) for backend in ("native", "reference")]
    for net in nets:
        net.fit(X, y, epochs=17, batch_size=4, optimizer=bp.SGD(0.05, momentum=0.9), penalty=bp.L2(1e-3))
    assert unlike(*nets) <= 1e-9


OPTIONS = {
    "plain": {},
    "clipped": {"optimizer": bp.Adam(0.01, clip_norm=0.1, clip_value=0.01)},
    "noisy": {"weight_noise": 0.05},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("stack", CASES)
def test_identical_results_at_any_thread_count(stack, options, every_thread_works, rng):
    X, y = rng.normal(size=(53, N_INPUTS)), rng.integers(0, N_OUTPUTS, 53)
    bits = set()
    for threads in (1, 2, 3, 5):
        net = network(stack, dtype="float32", threads=threads)
        net.fit(X, y, epochs=2, batch_size=20, sample_weight=np.arange(53) % 3, **options)
        gradients = net.gradients(X, y, training=True)
        bits.add(b"".join(a.tobytes() for a in (net._state.flat, net.predict(X), *gradients.values())))
    assert len(bits) == 1


def test_threads_at_different_ops_do_not_interfere(every_thread_works, rng):
    """Accumulated deltas are in memory shared by the threads; widths differ and rows are few."""
    X, y = rng.normal(size=(ROWS, N_INPUTS)), rng.integers(0, N_OUTPUTS, ROWS)
    stack = [bp.Residual(dense(7, "tanh")), bp.Residual(dense(30, "tanh")), bp.Residual(dense(2, "tanh"))]
    bits = set()
    for threads in (1, 2, 3):
        net = network(stack, threads=threads)
        for _ in range(500 if threads > 1 else 1):
            bits.add(b"".join(g.tobytes() for g in net.gradients(X, y).values()))
    assert len(bits) == 1


def layer_lists(depth):
    """Random lists of layers; ε is 1e-2, so that curvature does not affect finite differences."""
    activation = st.sampled_from(["tanh", "sigmoid", "softplus", "relu", "gelu"])
    width = st.integers(1, 7)
    kinds = [
        st.builds(dense, width, activation),
        st.builds(bp.Activation, activation),
        st.builds(bp.Dropout, st.floats(0, 0.6)),
        st.builds(lambda m: bp.BatchNorm(momentum=m, epsilon=1e-2), st.floats(0.05, 1)),
        st.builds(lambda m: renorm(1.01, 0.01, momentum=m, epsilon=1e-2), st.floats(0.001, 0.01)),
        st.just(bp.LayerNorm(epsilon=1e-2)),
        st.builds(bp.Maxout, width, st.integers(1, 3)),
        st.builds(bp.PReLU, st.floats(-0.5, 0.5)),
        st.builds(bp.RReLU, st.floats(0, 0.2), st.floats(0.2, 0.6)),
        st.builds(bp.Auxiliary, st.just(N_OUTPUTS), st.none(), st.floats(0.1, 2)),
    ]
    if depth > 0:
        kinds.append(layer_lists(depth - 1).map(lambda inner: bp.Residual(*inner)))
    return st.lists(st.one_of(kinds), min_size=1, max_size=4)


@settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(stack=layer_lists(2), seed=st.integers(0, 1000), threads=st.integers(1, 3))
def test_random_stacks(stack, seed, threads, every_thread_works):
    rng = np.random.default_rng(seed)
    X, y = rng.normal(size=(ROWS, N_INPUTS)), rng.integers(0, N_OUTPUTS, ROWS)
    ours = network(stack, seed=seed, threads=threads)
    theirs = network(stack, "reference", seed=seed)
    for name, array in ours.parameters.items():
        # Away from what is exactly at a kink, such as a β of 0 under a column that is constant.
        array += rng.normal(0, 0.1, array.shape)
        theirs.parameters[name][...] = array
    for net in (ours, theirs):
        push_away(net)
    assert bp.check_gradients(ours, X, y, training=True, step=1e-6, max_parameters=150) < 1e-6
    mine, reference = (net.gradients(X, y, training=True) for net in (ours, theirs))
    # Some gradients are 0 but for rounding, such as that of what a BatchNorm behind takes away.
    scale = max(np.abs(g).max() for g in reference.values())
    assert max(np.abs(mine[name] - reference[name]).max() for name in mine) <= 1e-12 * scale
    for net in (ours, theirs):
        net.fit(X, y, epochs=1, batch_size=None, optimizer=bp.SGD(0.1))
    assert np.abs(ours._state.flat - theirs._state.flat).max() <= 1e-12 * max(
        1, np.abs(theirs._state.flat).max()
    )


def test_batch_norm_by_its_formula(backend, rng):
    X = rng.normal(3, 2, size=(9, 4))
    net = bp.Network(
        [bp.BatchNorm(momentum=0.2, epsilon=0.1)],
        n_inputs=4,
        loss="squared_error",
        dtype="float64",
        backend=backend,
    )
    gamma, beta = rng.normal(size=4), rng.normal(size=4)
    net.parameters["0.gamma"][...], net.parameters["0.beta"][...] = gamma, beta
    Z = net.forward(X, training=True)
    expected = gamma * (X - X.mean(axis=0)) / np.sqrt(X.var(axis=0) + 0.1) + beta
    np.testing.assert_allclose(Z, expected, rtol=1e-12)
    mean, variance = 0.2 * X.mean(axis=0), 0.8 + 0.2 * X.var(axis=0, ddof=1)
    np.testing.assert_allclose(net.statistics["0.mean"], mean, rtol=1e-12)
    np.testing.assert_allclose(net.statistics["0.variance"], variance, rtol=1e-12)
    predicted = gamma * (X - mean) / np.sqrt(variance + 0.1) + beta
    np.testing.assert_allclose(net.predict(X), predicted, rtol=1e-12)


def test_a_batch_of_one_row_gives_beta_and_does_not_update_statistics(backend):
    net = bp.Network([bp.BatchNorm()], n_inputs=3, loss="squared_error", dtype="float64", backend=backend)
    net.parameters["0.beta"][...] = 7
    assert (net.forward(np.array([[1.0, -4.0, 9.0]]), training=True) == 7).all()
    assert (net.statistics["0.mean"] == 0).all()
    assert (net.statistics["0.variance"] == 1).all()


def test_batch_renorm_by_its_formula(backend, rng):
    X = rng.normal(1, 2, size=(9, 4))
    layer = bp.BatchRenorm(r_max=1.5, d_max=0.4, begin=2, end=6, momentum=0.5)
    net = bp.Network([layer], n_inputs=4, loss="squared_error", dtype="float64", backend=backend)
    mean, variance = np.zeros(4), np.ones(4)
    for step in range(9):
        share = min(1, max(0, (step - 2) / 4))
        r_max, d_max = 1 + share * 0.5, share * 0.4
        deviation, running = np.sqrt(X.var(axis=0) + 1e-5), np.sqrt(variance + 1e-5)
        r = np.clip(deviation / running, 1 / r_max, r_max)
        d = np.clip((X.mean(axis=0) - mean) / running, -d_max, d_max)
        expected = (X - X.mean(axis=0)) / deviation * r + d
        np.testing.assert_allclose(net.forward(X, training=True), expected, rtol=1e-10, atol=1e-12)
        mean, variance = (mean + X.mean(axis=0)) / 2, (variance + X.var(axis=0, ddof=1)) / 2
        X = X + rng.normal(size=X.shape)
    assert reference_ops.renorm_limits(3, 1.5, 0.4, 2, 6) == (1.125, 0.1)


def test_batch_renorm_without_corrections_is_batch_norm(data):
    X, y = data
    nets = [network([layer, dense(4, "tanh")]) for layer in (bp.BatchNorm(), renorm(1, 0))]
    for net in nets:
        net.fit(X, y, epochs=3, batch_size=4)
    assert nets[0]._state.flat.tobytes() == nets[1]._state.flat.tobytes()


def test_maxout_gives_the_delta_to_the_first_of_equal_pieces(backend):
    net = bp.Network([bp.Maxout(2, 3)], n_inputs=1, loss="squared_error", dtype="float64", backend=backend)
    net.parameters["0.W"][...] = [[1.0, 5.0, 1.0, -5.0, 0.5, 5.0]]
    net.forward(np.ones((1, 1)), training=True)
    net.backward(np.array([[2.0, 3.0]]))
    assert net.gradient["0.b"].tolist() == [2.0, 3.0, 0.0, 0.0, 0.0, 0.0]


def test_rrelu_draws_evenly_and_predicts_by_the_mean(backend):
    net = bp.Network(
        [bp.RReLU(0.1, 0.5)], n_inputs=50, loss="squared_error", dtype="float64", backend=backend
    )
    X = np.full((400, 50), -1.0)
    slopes = -net.forward(X, training=True)
    assert 0.1 <= slopes.min() < 0.101
    assert 0.499 < slopes.max() <= 0.5
    counts = np.histogram(slopes, bins=20, range=(0.1, 0.5))[0]
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(1000)
    assert not np.array_equal(slopes, -net.forward(X, training=True))
    np.testing.assert_allclose(net.predict(X), -0.3, rtol=1e-12)
    assert (net.forward(-X, training=True) == 1).all()


def test_residual_adds_its_input(backend, rng):
    X = rng.normal(size=(6, 5))
    net = network([bp.Residual(dense(4, "tanh"), dense(5)), bp.Residual(dense(2))], backend, "squared_error")
    p = net.parameters
    A = X + np.tanh(X @ p["0.0.W"] + p["0.0.b"]) @ p["0.1.W"] + p["0.1.b"]
    A = A @ p["1.0.W"] + p["1.0.b"] + A @ p["1.skip.W"]
    np.testing.assert_allclose(net.predict(X), A @ p["2.W"] + p["2.b"], rtol=1e-12)


def test_a_residual_reads_sparse_rows(data):
    scipy = pytest.importorskip("scipy.sparse")
    X, y = data
    X = np.where(X > 0.8, X, 0)
    for stack in ([bp.Residual(dense(4, "tanh"))], [bp.Residual(dense(4, "tanh"), dense(5))]):
        nets = [network(stack), network(stack)]
        nets[0].fit(X, y, epochs=3, batch_size=4)
        nets[1].fit(scipy.csr_array(X), y, epochs=3, batch_size=4)
        assert nets[0]._state.flat.tobytes() == nets[1]._state.flat.tobytes()
        np.testing.assert_array_equal(nets[0].predict(X), nets[1].predict(scipy.csr_array(X)))


def test_an_auxiliary_head_is_active_only_in_training(backend, data):
    X, y = data
    net = network([dense(4, "tanh"), bp.Auxiliary(N_OUTPUTS, weight=0.7)], backend)
    p = net.parameters
    A = np.tanh(X @ p["0.W"] + p["0.b"])
    head = bp.Network([dense(N_OUTPUTS)], n_inputs=4, loss="cross_entropy", dtype="float64")
    for name in "Wb":
        head.parameters[f"0.{name}"][...] = p[f"1.{name}"]
    objective = net.loss(X, y) + 0.7 * head.loss(A, y)
    twin = copy.deepcopy(net)
    history = twin.fit(X, y, epochs=1, batch_size=None, optimizer=bp.SGD(0.1))
    assert history.loss[0] == pytest.approx(objective, rel=1e-12)
    np.testing.assert_allclose(
        net.gradients(X, y, training=True)["1.W"], 0.7 * head.gradients(A, y)["0.W"], rtol=1e-10
    )
    assert not net.gradients(X, y)["1.W"].any()
    before = net.predict(X)
    p["1.W"][...] += 5
    np.testing.assert_array_equal(net.predict(X), before)


def test_an_auxiliary_head_with_a_different_loss(data, rng):
    X, _ = data
    y = rng.normal(size=(ROWS, N_OUTPUTS))
    stack = [dense(4, "tanh"), bp.Auxiliary(N_OUTPUTS, "huber", 0.5)]
    nets = [network(stack, backend, "squared_error") for backend in ("native", "reference")]
    for net in nets:
        assert bp.check_gradients(net, X, y, training=True) < 1e-6
        net.fit(X, y, epochs=3, batch_size=4)
    assert unlike(*nets) <= 1e-10


def test_a_custom_loss_trains_the_layers_of_deep_networks(data):
    X, _ = data
    Y = np.tanh(X[:, :N_OUTPUTS])

    def loss(Y, Z):
        return ((Z - Y) ** 2).mean(axis=1), 2 * (Z - Y) / Y.shape[1]

    stack = [bp.Residual(dense(5), bp.BatchNorm(), bp.PReLU()), bp.Dropout(0.1)]
    nets = [network(stack, loss=each) for each in (loss, "squared_error")]
    for net in nets:
        net.fit(X, Y, epochs=3, batch_size=4, weight_noise=0.01, optimizer=bp.SGD(0.1))
    assert unlike(*nets) <= 1e-12


@pytest.mark.parametrize("stack", CASES)
def test_saved_and_copied_networks_are_identical(stack, data, tmp_path):
    X, y = data
    net = network(stack)
    net.scale_learning_rates({-1: 0.5})
    net.fit(X, y, epochs=2, batch_size=4)
    net.save(tmp_path / "net.safetensors")
    for other in (bp.load(tmp_path / "net.safetensors"), pickle.loads(pickle.dumps(net)), copy.deepcopy(net)):
        assert other.layers == net.layers
        assert other._state.flat.tobytes() == net._state.flat.tobytes()
        assert other.learning_rate_scales == net.learning_rate_scales
        np.testing.assert_array_equal(other.predict(X), net.predict(X))
        other.reset_optimizer()
    net.reset_optimizer()
    # Random ops go on where they were.
    again = bp.load(tmp_path / "net.safetensors")
    for each in (net, again):
        each.fit(X, y, epochs=1, batch_size=4)
    assert again._state.flat.tobytes() == net._state.flat.tobytes()


def test_a_file_with_a_negative_variance_is_rejected(data, tmp_path):
    net = network([bp.BatchNorm()])
    net.statistics["0.variance"][2] = -1
    net.save(tmp_path / "net.safetensors")
    with pytest.raises(ValueError, match=r"0\.variance contains a negative value"):
        bp.load(tmp_path / "net.safetensors")


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("stack", CASES)
def test_two_fits_equal_one(stack, options, backend, data):
    nets = [network(stack, backend) for _ in range(2)]
    nets[0].fit(*data, epochs=3, batch_size=4, **options)
    nets[1].fit(*data, epochs=1, batch_size=4, **options)
    nets[1].predict(data[0])
    nets[1].gradients(*data)
    nets[1].fit(*data, epochs=2, batch_size=4, **options)
    assert nets[0]._state.flat.tobytes() == nets[1]._state.flat.tobytes()


@pytest.mark.parametrize("stack", CASES)
def test_a_prediction_does_not_depend_on_its_neighbours(stack, data):
    net = network(stack, dtype="float32")
    X = data[0].astype(np.float32)
    net.fit(*data, epochs=1)
    alone = np.concatenate([net.predict(X[i : i + 1]) for i in range(ROWS)])
    np.testing.assert_array_equal(net.predict(X), alone)
