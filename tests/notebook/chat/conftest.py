"""An engine and a chat on it, whose page is a fake one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import outlier_jupyter
from outlier_jupyter.notebook.chat.chat import Chat
from tests.notebook.live.test_widget import on_a_page


@pytest.fixture
def chat(engine: outlier_jupyter.Engine) -> Iterator[Chat]:
    """A chat whose comm is a fake one."""
    made = on_a_page(Chat(engine, max_tokens=6))
    yield made
    made.close()
    made.comm = None
