"""Networks to and from ONNX."""

from .convert import from_onnx, onnx_inputs, to_onnx

__all__ = [
    "from_onnx",
    "onnx_inputs",
    "to_onnx",
]
