"""Helpers that send the page's messages to a chat over a fake comm, and wait."""

from __future__ import annotations

import threading
from typing import Any

from outlier_jupyter.events import StepDone
from outlier_jupyter.notebook.chat.chat import Chat

WAIT_S = 60


def idle(chat: Chat) -> None:
    """Wait until the queue is empty."""
    done = threading.Event()
    chat.runner.put(done.set)
    assert done.wait(WAIT_S)


def page(chat: Chat, **content: Any) -> None:
    """Send a message as the page does, and wait until it is processed."""
    chat.comm.receive({"request": "r1", **content})
    idle(chat)


def sent(chat: Chat, kind: str) -> list[dict[str, Any]]:
    """The custom messages of this type that the chat sent."""
    return [content for content, _ in chat.comm.custom() if content["type"] == kind]


def texts(chat: Chat) -> list[str]:
    return [message.text for message in chat.messages]


def stop_after(engine, chat: Chat, steps: int):
    """Call `chat.stop` after this many steps."""
    seen = []

    def listen(event: object) -> None:
        if isinstance(event, StepDone):
            seen.append(event)
            if len(seen) == steps:
                chat.stop()

    return engine.subscribe(listen)
