"""The rows of a batch: C functions for `_step` and `_engine`, nothing for Python."""
