"""The tool calls of a chat's answers as plain data, and how a function is run for one.

A call is proposed, runs once it is allowed, and ends as done or failed; or it is refused. Functions
are the user's own: they may raise anything, return anything and never end. So each runs on a thread
of its own, its result becomes bounded text, and waiting for it can be stopped.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from ...engine.tool_calls import FoundCall
from ...errors import brief
from ...tools import Tool

PROPOSED = "proposed"
WORKING = "running"
DONE = "done"
FAILED = "failed"
REFUSED = "refused"
STATES = (PROPOSED, WORKING, DONE, FAILED, REFUSED)

RESULT_CHARS = 20_000
"""The most characters of a result that the model reads; a longer one is cut, and says so."""
RESULT_SHARE = 4
"""A result takes at most this part of the model's context."""
ERROR_CHARS = 600
"""The most characters of an exception's message, and of a malformed call, in a result."""
LOOK_EVERY_S = 0.05
"""How often it is looked whether the chat was stopped while a function runs."""

OF_REFUSED = "The user did not allow this call, so it was not run."
OF_SKIPPED = "This call was not run: the user went on without it."
OF_STOPPED = "The user stopped waiting for this call, so its result is unknown."


@dataclass
class ToolCall:
    """A call of a tool in an answer.

    Attributes:
        id: unique in its message.
        name: the tool's; "" if the call cannot be read.
        arguments: by name, JSON values.
        state: one of `STATES`.
        result: what the model reads as the result, once the call is over: text or JSON.
    """

    id: str
    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    state: str = PROPOSED
    result: str = ""

    @property
    def over(self) -> bool:
        """Whether it has a result, or was refused."""
        return self.state not in (PROPOSED, WORKING)

    def end(self, state: str, result: str) -> None:
        """End it with this result."""
        self.state, self.result = state, result


def calls_from(found: Iterable[FoundCall], first: int) -> list[ToolCall]:
    """The calls of an answer; those that cannot be run have failed, with the reason as result.

    Args:
        first: the number of the first call in its conversation.
    """
    out: list[ToolCall] = []
    for number, each in enumerate(found, first):
        taken = {call.id for call in out}
        # Nine letters and digits: some templates take no other id.
        own = each.id if each.id and each.id not in taken else f"call{number:05d}"
        call = ToolCall(own, each.name, each.arguments)
        if each.error:
            written = _bounded(each.text.strip(), ERROR_CHARS)
            call.end(FAILED, f"The call cannot be run: {each.error}. It was written: {written}")
        out.append(call)
    return out


class ToolThread(threading.Thread):
    """The thread of one function, which `caller` waits for."""

    def __init__(self, caller: object, name: str, work: Callable[[], object]) -> None:
        super().__init__(name=f"tool {name}", target=work, daemon=True)
        self.caller = caller


def is_called_by(caller: object) -> bool:
    """Whether this code runs in a function that `caller` waits for."""
    here = threading.current_thread()
    return isinstance(here, ToolThread) and here.caller is caller


def run_call(
    tool: Tool | None, call: ToolCall, stopped: Callable[[], bool], caller: object
) -> None:
    """Run the function of `call` on a thread of its own, and wait until it ends or `stopped`.

    A function that was not waited for runs on; what it returns is dropped.
    """
    if tool is None or tool.function is None:
        call.end(FAILED, f"There is no function for the tool {call.name!r}.")
        return
    outcome: list[tuple[str, str]] = []
    ended = threading.Event()
    function, arguments = tool.function, json.loads(json.dumps(call.arguments))

    def work() -> None:
        try:
            outcome.append(_outcome(function, arguments))
        finally:
            ended.set()

    ToolThread(caller, tool.name, work).start()
    while not ended.wait(LOOK_EVERY_S):
        if stopped():
            call.end(FAILED, OF_STOPPED)
            return
    call.end(*(outcome[0] if outcome else (FAILED, "The tool ended without a result.")))


def _outcome(function: Callable[..., Any], arguments: dict[str, Any]) -> tuple[str, str]:
    """The state and the result of a call of `function`."""
    try:
        value = function(**arguments)
        if inspect.isawaitable(value):
            value = asyncio.run(_awaited(value))
        return DONE, _result(value)
    except BaseException as error:  # SystemExit as well: the function is the user's
        return FAILED, _plain_text(f"The tool raised {brief(error, ERROR_CHARS)}")


async def _awaited(value: Any) -> Any:
    return await value


def _result(value: Any) -> str:
    """A function's result as the model reads it: a text as it is, anything else as JSON."""
    if not isinstance(value, str):
        value = json.dumps(value, ensure_ascii=False, default=_as_json)
    return _bounded(_plain_text(value), RESULT_CHARS)


def _as_json(value: Any) -> Any:
    """Arrays and tables as lists; anything else as its text."""
    listed = getattr(value, "tolist", None)
    return listed() if callable(listed) else str(value)


def _plain_text(text: str) -> str:
    """`text` without halves of surrogate pairs, which no page or file can take."""
    return text.encode("utf-8", "replace").decode()


def shortened(text: str, tokenizer: Any, context: int | None) -> str:
    """A result within a quarter of the model's context, so that questions can follow it."""
    if context is None:
        return text
    most = context // RESULT_SHARE
    ids = tokenizer.encode(text, add_special_tokens=False)
    if len(ids) <= most:
        return text
    return f"{tokenizer.decode(ids[:most])} … (cut: the first {most:,} of {len(ids):,} tokens)"


def _bounded(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    return f"{text[:most]} … (cut: {len(text):,} characters, of which the first {most:,} are here)"
