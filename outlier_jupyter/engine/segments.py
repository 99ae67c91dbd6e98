"""Finds the segments of generated text while it is generated, with mlx-lm's state machine.

`GeneratedSegments` takes the text that a run releases, and says of each piece what it belongs to,
without the tags. At the end it gives the kind of each token, and the spans of the text.
"""

from __future__ import annotations

from typing import Any

from mlx_lm.generate import TextStateMachine

from ..trace.segments import ANSWER, TEMPLATE, THINKING, Span, trimmed
from .dialects import BEGIN, NORMAL, Dialect, kind_of

Piece = tuple[int, str]
"""A kind's code, and text of that kind."""


class GeneratedSegments:
    """The segments of one run's text.

    Args:
        state: the machine's state where the text begins.

    Attributes:
        thinking_tokens: tokens so far that are part of thinking.
    """

    def __init__(self, dialect: Dialect, state: str) -> None:
        self.thinking_tokens = 0
        self._closing = dialect.closing
        self._state = self._ahead = dialect.machine().make_state(state)
        self._marks: list[list[int]] = []  # kind and length of consecutive text
        self._ends: list[int] = []  # of the text after each token; -1 for an end-of-turn token
        self._fresh = kind_of(state) != ANSWER  # line breaks beside a tag are the template's

    @property
    def kind(self) -> int:
        """The kind of the text that comes next."""
        return kind_of(self._ahead[0])

    def answers(self) -> bool:
        """Whether what comes next is of the answer, if the model does not begin to think."""
        state = self._ahead[0]
        return state == NORMAL or (state == BEGIN and not self.undecided)

    @property
    def undecided(self) -> bool:
        """Whether the text ends in what may be the begin of a tag."""
        return bool(self._ahead[3])

    def closing(self, tokenizer: Any) -> list[int]:
        """The tokens that end a block of thinking; none if the model marks none."""
        return list(tokenizer.encode(self._closing, add_special_tokens=False))

    def take(self, length: int, thinking: bool) -> None:
        """One more token: the text has this `length` with it, -1 for an end-of-turn token.

        Args:
            thinking: whether the text was thinking before the token.
        """
        self._ends.append(length)
        self.thinking_tokens += thinking and self.kind == THINKING and length >= 0

    def add(self, text: str, pending: str = "") -> list[Piece]:
        """More text: what is known of it, and of text before it, in order and without tags.

        Args:
            pending: the text after it, not yet released because of a stop word; it may hold a
                tag.
        """
        pieces = self._added(text)
        self._ahead = TextStateMachine.split(self._state, pending)[0] if pending else self._state
        return pieces

    def _added(self, text: str) -> list[Piece]:
        if not text:
            return []
        before = self._state
        state, found = TextStateMachine.split(before, text)
        if len(found) == 1:
            self._state = state
            return self._released([(kind_of(found[0][0]), found[0][1])])
        pieces: list[Piece] = []
        for sign in text:  # a tag ends here: where, only single steps say
            tag = len(self._state[3]) + 1
            self._state, found = TextStateMachine.split(self._state, sign)
            pieces.append((kind_of(found[0][0]), found[0][1]))
            if len(found) > 1:
                pieces.append((TEMPLATE, "\0" * (tag - len(found[0][1]))))
        return self._released(pieces)

    def finish(self) -> list[Piece]:
        """The text ends: what was kept as the begin of a tag was none."""
        self._state, rest, state = TextStateMachine.flush(self._state)
        self._ahead = self._state
        return self._released([(kind_of(state), rest)])

    def _released(self, pieces: list[Piece]) -> list[Piece]:
        out: list[Piece] = []
        for kind, text in pieces:
            if not text:
                continue
            if self._marks and self._marks[-1][0] == kind:
                self._marks[-1][1] += len(text)
            else:
                self._marks.append([kind, len(text)])
            if kind == TEMPLATE:
                self._fresh = True
                continue
            if self._fresh:
                text = text.lstrip("\n")
                self._fresh = not text
            if text:
                out.append((kind, text))
        return out

    def spans(self, text: str) -> tuple[Span, ...]:
        """The spans of the whole text."""
        out, begin = [], 0
        for kind, length in self._marks:
            if kind != TEMPLATE:
                out.append((kind, begin, begin + length))
            begin += length
        return trimmed(text, out)

    def token_kinds(self) -> bytes:
        """The kind of each token, as codes.

        A token of a tag and of text is the text's. One without text of its own, as the first part
        of a character, belongs to what comes next.
        """
        kinds = bytearray()
        for kind, length in self._marks:
            kinds += bytes([kind]) * length
        kinds.append(self.kind)
        out, begin = bytearray(), 0
        for end in self._ends:
            if end < 0:
                out.append(TEMPLATE)
                continue
            mine = kinds[begin : max(end, begin + 1)].lstrip(b"\0")
            inside = kinds[begin : begin + 1]
            out.append((mine or inside or bytes([self.kind]))[0])
            begin = end
        return bytes(out)
