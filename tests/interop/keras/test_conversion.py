"""Keras models as networks, networks as Keras models, and weights written back."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

with pytest.MonkeyPatch.context() as patch:
    # Keras reads its backend and the folder of its settings when it is imported.
    patch.setenv("KERAS_BACKEND", os.environ.get("KERAS_BACKEND", "torch"))
    patch.setenv("KERAS_HOME", os.devnull)
    keras = pytest.importorskip("keras", reason="needs Keras")
    if not keras.__version__.startswith("3"):
        pytest.skip("needs Keras 3", allow_module_level=True)

from keras import layers as kl

import bpfast as bp
from bpfast.activations import activations
from bpfast.interop.keras import copy_to_keras, from_keras, losses, read_model, to_keras, write_model
from bpfast.layers import layers

#: Keras causes this warning with the PyTorch backend and NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

N_INPUTS, N_OUTPUTS, ROWS = 5, 3, 16
#: Also for float64: Keras multiplies float64 matrices in float32 unless float64 is its default.
TOLERANCE = 1e-6


def outputs(model, X):
    # Without a dtype, Keras would convert float64 arrays to float32.
    tensor = keras.ops.convert_to_tensor(X, dtype=str(X.dtype))
    return np.asarray(keras.ops.convert_to_numpy(model(tensor, training=False)))


def relative(array, expected):
    scale = np.abs(expected).max()
    return float(np.abs(array - expected).max() / (scale if scale > 0 else 1))


def perturb(model, seed):
    """Make all weights and running statistics random, with positive variances."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        noise = rng.normal(size=variable.shape)
        if variable.path.endswith("variance"):
            noise = np.abs(noise) + 0.2
        elif noise.ndim == 2:
            noise /= np.sqrt(len(noise))
        variable.assign(noise)


def test_the_tables_are_complete():
    without = {bp.Residual, bp.Maxout, bp.RReLU}
    assert set(write_model.MAKERS) == {layers[name] for name in layers} - without
    assert set(write_model.FUNCTIONS) == set(activations) - {"identity"}
    assert {spec.name for spec in read_model.ACTIVATIONS.values()} == set(activations)


NAMES = ["linear", "sigmoid", "tanh", "relu", "leaky_relu", "elu", "selu", "gelu", "silu", "softplus"]
SIMPLE = [
    *(lambda dtype, name=name: kl.Activation(name, dtype=dtype) for name in NAMES),
    lambda dtype: kl.ReLU(dtype=dtype),
    lambda dtype: kl.ReLU(negative_slope=0.3, dtype=dtype),
    lambda dtype: kl.LeakyReLU(dtype=dtype),
    lambda dtype: kl.ELU(0.7, dtype=dtype),
    lambda dtype: kl.PReLU(dtype=dtype),
    lambda dtype: kl.PReLU(shared_axes=[1], dtype=dtype),
    lambda dtype: kl.Dropout(0.3, dtype=dtype),
    lambda dtype: kl.Flatten(dtype=dtype),
    lambda dtype: kl.Identity(dtype=dtype),
    lambda dtype: kl.BatchNormalization(epsilon=1e-2, dtype=dtype),
    lambda dtype: kl.BatchNormalization(epsilon=1e-2, scale=False, dtype=dtype),
    lambda dtype: kl.BatchNormalization(epsilon=1e-2, center=False, scale=False, dtype=dtype),
    lambda dtype: kl.LayerNormalization(epsilon=1e-2, dtype=dtype),
    lambda dtype: kl.LayerNormalization(epsilon=1e-2, center=False, dtype=dtype),
]


def specs(depth=1):
    """Nested lists of layers as plain data: a tuple for a Dense, an index of SIMPLE, or a list."""
    dense = st.tuples(st.integers(1, 9), st.sampled_from(NAMES), st.booleans())
    kinds = [dense, st.integers(0, len(SIMPLE) - 1), *([specs(depth - 1)] if depth else [])]
    return st.lists(st.one_of(kinds), min_size=1, max_size=4)


def built(spec, dtype):
    if isinstance(spec, list):
        return keras.Sequential([built(inner, dtype) for inner in spec])
    if isinstance(spec, int):
        return SIMPLE[spec](dtype)
    width, name, bias = spec
    return kl.Dense(width, activation=name, use_bias=bias, dtype=dtype)


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(spec=specs(), dtype=st.sampled_from(["float32", "float64"]), seed=st.integers(0, 1000))
def test_random_models_are_converted_both_ways(spec, dtype, seed):
    last = kl.Dense(N_OUTPUTS, dtype=dtype)
    model = keras.Sequential([keras.Input((N_INPUTS,), dtype=dtype), built(spec, dtype), last])
    perturb(model, seed)
    X = np.random.default_rng(seed).normal(size=(ROWS, N_INPUTS)).astype(dtype)
    net = from_keras(model, loss="squared_error")
    assert net.dtype == dtype
    assert relative(net.forward(X), outputs(model, X)) <= TOLERANCE
    again = to_keras(net)
    assert relative(outputs(again, X), net.forward(X)) <= TOLERANCE
    assert from_keras(again, loss="squared_error").forward(X).tobytes() == net.forward(X).tobytes()


#: Layers of bpfast that Keras has counterparts for.
OURS = [
    bp.Dense(6, "leaky_relu"),
    bp.BatchNorm(momentum=0.3),
    bp.Dropout(0.2),
    bp.BatchRenorm(),
    bp.Auxiliary(2),
    bp.Dense(4, bp.ELU(0.5), bias=False),
    bp.PReLU(),
    bp.LayerNorm(),
    bp.Activation("selu"),
]


@pytest.mark.parametrize("loss", ["squared_error", "cross_entropy", "log_loss", "poisson"])
@pytest.mark.parametrize("output", ["identity", "sigmoid"])
def test_networks_are_converted_both_ways(loss, output, rng):
    net = bp.Network([*OURS, bp.Dense(2, output)], n_inputs=5, loss=loss, dtype="float64")
    for array in [*net.parameters.values(), *net.statistics.values()]:
        array += rng.uniform(0, 0.5, array.shape)
    X = rng.normal(size=(9, 5))
    for link, expected in ((False, net.forward(X)), (True, net.predict(X))):
        model = to_keras(net, link=link)
        assert relative(outputs(model, X), expected) <= TOLERANCE
        assert from_keras(model, loss=loss).predict(X).tobytes() == net.predict(X).tobytes()


def test_frozen_parameters_are_converted_both_ways():
    net = bp.Network([bp.Dense(3), bp.BatchNorm(), bp.Dense(2)], n_inputs=4, loss="squared_error")
    net.freeze_layers(0, 1)
    net.scale_learning_rates({"2.b": 0})
    model = to_keras(net)
    assert [layer.trainable for layer in model.layers] == [False, False, True]
    assert [v.name for v in model.trainable_variables] == ["kernel"]
    assert from_keras(model, loss="squared_error").learning_rate_scales == net.learning_rate_scales


def a_model(*end, **options):
    return keras.Sequential(
        [
            keras.Input((2, 2)),
            kl.Flatten(),
            kl.Dense(8, activation="relu"),
            kl.BatchNormalization(),
            kl.Dense(3, **options),
            *end,
        ]
    )


def test_trained_weights_are_copied_to_the_model(rng):
    X, y = rng.normal(size=(40, 2, 2)).astype("float32"), rng.integers(0, 3, 40)
    model = a_model(activation="softmax")
    model.compile(loss="sparse_categorical_crossentropy", optimizer="sgd")
    net = from_keras(model, seed=3)
    assert net.layers[1].momentum == 0.01
    assert relative(net.predict(X.reshape(40, 4)), outputs(model, X)) <= TOLERANCE
    before = outputs(model, X)
    net.fit(X.reshape(40, 4), y, epochs=3)
    copy_to_keras(net, model)
    assert relative(net.predict(X.reshape(40, 4)), outputs(model, X)) <= TOLERANCE
    assert relative(before, outputs(model, X)) > 1e-2


def test_a_functional_model_that_is_a_chain_is_converted(rng):
    inputs = keras.Input((4,))
    value = kl.Dense(2, activation="sigmoid")(kl.LayerNormalization()(kl.Dense(6, activation="gelu")(inputs)))
    model = keras.Model(inputs, value)
    X = rng.normal(size=(7, 4)).astype("float32")
    assert relative(from_keras(model, loss="log_loss").predict(X), outputs(model, X)) <= TOLERANCE
    assert relative(from_keras(model, loss="squared_error").predict(X), outputs(model, X)) <= TOLERANCE


@pytest.mark.parametrize(
    ("given", "expected", "end"),
    [
        ("mse", bp.SquaredError(), []),
        ("mae", bp.AbsoluteError(), []),
        (["huber"], bp.Huber(), []),
        (keras.losses.Huber(0.3), bp.Huber(0.3), []),
        (keras.losses.mean_squared_error, bp.SquaredError(), []),
        (keras.losses.Hinge(), bp.Hinge(), []),
        (keras.losses.CategoricalCrossentropy(), bp.CrossEntropy(), [kl.Softmax()]),
        (keras.losses.SparseCategoricalCrossentropy(from_logits=True), bp.CrossEntropy(), []),
        ("categorical_crossentropy", bp.CrossEntropy(), [kl.Activation("softmax")]),
        ("binary_crossentropy", bp.LogLoss(), [kl.Activation("sigmoid")]),
        (keras.losses.BinaryCrossentropy(from_logits=True), bp.LogLoss(), []),
        ("poisson", bp.Poisson(), [kl.Activation("exponential")]),
    ],
    ids=str,
)
def test_losses_of_keras(given, expected, end):
    model = a_model(*end)
    model.compile(loss=given)
    net = from_keras(model)
    assert net.loss_spec == expected
    X = np.linspace(-1, 1, 24, dtype="float32").reshape(6, 2, 2)
    module = net.predict if end else net.forward
    assert relative(module(X.reshape(6, 4)), outputs(model, X)) <= TOLERANCE


def test_every_loss_of_the_table_is_keras_own():
    assert all(callable(getattr(keras.losses, name)) for name in losses.LOSSES)


# ---- what is refused, in one line ----


class Wide(kl.Dense):
    pass


def chain_with_a_side():
    inputs = keras.Input((4,))
    return keras.Model(inputs, kl.Add()([inputs, kl.Dense(4)(inputs)]))


def model_of(*made, shape=(4,)):
    return keras.Sequential([keras.Input(shape), *made])


def with_lora():
    model = model_of(kl.Dense(2))
    model.layers[0].enable_lora(1)
    return model


def overridden(model):
    model.layers[0].call = lambda x: 2 * x
    return model


UNSUPPORTED = {
    "channels": (
        model_of(kl.Flatten(data_format="channels_first"), kl.Dense(2), shape=(2, 3, 4)),
        ValueError,
        r"model\.layers\[0\]: data_format must be 'channels_last' for bpfast; got 'channels_first'",
    ),
    "lora": (with_lora(), ValueError, r"model\.layers\[0\]: lora_enabled must be False for bpfast; got True"),
    "call": (overridden(model_of(kl.Dense(2))), ValueError, r"layers\[0\] \(Dense\) has its own call"),
    "layer": (kl.Dense(2), TypeError, r"must be a keras\.Sequential"),
    "not built": (keras.Sequential([kl.Dense(2)]), ValueError, "has not been built"),
    "no chain": (
        chain_with_a_side(),
        ValueError,
        "must be a functional model whose layers are a single chain",
    ),
    "unknown": (
        model_of(kl.Reshape((2, 2))),
        ValueError,
        r"layers\[0\] \(Reshape\) cannot be converted; bpfast reads",
    ),
    "subclass": (model_of(Wide(2)), ValueError, "a subclass of Dense may"),
    "function": (model_of(kl.Dense(2, activation="mish")), ValueError, "got 'mish'"),
    "own": (model_of(kl.Dense(2, activation=lambda z: z)), ValueError, "activation must be one of"),
    "capped": (model_of(kl.ReLU(max_value=6)), ValueError, "max_value must be None"),
    "axes": (model_of(kl.Dense(2), shape=(4, 3)), ValueError, r"inputs of shape \(4, 3\)"),
    "softmax": (model_of(kl.Softmax(), kl.Dense(2)), ValueError, "softmax is the link of a loss"),
    "end": (model_of(kl.Dense(2, activation="softmax")), ValueError, "link of loss='cross_entropy'"),
    "momentum": (
        model_of(kl.BatchNormalization(momentum=1.0)),
        ValueError,
        "momentum must be greater than 0",
    ),
    "half": (
        model_of(kl.Dense(2, dtype="mixed_bfloat16")),
        ValueError,
        "must compute in float32 or in float64 only; got bfloat16 and float32",
    ),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_unsupported_models(name):
    model, error, message = UNSUPPORTED[name]
    with pytest.raises(error, match=message) as caught:
        from_keras(model, loss="squared_error")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "end", "message"),
    [
        (
            "sparse_categorical_crossentropy",
            [],
            "does not end with the link softmax, but its loss expects prob",
        ),
        (
            keras.losses.BinaryCrossentropy(from_logits=True),
            [kl.Activation("sigmoid")],
            "its loss expects logits",
        ),
        (
            keras.losses.CategoricalCrossentropy(label_smoothing=0.1),
            [kl.Softmax()],
            "label_smoothing must",
        ),
        (keras.losses.MeanSquaredError(reduction="sum"), [], "reduction must be 'sum_over_batch_size'"),
        ("log_cosh", [], "loss log_cosh has no counterpart"),
    ],
    ids=str,
)
def test_unsupported_losses(given, end, message):
    model = a_model(*end)
    model.compile(loss=given)
    with pytest.raises(ValueError, match=message):
        from_keras(model)


def test_flatten_of_images_and_of_rows(rng):
    X = rng.normal(size=(ROWS, 2, 3, 4)).astype("float32")
    for form, shape in (("channels_last", (2, 3, 4)), ("channels_first", (24,))):
        model = model_of(kl.Flatten(data_format=form), kl.Dense(2), shape=shape)
        expected = outputs(model, X.reshape(ROWS, *shape))
        net = from_keras(model, loss="squared_error")
        assert relative(net.predict(X.reshape(ROWS, 24)), expected) <= TOLERANCE


def test_a_layer_that_occurs_twice_is_read_but_not_written_back(rng):
    dense = kl.Dense(4, activation="tanh")
    model = model_of(keras.Sequential([dense]), keras.Sequential([dense, kl.Dense(2)]))
    perturb(model, 0)
    X, y = rng.normal(size=(ROWS, 4)).astype("float32"), rng.normal(size=(ROWS, 2)).astype("float32")
    net = from_keras(model, loss="squared_error")
    expected = outputs(model, X)
    assert relative(net.predict(X), expected) <= TOLERANCE
    net.fit(X, y, epochs=2)
    with pytest.raises(ValueError, match=r"one variable \(.*\) several times, as 0\.W and 1\.W of") as caught:
        copy_to_keras(net, model)
    assert "\n" not in str(caught.value)
    assert (outputs(model, X) == expected).all()


def test_other_errors():
    with pytest.raises(TypeError, match="loss is needed, since the model is not compiled"):
        from_keras(a_model())
    with pytest.raises(TypeError, match=r"net must be a bpfast\.Network"):
        to_keras(a_model())
    net = bp.Network([bp.Dense(3), bp.Maxout(2)], n_inputs=4, loss="squared_error")
    with pytest.raises(ValueError, match=r"layers\[1\] \(Maxout\) has no counterpart in Keras"):
        to_keras(net)
    model = a_model()
    before = [keras.ops.convert_to_numpy(w).copy() for w in model.weights]
    with pytest.raises(ValueError, match="not those of the network"):
        copy_to_keras(net, model)
    now = [keras.ops.convert_to_numpy(w) for w in model.weights]
    assert all((new == old).all() for new, old in zip(now, before, strict=True))
    shared = model_of(kl.PReLU(shared_axes=[1]))
    with pytest.raises(ValueError, match="one slope for all columns"):
        copy_to_keras(from_keras(shared, loss="squared_error"), shared)


def test_keras_is_optional():
    code = (
        "import sys\nsys.modules['keras'] = None\n"
        "try: import bpfast.interop.keras\nexcept ImportError as error: print(error)"
    )
    found = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert found.stdout.strip() == "bpfast.interop.keras needs Keras 3: pip install keras", found.stderr
