"""The bytes of each token id, and text from ids: at once or as they come.

One character may be several tokens, so text is assembled from bytes. The way a vocabulary writes a
space shows how it writes bytes: byte-level vocabularies "Ġ", SentencePiece's "▁". A model folder
may declare the decoder of another vocabulary; `repair_decoding` replaces it. Ids that the tokenizer
does not know (gaps, and padding of the vocabulary's size) have no bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from mlx_lm.tokenizer_utils import StreamingDetokenizer, TokenizerWrapper
from tokenizers import decoders
from transformers.convert_slow_tokenizer import bytes_to_unicode

from ..runs.text_stream import Utf8

PROBE = "a b"
BYTE_LEVEL, SENTENCE_PIECE, BYTES, OTHER = "byte-level", "SentencePiece", "bytes", "other"
BYTE = re.compile("<0x([0-9A-Fa-f]{2})>")
"""SentencePiece's token for a byte that is no character of its vocabulary."""


class Vocabulary:
    """The token ids of `tokenizer`, mlx-lm's wrapper.

    Attributes:
        size: one more than the largest known id.
        spelling: how it writes bytes: `BYTE_LEVEL`, `SENTENCE_PIECE`, `BYTES` or `OTHER`.
    """

    def __init__(self, tokenizer: TokenizerWrapper) -> None:
        self._tokenizer: Any = tokenizer
        self.size = 1 + max(tokenizer.get_vocab().values(), default=-1)
        self.spelling = self._spelling()
        added = getattr(tokenizer, "added_tokens_decoder", None) or {}
        self._added = {int(token): str(text) for token, text in added.items()}
        self._known: dict[int, bytes] = {}

    def bytes_of(self, token: int) -> bytes:
        """An id's bytes: UTF-8, or part of a character's; empty for an unknown id."""
        if not 0 <= token < self.size:
            return b""
        if token not in self._known:
            self._known[token] = self._spelt(token)
        return self._known[token]

    def _spelling(self) -> str:
        try:
            ids = self._tokenizer.encode(PROBE, add_special_tokens=False)
            tokens = self._tokenizer.convert_ids_to_tokens(ids)
            if any(isinstance(token, bytes) for token in tokens):
                return BYTES
            spelt = "".join(token for token in tokens if token is not None)
        except Exception:  # a tokenizer may be foreign code
            return OTHER
        return BYTE_LEVEL if "Ġ" in spelt else SENTENCE_PIECE if "▁" in spelt else OTHER

    def _spelt(self, token: int) -> bytes:
        if token in self._added:
            return self._added[token].encode("utf-8", "replace")
        try:
            if self.spelling == OTHER:
                return str(self._tokenizer.decode([token])).encode("utf-8", "replace")
            (text,) = self._tokenizer.convert_ids_to_tokens([token])
        except Exception:
            return b""
        if text is None or isinstance(text, bytes):
            return text or b""
        if self.spelling == BYTE_LEVEL:
            return b"".join(ALPHABET.get(sign) or sign.encode("utf-8", "replace") for sign in text)
        if byte := BYTE.fullmatch(text):
            return bytes.fromhex(byte[1])
        return str(text).replace("▁", " ").encode("utf-8", "replace")


ALPHABET = {sign: bytes([byte]) for byte, sign in bytes_to_unicode().items()}
"""The character of byte-level vocabularies → its byte."""


class ByteDetokenizer(StreamingDetokenizer):  # type: ignore[misc]  # mlx-lm has no types
    """Decodes tokens as they come, with mlx-lm's interface; drops a leading space if `trim`.

    Bytes that cannot become a character are written as U+FFFD. mlx-lm's own detokenizers (0.32)
    fail on gaps, on byte 0 and at the end of a broken character, and write "!" for unknown ids.
    """

    def __init__(self, bytes_of: Callable[[int], bytes], trim: bool) -> None:
        self._bytes_of, self._trim = bytes_of, trim
        self.reset()

    def reset(self) -> None:
        """Forget all ids."""
        self.offset, self.text = 0, ""
        self.tokens: list[int] = []
        self._decoder = Utf8("replace")

    def add_token(self, token: int) -> None:
        """Add one id's text."""
        self.tokens.append(token)
        self._add(self._decoder.decode(self._bytes_of(token)))

    def finalize(self) -> None:
        """Add the rest of the text: no id follows."""
        self._add(self._decoder.decode(b"", True))

    def _add(self, text: str) -> None:
        if self._trim and not self.text:
            text = text.removeprefix(" ")
        self.text += text


def repair_decoding(tokenizer: TokenizerWrapper) -> None:
    """Make `tokenizer` decode by its vocabulary's spelling, at once and as tokens come."""
    vocabulary = Vocabulary(tokenizer)
    if vocabulary.spelling == OTHER:
        return
    _repair_decoder(tokenizer, vocabulary.spelling)
    # mlx-lm's own detokenizer of byte-level vocabularies drops a space that begins the text: the
    # tokenizer's decoding has it, and a text that is continued needs it.
    trims = vocabulary.spelling != BYTE_LEVEL
    trim = trims and getattr(tokenizer._detokenizer, "trim_space", True)
    tokenizer._detokenizer = ByteDetokenizer(vocabulary.bytes_of, trim)


def _repair_decoder(tokenizer: Any, spelling: str) -> None:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or spelling == BYTES:
        return
    ids = tokenizer.encode(PROBE, add_special_tokens=False)
    if tokenizer.decode(ids).strip() == PROBE:
        return
    if spelling == BYTE_LEVEL:
        backend.decoder = decoders.ByteLevel()
    else:
        written = (decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse())
        backend.decoder = decoders.Sequence(list(written))
