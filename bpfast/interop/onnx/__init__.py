"""Conversion of networks from and to ONNX.

``pip install "bpfast[onnx]"``; to run the models, ``pip install onnxruntime``.
"""

try:
    import onnx as _onnx  # noqa: F401
except ModuleNotFoundError:
    raise ModuleNotFoundError('bpfast.interop.onnx needs onnx: pip install "bpfast[onnx]"') from None

from .model_inputs import onnx_inputs
from .read_model import from_onnx
from .write_model import to_onnx

__all__ = [
    "from_onnx",
    "onnx_inputs",
    "to_onnx",
]
