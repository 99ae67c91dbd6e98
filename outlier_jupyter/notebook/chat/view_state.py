"""The state a page needs to draw a chat: conversations and the chosen path, as bounded JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from .conversations import Conversation, Conversations, Message
from .turn import Turn

KEPT_CHARS = 200_000
KEPT_MESSAGES = 400
"""Limits of the messages shown, newest first; a saved file has all of them."""


def chat_state(conversations: Conversations, turn: Turn | None, seq: int) -> dict[str, Any]:
    """The state after message `seq`: the `ChatState` of `js/src/chat/store.ts`."""
    conversation = conversations.current
    path = conversation.path()
    shown = newest(path)
    counted = [message.numbers for message in path if message.numbers]
    last = counted[-1] if counted else {}
    progress = None
    used_tokens = last.get("prompt", 0) + last.get("generated", 0)
    if turn is not None and turn.conversation is conversation:
        used_tokens = turn.prompt_tokens or used_tokens
        progress = prompt_progress(turn)
    return {
        "seq": seq,
        "conversation": conversation.id,
        "title": conversation.title,
        "conversations": [
            {"id": each.id, "label": each.label} for each in conversations.by_id.values()
        ],
        "messages": [_message_state(conversation, message) for message in shown],
        "earlier": len(path) - len(shown),
        "running": turn is not None,
        "elsewhere": turn.conversation.id if turn and turn.conversation is not conversation else 0,
        "used": used_tokens,
        "reading": progress,
    }


def prompt_progress(turn: Turn) -> dict[str, int] | None:
    """How much of its prompt the turn has read; None before it begins and after the prompt."""
    if turn.answer is None or turn.read_tokens >= turn.prompt_tokens:
        return None
    return {"message": turn.answer.id, "read": turn.read_tokens, "of": turn.prompt_tokens}


def newest(path: list[Message], chars: int | None = None) -> list[Message]:
    """The end of the path that fits in `chars`; the last message is always included."""
    room, first = KEPT_CHARS if chars is None else chars, len(path)
    while first > 0 and len(path) - first < KEPT_MESSAGES:
        room -= path[first - 1].chars
        if room < 0 and first < len(path):
            break
        first -= 1
    return path[first:]


def _message_state(conversation: Conversation, message: Message) -> dict[str, Any]:
    siblings = [each.id for each in conversation.children(message.parent)]
    return {
        "id": message.id,
        "role": message.role,
        "text": message.text[-KEPT_CHARS:],
        "ended": message.ended,
        "note": message.note,
        "numbers": message.numbers,
        "thinking": message.thinking,
        "tool_calls": [asdict(call) for call in message.tool_calls],
        "siblings": siblings,
    }
