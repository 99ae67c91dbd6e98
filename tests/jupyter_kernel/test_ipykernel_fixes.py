"""Messages in a real ipykernel of each version: the kernel reads all of them."""

from __future__ import annotations

from tests.jupyter_kernel.conftest import WAIT, Kernel

REQUESTS, UNDER_WAY = 2_000, 3
"""The number of requests. Without the magics, ipykernel 7.3 stopped reading after 121 and 1,025."""


def test_requests_that_come_while_others_are_answered_are_all_read(kernel: Kernel) -> None:
    """With the magics loaded; a page sends in this way at any time, for example a Stop."""
    kernel.run("%load_ext outlier_jupyter")
    sent = answered = 0
    while answered < REQUESTS:
        while sent < min(REQUESTS, answered + UNDER_WAY):
            kernel.client.kernel_info()
            sent += 1
        kernel.client.get_shell_msg(timeout=WAIT)
        answered += 1
        while kernel.client.iopub_channel.msg_ready():  # or its messages would pile up
            kernel.client.get_iopub_msg()
