"""The gradient and the update: C functions for `_step` and `_engine`, nothing for Python."""
