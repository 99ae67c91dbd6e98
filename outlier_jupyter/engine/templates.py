"""Applies a model's chat template to messages; a refusal becomes one of our errors.

A template is a program that comes with the model and may raise anything: this module is the border
to it. It encodes nothing.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ..errors import OptionError, OutlierError, TemplateEndless, TemplateRefused, brief, shown
from ..system.interrupt import within
from .bounded_templates import install, watched

Message = dict[str, Any]

TEMPLATE_S = 5
"""The most seconds that a template may take: it is foreign code and may never end."""
REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking")
"""Where messages have an answer's thinking: templates and mlx-lm's server use different names."""
NO_TOOLS = (
    "this model's chat template takes no tools{}: choose a model that was trained to call them, or "
    "leave tools out"
)
CONTROL = re.compile(r"<\|[a-z_]+\|>")
"""Control tokens in the form that most models use."""
FINAL = re.compile(r"<\|channel\|>\s*final\b[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>")
"""The begin of the answer itself, after the reasoning in other channels."""


class Rendered(NamedTuple):
    """A conversation as `text`, and the form of its messages that the template accepted."""

    text: str
    messages: list[Message]


def has_template(tokenizer: Any) -> bool:
    """Whether the model takes conversations."""
    return bool(tokenizer.has_chat_template)


def templated(
    tokenizer: Any, messages: Sequence[Message], variables: Mapping[str, Any] | None = None
) -> str:
    """The text of `rendered`."""
    return rendered(tokenizer, messages, variables).text


def rendered(
    tokenizer: Any, messages: Sequence[Message], variables: Mapping[str, Any] | None = None
) -> Rendered:
    """The conversation as text, by the model's chat template.

    The thinking of an answer is in `reasoning_content`, `reasoning` or `thinking`, or between tags
    in its content: the template decides whether the model reads it again. A template may refuse the
    model's own answers for their control tokens (gpt-oss's does). Then the answers are passed
    without them.

    Args:
        variables: of the template, besides the messages.

    Raises:
        TemplateRefused: the template refuses the messages in every form.
        OptionError: a message holds something other than text, or there is no template.
    """
    if not has_template(tokenizer):
        raise OptionError(
            "this model has no chat template, so it takes no messages: give the prompt as a text"
        )
    messages = [_plain(number, message) for number, message in enumerate(messages, 1)]
    try:
        return _first_accepted(tokenizer, messages, variables or {})
    except OutlierError:
        raise
    except Exception as refusal:  # a template may raise anything
        raise _refused(refusal, messages) from refusal


def check_takes_tools(tokenizer: Any, tools: Sequence[dict[str, Any]]) -> None:
    """Raises OptionError: the chat template has no place for the schemas of `tools`.

    Such a template gives the same text with them as without, or fails.
    """
    question = [{"role": "user", "content": "?"}]
    plain = templated(tokenizer, question)
    try:
        taken = _first_accepted(tokenizer, question, {"tools": list(tools)}).text != plain
    except OutlierError:
        raise
    except Exception as error:  # a template may raise anything
        raise OptionError(NO_TOOLS.format(f" ({brief(error)})")) from error
    if not taken:
        raise OptionError(NO_TOOLS.format(""))


def without_refused(
    tokenizer: Any,
    messages: Sequence[Message],
    system: str | None,
    variables: Mapping[str, Any] | None = None,
) -> tuple[list[Message], int]:
    """The conversation without the answers that the template refuses, and their questions.

    Args:
        messages: questions and answers in turn; the last question always stays, with what
            follows it.

    Returns:
        The remaining messages, and the number of dropped answers.
    """
    first = [] if system is None else [{"role": "system", "content": system}]
    begins = [at for at, message in enumerate(messages) if message["role"] == "user"]
    # What follows the last question is the answer under way: it stays.
    pairs = [list(messages[at:end]) for at, end in itertools.pairwise(begins)]
    last = list(messages[begins[-1] :])
    kept = [pair for pair in pairs if _accepts(tokenizer, [*first, *pair, *last], variables)]
    if not _accepts(tokenizer, [*first, *itertools.chain(*kept), *last], variables):
        kept = []
    return [*itertools.chain(*kept), *last], len(pairs) - len(kept)


def _accepts(tokenizer: Any, messages: list[Message], variables: Mapping[str, Any] | None) -> bool:
    try:
        templated(tokenizer, messages, variables)
    except TemplateRefused:
        return False
    return True


def _first_accepted(
    tokenizer: Any, messages: list[Message], variables: Mapping[str, Any]
) -> Rendered:
    """The template's text for the first form of the messages that it accepts."""
    refusal: Exception | None = None
    for form in _forms(tokenizer, messages):
        try:
            return Rendered(apply(tokenizer, form, variables), form)
        except OutlierError:
            raise
        except Exception as error:
            refusal = refusal or error  # the error for the first form is reported
    assert refusal is not None
    raise refusal


def _forms(tokenizer: Any, messages: list[Message]) -> Iterator[list[Message]]:
    """The forms of the messages that templates accept, the usual one first."""
    read = [_with_arguments(_with_reasoning(message)) for message in messages]
    silent = [_without_content(message) for message in read]
    written = [_with_written_arguments(message) for message in messages]
    bare = [_without_control(tokenizer, message) for message in read]
    seen: list[list[Message]] = []
    for form in (read, messages, silent, written, bare):
        if form not in seen:
            seen.append(form)
            yield form


def apply(tokenizer: Any, messages: list[Message], variables: Mapping[str, Any]) -> str:
    """The template's text for exactly these messages; it may raise anything."""
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
    install()
    with watched() as grown, within(TEMPLATE_S, TemplateEndless, grown):
        text = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, **named, **variables
        )
    if not str(text).strip():
        raise OptionError(
            "the model's chat template gives no text for these messages: give the prompt as a text "
            "with raw=True, or copy chat_template.jinja from the original model"
        )
    return str(text)


def _refused(refusal: Exception, messages: list[Message]) -> TemplateRefused:
    roles = ", ".join(str(message["role"])[:20] for message in messages[:4])
    more = ", …" if len(messages) > 4 else ""
    return TemplateRefused(
        f"the model's chat template refused the messages ({brief(refusal)}; roles: {roles}{more}): "
        "change them, leave the system message out, or give raw=True"
    )


def _plain(number: int, message: Message) -> Message:
    """The message with its content as one text: parts are joined, a tool call's content is empty.

    Raises:
        OptionError: it is no message, or holds something other than text.
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
        f"message {number} holds a part of type {shown(kind, 40)}, and only texts can be read: "
        "give {'type': 'text', 'text': …}"
    )


def content_of(message: Message) -> str:
    """A message's text, or the tool calls in it as text."""
    text = str(_plain(1, message)["content"])
    if text or not isinstance(message.get("tool_calls"), list):
        return text
    calls = [c.get("function") for c in message["tool_calls"] if isinstance(c, dict)]
    return ", ".join(f"{c.get('name')}({c.get('arguments', '')})" for c in calls if
                     isinstance(c, dict))  # fmt: skip


def _with_reasoning(message: Message) -> Message:
    """An answer with its thinking under each of the names that templates read."""
    known = [message[name] for name in REASONING_FIELDS if message.get(name)]
    if message["role"] != "assistant" or not known or not isinstance(known[0], str):
        return message
    return message | dict.fromkeys(REASONING_FIELDS, known[0])


def _without_content(message: Message) -> Message:
    """A call without the text before it: gpt-oss's template takes that or thinking, not both."""
    both = message.get("tool_calls") and any(message.get(name) for name in REASONING_FIELDS)
    return message | {"content": ""} if both else message


def _with_arguments(message: Message) -> Message:
    """The message with the arguments of its tool calls as objects, which templates expect.

    OpenAI's API has them as JSON text; mlx-lm's server parses it too.
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
        arguments = json.loads(function["arguments"])
    except (ValueError, RecursionError):
        return call
    return call | {"function": function | {"arguments": arguments}}


def _with_written_arguments(message: Message) -> Message:
    """The message with the arguments of its tool calls as JSON text, as some templates expect."""
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return message
    return message | {"tool_calls": [_with_text(call) for call in calls]}


def _with_text(call: Any) -> Any:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), dict):
        return call
    try:
        arguments = json.dumps(function["arguments"], ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        return call
    return call | {"function": function | {"arguments": arguments}}


def _without_control(tokenizer: Any, message: Message) -> Message:
    """The answer without control tokens; of several channels only the final one.

    Models with channels are trained not to read their earlier reasoning again.
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
