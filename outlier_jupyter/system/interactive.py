"""Whether somebody may be looking on: where nobody is, no widget is made, for it would be dead.

nbclient, and with it nbconvert and papermill, runs a notebook from its first cell to its last and
keeps the state of every widget that it was told of, also of those that are closed by then. It says
of itself that nobody can be asked for input. Voilà runs cells in the same way, for a page to come.
"""

from __future__ import annotations

import os
import sys


def attended() -> bool:
    """Whether what this cell shows may be seen, or used, before its kernel is gone."""
    kernels = sys.modules.get("ipykernel.kernelbase")  # not imported: without it this is no kernel
    if kernels is None or not kernels.Kernel.initialized():
        return True
    if os.environ.get("SERVER_SOFTWARE", "").startswith("voila/"):
        return True
    asked = kernels.Kernel.instance().get_parent("shell").get("content", {})
    return asked.get("allow_stdin") is not False  # a widget's message says nothing of it
