"""The logits of a text, computed as a prompt is read: nothing is sampled or recorded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from ..events import Event, ResidentLayers
from ..options import GenerateOptions
from ..paging import Stopped
from .engine import Engine

CHUNK = 512
"""Tokens per forward pass."""


def logits_of(
    engine: Engine,
    tokens: Sequence[int],
    first: int,
    options: GenerateOptions | None = None,
    sink: Callable[[Event], object] | None = None,
) -> mx.array:
    """Logits [tokens - first, vocabulary] that predict `tokens[first:]`.

    Args:
        first: index of the first predicted token; the tokens before it are its context.
        options: routing options; None for the model's own routing.
        sink: receives the individual events of the pass.

    Raises:
        KeyboardInterrupt: the pass was stopped.
    """

    def report(event: Event) -> None:
        for single in event.events() if isinstance(event, ResidentLayers) else (event,):
            if sink is not None:
                sink(single)

    kv = make_prompt_cache(engine.model)
    kept: list[mx.array] = []
    pagers, tap = engine._installed.pagers, engine._installed.tap
    routing = engine.routing.exact() if options is None else engine.routing.applied(options)
    try:
        with ExitStack() as stack:
            stack.enter_context(engine._interrupts)
            stack.enter_context(engine.run_lock.ends_by_itself())
            stack.enter_context(engine._alone())
            stack.enter_context(routing)
            for pager in pagers if sink is not None else ():
                stack.callback(setattr, pager, "sink", pager.sink)
                pager.sink = report
            # The last token is only predicted, never read.
            for at in range(0, len(tokens) - 1, CHUNK):
                part = list(tokens[at : min(at + CHUNK, len(tokens) - 1)])
                tap.begin()  # fully resident layers report their ids only through the tap
                logits = engine.model(mx.array(part)[None], cache=kv)[0]
                wanted = logits[max(0, first - 1 - at) :]
                mx.eval(wanted, [layer.state for layer in kv])
                for event in tap.drain():
                    report(event)
                kept.append(wanted)
    except Stopped:
        raise KeyboardInterrupt from None
    return mx.concatenate([part for part in kept if len(part)])
