"""Invalid hyperparameters: the error names the specification, the argument, and what is expected."""

import math

import numpy as np
import pytest

import bpfast as bp
from bpfast.initializers import initializers
from bpfast.penalties import penalties


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
def test_numpy_numbers_are_accepted(value):
    assert bp.SGD(value).schedule.rate(0.0) == float(value)
    assert bp.Dense(np.int32(3)).units == 3
