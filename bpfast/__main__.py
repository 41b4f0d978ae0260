"""Entry point of the command line, also as `python -m bpfast`."""

import sys

from .cli.parser import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
