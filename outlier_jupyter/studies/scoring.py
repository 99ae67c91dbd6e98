"""How likely a model finds a text that is given, under one routing and another.

All of the text is read in one go, as a prompt is, and the distributions after its last tokens are
kept: nothing is sampled and nothing recorded. Experts come through the engine's slots as ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt
from mlx_lm.models.cache import make_prompt_cache

from ..engine.engine import Engine
from ..engine.prompts import check_known
from ..engine.reference import divergences, log_probabilities
from ..errors import OptionError
from ..events import Event, HeldLayers, Routed
from ..options import GenerateOptions
from ..paging import Stopped

CHUNK = 512
"""Tokens a forward pass."""


@dataclass(frozen=True)
class Scores:
    """What a routing makes of a text's last tokens: an array each, one number a token.

    Attributes:
        log_probability: float64 [tokens], of the text's own token, nats.
        kl: float64 [tokens], KL(exact ‖ this) in nats; 0 of the exact one.
        agrees: bool [tokens], whether the likeliest token is the exact one's.
    """

    log_probability: npt.NDArray[np.float64]
    kl: npt.NDArray[np.float64]
    agrees: npt.NDArray[np.bool_]


class Scorer:
    """Scores one text.

    Args:
        tokens: the ids of the text.
        first: the first of them that is scored; those before it are what it follows.

    Attributes:
        exact: the scores under the routing that the model has of itself, whatever it was loaded
            with.
        used: the (layer, expert) pairs that the text's tokens chose under it.

    Raises:
        OptionError: there is nothing to score, nothing before it, or an id that the model has not.
        KeyboardInterrupt: stopped.
    """

    def __init__(self, engine: Engine, tokens: Sequence[int], first: int) -> None:
        if not 0 < first < len(tokens):
            raise OptionError(
                f"{len(tokens)} tokens cannot be scored from number {first} on: give a text with "
                "something before it"
            )
        check_known(tokens, engine.config)
        self.used: set[tuple[int, int]] = set()
        self._engine = engine
        self._tokens = list(tokens)
        self._first = first
        self._exact = self._logits(None)
        self.exact = self._scores(self._exact)

    def scores(self, asked: GenerateOptions | None = None, **routing: Any) -> Scores:
        """The scores under another routing: `mask`, `boost`, `force`, `top_k` …

        Args:
            asked: the options of a run, in place of `routing`.
        """
        if asked is None:
            asked = self._engine.routing.options(routing)
        return self._scores(self._logits(asked))

    def _scores(self, logits: mx.array) -> Scores:
        chosen = mx.array(self._tokens[self._first :])[:, None]
        own = mx.take_along_axis(log_probabilities(logits), chosen, axis=-1)[:, 0]
        kl, agrees = divergences(self._exact, logits)
        mx.eval(own, kl, agrees)
        return Scores(
            np.array(own, np.float64), np.array(kl, np.float64), np.array(agrees, np.bool_)
        )

    def _logits(self, asked: GenerateOptions | None) -> mx.array:
        """Logits [tokens scored, vocabulary]; under the exact routing without `asked`."""
        engine = self._engine
        kv = make_prompt_cache(engine.model)
        kept: list[mx.array] = []
        pagers, tap = engine._installed.pagers, engine._installed.tap
        routing = engine.routing.exact() if asked is None else engine.routing.applied(asked)
        try:
            with ExitStack() as held:
                held.enter_context(engine._interrupts)
                held.enter_context(engine.turns.ending())
                held.enter_context(engine._alone())
                held.enter_context(routing)
                if asked is None:
                    for pager in pagers:
                        held.callback(setattr, pager, "sink", pager.sink)
                        pager.sink = self._hear
                # The last token is what is predicted last: it is not read.
                for at in range(0, len(self._tokens) - 1, CHUNK):
                    part = self._tokens[at : min(at + CHUNK, len(self._tokens) - 1)]
                    tap.begin()  # layers that are held for good tell their ids by it alone
                    logits = engine.model(mx.array(part)[None], cache=kv)[0]
                    wanted = logits[max(0, self._first - 1 - at) :]
                    mx.eval(wanted, [layer.state for layer in kv])
                    for event in tap.drain():
                        if asked is None:
                            self._hear(event)
                    kept.append(wanted)
        except Stopped:
            raise KeyboardInterrupt from None
        return mx.concatenate([part for part in kept if len(part)])

    def _hear(self, event: Event) -> None:
        if isinstance(event, HeldLayers):
            for single in event.singly():
                self._hear(single)
        elif isinstance(event, Routed):
            experts = np.unique(event.experts[event.experts >= 0])
            self.used.update((event.layer, int(expert)) for expert in experts)
