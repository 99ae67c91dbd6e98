"""Runs beside each other: their texts, where their routing parts, and what each would have read.

It brings together what `trace/` computes and says it in words. Whatever is shown as a difference
has passed a permutation test, corrected for the number of layers or experts; what rests on too
few tokens is said to, and is not shown as a finding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import nan
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from ..aliases import alias
from ..display import draw
from ..errors import OptionError
from ..formatting import percent, size_words, three
from ..runs.run import Run
from ..runs.token_experts import by_name
from ..trace import Trace
from ..trace.alignment import Stretch, aligned, pieces
from ..trace.divergence import (
    Information,
    RoutingDivergence,
    blocks_of,
    corrected,
    information,
    log_share_ratios,
    part,
)
from ..trace.equal_caches import ReplayTotals, replay_lru
from ..trace.routing_measures import in_phase, phase_number
from ..values import checked, count, integer, number, texts
from ..values import seed as seed_of

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

Key = tuple[int, int]

TEXTS_NOT_DOMAINS = (
    "stretches of these texts were dealt, not texts: what is told of a domain is told of these "
    "texts of it"
)


@dataclass(frozen=True)
class StartingCache:
    """What was in the cache when a run began.

    Attributes:
        resident: how many experts.
        slots: how many there was room for.
        useful: share of the run's distinct experts that were among them; NaN without any.
    """

    resident: int
    slots: int
    useful: float
    held = alias("resident")


@dataclass(frozen=True)
class ExpertDifference:
    """(`layer`, `expert`): its share of the layer's choices in the `first` and the `second` run.

    `p` is corrected for all experts.
    """

    layer: int
    expert: int
    first: float
    second: float
    p: float


@dataclass(frozen=True)
class TokenDivergence:
    """The `token` of a `step`, routed unlike the other run.

    `bits` are per choice, by `log_share_ratios`.
    """

    step: int
    token: int
    bits: float


@dataclass(frozen=True)
class Comparison:
    """What `compare` found.

    Attributes:
        names: of the runs.
        runs: as they were given.
        phase: which steps were compared; None for all.
        pairs: (i, j) with i < j → where these two part.
        starting_caches: each run's cache when it began.
        slots: of the caches in `cold` and `warm`.
        cold: what each run would have read from an empty LRU cache.
        warm: the same, when all begin with what the first began with.
        warnings: what to know before the numbers are used.
        domains: the domains' names, and what experts tell of them; None where none were given.
    """

    names: tuple[str, ...]
    runs: tuple[Run | Trace, ...]
    phase: str | None
    pairs: Mapping[Key, RoutingDivergence]
    starting_caches: tuple[StartingCache, ...]
    slots: int
    cold: tuple[ReplayTotals, ...]
    warm: tuple[ReplayTotals, ...]
    warnings: tuple[str, ...]
    domains: tuple[tuple[str, ...], Information] | None = None
    warmth = alias("starting_caches")
    parting = alias("divergence")

    @property
    def matrix(self) -> npt.NDArray[np.float64]:
        """Mean divergence over the layers above what chance makes, bits: [runs, runs]."""
        out = np.zeros((len(self.runs), len(self.runs)))
        for (i, j), found in self.pairs.items():
            out[i, j] = out[j, i] = np.nanmean(found.excess)
        return out

    def clusters(self) -> npt.NDArray[np.float64]:
        """SciPy's linkage of the runs by `matrix`, by average distance.

        Raises:
            OptionError: there are fewer than three runs.
        """
        if len(self.runs) < 3:
            raise OptionError(f"{len(self.runs)} runs make no clusters: compare 3 or more")
        near = squareform(np.maximum(self.matrix, 0), checks=False)
        return np.asarray(linkage(near, "average", optimal_ordering=True))

    def order(self) -> list[int]:
        """The runs, those alike beside each other."""
        if len(self.runs) < 3:
            return list(range(len(self.runs)))
        return [int(i) for i in leaves_list(self.clusters())]

    @checked(first=integer, second=integer)
    def divergence(self, first: int = 0, second: int = 1) -> RoutingDivergence:
        """The pair of two runs, the lower number first.

        Raises:
            OptionError: there is no such pair.
        """
        if (first, second) not in self.pairs:
            raise OptionError(
                f"there is no pair ({first}, {second}): give two of 0 to {len(self.runs) - 1}, "
                "the lower first"
            )
        return self.pairs[first, second]

    @checked(alpha=number)
    def experts(
        self, first: int = 0, second: int = 1, alpha: float = 0.05
    ) -> list[ExpertDifference]:
        """The experts that part two runs, the surest and largest differences first."""
        found = self.divergence(first, second)
        if found.caution:
            return []
        shares = [_shares(_trace(self.runs[i]), self.phase) for i in (first, second)]
        sure = np.argwhere(found.expert_p <= alpha).tolist()
        rows = [
            ExpertDifference(
                layer,
                expert,
                float(shares[0][layer, expert]),
                float(shares[1][layer, expert]),
                float(found.expert_p[layer, expert]),
            )
            for layer, expert in sure
        ]
        return sorted(rows, key=lambda row: (row.p, -abs(row.first - row.second)))

    @checked(first=integer, second=integer, limit=integer)
    def tokens(self, first: int = 0, second: int = 1, limit: int = 20) -> list[TokenDivergence]:
        """The tokens of `first` that are routed least like `second`, the farthest first.

        A token is held against its own run without itself. These are the extremes of what is
        there, not findings of their own.
        """
        one, other = (_trace(self._run(i)) for i in (first, second))
        bits = log_share_ratios(one, other, self.phase)
        order = np.argsort(-np.nan_to_num(bits, nan=-np.inf), kind="stable")
        seen = [int(step) for step in order if np.isfinite(bits[step])][:limit]
        return [TokenDivergence(step, int(one.tokens[step]), float(bits[step])) for step in seen]

    def figure(self, first: int = 0, second: int = 1) -> Figure:
        """Divergence by layer, with intervals and what chance makes; a Plotly figure."""
        return draw("Comparison.figure", self, first, second)

    def experts_figure(self, first: int = 0, second: int = 1) -> Figure:
        """Every expert's share in the one less its share in the other; a Plotly figure."""
        return draw("Comparison.experts_figure", self, first, second)

    def matrix_figure(self) -> Figure:
        """All runs against all, those alike beside each other; a Plotly figure."""
        return draw("Comparison.matrix_figure", self)

    @checked(first=integer, second=integer)
    def aligned(self, first: int = 0, second: int = 1) -> tuple[list[Stretch], list[Stretch]]:
        """Two runs' prompts, and their answers, piece by piece; empty for bare traces."""
        one, other = self._run(first), self._run(second)
        if not (isinstance(one, Run) and isinstance(other, Run)):
            return [], []
        prompts = aligned(pieces(one.prompt), pieces(other.prompt))
        return prompts, aligned(_answer(one), _answer(other))

    def _run(self, number: int) -> Run | Trace:
        if not -len(self.runs) <= number < len(self.runs):
            raise OptionError(f"there is no run {number}: {len(self.runs)} were compared, from 0")
        return self.runs[number]

    def __repr__(self) -> str:
        lines = [f"Comparison of {', '.join(self.names)} ({self.phase or 'all'} steps)"]
        lines += [self._pair_words(i, j) for i, j in self.pairs]
        lines.append(f"With equal LRU caches of {self.slots:,} slots, prompt and answer together:")
        for i, name in enumerate(self.names):
            cold, warm = self.cold[i], self.warm[i]
            lines.append(
                f"  {name}: from empty {percent(cold.hit_rate)} hits, {size_words(cold.nbytes)} "
                f"in {cold.reads:,} reads; from what {self.names[0]} began with "
                f"{percent(warm.hit_rate)}, {size_words(warm.nbytes)} in {warm.reads:,}"
            )
        if self.domains:
            told = self.domains[1]
            lines.append(
                f"Experts tell {three(float(np.nanmean(told.bits)))} bits of the domain, "
                f"{three(float(np.nanmean(told.expected)))} expected by chance; "
                f"{int((told.q <= 0.05).sum())} of {len(told.q)} layers by more than chance"
            )
        return "\n".join([*lines, *(f"Note: {said}." for said in self.warnings)])

    def _repr_html_(self) -> str:
        return draw("Comparison.html", self)

    def _pair_words(self, i: int, j: int) -> str:
        found = self.pairs[i, j]
        sure = found.differing()
        if found.caution:
            what = f"no finding: {found.caution}"
        elif not len(sure):
            what = "no layer is routed differently beyond chance"
        else:
            top = max(sure.tolist(), key=lambda layer: float(found.excess[layer]))
            what = (
                f"{len(sure)} of {len(found.js)} layers are routed differently beyond chance, most "
                f"layer {top} ({three(found.low[top])} to {three(found.high[top])} bits "
                f"above chance, 95 % interval); {len(self.experts(i, j))} experts part them"
            )
        seen, chance = (three(float(np.nanmean(x))) for x in (found.js, found.expected))
        return (
            f"  {self.names[i]} against {self.names[j]}: divergence {seen} bits, "
            f"{chance} expected by chance; {what}"
        )


@checked(permutations=count, slots=count, seed=seed_of, domains=texts)
def compare(
    runs: Sequence[Run | Trace] | Mapping[str, Run | Trace],
    phase: str | None = None,
    domains: Sequence[str] | None = None,
    permutations: int = 999,
    slots: int | None = None,
    seed: int = 0,
) -> Comparison:
    """Put two or more runs of one model beside each other.

    Args:
        runs: runs or traces, or their names and them.
        phase: "prefill" compares how the prompts were read, "decode" the answers; None both.
        domains: one word per run; runs of the same word are one domain, held against the experts.
        permutations: how often blocks of tokens are dealt by chance, for each pair.
        slots: of the caches compared; by default the smallest that a run had.

    Raises:
        OptionError: fewer than two runs, or some that cannot be compared; says why.
    """
    named = by_name(runs)
    phase_number(phase)  # refused before anything is computed
    names, given = tuple(named), tuple(named.values())
    if len(given) < 2:
        raise OptionError(f"{len(given)} runs make no comparison: give two or more")
    if domains is not None and len(domains) != len(given):
        raise OptionError(f"{len(domains)} domains for {len(given)} runs: give one for each")
    traces = [_trace(run) for run in given]
    pairs = {
        (i, j): part(traces[i], traces[j], phase, permutations, seed)
        for i, j in combinations(range(len(given)), 2)
    }
    had = [trace.info.slots for trace in traces if trace.info.slots]
    pairs = _corrected_together(pairs)
    size = slots or min(had, default=sum(traces[0].info.experts_per_layer))
    start = traces[0].resident_at_start.tolist()
    return Comparison(
        names=names,
        runs=given,
        phase=phase,
        pairs=pairs,
        starting_caches=tuple(starting_cache(trace) for trace in traces),
        slots=size,
        cold=tuple(replay_lru(trace, size) for trace in traces),
        warm=tuple(replay_lru(trace, size, start) for trace in traces),
        warnings=tuple(_warnings(names, traces) + ([TEXTS_NOT_DOMAINS] if domains else [])),
        domains=None if domains is None else _domains(traces, domains, phase, pairs, permutations),
    )


def _corrected_together(pairs: dict[Key, RoutingDivergence]) -> dict[Key, RoutingDivergence]:
    """The pairs with `q` for the number of layers and of pairs: many pairs find much by chance."""
    q = corrected(np.stack([found.p for found in pairs.values()]))
    return {key: replace(found, q=q[i]) for i, (key, found) in enumerate(pairs.items())}


def starting_cache(trace: Trace) -> StartingCache:
    """What was in the cache when the run began, and how much of it was of use."""
    start = {(int(layer), int(expert)) for layer, expert in trace.resident_at_start}
    steps, layers, _ = np.nonzero(trace.experts >= 0)
    used = set(zip(layers.tolist(), trace.experts[trace.experts >= 0].tolist(), strict=True))
    useful = len(used & start) / len(used) if len(steps) else nan
    return StartingCache(len(start), trace.info.slots, useful)


def _warnings(names: tuple[str, ...], traces: list[Trace]) -> list[str]:
    found = []
    starts = [set(map(tuple, trace.resident_at_start.tolist())) for trace in traces]
    if any(start != starts[0] for start in starts):
        held = ", ".join(
            f"{name} {len(start):,}" for name, start in zip(names, starts, strict=True)
        )
        found.append(
            f"the caches were not alike when the runs began (experts held: {held}), so the runs' "
            "own misses and speeds do not compare; those with equal caches do"
        )
    if len({trace.info.slots for trace in traces}) > 1:
        found.append("the runs had caches of different sizes")
    if len({trace.info.model for trace in traces}) > 1:
        found.append("the runs name different models: an expert of one is not an expert of another")
    changed = [n for n, t in zip(names, traces, strict=True) if t.info.changed_output]
    if changed:
        found.append(f"not the model's own output: {', '.join(changed)}")
    return found


def _domains(
    traces: list[Trace],
    domains: Sequence[str],
    phase: str | None,
    pairs: Mapping[Key, RoutingDivergence],
    permutations: int,
) -> tuple[tuple[str, ...], Information]:
    """Mutual information, with the longest of the pairs' blocks."""
    words = tuple(dict.fromkeys(domains))
    if len(words) < 2:
        raise OptionError(f"one domain ({words[0]}) leaves nothing to tell apart: give two or more")
    longest = max(pairs.values(), key=lambda found: found.block)
    length, gap = longest.block, longest.gap
    groups = [
        np.concatenate(
            [
                blocks_of(t, phase, length, gap)
                for t, d in zip(traces, domains, strict=True)
                if d == word
            ]
        )
        for word in words
    ]
    return words, information(groups, permutations)


def _trace(run: Run | Trace) -> Trace:
    return run.trace if isinstance(run, Run) else run


def _answer(run: Run) -> list[str]:
    """The answer's text, token by token where that is known."""
    if not len(run.text_ends):
        return pieces(run.text)
    ends = [*run.text_ends.tolist()[:-1], len(run.text)]
    return [run.text[a:b] for a, b in zip([0, *ends], ends, strict=False) if b > a]


def _shares(trace: Trace, phase: str | None) -> npt.NDArray[np.float64]:
    counts = blocks_of(trace, phase, max(1, int(in_phase(trace, phase).sum())))[0]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(counts / counts.sum(axis=1, keepdims=True), np.float64)
