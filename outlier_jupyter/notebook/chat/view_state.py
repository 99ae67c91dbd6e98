"""What a page needs to draw a chat: conversations and the path that is read, as bounded JSON."""

from __future__ import annotations

from typing import Any

from .conversations import Conversation, Conversations, Message
from .turn import Turn

KEPT_CHARS = 200_000
KEPT_MESSAGES = 400
"""The newest messages of the path, at most so many and so long, are shown; a file has them all."""


def outline(books: Conversations, turn: Turn | None, seq: int) -> dict[str, Any]:
    """The state after message `seq`: what `js/src/chat/store.ts` calls a ChatState."""
    book = books.current
    path = book.path()
    shown = newest(path)
    counted = [message.numbers for message in path if message.numbers]
    last = counted[-1] if counted else {}
    reading = None
    used = last.get("prompt", 0) + last.get("generated", 0)
    if turn is not None and turn.conversation is book:
        used = turn.prompt_tokens or used
        reading = reading_of(turn)
    return {
        "seq": seq,
        "conversation": book.id,
        "title": book.title,
        "conversations": [{"id": each.id, "label": each.label} for each in books.by_id.values()],
        "messages": [_told(book, message) for message in shown],
        "earlier": len(path) - len(shown),
        "running": turn is not None,
        "elsewhere": turn.conversation.id if turn and turn.conversation is not book else 0,
        "used": used,
        "reading": reading,
    }


def reading_of(turn: Turn) -> dict[str, int] | None:
    """How far the turn has come with its prompt; None before it has begun, and once it is read."""
    if turn.answer is None or turn.read_tokens >= turn.prompt_tokens:
        return None
    return {"message": turn.answer.id, "read": turn.read_tokens, "of": turn.prompt_tokens}


def newest(path: list[Message], chars: int | None = None) -> list[Message]:
    """The end of the path that fits; the last message is there whatever its length."""
    left, first = KEPT_CHARS if chars is None else chars, len(path)
    while first > 0 and len(path) - first < KEPT_MESSAGES:
        left -= len(path[first - 1].text)
        if left < 0 and first < len(path):
            break
        first -= 1
    return path[first:]


def _told(book: Conversation, message: Message) -> dict[str, Any]:
    siblings = [each.id for each in book.children(message.parent)]
    return {
        "id": message.id,
        "role": message.role,
        "text": message.text[-KEPT_CHARS:],
        "ended": message.ended,
        "note": message.note,
        "numbers": message.numbers,
        "siblings": siblings,
    }
