"""Detects unattended notebooks, where no widget is made, because it would be dead.

nbclient, and with it nbconvert and papermill, runs a notebook from its first cell to its last and
keeps the state of every widget that it received, also of closed ones. It declares that no input can
be requested. Voilà runs cells in the same way, but its page is shown afterwards.
"""

from __future__ import annotations

import os
import sys


def attended() -> bool:
    """Whether a user may see or use this cell's output before its kernel ends."""
    kernels = sys.modules.get("ipykernel.kernelbase")  # not imported: without it this is no kernel
    if kernels is None or not kernels.Kernel.initialized():
        return True
    if os.environ.get("SERVER_SOFTWARE", "").startswith("voila/"):
        return True
    request = kernels.Kernel.instance().get_parent("shell").get("content", {})
    return request.get("allow_stdin") is not False  # a widget's message has no such field
