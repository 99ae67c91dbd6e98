"""Keeps an answer to a schema: before each token, what may come next is found by llguidance.

The constraint begins with the answer: thinking, and the tags around it, are free.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from ..errors import OptionError, OutlierError, brief
from ..options.schema import JSON, Schema

SPACES = {"whitespace_flexible": True, "whitespace_pattern": "( |\\n {0,16})?"}
"""White space in JSON: a weak model would write it without end."""

Answering = Callable[[], bool]
"""Whether the next token is of the answer."""


class Grammars:
    """Makes the constraints of an engine's runs; the vocabulary is read once.

    Args:
        tokenizer: mlx-lm's.
        bytes_of: the bytes of a token by its id.
        size: number of ids.
    """

    def __init__(self, tokenizer: Any, bytes_of: Callable[[int], bytes], size: int) -> None:
        self._tokenizer, self._bytes_of, self._size = tokenizer, bytes_of, size
        self._known: dict[frozenset[int], Any] = {}

    def matcher(self, schema: Schema, ends: frozenset[int]) -> Any:
        """llguidance's matcher of a schema; `ends` are the ids that end an answer.

        Raises:
            OptionError: the schema cannot be followed.
            OutlierError: llguidance is not installed.
        """
        try:
            from llguidance import LLMatcher
        except ImportError:
            raise OutlierError(
                "schema needs llguidance, which is not installed: pip install "
                "'outlier-jupyter[structured]'"
            ) from None
        if not ends:
            raise OptionError("schema needs a token that ends an answer, and this model has none")
        try:
            if schema.kind == JSON:
                grammar = LLMatcher.grammar_from_json_schema(schema.text, SPACES)
            else:
                grammar = LLMatcher.grammar_from_regex(schema.text)
            matcher = LLMatcher(self._vocabulary(ends), grammar, log_level=0)
            error = str(matcher.get_error()) if matcher.is_error() else ""
        except Exception as found:  # llguidance raises ValueError, and others for odd types
            error = brief(found)
        if error:
            error = " ".join(error.split())
            raise OptionError(
                f"schema cannot be followed: {error[:150]}; change what it names, or leave it out"
            )
        return matcher

    def _vocabulary(self, ends: frozenset[int]) -> Any:
        if ends not in self._known:
            from llguidance import LLTokenizer
            from llguidance._tokenizer import TokenizerWrapper

            spelled = _Spelled(self._tokenizer, self._bytes_of, self._size, ends)
            self._known[ends] = LLTokenizer(
                TokenizerWrapper(spelled), n_vocab=self._size, eos_token=sorted(ends)
            )
        return self._known[ends]


class _Spelled:
    """A vocabulary in the form that llguidance reads."""

    bos_token_id = None

    def __init__(
        self, tokenizer: Any, bytes_of: Callable[[int], bytes], size: int, ends: frozenset[int]
    ) -> None:
        self._tokenizer = tokenizer
        special = {*ends, *getattr(tokenizer, "all_special_ids", ())}
        special |= set(tokenizer.get_added_vocab().values())
        self.special_token_ids = sorted(each for each in special if each < size)
        self.eos_token_id = min(ends)
        self.tokens = [bytes_of(token) for token in range(size)]

    def __call__(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))


class Constraint:
    """A logits processor that allows only tokens with which the answer can follow the schema.

    It is called before a token is sampled, and again if that is repeated; it counts in generated
    tokens, so that the second call gives the same.

    Args:
        openings: ids that may begin thinking in place of the answer.
    """

    def __init__(
        self,
        matcher: Any,
        answering: Answering,
        generated: Sequence[int],
        openings: Sequence[int] = (),
    ) -> None:
        self._matcher, self._answering = matcher, answering
        self._generated, self._openings = generated, list(openings)
        self._seen = 0
        self._masked = False
        self._begun = False  # once it has, a tag in its text is text

    def begin(self, tokens: Sequence[int]) -> None:
        """The answer begins with these tokens.

        Raises:
            OptionError: no answer of the schema does.
        """
        self._begun = bool(tokens)
        if tokens and not self._matcher.consume_tokens(list(tokens)):
            raise OptionError(
                "the answer begins with a text with which nothing follows the schema: change "
                "prefill_answer or the schema, or leave one out"
            )

    def __call__(self, tokens: mx.array, logits: mx.array) -> mx.array:
        """The logits [1, vocabulary], -inf where a token cannot follow."""
        if len(self._generated) > self._seen:
            self._take(self._generated[-1])
            self._seen = len(self._generated)
        self._masked = self._begun or self._answering()
        if not self._masked:
            return logits
        allowed = mx.array(self.allowed(logits.shape[-1]))
        return mx.where(allowed, logits, -mx.inf)

    def allowed(self, size: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Whether each id may come next, bool [size]."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        found = np.unpackbits(bits, count=min(size, 8 * len(bits)), bitorder="little")
        out = np.zeros(size, np.bool_)
        out[: len(found)] = found
        if not self._seen:
            out[self._openings] = True
        return out

    def _take(self, token: int) -> None:
        opens = self._seen == 0 and token in self._openings
        if self._masked and not opens and not self._matcher.is_stopped():
            self._matcher.consume_token(token)
            self._begun = True
