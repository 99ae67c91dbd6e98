"""Do a token's surprise, the router's entropy and the misses go together?

Three rank correlations (Spearman) over the decoded tokens of one run. Neighbouring tokens resemble
each other, so single tokens cannot be drawn again: the intervals are of a circular block bootstrap,
and hold for all three together (Bonferroni).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata, t

from ..events import DECODE
from ..formatting import count
from .measures import hits_per_step
from .router_entropy import router_entropy

if TYPE_CHECKING:
    from .trace import Trace

Floats = npt.NDArray[np.float64]

FEWEST = 32
"""With fewer tokens no interval is given."""
SAMPLES = 2_000
"""Bootstrap samples."""
MOST = 0.999999
"""Correlations nearer to 1 count as this: Fisher's scale has no end."""
BEYOND = 0.05
"""How often one of the three intervals may miss its correlation by chance."""
SURPRISE, ENTROPY, MISSES = "surprise", "router entropy", "misses"
PAIRS = ((SURPRISE, MISSES), (SURPRISE, ENTROPY), (ENTROPY, MISSES))
GO_TOGETHER = {
    (SURPRISE, MISSES): ("surprising tokens miss more", "surprising tokens miss less"),
    (SURPRISE, ENTROPY): (
        "the router is less decided at surprising tokens",
        "the router is more decided at surprising tokens",
    ),
    (ENTROPY, MISSES): (
        "tokens with an undecided router miss more",
        "tokens with an undecided router miss less",
    ),
}
"""What a positive and a negative correlation say."""


@dataclass(frozen=True)
class RankCorrelation:
    """One pair's rank correlation.

    Attributes:
        first, second: the names of the pair.
        rho: Spearman's, NaN if one of the two is always the same or unknown.
        low, high: its interval, NaN without one.
    """

    first: str
    second: str
    rho: float
    low: float
    high: float

    @property
    def beyond_chance(self) -> bool:
        """Whether the interval is all on one side of 0."""
        return self.low > 0 or self.high < 0

    @property
    def words(self) -> str:
        """What the correlation says, with its number; for one beyond chance."""
        more, less = GO_TOGETHER[self.first, self.second]
        return f"{more if self.rho > 0 else less} (rank correlation {self.rho:+.2f})"


@dataclass(frozen=True)
class Associations:
    """How surprise, router entropy and misses go together in one run.

    Attributes:
        steps: int64 [n], the decode steps that were compared.
        values: by name, float64 [n] each: nats, bits (the mean over layers), and experts.
        pairs: the correlations, in the order of `PAIRS`.
        sentence: the answer.
    """

    steps: npt.NDArray[np.int64]
    values: dict[str, Floats]
    pairs: tuple[RankCorrelation, ...]
    sentence: str


def associations(trace: Trace, seed: int = 0) -> Associations:
    """The rank correlations of a run's decoded tokens.

    Args:
        seed: of the bootstrap.

    Raises:
        TraceError: the trace's routing is not valid.
    """
    entropy = router_entropy(trace)
    known = (trace.phase == DECODE) & (
        np.isfinite(trace.logprobs) if len(trace.logprobs) else False
    )
    steps = np.flatnonzero(known)
    if not len(steps):
        why = "no token's probability was recorded" if not len(trace.logprobs) else "none decoded"
        return Associations(steps, {}, (), f"Nothing can be said: {why}.")
    bits = np.full(len(steps), np.nan)
    routed = np.isfinite(entropy[steps]).any(axis=1) if trace.layers else np.zeros(len(steps), bool)
    bits[routed] = np.nanmean(entropy[steps][routed], axis=1)
    misses = hits_per_step(trace)[1][steps] if trace.has("hits") else np.full(len(steps), np.nan)
    values = {
        SURPRISE: -trace.logprobs[steps].astype(np.float64),
        ENTROPY: bits,
        MISSES: np.asarray(misses, np.float64),
    }
    rng = np.random.default_rng(seed)
    pairs = tuple(_correlation(a, b, values[a], values[b], rng) for a, b in PAIRS)
    return Associations(steps, values, pairs, _sentence(len(steps), values, pairs))


def _correlation(
    first: str, second: str, x: Floats, y: Floats, rng: np.random.Generator
) -> RankCorrelation:
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return RankCorrelation(first, second, np.nan, np.nan, np.nan)
    ranks = rankdata(x), rankdata(y)
    rho = float(np.corrcoef(*ranks)[0, 1])
    if len(x) < FEWEST:
        return RankCorrelation(first, second, rho, np.nan, np.nan)
    # Quantiles of few blocks are too narrow: their spread, and Student's t, on Fisher's scale.
    found = np.arctanh(np.clip(_bootstrap(*ranks, rng), -MOST, MOST))
    wide = t.ppf(1 - BEYOND / len(PAIRS) / 2, len(x) // block_length(len(x)) - 1) * found.std()
    low, high = np.tanh(np.arctanh(np.clip(rho, -MOST, MOST)) + np.array([-wide, wide]))
    return RankCorrelation(first, second, rho, float(low), float(high))


def _bootstrap(x: Floats, y: Floats, rng: np.random.Generator) -> Floats:
    """Correlations of samples made of blocks of neighbours: [SAMPLES]."""
    n = len(x)
    length = block_length(n)
    x, y = x - x.mean(), y - y.mean()
    terms = np.stack([x, y, x * x, y * y, x * y])
    sums = np.cumsum(np.concatenate([np.zeros((5, 1)), terms, terms[:, :length]], axis=1), axis=1)
    blocks = (sums[:, length:] - sums[:, :-length])[:, :n]  # of each circular block
    starts = rng.integers(n, size=(SAMPLES, -(-n // length)))
    mean = blocks[:, starts].sum(axis=2) / (length * starts.shape[1])
    spread = np.sqrt((mean[2] - mean[0] ** 2) * (mean[3] - mean[1] ** 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        found = (mean[4] - mean[0] * mean[1]) / spread
    return np.asarray(np.nan_to_num(found), np.float64)


def block_length(tokens: int) -> int:
    """Tokens of a block: grows with the cube root, as is usual for a block bootstrap."""
    return max(2, round(3 * float(np.cbrt(tokens))))


def _sentence(tokens: int, values: dict[str, Floats], pairs: tuple[RankCorrelation, ...]) -> str:
    """The answer, about the pairs that go together beyond chance."""
    of = count(tokens, "decoded token")
    if tokens < FEWEST:
        return f"Too few tokens to say: {of}, and {FEWEST} or more are needed."
    same = [name for name, each in values.items() if not np.nanmax(each) > np.nanmin(each)]
    sure = [pair for pair in pairs if pair.beyond_chance]
    if sure:
        text = "; ".join(pair.words for pair in sure)
        return f"{text[0].upper()}{text[1:]}, in {of}."
    if len(same) > 1 or SURPRISE in same:
        return f"Nothing can be said: {' and '.join(same)} did not vary over {of}."
    names = [name for name in values if name not in same]
    which = f"{', '.join(names[:-1])} and {names[-1]}"
    return f"No sign in {of} that {which} go together: the intervals include 0."
