"""Another version of an answer, which goes on from one of its tokens with another in its place.

The run that wrote the answer says what was likely there. A click in its view, or `Chat.branch`,
queues a turn that begins with the tokens before; its answer is a sibling of the first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import EngineBusy, OptionError, OutlierError
from .turn import BranchPoint, Turn

if TYPE_CHECKING:
    from .chat import Chat
    from .runner import TurnRunner

VIEW = "view"
"""The request of a turn that a run's view asks for; if it is refused, the notice says why."""


def ask_branch(runner: TurnRunner, number: int, token: int, choose: int, request: str = "") -> Turn:
    """Queue the branch of the run with this number.

    Raises:
        OptionError: there is no such run, it was dropped, or its answer is elsewhere.
    """
    run = runner.runs.get(number)
    with runner.lock:
        conversation = runner.conversations.current
        for answer in conversation.messages.values():
            if answer.numbers.get("run") == number:
                branch = BranchPoint(run, token, choose)
                return runner.queue(answer.parent, None, {}, request, branch=branch)
    raise OptionError(
        f"run {number} wrote no answer of {conversation.label!r}: switch to its conversation"
    )


def branch_from_view(chat: Chat, number: int, token: int, choose: int) -> str:
    """Begin the branch that a run's view asks for; why it cannot be, or ""."""
    try:
        if chat.runner.busy:
            raise EngineBusy("an answer is being generated: stop it or wait for its end")
        ask_branch(chat.runner, number, token, choose, VIEW)
    except OutlierError as error:
        return f"{error}."
    return ""
