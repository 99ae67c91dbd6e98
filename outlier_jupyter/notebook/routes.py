"""Has a page's messages handled where the page asked for it.

JupyterLab names a subshell, a thread of the kernel's, in each message of a widget. ipykernel 7.4
takes another: that of the request that was the last one known when the widget last sent something.
A run sends from its own thread all the time, so after a page was reloaded that is the subshell
over which the widgets were asked for, which the page deletes once it has them. From then on every
message to the widget, Stop among them, is dropped with "Unknown subshell_id". Nothing here waits
for a page's answer, which is what the detour is for.
"""

from __future__ import annotations

from typing import Any


def keep_route(comm: Any) -> None:
    """Have messages of this comm handled by the subshell that they name."""
    if hasattr(comm, "_reply_subshell_for"):
        comm._reply_subshell_for = _as_asked


def _as_asked(data: object, asked: str | None) -> str | None:
    return asked
