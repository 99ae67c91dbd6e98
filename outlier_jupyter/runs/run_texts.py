"""The texts of a run: of its tokens one by one, of their segments, and of all it generated."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import OptionError
from ..trace import Trace
from ..trace.segments import ANSWER, THINKING, Span, segment_frame, texts_of
from ..values import checked, integer, integers
from .origin import Origin
from .parsed import parsed
from .text_stream import pieces, readable

if TYPE_CHECKING:
    import pandas


class RunTexts:
    """The part of a `Run` that knows its texts; the attributes are those of `Run`."""

    text: str
    tokens: npt.NDArray[np.int32]
    trace: Trace
    text_ends: npt.NDArray[np.int32]
    spans: tuple[Span, ...]
    prefilled: str
    finish_reason: str
    origin: Origin | None
    spell: Callable[[int], bytes] | None
    _token_bytes: dict[int, bytes]

    @property
    def answer(self) -> str:
        """The text without thinking, tool calls and tags; all of it where nothing is known."""
        known = len(self.trace.kinds) > 0
        return texts_of(self.text, self.spans, ANSWER) if known else self.text

    @property
    def parsed(self) -> Any:
        """The value of an answer with a `schema`: JSON's, the Pydantic model's, or the text.

        Raises:
            OptionError: there was no schema, or the answer is cut off or not valid.
        """
        known = self.trace.info.options.get("schema")
        schema: Any = self.origin.options.schema if self.origin is not None else known
        return parsed(self.answer, schema, self.finish_reason)

    @property
    def thinking(self) -> str:
        """What the model thought before its answer, without tags; "" if it did not."""
        return texts_of(self.text, self.spans, THINKING)

    @property
    def segments(self) -> pandas.DataFrame:
        """One row for each run of tokens of one kind, of the prompt and then of the answer.

        `part` is prompt or generated, `kind` one of `KINDS` of `trace.segments`; `first` and `last`
        number the tokens from 1, as `tokens(prompt=True)` does: the prompt's that were read, and
        the generated ones. `seconds`, `hits`, `misses` and `bytes` are of the steps that read a
        prompt's tokens or produced the generated ones; the first of these is the prompt's last
        step's. No rows if not recorded.
        """
        return segment_frame(self.trace)

    @checked(token=integer)
    def text_of(self, token: int) -> str:
        """The text released with a generated token, numbered as in `explain`."""
        at = token - 1 if token > 0 else token % max(len(self.tokens), 1)
        if not 0 <= at < len(self.text_ends):
            return ""
        begin = int(self.text_ends[at - 1]) if at else len(self.prefilled)
        last = at == len(self.text_ends) - 1
        return self.text[begin : len(self.text) if last else int(self.text_ends[at])]

    @checked(token=integer)
    def piece(self, token: int) -> str:
        r"""The text of a token id by itself; "" if unknown.

        Part of a character is shown as its bytes, `\xf0`; its last part as the character, if it
        ends no other one in this run.
        """
        found = self._bytes_of(token)
        ended = self._ended.get(token, ()) if readable(found).encode() != found else ()
        return next(iter(ended)) if len(ended) == 1 else readable(found)

    @checked(tokens=integers)
    def pieces(self, tokens: Iterable[int]) -> list[str]:
        r"""The texts of consecutive ids; joined they are the whole text.

        A character of several tokens belongs to the last one, and the others have "". Bytes that
        form no character are shown as `\xf0`.
        """
        return pieces(self._bytes_of(int(token)) for token in tokens)

    @cached_property
    def read_pieces(self) -> list[str]:
        """The pieces of the tokens read, by step, and of the last one sampled."""
        last = self.trace.produced[-1:]
        return self.pieces([*self.trace.tokens.tolist(), *last[last >= 0].tolist()])

    @checked(step=integer)
    def piece_at(self, step: int) -> str:
        """The text of the token read in a step; for part of a character, its bytes."""
        self._check_step(step)
        return self.read_pieces[step] or self.piece(int(self.trace.tokens[step]))

    @checked(step=integer)
    def piece_after(self, step: int) -> str:
        """The text of the token sampled in a step, as when it is read; "" without one."""
        self._check_step(step)
        token, after = int(self.trace.produced[step]), step + 1
        known = after < len(self.read_pieces) and token >= 0
        return (self.read_pieces[after] if known else "") or self.piece(token)

    def _check_step(self, step: int) -> None:
        if not 0 <= step < self.trace.steps:
            raise OptionError(f"step={step} is not in this run: it has {self.trace.steps}, from 0")

    @cached_property
    def _ended(self) -> dict[int, set[str]]:
        """For each id read, the texts that ended with it."""
        return _ended_with(self.trace.tokens.tolist(), self.read_pieces)

    def _bytes_of(self, token: int) -> bytes:
        found = self._token_bytes.get(token)
        return found if found is not None else self.spell(token) if self.spell else b""


def _ended_with(tokens: list[int], pieces: list[str]) -> dict[int, set[str]]:
    ended: dict[int, set[str]] = {}
    for token, piece in zip(tokens, pieces, strict=False):
        if piece:
            ended.setdefault(token, set()).add(piece)
    return ended
