"""`outlier` and `python -m outlier_jupyter`: the commands that need no notebook, in a terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module


def main(argv: Sequence[str] | None = None) -> int:
    """Do what a command line says; the exit status.

    Args:
        argv: the words after the program's name, by default the process's own.
    """
    terminal = import_module(".notebook.terminal", __package__)
    status: int = terminal.main(sys.argv[1:] if argv is None else argv)
    return status


if __name__ == "__main__":
    sys.exit(main())
