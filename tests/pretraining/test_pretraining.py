"""Layer-wise pretraining: autoencoders and restricted Boltzmann machines."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from scipy import sparse as scipy_sparse

import bpfast as bp
from bpfast.pretraining.autoencoder import corrupted, tied_gradient
from bpfast.pretraining.boltzmann import contrastive_divergence


def sigmoid(Z):
    return 1 / (1 + np.exp(-Z))


def patterns(rng, n_rows=200, n_columns=12, noise=0.05):
    """Rows near one of four patterns of bits: something that a code of few units can hold."""
    kinds = rng.integers(0, 2, (4, n_columns))
    rows = kinds[rng.integers(0, 4, n_rows)]
    return np.where(rng.random(rows.shape) < noise, 1 - rows, rows).astype(float)


def network(layers=None, *, n_inputs=12, **options):
    layers = layers or [bp.Dense(6, "sigmoid"), bp.Dense(5, "sigmoid"), bp.Dense(3)]
    options = {"loss": "cross_entropy", "dtype": "float64", "seed": 3, **options}
    return bp.Network(layers, n_inputs=n_inputs, **options)


METHODS = {
    "tied": bp.Autoencoder(epochs=4),
    "free": bp.Autoencoder(epochs=4, tied=False),
    "denoising, tied": bp.Autoencoder(epochs=4, corruption=0.3, noise=0.1),
    "denoising, free": bp.Autoencoder(epochs=4, tied=False, corruption=0.3, optimizer=bp.SGD(0.1)),
    "rbm": bp.RBM(epochs=4),
    "rbm, three steps": bp.RBM(epochs=4, steps=3),
    "rbm, gaussian": bp.RBM(epochs=4, steps=2, learning_rate=1e-3, visible="gaussian"),
}


@pytest.fixture(params=METHODS, ids=str)
def method(request):
    return METHODS[request.param]


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "elu"])
@pytest.mark.parametrize("loss", ["squared_error", "log_loss", "huber"])
def test_tied_gradient_against_finite_differences(backend, activation, loss, rng):
    X = rng.random((7, 5))
    damaged = corrupted(X, 0.3, 0.2, rng)
    auto = bp.Network(
        [bp.Dense(4, activation, bias_initializer=bp.XavierUniform()), bp.Dense(5)],
        n_inputs=5,
        loss=loss,
        dtype="float64",
        backend=backend,
    )
    tied_gradient(auto, damaged, X)
    given = {name: auto.gradient[name].copy() for name in ("0.W", "0.b", "1.b")}
    assert not auto.gradient["1.W"].any()
    for name, gradient in given.items():
        slopes = np.empty_like(gradient)
        for place in np.ndindex(*gradient.shape):
            sides = []
            for h in (1e-6, -2e-6):
                auto.parameters[name][place] += h
                np.copyto(auto.parameters["1.W"], auto.parameters["0.W"].T)
                H = bp.reference.dense_forward(
                    damaged, auto.parameters["0.W"], auto.parameters["0.b"], activation
                )
                Z = H @ auto.parameters["0.W"].T + auto.parameters["1.b"]
                sides.append(bp.reference.loss_and_delta(loss, X, Z)[0])
            auto.parameters[name][place] += 1e-6
            slopes[place] = (sides[0] - sides[1]) / 2e-6
        assert np.abs(gradient - slopes).max() < 1e-7 * max(1.0, np.abs(slopes).max())


def test_corruption(rng):
    X = rng.random((400, 50)) + 1
    masked = corrupted(X, 0.3, 0.0, rng)
    kept = masked != 0
    assert abs(1 - kept.mean() - 0.3) < 0.01
    assert (masked[kept] == X[kept]).all()
    noisy = corrupted(X.astype(np.float32), 0.0, 0.5, rng)
    assert noisy.dtype == np.float32
    assert abs((noisy - X).std() - 0.5) < 0.01
    assert corrupted(X, 0.0, 0.0, rng) is X


def plain_contrastive_divergence(X, W, b, c, rng, steps, visible):
    """CD-k as it is written: one row and one unit after the other."""
    H0 = sigmoid(X @ W + b)
    H, V = H0, X
    for step in range(steps):
        h = (rng.random(H.shape) < H).astype(float)
        V = h @ W.T + c
        V = sigmoid(V) if visible == "binary" else V
        if step == 0:
            error = np.mean([(x - v) ** 2 for x, v in zip(X.ravel(), V.ravel(), strict=True)])
        if step < steps - 1:
            if visible == "binary":
                V = (rng.random(V.shape) < V).astype(float)
            else:
                V = V + rng.standard_normal(V.shape)
        H = sigmoid(V @ W + b)
    dW = sum(np.outer(x, p) - np.outer(v, q) for x, p, v, q in zip(X, H0, V, H, strict=True)) / len(X)
    return dW, (H0 - H).mean(axis=0), (X - V).mean(axis=0), error


@pytest.mark.parametrize("visible", ["binary", "gaussian"])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_contrastive_divergence_against_numpy(backend, steps, visible, rng, error):
    X = rng.integers(0, 2, (30, 7)).astype(float) if visible == "binary" else rng.normal(size=(30, 7))
    W, b, c = rng.normal(size=(7, 4)), rng.normal(size=4), rng.normal(size=7)
    given = contrastive_divergence(
        X, W, b, c, np.random.default_rng(5), steps=steps, visible=visible, backend=backend
    )
    wanted = plain_contrastive_divergence(X, W, b, c, np.random.default_rng(5), steps, visible)
    for one, other in zip(given, wanted, strict=True):
        assert error(one, other) < 1e-12


def mean_log_likelihood(X, W, b, c):
    """log p(v) of binary rows, Z by enumeration of all visible states."""

    def log_unnormalised(V):
        return V @ c + np.logaddexp(0, V @ W + b).sum(axis=1)

    states = np.array(list(itertools.product([0.0, 1.0], repeat=W.shape[0])))
    return float(log_unnormalised(X).mean() - np.logaddexp.reduce(log_unnormalised(states)))


@pytest.mark.parametrize("steps", [1, 5])
def test_likelihood_of_a_small_machine_rises(backend, steps, rng):
    # The first three bits are alike and so are the last three, which no bit tells alone.
    X = np.repeat(rng.integers(0, 2, (300, 2)), 3, axis=1)
    X = np.where(rng.random(X.shape) < 0.02, 1 - X, X).astype(float)
    W, b, c = 0.01 * rng.normal(size=(6, 4)), np.zeros(4), np.zeros(6)
    draws = np.random.default_rng(0)
    course = [mean_log_likelihood(X, W, b, c)]
    assert course[0] == pytest.approx(-6 * np.log(2), abs=0.05)
    for _ in range(8):
        for _ in range(100):
            rows = X[draws.integers(0, len(X), 30)]
            dW, db, dc, _ = contrastive_divergence(rows, W, b, c, draws, steps=steps, backend=backend)
            W, b, c = W + 0.1 * dW, b + 0.1 * db, c + 0.1 * dc
        course.append(mean_log_likelihood(X, W, b, c))
    # At the start the units are alike, which is a saddle.
    assert all(later > earlier for earlier, later in itertools.pairwise(course[1:7]))
    # No hidden units reach this, each bit with its own share.
    p = X.mean(axis=0)
    alone = (p * np.log(p) + (1 - p) * np.log(1 - p)).sum()
    assert course[-1] > alone + 1


def test_the_chain_ends_in_the_models_distribution(rng):
    """After many steps h is drawn from p(h), here by enumeration, whatever the data were."""
    W, b, c = rng.normal(size=(3, 2)), rng.normal(size=2), rng.normal(size=3)
    X = np.repeat(rng.integers(0, 2, (5, 3)).astype(float), 20000, axis=0)
    H0 = sigmoid(X @ W + b)
    dW, db, dc, _ = contrastive_divergence(X, W, b, c, np.random.default_rng(1), steps=30)
    states = np.array(list(itertools.product([0.0, 1.0], repeat=2)))
    p = np.exp(states @ b + np.logaddexp(0, states @ W.T + c).sum(axis=1))
    p /= p.sum()
    V = sigmoid(states @ W.T + c)
    H = sigmoid(V @ W + b)
    assert dW == pytest.approx(X.T @ H0 / len(X) - (p[:, None] * V).T @ H, abs=0.005)
    assert db == pytest.approx(H0.mean(axis=0) - p @ H, abs=0.005)
    assert dc == pytest.approx(X.mean(axis=0) - p @ V, abs=0.005)
    # Which, for the visible biases, is the slope of the likelihood.
    for place in range(3):
        h = 1e-5 * np.eye(3)[place]
        sides = [mean_log_likelihood(X[::20000], W, b, c + side) for side in (h, -h)]
        assert dc[place] == pytest.approx((sides[0] - sides[1]) / 2e-5, abs=0.005)


def test_rbm_update_by_hand(rng):
    """One epoch of one batch, and a second: momentum, decay and the visible biases' start."""
    X = patterns(rng, 40)
    net = network([bp.Dense(6, "sigmoid"), bp.Dense(3)])
    W, b = net.parameters["0.W"].copy(), net.parameters["0.b"].copy()
    spec = bp.RBM(
        epochs=2, batch_size=None, learning_rate=bp.StepDecay(0.5, every=1, factor=0.5), momentum=0.8,
        initial_momentum=0.4, initial_epochs=1, weight_decay=0.01,
    )  # fmt: skip
    history = bp.pretrain(net, X, spec)
    draws = np.random.default_rng([3, 0])
    p = (X.sum(axis=0) + 1) / (len(X) + 2)
    c = np.log(p) - np.log(1 - p)
    velocity, errors = [0.0, 0.0, 0.0], []
    for rate, momentum in ((0.5, 0.4), (0.25, 0.8)):
        rows = X[draws.permutation(len(X))]
        dW, db, dc, error = plain_contrastive_divergence(rows, W, b, c, draws, 1, "binary")
        errors.append(error)
        slopes = (dW - 0.01 * W, db, dc)
        velocity = [momentum * v + rate * g for v, g in zip(velocity, slopes, strict=True)]
        W, b, c = W + velocity[0], b + velocity[1], c + velocity[2]
    assert np.abs(net.parameters["0.W"] - W).max() < 1e-13
    assert np.abs(net.parameters["0.b"] - b).max() < 1e-13
    assert history[0].loss == pytest.approx(errors, rel=1e-12)
    assert history[0].learning_rate == [0.5, 0.25]


def test_tied_update_by_hand(backend, rng):
    """Plain gradient descent on the squared error of a linear autoencoder, two steps."""
    X = rng.normal(size=(10, 4))
    net = network([bp.Dense(2), bp.Dense(3)], n_inputs=4, backend=backend)
    W, b, c = net.parameters["0.W"].copy(), net.parameters["0.b"].copy(), np.zeros(4)
    spec = bp.Autoencoder(epochs=2, batch_size=None, optimizer=bp.SGD(0.1), penalty=bp.L2(0.3))
    history = bp.pretrain(net, X, spec)
    losses = []
    for _ in range(2):
        H = X @ W + b
        R = H @ W.T + c
        losses.append(np.mean((R - X) ** 2))
        D = 2 * (R - X) / X.size
        dW = X.T @ (D @ W) + D.T @ H + 0.3 * W
        W, b, c = W - 0.1 * dW, b - 0.1 * (D @ W).sum(axis=0), c - 0.1 * D.sum(axis=0)
    assert np.abs(net.parameters["0.W"] - W).max() < 1e-13
    assert np.abs(net.parameters["0.b"] - b).max() < 1e-13
    assert history[0].loss == pytest.approx(losses, rel=1e-12)


def test_free_is_a_network_fitted_to_its_inputs(backend, rng):
    X = patterns(rng)
    net = network([bp.Dense(6, "sigmoid"), bp.Dense(3)], backend=backend)
    auto = bp.Network(
        [bp.Dense(6, "sigmoid"), bp.Dense(12)],
        n_inputs=12,
        loss="log_loss",
        dtype="float64",
        seed=int(np.random.default_rng([3, 0]).integers(2**63)),
        backend=backend,
    )
    for name in ("W", "b"):
        auto.parameters[f"0.{name}"][...] = net.parameters[f"0.{name}"]
    wanted = auto.fit(X, X, epochs=3, batch_size=32, optimizer="adam")
    history = bp.pretrain(net, X, bp.Autoencoder(epochs=3, tied=False))
    assert history[0].loss == wanted.loss
    assert (net.parameters["0.W"] == auto.parameters["0.W"]).all()
    assert (net.parameters["0.b"] == auto.parameters["0.b"]).all()


def test_each_layer_learns_from_the_one_below(method, backend, rng):
    """Layers one at a time are the layers in one go, each on the activations of those before it."""
    X = patterns(rng)
    whole, stepwise = network(backend=backend), network(backend=backend)
    output = whole.parameters["2.W"].copy()
    before = {name: whole.parameters[name].copy() for name in ("0.W", "0.b", "1.W", "1.b")}
    histories = bp.pretrain(whole, X, method)
    assert list(histories) == [0, 1]
    assert all(len(history) == 4 for history in histories.values())
    bp.pretrain(stepwise, X, method, layers=[0])
    assert (stepwise.parameters["1.W"] == before["1.W"]).all()
    bp.pretrain(stepwise, X, method, layers=(1,))
    for name, array in before.items():
        assert (whole.parameters[name] == stepwise.parameters[name]).all()
        assert (whole.parameters[name] != array).any()
    assert (whole.parameters["2.W"] == output).all()
    H = sigmoid(X @ whole.parameters["0.W"] + whole.parameters["0.b"])
    top = network([bp.Dense(5, "sigmoid"), bp.Dense(3)], n_inputs=6, backend=backend)
    for name in ("W", "b"):
        top.parameters[f"0.{name}"][...] = before[f"1.{name}"]
    if isinstance(method, bp.RBM):
        method = dataclasses.replace(method, visible="binary")
    start = bp.pretrain(top, H, method)[0].loss[0]
    # Another stream of random numbers: near, not the same.
    assert histories[1].loss[0] == pytest.approx(start, rel=0.3)


@pytest.mark.parametrize("name", ["tied", "free", "rbm"])
def test_the_loss_falls_and_the_network_learns_faster(name, rng):
    X = patterns(rng, 400)
    y = (X[:, :3].sum(axis=1) > 1).astype(int)
    net = network()
    method = {
        "tied": bp.Autoencoder(epochs=40, optimizer=bp.Adam(0.01)),
        "free": bp.Autoencoder(epochs=40, tied=False, optimizer=bp.Adam(0.01)),
        "rbm": bp.RBM(epochs=40),
    }[name]
    for history in bp.pretrain(net, X, method).values():
        assert history.loss[-1] < 0.9 * history.loss[0]
        assert min(history.loss[-5:]) <= min(history.loss[:5])
    plain = network()
    losses = [n.fit(X, y, epochs=5, optimizer=bp.Adam(0.01)).loss[-1] for n in (net, plain)]
    assert losses[0] < losses[1]


def test_reconstruction_error_of_gaussian_units_falls(rng):
    X = rng.normal(size=(300, 2)) @ rng.normal(size=(2, 8))
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    net = network([bp.Dense(10, "sigmoid"), bp.Dense(3)], n_inputs=8)
    spec = bp.RBM(epochs=60, learning_rate=0.005, visible="gaussian")
    loss = bp.pretrain(net, X, spec)[0].loss
    assert loss[0] > 0.8
    assert loss[-1] < 0.5 * loss[0]


def test_what_lies_between_is_passed_in_prediction_mode(method, rng):
    X = patterns(rng)
    layers = [bp.Dense(6, "sigmoid"), bp.Dropout(0.5), bp.Dense(5, "sigmoid"), bp.Dense(3)]
    with_dropout, without = network(layers), network([layers[0], *layers[2:]])
    for name in ("W", "b"):
        for place in (1, 2):
            without.parameters[f"{place}.{name}"][...] = with_dropout.parameters[f"{place + 1}.{name}"]
    given, plain = (bp.pretrain(net, X, method) for net in (with_dropout, without))
    assert list(given) == [0, 2]
    assert given[0].loss == plain[0].loss
    # Other random numbers, the same inputs.
    assert given[2].loss[0] == pytest.approx(plain[1].loss[0], rel=0.2)


def test_below_layers_of_every_kind(backend, bytes_of, rng):
    """What a layer learns from is what the network makes of X in prediction, heads and noise aside."""
    X, y = patterns(rng), rng.integers(0, 3, 200)
    layers = [
        bp.Dense(6, "sigmoid"),
        bp.BatchNorm(),
        bp.Auxiliary(3),
        bp.Residual(bp.Dense(6, "tanh"), bp.PReLU()),
        bp.Dropout(0.5),
        bp.Maxout(7),
        bp.Dense(4, "tanh"),
        bp.Dense(3),
    ]
    net = network(layers, backend=backend)
    net.fit(X, y, epochs=3)
    before, statistics = bytes_of(net), {name: array.copy() for name, array in net.statistics.items()}
    below = network([*layers[:2], *layers[3:6]], backend=backend, loss="squared_error")
    for place in (0, 1, 3, 5):
        down = place if place < 2 else place - 1
        for views, theirs in ((net.parameters, below.parameters), (net.statistics, below.statistics)):
            for name, array in views.items():
                if name.startswith(f"{place}."):
                    theirs[f"{down}.{name.partition('.')[2]}"][...] = array
    inputs = below.forward(X)
    alone = network([layers[6], layers[7]], n_inputs=7, backend=backend)
    for name in ("W", "b"):
        alone.parameters[f"0.{name}"][...] = net.parameters[f"6.{name}"]
    method = bp.Autoencoder(epochs=1, batch_size=None, optimizer=bp.SGD(0.1))
    assert list(bp.pretrain(net, X, method, layers=[6])) == [6]
    bp.pretrain(alone, inputs, method)
    # All rows in one batch: their order does not matter, and with it the random numbers.
    assert np.abs(net.parameters["6.W"] - alone.parameters["0.W"]).max() < 1e-12
    after = bytes_of(net)
    assert {name for name in after if after[name] != before[name]} == {"6.W", "6.b"}
    assert all((net.statistics[name] == array).all() for name, array in statistics.items())
    assert list(bp.pretrain(net, X, method)) == [0, 6]


def test_frozen_layers_stay(rng):
    X = patterns(rng)
    net = network()
    net.freeze_layers(0)
    frozen = net.parameters["0.W"].copy()
    assert list(bp.pretrain(net, X, bp.RBM(epochs=1))) == [1]
    assert (net.parameters["0.W"] == frozen).all()
    with pytest.raises(ValueError, match=r"layers\[0\] of the network is frozen; call unfreeze_layers\(0\)"):
        bp.pretrain(net, X, layers=[0])
    net.freeze_layers(1)
    with pytest.raises(ValueError, match="no hidden Dense layer that is not frozen"):
        bp.pretrain(net, X)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_same_bits_for_any_number_of_threads(method, dtype, bytes_of, rng):
    X = patterns(rng, 500, 40)
    layers = [bp.Dense(33, "sigmoid"), bp.Dense(17, "sigmoid"), bp.Dense(3)]
    results = []
    for threads in (1, 2, 3, 5):
        net = network(layers, n_inputs=40, threads=threads, dtype=dtype)
        history = bp.pretrain(net, X, method)
        results.append((bytes_of(net), [h.loss for h in history.values()]))
    assert all(result == results[0] for result in results[1:])
    other = network(layers, n_inputs=40, dtype=dtype, seed=4)
    bp.pretrain(other, X, method)
    assert bytes_of(other) != results[0][0]


@pytest.mark.parametrize("name", METHODS)
def test_both_backends_agree(name, rng, error):
    X = patterns(rng)
    nets = [network(backend=backend) for backend in ("native", "reference")]
    histories = [bp.pretrain(net, X, METHODS[name]) for net in nets]
    for index in (0, 1):
        assert error(histories[0][index].loss, histories[1][index].loss) < 1e-9
    for parameter in ("0.W", "0.b", "1.W", "1.b"):
        assert error(nets[0].parameters[parameter], nets[1].parameters[parameter]) < 1e-9


def test_layers_without_bias(method, rng):
    X = patterns(rng)
    net = network([bp.Dense(6, "sigmoid", bias=False), bp.Dense(3)])
    before = net.parameters["0.W"].copy()
    bp.pretrain(net, X, method)
    assert set(net.parameters) == {"0.W", "1.W", "1.b"}
    assert (net.parameters["0.W"] != before).all()


def test_sparse_inputs(method, bytes_of, rng):
    X = patterns(rng)
    nets = network(), network()
    bp.pretrain(nets[0], X, method)
    bp.pretrain(nets[1], scipy_sparse.coo_array(X), method)
    assert bytes_of(nets[0]) == bytes_of(nets[1])


def test_full_batch_and_names(rng):
    X = patterns(rng)
    net = network()
    spec = bp.Autoencoder(epochs=30, batch_size=None, optimizer=bp.Rprop())
    assert all(h.loss[-1] < h.loss[0] for h in bp.pretrain(net, X, spec).values())
    assert len(bp.pretrain(net, X, "rbm")[1]) == 10
    assert len(bp.pretrain(net, X)[1]) == 10


def test_the_optimizers_state_is_forgotten(rng):
    X, y = patterns(rng), rng.integers(0, 3, 200)
    once, again = network(), network()
    again.fit(X, y, epochs=2)
    for net in (once, again):
        bp.pretrain(net, X, bp.RBM(epochs=1), layers=[0])
    assert again._state.optimizer_state is None
    net = network()
    net.forward(X, training=True)
    net.backward(np.ones((200, 3)))
    bp.pretrain(net, X, bp.RBM(epochs=1))
    with pytest.raises(RuntimeError, match="update needs forward"):
        net.update("adam")


def test_a_progress_bar(capfd, rng):
    bp.pretrain(network(), patterns(rng), bp.RBM(epochs=3), progress=True)
    assert "6/6" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("call", "kind", "match"),
    [
        (lambda net, X: bp.pretrain([], X), TypeError, "network must be a bp.Network; got list"),
        (lambda net, X: bp.pretrain(net, X[:, :5]), ValueError, "X has 5 columns; this network expects 12"),
        (lambda net, X: bp.pretrain(net, np.where(X > 0, np.nan, X)), ValueError, "X contains NaN"),
        (lambda net, X: bp.pretrain(net, X, "rmb"), ValueError, "unknown pretraining method 'rmb'; did you"),
        (lambda net, X: bp.pretrain(net, X, 3), TypeError, "pretrain: method must be a name or a Pretrainer"),
        (lambda net, X: bp.pretrain(net, X, layers=0), TypeError, "layers must be a list of indices"),
        (lambda net, X: bp.pretrain(net, X, layers=[]), TypeError, "layers must be a list of indices"),
        (
            lambda net, X: bp.pretrain(net, X, layers=[2]),
            ValueError,
            r"layers\[2\] of the network is the out",
        ),
        (
            lambda net, X: bp.pretrain(net, X, layers=[0, 7]),
            ValueError,
            r"layers\[7\] of the network does not exist",
        ),
        (lambda net, X: bp.pretrain(net, X, layers=[-1]), ValueError, "layers must be at least 0"),
        (lambda net, X: bp.pretrain(net, X, progress=1), TypeError, "progress must be True or False"),
        (
            lambda net, X: bp.pretrain(net, 2 * X, "rbm"),
            ValueError,
            r"inputs of layers\[0\] range from 0 to 2",
        ),
        (
            lambda net, X: bp.pretrain(net, 2 * X, bp.Autoencoder(loss="log_loss")),
            ValueError,
            "log_loss expects 0, 1 or prob",
        ),
    ],
)
def test_errors_change_nothing(call, kind, match, bytes_of, rng):
    net = network()
    before = bytes_of(net)
    with pytest.raises(kind, match=match):
        call(net, patterns(rng))
    assert bytes_of(net) == before


def test_layers_that_cannot_be_pretrained(rng):
    X = patterns(rng)
    with pytest.raises(ValueError, match="no hidden Dense layer"):
        bp.pretrain(network([bp.Dense(3)]), X)
    net = network([bp.Dense(6, "sigmoid"), bp.Dropout(0.5), bp.Dense(5, "relu"), bp.Dense(3)])
    with pytest.raises(ValueError, match=r"layers\[1\] of the network is not a Dense layer.*are 0, 2"):
        bp.pretrain(net, X, layers=[1])
    with pytest.raises(ValueError, match=r"layers\[2\] has the activation relu; an RBM pretrains sigmoid"):
        bp.pretrain(net, X, "rbm")
    bp.pretrain(net, X, "rbm", layers=[0])


@pytest.mark.parametrize(
    ("make", "kind", "match"),
    [
        (lambda: bp.Autoencoder(epochs=0), ValueError, "Autoencoder: epochs must be at least 1"),
        (lambda: bp.Autoencoder(corruption=1.0), ValueError, "corruption must be .*less than 1"),
        (lambda: bp.Autoencoder(noise=-1), ValueError, "noise must be at least 0"),
        (lambda: bp.Autoencoder(tied=1), TypeError, "tied must be True or False"),
        (lambda: bp.Autoencoder(loss="hinge"), ValueError, "hinge takes signs"),
        (lambda: bp.Autoencoder(optimizer="adm"), ValueError, "did you mean 'adam'"),
        (lambda: bp.Autoencoder(optimizer=bp.Rprop()), ValueError, "Rprop needs the full batch"),
        (lambda: bp.RBM(batch_size=0), ValueError, "RBM: batch_size must be at least 1"),
        (lambda: bp.RBM(steps=0), ValueError, "RBM: steps must be at least 1"),
        (lambda: bp.RBM(momentum=1), ValueError, "RBM: momentum must be"),
        (lambda: bp.RBM(weight_decay=-1), ValueError, "weight_decay must be at least 0"),
        (lambda: bp.RBM(learning_rate=0), ValueError, "learning_rate must be greater than 0"),
        (lambda: bp.RBM(visible="real"), ValueError, "visible must be one of binary, gaussian; got 'real'"),
    ],
)
def test_specifications_are_checked(make, kind, match):
    with pytest.raises(kind, match=match):
        make()


@pytest.mark.parametrize(
    "spec",
    [
        bp.RBM(epochs=60, learning_rate=1e6, visible="gaussian"),
        bp.Autoencoder(epochs=60, optimizer=bp.SGD(1e6), loss="squared_error"),
        bp.Autoencoder(epochs=60, optimizer=bp.SGD(1e6), loss="squared_error", tied=False),
    ],
    ids=lambda spec: spec.name,
)
def test_divergence_leaves_the_network_as_it_was(spec, backend, bytes_of, rng):
    layers = [bp.Dense(6, "sigmoid"), bp.Dense(5, "sigmoid"), bp.Dense(3)]
    if isinstance(spec, bp.Autoencoder):
        layers = [bp.Dense(6), bp.Dense(5), bp.Dense(3)]
    net = network(layers, backend=backend)
    before = bytes_of(net)
    with pytest.raises(
        FloatingPointError, match=r"layers\[0\] diverged in epoch \d+; the network is unchanged"
    ):
        bp.pretrain(net, 10 * patterns(rng) - 5, spec)
    assert bytes_of(net) == before


def test_an_interrupt_keeps_the_layers_that_were_finished(monkeypatch, rng):
    X = patterns(rng)
    net, wanted = network(), network()
    bp.pretrain(wanted, X, bp.RBM(epochs=2), layers=[0])
    train, calls = bp.RBM.train, []

    def interrupted(spec, task):
        calls.append(task.index)
        if task.index == 1:
            task.W += 1
            raise KeyboardInterrupt
        return train(spec, task)

    monkeypatch.setattr(bp.RBM, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bp.pretrain(net, X, bp.RBM(epochs=2))
    assert calls == [0, 1]
    for name, array in wanted.parameters.items():
        assert (net.parameters[name] == array).all()
    monkeypatch.undo()
    bp.pretrain(net, X, bp.RBM(epochs=2))


def test_not_while_it_is_trained(rng):
    X = patterns(rng)
    net = network()

    class Meddler(bp.Callback):
        def on_epoch_end(self, network, history):
            bp.pretrain(network, X)

    with pytest.raises(RuntimeError, match="one fit at a time"):
        net.fit(X, rng.integers(0, 3, 200), callbacks=[Meddler()])


def test_a_deep_network_of_sigmoids_learns_after_pretraining_alone(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    pytest.importorskip("sklearn")
    from bpfast import gallery

    figures = gallery.run("pretraining", tmp_path / "picture.png")
    assert figures["random weights"]["last"] < 0.2
    for name in ("autoencoders", "Boltzmann machines"):
        assert figures[name]["last"] > 0.95
        assert figures[name]["first"] > 0.75
    assert "Boltzmann machines" in capsys.readouterr().out
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
