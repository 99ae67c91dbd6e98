"""Measures of routing per layer and over time: balance, locality, confidence.

Prefill and decode are mixed only with `phase=None`. Every number belongs to one layer: an expert is
a pair (layer, expert), and equal indices in two layers are unrelated. A number is NaN where nothing
was counted. Entropies are in bits.

Segment routing performance and segment cache hit rate follow Liang et al., "Not All Models Suit
Expert Offloading" (arXiv:2505.16056). The cache looks at the `segment` tokens after the present
one, as the paper says; the paper's own code includes the present one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import OptionError
from . import compiled_folds as passes
from .phases import Phase, in_phase
from .trace import Trace
from .validate import check_routing

SEGMENT = 16
"""The default length of a segment in tokens: one of the paper's."""
CACHE_RATIO = 2.0
"""Size of the segment cache over the experts of a token: the knee of the paper's curve."""
LONGEST = 4096
"""The longest gap, in tokens, that is counted exactly."""

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RoutingMeasures:
    """One number per layer, each an array [layers].

    Attributes:
        choices: number of choices, over all tokens counted.
        experts: number of experts of the layer.
        entropy: entropy of the experts' shares, bits.
        evenness: entropy over log2(experts), 0 to 1.
        gini: Gini coefficient: 0 if all experts are chosen equally often, towards 1 if few are.
        jain: Jain's fairness index: 1 if all are equal, 1/experts if one expert is always chosen.
        half: share of the layer's experts, most chosen first, that make up half of the choices.
        never: number of experts that were never chosen.
        overlap: mean share of a token's experts that the token before also chose.
        chance_overlap: about the `overlap` of independent tokens with the same shares: the sum
            over experts of (rate per token)², over k.
        reuse: median reuse distance: other experts of the layer chosen between two uses of one.
            LRU hits with that many slots plus those of a token. Infinite if most are first uses.
        gap: median tokens since an expert's last use; infinite if most are first uses.
        first_uses: share of choices of an expert that was not chosen before in the run.
        srp: segment routing best performance, 0 to 1: F1 of the best fixed group per segment.
        srp_size: size of that group over the experts of a token.
        sch: segment cache best hit rate, from an empty cache of `cache_ratio` times the experts
            of a token.
        confidence: mean share of the largest weight in a token's weights; always 1 at top-1.
    """

    choices: Ints
    experts: Ints
    entropy: Floats
    evenness: Floats
    gini: Floats
    jain: Floats
    half: Floats
    never: Ints
    overlap: Floats
    chance_overlap: Floats
    reuse: Floats
    gap: Floats
    first_uses: Floats
    srp: Floats
    srp_size: Floats
    sch: Floats
    confidence: Floats

    def rows(self) -> Iterator[dict[str, float]]:
        """One dictionary per layer, for a table."""
        columns = {spec.name: getattr(self, spec.name) for spec in fields(self)}
        for layer in range(len(self.choices)):
            yield {"layer": layer} | {
                name: values[layer].item() for name, values in columns.items()
            }


@dataclass(frozen=True)
class RoutingOverTime:
    """Routing over the steps, in bins that lie in one phase each.

    Attributes:
        first, steps: int64 [bins], the first step of a bin and its number of steps.
        phase: uint8 [bins].
        entropy: float64 [bins, layers], bits. Few choices always have low entropy, so only bins
            of the same length can be compared.
        overlap, confidence: float64 [bins, layers], means as in `RoutingMeasures`.
    """

    first: Ints
    steps: Ints
    phase: npt.NDArray[np.uint8]
    entropy: Floats
    overlap: Floats
    confidence: Floats


def routing_measures(
    trace: Trace,
    phase: Phase = "decode",
    segment: int = SEGMENT,
    cache_ratio: float = CACHE_RATIO,
) -> RoutingMeasures:
    """All measures of one phase.

    Args:
        phase: "prefill", "decode", a kind of token such as "thinking", or None for all steps.
            `overlap`, `reuse`, `gap` and `first_uses` take the steps before the phase into
            account; segments lie within it.
        segment: tokens per segment, at most the length of the trace.
        cache_ratio: size of the segment cache over the experts of a token; at least 1.

    Raises:
        OptionError: a value out of range.
    """
    if segment < 1:
        raise OptionError(f"segment={segment!r} cannot be used: give 1 token or more")
    if not cache_ratio >= 1:
        raise OptionError(f"cache_ratio={cache_ratio!r} cannot be used: give 1 or more")
    check_routing(trace)
    mine = in_phase(trace, phase)
    segment = min(segment, trace.steps + 1)  # memory is allocated for each of its tokens
    counts = choices(trace, np.where(mine, 0, 1), 2)[0]
    experts = np.asarray(trace.info.experts_per_layer, np.int64)
    layered = by_layer(trace)
    return RoutingMeasures(
        **balance(counts, experts),
        **_reuse(trace, layered, mine, counts),
        **_segments(trace, layered, mine, segment, cache_ratio, experts),
        confidence=_mean(router_confidence(trace)[mine]),
    )


def choices(trace: Trace, group: npt.NDArray[np.integer], groups: int) -> Ints:
    """How often each expert was chosen in each group of steps: int64 [groups, layers, experts].

    Args:
        group: int [steps], the group of each step, 0 to `groups` - 1.
    """
    check_routing(trace)
    width = max(trace.info.experts_per_layer, default=0)
    counts = np.zeros((groups, trace.layers, width), np.int64)
    passes.count_in_bins(trace.experts, group.astype(np.int64), counts)
    return counts


def entropy(counts: npt.NDArray[np.integer | np.floating]) -> Floats:
    """Entropy of counts, or of weights, along the last axis, in bits; NaN where all are 0."""
    total = counts.sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = (counts * np.log2(np.where(counts > 0, counts, 1))).sum(axis=-1)
        return np.asarray(np.log2(total) - logs / total, np.float64)


def balance(counts: Ints, experts: Ints) -> dict[str, Any]:
    """Balance measures of counts [layers, widest]; layer l has `experts[l]` experts."""
    total = counts.sum(axis=-1)
    exists = np.arange(counts.shape[1]) < experts[:, None]
    # Columns beyond a layer's experts are sorted last and count 0.
    falling = np.maximum(-np.sort(-np.where(exists, counts, -1), axis=1), 0)
    rank = np.arange(1, counts.shape[1] + 1)
    taken = falling.cumsum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        bits = entropy(counts)
        rising = np.where(exists, experts[:, None] - rank + 1, 0)
        gini = (2 * (falling * rising).sum(axis=1) / (experts * total)) - (experts + 1) / experts
        jain = total.astype(float) ** 2 / (experts * (falling.astype(float) ** 2).sum(axis=1))
        half = np.where(total > 0, (2 * taken < total[:, None]).sum(axis=1) + 1, np.nan) / experts
        evenness = np.where(experts > 1, bits / np.log2(experts), np.nan)
    return {
        "choices": total,
        "experts": experts,
        "entropy": bits,
        "evenness": evenness,
        "gini": np.where(total > 0, gini, np.nan),
        "jain": jain,
        "half": half,
        "never": ((counts == 0) & exists).sum(axis=1),
    }


def overlaps(trace: Trace) -> npt.NDArray[np.float32]:
    """Share of each token's experts that the token before also chose: float32 [steps, layers]."""
    return _reuse_pass(trace, by_layer(trace), np.zeros(trace.steps, bool))[2]


def router_confidence(trace: Trace) -> npt.NDArray[np.float32]:
    """Share of the largest weight in a token's weights: float32 [steps, layers], NaN if unknown."""
    check_routing(trace)
    out = np.full((trace.steps, trace.layers), np.nan, np.float32)
    passes.largest_share(trace.weights, out)
    return out


def over_time(trace: Trace, bins: int = 100) -> RoutingOverTime:
    """Entropy, overlap and confidence over the steps, in about `bins` bins of equal length."""
    check_routing(trace)
    size = max(1, -(-trace.steps // max(1, bins)))
    edges: list[int] = []
    for first, end in _spans(np.ones(trace.steps, bool), trace.phase):
        edges += range(first, end, size)
    first = np.array(edges, np.int64)
    steps = np.diff(np.append(first, trace.steps)).astype(np.int64)
    group = np.repeat(np.arange(len(first)), steps)
    counts = choices(trace, group, len(first))
    return RoutingOverTime(
        first=first,
        steps=steps,
        phase=trace.phase[first],
        entropy=entropy(counts),
        overlap=_mean_of_bins(overlaps(trace), group, len(first)),
        confidence=_mean_of_bins(router_confidence(trace), group, len(first)),
    )


def _reuse_pass(
    trace: Trace, layered: npt.NDArray[np.int16], counted: npt.NDArray[np.bool_]
) -> tuple[Ints, Ints, npt.NDArray[np.float32]]:
    width = max(trace.info.experts_per_layer, default=0)
    distances = np.zeros((trace.layers, width + 1), np.int64)
    gaps = np.zeros((trace.layers, LONGEST + 1), np.int64)
    overlap = np.full((trace.layers, trace.steps), np.nan, np.float32)
    _on_threads(
        passes.reuse, trace.layers,
        lambda at: (layered[at], counted, distances[at], gaps[at], overlap[at]),
    )  # fmt: skip
    return distances, gaps, overlap.T


def by_layer(trace: Trace) -> npt.NDArray[np.int16]:
    """The validated choices as int16 [layers, steps, k], contiguous."""
    check_routing(trace)
    return np.ascontiguousarray(trace.experts.transpose(1, 0, 2))


def _on_threads(
    function: Callable[..., Any], layers: int, arguments: Callable[[slice], tuple[Any, ...]]
) -> list[Any]:
    """Call `function` for a share of the layers per core; the results in the layers' order."""
    shares = min(os.cpu_count() or 1, layers)
    if shares < 2:
        return [function(*arguments(slice(0, layers)))]
    edges = np.linspace(0, layers, shares + 1).astype(int)
    parts = [arguments(slice(a, b)) for a, b in pairwise(edges.tolist())]
    with ThreadPoolExecutor(shares) as threads:
        return list(threads.map(lambda part: function(*part), parts))


def _reuse(
    trace: Trace, layered: npt.NDArray[np.int16], mine: npt.NDArray[np.bool_], counts: Ints
) -> dict[str, Any]:
    distances, gaps, overlap = _reuse_pass(trace, layered, mine)
    chosen, first = distances.sum(axis=1), distances[:, -1]
    tokens, _ = _tokens_routed(trace, mine)
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = counts / tokens[:, None]
        per_token = chosen / tokens
        chance = (rate**2).sum(axis=1) / per_token
        first_uses = first / chosen
    return {
        "overlap": _mean(overlap[mine]),
        "chance_overlap": chance,
        "reuse": _median(distances[:, :-1], chosen),
        "gap": _median(gaps, chosen),
        "first_uses": first_uses,
    }


def _tokens_routed(trace: Trace, mine: npt.NDArray[np.bool_]) -> tuple[Ints, Ints]:
    tokens, most = np.zeros((2, trace.layers), np.int64)
    passes.tokens_routed(trace.experts, mine, tokens, most)
    return tokens, most


def _median(histogram: Ints, total: Ints) -> Floats:
    """The lower median of each row's `total` values; those not in the histogram are infinite."""
    middle = (total + 1) // 2
    below = histogram.cumsum(axis=1) < middle[:, None]
    found = below.sum(axis=1).astype(float)
    found[found == histogram.shape[1]] = np.inf
    return np.where(total > 0, found, np.nan)


def _segments(
    trace: Trace,
    layered: npt.NDArray[np.int16],
    mine: npt.NDArray[np.bool_],
    segment: int,
    cache_ratio: float,
    experts: Ints,
) -> dict[str, Any]:
    width = max(trace.info.experts_per_layer, default=0)
    spans = _spans(mine, mine)
    histogram = np.concatenate(_on_threads(
        passes.segment_histogram, trace.layers, lambda at: (layered[at], spans, segment, width)
    ))  # fmt: skip
    _, k = _tokens_routed(trace, mine)
    slots = np.maximum(k, np.minimum(experts, np.rint(cache_ratio * k))).astype(np.int64)
    hits, lookups = np.concatenate(
        _on_threads(
            passes.segment_cache, trace.layers,
            lambda at: (layered[at], spans, segment, slots[at], width),
        ),
        axis=1,
    )  # fmt: skip
    srp, size = best_f1(histogram)
    with np.errstate(divide="ignore", invalid="ignore"):
        return {"srp": srp, "srp_size": size, "sch": np.asarray(hits / lookups, np.float64)}


def best_f1(histogram: Ints) -> tuple[Floats, Floats]:
    """SRP and its size ratio, from (expert, segment) pairs by active tokens: [layers, length + 1].

    The best group has all pairs with at least a threshold of active tokens; all thresholds are
    tried.
    """
    length = histogram.shape[1] - 1
    active = histogram * np.arange(length + 1)
    total = active.sum(axis=1, keepdims=True)
    covered = active[:, :0:-1].cumsum(axis=1)  # by thresholds length, length - 1, …, 1
    predicted = length * histogram[:, :0:-1].cumsum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        f1 = np.where(total > 0, 2 * covered / (predicted + total), np.nan)
        size = predicted / total
    rows, best = np.arange(len(f1)), np.nan_to_num(f1, nan=-1.0).argmax(axis=1)
    return f1[rows, best], np.where(total[:, 0] > 0, size[rows, best], np.nan)


def _spans(mine: npt.NDArray[np.bool_], kind: npt.NDArray[np.generic]) -> passes.Spans:
    """Spans of consecutive steps that are `mine` and of one `kind`."""
    if not len(mine):
        return np.zeros((0, 2), np.int64)
    edges = np.flatnonzero((mine[1:] != mine[:-1]) | (kind[1:] != kind[:-1])) + 1
    both = np.stack([np.append(0, edges), np.append(edges, len(mine))], axis=1).astype(np.int64)
    return both[mine[both[:, 0]]]


def _mean(values: npt.NDArray[np.float32]) -> Floats:
    """The mean over the first axis, without NaN."""
    known = ~np.isnan(values)
    with np.errstate(divide="ignore", invalid="ignore"):
        sums = np.where(known, values, 0).sum(axis=0, dtype=np.float64)
        return np.asarray(sums / known.sum(axis=0), np.float64)


def _mean_of_bins(values: npt.NDArray[np.float32], group: Ints, bins: int) -> Floats:
    """The mean of each group of steps, without NaN: float64 [bins, layers]."""
    if not bins:
        return np.zeros((0, values.shape[1]))
    starts = np.searchsorted(group, np.arange(bins))
    known = ~np.isnan(values)
    sums = np.add.reduceat(np.where(known, values, 0).astype(np.float64), starts, axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(sums / np.add.reduceat(known.astype(np.int64), starts, axis=0))
