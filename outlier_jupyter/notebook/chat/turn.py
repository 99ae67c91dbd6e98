"""One turn of a chat: a request to the engine and its result.

The engine reports events of every run to every subscriber, on the thread that decodes. A chat
decodes on its own thread, so a turn filters events by thread. This module does not know the widget;
callbacks report the start of the run, the progress of the prompt, and new text.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ...engine.branch import start_branch
from ...engine.decode import StartedRun
from ...engine.engine import Engine
from ...engine.one_run import start_run
from ...engine.templates import without_refused
from ...errors import TemplateRefused
from ...events import Event, PromptEncoded, SegmentText, Sink
from ...runs.run import Interrupted, Run
from ...trace.segments import THINKING, spent_on
from ..live.frame_builder import FrameBuilder
from ..live.prompt_progress import PromptProgress
from ..worker import on_this_thread
from .conversations import ASSISTANT, USER, Conversation, Message
from .tool_calls import OF_SKIPPED, ToolCall

UNREADABLE = "unreadable_call"
"""The name that templates read of a call which names no function."""


class BranchPoint(NamedTuple):
    """The run to go on from, the number of its token, from 1, and the id in that token's place."""

    run: Run
    token: int
    choose: int


@dataclass(eq=False)
class Turn:
    """A question to answer, or a question to answer again.

    Attributes:
        parent: the parent of the new messages: the message before a new question, the question
            of a new answer, or the answer whose tool calls it goes on from.
        text: the question; None for another answer.
        request: the browser's id for it, "" from Python.
        allowed: calls of the answer `parent` to run first; `text` is None then.
        branch: where to go on from in another run; `text` is None then.
        round: 1 for a question's first answer, 2 for the one after its calls, and so on.
        answer: the message being generated, once the run has begun.
        read_tokens: prompt tokens read so far.
        left_out: earlier answers left out because the chat template refuses them.
        run, error: the result, once `done`.
    """

    conversation: Conversation
    parent: int
    text: str | None
    options: dict[str, Any]
    request: str = ""
    allowed: list[ToolCall] = field(default_factory=list)
    branch: BranchPoint | None = None
    round: int = 1
    cancelled: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)
    answer: Message | None = None
    prompt_tokens: int = 0
    read_tokens: int = 0
    reused_tokens: int = 0
    left_out: int = 0
    run: Run | None = None
    error: BaseException | None = None

    @property
    def goes_on(self) -> bool:
        """Whether it goes on from the tool calls of the answer `parent`."""
        message = self.conversation.messages.get(self.parent)
        return self.text is None and message is not None and message.role == ASSISTANT

    @property
    def waits(self) -> bool:
        """Whether it goes on from calls that are not all over: others wait to be allowed."""
        return self.goes_on and not all(
            call.over for call in self.conversation.messages[self.parent].tool_calls
        )

    def messages(self) -> list[dict[str, Any]]:
        """The conversation up to the question, in the form of chat templates."""
        messages: list[dict[str, Any]] = []
        for message in self.conversation.until(self.parent):
            messages += template_messages(message)
        question = [] if self.text is None else [{"role": USER, "content": self.text}]
        return messages + question

    def thinking(self) -> dict[str, Any]:
        """What the model thought in the turn's run: `text`, `seconds`, `tokens`; or {}."""
        run = self.run
        if run is None or not run.thinking:
            return {}
        tokens, seconds = spent_on(run.trace, THINKING)
        return {"text": run.thinking, "seconds": round(seconds, 3), "tokens": tokens}

    def numbers(self) -> dict[str, float]:
        """Token counts and speed, to show under the answer."""
        out: dict[str, float] = {"prompt": self.prompt_tokens, "reused": self.reused_tokens}
        if self.run is not None:
            summary = self.run.summary()
            out["generated"] = self.run.generated
            for name in ("tokens_per_second", "decode_hit_rate", "prefill_hit_rate"):
                value = float(getattr(summary, name))
                if math.isfinite(value):
                    out[name] = round(value, 4)
            out["bytes_read"] = summary.bytes_read
        return out


def template_messages(message: Message) -> list[dict[str, Any]]:
    """A message in the form of chat templates: an answer's tool results are messages after it."""
    out: dict[str, Any] = {"role": message.role, "content": message.text}
    if message.thinking:  # which goes to the model where its template reads it
        out["reasoning_content"] = message.thinking["text"]
    if message.role == ASSISTANT and message.tool_calls:
        out["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name or UNREADABLE, "arguments": call.arguments},
            }
            for call in message.tool_calls
        ]
    results = [
        {
            "role": "tool",
            "name": call.name or UNREADABLE,
            "tool_call_id": call.id,
            "content": call.result if call.over else OF_SKIPPED,
        }
        for call in message.tool_calls
    ]
    return [out, *results]


def run_turn(
    engine: Engine,
    turn: Turn,
    on_begin: Callable[[], object],
    on_progress: Callable[[], object],
    on_text: Callable[[str, str], object],
    open_view: Callable[[], Sink | None],
) -> None:
    """Run `turn` on this thread; the result is in `turn.run` and `turn.error`.

    Args:
        on_begin: called when the engine has accepted the run.
        on_progress: called often while the prompt is read; see `turn.read_tokens`.
        on_text: called with the kind and the text of each piece.
        open_view: called before the run; may return a subscriber to the run's events.
    """
    view = open_view()

    def on_event(event: Event) -> None:
        if type(event) is PromptEncoded:
            turn.reused_tokens = event.reused
            turn.prompt_tokens = event.reused + len(event.tokens)
            on_begin()
            if turn.cancelled.is_set():
                engine.stop()  # Stop was pressed before the run began
        elif type(event) is SegmentText:
            on_text(event.kind, event.text)

    def report(tokens: int, whole: int) -> None:
        turn.read_tokens = tokens
        on_progress()

    started: StartedRun | None = None
    progress = PromptProgress(len(engine.info.layer_names), report)
    unsubscribe = [
        engine.subscribe(on_this_thread(on_event), PromptEncoded, SegmentText),
        engine.subscribe(on_this_thread(progress), *PromptProgress.KINDS),
    ]
    if view is not None:
        unsubscribe.append(engine.subscribe(on_this_thread(view), *FrameBuilder.KINDS))
    try:
        with engine.run_lock.ends_by_itself(turn.cancelled.is_set):
            started = _started(engine, turn)
            for _ in started.steps:
                pass
    except (Interrupted, Exception) as error:
        turn.error = error
    finally:
        turn.run = started.run if started is not None else None
        for end in unsubscribe:
            end()


def _started(engine: Engine, turn: Turn) -> StartedRun:
    """Begin the turn's run, leaving out earlier answers that the chat template refuses."""
    if turn.branch is not None:
        return start_branch(engine, *turn.branch, None, {})
    messages = turn.messages()
    try:
        return start_run(engine, messages, turn.options)
    except TemplateRefused:
        variables = {"tools": turn.options.get("tools")} if turn.options.get("tools") else None
        kept, turn.left_out = without_refused(
            engine.tokenizer, messages, turn.options["system"], variables
        )
        if not turn.left_out:
            raise
        return start_run(engine, kept, turn.options)
