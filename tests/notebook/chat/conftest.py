"""An engine and a chat on it, whose page is a fake one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import outlier_jupyter
from outlier_jupyter.notebook.chat import Chat
from tests.notebook.test_live import FakeComm


@pytest.fixture(scope="module")
def engine(tiny: Path) -> Iterator[outlier_jupyter.Engine]:
    with outlier_jupyter.load(tiny, cache_experts=8) as engine:
        engine.tokenizer.eos_token_ids = set()  # answers are as long as they may be
        yield engine


@pytest.fixture
def chat(engine: outlier_jupyter.Engine) -> Iterator[Chat]:
    """A chat whose comm is a fake one."""
    made = Chat(engine, max_tokens=6)
    made.comm = FakeComm()
    made.comm.on_msg(made._handle_msg)
    yield made
    made.close()
    made.comm = None
