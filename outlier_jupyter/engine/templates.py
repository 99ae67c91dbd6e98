"""Messages become text by a model's chat template; what a template refuses is one sentence.

Templates are programs that come with a model: they raise what they like. Here is the border to
them. Nothing here encodes, and nothing knows what the messages are for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from ..errors import OptionError, OutlierError, TemplateEndless, TemplateRefused, brief, shown
from ..system.interrupt import within

Message = dict[str, Any]

TEMPLATE_S = 5
"""Seconds that a template may take: it is a program of somebody else's, and need never end."""
CONTROL = re.compile(r"<\|[a-z_]+\|>")
"""Control tokens, as most models write theirs."""
FINAL = re.compile(r"<\|channel\|>\s*final\b[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>")
"""Where the answer proper begins, after what was thought in other channels."""


def has_template(tokenizer: Any) -> bool:
    """Whether the model takes conversations."""
    return bool(tokenizer.has_chat_template)


def templated(tokenizer: Any, messages: Sequence[Message]) -> str:
    """The conversation as the model's chat template writes it.

    A template may refuse an answer of the model's own for the control tokens in it (gpt-oss's
    does). Then answers go back without them.

    Raises:
        TemplateRefused: the template refuses the messages all the same.
        OptionError: the messages hold what is no text, or there is no template to take.
    """
    if not has_template(tokenizer):
        raise OptionError(
            "this model has no chat template, so it takes no messages: give the prompt as a text"
        )
    told = [_plain(number, message) for number, message in enumerate(messages, 1)]
    try:
        return _first_accepted(tokenizer, told)
    except OutlierError:
        raise
    except Exception as refusal:  # a template raises what it likes
        raise _refused(refusal, told) from refusal


def without_refused(
    tokenizer: Any, messages: Sequence[Message], system: str | None
) -> tuple[list[Message], int]:
    """The conversation without the answers that its template refuses, and their questions.

    Args:
        messages: questions and answers in turn, a question at the end, which always stays.

    Returns:
        What is left, and how many answers are not in it.
    """
    *before, last = messages
    first = [] if system is None else [{"role": "system", "content": system}]
    kept: list[Message] = []
    for pair in zip(before[::2], before[1::2], strict=False):
        if _accepts(tokenizer, [*first, *pair, last]):
            kept += pair
    if not _accepts(tokenizer, [*first, *kept, last]):
        kept = []
    return [*kept, last], (len(before) - len(kept)) // 2


def _accepts(tokenizer: Any, messages: list[Message]) -> bool:
    try:
        templated(tokenizer, messages)
    except TemplateRefused:
        return False
    return True


def _first_accepted(tokenizer: Any, told: list[Message]) -> str:
    """What the template makes of the first form of the messages that it takes."""
    refusal: Exception | None = None
    for form in _forms(tokenizer, told):
        try:
            return _apply(tokenizer, form)
        except OutlierError:
            raise
        except Exception as error:
            refusal = refusal or error  # what is told is what it said of the first
    assert refusal is not None
    raise refusal


def _forms(tokenizer: Any, told: list[Message]) -> Iterator[list[Message]]:
    """The messages as a template may want them: the usual form first."""
    read = [_with_arguments(message) for message in told]
    bare = [_without_control(tokenizer, message) for message in read]
    seen: list[list[Message]] = []
    for form in (read, told, bare):
        if form not in seen:
            seen.append(form)
            yield form


def _apply(tokenizer: Any, messages: list[Message]) -> str:
    named: dict[str, Any] = {}
    templates = getattr(tokenizer, "chat_template", None)
    if isinstance(templates, dict) and "default" not in templates:
        if len(templates) != 1:
            names = ", ".join(map(repr, sorted(map(str, templates))))
            raise OptionError(
                f"the model has chat templates named {names[:100]} and none is the default: choose "
                "one with engine.tokenizer.chat_template = engine.tokenizer.chat_template[…]"
            )
        named["chat_template"] = next(iter(templates.values()))
    with within(TEMPLATE_S, TemplateEndless):
        text = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, **named
        )
    if not str(text).strip():
        raise OptionError(
            "the model's chat template makes nothing of these messages: give the prompt as a text "
            "with raw=True, or copy chat_template.jinja from the original model"
        )
    return str(text)


def _refused(refusal: Exception, told: list[Message]) -> TemplateRefused:
    roles = ", ".join(str(message["role"])[:20] for message in told[:4])
    more = ", …" if len(told) > 4 else ""
    return TemplateRefused(
        f"the model's chat template refused the messages ({brief(refusal)}; roles: {roles}{more}): "
        "change them, leave the system message out, or give raw=True"
    )


def _plain(number: int, message: Message) -> Message:
    """A message whose content is a text: parts are joined, and a call of a tool has an empty one.

    Raises:
        OptionError: it is no message, or holds something else than text.
    """
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise OptionError(
            f"{shown(message)} is no message: give a text, or a list of {{'role': …, 'content': …}}"
        )
    if "content" not in message and not message.get("tool_calls"):
        raise OptionError(
            f"message {number} ({message['role'][:20]!r}) has neither content nor tool_calls: give "
            "{'role': …, 'content': …}"
        )
    content = message.get("content")
    if isinstance(content, list | tuple):
        content = "".join(_part(number, part) for part in content)
    elif content is None:
        content = ""
    if not isinstance(content, str):
        raise OptionError(
            f"the content of message {number} is {shown(content, 40)}: give a text, or a list of "
            "{'type': 'text', 'text': …}"
        )
    return message | {"content": content}


def _part(number: int, part: Any) -> str:
    if isinstance(part, dict) and isinstance(part.get("text"), str):
        return str(part["text"])
    kind = part.get("type") if isinstance(part, dict) else part
    raise OptionError(
        f"message {number} holds a part of type {shown(kind, 40)}, and texts alone are read: give "
        "{'type': 'text', 'text': …}"
    )


def content_of(message: Message) -> str:
    """What a message says, in words: its text, or which tools it calls."""
    said = str(_plain(1, message)["content"])
    if said or not isinstance(message.get("tool_calls"), list):
        return said
    calls = [c.get("function") for c in message["tool_calls"] if isinstance(c, dict)]
    return ", ".join(f"{c.get('name')}({c.get('arguments', '')})" for c in calls if
                     isinstance(c, dict))  # fmt: skip


def _with_arguments(message: Message) -> Message:
    """A message whose tool calls have their arguments as templates take them: as an object.

    Callers write them as OpenAI's API does, as JSON in a text; mlx-lm's server reads it as well.
    """
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return message
    return message | {"tool_calls": [_with_object(call) for call in calls]}


def _with_object(call: Any) -> Any:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    try:
        found = json.loads(function["arguments"])
    except (ValueError, RecursionError):
        return call
    return call | {"function": function | {"arguments": found}}


def _without_control(tokenizer: Any, message: Message) -> Message:
    """An answer without control tokens: of several channels the final one alone.

    What was thought in the others is not read again, as their models are trained.
    """
    content = message["content"]
    if message["role"] != "assistant":
        return message
    if "<|channel|>" in content:
        begins = [found.end() for found in FINAL.finditer(content)]
        content = CONTROL.split(content[begins[-1] :], maxsplit=1)[0] if begins else ""
    specials = [str(token) for token in getattr(tokenizer, "all_special_tokens", [])]
    specials += CONTROL.findall(content)
    for word in sorted(filter(None, specials), key=len, reverse=True):
        content = content.replace(word, "")
    return message | {"content": content.strip()}
