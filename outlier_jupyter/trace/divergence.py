"""Where the routing of two texts parts, and whether that is more than noise. Pure statistics.

The divergence is Jensen and Shannon's, of the experts' shares in one layer: 0 bits when they are
the same, 1 when no expert is shared. It is never 0 of samples, so it is shown beside what chance
would make of it: blocks of neighbouring tokens are dealt to the two sides anew, as often as asked.
Single tokens may not be dealt: neighbours choose alike, so that a text has far fewer independent
tokens than tokens, and any two texts would seem to differ. How long routing stays alike is
measured, and a block is a few times as long.

Layers are corrected for being many by Benjamini and Hochberg (false discovery rate), experts by
Westfall and Young's largest statistic (family-wise). Intervals are basic bootstrap ones of the
same blocks, about the divergence less what chance makes of it: a sample's own bootstrap takes out
too little of the bias upwards when there are hundreds of experts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.stats import false_discovery_control

from ..errors import OptionError
from . import compiled_folds as passes
from .routing_measures import Floats, Ints, choices, entropy, in_phase
from .trace import Trace
from .validate import check_routing

SHORTEST = 8
"""Tokens dealt together at least, where there are enough of them."""
TIMES = 8
"""A block is so many times as long as routing stays alike. Measured: see EXPERIMENTS.md."""
FEWEST, MOST = 6, 200
"""Blocks of a side: below the first, blocks are cut shorter; above the second, they are longer."""
LAGS, LOOKED_AT = 64, 2048
"""How far, and in how many tokens, it is looked at how long routing stays alike."""
AT_ONCE = 64
"""Deals that are made at a time."""
MOST_DEALT = 20_000
"""Deals: a number of each layer and expert is kept of all of them."""


@dataclass(frozen=True)
class Parting:
    """How far two samples of routing lie apart.

    Attributes:
        js: float64 [layers], Jensen–Shannon divergence in bits, 0 to 1.
        expected: float64 [layers], its mean when blocks are dealt by chance.
        low, high: float64 [layers], the interval of 95 % of `excess`.
        p: float64 [layers], how often chance reaches `js`; at least 1 / (permutations + 1).
        q: float64 [layers], `p` corrected for the number of layers.
        difference: float64 [layers, experts], share in the first less share in the second.
        expert_p: float64 [layers, experts], corrected for the number of experts and layers.
        block: tokens dealt together.
        blocks: how many on each side.
        permutations: how often they were dealt.
        stays: for how many tokens routing stays alike, the larger of both; see `staying`.
        gap: tokens at the end of each block that were left out; see `gap_length`.
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
    stays: float = 1.0
    gap: int = 0

    @property
    def caution(self) -> str:
        """Why small values of `p` are not to be relied upon; "" when they are."""
        if self.block >= round(TIMES * self.stays):
            return ""
        return (
            f"routing stays alike for about {self.stays:.1f} tokens, and the shorter text has too "
            f"few for blocks longer than {self.block}: differences may be chance; use longer texts"
        )

    @property
    def excess(self) -> Floats:
        """Divergence above what chance makes: float64 [layers], bits; may be below 0."""
        return self.js - self.expected

    def differing(self, alpha: float = 0.05) -> Ints:
        """The layers that differ, at a false discovery rate of `alpha`; none under a `caution`."""
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


def staying(trace: Trace, phase: str | int | None = None) -> float:
    """For how many tokens routing stays alike: 1 when each token is routed by itself.

    The integrated correlation time, 1 + 2 Σ c(lag), c being the share of experts in common above
    what the layers' shares make by chance; summed until c is below 0.05, at most to `LAGS`.
    """
    check_routing(trace)
    steps = np.flatnonzero(in_phase(trace, phase))[:LOOKED_AT]
    if len(steps) < 2:
        return 1.0
    experts = np.ascontiguousarray(trace.experts[steps].transpose(1, 0, 2))
    shared, asked = np.zeros((2, min(LAGS, len(steps) - 1)), np.int64)
    passes.shared_at_lags(experts, shared, asked)
    counts = np.zeros((1, trace.layers, max(trace.info.experts_per_layer)), np.int64)
    passes.count_in_bins(trace.experts[steps], np.zeros(len(steps), np.int64), counts)
    chance = (counts.astype(float) ** 2).sum() / len(steps) / max(int(counts.sum()), 1)
    if chance >= 1:
        return 1.0
    with np.errstate(invalid="ignore", divide="ignore"):
        common = (shared / asked - chance) / (1 - chance)
    apart = np.flatnonzero(~(common >= 0.05))
    end = int(apart[0]) if len(apart) else len(common)
    return 1.0 + 2.0 * float(common[:end].sum())


def block_length(tokens: tuple[int, ...], stays: float) -> int:
    """Tokens to deal together, for samples of so many tokens that stay alike for `stays`."""
    wanted = max(SHORTEST, round(TIMES * stays), -(-max(tokens) // MOST))
    return max(1, min(wanted, min(tokens) // FEWEST))


def gap_length(length: int, stays: float) -> int:
    """Tokens left out at the end of a block, so that the next is independent of it.

    Without them neighbouring blocks have something in common, which dealing takes apart: chance
    then looks smaller than it is, and with hundreds of experts nothing hides that.
    """
    return min(round(2 * (stays - 1)), length // 2)


def blocks_of(
    trace: Trace, phase: str | int | None, length: int, gap: int = 0
) -> npt.NDArray[np.float32]:
    """Choices in blocks of `length` neighbouring tokens, the last `gap` of each left out.

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
    phase: str | int | None = None,
    permutations: int = 999,
    seed: int = 0,
) -> Parting:
    """Compare the routing of two traces of one model.

    Args:
        phase: "prefill", "decode", or None for all steps.
        permutations: how often blocks are dealt anew, and drawn for the interval.

    Raises:
        OptionError: they are not of one model, or one has no two tokens in that phase.
    """
    if not 1 <= permutations <= MOST_DEALT:
        raise OptionError(f"permutations={permutations!r} cannot be used: give 1 to {MOST_DEALT:,}")
    for trace in (first, second):
        check_routing(trace)
    if first.info.experts_per_layer != second.info.experts_per_layer or not first.layers:
        raise OptionError(
            "these runs cannot be compared: they are of models with different expert layers, "
            f"{shape_words(first)} and {shape_words(second)}"
        )
    tokens = tuple(int(in_phase(trace, phase).sum()) for trace in (first, second))
    if min(tokens) < 2:
        raise OptionError(
            f"these runs cannot be compared: one has {min(tokens)} tokens in "
            f"{phase or 'all'} steps, and at least 2 are needed"
        )
    stays = max(staying(trace, phase) for trace in (first, second))
    length = block_length(tokens, stays)
    gap = gap_length(length, stays)
    a, b = (blocks_of(trace, phase, length, gap) for trace in (first, second))
    found = compare_blocks(a, b, length, permutations, np.random.default_rng(seed))
    return replace(found, stays=stays, gap=gap)


def compare_blocks(
    a: npt.NDArray[np.float32],
    b: npt.NDArray[np.float32],
    length: int,
    permutations: int,
    rng: np.random.Generator,
) -> Parting:
    """`part` of blocks [blocks, layers, experts] that were counted already."""
    js = divergence(a.sum(axis=0), b.sum(axis=0))
    difference = _difference(a.sum(axis=0), b.sum(axis=0))
    pool = np.concatenate([a, b])
    dealt = [_deal(pool, len(a), n, rng) for n in _portions(permutations)]
    chance = np.concatenate([divergence(x, y) for x, y in dealt])
    by_chance = np.concatenate([_difference(x, y).astype(np.float32) for x, y in dealt])
    drawn = np.concatenate(
        [divergence(_draw(a, n, rng), _draw(b, n, rng)) for n in _portions(permutations)]
    )
    p = (1 + (chance >= js - 1e-12).sum(axis=0)) / (permutations + 1)
    p = np.where(np.isnan(js), np.nan, p)
    low, high = (
        js - chance.mean(axis=0) + drawn.mean(axis=0) - np.quantile(drawn, (0.975, 0.025), axis=0)
    )
    return Parting(
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
    """Benjamini and Hochberg's correction of what is not NaN."""
    out, there = np.full(p.shape, np.nan), ~np.isnan(p)
    if there.any():
        out[there] = false_discovery_control(p[there], method="bh")
    return out


def _largest_statistic(observed: Floats, by_chance: npt.NDArray[np.float32]) -> Floats:
    """How often the largest of all differences by chance, each in its own spread, is so large."""
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


def _portions(total: int) -> list[int]:
    return [min(AT_ONCE, total - done) for done in range(0, total, AT_ONCE)]


def _deal(
    pool: npt.NDArray[np.float32], first: int, times: int, rng: np.random.Generator
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """`times` ways to give `first` of the blocks to one side and the rest to the other."""
    rank = rng.permuted(np.tile(np.arange(len(pool)), (times, 1)), axis=1)
    flat = pool.reshape(len(pool), -1)
    mine = (rank < first).astype(np.float32) @ flat
    shape = (times, *pool.shape[1:])
    return mine.reshape(shape), np.maximum(flat.sum(axis=0) - mine, 0).reshape(shape)


def _draw(
    blocks: npt.NDArray[np.float32], times: int, rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """`times` samples of as many blocks, drawn with replacement."""
    weights = rng.multinomial(len(blocks), np.full(len(blocks), 1 / len(blocks)), times)
    drawn = weights.astype(np.float32) @ blocks.reshape(len(blocks), -1)
    return drawn.reshape(times, *blocks.shape[1:])


def leanings(trace: Trace, other: Trace, phase: str | int | None = None) -> Floats:
    """How much more each token of `trace` is routed like its own text than like the other.

    The mean over a token's choices of log2(share of the expert in its own text without this
    token / share in the other), with half a choice added to every expert.

    Returns:
        float64 [steps], bits per choice; NaN outside the phase, and where nothing was chosen.
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
    """What the choice of an expert tells of the domain of its token.

    Attributes:
        bits: float64 [layers], mutual information of domain and expert.
        expected, p, q: float64 [layers], as in `Parting`.
        lift: float64 [domains, layers, experts], log2 of an expert's share in a domain over its
            share in all; 0 where it is as likely, -inf where it was never chosen there.
    """

    bits: Floats
    expected: Floats
    p: Floats
    q: Floats
    lift: Floats


def information(
    groups: list[npt.NDArray[np.float32]], permutations: int = 999, seed: int = 0
) -> Information:
    """Mutual information of domain and expert per layer, blocks being dealt between domains.

    Args:
        groups: of each domain its blocks, float32 [blocks, layers, experts]; see `blocks_of`.
    """
    rng = np.random.default_rng(seed)
    pool = np.concatenate(groups)
    domain = np.repeat(np.arange(len(groups)), [len(group) for group in groups])

    def shared(of: npt.NDArray[np.integer]) -> Floats:
        counts = np.stack([pool[of == d].sum(axis=0) for d in range(len(groups))])
        weights = counts.sum(axis=2) / np.maximum(counts.sum(axis=(0, 2)), 1)
        bits = np.nan_to_num(entropy(counts.astype(np.int64)))
        whole = entropy(counts.sum(axis=0).astype(np.int64))
        return np.asarray(whole - (weights * bits).sum(axis=0), np.float64)

    bits = shared(domain)
    chance = np.stack([shared(rng.permutation(domain)) for _ in range(permutations)])
    p = (1 + (chance >= bits - 1e-12).sum(axis=0)) / (permutations + 1)
    p = np.where(np.isnan(bits), np.nan, p)
    counts = np.stack([group.sum(axis=0) for group in groups]).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        all_of = counts.sum(axis=0) / counts.sum(axis=(0, 2))[:, None]
        lift = np.log2(counts / counts.sum(axis=2, keepdims=True) / all_of)
    return Information(bits, chance.mean(axis=0), p, corrected(p), lift)


def shape_words(trace: Trace) -> str:
    """The expert layers of a trace: `48 layers of 128 experts`."""
    sizes = sorted(set(trace.info.experts_per_layer))
    return f"{trace.layers} layers of {' or '.join(map(str, sizes)) or 'no'} experts"
