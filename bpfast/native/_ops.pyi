"""The ops: C functions for `_step` and `_engine`, nothing for Python."""
