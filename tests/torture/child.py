"""Child processes: what may crash or hang runs in one, with a watchdog."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Ended:
    """How a child ended.

    Attributes:
        status: its exit status; negative: the signal that ended it; None: the watchdog did.
        output, errors: what it wrote.
    """

    status: int | None
    output: str
    errors: str

    def failure(self, wanted: str | None = None) -> str:
        """What is wrong, in one sentence; "" if it ended in order (with `wanted` as output)."""
        last = (self.errors.strip().splitlines() or [""])[-1][:200]
        if self.status is None:
            return f"it hangs; last words: {self.output.strip()[-100:]!r} {last}"
        if self.status < 0:
            return f"{signal.Signals(-self.status).name} ended it; {last}"
        if self.status:
            return f"it ended with status {self.status}: {last}"
        if wanted is not None and self.output.strip() != wanted:
            return f"it printed {self.output.strip()[-200:]!r} in place of {wanted!r}"
        return ""


def run_child(
    *arguments: str,
    code: str | None = None,
    timeout_s: float = 120,
    env: dict[str, str] | None = None,
) -> Ended:
    """Run Python with `arguments` (of `code`, if any) in its own process group until it ends.

    After `timeout_s` it prints its threads' stacks to `errors` and is ended.
    """
    before = ["-X", "faulthandler", *(["-c", code] if code is not None else [])]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    process = subprocess.Popen(
        [sys.executable, *before, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True, errors="replace",
        env=os.environ | {"PYTHONPATH": path} | (env or {}),
    )  # fmt: skip
    try:
        output, errors = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)  # faulthandler writes the stacks
        try:
            output, errors = process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, errors = process.communicate()
        return Ended(None, output, errors)
    return Ended(process.returncode, output, errors)
