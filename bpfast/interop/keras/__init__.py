"""Networks to and from Keras."""

from .convert import copy_to_keras, from_keras, to_keras

__all__ = [
    "copy_to_keras",
    "from_keras",
    "to_keras",
]
