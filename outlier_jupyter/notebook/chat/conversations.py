"""Conversations as plain data: trees of messages, and the file they are kept in.

Editing a question, or asking for another answer, adds a sibling and loses nothing: a conversation
is a tree, and what is read is the path along the chosen children. The file is JSON with a version.
Nothing here knows a model, a widget or a thread.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from ...errors import OptionError, shown
from ...trace.metadata import mended
from ...values import checked, integer

FORMAT = "outlier_jupyter chat"
VERSION = 1

ROOT = 0
"""The parent of a conversation's first messages; no message has this id."""
USER = "user"
ASSISTANT = "assistant"
ROLES = (USER, ASSISTANT)
RUNNING = "running"
ENDS = ("", RUNNING, "stop", "length", "interrupted", "error")
TITLE_CHARS = 48
MOST = 2**53
"""No page can tell larger numbers apart, nor does a run have any."""


@dataclass
class Message:
    """One message of a tree.

    Attributes:
        id: its number in its conversation, from 1.
        parent: the message it follows, or `ROOT`.
        role: `user` or `assistant`.
        text: what was written, Markdown if anything.
        ended: of an answer, why it ended (a run's `finish_reason`), or `running`; else "".
        note: a sentence about what went wrong, if anything.
        numbers: of the run that wrote it: token counts, speed, and which of `Chat.runs` it is.
    """

    id: int
    parent: int
    role: str
    text: str
    ended: str = ""
    note: str = ""
    numbers: dict[str, float] = field(default_factory=dict)


@dataclass
class Conversation:
    """A tree of messages and the path through it that is read.

    Attributes:
        title: as it was named; `label` is what to show.
        system: the system message before everything, "" for none.
        messages: by id; a parent comes before its children.
        chosen: for each parent the child that is on the path.
    """

    id: int
    title: str = ""
    system: str = ""
    messages: dict[int, Message] = field(default_factory=dict)
    chosen: dict[int, int] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The title, or the beginning of the first question."""
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
        """The last answer's id, or `ROOT`: a question that nobody answered is asked beside."""
        last = self.messages.get(self.end)
        return last.parent if last is not None and last.role == USER else self.end

    def add(self, parent: int, role: str, text: str = "", ended: str = "") -> Message:
        """Add a message under `parent` and have the path go through it."""
        message = Message(max(self.messages, default=ROOT) + 1, parent, role, text, ended)
        self.messages[message.id] = message
        self.choose(message.id)
        return message

    @checked(number=integer)
    def get(self, number: int) -> Message:
        """The message of this id.

        Raises:
            OptionError: there is none.
        """
        if number not in self.messages:
            raise OptionError(f"there is no message {number!r} in {self.label!r}")
        return self.messages[number]

    def children(self, parent: int) -> list[Message]:
        """The messages that follow `parent`, oldest first."""
        return [message for message in self.messages.values() if message.parent == parent]

    def choose(self, number: int) -> None:
        """Have the path go through this message, and on as it did when it was last read."""
        message: Message | None = self.get(number)
        while message is not None:
            self.chosen[message.parent] = message.id
            message = self.messages.get(message.parent)

    def path(self) -> list[Message]:
        """The messages that are read, first to last."""
        path, at = [], self.chosen.get(ROOT)
        while at is not None:
            path.append(self.messages[at])
            at = self.chosen.get(at)
        return path

    def until(self, number: int) -> list[Message]:
        """The messages from the first one down to this, whatever path is chosen."""
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
        """Add an empty conversation and make it the current one."""
        self.current = Conversation(max(self.by_id, default=0) + 1, system=system)
        self.by_id[self.current.id] = self.current
        return self.current

    @checked(number=integer)
    def get(self, number: int) -> Conversation:
        """The conversation of this id.

        Raises:
            OptionError: there is none.
        """
        if number not in self.by_id:
            raise OptionError(
                f"there is no conversation {number!r}: there are {', '.join(map(str, self.by_id))}"
            )
        return self.by_id[number]

    def delete(self, number: int) -> None:
        """Remove a conversation; the newest of the others becomes current if it was."""
        gone = self.get(number)
        del self.by_id[number]
        if not self.by_id:
            self.new()
        elif gone is self.current:
            self.current = self.by_id[max(self.by_id)]

    def dumps(self) -> str:
        """All of it as JSON."""
        whole = {
            "format": FORMAT,
            "version": VERSION,
            "current": self.current.id,
            "conversations": [_told(each) for each in self.by_id.values()],
        }
        return json.dumps(whole, ensure_ascii=False, indent=1)

    def add_from(self, text: str) -> None:
        """Add the conversations of a file to these; its current one becomes current.

        Raises:
            OptionError: it is no such file, or a newer one; nothing is added then.
        """
        current, found = _read(text)
        # An empty conversation that nobody has touched makes room for what comes.
        if len(self.by_id) == 1 and self.current == Conversation(self.current.id):
            self.by_id.clear()
        free = max(self.by_id, default=0) + 1
        for number, each in enumerate(found, free):
            if each.id == current:
                self.current = each
            each.id = number
            self.by_id[number] = each


def _told(conversation: Conversation) -> dict[str, Any]:
    """A conversation as JSON has it: lists of records, no keys that are numbers."""
    return {
        "id": conversation.id,
        "title": conversation.title,
        "system": conversation.system,
        "messages": [asdict(message) for message in conversation.messages.values()],
        "chosen": sorted(conversation.chosen.values()),
    }


def _read(text: str) -> tuple[int, list[Conversation]]:
    """The current conversation's id and all conversations of a file's text.

    What a file says its ids are is what its records call each other by, whatever the number; here
    messages are numbered anew, as `Conversation.add` does.
    """
    try:
        whole = mended(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise OptionError(f"this is no chat file, it is not JSON: {error}") from None
    if not isinstance(whole, dict) or whole.get("format") != FORMAT:
        raise OptionError('this is no chat file: it lacks `"format": "outlier_jupyter chat"`')
    if whole.get("version") != VERSION:
        raise OptionError(
            f"this chat file has version {shown(whole.get('version'))}, and {VERSION} is what can "
            "be read: update outlier-jupyter"
        )
    try:
        found = [_conversation(each) for each in whole["conversations"]]
        current = whole["current"]
        _want(current in [each.id for each in found], "no conversation is current")
        _want(len({each.id for each in found}) == len(found), "two conversations share an id")
    except (KeyError, TypeError, AttributeError) as error:
        raise OptionError(f"this chat file is damaged: {error!r} in its records") from None
    return current, found


def _conversation(told: dict[str, Any]) -> Conversation:
    out = Conversation(_whole(told["id"]), _text(told["title"]), _text(told["system"]))
    known = {ROOT: ROOT}
    for each in told["messages"]:
        message = _message(each)
        _want(message.id not in known, f"two messages are number {shown(message.id)}")
        _want(message.parent in known, "a message follows none")
        known[message.id] = len(known)
        message.id, message.parent = known[message.id], known[message.parent]
        parent = out.messages.get(message.parent)
        follows = parent.role if parent else ASSISTANT
        _want(follows != message.role, "a question follows a question, or an answer an answer")
        out.messages[message.id] = message
    for number in told["chosen"]:
        _want(_whole(number) in known and number != ROOT, "a path leads nowhere")
        message = out.messages[known[number]]
        _want(message.parent not in out.chosen, "a path forks")
        out.chosen[message.parent] = message.id
    return out


def _message(told: dict[str, Any]) -> Message:
    numbers = told["numbers"]
    _want(told["role"] in ROLES, f"role {shown(told['role'])}")
    _want(told["ended"] in ENDS, f"ended {shown(told['ended'])}")
    # NaN is none, either: no page can be sent it.
    right = all(type(n) in (int, float) and abs(n) <= MOST for n in numbers.values())
    _want(right, "numbers that are none")
    _want(_whole(told["id"]) > ROOT, "a message is number 0")
    # A file written in the middle of an answer: there is no run any more that would end it.
    ended = "interrupted" if told["ended"] == RUNNING else told["ended"]
    return Message(
        told["id"],
        _whole(told["parent"]),
        told["role"],
        _text(told["text"]),
        ended,
        _text(told["note"]),
        {name: n for name, n in numbers.items() if name != "run"},  # that run is not here
    )


def _checked(kind: type) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        _want(type(value) is kind, f"{shown(value)} where {kind.__name__} was wanted")
        return value

    return check


_text = _checked(str)
_whole = _checked(int)


def _want(right: bool, seen: str) -> None:
    if not right:
        raise OptionError(f"this chat file is damaged: {seen}")
