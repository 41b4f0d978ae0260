"""Models of other exporters and hand-made ones: what is imported, and the errors for what is not."""

import contextlib
import io

import numpy as np
import pytest

import bpfast as bp

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from bpfast.interop.onnx import (  # noqa: E402
    from_onnx,
    to_onnx,
)

N_INPUTS, N_OUTPUTS, ROWS = 5, 3, 11


#: Of predictions, relative to the largest element.
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}


def export(module, X, torch):
    """Export by tracing; PyTorch's newer exporter needs another package."""
    file = io.BytesIO()
    options = {"input_names": ["x"], "dynamic_axes": {"x": {0: "N"}}, "opset_version": 17, "dynamo": False}
    torch.onnx.export(module, (torch.from_numpy(X),), file, **options)
    return onnx.load_from_string(file.getvalue())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("end", ["logits", "softmax", "sigmoid"])
def test_models_of_pytorch(end, dtype, rng, error):
    torch = pytest.importorskip("torch")
    nn = torch.nn

    class Block(nn.Module):
        def __init__(self, *modules, skip=None):
            super().__init__()
            self.inner, self.skip = nn.Sequential(*modules), skip or nn.Identity()

        def forward(self, x):
            return self.skip(x) + self.inner(x)

    torch.manual_seed(0)
    activations = [nn.ReLU(), nn.GELU(), nn.SiLU(), nn.ELU(0.7), nn.SELU(), nn.Softplus(), nn.Tanh()]
    activations += [nn.LeakyReLU(0.2), nn.PReLU(), nn.PReLU(8), nn.Sigmoid()]
    hidden = [module for f in activations for module in (nn.Linear(8, 8), f)]
    module = nn.Sequential(
        nn.Flatten(),
        nn.Linear(N_INPUTS, 8, bias=False),
        nn.BatchNorm1d(8),
        nn.Dropout(0.3),
        nn.LayerNorm(8),
        *hidden,
        Block(Block(nn.Linear(8, 8), nn.GELU())),
        Block(nn.Linear(8, 6), nn.Tanh(), skip=nn.Linear(8, 6, bias=False)),
        nn.Linear(6, N_OUTPUTS),
        {"logits": nn.Identity(), "softmax": nn.Softmax(dim=1), "sigmoid": nn.Sigmoid()}[end],
    )
    module.to(getattr(torch, dtype)).eval()
    X = rng.normal(size=(ROWS, N_INPUTS)).astype(dtype)
    with torch.no_grad():
        module[2].running_mean.normal_()
        module[2].running_var.uniform_(0.5, 2)
        expected = module(torch.from_numpy(X)).numpy()
    model = export(module, X, torch)
    net = from_onnx(model)
    losses = {"logits": "squared_error", "softmax": "cross_entropy", "sigmoid": "log_loss"}
    assert net.loss_spec.name == losses[end]
    assert error(net.predict(X), expected) <= TOLERANCE[dtype]
    if end == "logits":
        shares = np.exp(expected) / np.exp(expected).sum(axis=1, keepdims=True)
        assert error(from_onnx(model, loss="cross_entropy").predict(X), shares) <= TOLERANCE[dtype]
    if end == "sigmoid":
        regression = from_onnx(model, loss="squared_error")
        assert error(regression.predict(X), expected) <= TOLERANCE[dtype]
        with pytest.raises(
            ValueError, match="loss 'cross_entropy' has the link softmax, but the model ends in sig"
        ):
            from_onnx(model, loss="cross_entropy")


def model_of(*nodes, n=3, weights=(), outputs=("y",), kind=None, shape=("N", 3), opset=17):
    """Make a small model of nodes (operator, inputs, outputs, *attributes)."""
    helper = onnx.helper
    kind = onnx.TensorProto.FLOAT if kind is None else kind
    inputs = [helper.make_tensor_value_info("x", kind, shape)]
    made = [helper.make_tensor_value_info(name, kind, ("N", "M")) for name in outputs]
    tensors = [
        onnx.numpy_helper.from_array(np.asarray(a, "int64" if isinstance(a, list) else "float32"), name)
        for name, a in weights
    ]
    drawn = helper.make_graph(
        [helper.make_node(*node[:3], node[1][0] + ":" + node[0], **dict(node[3:])) for node in nodes],
        "g",
        inputs,
        made,
        tensors,
    )
    return helper.make_model(drawn, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


W = ("W", np.ones((3, 2)))


COLUMN, ONE = ("V", np.ones((3, 1))), ("one", np.ones(1))


BOTH = [("Gemm", ["x", "V"], ["h"]), ("Sigmoid", ["h"], ["p"]), ("Sub", ["one", "p"], ["q"])]


SIX = ("U", np.ones((3, 6)))


PIECES = [("Gemm", ["x", "U"], ["h"]), ("Reshape", ["h", "s"], ["r"])]


UNSUPPORTED = {
    "an operator": ([("Sin", ["x"], ["y"])], [], r"node 'x:Sin' \(Sin\) is not a supported operator"),
    "a product of values": ([("Mul", ["x", "x"], ["y"])], [], r"node 'x:Mul' \(Mul\) combines two values"),
    "a softmax within": (
        [("Softmax", ["x"], ["a"]), ("Gemm", ["a", "W"], ["y"])],
        [W],
        r"node 'x:Softmax' \(Softmax\) is in a position where",
    ),
    "a scaling at the start": (
        [("Mul", ["x", "c"], ["a"]), ("Relu", ["a"], ["y"])],
        [("c", 2.0)],
        r"node 'x:Mul' \(Mul\) scales or shifts a value that is not the output of a dense layer",
    ),
    "other columns": (
        [("Gemm", ["x", "W"], ["y"])],
        [("W", np.ones((4, 2)))],
        r"weights of shape \(4, 2\) for 3 col",
    ),
    "a bias of other columns": (
        [("Gemm", ["x", "W", "b"], ["y"])],
        [W, ("b", np.ones(3))],
        r"node 'x:Gemm' \(Gemm\) has a constant of shape \(3,\) for 2 columns",
    ),
    "weights that are not finite": (
        [("MatMul", ["x", "W"], ["y"])],
        [("W", np.full((3, 2), np.nan))],
        r"node 'x:MatMul' \(MatMul\) has weights that are not finite",
    ),
    "two branches": (
        [
            ("Gemm", ["x", "W"], ["a"]),
            ("Relu", ["a"], ["b"]),
            ("Tanh", ["a"], ["c"]),
            ("Add", ["b", "c"], ["y"]),
        ],
        [W],
        r"node 'b:Add' \(Add\) adds two branches, neither of which",
    ),
    "a batch's statistics": (
        [("BatchNormalization", ["x", "o", "o", "o", "o"], ["y", "m", "v"], ("training_mode", 1))],
        [("o", np.ones(3))],
        "uses the statistics of the batch in prediction as well",
    ),
    "a variance below 0": (
        [("BatchNormalization", ["x", "o", "o", "o", "v"], ["y"])],
        [("o", np.ones(3)), ("v", -np.ones(3))],
        "has a negative variance",
    ),
    "no weights": ([("Gemm", ["x", "x"], ["y"])], [], r"\(Gemm\) must take a constant"),
    "a layer norm of columns": (
        [("LayerNormalization", ["x", "o"], ["y"], ("axis", 0))],
        [("o", np.ones(3))],
        "must normalise over the columns of each row only",
    ),
    "rows mixed": ([("Flatten", ["x"], ["y"], ("axis", 0))], [], "also flattens the rows"),
    "a number that adds a dimension": (
        [("Gemm", ["x", "W"], ["h"]), ("Add", ["h", "c"], ["y"])],
        [W, ("c", np.ones((1, 1, 1)))],
        r"node 'h:Add' \(Add\) has a constant of shape \(1, 1, 1\) for 2 columns",
    ),
    "rows above one another": (
        [*BOTH, ("Concat", ["q", "p"], ["y"], ("axis", 0))],
        [COLUMN, ONE],
        r"node 'q:Concat' \(Concat\) concatenates rows",
    ),
    "probabilities within": (
        [*BOTH, ("Concat", ["q", "p"], ["b"], ("axis", 1)), ("LeakyRelu", ["b"], ["y"])],
        [COLUMN, ONE],
        r"node 'q:Concat' \(Concat\) is in a position where bpfast has no layer",
    ),
    "probabilities of no sigmoid": (
        [("Gemm", ["x", "V"], ["p"]), *BOTH[2:], ("Concat", ["q", "p"], ["y"], ("axis", 1))],
        [COLUMN, ONE],
        r"\(Concat\) concatenates 1 - p and a p that is not a sigmoid",
    ),
    "a maximum of what is flat": (
        [*PIECES, ("Flatten", ["r"], ["f"]), ("ReduceMax", ["f"], ["y"], ("axes", [1]), ("keepdims", 0))],
        [SIX, ("s", [-1, 3, 2])],
        r"node 'f:ReduceMax' \(ReduceMax\) is a maximum that is not over the pieces",
    ),
    "a maximum of what is flat again": (
        [
            *PIECES,
            ("Reshape", ["r", "t"], ["f"]),
            ("ReduceMax", ["f"], ["y"], ("axes", [1]), ("keepdims", 0)),
        ],
        [SIX, ("s", [-1, 3, 2]), ("t", [-1, 6])],
        r"node 'f:ReduceMax' \(ReduceMax\) is a maximum that is not over the pieces",
    ),
    "pieces as rows": (
        [*PIECES, ("Flatten", ["r"], ["y"], ("axis", -1))],
        [SIX, ("s", [-1, 3, 2])],
        r"node 'r:Flatten' \(Flatten\) also flattens the rows",
    ),
    "one long row": (
        [("Reshape", ["x", "s"], ["y"])],
        [("s", [1, -1])],
        r"node 'x:Reshape' \(Reshape\) reshapes rows of 3 values to \[1, -1\]; the first size must be",
    ),
    "two long rows": (
        [("Reshape", ["x", "s"], ["y"])],
        [("s", [2, -1])],
        r"reshapes rows of 3 values to \[2, -1\]",
    ),
    "no rows": (
        [("Reshape", ["x", "s"], ["y"], ("allowzero", 1))],
        [("s", [0, 3])],
        r"reshapes rows of 3 values to \[0, 3\]",
    ),
    "pieces of one row": (
        [*PIECES[:1], ("Reshape", ["h", "s"], ["y"])],
        [SIX, ("s", [1, 3, 2])],
        r"reshapes rows of 6 values to \[1, 3, 2\]",
    ),
    "an elu that falls": (
        [("Elu", ["x"], ["y"], ("alpha", -1.0))],
        [],
        r"\(Elu\) cannot be converted: .*alpha",
    ),
}


@pytest.mark.parametrize(("nodes", "weights", "message"), UNSUPPORTED.values(), ids=UNSUPPORTED)
def test_errors_name_unsupported_nodes(nodes, weights, message):
    with pytest.raises(ValueError, match=message) as caught:
        from_onnx(model_of(*nodes, weights=weights))
    assert "\n" not in str(caught.value)


def test_an_old_batch_norm_in_training_mode_is_rejected():
    """Before opset 14 the number of outputs shows training mode, not an attribute."""
    outputs, ones = ["y", "m", "v", "s", "t"], ("o", np.ones(3))
    bn = ("BatchNormalization", ["x", "o", "o", "o", "o"])
    for names, more in ((outputs, []), (["a", *outputs[1:]], [("Relu", ["a"], ["y"])])):
        with pytest.raises(
            ValueError, match=r"\(BatchNormalization\) uses the statistics of the batch in pred"
        ):
            from_onnx(model_of((*bn, names), *more, weights=[ones], opset=11))
    assert from_onnx(model_of((*bn, ["y"]), weights=[ones], opset=11)).layers == (bp.BatchNorm(),)


def test_reshape_and_flatten_without_effect(rng, error, run):
    """Accepted models have the predictions of ONNX Runtime."""
    X = rng.normal(size=(4, 3)).astype("float32")
    U, V = ("U", rng.normal(size=(3, 6))), ("V", rng.normal(size=(6, 1)))
    cut = [("Gemm", ["x", "U"], ["h"]), ("Reshape", ["h", "s"], ["r"])]
    end = ("Gemm", ["f", "V"], ["y"])
    cases = [
        ([*cut, ("Flatten", ["r"], ["f"]), end], [-1, 3, 2], "N"),
        ([*cut, ("Reshape", ["r", "t"], ["f"]), end], [0, 3, 2], "N"),
        ([*cut, ("Identity", ["r"], ["f"]), end], [4, -1], 4),
        ([*cut, ("Identity", ["r"], ["f"]), end], [-1, 6], "N"),
        ([*cut, ("ReduceMax", ["r"], ["y"], ("axes", [1]), ("keepdims", 0))], [4, 3, 2], 4),
        ([*BOTH, ("Concat", ["q", "p"], ["b"], ("axis", -1)), ("Flatten", ["b"], ["y"])], [1], "N"),
    ]
    for nodes, shape, rows in cases:
        weights = [U, V, ONE, ("s", shape), ("t", [0, -1])]
        if "b" in nodes[-1][1]:
            weights[1] = ("V", rng.normal(size=(3, 1)))
        model = model_of(*nodes, weights=weights, shape=(rows, 3))
        expected = run(model, {"x": X})["y"]
        assert error(from_onnx(model).predict(X), expected[:, -1:] if shape == [1] else expected) <= 1e-5


def test_nodes_of_other_outputs_are_ignored():
    nodes = [("Gemm", ["x", "W"], ["a"]), ("Softmax", ["a"], ["y"]), ("Sin", ["a"], ["z"])]
    model = model_of(*nodes, weights=[W], outputs=("y", "z"))
    with pytest.raises(ValueError, match="the model has the outputs y, z; select one with output="):
        from_onnx(model)
    assert from_onnx(model, output="y").loss_spec.name == "cross_entropy"
    assert from_onnx(model, output="a").loss_spec.name == "squared_error"
    with pytest.raises(ValueError, match="output: the model has no 'w'; its outputs are y, z"):
        from_onnx(model, output="w")


def test_unsupported_inputs():
    gemm = ("Gemm", ["x", "W"], ["y"])
    with pytest.raises(ValueError, match="input 'x' must be float32 or float64"):
        from_onnx(model_of(gemm, weights=[W], kind=onnx.TensorProto.INT32))
    with pytest.raises(
        ValueError, match=r"\(Gemm\) takes an input with more than two dimensions; it must be fl"
    ):
        from_onnx(model_of(gemm, weights=[W], shape=("N", 1, 3)))
    flat = [("Flatten", ["x"], ["a"]), ("Gemm", ["a", "W"], ["y"])]
    assert from_onnx(model_of(*flat, weights=[W], shape=("N", 1, 3))).n_inputs == 3
    assert from_onnx(model_of(gemm, weights=[W], shape=("N", None))).n_inputs == 3
    with pytest.raises(ValueError, match="declares 1,000,000,000 columns"):
        from_onnx(model_of(("Relu", ["x"], ["y"]), shape=("N", 10**9)))


def test_external_weights_are_rejected(tmp_path, rng):
    net = bp.Network([bp.Dense(3)], n_inputs=4, loss="squared_error")
    path = tmp_path / "m.onnx"
    onnx.save(to_onnx(net), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    with pytest.raises(ValueError, match=r"tensor '0\.W' is stored outside of the model"):
        from_onnx(path)


def test_damaged_files(tmp_path):
    net = bp.Network(
        [bp.Dense(4, "gelu"), bp.LayerNorm(), bp.Dense(3)], n_inputs=5, loss="log_loss", dtype="float64"
    )
    path = tmp_path / "m.onnx"
    assert to_onnx(net, path).SerializeToString() == path.read_bytes()
    assert from_onnx(path).dtype == np.float64
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for trial in range(300):
        data = bytearray(whole)
        if trial % 3 == 0:
            data = data[: rng.integers(len(data))]
        else:
            for place in rng.integers(len(data), size=3):
                data[place] = rng.integers(256)
        path.write_bytes(data)
        with contextlib.suppress(ValueError):
            assert isinstance(from_onnx(path), bp.Network)
    for text in (b"", b"not a model", b"PK\x03\x04" * 10):
        path.write_bytes(text)
        with pytest.raises(ValueError, match="is not an ONNX model, or is damaged"):
            from_onnx(path)
    with pytest.raises(FileNotFoundError, match="there is no model file"):
        from_onnx(tmp_path / "nowhere.onnx")
    with pytest.raises(
        TypeError, match=r"model must be an onnx\.ModelProto or the path of a file; got <class 'int'>"
    ):
        from_onnx(3)
    cut = to_onnx(net)
    cut.graph.initializer[0].raw_data = b"1234"
    with pytest.raises(ValueError, match=r"(checker: .*|tensor ')0\.W"):
        from_onnx(cut)
