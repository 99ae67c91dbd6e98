"""Messages in a real ipykernel of each version: none of them stays unread."""

from __future__ import annotations

from tests.jupyter_kernel.conftest import WAIT, Kernel

REQUESTS, UNDER_WAY = 2_000, 3
"""Without the magics, ipykernel 7.3 has left all unread after 121 and after 1,025 of them."""


def test_requests_that_come_while_others_are_answered_are_all_read(kernel: Kernel) -> None:
    """Once the magics are there; a page sends so at any time, a Stop among the rest."""
    kernel.run("%load_ext outlier_jupyter")
    sent = answered = 0
    while answered < REQUESTS:
        while sent < min(REQUESTS, answered + UNDER_WAY):
            kernel.client.kernel_info()
            sent += 1
        kernel.client.get_shell_msg(timeout=WAIT)
        answered += 1
        while kernel.client.iopub_channel.msg_ready():  # or what it sends would pile up
            kernel.client.get_iopub_msg()
