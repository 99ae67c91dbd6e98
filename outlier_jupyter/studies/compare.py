"""Compares runs: their texts, how far their routing differs, and what each would have read.

It combines measures of `trace/` and describes them. Every difference shown has passed a permutation
test, corrected for the number of layers or experts. Runs with too few tokens get a caution instead
of findings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from ..aliases import alias
from ..display import draw
from ..errors import OptionError
from ..formatting import answer_text, interval, small
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
from ..trace.equal_caches import ReplayTotals, StartingCache, replay_lru, starting_cache
from ..trace.phases import check_phase, in_phase
from ..values import checked, count, integer, number, texts
from ..values import seed as seed_of
from .answers import caches_table, cautions, comparison_notes, comparison_sentence, pairs_table
from .first_difference import FirstDifference, first_difference

if TYPE_CHECKING:
    import pandas
    from plotly.graph_objects import Figure

Key = tuple[int, int]

TEXTS_NOT_DOMAINS = (
    "the test permutes blocks of these texts, not texts: its finding is about these texts, not "
    "about their domains"
)


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
    """How much less the `token` of a `step` is routed like the other run than like its own.

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
        runs: the runs or traces compared.
        phase: which steps were compared; None for all.
        pairs: (i, j) with i < j → how far their routing differs.
        starting_caches: each run's cache when it began; `warmth` is the old name.
        slots: size of the caches in `cold` and `warm`.
        cold: a replay of each run with an LRU cache that is empty at the start.
        warm: the same, from the contents that the first run's cache began with.
        warnings: cautions about the numbers.
        domains: the domains' names, and what experts say about them; None without domains.
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
        """Mean divergence above chance over the layers, bits: [runs, runs]."""
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
            raise OptionError(f"{len(self.runs)} runs are too few to cluster: compare 3 or more")
        distances = squareform(np.maximum(self.matrix, 0), checks=False)
        return np.asarray(linkage(distances, "average", optimal_ordering=True))

    def order(self) -> list[int]:
        """The runs ordered so that similar ones are next to each other."""
        if len(self.runs) < 3:
            return list(range(len(self.runs)))
        return [int(i) for i in leaves_list(self.clusters())]

    @checked(first=integer, second=integer)
    def divergence(self, first: int = 0, second: int = 1) -> RoutingDivergence:
        """How far the routing of two runs differs; the lower number comes first.

        Raises:
            OptionError: no such pair.
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
        """The experts whose shares differ, the most significant and largest differences first."""
        found = self.divergence(first, second)
        if found.caution:
            return []
        shares = [_shares(_trace(self.runs[i]), self.phase) for i in (first, second)]
        significant = np.argwhere(found.expert_p <= alpha).tolist()
        rows = [
            ExpertDifference(
                layer,
                expert,
                float(shares[0][layer, expert]),
                float(shares[1][layer, expert]),
                float(found.expert_p[layer, expert]),
            )
            for layer, expert in significant
        ]
        return sorted(rows, key=lambda row: (row.p, -abs(row.first - row.second)))

    @checked(first=integer, second=integer, limit=integer)
    def tokens(self, first: int = 0, second: int = 1, limit: int = 20) -> list[TokenDivergence]:
        """The tokens of `first` that are routed least like `second`, the most different first.

        A token is compared with its own run without itself. These are the extremes of the data, not
        separate findings.
        """
        one, other = (_trace(self._run(i)) for i in (first, second))
        bits = log_share_ratios(one, other, self.phase)
        order = np.argsort(-np.nan_to_num(bits, nan=-np.inf), kind="stable")
        seen = [int(step) for step in order if np.isfinite(bits[step])][:limit]
        return [TokenDivergence(step, int(one.tokens[step]), float(bits[step])) for step in seen]

    def figure(self, first: int = 0, second: int = 1) -> Figure:
        """Divergence above chance by layer, with intervals; a Plotly figure."""
        return draw("Comparison.figure", self, first, second)

    def experts_figure(self, first: int = 0, second: int = 1) -> Figure:
        """Every expert's share in one run minus its share in the other; a Plotly figure."""
        return draw("Comparison.experts_figure", self, first, second)

    def matrix_figure(self) -> Figure:
        """The divergence of all pairs of runs, similar runs next to each other; a Plotly figure."""
        return draw("Comparison.matrix_figure", self)

    @checked(first=integer, second=integer)
    def aligned(self, first: int = 0, second: int = 1) -> tuple[list[Stretch], list[Stretch]]:
        """The aligned prompts, and the aligned answers, of two runs; empty for bare traces."""
        one, other = self._run(first), self._run(second)
        if not (isinstance(one, Run) and isinstance(other, Run)):
            return [], []
        prompts = aligned(pieces(one.prompt), pieces(other.prompt))
        return prompts, aligned(_answer(one), _answer(other))

    @checked(first=integer, second=integer)
    def first_difference(self, first: int = 0, second: int = 1) -> FirstDifference | None:
        """Where two runs' texts part, and their routing; None for traces without their runs."""
        one, other = self._run(first), self._run(second)
        return (
            first_difference(one, other)
            if isinstance(one, Run) and isinstance(other, Run)
            else None
        )

    def _run(self, number: int) -> Run | Trace:
        if not -len(self.runs) <= number < len(self.runs):
            raise OptionError(f"there is no run {number}: {len(self.runs)} were compared, from 0")
        return self.runs[number]

    @property
    def sentence(self) -> str:
        """The answer: whether the runs are routed differently, and which reads more."""
        return comparison_sentence(self)

    @property
    def frame(self) -> pandas.DataFrame:
        """A row per pair and layer: divergence, its interval, p-values."""
        import pandas

        return pandas.DataFrame(
            {"first": self.names[i], "second": self.names[j], "layer": layer,
             "js": float(pair.js[layer]), "expected": float(pair.expected[layer]),
             "excess": float(pair.excess[layer]), "low": float(pair.low[layer]),
             "high": float(pair.high[layer]), "p": float(pair.p[layer]),
             "q": float(pair.q[layer]), "differs": layer in pair.differing()}
            for (i, j), pair in self.pairs.items() for layer in range(len(pair.js))
        )  # fmt: skip

    def __repr__(self) -> str:
        tables = [pairs_table(self), caches_table(self)]
        more = "All numbers: .frame; drawn: .figure(), .experts_figure()"
        return answer_text(self.sentence, tables, comparison_notes(self), more)

    def _repr_html_(self) -> str:
        return draw("Comparison.html", self)

    def domains_text(self) -> str:
        """One sentence: what experts say about the domain; "" without domains."""
        if not self.domains:
            return ""
        found = self.domains[1]
        return (
            f"Experts give {small(float(np.nanmean(found.bits)))} bits about the domain, "
            f"{small(float(np.nanmean(found.expected)))} expected by chance; "
            f"{int((found.q <= 0.05).sum())} of {len(found.q)} layers beyond chance"
        )

    def pair_text(self, i: int, j: int) -> str:
        """One sentence: how far the routing of runs `i` and `j` differs."""
        pair = self.pairs[i, j]
        layers = pair.differing()
        if pair.caution:
            finding = f"too few tokens to tell: {pair.caution}"
        elif not len(layers):
            finding = "no layer is routed differently beyond chance"
        else:
            top = max(layers.tolist(), key=lambda layer: float(pair.excess[layer]))
            ends = interval(float(pair.low[top]), float(pair.high[top]))
            finding = (
                f"{len(layers)} of {len(pair.js)} layers are routed differently beyond chance, "
                f"most layer {top} ({ends} bits above chance, 95 % interval); "
                f"{len(self.experts(i, j))} experts differ"
            )
        seen, chance = (small(float(np.nanmean(x))) for x in (pair.js, pair.expected))
        return (
            f"{self.names[i]} against {self.names[j]}: divergence {seen} bits, "
            f"{chance} expected by chance; {finding}"
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
    """Compare two or more runs of one model.

    Args:
        runs: runs or traces, or their names and them.
        phase: "prefill" compares the prompts, "decode" what was generated, a kind such as
            "thinking" its tokens; None all.
        domains: one name per run; runs with the same name form one domain.
        permutations: random permutations of blocks of tokens, for each pair.
        slots: size of the replayed caches; by default the smallest of the runs.

    Raises:
        OptionError: fewer than two runs, or runs that cannot be compared.
    """
    named = by_name(runs)
    check_phase(phase)  # validated before anything is computed
    names, found = tuple(named), tuple(named.values())
    if len(found) < 2:
        raise OptionError(f"{len(found)} runs cannot be compared: give two or more")
    if domains is not None and len(domains) != len(found):
        raise OptionError(f"{len(domains)} domains for {len(found)} runs: give one for each")
    traces = [_trace(run) for run in found]
    pairs = {
        (i, j): part(traces[i], traces[j], phase, permutations, seed)
        for i, j in combinations(range(len(found)), 2)
    }
    sizes = [trace.info.slots for trace in traces if trace.info.slots]
    pairs = _corrected_together(pairs)
    size = slots or min(sizes, default=sum(traces[0].info.experts_per_layer))
    start = traces[0].resident_at_start.tolist()
    return Comparison(
        names=names,
        runs=found,
        phase=phase,
        pairs=pairs,
        starting_caches=tuple(starting_cache(trace) for trace in traces),
        slots=size,
        cold=tuple(replay_lru(trace, size) for trace in traces),
        warm=tuple(replay_lru(trace, size, start) for trace in traces),
        warnings=tuple(cautions(names, traces) + ([TEXTS_NOT_DOMAINS] if domains else [])),
        domains=None if domains is None else _domains(traces, domains, phase, pairs, permutations),
    )


def _corrected_together(pairs: dict[Key, RoutingDivergence]) -> dict[Key, RoutingDivergence]:
    """The pairs with `q` corrected for the number of layers and of pairs."""
    q = corrected(np.stack([found.p for found in pairs.values()]))
    return {key: replace(found, q=q[i]) for i, (key, found) in enumerate(pairs.items())}


def _domains(
    traces: list[Trace],
    domains: Sequence[str],
    phase: str | None,
    pairs: Mapping[Key, RoutingDivergence],
    permutations: int,
) -> tuple[tuple[str, ...], Information]:
    """The domains, and their mutual information with the experts, by the pairs' longest blocks."""
    names = tuple(dict.fromkeys(domains))
    if len(names) < 2:
        raise OptionError(f"one domain ({names[0]}) cannot be compared: give two or more")
    longest = max(pairs.values(), key=lambda found: found.block)
    length, gap = longest.block, longest.gap
    groups = [
        np.concatenate(
            [
                blocks_of(trace, phase, length, gap)
                for trace, domain in zip(traces, domains, strict=True)
                if domain == name
            ]
        )
        for name in names
    ]
    return names, information(groups, permutations)


def _trace(run: Run | Trace) -> Trace:
    return run.trace if isinstance(run, Run) else run


def _answer(run: Run) -> list[str]:
    """The answer's text by tokens, or by words if the tokens' texts are unknown."""
    if not len(run.text_ends):
        return pieces(run.text)
    ends = [*run.text_ends.tolist()[:-1], len(run.text)]
    return [run.text[a:b] for a, b in zip([0, *ends], ends, strict=False) if b > a]


def _shares(trace: Trace, phase: str | None) -> npt.NDArray[np.float64]:
    counts = blocks_of(trace, phase, max(1, int(in_phase(trace, phase).sum())))[0]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(counts / counts.sum(axis=1, keepdims=True), np.float64)
