"""The native engine: compiled kernels, and the Python that passes arrays to them."""
