"""The native step: C functions for `_engine` alone, nothing for Python."""
