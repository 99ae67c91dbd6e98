"""Starts a rank's process, here or over ssh, and ends it.

`mlx.launch` would do the same, but it joins the ranks' output into one stream, and waits for ever
for a stopped process to end.
"""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from .hosts import Host
from .messages import Connection

PROGRAM = "outlier_jupyter.worker"
LOST_RING = 76
"""The exit status of a rank that lost a neighbour: another rank is the cause."""
SSH_LOST = 255
"""The exit status of ssh that reaches no host or loses it, or whose command a signal has ended."""
END_S = 5.0
"""How long a rank may take to end by itself."""


class Process:
    """One rank's process.

    Args:
        seconds: how long a send may wait.

    Attributes:
        connection: to the rank.
    """

    def __init__(self, host: Host, seconds: float) -> None:
        self.host = host
        ours, theirs = socket.socketpair()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115, open as long as the process
        try:
            self._process = subprocess.Popen(
                command(host), stdin=theirs.fileno(), stdout=theirs.fileno(), stderr=self._errors,
                start_new_session=True,  # Ctrl-C in a terminal is the driving process's
            )  # fmt: skip
        except OSError:
            ours.close()
            self._errors.close()
            raise
        finally:
            theirs.close()
        self.connection = Connection(ours, seconds)

    @property
    def pid(self) -> int:
        """Of the process on this machine: the rank, or the ssh to it."""
        return self._process.pid

    def wait(self, seconds: float) -> int | None:
        """Its exit status, once it has ended, or None after `seconds`."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def words(self, status: int | None, answered: bool) -> str:
        """How it ended, with the last line that it or ssh printed as an error.

        Args:
            answered: whether the rank ever did.
        """
        last = self._last_line()
        if status == SSH_LOST and not self.host.local:
            if not answered:
                why = f"{last}; " if last else ""
                name = self.host.name
                return f"is not reached by ssh ({why}`ssh {name} true` must need no password)"
            how = "was ended by a signal there, or its connection was lost"
        elif status is None:
            how = "closed its connection"
        elif status < 0:
            with suppress(ValueError):
                return f"was ended by {signal.Signals(-status).name}"
            how = f"was ended by signal {-status}"
        else:
            how = f"ended with status {status}"
        return how + (f" ({last})" if last else "")

    def _last_line(self) -> str:
        self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, self._errors.tell() - 2000))
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1].strip()[:200] if lines else ""

    def end(self, at_once: bool) -> None:
        """End it: by the end of its input, and by force `at_once` or if that takes too long."""
        self.connection.close()
        if not at_once:
            self.wait(END_S)
        if self._process.poll() is None:
            self._process.kill()  # also ends a stopped one
            self._process.wait()
        self._errors.close()


def command(host: Host) -> list[str]:
    """The command that starts a rank on `host`; its settings come as messages."""
    program = [sys.executable, "-m", PROGRAM]
    if host.local:
        return program
    there = f"cd {shlex.quote(str(Path.cwd()))} 2>/dev/null; exec {shlex.join(program)}"
    return ["ssh", "-o", "BatchMode=yes", "-T", host.name, there]
