"""How a run was routed: per layer, and over time. Prefill and decode are never mixed unasked.

Every number is of one layer: an expert is a pair (layer, expert), and the index alone says nothing
across layers. Where nothing was counted, a number is NaN. Entropies are in bits.

Segment routing performance and segment cache hit rate are those of Liang et al., "Not All Models
Suit Expert Offloading" (arXiv:2505.16056), with one difference to the code that came with it: the
cache looks at the `segment` tokens after the present one, as the paper says, and not at the
present one among them.
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

from ..errors import OptionError, shown
from ..events import DECODE, PREFILL
from . import compiled_folds as passes
from .trace import Trace
from .validate import check_routing

PHASES = {"prefill": PREFILL, "decode": DECODE}
SEGMENT = 16
"""Tokens of a segment, unless asked otherwise: one of the paper's lengths."""
CACHE_RATIO = 2.0
"""Experts the segment cache holds, over those of a token: the paper's knee."""
LONGEST = 4096
"""Tokens since an expert's last use are told apart up to here."""

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RoutingMeasures:
    """One number per layer, each an array [layers].

    Attributes:
        choices: how many experts were chosen, over all tokens counted.
        experts: how many the layer has.
        entropy: of the shares of the choices, bits; `evenness` is it over log2(experts), 0 to 1.
        gini: 0 when all experts are chosen equally often, towards 1 when few are.
        jain: Jain's fairness, 1 when equal, 1/experts when one expert takes all.
        half: the share of the layer's experts, most chosen first, that takes half the choices.
        never: how many experts were not chosen once.
        overlap: mean share of a token's experts that the token before chose, too.
        chance_overlap: what `overlap` would be if each token chose by the layer's shares alone,
            about: the sum over experts of (rate per token)², over k.
        reuse: median number of other experts of the layer chosen between two uses of one: with
            as many slots and those of a token, LRU would hit. Infinite where most come once.
        gap: median tokens since an expert's last use; infinite where most come once.
        first_uses: share of choices of an expert that had not been chosen before in the run.
        srp: segment routing best performance, 0 to 1: F1 of the best fixed group per segment.
        srp_size: size of that group, over the experts of a token.
        sch: segment cache best hit rate, from an empty cache of `cache_ratio` tokens' experts.
        confidence: mean share of the largest weight in a token's weights; 1 by nature at top-1.
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
    """The same routing over the steps, in bins that lie in one phase each.

    Attributes:
        first, steps: int64 [bins], the first step of a bin and how many it holds.
        phase: uint8 [bins].
        entropy: float64 [bins, layers], bits. Few choices have low entropy whatever the router
            does, so only bins of the same length can be compared.
        overlap, confidence: float64 [bins, layers], means as in `RoutingMeasures`.
    """

    first: Ints
    steps: Ints
    phase: npt.NDArray[np.uint8]
    entropy: Floats
    overlap: Floats
    confidence: Floats


def phase_number(phase: str | int | None) -> int | None:
    """PREFILL, DECODE, or None for all steps.

    Raises:
        OptionError: no such phase.
    """
    if phase is None:
        return None
    for name, number in PHASES.items():
        if isinstance(phase, str | int) and phase in (name, number):
            return number
    raise OptionError(f"phase={shown(phase)} is unknown: choose 'prefill', 'decode' or None")


def routing_measures(
    trace: Trace,
    phase: str | int | None = "decode",
    segment: int = SEGMENT,
    cache_ratio: float = CACHE_RATIO,
) -> RoutingMeasures:
    """All measures of one phase.

    Args:
        phase: "prefill", "decode", or None for all steps. What came before the phase is known
            to `overlap`, `reuse`, `gap` and `first_uses`; segments lie within it.
        segment: tokens of a segment; none is longer than the trace.
        cache_ratio: experts the segment cache holds over those of a token; at least 1.

    Raises:
        OptionError: a value that cannot be used.
    """
    if segment < 1:
        raise OptionError(f"segment={segment!r} cannot be used: give 1 token or more")
    if not cache_ratio >= 1:
        raise OptionError(f"cache_ratio={cache_ratio!r} cannot be used: give 1 or more")
    check_routing(trace)
    mine = in_phase(trace, phase)
    segment = min(segment, trace.steps + 1)  # memory is taken for each of its tokens
    counts = choices(trace, np.where(mine, 0, 1), 2)[0]
    experts = np.asarray(trace.info.experts_per_layer, np.int64)
    layered = by_layer(trace)
    return RoutingMeasures(
        **balance(counts, experts),
        **_reuse(trace, layered, mine, counts),
        **_segments(trace, layered, mine, segment, cache_ratio, experts),
        confidence=_mean(router_confidence(trace)[mine]),
    )


def in_phase(trace: Trace, phase: str | int | None) -> npt.NDArray[np.bool_]:
    """Which steps belong to a phase: bool [steps]."""
    number = phase_number(phase)
    return np.ones(trace.steps, bool) if number is None else trace.phase == number


def choices(trace: Trace, group: npt.NDArray[np.integer], groups: int) -> Ints:
    """How often each expert was chosen in each group of steps: int64 [groups, layers, experts].

    Args:
        group: int [steps], the group each step belongs to, 0 to `groups` - 1.
    """
    check_routing(trace)
    width = max(trace.info.experts_per_layer, default=0)
    counts = np.zeros((groups, trace.layers, width), np.int64)
    passes.count_in_bins(trace.experts, group.astype(np.int64), counts)
    return counts


def entropy(counts: npt.NDArray[np.integer]) -> Floats:
    """Entropy of the shares along the last axis, in bits; NaN where nothing was counted."""
    total = counts.sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.where(counts > 0, counts * np.log2(np.maximum(counts, 1)), 0.0).sum(axis=-1)
        return np.asarray(np.log2(total) - logs / total, np.float64)


def balance(counts: Ints, experts: Ints) -> dict[str, Any]:
    """Measures of counts [layers, widest], of which layer l has `experts[l]`."""
    total = counts.sum(axis=-1)
    there = np.arange(counts.shape[1]) < experts[:, None]
    # Experts that a layer has not are sorted behind all, with nothing to add.
    falling = np.maximum(-np.sort(-np.where(there, counts, -1), axis=1), 0)
    rank = np.arange(1, counts.shape[1] + 1)
    taken = falling.cumsum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        bits = entropy(counts)
        rising = np.where(there, experts[:, None] - rank + 1, 0)
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
        "never": ((counts == 0) & there).sum(axis=1),
    }


def overlaps(trace: Trace) -> npt.NDArray[np.float32]:
    """Share of each token's experts that the token before chose: float32 [steps, layers]."""
    return _reuse_pass(trace, by_layer(trace), np.zeros(trace.steps, bool))[2]


def router_confidence(trace: Trace) -> npt.NDArray[np.float32]:
    """The largest weight's share of a token's weights: float32 [steps, layers], NaN if unseen."""
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
    """The choices as the passes walk them, checked: int16 [layers, steps, k], contiguous."""
    check_routing(trace)
    return np.ascontiguousarray(trace.experts.transpose(1, 0, 2))


def _on_threads(
    walk: Callable[..., Any], layers: int, given: Callable[[slice], tuple[Any, ...]]
) -> list[Any]:
    """Walk through the layers with all cores, each a share of them; what each returns, in order."""
    shares = min(os.cpu_count() or 1, layers)
    if shares < 2:
        return [walk(*given(slice(0, layers)))]
    edges = np.linspace(0, layers, shares + 1).astype(int)
    parts = [given(slice(a, b)) for a, b in pairwise(edges.tolist())]
    with ThreadPoolExecutor(shares) as threads:
        return list(threads.map(lambda part: walk(*part), parts))


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
    """The lower median of each row, of `total` things, those not in the histogram infinite."""
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
    hits, asked = np.concatenate(
        _on_threads(
            passes.segment_cache, trace.layers,
            lambda at: (layered[at], spans, segment, slots[at], width),
        ),
        axis=1,
    )  # fmt: skip
    srp, size = best_f1(histogram)
    with np.errstate(divide="ignore", invalid="ignore"):
        return {"srp": srp, "srp_size": size, "sch": np.asarray(hits / asked, np.float64)}


def best_f1(histogram: Ints) -> tuple[Floats, Floats]:
    """SRP and its size ratio from (expert, segment) pairs by active tokens: [layers, length + 1].

    The best router takes all pairs with at least so many active tokens; all limits are tried.
    """
    length = histogram.shape[1] - 1
    active = histogram * np.arange(length + 1)
    wanted = active.sum(axis=1, keepdims=True)
    covered = active[:, :0:-1].cumsum(axis=1)  # by limits length, length - 1, …, 1
    predicted = length * histogram[:, :0:-1].cumsum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        f1 = np.where(wanted > 0, 2 * covered / (predicted + wanted), np.nan)
        size = predicted / wanted
    rows, best = np.arange(len(f1)), np.nan_to_num(f1, nan=-1.0).argmax(axis=1)
    return f1[rows, best], np.where(wanted[:, 0] > 0, size[rows, best], np.nan)


def _spans(mine: npt.NDArray[np.bool_], kind: npt.NDArray[np.generic]) -> passes.Spans:
    """Stretches of steps that are `mine` and of one `kind`."""
    if not len(mine):
        return np.zeros((0, 2), np.int64)
    edges = np.flatnonzero((mine[1:] != mine[:-1]) | (kind[1:] != kind[:-1])) + 1
    both = np.stack([np.append(0, edges), np.append(edges, len(mine))], axis=1).astype(np.int64)
    return both[mine[both[:, 0]]]


def _mean(values: npt.NDArray[np.float32]) -> Floats:
    """The mean over the first axis of what is not NaN."""
    there = ~np.isnan(values)
    with np.errstate(divide="ignore", invalid="ignore"):
        sums = np.where(there, values, 0).sum(axis=0, dtype=np.float64)
        return np.asarray(sums / there.sum(axis=0), np.float64)


def _mean_of_bins(values: npt.NDArray[np.float32], group: Ints, bins: int) -> Floats:
    """The mean in each group of steps of what is not NaN: float64 [bins, layers]."""
    if not bins:
        return np.zeros((0, values.shape[1]))
    starts = np.searchsorted(group, np.arange(bins))
    there = ~np.isnan(values)
    sums = np.add.reduceat(np.where(there, values, 0).astype(np.float64), starts, axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(sums / np.add.reduceat(there.astype(np.int64), starts, axis=0))
