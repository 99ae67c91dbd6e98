"""The kind of each prompt token: whose message it is, or the template's.

A chat template is a program, so nothing says which of its text is which message. It is applied once
more, with a mark in place of each message: what stands between the marks is the template's. Where
that text is not the same, as of a template that reads what it is given, each message is searched
for, in order. What is not found stays the template's: this never fails a run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from mlx_lm.generate import TextStateMachine

from ..trace.segments import (
    ANSWER,
    SYSTEM,
    TEMPLATE,
    THINKING,
    TOOL_CALL,
    TOOL_RESULT,
    USER,
    Span,
)
from .dialects import HEADER, NORMAL, REASONING, Dialect, kind_of
from .segments import GeneratedSegments
from .templates import REASONING_FIELDS, Message

KIND_OF_ROLE = {
    "system": SYSTEM, "developer": SYSTEM, "user": USER, "human": USER, "assistant": ANSWER,
    "model": ANSWER, "tool": TOOL_RESULT, "function": TOOL_RESULT, "ipython": TOOL_RESULT,
}  # fmt: skip
Offsets = Sequence[tuple[int, int]]
"""The begin and end of each token in characters."""
MARK = "qX7{}x7Q"
MARKS = re.compile(r"qX7(\d+)x7Q")


class MessageText(NamedTuple):
    """A text of a message, and its kind."""

    text: str
    kind: int


class PromptKinds(NamedTuple):
    """The kinds of a prompt's tokens as codes, and the state in which the answer begins."""

    kinds: bytes
    state: str


def prompt_kinds(
    text: str,
    tokens: Sequence[bytes],
    messages: Sequence[Message] | None,
    render: Callable[[list[Message]], str],
    dialect: Dialect,
    offsets: Callable[[], Offsets] = list,
) -> PromptKinds:
    """The kinds of the tokens of `text`.

    Args:
        tokens: the bytes of each.
        messages: as the template accepted them; None for a raw prompt, which is all the user's.
        render: applies the template to messages.
        offsets: gives the characters of each token, for a tokenizer that normalises the text.
    """
    try:
        if messages is None:
            opened = dialect.has_thinking and text.rstrip().endswith(str(dialect.think_start))
            return PromptKinds(bytes([USER]) * len(tokens), REASONING if opened else NORMAL)
        parts = list(_parts(messages, dialect))
        spans = _aligned(text, messages, parts, render) or list(_searched(text, parts))
        spans = [*spans, *_calls(text, spans, messages, dialect)]
        end = max((end for _, _, end in spans), default=0)
        return PromptKinds(
            _of_tokens(text, tokens, spans, offsets), _state_after(text[end:], dialect)
        )
    except Exception:  # a template may raise anything, at any time
        return PromptKinds(bytes([TEMPLATE]) * len(tokens), dialect.initial)


def _parts(messages: Sequence[Message], dialect: Dialect) -> Iterator[tuple[int, str, MessageText]]:
    """Every text of the messages in order: the message's number, its field, and the text."""
    for number, message in enumerate(messages):
        kind = KIND_OF_ROLE.get(str(message.get("role")), TEMPLATE)
        content = str(message.get("content") or "")
        if kind != ANSWER:
            yield number, "content", MessageText(content, kind)
            continue
        reasoning = next((message[f] for f in REASONING_FIELDS if message.get(f)), "")
        if isinstance(reasoning, str) and reasoning:
            yield number, "reasoning", MessageText(reasoning, THINKING)
        for piece in split(content, dialect):
            yield number, "reasoning" if piece.kind == THINKING else "content", piece


def split(content: str, dialect: Dialect) -> list[MessageText]:
    """An answer's text in its parts: thinking, answer and tool calls, without tags.

    An answer that begins after its opening tag, which the template wrote, is split all the same.
    """
    begins = kind_of(dialect.initial) == ANSWER or "<|message|>" in content
    state = dialect.initial if begins else NORMAL
    end = dialect.think_end
    if end and end in content and str(dialect.think_start) not in content.partition(end)[0]:
        state = REASONING
    segments = GeneratedSegments(dialect, state)
    segments.add(content)
    segments.finish()
    return [MessageText(content[begin:end], kind) for kind, begin, end in segments.spans(content)]


def _aligned(
    text: str,
    messages: Sequence[Message],
    parts: Sequence[tuple[int, str, MessageText]],
    render: Callable[[list[Message]], str],
) -> list[Span]:
    """The spans of the parts by marks in their place; empty if the template's text differs then."""
    marked = [dict(message) for message in messages]
    for at, (number, name, part) in enumerate(parts):
        mark = MARK.format(at) if part.text else ""
        again = [p for n, f, p in parts[:at] if (n, f) == (number, name)]
        if again or MARKS.search(part.text):
            return []  # several parts of one field: the text between them is not known
        for field in REASONING_FIELDS if name == "reasoning" else ("content",):
            marked[number][field] = mark
        if name == "reasoning" and not any((n, f) == (number, "content") for n, f, _ in parts):
            marked[number]["content"] = ""
    pieces = MARKS.split(render(marked))
    spans: list[Span] = []
    at = len(pieces[0])
    if not text.startswith(pieces[0]):
        return []
    for mark, after in zip(pieces[1::2], pieces[2::2], strict=True):
        part = parts[int(mark)][2]
        found = next(
            (form for form in _forms(part.text) if text.startswith(form + after, at)), None
        )
        if found is None:
            return []
        spans.append((part.kind, at, at + len(found)))
        at += len(found) + len(after)
    return spans if at == len(text) else []


def _forms(text: str) -> Iterator[str]:
    """How templates write a text: as it is, without space around it, or as JSON."""
    yield from (
        text,
        text.strip(),
        text.strip("\n"),
        text.lstrip("\n"),
        text.lstrip(),
        text.rstrip(),
    )
    yield json.dumps(text, ensure_ascii=False)
    yield json.dumps(text)


def _searched(text: str, parts: Sequence[tuple[int, str, MessageText]]) -> Iterator[Span]:
    at = 0
    for _, _, part in parts:
        for form in _forms(part.text):
            begin = text.find(form, at) if form else -1
            if begin >= 0:
                at = begin + len(form)
                yield part.kind, begin, at
                break


def _calls(
    text: str, spans: Sequence[Span], messages: Sequence[Message], dialect: Dialect
) -> Iterator[Span]:
    """The tool calls that the template wrote, after the first question."""
    if not any(message.get("tool_calls") for message in messages):
        return
    ordered = sorted(spans, key=lambda span: span[1])
    ends = [end for kind, _, end in ordered if kind == USER]
    begins = [begin for _, begin, _ in ordered]
    for end in [each for _, _, each in ordered if ends and each >= ends[0]]:
        until = next((begin for begin in begins if begin >= end), len(text))
        segments = GeneratedSegments(dialect, dialect.initial)
        segments.add(text[end:until])
        segments.finish()
        for kind, first, last in segments.spans(text[end:until]):
            if kind == TOOL_CALL:
                yield kind, end + first, end + last


def _state_after(tail: str, dialect: Dialect) -> str:
    """The machine's state after the template's last text."""
    state, _ = TextStateMachine.split(dialect.machine().make_state(dialect.initial), tail)
    return dialect.initial if state[0] == HEADER else str(state[0])


def _of_tokens(
    text: str, tokens: Sequence[bytes], spans: Sequence[Span], offsets: Callable[[], Offsets]
) -> bytes:
    """The kinds of tokens; a token of a tag and of a message is the message's."""
    of_sign = bytearray(len(text))
    for kind, begin, end in spans:
        of_sign[begin:end] = bytes([kind]) * (end - begin)
    data, whole = text.encode("utf-8", "replace"), b"".join(tokens)
    if whole not in (data, b" " + data):  # a normaliser changed what the tokenizer read
        known = offsets()
        if len(known) == len(tokens):
            return bytes(_first(of_sign[begin:end]) for begin, end in known)
    of_byte = bytes(of_sign)
    if not text.isascii():
        widths = [len(sign.encode("utf-8", "replace")) for sign in text]
        of_byte = b"".join(
            bytes([kind]) * width for kind, width in zip(of_sign, widths, strict=True)
        )
    at = min(len(data) - len(whole), 0)  # a SentencePiece vocabulary begins with a space
    out = bytearray()
    for token in tokens:
        out.append(_first(of_byte[max(at, 0) : max(at + len(token), 0)]))
        at += len(token)
    return bytes(out)


def _first(kinds: bytes | bytearray) -> int:
    """The first kind that is not the template's."""
    mine = kinds.lstrip(b"\0")
    return mine[0] if mine else TEMPLATE
