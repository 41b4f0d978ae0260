"""Optimizers against their recurrences, schedules against numbers, and state across calls."""

import math
from itertools import pairwise

import numpy as np
import pytest

import bpfast as bp
from bpfast.optimizers import optimizers
from bpfast.schedules import schedules

# ---------------------------------------------------------------------------------------------
# The rules, as generators: send a gradient, get the change of w. `w` is needed for decay alone.


def sgd(rate):
    change = None
    while True:
        g, _ = yield change
        change = -rate() * g


def heavy_ball(rate, momentum):
    change = velocity = None
    while True:
        g, _ = yield change
        velocity = (0.0 if velocity is None else momentum * velocity) - rate() * g
        change = velocity


def nesterov(rate, momentum):
    change = velocity = None
    while True:
        g, _ = yield change
        velocity = (0.0 if velocity is None else momentum * velocity) - rate() * g
        change = momentum * velocity - rate() * g


def adam(rate, beta_1, beta_2, epsilon, decay=0.0, hat=False):
    change, gradients = None, []
    while True:
        g, w = yield change
        gradients.append(g)
        t = len(gradients)
        # The moments as the weighted means that they are, not as recursions.
        share_1 = [beta_1 ** (t - k) for k in range(1, t + 1)]
        share_2 = [beta_2 ** (t - k) for k in range(1, t + 1)]
        mean = sum(s * h for s, h in zip(share_1, gradients, strict=True)) / math.fsum(share_1)
        square = sum(s * h**2 for s, h in zip(share_2, gradients, strict=True)) / math.fsum(share_2)
        correction = math.sqrt(1 - beta_2**t) if hat else 1.0
        change = -rate() * decay * w - rate() * mean / (np.sqrt(square) + epsilon / correction)


def rmsprop(rate, rho, epsilon):
    change, square = None, 0.0
    while True:
        g, _ = yield change
        square = rho * square + (1 - rho) * g**2
        change = -rate() * g / (np.sqrt(square) + epsilon)


def adagrad(rate, epsilon):
    change, gradients = None, []
    while True:
        g, _ = yield change
        gradients.append(g)
        change = -rate() * g / (np.sqrt(sum(h**2 for h in gradients)) + epsilon)


def rprop(rate, eta_minus, eta_plus, step_min, step_max):
    change = step = before = None
    while True:
        g, _ = yield change
        if step is None:
            step, before = np.full(g.shape, rate()), np.zeros(g.shape)
        change, after = np.zeros(g.shape), np.zeros(g.shape)
        for i in np.ndindex(g.shape):
            if g[i] * before[i] > 0:
                step[i] = min(eta_plus * step[i], step_max)
            if g[i] * before[i] < 0:
                step[i] = max(eta_minus * step[i], step_min)
                continue  # forget this gradient, stay
            after[i] = g[i]
            change[i] = -math.copysign(step[i], g[i])
        before = after


#: optimizer → its rule, started with a function that gives the rate of the step.
RULES = {
    bp.SGD(0.1): lambda rate, weight: sgd(rate),
    bp.SGD(0.05, momentum=0.9): lambda rate, weight: heavy_ball(rate, 0.9),
    bp.SGD(0.05, momentum=0.8, nesterov=True): lambda rate, weight: nesterov(rate, 0.8),
    bp.Adam(): lambda rate, weight: adam(rate, 0.9, 0.999, 1e-8),
    bp.Adam(0.02, beta_1=0.7, beta_2=0.95, epsilon=1e-3): lambda rate, weight: adam(rate, 0.7, 0.95, 1e-3),
    bp.Adam(0.02, epsilon=1e-3, epsilon_hat=True): lambda rate, weight: adam(
        rate, 0.9, 0.999, 1e-3, hat=True
    ),
    bp.AdamW(): lambda rate, weight: adam(rate, 0.9, 0.999, 1e-8, 0.01 * weight),
    bp.AdamW(0.02, epsilon=1e-3, epsilon_hat=True): lambda rate, weight: adam(
        rate, 0.9, 0.999, 1e-3, 0.01 * weight, hat=True
    ),
    bp.AdamW(0.02, 0.8, 0.9, 1e-4, 0.3): lambda rate, weight: adam(rate, 0.8, 0.9, 1e-4, 0.3 * weight),
    bp.RMSprop(): lambda rate, weight: rmsprop(rate, 0.9, 1e-8),
    bp.RMSprop(0.02, rho=0.5, epsilon=1e-2): lambda rate, weight: rmsprop(rate, 0.5, 1e-2),
    bp.Adagrad(): lambda rate, weight: adagrad(rate, 1e-10),
    bp.Adagrad(0.1, epsilon=0.05): lambda rate, weight: adagrad(rate, 0.05),
    bp.Rprop(): lambda rate, weight: rprop(rate, 0.5, 1.2, 1e-6, 50.0),
    bp.Rprop(0.1, 0.3, 1.5, 0.04, 0.2): lambda rate, weight: rprop(rate, 0.3, 1.5, 0.04, 0.2),
}
over_rules = pytest.mark.parametrize("optimizer", RULES, ids=str)
#: penalty → (gradient of the smooth part, threshold of the proximal step over η α), 0 for none.
PENALTIES = {None: (0.0, 0.0), bp.L2(0.2): (0.2, 0.0), bp.ElasticNet(0.1, 0.25): (0.075, 0.025)}
#: How a proximal step and a velocity go together is decided by the minimum: see the lasso in
#: test_against_sklearn.py.
over_rules_and_penalties = pytest.mark.parametrize(
    ("optimizer", "penalty"),
    [(o, p) for o in RULES for p in PENALTIES if not (PENALTIES[p][1] and "velocity" in o.state)],
    ids=str,
)
STEPS = 20


def test_every_optimizer_is_here():
    assert {spec.name for spec in RULES} == set(optimizers)


def data(rng):
    return rng.normal(size=(12, 3)), rng.normal(size=(12, 2))


class Recurrence:
    """The weights by the rule as written out above, with gradients from a twin network."""

    def __init__(self, twin, optimizer, penalty=None, rule=None):
        self.twin, self.optimizer, (self.ridge, self.soft) = twin, optimizer, PENALTIES[penalty]
        self.rate = None
        self.rules = {}
        for name in twin.parameters:
            self.rules[name] = RULES[rule or optimizer](lambda: self.rate, name.endswith("W"))
            next(self.rules[name])

    def step(self, X, y, rate, **options):
        self.rate = rate
        for name, g in self.twin.gradients(X, y, **options).items():
            w = self.twin.parameters[name]
            weight = name.endswith("W")
            w += self.rules[name].send((g + self.ridge * w * weight, w.copy()))
            if weight and self.soft:
                w[...] = [
                    [math.copysign(max(abs(v) - rate * self.soft, 0.0), v) for v in row] for row in w.tolist()
                ]


@over_rules_and_penalties
def test_fit_follows_the_rule(build, error, rng, optimizer, penalty):
    X, y = data(rng)
    net, twin = build(), build()
    start = {name: array.copy() for name, array in net.parameters.items()}
    net.fit(X, y, epochs=STEPS, batch_size=None, shuffle=False, optimizer=optimizer, penalty=penalty)
    recurrence = Recurrence(twin, optimizer, penalty)
    for _ in range(STEPS):
        recurrence.step(X, y, optimizer.schedule.rate(0.0))
    for name, array in net.parameters.items():
        assert error(array, twin.parameters[name]) <= 1e-10
        assert error(array, start[name]) >= 1e-3  # it moved


@over_rules_and_penalties
def test_a_loop_of_ones_own_follows_the_rule(build, error, rng, optimizer, penalty):
    X, y = data(rng)
    net, twin = build(), build()
    recurrence = Recurrence(twin, optimizer, penalty)
    for _ in range(STEPS):
        Z = net.forward(X, training=True)
        net.backward(2 * (Z - y) / y.size)
        net.update(optimizer, penalty)
        recurrence.step(X, y, optimizer.schedule.rate(0.0))
    for name, array in net.parameters.items():
        assert error(array, twin.parameters[name]) <= 1e-10


@over_rules
def test_loop_and_fit_agree(build, error, rng, optimizer):
    X, y = data(rng)
    net, loop = build(), build()
    net.fit(X, y, epochs=STEPS, batch_size=None, shuffle=False, optimizer=optimizer)
    for _ in range(STEPS):
        loop.backward(2 * (loop.forward(X, training=True) - y) / y.size)
        loop.update(optimizer)
    for name, array in net.parameters.items():
        assert error(array, loop.parameters[name]) <= 1e-10


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        # f(w) = w², g = 2w, from w = 1: the first steps by hand.
        (bp.SGD(0.1), [0.8, 0.64, 0.512]),
        # v = -0.2, w = 0.8; v = -0.1 - 0.16 = -0.26, w = 0.54; v = -0.13 - 0.108 = -0.238, w = 0.302
        (bp.SGD(0.1, momentum=0.5), [0.8, 0.54, 0.302]),
        # v = -0.2, w = 1 - 0.1 - 0.2 = 0.7; v = -0.1 - 0.14 = -0.24, w = 0.7 - 0.12 - 0.14 = 0.44
        (bp.SGD(0.1, momentum=0.5, nesterov=True), [0.7, 0.44]),
        # The first step of Adam is η g / (|g| + ε), whatever g.
        (bp.Adam(0.1, epsilon=1e-300), [0.9]),
        (bp.AdamW(0.1, epsilon=1e-300, weight_decay=0.5), [1 - 0.05 - 0.1]),
        # v = 0.1 · 4 = 0.4
        (bp.RMSprop(0.1, rho=0.9, epsilon=1e-300), [1 - 0.2 / math.sqrt(0.4)]),
        # v = 4, w = 0.9; g = 1.8, v = 7.24
        (bp.Adagrad(0.1, epsilon=1e-300), [0.9, 0.9 - 0.18 / math.sqrt(7.24)]),
        # Δ = 0.4, w = 0.6; Δ = 0.48, w = 0.12; Δ = 0.576, w = -0.456; turned: Δ = 0.288, stays; then back
        (bp.Rprop(0.4), [0.6, 0.12, -0.456, -0.456, -0.168]),
    ],
    ids=str,
)
def test_first_steps_on_a_parabola(backend, optimizer, expected):
    """One weight, x = 1, y = 0: the loss is w²."""
    layer = bp.Dense(1, initializer=bp.Constant(1.0), bias=False)
    net = bp.Network([layer], n_inputs=1, loss="squared_error", dtype="float64", backend=backend)
    for value in expected:
        net.fit([[1.0]], [0.0], epochs=1, batch_size=None, optimizer=optimizer)
        assert net.parameters["0.W"][0, 0] == pytest.approx(value, rel=1e-14)


@pytest.mark.parametrize("optimizer", [o for o in RULES if not o.full_batch], ids=str)
def test_batches_follow_the_rule(build, error, rng, optimizer):
    """Five batches an epoch, the last of two rows, with weights of the samples."""
    X, y, w = rng.normal(size=(22, 3)), rng.normal(size=(22, 2)), rng.random(22)
    net, twin = build(), build()
    net.fit(X, y, epochs=4, batch_size=5, shuffle=False, optimizer=optimizer, sample_weight=w)
    recurrence = Recurrence(twin, optimizer)
    for start in list(range(0, 22, 5)) * 4:
        rows = slice(start, start + 5)
        recurrence.step(X[rows], y[rows], optimizer.schedule.rate(0.0), sample_weight=w[rows])
    for name, array in net.parameters.items():
        assert error(array, twin.parameters[name]) <= 1e-10


# ---------------------------------------------------------------------------------------------
# Schedules.

#: schedule → its rate at some times in epochs.
RATES = {
    bp.SGD(0.3).schedule: {0: 0.3, 7.5: 0.3, 1000: 0.3},
    bp.StepDecay(0.8, every=3, factor=0.5): {0: 0.8, 2.99: 0.8, 3: 0.4, 5.5: 0.4, 6: 0.2, 9: 0.1},
    bp.ExponentialDecay(0.5, factor=0.9): {0: 0.5, 1: 0.45, 2: 0.405, 0.5: 0.5 * math.sqrt(0.9)},
    bp.InverseTime(0.6): {0: 0.6, 3: 0.3, 8: 0.2, 0.5: 0.6 / math.sqrt(1.5)},
    bp.InverseTime(0.6, decay=0.5, power=1): {0: 0.6, 2: 0.3, 4: 0.2, 1: 0.4},
    bp.Cosine(0.4, epochs=4): {0: 0.4, 1: 0.2 + 0.1 * math.sqrt(2), 2: 0.2, 4: 0.0, 9: 0.0},
    bp.Cosine(0.4, epochs=6, final=0.1): {0: 0.4, 2: 0.325, 3: 0.25, 4: 0.175, 6: 0.1, 60: 0.1},
    bp.WarmUp(0.5, epochs=4, start=0.2): {0: 0.1, 1: 0.2, 2: 0.3, 3: 0.4, 4: 0.5, 5: 0.5},
    bp.WarmUp(bp.StepDecay(0.5, 2, 0.1), epochs=1, start=1.0): {0: 0.5, 1: 0.5, 2.9: 0.5, 3: 0.05},
    bp.ReduceOnPlateau(0.7): {0: 0.7, 12: 0.7},
    bp.ReduceOnPlateau(bp.StepDecay(0.8, 3, 0.5)): {0: 0.8, 3: 0.4},
}
over_schedules = pytest.mark.parametrize("schedule", RATES, ids=str)


def test_every_schedule_is_here():
    assert {schedule.name for schedule in RATES} == set(schedules)


@over_schedules
def test_rate_at_given_times(schedule):
    for time, expected in RATES[schedule].items():
        assert schedule.rate(time) == pytest.approx(expected, rel=1e-14, abs=1e-17)


@over_schedules
@pytest.mark.parametrize("batches", [1, 4])
def test_history_shows_the_last_rate_of_an_epoch(build, rng, schedule, batches):
    X, y = data(rng)
    history = build().fit(X, y, epochs=7, batch_size=12 // batches, optimizer=bp.SGD(schedule))
    times = [epoch + (batches - 1) / batches for epoch in range(7)]
    assert history.learning_rate == pytest.approx([schedule.rate(t) for t in times], rel=1e-14, abs=1e-17)
    if batches == 1:
        for time, expected in RATES[schedule].items():
            if time < 7 and time == int(time):
                assert history.learning_rate[int(time)] == pytest.approx(expected, rel=1e-14, abs=1e-17)


@pytest.mark.parametrize("optimizer", [bp.SGD, bp.Adam, bp.AdamW, bp.RMSprop, bp.Adagrad])
@pytest.mark.parametrize(
    "schedule", [bp.Cosine(0.1, 3), bp.WarmUp(bp.ExponentialDecay(0.1, 0.5), 1.5)], ids=str
)
def test_every_batch_has_its_own_rate(build, error, rng, optimizer, schedule):
    X, y = data(rng)
    net, twin = build(), build()
    plain = next(o for o in RULES if type(o) is optimizer)  # with default numbers, save the rate
    net.fit(X, y, epochs=5, batch_size=3, shuffle=False, optimizer=optimizer(schedule))
    recurrence = Recurrence(twin, optimizer(schedule), rule=plain)
    for step in range(20):
        rows = slice(3 * (step % 4), 3 * (step % 4) + 3)
        recurrence.step(X[rows], y[rows], schedule.rate(step / 4))
    for name, array in net.parameters.items():
        assert error(array, twin.parameters[name]) <= 1e-10


def stuck(backend, schedule, epochs):
    """A network whose loss is constant: X is 0, and there is no bias."""
    net = bp.Network([bp.Dense(1, bias=False)], n_inputs=2, loss="squared_error", backend=backend)
    return net.fit(np.zeros((4, 2)), np.ones(4), epochs=epochs, optimizer=bp.SGD(schedule)).learning_rate


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (bp.ReduceOnPlateau(1.0, factor=0.5, patience=2), [1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.125]),
        (bp.ReduceOnPlateau(1.0, factor=0.5, patience=1), [1, 1, 0.5, 0.25, 0.125]),
        (bp.ReduceOnPlateau(1.0, factor=0.1, patience=1, floor=0.3), [1, 1, 0.3, 0.3]),
        (bp.ReduceOnPlateau(1.0, factor=0.1, patience=1, floor=2.0), [1, 1, 1, 1]),
        (bp.ReduceOnPlateau(bp.StepDecay(1.0, 3, 0.1), 0.5, 2), [1, 1, 1, 0.05, 0.05, 0.025, 0.0025]),
    ],
    ids=str,
)
def test_reduce_on_plateau(backend, schedule, expected):
    assert stuck(backend, schedule, len(expected)) == pytest.approx(expected, rel=1e-12)


def test_reduce_on_plateau_watches_the_validation_loss(build, rng):
    """The training loss always falls; the validation loss rises, or falls with it."""
    X = rng.normal(size=(20, 3))
    y = X @ rng.normal(size=(3, 2))
    schedule = bp.ReduceOnPlateau(0.01, factor=0.5, patience=1)
    falling = build((3, 2)).fit(X, y, epochs=6, optimizer=bp.SGD(schedule), validation=(X, y))
    assert falling.learning_rate == [0.01] * 6
    net = build((3, 2))
    away = net.predict(X) - 10 * (y - net.predict(X))
    rising = net.fit(X, y, epochs=6, optimizer=bp.SGD(schedule), validation=(X, away))
    assert all(b < a for a, b in pairwise(rising.loss))
    assert all(b > a for a, b in pairwise(rising.val_loss))
    assert rising.learning_rate == pytest.approx([0.01, 0.01, 0.005, 0.0025, 0.00125, 0.000625])


def test_the_clock_goes_on_with_the_same_schedule_and_starts_again_with_another(build, rng):
    X, y = data(rng)
    net = build()
    schedule = bp.StepDecay(0.08, every=2, factor=0.5)
    rates = [
        rate for _ in range(2) for rate in net.fit(X, y, epochs=3, optimizer=bp.SGD(schedule)).learning_rate
    ]
    assert rates == pytest.approx([0.08, 0.08, 0.04, 0.04, 0.02, 0.02])
    other = net.fit(X, y, epochs=3, optimizer=bp.SGD(bp.StepDecay(0.02, every=2, factor=0.5)))
    assert other.learning_rate == pytest.approx([0.02, 0.02, 0.01])


# ---------------------------------------------------------------------------------------------
# State.

STATEFUL = [
    *RULES,
    bp.SGD(bp.Cosine(0.1, 4), momentum=0.9),
    bp.Adam(bp.ReduceOnPlateau(0.05, factor=0.5, patience=1, min_delta=0.2)),
]


@pytest.mark.parametrize("optimizer", STATEFUL, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_two_fits_are_one_longer_fit(build, bytes_of, rng, optimizer, dtype):
    X, y = rng.normal(size=(26, 3)), rng.normal(size=(26, 2))
    options = {"batch_size": None if optimizer.full_batch else 8, "optimizer": optimizer}
    once, twice = build(dtype=dtype), build(dtype=dtype)
    whole = once.fit(X, y, epochs=5, **options)
    parts = [twice.fit(X, y, epochs=epochs, **options) for epochs in (2, 3)]
    assert bytes_of(twice) == bytes_of(once)
    assert parts[0].loss + parts[1].loss == whole.loss
    assert parts[0].learning_rate + parts[1].learning_rate == whole.learning_rate
    assert once.epochs == twice.epochs == 5


@pytest.mark.parametrize("optimizer", [o for o in STATEFUL if o.state], ids=str)
def test_reset_optimizer_forgets(build, bytes_of, copy_parameters, rng, optimizer):
    X, y = data(rng)
    options = {"epochs": 3, "batch_size": None, "shuffle": False, "optimizer": optimizer}
    net, kept, fresh = build(), build(), build(seed=9)
    net.fit(X, y, **options)
    kept.fit(X, y, **options)
    copy_parameters(net, fresh)
    net.reset_optimizer()
    for each in (net, kept, fresh):
        each.fit(X, y, **options)
    assert bytes_of(net) == bytes_of(fresh)
    assert bytes_of(net) != bytes_of(kept)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (bp.SGD(0.05, momentum=0.9), bp.Adam(0.05)),
        (bp.Adam(0.05), bp.AdamW(0.05)),
        (bp.SGD(0.05, momentum=0.9), bp.SGD(0.05, momentum=0.9, nesterov=True)),
        (bp.RMSprop(0.05), bp.Adagrad(0.05)),
        (bp.Adam(0.05), bp.Rprop(0.05)),
        (bp.Adagrad(0.05), bp.SGD(0.05, momentum=0.5)),
    ],
    ids=str,
)
@pytest.mark.parametrize("way", ["fit", "update"])
def test_another_rule_starts_afresh(build, bytes_of, copy_parameters, rng, first, second, way):
    X, y = data(rng)
    net, fresh = build(), build(seed=9)

    def train(network, optimizer):
        if way == "fit":
            network.fit(X, y, epochs=3, batch_size=None, shuffle=False, optimizer=optimizer)
            return
        for _ in range(3):
            network.backward(2 * (network.forward(X, training=True) - y) / y.size)
            network.update(optimizer)

    train(net, first)
    copy_parameters(net, fresh)
    train(net, second)
    train(fresh, second)
    assert bytes_of(net) == bytes_of(fresh)


def test_moments_survive_a_change_of_numbers(backend):
    """w² again: v = -0.2, w = 0.8; then η = 0.05 and μ = 0.25: v = -0.05 - 0.08 = -0.13, w = 0.67."""
    layer = bp.Dense(1, initializer=bp.Constant(1.0), bias=False)
    net = bp.Network([layer], n_inputs=1, loss="squared_error", dtype="float64", backend=backend)
    for optimizer, value in ((bp.SGD(0.1, momentum=0.5), 0.8), (bp.SGD(0.05, momentum=0.25), 0.67)):
        net.fit([[1.0]], [0.0], epochs=1, optimizer=optimizer)
        assert net.parameters["0.W"][0, 0] == pytest.approx(value, rel=1e-14)


def test_fit_and_update_share_the_state(backend):
    """As above, the second step by hand: v = -0.1 - 0.16 = -0.26, w = 0.54."""
    layer = bp.Dense(1, initializer=bp.Constant(1.0), bias=False)
    net = bp.Network([layer], n_inputs=1, loss="squared_error", dtype="float64", backend=backend)
    net.fit([[1.0]], [0.0], epochs=1, optimizer=bp.SGD(0.1, momentum=0.5))
    net.backward(2 * net.forward([[1.0]], training=True))
    net.update(bp.SGD(0.1, momentum=0.5))
    assert net.parameters["0.W"][0, 0] == pytest.approx(0.54, rel=1e-14)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "rmsprop", "adagrad"])
def test_a_name_stands_for_the_defaults(build, bytes_of, rng, name):
    X, y = data(rng)
    by_name, by_class, by_object = build(), build(), build()
    by_name.fit(X, y, epochs=2, optimizer=name)
    by_class.fit(X, y, epochs=2, optimizer=optimizers[name])
    by_object.fit(X, y, epochs=2, optimizer=optimizers[name]())
    assert bytes_of(by_name) == bytes_of(by_class) == bytes_of(by_object)


def test_rprop_takes_the_full_batch(build, bytes_of, rng):
    """The default batch is all rows; any other size is rejected."""
    X, y = rng.normal(size=(100, 3)), rng.normal(size=(100, 2))
    net, twin = build(), build()
    for size in (10, 99):
        with pytest.raises(
            ValueError, match=rf"Rprop needs the full batch; pass batch_size=None \(got {size}"
        ):
            net.fit(X, y, epochs=1, batch_size=size, optimizer=bp.Rprop())
    assert bytes_of(net) == bytes_of(twin)
    net.fit(X, y, epochs=3, optimizer=bp.Rprop())
    twin.fit(X, y, epochs=3, batch_size=None, optimizer=bp.Rprop())
    assert bytes_of(net) == bytes_of(twin)
