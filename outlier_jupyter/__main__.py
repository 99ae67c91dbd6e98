"""`outlier` and `python -m outlier_jupyter`: the commands that work in a terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit status.

    Args:
        argv: the arguments after the program's name; by default the process's own.
    """
    terminal = import_module(".notebook.terminal", __package__)
    status: int = terminal.main(sys.argv[1:] if argv is None else argv)
    return status


if __name__ == "__main__":
    sys.exit(main())
