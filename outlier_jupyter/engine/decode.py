"""The decode loop: token ids to logits to the next id and its text.

The order of work is mlx-lm's (prefill in chunks, the prompt's last token alone, then token by
token), with one exception: mlx-lm starts the next step before it returns a token, which would make
a paged model read experts for a token that may never be used. Sampler, penalties, KV cache and
detokenizer are mlx-lm's. The loop calls the model and emits events. Of paging it knows only the
router tap and `Stopped`; it does not know the subscribers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.generate import maybe_quantize_kv_cache

from ..errors import OptionError, UnsupportedModel, brief
from ..events import (
    DECODE,
    PREFILL,
    CallStarted,
    Event,
    Predicted,
    SegmentText,
    StepDone,
    TextProduced,
)
from ..options import GenerateOptions
from ..paging import RouterTap, Stopped
from ..runs.run import Interrupted, Run, Step
from ..runs.text_stream import Transcript
from ..system.interrupt import Interrupts, deferred
from ..trace.recorder import Recorder
from ..trace.segments import THINKING, name_of
from .memory import give_back
from .next_token import NextToken
from .reference import Reference
from .sampling import Sampling
from .segments import GeneratedSegments, Piece
from .structured import Constraint
from .thinking_budget import ThinkingBudget

CLEAR_EVERY = 256
"""After so many tokens MLX's freed buffers are returned, as in mlx-lm, and the files checked."""

Taken = TypeVar("Taken")

UNCOMPUTABLE = (AttributeError, IndexError, KeyError, NotImplementedError, TypeError, ValueError)
"""What mlx-lm's models and MLX raise for shapes, types or options that do not match."""


def uncomputable(error: BaseException) -> UnsupportedModel:
    """What to raise for one of UNCOMPUTABLE."""
    return UnsupportedModel(
        f"this model cannot be computed as its config.json says ({brief(error)}): "
        "check the file, or copy it from the original model"
    )


class Decoding:
    """Generates from `prompt`, the ids not yet in the KV cache `kv`, until done or stopped.

    `reused` are the ids before `prompt`, which the KV cache holds; penalties count them, too.
    `check` is called after each call that read experts, every `CLEAR_EVERY` tokens, and at the end,
    also after a failure; an error that it raises ends the run. `relieve` is called before each call
    of the model, and may change the cache's size.

    Attributes:
        read: ids of this run that the model has processed: the KV cache contains them.
        generated: ids sampled so far; `text_ends`, the length of the text after each.
        transcript: the text so far; `segments`, what its parts are.
        next_token: chooses the next one.
        budget: ends the thinking after some tokens; None without a limit.
        finish_reason: "" until the run ends normally.
        kept: the beginning of the text, which was there before.
    """

    def __init__(
        self,
        model: nn.Module,
        prompt: list[int],
        kv: list[Any],
        options: GenerateOptions,
        *,
        sampling: Sampling,
        transcript: Transcript,
        segments: GeneratedSegments,
        closing: list[int],
        recorder: Recorder,
        tap: RouterTap,
        emit: Callable[[Event], None],
        stop: threading.Event,
        clock: Callable[[], int],
        check: Callable[[], None] = lambda: None,
        relieve: Callable[[], None] = lambda: None,
        reference: Reference | None = None,
        reused: Sequence[int] = (),
    ) -> None:
        self.read: list[int] = []
        self.generated: list[int] = []
        self.text_ends: list[int] = []
        self.transcript = transcript
        self.segments = segments
        self.budget: ThinkingBudget | None = None
        self.finish_reason = ""
        self.kept = ""
        self._model = model
        self._prompt = prompt
        self._kv = kv
        self._options = options
        self._sampling = sampling
        self._recorder = recorder
        self._tap = tap
        self._emit = emit
        self._stop = stop
        self._clock = clock
        self._check, self._relieve = check, relieve
        self._reference = reference
        self.next_token = NextToken(sampling, options.alternatives, reused)
        self._predicted: Predicted | None = None
        if options.thinking_budget is not None and closing:
            most = options.thinking_budget
            self.budget = ThinkingBudget(most, closing, segments, self.generated)
            self.next_token.processors.append(self.budget)
        self._constraint: Constraint | None = None
        if sampling.matcher is not None:
            self._constraint = Constraint(
                sampling.matcher, segments.answers, self.generated, sampling.openings
            )
            self.next_token.processors.append(self._constraint)  # last: nothing may undo it
        if options.seed is not None:
            mx.random.seed(options.seed)

    def keep(self, tokens: list[int], chosen: bool) -> None:
        """Begin the text with these ids, which are the prompt's last; before any step.

        `chosen`: whether the last one was chosen for a branch.

        Raises:
            OptionError: they hold a stop word, or the answer cannot follow the schema.
        """
        answer: list[int] = []
        for token in tokens:
            answers = self.segments.answers()
            thinking = self.segments.kind == THINKING
            self.segments.add(self.transcript.add(token), self.transcript.pending)
            self.segments.take(self.transcript.seen, thinking)
            answer = [*answer, token] if answers and self.segments.answers() else []
        if self._constraint is not None:
            self._constraint.begin(answer)
        if self.transcript.stopped:
            raise OptionError(
                f"with {'the chosen token' if chosen else 'prefill_answer'} the answer ends at a "
                "stop word, so there is nothing to go on with: "
                f"{'choose another' if chosen else 'give another'}, or leave the stop word out"
            )
        self.kept = self.transcript.text

    def steps(self) -> Iterator[Step]:
        """Yield each generated token.

        Raises:
            Stopped: `stop` was set; the attributes keep what was generated.
            UnsupportedModel: the model cannot be computed, or its logits are not finite.
        """
        token: int | None = None
        try:
            while not self.finish_reason:
                token = self._prefill() if token is None else self._call(DECODE, [token])
                yield self.take(token)
                if self._stop.is_set():
                    raise Stopped
        except Stopped:
            raise
        except Exception:
            self._check()  # a changed file may be the cause
            raise
        self._check()

    def _prefill(self) -> int:
        """Process the prompt in chunks and sample the first token."""
        rest = self._prompt
        while len(rest) > 1:
            size = min(self._options.prefill_chunk or len(rest), len(rest) - 1)
            self._call(PREFILL, rest[:size], after=rest[1 : size + 1])
            give_back()
            rest = rest[size:]
        return self._call(PREFILL, rest)

    def _call(self, phase: int, tokens: list[int], after: list[int] | None = None) -> int:
        """One forward pass over `tokens`; the id sampled after the last.

        Args:
            after: the prompt's tokens after each of `tokens`: then nothing is sampled, and -1 is
                returned.
        """
        if self._stop.is_set():
            raise Stopped
        begin = self._clock()
        self._emit(CallStarted(phase, np.array(tokens, np.int32), begin))
        self._relieve()
        reported = self._clock()
        self._tap.begin()
        logits = self._forward(tokens)
        forward = self._clock()
        produced = self.choose(tokens, logits, after, self._kv)
        end = self._clock()
        times = StepDone(produced, end - begin, end - forward, forward - reported, reported - begin)
        self.end_call(times, self._tap.drain())
        if self._recorder.call_misses:  # nothing that a changed file gave goes on
            self._check()
        if self._reference is not None:
            self._compare(tokens, logits[:, -1, :] if after is None else None)
        return produced

    def choose(
        self, tokens: list[int], logits: mx.array, after: list[int] | None, kv: list[Any]
    ) -> int:
        """Evaluate a call over `tokens`, which then count as read; the id sampled after the last.

        Args:
            logits: [1, tokens, vocabulary], lazy.
            after: as of `_call`: then nothing is sampled, and -1 is returned.
            kv: the KV cache that the call wrote to.
        """
        produced, numbers = -1, None
        if after is None:
            produced, numbers = self.next_token.choose(self.read, tokens, logits[:, -1, :])
        else:
            scored = after if self._options.score_prompt else []
            numbers = self.next_token.read_only(logits, scored, [layer.state for layer in kv])
        self.read += tokens
        self._predicted = None if numbers is None else Predicted(numbers)
        return produced

    def end_call(self, done: StepDone, events: Iterable[Event]) -> None:
        """Emit what ends a call: what the model found likely, the tap's `events`, and `done`."""
        if self._predicted is not None:
            self._emit(self._predicted)
        for event in events:
            self._emit(event)
        self._emit(done)

    def _compare(self, tokens: list[int], logits: mx.array | None) -> None:
        """Run the exact model on the same tokens, and report this call's divergence from it."""
        assert self._reference is not None
        compared = self._reference.follow(tokens, logits)
        if compared is not None:
            self._emit(compared)

    def _forward(self, tokens: list[int]) -> mx.array:
        """Logits [1, tokens, vocabulary]; the KV cache is quantised if `kv_bits` is set."""
        options = self._options
        try:
            logits: mx.array = self._model(mx.array(tokens)[None], cache=self._kv)
            maybe_quantize_kv_cache(
                self._kv, options.quantized_kv_start, options.kv_group_size, options.kv_bits
            )
        except UNCOMPUTABLE as error:
            if options.kv_bits is None:
                raise uncomputable(error) from error
            raise OptionError(
                f"mlx-lm cannot run this model with a KV cache of {options.kv_bits} bits in groups "
                f"of {options.kv_group_size} ({error}): change kv_group_size or leave kv_bits out"
            ) from error
        return logits

    def report_text(self, text: str, pieces: list[Piece]) -> None:
        """Emit text that was released, and the `pieces` of segments that are now known."""
        if text:
            self._emit(TextProduced(text))
        for kind, piece in pieces:
            self._emit(SegmentText(name_of(kind), piece))

    def take(self, token: int) -> Step:
        """Add one token and its text, and decide whether the run ends with it."""
        self.generated.append(token)
        ends, thinking = token in self._sampling.ends, self.segments.kind == THINKING
        text = "" if ends else self.transcript.add(token)
        pieces = self.segments.add(text, self.transcript.pending)
        self.segments.take(-1 if ends else self.transcript.seen, thinking)
        if ends or self.transcript.stopped:
            self.finish_reason = "stop"
        elif len(self.generated) == self._options.max_tokens:
            self.finish_reason = "length"
        if self.finish_reason:
            rest = self.transcript.finish()
            text += rest
            pieces += [*self.segments.add(rest), *self.segments.finish()]
        self.text_ends.append(len(self.transcript.text))
        self.report_text(text, pieces)
        if len(self.generated) % CLEAR_EVERY == 0:
            give_back()
            self._check()
        return Step(
            token=token,
            text=text,
            ns=self._recorder.call_ns,
            hits=self._recorder.call_hits,
            misses=self._recorder.call_misses,
            nbytes=self._recorder.call_nbytes,
            finish_reason=self.finish_reason or None,
            predicted=self._predicted,
            experts=self._recorder.call_experts(),
        )


class StartedRun:
    """A started run: iterating over `steps` decodes it; `run` is its result."""

    def __init__(
        self, interrupts: Interrupts, steps: Generator[Step, None, None], finished: list[Run]
    ) -> None:
        # A generator, because a traceback would keep an iterator object, and so the run, alive.
        self.steps = interruptible(
            interrupts, steps, lambda: Interrupted(finished[-1]) if finished else None
        )
        self._finished = finished

    @property
    def run(self) -> Run | None:
        """The finished, interrupted or failed run; None while it is under way."""
        return self._finished[-1] if self._finished else None


def interruptible(
    interrupts: Interrupts,
    steps: Generator[Taken, None, None],
    stopped: Callable[[], Interrupted | None],
) -> Generator[Taken, None, None]:
    """Yield the steps of a run, or of several; SIGINT within a step, or at the end, stops them.

    A KeyboardInterrupt between two steps, or one that the caller throws in, ends them cleanly.

    Args:
        stopped: what to raise for the runs so far; None before there are any.

    Raises:
        Interrupted: also if all was already complete when it was interrupted.
    """
    try:
        while True:
            with interrupts:
                step = next(steps, None)
                if step is None and interrupts.noted and (error := stopped()) is not None:
                    raise error
            if step is None:
                return
            yield step
    except Interrupted:
        raise
    except KeyboardInterrupt:
        with interrupts:
            steps.close()
            if (error := stopped()) is not None:
                raise error from None
        raise
    finally:
        with deferred():
            steps.close()
