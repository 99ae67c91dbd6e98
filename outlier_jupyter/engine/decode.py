"""One run under way: the path of one token, from ids to logits to the next id and its text.

The loop is mlx-lm's own order of work (prefill in chunks, the prompt's last token by itself,
then one token at a time) without its look-ahead: mlx-lm has the next step computed before it
hands out a token, which a paged model would pay with experts read for a token nobody wants.
Sampler, penalties, KV cache and detokenizer are mlx-lm's. Who pages and who watches is not
known here: the model is called, events are emitted.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from math import isfinite
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.generate import maybe_quantize_kv_cache
from mlx_lm.sample_utils import make_logits_processors, make_sampler

from ..errors import OptionError, UnsupportedModel, brief
from ..events import DECODE, PREFILL, CallStarted, Event, StepDone, TextProduced
from ..options import GenerateOptions
from ..paging import RouterTap, Stopped
from ..runs.run import Interrupted, Run, Step
from ..runs.text_stream import Transcript
from ..system.interrupt import Interrupts, deferred
from ..trace import Trace
from ..trace.recorder import Recorder
from .memory import give_back
from .reference import Reference

CLEAR_EVERY = 256
"""MLX's freed buffers are given back every so many tokens, as mlx-lm does, and files looked at."""

UNCOMPUTABLE = (AttributeError, IndexError, KeyError, NotImplementedError, TypeError, ValueError)
"""What mlx-lm's models and MLX raise where shapes, types or options do not go together."""
LOST_LIBRARY = "Could not load C++ shared library"
"""What MLX says where another process took away the file that it had just compiled."""


class Decoding:
    """Generates from `prompt` (ids the KV cache `kv` does not hold yet) until done or stopped.

    `check` is called now and then, and at the end, a failure's too: what it raises ends the run.

    Attributes:
        read: ids the model has read, and so the KV cache holds, in this run.
        generated: ids sampled so far; `text_ends`, how long the text was after each.
        transcript: the text so far.
        finish_reason: "" until the run has come to its own end.
    """

    def __init__(
        self,
        model: nn.Module,
        prompt: list[int],
        kv: list[Any],
        asked: GenerateOptions,
        *,
        transcript: Transcript,
        ends: set[int],
        recorder: Recorder,
        tap: RouterTap,
        emit: Callable[[Event], None],
        stop: threading.Event,
        clock: Callable[[], int],
        check: Callable[[], None] = lambda: None,
        reference: Reference | None = None,
    ) -> None:
        self.read: list[int] = []
        self.generated: list[int] = []
        self.text_ends: list[int] = []
        self.transcript = transcript
        self.finish_reason = ""
        self._model = model
        self._prompt = prompt
        self._kv = kv
        self._asked = asked
        self._ends = ends
        self._recorder = recorder
        self._tap = tap
        self._emit = emit
        self._stop = stop
        self._clock = clock
        self._check = check
        self._reference = reference
        self._sample = make_sampler(
            asked.temperature, top_p=asked.top_p, min_p=asked.min_p, top_k=asked.sample_top_k
        )
        penalty = asked.repetition_penalty if asked.repetition_penalty != 1.0 else None
        self._processors = make_logits_processors(None, penalty, asked.repetition_context)
        if asked.seed is not None:
            mx.random.seed(asked.seed)

    def steps(self) -> Iterator[Step]:
        """Yield each generated token.

        Raises:
            Stopped: `stop` was set; what was generated before stays in the attributes.
            UnsupportedModel: the model cannot be computed, or its logits are no numbers.
        """
        token: int | None = None
        try:
            while not self.finish_reason:
                token = self._prefill() if token is None else self._call(DECODE, [token])
                yield self._take(token)
                if self._stop.is_set():
                    raise Stopped
        except Stopped:
            raise
        except Exception:
            self._check()  # it may have come of that
            raise
        self._check()

    def result(
        self, asked: str, encoded: str, reason: str, trace: Trace, spell: Callable[[int], bytes]
    ) -> Run:
        """The run as far as it has come; arguments are `Run`'s."""
        return Run(
            prompt=asked,
            encoded=encoded,
            text=self.transcript.text,
            tokens=np.array(self.generated, np.int32),
            finish_reason=reason,
            trace=trace,
            text_ends=np.array(self.text_ends, np.int32),
            spell=spell,
        )

    def _prefill(self) -> int:
        """Read the prompt, and sample the first token from its last."""
        rest = self._prompt
        while len(rest) > 1:
            size = min(self._asked.prefill_chunk or len(rest), len(rest) - 1)
            self._call(PREFILL, rest[:size], sample=False)
            give_back()
            rest = rest[size:]
        return self._call(PREFILL, rest)

    def _call(self, phase: int, tokens: list[int], sample: bool = True) -> int:
        """One forward pass over `tokens`; the id sampled after the last, or -1 without `sample`."""
        if self._stop.is_set():
            raise Stopped
        begin = self._clock()
        self._emit(CallStarted(phase, np.array(tokens, np.int32), begin))
        told = self._clock()
        self._tap.begin()
        logits = self._forward(tokens)
        forward = self._clock()
        if sample:
            produced = self._sampled(tokens, logits[:, -1, :])
        else:
            mx.eval([layer.state for layer in self._kv])
            produced = -1
        end = self._clock()
        self.read += tokens
        for event in self._tap.drain():
            self._emit(event)
        self._emit(StepDone(produced, end - begin, end - forward, forward - told, told - begin))
        if self._reference is not None:
            self._compare(tokens, logits[:, -1, :] if sample else None)
        return produced

    def _compare(self, tokens: list[int], logits: mx.array | None) -> None:
        """Have the exact model read the same, and tell how far this call was from it."""
        assert self._reference is not None
        found = self._reference.follow(tokens, logits)
        if found is not None:
            self._emit(found)

    def _forward(self, tokens: list[int]) -> mx.array:
        """The model's logits [1, tokens, vocabulary], with the KV cache quantised if asked."""
        asked = self._asked
        try:
            logits: mx.array = self._model(mx.array(tokens)[None], cache=self._kv)
            maybe_quantize_kv_cache(
                self._kv, asked.quantized_kv_start, asked.kv_group_size, asked.kv_bits
            )
        except UNCOMPUTABLE as error:
            if asked.kv_bits is None:
                raise UnsupportedModel(
                    f"this model cannot be computed as its config.json says ({brief(error)}): "
                    "check the file, or copy it from the original model"
                ) from error
            raise OptionError(
                f"mlx-lm cannot run this model with a KV cache of {asked.kv_bits} bits in groups "
                f"of {asked.kv_group_size} ({error}): change kv_group_size or leave kv_bits out"
            ) from error
        return logits

    def _sampled(self, tokens: list[int], logits: mx.array) -> int:
        """The id after `tokens`, asked for twice where MLX lost what it had just compiled.

        On a CPU MLX compiles a sampler's functions when they are first evaluated, into a folder
        that all processes share. Two that do so at the same moment can take each other's files
        away ("Could not load C++ shared library"); the second time the library is there.
        """
        key: Any = mx.random.state[0]  # type: ignore[index]  # mlx.core's stub says object
        try:
            token, scale = self._evaluated(tokens, logits)
        except RuntimeError as error:
            if LOST_LIBRARY not in str(error):
                raise
            high, low = key.tolist()
            mx.random.seed(high << 32 | low)
            token, scale = self._evaluated(tokens, logits)
        if not isfinite(scale):
            raise UnsupportedModel(
                f"the logits after token {len(self.read) + len(tokens):,} hold NaN or infinity, so "
                "no token can be chosen: the weights or their scales are damaged; download or copy "
                "the shards again, or repack"
            )
        return token

    def _evaluated(self, tokens: list[int], logits: mx.array) -> tuple[int, float]:
        """The id chosen, and the logarithm of the logits' sum: the one sync per token."""
        sampled, scale = self._next(tokens, logits)
        mx.eval(sampled, scale)
        token: Any = sampled.item()
        total: Any = scale.item()
        return int(token), float(total)

    def _next(self, tokens: list[int], logits: mx.array) -> tuple[mx.array, mx.array]:
        """Penalties and sampler as in mlx-lm's `generate_step`: logits [1, vocabulary] → id [1].

        Beside it the logarithm of the sum that they are normalised by, [1, 1].
        """
        for process in self._processors:
            logits = process(mx.array(self.read + tokens), logits)
        scale = mx.logsumexp(logits, keepdims=True)
        return self._sample(logits - scale), scale

    def _take(self, token: int) -> Step:
        """Book one token: its text, and whether the run ends with it."""
        self.generated.append(token)
        text = "" if token in self._ends else self.transcript.add(token)
        if token in self._ends or self.transcript.stopped:
            self.finish_reason = "stop"
        elif len(self.generated) == self._asked.max_tokens:
            self.finish_reason = "length"
        if self.finish_reason:
            text += self.transcript.finish()
        self.text_ends.append(len(self.transcript.text))
        if text:
            self._emit(TextProduced(text))
        if len(self.generated) % CLEAR_EVERY == 0:
            give_back()
            self._check()
        seen = self._recorder
        return Step(
            token=token,
            text=text,
            ns=seen.call_ns,
            hits=seen.call_hits,
            misses=seen.call_misses,
            nbytes=seen.call_nbytes,
            finish_reason=self.finish_reason or None,
        )


class Begun:
    """A run whose `steps` are made as they are asked for, and in the end the `run` itself."""

    def __init__(
        self, interrupts: Interrupts, steps: Generator[Step, None, None], made: list[Run]
    ) -> None:
        # A plain generator: of a class of ours a traceback would keep the frame, and it open.
        self.steps = _undisturbed(interrupts, steps, made)
        self._made = made

    @property
    def run(self) -> Run | None:
        """The run, also one that was interrupted or failed; None as long as it is under way."""
        return self._made[-1] if self._made else None


def _undisturbed(
    interrupts: Interrupts, steps: Generator[Step, None, None], made: list[Run]
) -> Generator[Step, None, None]:
    """Hand out a run's steps; while it makes one, or ends, SIGINT asks it to stop and no more.

    A KeyboardInterrupt that comes in between, or that a caller throws in, ends the run in order.

    Args:
        made: the run is put there once it has ended.

    Raises:
        Interrupted: also where the run was whole already when it was interrupted.
    """
    try:
        while True:
            with interrupts:
                step = next(steps, None)
                if step is None and made and interrupts.noted:
                    raise Interrupted(made[-1])
            if step is None:
                return
            yield step
    except Interrupted:
        raise
    except KeyboardInterrupt:
        with interrupts:
            steps.close()
            if made:
                raise Interrupted(made[-1]) from None
        raise
    finally:
        with deferred():
            steps.close()
