"""Modules, losses, optimizers and data that raise a one-line error."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch")

from torch import nn  # noqa: E402

from bpfast.interop.torch import (  # noqa: E402
    Exp,
    Residual,
    from_torch,
    train_torch,
)

torch.set_num_threads(1)


class Wide(nn.Linear):
    pass


class Own(nn.Module):
    def forward(self, x):
        return x


def hooked():
    module = nn.Sequential(nn.Linear(4, 2))
    module[0].register_forward_hook(lambda *_: None)
    return module


def overridden(module, place):
    m = module.get_submodule(place)
    m.forward = lambda x: 2 * type(m).forward(m, x)
    return module


def broken(value):
    module = nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2))
    with torch.no_grad():
        (module[0].weight if np.isnan(value) else module[1].running_var)[0] = value
    return module


UNSUPPORTED = {
    "no module": ([nn.Linear(4, 2)], "module must be a torch.nn.Module"),
    "unknown": (
        nn.Sequential(nn.Linear(4, 2), Own()),
        r"module\[1\] \(Own\) cannot be converted; bpfast reads",
    ),
    "subclass": (nn.Sequential(Wide(4, 2)), "a subclass of Linear may compute something else"),
    "unflatten": (nn.Sequential(nn.Unflatten(1, (2, 2))), r"module\[0\] \(Unflatten\)"),
    "flatten": (nn.Sequential(nn.Flatten(0), nn.Linear(4, 2)), "start_dim must be 1"),
    "width": (
        nn.Sequential(nn.Linear(4, 2), nn.Linear(3, 1)),
        r"\[1\] \(Linear\): takes 3 columns but gets 2",
    ),
    "nested": (
        nn.Sequential(nn.Linear(4, 2), nn.Sequential(nn.ReLU(), nn.BatchNorm1d(3))),
        r"module\[1\]\[1\] \(BatchNorm1d\): takes 3",
    ),
    "norm": (nn.Sequential(nn.Linear(4, 2), nn.LayerNorm(3)), "takes 3 columns"),
    "norm of two": (
        nn.Sequential(nn.Linear(4, 2), nn.LayerNorm((2, 2))),
        "normalized_shape must be one",
    ),
    "prelu": (nn.Sequential(nn.Linear(4, 2), nn.PReLU(3)), "takes 3 columns"),
    "gelu": (nn.Sequential(nn.Linear(4, 2), nn.GELU("tanh")), "approximate must be 'none'"),
    "softplus": (nn.Sequential(nn.Linear(4, 2), nn.Softplus(beta=2)), "beta must be 1"),
    "threshold": (nn.Sequential(nn.Linear(4, 2), nn.Softplus(threshold=5)), "threshold must be at least 20"),
    "momentum": (
        nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2, momentum=None)),
        "momentum must be a",
    ),
    "statistics": (
        nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2, track_running_stats=False)),
        "track_running_stats must be True",
    ),
    "slope": (
        nn.Sequential(nn.Linear(4, 2), nn.LeakyReLU(-1)),
        r"\(LeakyReLU\): .*greater than 0",
    ),
    "rate": (nn.Sequential(nn.Linear(4, 2), nn.Dropout(1.0)), r"\(Dropout\): .*less than 1"),
    "pool": (nn.Sequential(nn.Linear(4, 6), nn.MaxPool1d(3, 1)), "stride must be kernel_size"),
    "pool first": (nn.Sequential(nn.MaxPool1d(2), nn.Linear(2, 2)), "must follow a dense layer"),
    "pool ragged": (nn.Sequential(nn.Linear(4, 5), nn.MaxPool1d(2)), "must follow a dense layer"),
    "inner softmax": (nn.Sequential(nn.Linear(4, 2), nn.Softmax(1), nn.Tanh()), "it is the link of a loss"),
    "skip": (
        nn.Sequential(Residual(nn.Linear(4, 2), nn.Linear(4, 2))),
        "skip must be a Linear",
    ),
    "no skip": (nn.Sequential(Residual(nn.Linear(4, 2))), "skip must be a Linear"),
    "own skip": (
        nn.Sequential(Residual(nn.Linear(4, 4), nn.Linear(4, 4, False))),
        "skip must be an Identity",
    ),
    "half": (nn.Sequential(nn.Linear(4, 2)).half(), "module must be all float32 .*; got float16"),
    "mixed": (
        nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2).double()),
        "module must be all float32 .*; got float32 and float64",
    ),
    "device": (
        nn.Sequential(nn.Linear(4, 2, device="meta")),
        r"0\.weight on device meta; use module.cpu\(\)",
    ),
    "hooks": (hooked(), r"module\[0\] \(Linear\) has hooks"),
    "forward": (
        overridden(nn.Sequential(nn.Linear(4, 2)), "0"),
        r"module\[0\] \(Linear\) has its own forward",
    ),
    "forward of all": (
        overridden(nn.Sequential(nn.Linear(4, 2)), ""),
        r"module \(Sequential\) has its own forward",
    ),
    "forward of a skip": (
        overridden(nn.Sequential(Residual(nn.Linear(4, 4))), "0.skip"),
        r"skip \(Identity\) has its own forward",
    ),
    "parametrised": (
        nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 2))),
        "a subclass of Linear may",
    ),
    "not finite": (broken(np.nan), r"0.W contains values that are not finite in float32"),
    "variance": (broken(-1.0), r"1.variance contains negative values"),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_unsupported_modules(name):
    module, message = UNSUPPORTED[name]
    for call in (
        lambda: from_torch(module, loss="squared_error"),
        lambda: train_torch(module, np.zeros((6, 4)), np.zeros((6, 2)), loss="squared_error"),
    ):
        with pytest.raises((ValueError, TypeError), match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("last", "loss", "message"),
    [
        ([nn.Softmax(1)], "squared_error", "Softmax\\) is the link of loss='cross_entropy'"),
        ([nn.Softmax(1)], nn.CrossEntropyLoss(), "is Softmax, but the given loss takes raw outputs"),
        ([nn.Softmax(0)], "cross_entropy", "dim must be 1 or -1; got 0"),
        ([nn.Sigmoid()], nn.BCEWithLogitsLoss(), "takes raw outputs"),
        ([], nn.NLLLoss(), "is Linear, but the given loss takes LogSoftmax as the last module"),
        ([nn.Softmax(1)], nn.NLLLoss(), "takes LogSoftmax as the last module"),
        ([nn.Sigmoid()], nn.NLLLoss(), "takes LogSoftmax as the last module"),
        ([], nn.BCELoss(), "takes Sigmoid as the last module"),
        ([Exp()], "log_loss", "Exp\\) is the link of loss='poisson'"),
        ([], nn.MSELoss(reduction="sum"), "loss MSELoss: reduction must be 'mean' for bpfast; got 'sum'"),
        ([], nn.CrossEntropyLoss(weight=torch.ones(2)), "weight must be None for bpfast; got a tensor"),
        ([], nn.CrossEntropyLoss(label_smoothing=0.1), "label_smoothing must be 0.0"),
        ([], nn.SmoothL1Loss(beta=0.5), "beta must be 1.0"),
        ([], nn.PoissonNLLLoss(log_input=False), "log_input must be True"),
        ([], nn.KLDivLoss(), "loss KLDivLoss has no counterpart"),
        ([], "mean", "unknown loss"),
    ],
    ids=str,
)
def test_unsupported_losses(last, loss, message):
    with pytest.raises(ValueError, match=message):
        from_torch(nn.Sequential(nn.Linear(4, 2), *last), loss=loss)


def tied():
    module = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    module[2].weight = module[0].weight
    return module


def overlapping(begin, expanded=False):
    """Linears whose weights share memory from `begin` on, or one whose weights are expanded."""
    memory = torch.zeros(40)
    module = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    module[0].weight = nn.Parameter(memory[:16].view(4, 4))
    second = torch.zeros(1, 4).expand(4, 4) if expanded else memory[begin : begin + 16].view(4, 4)
    module[2].weight = nn.Parameter(second)
    return module


def one_mean():
    module = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 4), nn.BatchNorm1d(4))
    module[2].running_mean = module[0].running_mean
    return module


def in_part(kind, training):
    module = nn.Sequential(nn.Linear(4, 4), kind)
    module[1].train(training)
    return module


UNTRAINABLE = {
    "tied": (tied(), "one parameter twice"),
    "one memory": (overlapping(0), r"0\.weight and 2\.weight in the same memory"),
    "in part one memory": (overlapping(15), r"0\.weight and 2\.weight in the same memory"),
    "one mean": (one_mean(), r"0\.running_mean and 2\.running_mean in the same memory"),
    "expanded": (overlapping(0, expanded=True), r"module has 2\.weight expanded"),
    "one slope": (nn.Sequential(nn.Linear(4, 4), nn.PReLU()), r"use nn.PReLU\(width\)"),
    "not affine": (in_part(nn.BatchNorm1d(4, affine=False), True), r"call its \.eval\(\)"),
    "frozen": (in_part(nn.BatchNorm1d(4).requires_grad_(False), True), r"call its \.eval\(\)"),
    "asleep": (in_part(nn.BatchNorm1d(4), False), r"BatchNorm1d \(1\) in eval mode"),
    "no dropout": (in_part(nn.Dropout(), False), r"Dropout \(1\) in eval mode"),
}


@pytest.mark.parametrize("name", UNTRAINABLE)
def test_modules_that_can_be_read_but_not_trained(name):
    module, message = UNTRAINABLE[name]
    from_torch(module, loss="squared_error")
    with pytest.raises(ValueError, match=message):
        train_torch(module, np.zeros((6, 4)), np.zeros((6, 4)), loss="squared_error")


def test_adjacent_weights_in_the_same_memory_are_trained():
    """Only overlapping tensors are rejected, and frozen ones may be expanded."""
    X, y = np.eye(4, dtype="float32"), np.ones((4, 4), "float32")
    module = overlapping(16)
    train_torch(module, X, y, loss="squared_error", epochs=1)
    assert module[2].bias.abs().max() > 0
    module = overlapping(0, expanded=True)
    module[2].weight.requires_grad_(False)
    bias = module[2].bias.clone()
    train_torch(module, X, y, loss="squared_error", epochs=1)
    assert (module[2].bias != bias).all()
    assert not module[2].weight.any()


def stepped(module):
    optimizer = torch.optim.SGD(module.parameters(), 0.1, momentum=0.9)
    module(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    return optimizer


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: torch.optim.SGD(m.parameters(), 0.1, weight_decay=0.1), "SGD has weight_decay 0.1, which"),
        (lambda m: torch.optim.AdamW(m.parameters()), "AdamW has weight_decay 0.01, which"),
        (lambda m: torch.optim.Adam(m.parameters(), amsgrad=True), "amsgrad must be False"),
        (lambda m: torch.optim.SGD(m.parameters(), 0.1, maximize=True), "maximize must be False"),
        (lambda m: torch.optim.NAdam(m.parameters()), "optimizer NAdam has no counterpart"),
        (lambda m: torch.optim.SGD([m.weight], 0.1), "does not have all parameters"),
        (
            lambda m: torch.optim.SGD([{"params": [m.weight]}, {"params": [m.bias]}], 0.1),
            "2 parameter",
        ),
        (stepped, "has made steps"),
    ],
)
def test_unsupported_optimizers(make, message):
    module = nn.Linear(4, 2)
    with pytest.raises(ValueError, match=message):
        train_torch(module, np.zeros((6, 4)), np.zeros((6, 2)), loss="squared_error", optimizer=make(module))


@pytest.mark.parametrize(
    ("X", "y", "error", "message"),
    [
        (
            torch.zeros(6, 4, dtype=torch.bfloat16),
            torch.zeros(6, 2),
            TypeError,
            "X must be a tensor of a NumPy dtype, such as float32; got torch.bfloat16",
        ),
        (
            torch.zeros(6, 4, device="meta"),
            torch.zeros(6, 2),
            ValueError,
            "X must be a dense tensor on the CPU; got a strided tensor on meta",
        ),
        (
            torch.zeros(6, 4).to_sparse(),
            torch.zeros(6, 2),
            ValueError,
            "X must be a dense tensor on the CPU; got a sparse_coo tensor on cpu",
        ),
        (torch.zeros(6, 2, 2), torch.zeros(6, 2), ValueError, "X must be a 2-dimensional array"),
        (torch.zeros(6, 5), torch.zeros(6, 2), ValueError, "X has 5 columns; this network expects 4"),
        (torch.zeros(6, 4), torch.zeros(5, 2), ValueError, "y has 5 rows, but X has 6"),
        (torch.full((6, 4), torch.nan), torch.zeros(6, 2), ValueError, "X contains NaN in row 0"),
    ],
)
def test_unsupported_data(X, y, error, message):
    with pytest.raises(error, match=message):
        train_torch(nn.Linear(4, 2), X, y, loss="squared_error")
