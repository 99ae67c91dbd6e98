"""An engine and a chat on it, whose page is a fake one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import outlier_jupyter
from outlier_jupyter.notebook.chat.chat import Chat
from tests.notebook.live.test_widget import FakeComm


@pytest.fixture
def chat(engine: outlier_jupyter.Engine) -> Iterator[Chat]:
    """A chat whose comm is a fake one."""
    made = Chat(engine, max_tokens=6)
    made.comm = FakeComm()
    made.comm.on_msg(made._handle_msg)
    yield made
    made.close()
    made.comm = None
