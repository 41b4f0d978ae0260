"""The command line: `bpfast train|predict|export|info|gallery`.

Each subcommand is a module with `add_parser`, which declares its options, and `run`, which takes the
parsed options and returns the exit status.
"""
