"""Sends a chat's state, the new text of its answer and its progress to the browser.

New text is sent in one message per 50 ms. The whole state is a trait, set on every change except
new text, and every few seconds, so that a reloaded page can start from it. Messages and states
carry a sequence number.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from .conversations import Conversations
from .turn import Turn
from .view_state import chat_state, prompt_progress

if TYPE_CHECKING:
    from .chat import Chat

TEXT_EVERY_S = 0.05
READING_EVERY_S = 0.25
SAVE_EVERY_S = 4.0
"""The least time between messages of text, of prompt progress, and states, in seconds."""


ANSWER, THINKING = "answer", "thinking"
"""The kinds of text that a page shows while they are written."""


class PageUpdates:
    """The way from a chat to its pages.

    Attributes:
        turn: the turn under way, or None; its answer gets the new text.
        lock: taken while the conversations change or are sent.
    """

    def __init__(
        self, chat: Chat, conversations: Conversations, clock: Callable[[], float]
    ) -> None:
        self.turn: Turn | None = None
        self.lock = threading.RLock()
        self._chat, self._conversations, self._clock = chat, conversations, clock
        self._seq = 0
        self._new_text: list[tuple[str, str]] = []
        self._thinking_at: float | None = None
        self._text_at = self._save_at = self._read_at = 0.0

    def publish(self, during_answer: bool = False) -> None:
        """Publish the whole state, which replaces the page's state.

        The form for saved notebooks is not updated `during_answer`: each update makes the page
        redraw it and marks the notebook as unsaved.
        """
        with self.lock:
            self.flush()
            self._seq += 1
            self._save_at = self._clock() + SAVE_EVERY_S
            self._chat.state = chat_state(self._conversations, self.turn, self._seq)
            if not during_answer:
                self._chat.save_view()

    def send(self, content: dict[str, Any]) -> None:
        """Send one message to the browser."""
        self._chat.send(content)

    def begin(self) -> None:
        """Publish an answer that begins."""
        self._text_at, self._thinking_at = 0.0, None
        self._read_at = self._clock() + READING_EVERY_S
        self.publish()

    def progress(self) -> None:
        """Send the prompt's progress; a short prompt is read before the first message is due."""
        now, turn = self._clock(), self.turn
        if now >= self._read_at and turn is not None and turn.answer is not None:
            self._read_at = now + READING_EVERY_S
            where = {"conversation": turn.conversation.id}
            self.send({"type": "reading", "reading": prompt_progress(turn)} | where)

    def add(self, kind: str, text: str) -> None:
        """Add new text to the answer, or to its thinking; send it once a message is due."""
        if kind not in (ANSWER, THINKING):  # a call is shown when it is whole
            return
        with self.lock:
            turn, now = self.turn, self._clock()
            assert turn is not None and turn.answer is not None  # text comes from a begun run
            if kind == THINKING and self._thinking_at is None:
                self._thinking_at = now
            self._new_text.append((kind, text))
            if kind == ANSWER and self._thinking_at is not None and not turn.answer.text:
                self.flush()
                turn.answer.thinking["seconds"] = round(now - self._thinking_at, 3)
                self._thinking_at = None
                self.publish(during_answer=True)  # the page folds the thinking
            if now < self._text_at:
                return
            self._text_at = now + TEXT_EVERY_S
            if now >= self._save_at:
                self.publish(during_answer=True)
                return
            message = {"conversation": turn.conversation.id, "message": turn.answer.id}
            for what, more in self.flush():
                self._seq += 1
                of_kind = {"kind": what} if what == THINKING else {}
                self.send({"type": "text", "seq": self._seq, "text": more} | of_kind | message)

    def flush(self) -> list[tuple[str, str]]:
        """Move the new text into the answer; return it, with its kinds."""
        new = [
            (kind, "".join(text for _, text in pieces))
            for kind, pieces in groupby(self._new_text, key=itemgetter(0))
        ]
        self._new_text.clear()
        answer = self.turn.answer if self.turn is not None else None
        for kind, text in new if answer is not None else ():
            assert answer is not None
            if kind == ANSWER:
                answer.text += text
            else:
                before = answer.thinking or {"text": "", "seconds": 0.0, "tokens": 0}
                answer.thinking = before | {"text": before["text"] + text}
        return new
