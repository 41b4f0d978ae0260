"""A program in memory, for `_engine`; nothing for Python."""
