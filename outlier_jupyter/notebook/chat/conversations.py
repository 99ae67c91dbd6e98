"""Conversations as plain data: trees of messages, and their file format.

Editing a question, or regenerating an answer, adds a sibling and keeps the old version. So a
conversation is a tree, and the visible messages are the path along the chosen children. The file is
JSON with a version. This module knows no model, widget or thread.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from ...errors import OptionError, brief, shown
from ...trace.metadata import mended
from ...values import checked, integer
from .tool_calls import FAILED, STATES, WORKING, ToolCall

FORMAT = "outlier_jupyter chat"
VERSION = 2
READABLE = (1, VERSION)
"""Version 1 has no thinking and no tool calls."""

ROOT = 0
"""The parent of a conversation's first messages; no message has this id."""
USER = "user"
ASSISTANT = "assistant"
ROLES = (USER, ASSISTANT)
RUNNING = "running"
ENDS = ("", RUNNING, "stop", "length", "interrupted", "error")
OF_LOST = "The chat was closed while this call ran, so its result is unknown."
TITLE_CHARS = 48
LARGEST_NUMBER = 2**53
"""JavaScript cannot represent larger integers exactly; no run reaches them."""


@dataclass
class Message:
    """One message of a tree.

    Attributes:
        id: its number in the conversation, from 1.
        parent: the message it follows, or `ROOT`.
        role: `user` or `assistant`.
        text: the message, possibly Markdown.
        ended: why an answer ended (its run's `finish_reason`), or `running`; "" for questions.
        note: a sentence about an error, if any.
        numbers: of the answer's run: token counts, speed, and its number for `Chat.run`.
        thinking: what the model wrote before its answer: `text`, `seconds`, `tokens`; or {}.
        tool_calls: in the answer, with their results. The answer that goes on from them follows it.
    """

    id: int
    parent: int
    role: str
    text: str
    ended: str = ""
    note: str = ""
    numbers: dict[str, float] = field(default_factory=dict)
    thinking: dict[str, Any] = field(default_factory=dict)
    tool_calls: list[ToolCall] = field(default_factory=list)

    @property
    def chars(self) -> int:
        """The characters of its text, thinking and tool results: about what it takes to show."""
        results = sum(len(call.result) for call in self.tool_calls)
        return len(self.text) + len(self.thinking.get("text", "")) + results

    def call(self, number: str) -> ToolCall:
        """The tool call with this id.

        Raises:
            OptionError: there is no such call.
        """
        for each in self.tool_calls:
            if each.id == number:
                return each
        raise OptionError(f"there is no tool call {shown(number)} in message {self.id}")


@dataclass
class Conversation:
    """A tree of messages and the chosen path through it.

    Attributes:
        title: given by the user, or ""; `label` is the text to show.
        system: the system message, "" for none.
        messages: by id; a parent comes before its children.
        chosen: the child on the path, for each parent.
    """

    id: int
    title: str = ""
    system: str = ""
    messages: dict[int, Message] = field(default_factory=dict)
    chosen: dict[int, int] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The title, or the start of the first question."""
        path = self.path()
        words = self.title or (" ".join(path[0].text.split()) if path else "")
        short = words if len(words) <= TITLE_CHARS else words[: TITLE_CHARS - 1].rstrip() + "…"
        return short or f"Conversation {self.id}"

    @property
    def end(self) -> int:
        """The id of the last message on the path, or `ROOT`."""
        path = self.path()
        return path[-1].id if path else ROOT

    @property
    def end_answered(self) -> int:
        """The id of the last answer, or `ROOT`: the parent of the next question."""
        last = self.messages.get(self.end)
        return last.parent if last is not None and last.role == USER else self.end

    def add(self, parent: int, role: str, text: str = "", ended: str = "") -> Message:
        """Add a message under `parent` and choose the path through it."""
        message = Message(max(self.messages, default=ROOT) + 1, parent, role, text, ended)
        self.messages[message.id] = message
        self.choose(message.id)
        return message

    @checked(number=integer)
    def get(self, number: int) -> Message:
        """The message with this id.

        Raises:
            OptionError: there is no such message.
        """
        if number not in self.messages:
            raise OptionError(f"there is no message {number!r} in {self.label!r}")
        return self.messages[number]

    def children(self, parent: int) -> list[Message]:
        """The messages that follow `parent`, oldest first."""
        return [message for message in self.messages.values() if message.parent == parent]

    def choose(self, number: int) -> None:
        """Choose the path through this message; below it the last chosen path continues."""
        message: Message | None = self.get(number)
        while message is not None:
            self.chosen[message.parent] = message.id
            message = self.messages.get(message.parent)

    def path(self) -> list[Message]:
        """The messages on the chosen path, first to last."""
        path, at = [], self.chosen.get(ROOT)
        while at is not None:
            path.append(self.messages[at])
            at = self.chosen.get(at)
        return path

    def until(self, number: int) -> list[Message]:
        """The messages from the first one to this one, on any path."""
        out: list[Message] = []
        message = self.messages.get(number)
        while message is not None:
            out.append(message)
            message = self.messages.get(message.parent)
        return out[::-1]


class Conversations:
    """Several conversations, one of them current; there is always at least one."""

    def __init__(self) -> None:
        self.by_id: dict[int, Conversation] = {}
        self.current = self.new()

    def new(self, system: str = "") -> Conversation:
        """Add an empty conversation and make it current."""
        self.current = Conversation(max(self.by_id, default=0) + 1, system=system)
        self.by_id[self.current.id] = self.current
        return self.current

    @checked(number=integer)
    def get(self, number: int) -> Conversation:
        """The conversation with this id.

        Raises:
            OptionError: there is no such conversation.
        """
        if number not in self.by_id:
            raise OptionError(
                f"there is no conversation {number!r}: they are {', '.join(map(str, self.by_id))}"
            )
        return self.by_id[number]

    def delete(self, number: int) -> None:
        """Remove a conversation; if it was current, the newest other one becomes current."""
        deleted = self.get(number)
        del self.by_id[number]
        if not self.by_id:
            self.new()
        elif deleted is self.current:
            self.current = self.by_id[max(self.by_id)]

    def dumps(self) -> str:
        """All conversations as JSON."""
        content = {
            "format": FORMAT,
            "version": VERSION,
            "current": self.current.id,
            "conversations": [_to_record(each) for each in self.by_id.values()],
        }
        return json.dumps(content, ensure_ascii=False, indent=1)

    def add_from(self, text: str) -> None:
        """Add the conversations of a file to these; its current one becomes current.

        Raises:
            OptionError: the text is not a chat file of this version; nothing is added.
        """
        current, loaded = _parse(text)
        # An untouched empty conversation is replaced.
        if len(self.by_id) == 1 and self.current == Conversation(self.current.id):
            self.by_id.clear()
        free = max(self.by_id, default=0) + 1
        for number, each in enumerate(loaded, free):
            if each.id == current:
                self.current = each
            each.id = number
            self.by_id[number] = each


def _to_record(conversation: Conversation) -> dict[str, Any]:
    """A conversation as JSON: lists of records, no numeric keys."""
    return {
        "id": conversation.id,
        "title": conversation.title,
        "system": conversation.system,
        "messages": [asdict(message) for message in conversation.messages.values()],
        "chosen": sorted(conversation.chosen.values()),
    }


def _parse(text: str) -> tuple[int, list[Conversation]]:
    """Parse a chat file into the id of its current conversation and all conversations.

    The ids in a file only link its records. Messages are renumbered as `Conversation.add` does.
    """
    try:
        content = mended(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise OptionError(f"this is not a chat file, it is not JSON: {brief(error)}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise OptionError('this is not a chat file: it lacks `"format": "outlier_jupyter chat"`')
    if content.get("version") not in READABLE:
        raise OptionError(
            f"this chat file has version {shown(content.get('version'))}, and this "
            f"version of outlier-jupyter reads {VERSION}: update it"
        )
    try:
        loaded = [_conversation(each) for each in content["conversations"]]
        current = content["current"]
        _require(current in [each.id for each in loaded], "no conversation is current")
        _require(len({each.id for each in loaded}) == len(loaded), "two conversations share an id")
    except (KeyError, TypeError, AttributeError) as error:
        raise OptionError(f"this chat file is damaged: {brief(error)} in its records") from None
    return current, loaded


def _conversation(record: dict[str, Any]) -> Conversation:
    out = Conversation(_integer(record["id"]), _text(record["title"]), _text(record["system"]))
    known = {ROOT: ROOT}
    for each in record["messages"]:
        message = _message(each)
        _require(message.id not in known, f"two messages are number {shown(message.id)}")
        _require(message.parent in known, "a message follows none")
        known[message.id] = len(known)
        message.id, message.parent = known[message.id], known[message.parent]
        parent = out.messages.get(message.parent)
        follows = parent.role if parent else ASSISTANT
        goes_on = parent is not None and bool(parent.tool_calls) and message.role == ASSISTANT
        right = goes_on or follows != message.role
        _require(right, "a question follows a question, or an answer an answer")
        out.messages[message.id] = message
    for number in record["chosen"]:
        _require(_integer(number) in known and number != ROOT, "a path leads nowhere")
        message = out.messages[known[number]]
        _require(message.parent not in out.chosen, "a path forks")
        out.chosen[message.parent] = message.id
    return out


def _message(record: dict[str, Any]) -> Message:
    numbers = record["numbers"]
    _require(record["role"] in ROLES, f"role {shown(record['role'])}")
    _require(record["ended"] in ENDS, f"ended {shown(record['ended'])}")
    _require(all(map(_is_number, numbers.values())), "values that are not numbers")
    _require(_integer(record["id"]) > ROOT, "a message is number 0")
    # The file was saved during an answer, whose run no longer exists.
    ended = "interrupted" if record["ended"] == RUNNING else record["ended"]
    return Message(
        record["id"],
        _integer(record["parent"]),
        record["role"],
        _text(record["text"]),
        ended,
        _text(record["note"]),
        {name: n for name, n in numbers.items() if name != "run"},  # a run of another process
        _thinking(record.get("thinking", {})),
        _calls(record.get("tool_calls", [])),
    )


def _thinking(record: dict[str, Any]) -> dict[str, Any]:
    if not record:
        return {}
    counts = [record["seconds"], record["tokens"]]
    _require(all(map(_is_number, counts)), "thinking with values that are not numbers")
    return {"text": _text(record["text"]), "seconds": counts[0], "tokens": counts[1]}


def _calls(records: list[dict[str, Any]]) -> list[ToolCall]:
    out: list[ToolCall] = []
    for record in records:
        call = ToolCall(_text(record["id"]), _text(record["name"]), record["arguments"])
        state, result = record["state"], _text(record["result"])
        _require(state in STATES, f"a tool call's state {shown(state)}")
        _require(call.id not in [each.id for each in out], "two tool calls share an id")
        _require(isinstance(call.arguments, dict), "a tool call's arguments are no object")
        try:
            json.dumps(call.arguments, allow_nan=False)
        except ValueError:
            _require(False, "a tool call's arguments hold values that are not numbers")
        lost = state == WORKING  # the process that ran it no longer exists
        call.end(FAILED if lost else state, OF_LOST if lost else result)
        out.append(call)
    return out


def _is_number(value: Any) -> bool:
    # NaN fails as well: JSON for a page cannot contain it.
    return type(value) in (int, float) and abs(value) <= LARGEST_NUMBER


def _checked(kind: type) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        _require(type(value) is kind, f"{shown(value)} where {kind.__name__} was expected")
        return value

    return check


_text = _checked(str)
_integer = _checked(int)


def _require(right: bool, seen: str) -> None:
    if not right:
        raise OptionError(f"this chat file is damaged: {seen}")
