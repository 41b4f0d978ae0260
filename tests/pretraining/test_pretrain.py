"""Layer-wise pretraining of a network: which layers learn from what, reproducibility, and errors."""

import dataclasses

import numpy as np
import pytest
from scipy import sparse as scipy_sparse

import bpfast as bp


def sigmoid(Z):
    return 1 / (1 + np.exp(-Z))


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


def test_each_layer_learns_from_the_one_below(method, backend, rng, patterns, network):
    """Layers pretrained one at a time equal those of one call, each on the activations of those below."""
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
    # Another stream of random numbers: close, but not equal.
    assert histories[1].loss[0] == pytest.approx(start, rel=0.3)


@pytest.mark.parametrize("name", ["tied", "free", "rbm"])
def test_the_loss_falls_and_the_network_learns_faster(name, rng, patterns, network):
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


def test_layers_in_between_run_in_prediction_mode(method, rng, patterns, network):
    X = patterns(rng)
    layers = [bp.Dense(6, "sigmoid"), bp.Dropout(0.5), bp.Dense(5, "sigmoid"), bp.Dense(3)]
    with_dropout, without = network(layers), network([layers[0], *layers[2:]])
    for name in ("W", "b"):
        for place in (1, 2):
            without.parameters[f"{place}.{name}"][...] = with_dropout.parameters[f"{place + 1}.{name}"]
    given, plain = (bp.pretrain(net, X, method) for net in (with_dropout, without))
    assert list(given) == [0, 2]
    assert given[0].loss == plain[0].loss
    # Other random numbers, but the same inputs.
    assert given[2].loss[0] == pytest.approx(plain[1].loss[0], rel=0.2)


def test_layers_of_every_kind_may_lie_below(backend, bytes_of, rng, patterns, network):
    """A layer learns from the output of the layers below in prediction mode, without heads and noise."""
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
    # With all rows in one batch, their order, and so the random numbers, do not matter.
    assert np.abs(net.parameters["6.W"] - alone.parameters["0.W"]).max() < 1e-12
    after = bytes_of(net)
    assert {name for name in after if after[name] != before[name]} == {"6.W", "6.b"}
    assert all((net.statistics[name] == array).all() for name, array in statistics.items())
    assert list(bp.pretrain(net, X, method)) == [0, 6]


def test_frozen_layers_do_not_change(rng, patterns, network):
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
def test_bitwise_identical_for_any_number_of_threads(method, dtype, bytes_of, rng, patterns, network):
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
def test_both_backends_agree(name, rng, error, patterns, network):
    X = patterns(rng)
    nets = [network(backend=backend) for backend in ("native", "reference")]
    histories = [bp.pretrain(net, X, METHODS[name]) for net in nets]
    for index in (0, 1):
        assert error(histories[0][index].loss, histories[1][index].loss) < 1e-9
    for parameter in ("0.W", "0.b", "1.W", "1.b"):
        assert error(nets[0].parameters[parameter], nets[1].parameters[parameter]) < 1e-9


def test_layers_without_bias(method, rng, patterns, network):
    X = patterns(rng)
    net = network([bp.Dense(6, "sigmoid", bias=False), bp.Dense(3)])
    before = net.parameters["0.W"].copy()
    bp.pretrain(net, X, method)
    assert set(net.parameters) == {"0.W", "1.W", "1.b"}
    assert (net.parameters["0.W"] != before).all()


def test_sparse_inputs(method, bytes_of, rng, patterns, network):
    X = patterns(rng)
    nets = network(), network()
    bp.pretrain(nets[0], X, method)
    bp.pretrain(nets[1], scipy_sparse.coo_array(X), method)
    assert bytes_of(nets[0]) == bytes_of(nets[1])


def test_full_batch_and_names(rng, patterns, network):
    X = patterns(rng)
    net = network()
    spec = bp.Autoencoder(epochs=30, batch_size=None, optimizer=bp.Rprop())
    assert all(h.loss[-1] < h.loss[0] for h in bp.pretrain(net, X, spec).values())
    assert len(bp.pretrain(net, X, "rbm")[1]) == 10
    assert len(bp.pretrain(net, X)[1]) == 10


def test_the_optimizers_state_is_discarded(rng, patterns, network):
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


def test_a_progress_bar(capfd, rng, patterns, network):
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
def test_errors_change_nothing(call, kind, match, bytes_of, rng, patterns, network):
    net = network()
    before = bytes_of(net)
    with pytest.raises(kind, match=match):
        call(net, patterns(rng))
    assert bytes_of(net) == before


def test_layers_that_cannot_be_pretrained(rng, patterns, network):
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
def test_divergence_leaves_the_network_unchanged(spec, backend, bytes_of, rng, patterns, network):
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


def test_an_interrupt_keeps_finished_layers(monkeypatch, rng, patterns, network):
    X = patterns(rng)
    net, expected = network(), network()
    bp.pretrain(expected, X, bp.RBM(epochs=2), layers=[0])
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
    for name, array in expected.parameters.items():
        assert (net.parameters[name] == array).all()
    monkeypatch.undo()
    bp.pretrain(net, X, bp.RBM(epochs=2))


def test_pretrain_during_fit_raises(rng, patterns, network):
    X = patterns(rng)
    net = network()

    class Meddler(bp.Callback):
        def on_epoch_end(self, network, history):
            bp.pretrain(network, X)

    with pytest.raises(RuntimeError, match="one fit at a time"):
        net.fit(X, rng.integers(0, 3, 200), callbacks=[Meddler()])


def test_a_deep_network_of_sigmoids_learns_only_after_pretraining(tmp_path, capsys):
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
