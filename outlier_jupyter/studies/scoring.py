"""Scores a text: its tokens' log-probabilities under one routing or another.

The text is read like a prompt, in one call, and the distributions at its last tokens are compared.
Nothing is sampled or recorded. Experts are read through the engine's cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from ..engine.engine import Engine
from ..engine.forward import logits_of
from ..engine.prompts import check_known
from ..engine.reference import divergences, log_probabilities
from ..errors import OptionError
from ..events import Event, Routed
from ..options import GenerateOptions


@dataclass(frozen=True)
class Scores:
    """Scores of a text's last tokens under one routing, one number per token.

    Attributes:
        log_probability: float64 [tokens], of the text's own token, nats.
        kl: float64 [tokens], KL(exact ‖ this) in nats; 0 for the exact routing.
        agrees: bool [tokens], whether the likeliest token is that of the exact routing.
    """

    log_probability: npt.NDArray[np.float64]
    kl: npt.NDArray[np.float64]
    agrees: npt.NDArray[np.bool_]


class Scorer:
    """Scores one text.

    Args:
        tokens: the ids of the text.
        first: the first token that is scored; those before it are its context.

    Attributes:
        exact: the scores under the model's own routing, whatever options it was loaded with.
        used: the (layer, expert) pairs that the text's tokens chose under it.

    Raises:
        OptionError: nothing to score, no context, or an unknown id.
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

    def scores(self, options: GenerateOptions | None = None, **routing: Any) -> Scores:
        """The scores under another routing: `mask`, `boost`, `force`, `top_k` …

        Args:
            options: the options of a run, instead of `routing`.
        """
        if options is None:
            options = self._engine.routing.options(routing)
        return self._scores(self._logits(options))

    def _scores(self, logits: mx.array) -> Scores:
        chosen = mx.array(self._tokens[self._first :])[:, None]
        own = mx.take_along_axis(log_probabilities(logits), chosen, axis=-1)[:, 0]
        kl, agrees = divergences(self._exact, logits)
        mx.eval(own, kl, agrees)
        return Scores(
            np.array(own, np.float64), np.array(kl, np.float64), np.array(agrees, np.bool_)
        )

    def _logits(self, options: GenerateOptions | None) -> mx.array:
        """Logits [tokens scored, vocabulary]; under the exact routing if `options` is None."""
        sink = self._note if options is None else None
        return logits_of(self._engine, self._tokens, self._first, options, sink)

    def _note(self, event: Event) -> None:
        if isinstance(event, Routed):
            experts = np.unique(event.experts[event.experts >= 0])
            self.used.update((event.layer, int(expert)) for expert in experts)
