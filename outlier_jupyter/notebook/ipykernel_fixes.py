"""Has a page's messages reach the code they are for, where an ipykernel would lose them.

**7.1 to 7.3 leave requests unread.** The thread of the shell channel reads requests through a
stream and sends replies on the bare socket under it. ZeroMQ tells of a request by an edge: a send
at the wrong moment takes it, the stream never hears of that request, and as the socket is never
read empty again, of no later one either. The kernel idles and answers nobody. From 7.4 on replies
go through the stream, and here they are made to.

**7.4 takes another subshell than the page names.** JupyterLab names a subshell, a thread of the
kernel's, in each message of a widget. ipykernel 7.4 takes that of the request that was the last
one known when the widget last sent something. A run sends from its own thread all the time, so
after a page was reloaded that is the subshell over which the widgets were asked for, which the
page deletes once it has them. From then on every message to the widget, Stop among them, is
dropped with "Unknown subshell_id". Nothing here waits for a page's answer, which is what the
detour is for.
"""

from __future__ import annotations

import sys
from typing import Any


def keep_route(comm: Any) -> None:
    """Have messages of this comm read, and handled by the subshell that they name."""
    keep_reading()
    if hasattr(comm, "_reply_subshell_for"):
        comm._reply_subshell_for = _as_asked


def keep_reading() -> None:
    """Have the kernel that this runs in, if it is in one, send its replies through the stream.

    Before the kernel serves, as one of `IPKernelApp.exec_lines`, it helps from the first request.
    """
    kernels = sys.modules.get("ipykernel.kernelbase")
    if kernels is None or not kernels.Kernel.initialized():
        return
    kernel = kernels.Kernel.instance()
    channel = getattr(kernel, "shell_channel_thread", None)
    sender: Any
    for sender in (channel, getattr(channel, "_manager", None)):  # the first makes the second
        if hasattr(sender, "_shell_socket"):
            sender._shell_socket = kernel.shell_stream


def _as_asked(data: object, asked: str | None) -> str | None:
    return asked
