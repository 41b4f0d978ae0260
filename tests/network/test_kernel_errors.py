"""Invalid arguments of the kernels, native and reference."""

import numpy as np
import pytest
from scipy import sparse


@pytest.mark.parametrize(
    ("call", "kind", "match"),
    [
        (
            lambda k: k.dense_forward(np.ones((2, 3)), np.ones((4, 2))),
            ValueError,
            r"X has 3 columns; W expects 4",
        ),
        (
            lambda k: k.dense_forward(np.ones(3), np.ones((3, 2))),
            ValueError,
            r"X must be a 2-dimensional array",
        ),
        (
            lambda k: k.dense_forward(np.ones((2, 3)), np.ones(3)),
            ValueError,
            r"W must be a 2-dimensional array",
        ),
        (lambda k: k.dense_forward(np.ones((0, 3)), np.ones((3, 2))), ValueError, r"X has no rows"),
        (
            lambda k: k.dense_forward(np.ones((2, 3)), np.ones((3, 2)), np.ones(3)),
            ValueError,
            r"b has shape \(3,\)",
        ),
        (lambda k: k.dense_forward([["a"]], [[1.0]]), TypeError, r"X contains strings"),
        (
            lambda k: k.dense_forward(sparse.csr_array((2, 3)), np.ones((3, 2))),
            TypeError,
            r"X is a sparse matrix; expected a dense array \(X\.toarray\(\)\)",
        ),
        (
            lambda k: k.weight_gradient(sparse.csc_matrix((2, 3)), np.ones((2, 2))),
            TypeError,
            r"A_prev is a sparse matrix; expected a dense array",
        ),
        (lambda k: k.dense_forward([[1.0]], [[1j]]), TypeError, r"W contains complex128"),
        (
            lambda k: k.dense_forward([[1.0]], [[1.0]], None, "tan"),
            ValueError,
            r"unknown activation 'tan'; did you",
        ),
        (
            lambda k: k.dense_forward([[1.0]], [[1.0]], out=[[0.0]]),
            TypeError,
            r"out must be a NumPy array; got list",
        ),
        (
            lambda k: k.dense_forward([[1.0]], [[1.0]], out=np.ones(1)),
            ValueError,
            r"out must have shape \(1, 1\); got \(1,\)",
        ),
        (
            lambda k: k.dense_forward([[1.0]], [[1.0]], out=np.ones((1, 1), "f4")),
            TypeError,
            r"out must have dtype float64; got float32",
        ),
        (
            lambda k: k.dense_forward([[1.0]], [[1.0]], out=np.broadcast_to(np.ones(1), (1, 1))),
            ValueError,
            r"out must be writable; got a read-only array",
        ),
        (
            lambda k: k.activation_derivative(np.ones((0, 2)), "relu"),
            ValueError,
            r"Z is empty, shape \(0, 2\)",
        ),
        (lambda k: k.activation_derivative("z", "relu"), TypeError, r"Z contains strings"),
        (
            lambda k: k.propagate_delta(np.ones((2, 3)), np.ones((4, 2)), np.ones((2, 4)), "relu"),
            ValueError,
            r"D has 3 columns; W expects 2",
        ),
        (
            lambda k: k.propagate_delta(np.ones((2, 2)), np.ones((4, 2)), np.ones((2, 3)), "relu"),
            ValueError,
            r"Z_prev has 3 columns; W expects 4",
        ),
        (
            lambda k: k.propagate_delta(np.ones((2, 2)), np.ones((4, 2)), np.ones((3, 4)), "relu"),
            ValueError,
            r"Z_prev has 3 rows; D expects 2",
        ),
        (
            lambda k: k.weight_gradient(np.ones((2, 3)), np.ones((3, 2))),
            ValueError,
            r"A_prev has 2 rows; D expects 3",
        ),
        (lambda k: k.loss_and_delta("huber", [0.0], [0.0]), ValueError, r"Z must be a 2-dimensional array"),
        (
            lambda k: k.loss_and_delta("huber", [0.0, 1.0], [[0.0]]),
            ValueError,
            r"Y has 2 rows, but [XZ] has 1",
        ),
        (
            lambda k: k.loss_and_delta("hinge", [0.0], [[0.0]]),
            ValueError,
            r"Y contains 0; hinge expects -1 or \+1",
        ),
        (lambda k: k.loss_and_delta("cross_entropy", [3], [[0.0, 1.0]]), ValueError, r"Y contains class 3"),
        (lambda k: k.loss_and_delta("cross_entropy", [3], [[0.0]]), ValueError, r"must be 0 \(there is one"),
        (
            lambda k: k.loss_and_delta(lambda Y, Z: (Y, Z), [0.0], [[0.0, 1.0]]),
            ValueError,
            r"Y must have shape \(1, 2\) for a custom loss with 2 outputs",
        ),
        (
            lambda k: k.loss_and_delta("huge", [0.0], [[0.0]]),
            ValueError,
            r"unknown loss 'huge'; did you mean 'h",
        ),
        (
            lambda k: k.loss_and_delta("huber", [0.0], [[0.0]], sample_weight=[0.0]),
            ValueError,
            r"sample_weight is all 0",
        ),
    ],
)
def test_kernels(kernels, call, kind, match):
    with pytest.raises(kind, match=match):
        call(kernels)


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, "2", 5000], ids=lambda value: f"native {value}")
def test_threads_of_kernels(threads):
    """Only the native kernels have this argument."""
    from bpfast import kernels

    with pytest.raises((TypeError, ValueError), match=r"threads must be"):
        kernels.dense_forward([[1.0]], [[1.0]], threads=threads)
