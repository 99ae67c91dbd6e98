"""Several prompts whose calls of the model are made together, each with a run of its own.

The order of work is that of mlx-lm's batch generator: those that join are read together, then all
go on token by token, and each leaves when it ends. A call looks up the union of the experts of all
its rows. Each run has its own sampler, seed, penalties, stop words, text and trace.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np

from ..errors import OutlierError, UnsupportedModel, brief
from ..events import DECODE, PREFILL, CallStarted, Event, StepDone
from ..options import GenerateOptions
from ..paging import BatchCall, Stopped
from ..runs.run import Run, Step
from ..trace.recorder import Recorder
from .batch_kv import PADDING_COUNTS, Laid, Several, kv_of
from .decode import UNCOMPUTABLE
from .memory import give_back
from .open_run import OpenRun, check_files
from .prompt_kinds import PromptKinds
from .prompts import Encoded
from .sampling import Sampling
from .shared_events import divided

if TYPE_CHECKING:
    from .engine import Engine

Taken = tuple[int, Step]
"""The number of a prompt, and its step."""


@dataclass(frozen=True)
class Waiting:
    """A prompt that can join: its number, and what its run needs."""

    number: int
    prompt: Encoded
    options: GenerateOptions
    sampling: Sampling
    kinds: PromptKinds


class Lane:
    """One prompt of a batch.

    Attributes:
        run: its own.
        error: why its last call gave it no token.
        key: restores its random numbers; None before its seed began them.
    """

    def __init__(self, engine: Engine, waiting: Waiting, at_once: int) -> None:
        self.waiting = waiting
        self.error: Exception | None = None
        self.key: int | None = None
        with self.own_randomness():
            self.run = OpenRun(
                engine, waiting.prompt, waiting.options, waiting.sampling, waiting.kinds,
                at_once=at_once,
            )  # fmt: skip

    @contextmanager
    def own_randomness(self) -> Iterator[None]:
        """Draw from this run's own random numbers, which its seed began; greedy runs draw none."""
        if self.waiting.options.seed is None:
            yield
            return
        others = _random_key()
        if self.key is not None:
            mx.random.seed(self.key)
        try:
            yield
        finally:
            self.key = _random_key()
            mx.random.seed(others)

    def begin_choice(self, tokens: list[int], logits: mx.array) -> object:
        """What `choose` will evaluate, lazy; an error of this run alone becomes `error`."""
        decoding = self.run.decoding
        try:
            with self.own_randomness():
                return decoding.next_token.begin(decoding.read, tokens, logits[:, -1, :])
        except Exception as error:
            self.error = error
            return []

    def choose(self, tokens: list[int], logits: mx.array, after: list[int] | None) -> int:
        """As `Decoding.choose`; an error of this run alone becomes `error`."""
        try:
            with self.own_randomness():
                return self.run.decoding.choose(tokens, logits, after, [])
        except Exception as error:
            self.error = error
            return -1


class Batch:
    """The prompts under way.

    Args:
        at_once: the most that take their steps together.

    Attributes:
        lanes: in the order of the model's rows.
        ended: the number of each prompt that ended → its run, and its error if it failed.
    """

    def __init__(self, engine: Engine, at_once: int) -> None:
        self.lanes: list[Lane] = []
        self.ended: dict[int, tuple[Run | None, Exception | None]] = {}
        self._engine, self._at_once = engine, at_once
        self._kv: Several | None = None
        self._events: list[Event] = []
        self._calls = 0
        engine._bus.begin_alone(self._events.append, *Recorder.KINDS)

    def join(self, waiting: Sequence[Waiting]) -> Iterator[Taken]:
        """Read these prompts together and sample their first tokens.

        If that fails each is read alone, so that only those fail that cannot be read.
        """
        if len(waiting) > 1 and self._engine.config.get("model_type") in PADDING_COUNTS:
            for each in waiting:
                yield from self.join([each])
            return
        lanes: list[Lane] = []
        for each in waiting:
            try:
                lanes.append(Lane(self._engine, each, self._at_once))
            except OutlierError as error:
                self.ended[each.number] = None, error
        if not lanes:
            return
        self.lanes += lanes  # an interrupt ends them, too
        kv = kv_of(self._engine.model, [lane.run.kv for lane in lanes])
        try:
            tokens = self._read(lanes, kv)
        except OutlierError as error:
            self._after_failure()
            if len(lanes) == 1:
                self._fail(lanes[0], error)
                return
            self.lanes = [lane for lane in self.lanes if lane not in lanes]
            for lane in lanes:
                yield from self.join([lane.waiting])
            return
        self._kv = self._kv.join(kv) if self._kv is not None and self._kv.count else kv
        yield from self._take(lanes, tokens)

    def step(self) -> Iterator[Taken]:
        """Decode one token of each prompt."""
        assert self._kv is not None, "prompts have joined"
        lanes, rewind = list(self.lanes), self._kv.start()
        pieces = [[lane.run.decoding.generated[-1]] for lane in lanes]
        try:
            tokens = self._call(DECODE, lanes, pieces, self._kv, None)
        except OutlierError as error:
            self._after_failure()
            if len(lanes) > 1 and rewind is not None:
                rewind()
                tokens = self._step_alone(lanes, pieces)
            else:
                for lane in lanes:
                    self._fail(lane, error)
                return
        yield from self._take(lanes, tokens)

    def end(self, reason: str, error: Exception | None = None) -> None:
        """End all that are under way."""
        for lane in list(self.lanes):
            self._end(lane, reason, error)

    def _step_alone(self, lanes: Sequence[Lane], pieces: Sequence[list[int]]) -> list[int]:
        """`step`, one prompt after the other; those that fail have an `error`."""
        assert self._kv is not None, "prompts have joined"
        model = self._engine.model
        found, each = [], [kv_of(model, [kv]) for kv in self._kv.split()]
        for lane, piece, kv in zip(lanes, pieces, each, strict=True):
            try:
                found += self._call(DECODE, [lane], [piece], kv, None)
            except OutlierError as error:
                self._after_failure()
                lane.error = error
                found.append(-1)
        self._kv = kv_of(model, [kv.layers for kv in each])
        return found

    def _read(self, lanes: Sequence[Lane], kv: Several) -> list[int]:
        """Read whole prompts in chunks, the last token of each at the end; their first tokens."""
        rests = [lane.run.rest for lane in lanes]
        lengths = [len(rest) - 1 for rest in rests]
        padded = kv.prepare(lengths)
        chunks = [lane.run.options.prefill_chunk or max(lengths) for lane in lanes]
        size = max(1, min(chunks) // len(lanes))
        for at in range(0, max(lengths), size):
            ends = [min(at + size, length) for length in lengths]
            pieces = [rest[at:end] for rest, end in zip(rests, ends, strict=True)]
            after = [rest[at + 1 : end + 1] for rest, end in zip(rests, ends, strict=True)]
            self._call(PREFILL, lanes, pieces, kv, after)
            give_back()
        if padded:
            kv.finalize()
        for lane in lanes:
            if lane.error is not None:
                raise as_ours(lane.error) from lane.error
        return self._call(PREFILL, lanes, [rest[-1:] for rest in rests], kv, None)

    def _call(
        self, phase: int, lanes: Sequence[Lane], pieces: Sequence[list[int]], kv: Several,
        after: Sequence[list[int]] | None,
    ) -> list[int]:  # fmt: skip
        """One forward pass over a piece of each prompt; the ids sampled after them.

        Args:
            pieces: tokens of each; an empty one has no call.
            after: as of `Decoding.choose`, of each.
        """
        engine = self._engine
        if engine._stop.is_set():
            raise Stopped
        begin = engine._clock()
        laid = kv.lay(pieces)
        part = [row for row, piece in enumerate(pieces) if piece]
        for row in part:
            tokens = np.array(pieces[row], np.int32)
            lanes[row].run.recorder(CallStarted(phase, tokens, begin))
        engine._relief.act()
        engine._kv_caches.running = kv.layers
        self._events.clear()
        self._announce(phase, pieces, laid)
        reported = engine._clock()
        engine._installed.tap.begin()
        logits = self._forward(laid, len(part), kv)
        forward = engine._clock()
        scored = after is None or any(lanes[row].run.options.score_prompt for row in part)
        kv.evaluate(logits if scored else None)
        produced = [-1] * len(lanes)
        mine = {row: logits[:, laid.spans[row]] for row in part}
        if after is None and len(part) > 1:
            _begin_choices([(lanes[row], pieces[row], mine[row]) for row in part])
        for row in part:
            if lanes[row].error is None:
                produced[row] = lanes[row].choose(
                    pieces[row], mine[row], None if after is None else after[row]
                )
        end = engine._clock()
        self._events += engine._installed.tap.drain()
        events = divided(self._events, [laid.spans[row] for row in part], self._calls)
        self._calls += 1
        for row, mine_events in zip(part, events, strict=True):
            if lanes[row].error is None:
                times = end - begin, end - forward, forward - reported, reported - begin
                lanes[row].run.decoding.end_call(StepDone(produced[row], *times), mine_events)
        if any(lanes[row].run.recorder.call_misses for row in part):
            check_files(engine)
        return produced

    def _announce(self, phase: int, pieces: Sequence[list[int]], laid: Laid) -> None:
        """Describe the call's rows to the pagers."""
        batch: BatchCall | None = None
        if len(pieces) > 1:
            padding = np.ones(sum(map(len, laid.tokens)), bool)
            for span in laid.spans:
                padding[span] = False
            decoding = phase == DECODE or max(map(len, pieces)) == 1
            batch = BatchCall(decoding, padding if padding.any() else None)
        for pager in self._engine._installed.pagers:
            pager.batch = batch

    def _forward(self, laid: Laid, prompts: int, kv: Several) -> mx.array:
        """Logits [1, rows, vocabulary]."""
        try:
            logits: mx.array = self._engine.model(mx.array(laid.tokens), cache=kv.layers)
        except UNCOMPUTABLE as error:
            raise UnsupportedModel(
                f"mlx-lm cannot compute this model for {prompts} prompts at once "
                f"({brief(error)}): give at_once=1"
            ) from error
        return logits.reshape(1, -1, logits.shape[-1])

    def _take(self, lanes: Sequence[Lane], tokens: Sequence[int]) -> Iterator[Taken]:
        """Yield the steps of these tokens; prompts that end or failed leave."""
        steps: list[Taken] = []
        for lane, token in zip(lanes, tokens, strict=True):
            if lane.error is not None:
                self._fail(lane, lane.error, leave=False)
                continue
            steps.append((lane.waiting.number, lane.run.decoding.take(token)))
            if lane.run.decoding.finish_reason:
                self._end(lane, lane.run.decoding.finish_reason, leave=False)
        self._leave()
        yield from steps

    def _fail(self, lane: Lane, error: Exception, leave: bool = True) -> None:
        self._end(lane, "error", error, leave)

    def _end(
        self, lane: Lane, reason: str, error: Exception | None = None, leave: bool = True
    ) -> None:
        """Keep a prompt's run, and its KV cache for others if it is whole."""
        self.ended[lane.waiting.number] = lane.run.finish(reason), error
        row = self.lanes.index(lane)
        kv, options = self._kv, lane.run.options
        if options.reuse_kv and lane.run.decoding.finish_reason and kv and row < kv.count:
            lane.run.keep_kv(kv.extract(row), whole=True)
        if leave:
            self._leave()

    def _leave(self) -> None:
        """Drop the prompts that ended."""
        stay = [row for row, lane in enumerate(self.lanes) if lane.waiting.number not in self.ended]
        if self._kv is not None:
            self._kv.keep([row for row in stay if row < self._kv.count])
        self.lanes = [self.lanes[row] for row in stay]

    def _after_failure(self) -> None:
        """Let no read and no evaluation of the failed call go on; raise what ends all prompts."""
        self._engine._installed.settle()
        check_files(self._engine)


def _begin_choices(choices: Sequence[tuple[Lane, list[int], mx.array]]) -> None:
    """Evaluate what all lanes choose from together: apart, each would wait for MLX's threads.

    If that fails each lane chooses by itself afterwards, with the random numbers it had.
    """
    keys, shared = [lane.key for lane, *_ in choices], _random_key()
    begun = [lane.begin_choice(tokens, logits) for lane, tokens, logits in choices]
    try:
        mx.eval(begun)
    except Exception:
        mx.random.seed(shared)
        for (lane, *_), key in zip(choices, keys, strict=True):
            lane.key = key
            lane.run.decoding.next_token.forget()


def _random_key() -> int:
    """MLX's present random state, as a seed that restores it."""
    state: Any = mx.random.state[0]  # type: ignore[index]  # mlx.core's stub says object
    high, low = state.tolist()
    return int(high << 32 | low)


def as_ours(error: Exception) -> OutlierError:
    """`error`, or one of ours with its message."""
    return error if isinstance(error, OutlierError) else OutlierError(brief(error))
