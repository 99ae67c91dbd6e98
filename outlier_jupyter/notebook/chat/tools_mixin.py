"""The operations of a chat on the tool calls of its answers: allow, refuse.

What a call is and how it runs is in `tool_calls.py`; which turn follows is in `tool_rounds.py`.
"""

from __future__ import annotations

from ...errors import OptionError
from ...runs.run import Run
from .controls import Settings
from .runner import TurnRunner
from .tool_calls import PROPOSED


class ToolsMixin(Settings):
    """The part of `Chat` that decides on tool calls."""

    runner: TurnRunner

    def allow(self, call: str | None = None, *, message: int | None = None) -> Run | None:
        """Run a proposed call; once all calls of its answer are over, the model goes on.

        Args:
            call: its id, as in `chat.messages[-1].tool_calls`; None for all that are proposed. The
                id of a call that failed sends its error to the model.
            message: the answer that has it; the last one by default.

        Returns:
            The run of the answer that goes on, or None while other calls are undecided.

        Raises:
            OptionError: there is no such call, or it was decided before.
            Interrupted: stopped; a function that was not waited for runs on.
        """
        return self._decide(call, message, True)

    def refuse(self, call: str | None = None, *, message: int | None = None) -> Run | None:
        """Do not run a proposed call, and tell the model so; the rest as `allow`."""
        return self._decide(call, message, False)

    def _decide(self, call: str | None, message: int | None, allow: bool) -> Run | None:
        with self.runner.lock:
            conversation = self.runner.conversations.current
            answer = conversation.get(conversation.end if message is None else message)
            calls = [each.id for each in answer.tool_calls if each.state == PROPOSED]
            if call is None and not calls:
                raise OptionError(f"message {answer.id} has no tool call to decide on")
            decided = calls if call is None else [call]
            turns = [self.runner.decide(answer.id, each, allow) for each in decided]
        run = None
        for turn in turns:
            if turn is not None:
                run = self.runner.ended(turn)
        return run
