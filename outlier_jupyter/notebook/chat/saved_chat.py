"""The form of a chat in a saved notebook, with no kernel and no script: HTML, Markdown and text.

A widget without a kernel shows nothing, and no front end falls back to another form of the same
output. So the chat has a second output beside its widget. The chat keeps it up to date, and the
widget hides it while it is alive. The functions are pure: conversations in, MIME bundle out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html import escape
from typing import Any

from ...formatting import count, percent, size_words, three
from ..render.static.page import ROOT, STYLE
from .conversations import ASSISTANT, RUNNING, Conversation, Conversations, Message
from .tool_calls import DONE, FAILED, PROPOSED, REFUSED, WORKING
from .view_state import newest

KEPT_CHARS = 100_000
"""Characters kept of all conversations; the notebook contains them three times."""

ENDED = {
    RUNNING: "being written when this was saved",
    "length": "cut off at the token limit",
    "interrupted": "stopped",
    "error": "failed",
}

DECIDED = {
    PROPOSED: "not decided",
    WORKING: "running when this was saved",
    DONE: "done",
    FAILED: "failed",
    REFUSED: "refused",
}

MARKUP = re.compile(r"[!-/:-@\[-`{-~]")
"""Characters that may be markup in Markdown; all may be escaped."""
SPACES = re.compile(r"\s+")


@dataclass(frozen=True)
class Shown:
    """The shown part of one conversation: the end of its chosen path."""

    conversation: Conversation
    messages: list[Message]

    @property
    def notes(self) -> list[str]:
        """The number of messages, and which are not shown."""
        whole = len(self.conversation.path())
        left_out, others = whole - len(self.messages), len(self.conversation.messages) - whole
        out = [_counted(whole, "message")]
        out += [f"the first {left_out:,} are not shown"] if left_out else []
        out += [f"{_counted(others, 'message')} of other versions not shown"] if others else []
        return out


def bundle(model: str, conversations: Conversations) -> dict[str, str]:
    """All conversations, the current one first, as text/html, text/markdown and text/plain.

    The newest messages of the current one come first, then the others until `KEPT_CHARS`.

    Args:
        model: the model's name.
    """
    shown = _fitting(conversations)
    if not shown:
        return {"text/html": "", "text/plain": ""}
    left_out = sum(
        bool(conversation.messages) for conversation in conversations.by_id.values()
    ) - len(shown)
    notes = ["chat"]
    notes += [_counted(len(shown), "conversation")] if len(shown) > 1 else shown[0].notes
    notes += [f"{_counted(left_out, 'more conversation')} not shown"] if left_out else []
    return {
        "text/html": _html(model, notes, shown),
        "text/markdown": _markdown(model, notes, shown),
        "text/plain": "\n\n".join(_plain(shown)),
    }


def _fitting(conversations: Conversations) -> list[Shown]:
    others = [
        each for each in reversed(conversations.by_id.values()) if each is not conversations.current
    ]
    room, out = KEPT_CHARS, []
    for each in (conversations.current, *others):
        path = each.path()
        if not path or (each is not conversations.current and path[-1].chars > room):
            continue
        messages = newest(path, max(room, 0))
        room -= sum(message.chars for message in messages)
        out.append(Shown(each, messages))
    return out


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"


def _how_to_go_on(model: str) -> str:
    return (
        f"To continue, run the cell that loads {model}, then this cell again. With "
        "Chat(engine, file=…) all conversations come back; chat.load(path) adds those of a file."
    )


def _author(message: Message) -> str:
    return "Answer" if message.role == ASSISTANT else "You"


@dataclass(frozen=True)
class MessagePart:
    """A part of a message: its thinking, its text (without a label), or a tool call."""

    label: str
    text: str


def _parts(message: Message) -> list[MessagePart]:
    """The thinking, if any, the text, and the tool calls with their results."""
    thinking = message.thinking.get("text", "")
    out = [MessagePart(thought(message.thinking), thinking)] if thinking else []
    out.append(MessagePart("", message.text or ("" if message.tool_calls else "(no text)")))
    for call in message.tool_calls:
        arguments = ", ".join(
            f"{name}={json.dumps(value, ensure_ascii=False)}"
            for name, value in call.arguments.items()
        )
        written = f"{call.name or 'unreadable'}({arguments})"
        out.append(
            MessagePart(f"Tool call, {DECIDED[call.state]}", f"{written}\n{call.result}".strip())
        )
    return out


def thought(thinking: dict[str, Any]) -> str:
    """The line above a model's thinking; "" without any."""
    if not thinking:
        return ""
    tokens = count(round(thinking["tokens"]), "token")
    return f"Thought for {three(thinking['seconds'])} s · {tokens}"


def _annotation(message: Message, form: str, write: Callable[[str], str] = str) -> str:
    """Format an answer's numbers, ending and note with `form`; `write` escapes the note."""
    numbers, labels = message.numbers, []
    if "generated" in numbers:
        labels.append(f"{numbers['generated']:,.0f} tokens")
    if "tokens_per_second" in numbers:
        labels.append(f"{three(numbers['tokens_per_second'])} tokens/s")
    labels += [
        f"hit rate in {phase} {percent(numbers[name])}"
        for phase in ("decode", "prefill")
        if (name := f"{phase}_hit_rate") in numbers
    ]
    labels += [f"{size_words(numbers['bytes_read'])} read"] if "bytes_read" in numbers else []
    labels += [ENDED[message.ended]] if message.ended in ENDED else []
    labels += [write(message.note)] if message.note else []
    return form.format(" · ".join(labels)) if labels else ""


def _html(model: str, notes: list[str], shown: list[Shown]) -> str:
    head = " · ".join(notes)
    parts = [
        f'<div class="{ROOT} oj-transcript"><style>{STYLE}</style>',
        f'<p class="oj-head"><strong>{escape(model)}</strong> '
        f'<span class="oj-soft">{escape(head)}</span></p>',
    ]
    for index, each in enumerate(shown):
        blocks = (
            [_block("System prompt", each.conversation.system)] if each.conversation.system else []
        )
        for message in each.messages:
            label = _author(message) + escape(_annotation(message, " · {}"))
            blocks += [_html_part(part, label) for part in _parts(message)]
        if len(shown) > 1:
            title = " · ".join([each.conversation.label, *each.notes])
            opened = "" if index else " open"
            blocks = [
                f"<details{opened}><summary>{escape(title)}</summary>", *blocks, "</details>",
            ]  # fmt: skip
        parts += blocks
    parts.append(f'<p class="oj-soft">{escape(_how_to_go_on(model))}</p>')
    return "\n".join([*parts, "</div>"])


def _html_part(part: MessagePart, label: str) -> str:
    """The text under the message's label; thinking and tool calls are folded, as in the chat."""
    if not part.label:
        return _block(label, part.text)
    return f"<details><summary>{escape(part.label)}</summary>{_block('', part.text)}</details>"


def _block(label: str, text: str) -> str:
    # The attribute also works in hosts that drop <style>.
    pre = f'<pre style="white-space:pre-wrap">{escape(text)}</pre>'
    return f'<span class="oj-label">{label}</span>{pre}'


def _markdown(model: str, notes: list[str], shown: list[Shown]) -> str:
    parts = [f"**{_inline(model)}** · {' · '.join(notes)}"]
    for each in shown:
        if len(shown) > 1:
            parts.append(f"**{_inline(each.conversation.label)}** · {' · '.join(each.notes)}")
        if each.conversation.system:
            parts.append(f"*System prompt*\n\n{code_block(each.conversation.system)}")
        for message in each.messages:
            head = f"**{_author(message)}**{_annotation(message, ' · {}', _inline)}"
            for part in _parts(message):
                block = code_block(part.text) if part.text else ""
                if part.label:
                    # Folded where a renderer takes these tags; the label is ours as well.
                    head_of = f"<details><summary>{escape(part.label)}</summary>"
                    block = f"{head_of}\n\n{block}\n\n</details>"
                parts += [block] if part.label else [head, block]
    return "\n\n".join(filter(None, [*parts, _inline(_how_to_go_on(model))]))


def _plain(shown: list[Shown]) -> Iterator[str]:
    for each in shown:
        if len(shown) > 1:
            yield f"{each.conversation.label} ({', '.join(each.notes)})"
        for message in each.messages:
            for part in _parts(message):
                if part.label:
                    yield f"{part.label}: {part.text}"
                else:
                    yield f"{_author(message)}: {part.text}{_annotation(message, ' [{}]')}"


def _inline(text: str) -> str:
    """Escape text to one line without markup: no tag, link, image or formula."""
    return MARKUP.sub(r"\\\g<0>", SPACES.sub(" ", text))


def code_block(text: str) -> str:
    """Quote text as a code block, which renderers show unchanged.

    The fence is longer than any run of its character in the text, so the text cannot end it. All
    kinds of line breaks become line feeds.
    """
    lines = text.splitlines() or ["(no text)"]
    runs = {mark: max((len(r) for r in re.findall(f"{mark}+", text)), default=0) for mark in "`~"}
    mark = min("`~", key=lambda each: runs[each])
    fence = mark * max(3, runs[mark] + 1)
    return "\n".join([f"{fence}text", *lines, fence])
