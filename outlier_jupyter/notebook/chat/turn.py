"""One turn of a chat: what is asked of the engine, and what came of it.

A turn listens to its own run only: the engine tells every sink of every run, on the thread that
decodes, and a chat's runs are decoded on the chat's thread. Nothing here knows the widget; it is
told when the run begins and as its text grows.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ...engine.engine import Begun, Engine, begin
from ...engine.templates import without_refused
from ...errors import TemplateRefused
from ...events import Event, PromptEncoded, Sink, TextProduced
from ...runs.run import Interrupted, Run
from ..live.frame_builder import Feed
from ..live.prompt_progress import PromptProgress
from .conversations import Conversation, Message
from .thread import on_this_thread


@dataclass(eq=False)
class Turn:
    """A question under way, or a question to be answered again.

    Attributes:
        parent: the message the new ones go under: for a question what came before it, for
            another answer the question.
        text: the question; None for another answer.
        request: the browser's name for it, "" from Python.
        answer: the message that is written, once the run has begun.
        read_tokens: of the prompt, so far.
        left_out: earlier answers that the model's chat template refuses, and so does not read.
        run, error: what came of it, once `done`.
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
        """The conversation as chat templates take it, up to the question."""
        told = [
            {"role": message.role, "content": message.text}
            for message in self.conversation.until(self.parent)
        ]
        return told if self.text is None else [*told, {"role": "user", "content": self.text}]

    def numbers(self) -> dict[str, float]:
        """Token counts and speed, for under the answer."""
        out: dict[str, float] = {"prompt": self.prompt_tokens, "reused": self.reused_tokens}
        if self.run is not None:
            summary = self.run.summary()
            out["generated"] = self.run.generated
            for name in ("tokens_per_second", "decode_hit_rate", "prefill_hit_rate"):
                value = float(getattr(summary, name))
                if math.isfinite(value):
                    out[name] = round(value, 4)
        return out


def run_turn(
    engine: Engine,
    turn: Turn,
    begin: Callable[[], object],
    read: Callable[[], object],
    grow: Callable[[str], object],
    watch: Callable[[], Sink | None],
) -> None:
    """Run `turn` on this thread; `turn.run` and `turn.error` tell how it went.

    Args:
        begin: called when the run has begun, and so cannot be refused any more.
        read: called as the prompt is read, often; `turn.read_tokens` tells how far.
        grow: called with each piece of text.
        watch: called before the run; the sink it may return hears the run's events.
    """
    also = watch()

    def listen(event: Event) -> None:
        if type(event) is PromptEncoded:
            turn.reused_tokens = event.reused
            turn.prompt_tokens = event.reused + len(event.tokens)
            begin()
            if turn.cancelled.is_set():
                engine.stop()  # pressed before there was a run to stop
        elif type(event) is TextProduced:
            grow(event.text)

    def reading(tokens: int, whole: int) -> None:
        turn.read_tokens = tokens
        read()

    begun: Begun | None = None
    progress = PromptProgress(len(engine.info.layer_names), reading)
    unsubscribe = [
        engine.subscribe(on_this_thread(listen), PromptEncoded, TextProduced),
        engine.subscribe(on_this_thread(progress), *PromptProgress.KINDS),
    ]
    if also is not None:
        unsubscribe.append(engine.subscribe(on_this_thread(also), *Feed.KINDS))
    try:
        with engine.turns.ending(turn.cancelled.is_set):
            begun = _begun(engine, turn)
            for _ in begun.steps:
                pass
    except (Interrupted, Exception) as error:
        turn.error = error
    finally:
        turn.run = begun.run if begun is not None else None
        for end in unsubscribe:
            end()


def _begun(engine: Engine, turn: Turn) -> Begun:
    """The turn's run; no answer given earlier stands in its way."""
    messages = turn.messages()
    try:
        return begin(engine, messages, turn.options)
    except TemplateRefused:
        kept, turn.left_out = without_refused(engine.tokenizer, messages, turn.options["system"])
        if not turn.left_out:
            raise
        return begin(engine, kept, turn.options)
