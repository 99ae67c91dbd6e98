"""Tokens become text, up to the first stop word. It knows mlx-lm's detokenizer and nothing else.

Text that may turn out to be the beginning of a stop word is held back until it is known not to
be, so that a stop word never flashes up in a stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Protocol


class Detokenizer(Protocol):
    """What mlx-lm's streaming detokenizers offer."""

    last_segment: str

    def add_token(self, token: int) -> None: ...

    def finalize(self) -> None: ...


class Transcript:
    """The text of one run as it grows: `text` was let go of; when `stopped`, no more will be."""

    def __init__(
        self, detokenizer: Detokenizer, stop: Sequence[str], vocabulary: float = inf
    ) -> None:
        self.text = ""
        self.stopped = False
        self._detokenizer = detokenizer
        self._vocabulary = vocabulary
        self._stop = [word for word in stop if word]
        self._held = ""
        self._finished = False

    def add(self, token: int) -> str:
        """Take one token and return the text it lets go of.

        Models know more ids than their tokenizers where the vocabulary was rounded up: those, from
        `vocabulary` on, have no text.
        """
        if token >= self._vocabulary:
            return self._release("")
        self._detokenizer.add_token(token)
        return self._release(self._detokenizer.last_segment)

    def finish(self) -> str:
        """No token follows: return what was still held back; nothing the second time."""
        if self.stopped or self._finished:
            return ""
        self._finished = True
        self._detokenizer.finalize()
        delta = self._release(self._detokenizer.last_segment)
        rest, self._held = self._held, ""
        self.text += rest
        return delta + rest

    def _release(self, segment: str) -> str:
        pending = self._held + segment
        ends = [pending.find(word) for word in self._stop if word in pending]
        if ends:
            self.stopped = True
            delta, self._held = pending[: min(ends)], ""
        else:
            keep = max((_overlap(pending, word) for word in self._stop), default=0)
            delta, self._held = pending[: len(pending) - keep], pending[len(pending) - keep :]
        self.text += delta
        return delta


def _overlap(text: str, word: str) -> int:
    """Length of the longest end of `text` with which `word` begins, and goes on."""
    longest = min(len(text), len(word) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(word[:n])), 0)
