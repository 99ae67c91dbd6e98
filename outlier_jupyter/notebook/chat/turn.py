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
from typing import Any

from ...engine.decode import StartedRun
from ...engine.engine import Engine
from ...engine.one_run import start_run
from ...engine.templates import without_refused
from ...errors import TemplateRefused
from ...events import Event, PromptEncoded, Sink, TextProduced
from ...runs.run import Interrupted, Run
from ..live.frame_builder import FrameBuilder
from ..live.prompt_progress import PromptProgress
from ..worker import on_this_thread
from .conversations import Conversation, Message


@dataclass(eq=False)
class Turn:
    """A question to answer, or a question to answer again.

    Attributes:
        parent: the parent of the new messages: the message before a new question, or the question
            of a new answer.
        text: the question; None for another answer.
        request: the browser's id for it, "" from Python.
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
    cancelled: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)
    answer: Message | None = None
    prompt_tokens: int = 0
    read_tokens: int = 0
    reused_tokens: int = 0
    left_out: int = 0
    run: Run | None = None
    error: BaseException | None = None

    def messages(self) -> list[dict[str, str]]:
        """The conversation up to the question, in the form of chat templates."""
        messages = [
            {"role": message.role, "content": message.text}
            for message in self.conversation.until(self.parent)
        ]
        question = [] if self.text is None else [{"role": "user", "content": self.text}]
        return messages + question

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


def run_turn(
    engine: Engine,
    turn: Turn,
    on_begin: Callable[[], object],
    on_progress: Callable[[], object],
    on_text: Callable[[str], object],
    open_view: Callable[[], Sink | None],
) -> None:
    """Run `turn` on this thread; the result is in `turn.run` and `turn.error`.

    Args:
        on_begin: called when the engine has accepted the run.
        on_progress: called often while the prompt is read; see `turn.read_tokens`.
        on_text: called with each piece of text.
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
        elif type(event) is TextProduced:
            on_text(event.text)

    def report(tokens: int, whole: int) -> None:
        turn.read_tokens = tokens
        on_progress()

    started: StartedRun | None = None
    progress = PromptProgress(len(engine.info.layer_names), report)
    unsubscribe = [
        engine.subscribe(on_this_thread(on_event), PromptEncoded, TextProduced),
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
    messages = turn.messages()
    try:
        return start_run(engine, messages, turn.options)
    except TemplateRefused:
        kept, turn.left_out = without_refused(engine.tokenizer, messages, turn.options["system"])
        if not turn.left_out:
            raise
        return start_run(engine, kept, turn.options)
