"""The native engine: compiled kernels and the Python that hands arrays to them."""
