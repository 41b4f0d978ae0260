"""Conversion of networks from and to Keras 3, with any backend."""

try:
    import keras as _keras  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "keras":
        raise ImportError(
            f"Keras has no backend to run on ({error}); install one, and name it in KERAS_BACKEND "
            f"(torch, tensorflow or jax)"
        ) from error
    raise ImportError("bpfast.interop.keras needs Keras 3: pip install keras") from None

from .copy_weights import copy_to_keras
from .read_model import from_keras
from .write_model import to_keras

__all__ = [
    "copy_to_keras",
    "from_keras",
    "to_keras",
]
