"""Shared by the tests of PyTorch: relative errors, and random parameters."""

import numpy as np
import pytest


def _relative(array, expected):
    expected = expected.detach().numpy() if hasattr(expected, "detach") else expected
    scale = np.abs(expected).max()
    return float(np.abs(array - expected).max() / (scale if scale > 0 else 1))


def _perturb(module, seed):
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if tensor.is_floating_point():
                noise = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
                if name.endswith("var"):
                    noise = noise.abs() + 0.2
                elif noise.ndim == 2:
                    noise /= noise.shape[1] ** 0.5
                tensor.copy_(noise)


@pytest.fixture(scope="session")
def relative():
    """relative(array, expected): max |array - expected| / max |expected|; both may be tensors."""
    return _relative


@pytest.fixture(scope="session")
def perturb():
    """perturb(module, seed): make all parameters and statistics random, with positive variances."""
    return _perturb
