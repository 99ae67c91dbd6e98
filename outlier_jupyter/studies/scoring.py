"""How likely a model finds a text that is given, under one routing and another.

All of the text is read in one go, as a prompt is, and the distributions after its last tokens are
kept: nothing is sampled and nothing recorded. Experts come through the engine's slots as ever.
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
        sink = self._note if asked is None else None
        return logits_of(self._engine, self._tokens, self._first, asked, sink)

    def _note(self, event: Event) -> None:
        if isinstance(event, Routed):
            experts = np.unique(event.experts[event.experts >= 0])
            self.used.update((event.layer, int(expert)) for expert in experts)
