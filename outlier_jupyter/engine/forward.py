"""A text's logits in one pass, as a prompt is read: nothing is sampled and nothing recorded."""

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
"""Tokens a forward pass."""


def logits_of(
    engine: Engine,
    tokens: Sequence[int],
    first: int,
    options: GenerateOptions | None = None,
    sink: Callable[[Event], object] | None = None,
) -> mx.array:
    """Logits [tokens - first, vocabulary] of what follows each token from `first - 1` on.

    Args:
        first: the first token that is predicted; those before it are what it follows.
        options: of the routing; None for the model's own.
        sink: receives the events of the pass, each by itself.

    Raises:
        KeyboardInterrupt: stopped.
    """

    def report(event: Event) -> None:
        for single in event.singly() if isinstance(event, ResidentLayers) else (event,):
            if sink is not None:
                sink(single)

    kv = make_prompt_cache(engine.model)
    kept: list[mx.array] = []
    pagers, tap = engine._installed.pagers, engine._installed.tap
    routing = engine.routing.exact() if options is None else engine.routing.applied(options)
    try:
        with ExitStack() as until_read:
            until_read.enter_context(engine._interrupts)
            until_read.enter_context(engine.turns.ending())
            until_read.enter_context(engine._alone())
            until_read.enter_context(routing)
            for pager in pagers if sink is not None else ():
                until_read.callback(setattr, pager, "sink", pager.sink)
                pager.sink = report
            # The last token is what is predicted last: it is not read.
            for at in range(0, len(tokens) - 1, CHUNK):
                part = list(tokens[at : min(at + CHUNK, len(tokens) - 1)])
                tap.begin()  # layers that are resident for good report their ids by it alone
                logits = engine.model(mx.array(part)[None], cache=kv)[0]
                wanted = logits[max(0, first - 1 - at) :]
                mx.eval(wanted, [layer.state for layer in kv])
                for event in tap.drain():
                    report(event)
                kept.append(wanted)
    except Stopped:
        raise KeyboardInterrupt from None
    return mx.concatenate([part for part in kept if len(part)])
