"""Converts tokens to text: those of a run up to the first stop word, and any consecutive ones.

It knows the bytes of tokens, or mlx-lm's detokenizer, and nothing else. Text that could be the
beginning of a stop word is held back until it is not, so that no part of a stop word is shown.
"""

from __future__ import annotations

from codecs import getincrementaldecoder
from collections.abc import Iterable, Sequence
from math import inf
from typing import Protocol

Utf8 = getincrementaldecoder("utf-8")


class Detokenizer(Protocol):
    """The interface of mlx-lm's streaming detokenizers."""

    last_segment: str

    def add_token(self, token: int) -> None: ...

    def finalize(self) -> None: ...


class Transcript:
    """The growing text of one run: `text` was released; after `stopped` no more will be.

    Attributes:
        seen: the length of the whole text so far, with what is pending.
        pending: text not yet released, as it may be the beginning of a stop word.
    """

    def __init__(
        self, detokenizer: Detokenizer, stop: Sequence[str], vocabulary: float = inf
    ) -> None:
        self.text = ""
        self.stopped = False
        self.seen = 0
        self._detokenizer = detokenizer
        self._vocabulary = vocabulary
        self._stop = [word for word in stop if word]
        self.pending = ""
        self._finished = False

    def add(self, token: int) -> str:
        """Add one token and return the text it releases.

        Ids from `vocabulary` on have no text: a model's vocabulary may be rounded up from that of
        its tokenizer.
        """
        if token >= self._vocabulary:
            return self._release("")
        self._detokenizer.add_token(token)
        return self._release(self._detokenizer.last_segment)

    def finish(self) -> str:
        """End the text: return what was pending; nothing the second time."""
        if self.stopped or self._finished:
            return ""
        self._finished = True
        self._detokenizer.finalize()
        delta = self._release(self._detokenizer.last_segment)
        rest, self.pending = self.pending, ""
        self.text += rest
        return delta + rest

    def _release(self, segment: str) -> str:
        self.seen += len(segment)
        pending = self.pending + segment
        ends = [pending.find(word) for word in self._stop if word in pending]
        if ends:
            self.stopped = True
            delta, self.pending = pending[: min(ends)], ""
        else:
            keep = max((_overlap(pending, word) for word in self._stop), default=0)
            delta, self.pending = pending[: len(pending) - keep], pending[len(pending) - keep :]
        self.text += delta
        return delta


def _overlap(text: str, word: str) -> int:
    """Length of the longest end of `text` that is a proper beginning of `word`."""
    longest = min(len(text), len(word) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(word[:n])), 0)


def readable(data: bytes) -> str:
    r"""Bytes as text; those that are not UTF-8 as `\xf0`."""
    return data.decode("utf-8", "backslashreplace")


def pieces(tokens: Iterable[bytes]) -> list[str]:
    r"""The texts of consecutive tokens, from the bytes of each.

    Joined they are the whole text. A character of several tokens belongs to the last one, and the
    others have "". Bytes that form no character are shown as `\xf0`.
    """
    decoder = Utf8("backslashreplace")
    found = [decoder.decode(each) for each in tokens]
    if rest := decoder.decode(b"", True):
        found[-1] += rest
    return found
