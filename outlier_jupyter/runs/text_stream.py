"""Tokens become text: those of a run, up to the first stop word, and any that follow one another.

It knows what tokens are in bytes, or what mlx-lm's detokenizer makes of them, and nothing else.

Text that may turn out to be the beginning of a stop word is held back until it is known not to
be, so that a stop word never flashes up in a stream.
"""

from __future__ import annotations

from codecs import getincrementaldecoder
from collections.abc import Iterable, Sequence
from math import inf
from typing import Protocol

Utf8 = getincrementaldecoder("utf-8")


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


def readable(spelt: bytes) -> str:
    r"""Bytes as text; what is no character of UTF-8 as `\xf0`."""
    return spelt.decode("utf-8", "backslashreplace")


def pieces(spelt: Iterable[bytes]) -> list[str]:
    r"""The texts of tokens that follow one another, from the bytes of each.

    Joined they are the whole text. A character of several tokens is the last one's, and the others
    have "". Bytes that make no character are shown as `\xf0`.
    """
    decoder = Utf8("backslashreplace")
    found = [decoder.decode(each) for each in spelt]
    if rest := decoder.decode(b"", True):
        found[-1] += rest
    return found
