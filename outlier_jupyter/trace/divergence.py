"""Measures how far the routing of two texts differs, and tests whether that exceeds noise.

The measure is the Jensen–Shannon divergence of the experts' shares in one layer: 0 bits when the
shares are equal, 1 when no expert is shared. Between finite samples it is never 0, so a permutation
test gives its value by chance: blocks of neighbouring tokens are assigned to the two sides at
random. Single tokens cannot be permuted. Neighbours choose similar experts, so a text has far fewer
independent tokens than tokens, and any two texts would seem to differ. The block length is a
multiple of the measured correlation time.

Layers are corrected for multiple tests by Benjamini and Hochberg (false discovery rate), experts by
Westfall and Young's maximum statistic (family-wise). Intervals are basic bootstrap intervals over
the same blocks, of the divergence minus its mean by chance: a plain bootstrap removes too little of
the upward bias when there are hundreds of experts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.stats import false_discovery_control

from ..aliases import alias
from ..errors import OptionError
from . import compiled_folds as passes
from .phases import Phase, in_phase
from .routing_measures import Floats, Ints, choices, entropy
from .trace import Trace
from .validate import check_routing

SHORTEST_BLOCK = 8
"""The shortest block in tokens, where the text is long enough."""
BLOCK_PER_CORRELATION = 8
"""Block length over correlation time. Measured: docs/experiments/measures.md."""
FEWEST_BLOCKS, MOST_BLOCKS = 6, 200
"""Blocks per side: below the first, blocks get shorter; above the second, longer."""
LONGEST_LAG, MOST_TOKENS = 64, 2048
"""The longest lag, and the most tokens, that the correlation time is estimated from."""
PERMUTATION_BATCH = 64
"""Permutations computed at a time."""
MOST_PERMUTATIONS = 20_000
"""One number per layer and expert is kept for each permutation."""


@dataclass(frozen=True)
class RoutingDivergence:
    """How far the routing of two samples differs.

    Attributes:
        js: float64 [layers], Jensen–Shannon divergence in bits, 0 to 1.
        expected: float64 [layers], its mean over random permutations of the blocks.
        low, high: float64 [layers], the 95 % interval of `excess`.
        p: float64 [layers], how often chance reaches `js`; at least 1 / (permutations + 1).
        q: float64 [layers], `p` corrected for the number of layers.
        difference: float64 [layers, experts], share in the first minus share in the second.
        expert_p: float64 [layers, experts], corrected for the number of experts and layers.
        block: block length in tokens.
        blocks: how many blocks each side has.
        permutations: how many were drawn.
        correlation_time: in tokens, the larger of the two texts'; `stays` is its old name.
        gap: tokens left out at the end of each block; see `gap_length`.
    """

    js: Floats
    expected: Floats
    low: Floats
    high: Floats
    p: Floats
    q: Floats
    difference: Floats
    expert_p: Floats
    block: int
    blocks: tuple[int, int]
    permutations: int
    correlation_time: float = 1.0
    gap: int = 0
    stays = alias("correlation_time")

    @property
    def caution(self) -> str:
        """Why small values of `p` are unreliable; "" when they are reliable."""
        if self.block >= round(BLOCK_PER_CORRELATION * self.correlation_time):
            return ""
        return (
            f"routing stays alike for about {self.correlation_time:.1f} tokens, and the shorter "
            f"text has too few for blocks longer than {self.block}: differences may be chance; use "
            "longer texts"
        )

    @property
    def excess(self) -> Floats:
        """Divergence minus its mean by chance: float64 [layers], bits; may be below 0."""
        return self.js - self.expected

    @property
    def open_size(self) -> str:
        """Why a layer that differs may have an interval that reaches 0; "" if none has."""
        if not (self.low[self.differing()] <= 0).any():
            return ""
        return (
            "an interval that reaches 0 leaves open how much a layer differs; that it differs "
            "beyond chance is the permutation test's finding"
        )

    def differing(self, alpha: float = 0.05) -> Ints:
        """The layers that differ at a false discovery rate of `alpha`; none under a `caution`."""
        if self.caution:
            return np.zeros(0, np.int64)
        return np.flatnonzero(self.q <= alpha)


def divergence(first: npt.NDArray[np.generic], second: npt.NDArray[np.generic]) -> Floats:
    """Jensen–Shannon divergence in bits of counts along the last axis; NaN where one is empty."""
    shares = []
    for counts in (first, second):
        total = counts.sum(axis=-1, keepdims=True)
        with np.errstate(invalid="ignore", divide="ignore"):
            shares.append(np.asarray(counts / total, np.float64))
    middle = (shares[0] + shares[1]) / 2
    bits = [_entropy_of_shares(each) for each in (middle, *shares)]
    return np.asarray(np.maximum(bits[0] - (bits[1] + bits[2]) / 2, 0.0))


def _entropy_of_shares(shares: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(-(shares * np.log2(np.where(shares > 0, shares, 1.0))).sum(axis=-1))


def correlation_time(trace: Trace, phase: Phase = None) -> float:
    """The number of tokens over which routing is correlated: 1 when tokens are independent.

    The integrated correlation time, 1 + 2 Σ c(lag). c is the share of common experts above the
    share that the layers' frequencies give by chance. The sum ends where c falls below 0.05, or at
    `LONGEST_LAG`.
    """
    check_routing(trace)
    steps = np.flatnonzero(in_phase(trace, phase))[:MOST_TOKENS]
    if len(steps) < 2:
        return 1.0
    experts = np.ascontiguousarray(trace.experts[steps].transpose(1, 0, 2))
    shared, compared = np.zeros((2, min(LONGEST_LAG, len(steps) - 1)), np.int64)
    passes.shared_at_lags(experts, shared, compared)
    counts = np.zeros((1, trace.layers, max(trace.info.experts_per_layer)), np.int64)
    passes.count_in_bins(trace.experts[steps], np.zeros(len(steps), np.int64), counts)
    chance = (counts.astype(float) ** 2).sum() / len(steps) / max(int(counts.sum()), 1)
    if chance >= 1:
        return 1.0
    with np.errstate(invalid="ignore", divide="ignore"):
        common = (shared / compared - chance) / (1 - chance)
    uncorrelated = np.flatnonzero(~(common >= 0.05))
    end = int(uncorrelated[0]) if len(uncorrelated) else len(common)
    return 1.0 + 2.0 * float(common[:end].sum())


def block_length(tokens: tuple[int, ...], time: float) -> int:
    """The block length for samples of `tokens` tokens each with this correlation time."""
    wanted = max(
        SHORTEST_BLOCK, round(BLOCK_PER_CORRELATION * time), -(-max(tokens) // MOST_BLOCKS)
    )
    return max(1, min(wanted, min(tokens) // FEWEST_BLOCKS))


def gap_length(length: int, time: float) -> int:
    """Tokens left out at the end of a block, so that the next block is independent of it.

    Without the gap neighbouring blocks correlate, and a permutation separates them. Divergence by
    chance then comes out too small, which is visible with hundreds of experts.
    """
    return min(round(2 * (time - 1)), length // 2)


def blocks_of(trace: Trace, phase: Phase, length: int, gap: int = 0) -> npt.NDArray[np.float32]:
    """Choice counts in blocks of `length` neighbouring tokens, without the last `gap` of each.

    Returns:
        float32 [blocks, layers, experts].
    """
    mine = in_phase(trace, phase)
    at = np.arange(int(mine.sum()))
    count = -(-len(at) // length)
    group = np.full(trace.steps, count)
    group[mine] = np.where(at % length < length - gap, at // length, count)
    return choices(trace, group, count + 1)[:count].astype(np.float32)


def part(
    first: Trace,
    second: Trace,
    phase: Phase = None,
    permutations: int = 999,
    seed: int = 0,
    other: Phase = None,
) -> RoutingDivergence:
    """Compare the routing of two traces of one model.

    Args:
        phase: "prefill", "decode", a kind of token, or None for all steps; `other` is that of the
            second trace, where it is another one, as for two kinds of one trace.
        permutations: random permutations, and as many bootstrap samples for the interval.

    Raises:
        OptionError: the traces are of different models, or one has fewer than two tokens in the
            phase.
    """
    if not 1 <= permutations <= MOST_PERMUTATIONS:
        raise OptionError(
            f"permutations={permutations!r} cannot be used: give 1 to {MOST_PERMUTATIONS:,}"
        )
    for trace in (first, second):
        check_routing(trace)
    if first.info.experts_per_layer != second.info.experts_per_layer or not first.layers:
        raise OptionError(
            "these runs cannot be compared: they are of models with different expert layers, "
            f"{shape_words(first)} and {shape_words(second)}"
        )
    sides = ((first, in_phase(first, phase)), (second, in_phase(second, _or(other, phase))))
    tokens = tuple(int(mask.sum()) for _, mask in sides)
    if min(tokens) < 2:
        where = "all" if phase is None else phase if isinstance(phase, str | int) else "these"
        raise OptionError(
            f"these runs cannot be compared: one has {min(tokens)} tokens in {where} steps, and at "
            "least 2 are needed"
        )
    time = max(correlation_time(trace, mask) for trace, mask in sides)
    length = block_length(tokens, time)
    gap = gap_length(length, time)
    a, b = (blocks_of(trace, mask, length, gap) for trace, mask in sides)
    found = compare_blocks(a, b, length, permutations, np.random.default_rng(seed))
    return replace(found, correlation_time=time, gap=gap)


def _or(phase: Phase, default: Phase) -> Phase:
    return default if phase is None else phase


def compare_blocks(
    a: npt.NDArray[np.float32],
    b: npt.NDArray[np.float32],
    length: int,
    permutations: int,
    rng: np.random.Generator,
) -> RoutingDivergence:
    """The same from counted blocks, each side [blocks, layers, experts]."""
    js = divergence(a.sum(axis=0), b.sum(axis=0))
    difference = _difference(a.sum(axis=0), b.sum(axis=0))
    pool = np.concatenate([a, b])
    batches = [
        min(PERMUTATION_BATCH, permutations - done)
        for done in range(0, permutations, PERMUTATION_BATCH)
    ]
    permuted = [_permute(pool, len(a), n, rng) for n in batches]
    chance = np.concatenate([divergence(x, y) for x, y in permuted])
    by_chance = np.concatenate([_difference(x, y).astype(np.float32) for x, y in permuted])
    drawn = np.concatenate(
        [divergence(_resample(a, n, rng), _resample(b, n, rng)) for n in batches]
    )
    p = (1 + (chance >= js - 1e-12).sum(axis=0)) / (permutations + 1)
    p = np.where(np.isnan(js), np.nan, p)
    low, high = (
        js - chance.mean(axis=0) + drawn.mean(axis=0) - np.quantile(drawn, (0.975, 0.025), axis=0)
    )
    return RoutingDivergence(
        js=js,
        expected=chance.mean(axis=0),
        low=low,
        high=high,
        p=p,
        q=corrected(p),
        difference=difference,
        expert_p=_largest_statistic(difference, by_chance),
        block=length,
        blocks=(len(a), len(b)),
        permutations=permutations,
    )


def corrected(p: Floats) -> Floats:
    """`p` corrected by Benjamini and Hochberg; NaN stays NaN."""
    out, there = np.full(p.shape, np.nan), ~np.isnan(p)
    if there.any():
        out[there] = false_discovery_control(p[there], method="bh")
    return out


def _largest_statistic(observed: Floats, by_chance: npt.NDArray[np.float32]) -> Floats:
    """p of each difference: how often the largest standardised difference by chance reaches it."""
    spread = by_chance.std(axis=0)
    known = np.isfinite(spread) & (spread > 1e-9)
    scale = np.where(known, spread, 1.0)
    score = np.where(known, np.abs(observed) / scale, 0.0)
    largest = np.sort(np.where(known, np.abs(by_chance) / scale, 0.0).max(axis=(1, 2), initial=0))
    reached = len(largest) - np.searchsorted(largest, score - 1e-6)
    return np.where(known, (1 + reached) / (len(largest) + 1), 1.0)


def _difference(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(
            a / a.sum(axis=-1, keepdims=True) - b / b.sum(axis=-1, keepdims=True), np.float64
        )


def _permute(
    pool: npt.NDArray[np.float32], first: int, times: int, rng: np.random.Generator
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Sums of both sides for `times` random assignments of `first` blocks to the first side."""
    rank = rng.permuted(np.tile(np.arange(len(pool)), (times, 1)), axis=1)
    flat = pool.reshape(len(pool), -1)
    mine = (rank < first).astype(np.float32) @ flat
    shape = (times, *pool.shape[1:])
    return mine.reshape(shape), np.maximum(flat.sum(axis=0) - mine, 0).reshape(shape)


def _resample(
    blocks: npt.NDArray[np.float32], times: int, rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Sums of `times` bootstrap samples of the blocks."""
    weights = rng.multinomial(len(blocks), np.full(len(blocks), 1 / len(blocks)), times)
    sums = weights.astype(np.float32) @ blocks.reshape(len(blocks), -1)
    return sums.reshape(times, *blocks.shape[1:])


def log_share_ratios(trace: Trace, other: Trace, phase: Phase = None) -> Floats:
    """How much more each token of `trace` is routed like its own text than like `other`.

    The mean over the token's choices of log2(share of the expert in its own text without this
    token / share in the other text), with half a choice added to every expert.

    Returns:
        float64 [steps], bits per choice; NaN outside the phase and where no expert was chosen.
    """
    mine, theirs = in_phase(trace, phase), in_phase(other, phase)
    own = choices(trace, np.where(mine, 0, 1), 2)[0]
    against = choices(other, np.where(theirs, 0, 1), 2)[0]
    sizes = np.asarray(trace.info.experts_per_layer)[:, None]
    there = trace.experts >= 0
    layer = np.arange(trace.layers)[None, :, None]
    ids = np.maximum(trace.experts, 0)
    k = there.sum(axis=2, keepdims=True)
    without = (own[layer, ids] - 1 + 0.5) / (own.sum(axis=1)[None, :, None] - k + sizes / 2)
    share = (against[layer, ids] + 0.5) / (against.sum(axis=1)[:, None] + sizes / 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        bits = np.where(there & mine[:, None, None], np.log2(without / share), 0.0)
        total = bits.sum(axis=(1, 2)) / there.sum(axis=(1, 2))
    return np.where(mine, total, np.nan)


@dataclass(frozen=True)
class Information:
    """The mutual information of a token's domain and its chosen experts.

    Attributes:
        bits: float64 [layers], mutual information of domain and expert.
        expected, p, q: float64 [layers], as in `RoutingDivergence`.
        lift: float64 [domains, layers, experts], log2 of an expert's share in a domain over its
            share in all domains; 0 where they are equal, -inf where it was never chosen.
    """

    bits: Floats
    expected: Floats
    p: Floats
    q: Floats
    lift: Floats


def information(
    groups: list[npt.NDArray[np.float32]], permutations: int = 999, seed: int = 0
) -> Information:
    """Mutual information of domain and expert per layer, tested by permuting blocks over domains.

    Args:
        groups: the blocks of each domain, float32 [blocks, layers, experts]; see `blocks_of`.
    """
    rng = np.random.default_rng(seed)
    pool = np.concatenate(groups)
    domain = np.repeat(np.arange(len(groups)), [len(group) for group in groups])

    def mutual(domains: npt.NDArray[np.integer]) -> Floats:
        counts = np.stack([pool[domains == d].sum(axis=0) for d in range(len(groups))])
        weights = counts.sum(axis=2) / np.maximum(counts.sum(axis=(0, 2)), 1)
        bits = np.nan_to_num(entropy(counts.astype(np.int64)))
        whole = entropy(counts.sum(axis=0).astype(np.int64))
        return np.asarray(whole - (weights * bits).sum(axis=0), np.float64)

    bits = mutual(domain)
    chance = np.stack([mutual(rng.permutation(domain)) for _ in range(permutations)])
    p = (1 + (chance >= bits - 1e-12).sum(axis=0)) / (permutations + 1)
    p = np.where(np.isnan(bits), np.nan, p)
    counts = np.stack([group.sum(axis=0) for group in groups]).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        overall = counts.sum(axis=0) / counts.sum(axis=(0, 2))[:, None]
        lift = np.log2(counts / counts.sum(axis=2, keepdims=True) / overall)
    return Information(bits, chance.mean(axis=0), p, corrected(p), lift)


def shape_words(trace: Trace) -> str:
    """The expert layers of a trace: `48 layers of 128 experts`."""
    sizes = sorted(set(trace.info.experts_per_layer))
    return f"{trace.layers} layers of {' or '.join(map(str, sizes)) or 'no'} experts"
