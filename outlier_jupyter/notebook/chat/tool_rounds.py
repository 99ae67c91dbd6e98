"""What happens between two answers of a chat with tools: calls are read, allowed, run.

An answer's calls become proposals. When the last of them is over, the model goes on from the
results in another answer, which is a turn like any other. This module decides which turn that is;
`runner.py` queues and runs turns, `tool_calls.py` runs one function.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from threading import Event
from typing import Any

from ...engine.engine import Engine
from ...engine.prompts import context_of
from ...engine.templates import check_takes_tools
from ...engine.tool_calls import check_calls, find_calls
from ...errors import OptionError
from ...tools import Tool, tools_of
from ...values import boolean, count
from .conversations import Conversation, Message
from .tool_calls import (
    OF_REFUSED,
    OF_SKIPPED,
    PROPOSED,
    REFUSED,
    WORKING,
    calls_from,
    run_call,
    shortened,
)  # fmt: skip
from .turn import Turn

ROUNDS = 8
"""By default, the most answers to one question whose calls run without being allowed."""


class ToolRounds:
    """The tools of a chat, and which of an answer's calls run when.

    Args:
        tools: that the model is offered.
        automatic: whether calls run without being allowed.
        rounds: the most answers to one question whose calls run so.
    """

    def __init__(self, tools: tuple[Tool, ...], automatic: bool, rounds: int) -> None:
        self.tools = tools
        self.automatic = automatic
        self.rounds = rounds

    @property
    def options(self) -> dict[str, Any]:
        """The option that describes the tools to the model."""
        return {"tools": [tool.schema for tool in self.tools]} if self.tools else {}

    def read(self, engine: Engine, turn: Turn) -> None:
        """Find the calls in the turn's answer, also where the model was offered no tools."""
        run, answer = turn.run, turn.answer
        if run is None or answer is None:
            return
        schemas = [tool.schema for tool in self.tools]
        whole = run.finish_reason == "stop"
        found = find_calls(engine.tokenizer, run.text, run.spans, schemas, whole)
        before = sum(len(each.tool_calls) for each in turn.conversation.messages.values())
        answer.tool_calls = calls_from(found, before + 1)

    def following(self, turn: Turn) -> Turn | None:
        """The turn that goes on from this one by itself, or None."""
        answer = turn.answer
        if not self.automatic or answer is None or not answer.tool_calls:
            return None
        if turn.error is not None or turn.cancelled.is_set():
            return None
        if turn.round > self.rounds:
            what = "answer in a row" if self.rounds == 1 else "answers in a row"
            limit = (
                f"the calls of {self.rounds} {what} ran by themselves, and no more do: allow these"
            )
            answer.note = "; ".join(filter(None, [answer.note, limit]))
            return None
        allowed = [call for call in answer.tool_calls if not call.over]
        for call in allowed:
            call.state = WORKING
        return replace(
            turn, parent=answer.id, text=None, request="", allowed=allowed, round=turn.round + 1,
            done=Event(), answer=None, prompt_tokens=0, read_tokens=0, reused_tokens=0,
            left_out=0, run=None, error=None,
        )  # fmt: skip

    def decided(self, answer: Message, call_id: str, allow: bool) -> bool:
        """Allow or refuse one call; whether the model may now go on, or the call is to run.

        Allowing a call that failed sends its error to the model: it goes on.

        Raises:
            OptionError: there is no such call, or it was decided before.
        """
        call = answer.call(call_id)
        if call.state != PROPOSED and not (allow and call.over):
            raise OptionError(
                f"the call {call_id!r} of message {answer.id} is {call.state} already"
            )
        if call.state != PROPOSED:
            return all(each.over for each in answer.tool_calls)
        if not allow:
            call.end(REFUSED, OF_REFUSED)
            return all(each.over for each in answer.tool_calls)
        if call.name not in {tool.name for tool in self.tools}:
            raise OptionError(
                f"this chat has no tool {call.name[:60]!r}: make it with Chat(engine, tools=[…])"
            )
        call.state = WORKING
        return True

    def run(self, engine: Engine, turn: Turn, changed: Callable[[], object]) -> None:
        """Run the calls that the turn allows, one after another, until it is cancelled.

        Args:
            changed: called when a call is over.
        """
        tools = {tool.name: tool for tool in self.tools}
        for call in turn.allowed:
            if turn.cancelled.is_set():
                call.state = PROPOSED
            else:
                run_call(tools.get(call.name), call, turn.cancelled.is_set, self)
                context = context_of(engine.config)
                call.result = shortened(call.result, engine.tokenizer, context)
            changed()


def skip_open(conversation: Conversation, parent: int) -> None:
    """End the calls that the user goes on without."""
    message = conversation.messages.get(parent)
    for call in message.tool_calls if message is not None else ():
        if call.state == PROPOSED:
            call.end(REFUSED, OF_SKIPPED)


def tool_rounds_of(engine: Engine, tools: Any, automatic: bool, rounds: int) -> ToolRounds:
    """The tools of a chat from its arguments.

    Raises:
        OptionError: one cannot be described or has no function, or the model takes no tools.
    """
    found = tools_of("tools", tools)
    for tool in found:
        if tool.function is None:
            raise OptionError(
                f"the tool {tool.name!r} has a schema and no function: give a pair of both"
            )
    if found:
        check_calls(engine.tokenizer)
        check_takes_tools(engine.tokenizer, [tool.schema for tool in found])
    return ToolRounds(found, boolean("auto_tools", automatic), count("tool_rounds", rounds))
