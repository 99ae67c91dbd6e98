"""A real kernel, with each supported version of ipykernel."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from queue import Empty

import pytest
from jupyter_client.manager import KernelManager

WAIT = 120
ROOT = Path(__file__).parent.parent.parent
IPYKERNELS = ("6.31.0", "7.3.0", "7.4.0")
"""Each handles messages to a busy kernel in another way, and interrupts must work in all."""
AT_START = (
    "import faulthandler, signal; faulthandler.register(signal.SIGUSR1)",
    "from outlier_jupyter.notebook.ipykernel_fixes import fix_unread_requests as fix; fix()",
)
"""Lines run before a kernel serves. On a signal it prints the stack of each of its threads; and
replies go through the stream, or ipykernel 7.3 may miss messages before the magics are loaded."""


class Kernel:
    """A running kernel that executes cells and collects what they send."""

    def __init__(self, overlay: Path) -> None:
        connection = str(overlay / "kernel.json")  # its sockets are in the same folder
        self.manager = KernelManager(transport="ipc", connection_file=connection)
        self.manager.start_kernel(
            env=os.environ | {"PYTHONPATH": f"{overlay}:{ROOT}"},
            extra_arguments=[f"--IPKernelApp.exec_lines={line}" for line in AT_START],
        )
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=WAIT)

    def start(self, code: str) -> str:
        return self.client.execute(code)

    def messages(self, request: str) -> Iterator[dict]:
        """The messages that the cell sends, as they come, until the kernel is idle."""
        while True:
            message = self._next()
            if message["parent_header"].get("msg_id") != request:
                continue
            if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                return
            yield message

    def _next(self) -> dict:
        try:
            return self.client.get_iopub_msg(timeout=WAIT)
        except Empty:
            self.manager.signal_kernel(signal.SIGUSR1)  # the test's report shows what it prints
            raise

    def run(self, code: str) -> list[dict]:
        return list(self.messages(self.start(code)))

    def value(self, expression: str) -> str:
        """The repr of an expression, which must not fail."""
        sent = self.run(expression)
        assert not [m["content"] for m in sent if m["msg_type"] == "error"]
        return next(
            m["content"]["data"]["text/plain"] for m in sent if m["msg_type"] == "execute_result"
        )

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


def kinds(sent: list[dict], kind: str) -> list[dict]:
    """The contents of the messages of one type."""
    return [message["content"] for message in sent if message["msg_type"] == kind]


@pytest.fixture(scope="session", params=IPYKERNELS)
def kernel(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Kernel]:
    """A kernel with its ipykernel in place of the installed one, for all files in turn."""
    overlay = tmp_path_factory.mktemp("ipykernel")
    needs = [f"ipykernel=={request.param}", "nest_asyncio"]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    subprocess.run([*pip, str(overlay), *needs], check=True)
    kernel = Kernel(overlay)
    assert kernel.value("__import__('ipykernel').__version__") == repr(request.param)
    yield kernel
    kernel.close()
