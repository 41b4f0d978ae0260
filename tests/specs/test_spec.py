"""All specifications are frozen, equal by value, and can be copied, pickled and written as code."""

import copy
import pickle
from dataclasses import FrozenInstanceError, dataclass, replace

import pytest

import bpfast as bp
from bpfast.specs.schedules import Schedule

SPECS = [
    bp.ReLU(),
    bp.LeakyReLU(0.2),
    bp.Dense(3, "relu"),
    bp.Residual(bp.Dense(3), bp.Dropout(0.1)),
    bp.BatchNorm(momentum=0.2),
    bp.Huber(2.0),
    bp.Adam(bp.Cosine(0.1, epochs=5), clip_norm=1.0),
    bp.ElasticNet(0.1, 0.3),
    bp.Orthogonal(1.5),
    bp.RBM(epochs=3),
    bp.LBFGS(memory=3),
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: type(spec).__name__)
def test_copies_are_equal_and_frozen(spec):
    for other in (
        copy.copy(spec),
        copy.deepcopy(spec),
        pickle.loads(pickle.dumps(spec)),
        eval(repr(spec), {name: getattr(bp, name) for name in bp.__all__}),
    ):
        assert type(other) is type(spec)
        assert other == spec
        assert hash(other) == hash(spec)
    for name in list(vars(spec)):
        with pytest.raises(FrozenInstanceError, match=name):
            setattr(spec, name, getattr(spec, name))
        with pytest.raises(FrozenInstanceError, match=name):
            delattr(spec, name)


def test_equality_is_by_type_and_value():
    assert bp.L1(0.1) != bp.L2(0.1)
    assert bp.L1(0.1) != bp.L1(0.2)
    assert bp.L1(0.1) != 0.1
    assert replace(bp.Adam(0.1), beta_1=0.8) == bp.Adam(0.1, 0.8)
    assert len({bp.ReLU(), bp.ReLU(), bp.Tanh()}) == 2


def test_a_schedule_of_the_user_may_be_a_frozen_dataclass_or_a_plain_class():
    @dataclass(frozen=True)
    class Halving(Schedule):
        start: float

        def rate(self, epoch):
            return self.start * 0.5**epoch

    class Fixed(Schedule):
        def rate(self, epoch):
            return 0.25

    net = bp.Network([bp.Dense(1)], n_inputs=1, loss="squared_error")
    history = net.fit([[1.0], [2.0]], [1.0, 2.0], epochs=2, optimizer=bp.SGD(Halving(0.5)), batch_size=None)
    assert history.learning_rate == [0.5, 0.25]
    history = net.fit([[1.0], [2.0]], [1.0, 2.0], epochs=1, optimizer=bp.SGD(Fixed()))
    assert history.learning_rate == [0.25]
