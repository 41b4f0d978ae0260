"""The native engine: the compiled kernels, and the Python that calls them."""
