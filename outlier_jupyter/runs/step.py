"""One generated token, as a run's stream yields it."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import nan

import numpy as np
import numpy.typing as npt

from ..events import Predicted


@dataclass(frozen=True)
class Step:
    """One generated token, as `Engine.stream` yields it.

    Attributes:
        token: its id.
        text: the text that the detokenizer released with it; may be empty.
        ns: wall time of the model call that produced it, in nanoseconds.
        hits, misses: of that call, over all MoE layers.
        nbytes: bytes of expert weights read for it.
        finish_reason: None, or on the last step why the run ended.
        predicted: the call's event of what the model found likely; None if unknown.
        experts: what each MoE layer chose for the last token that the call read, [layers, k] in
            the router's order; -1 where a layer chooses fewer. [0, 0] if unknown.
    """

    token: int
    text: str
    ns: int
    hits: int
    misses: int
    nbytes: int
    finish_reason: str | None = None
    predicted: Predicted | None = field(default=None, repr=False, compare=False)
    experts: npt.NDArray[np.int16] = field(
        default_factory=lambda: np.zeros((0, 0), np.int16), repr=False, compare=False
    )

    @property
    def logprob(self) -> float:
        """The token's log-probability in nats, by the model itself: before penalties, bias, masks
        and temperature. NaN if unknown.
        """
        return nan if self.predicted is None else float(self.predicted.rows["logprob"][-1])

    @property
    def rank(self) -> int:
        """Its rank among all tokens, 1 for the likeliest; 0 if unknown."""
        return 0 if self.predicted is None else int(self.predicted.rows["rank"][-1])

    @property
    def entropy(self) -> float:
        """The entropy of the model's whole distribution, in nats; NaN if unknown."""
        return nan if self.predicted is None else float(self.predicted.rows["entropy"][-1])

    @property
    def alternatives(self) -> tuple[tuple[int, float], ...]:
        """The likeliest tokens as (id, log-probability), likeliest first; this one may be among
        them.
        """
        if self.predicted is None:
            return ()
        row = self.predicted.rows[-1]
        pairs = zip(row["alternatives"].tolist(), row["alternative_logprobs"].tolist(), strict=True)
        return tuple((token, logprob) for token, logprob in pairs if token >= 0)
