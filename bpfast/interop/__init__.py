"""Networks to and from other libraries: `onnx`, `torch`, `keras`. None is imported before it is asked for."""
