"""Workarounds for ipykernel versions that lose messages from a page.

**7.1 to 7.3 leave requests unread.** The shell channel's thread reads requests through a stream
and sends replies on the raw socket below it. ZeroMQ signals a request with an edge: a send at the
wrong moment consumes the edge, so the stream never sees that request. The socket is then never
drained, so the stream sees no later request either, and the kernel stops answering. From 7.4 on
replies go through the stream; `fix_unread_requests` does the same for earlier versions.

**7.4 handles a widget message on the wrong subshell.** JupyterLab names a subshell (a thread of the
kernel) in each widget message. ipykernel 7.4 replaces it by the subshell of the last request known
when the widget last sent a message. A run sends from its own thread all the time. After a page
reload, that subshell is the one JupyterLab used to fetch the widgets, and deleted afterwards. From
then on every message to the widget, including Stop, is dropped with "Unknown subshell_id". The
replacement exists for code that waits for a page's answer, which nothing here does.
"""

from __future__ import annotations

import sys
from typing import Any

from ..aliases import old_names


def fix_subshell_routing(comm: Any) -> None:
    """Make the kernel read this comm's messages, and handle them on the subshell they name."""
    fix_unread_requests()
    if hasattr(comm, "_reply_subshell_for"):
        comm._reply_subshell_for = _requested_subshell


def fix_unread_requests() -> None:
    """Make the current kernel, if any, send its replies through the stream.

    Run as one of `IPKernelApp.exec_lines`, it takes effect before the first request.
    """
    kernels = sys.modules.get("ipykernel.kernelbase")
    if kernels is None or not kernels.Kernel.initialized():
        return
    kernel = kernels.Kernel.instance()
    channel = getattr(kernel, "shell_channel_thread", None)
    sender: Any
    for sender in (channel, getattr(channel, "_manager", None)):  # the channel creates its manager
        if hasattr(sender, "_shell_socket"):
            sender._shell_socket = kernel.shell_stream


def _requested_subshell(data: object, subshell: str | None) -> str | None:
    return subshell


__getattr__ = old_names(__name__, keep_reading="fix_unread_requests")
