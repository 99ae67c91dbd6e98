"""Where a run routes while it thinks, where while it answers, and whether that is beyond chance.

The test is that of two runs (`divergence`): blocks of neighbouring tokens, longer than routing
stays alike, are assigned to the two kinds at random. A text also drifts, so the two halves of the
longer kind are compared in the same way: what they differ by is no property of thinking.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import nan
from typing import TYPE_CHECKING, Any

import numpy as np

from ..display import draw
from ..errors import OptionError
from ..events import DECODE
from ..formatting import Table, count, interval, percent, size_words, small, three
from ..values import one_of
from .answers import FrameAnswer
from .divergence import RoutingDivergence, part
from .phases import Mask
from .routing_measures import routing_measures
from .segments import KINDS, kinds_read, segment_frame
from .trace import Trace

if TYPE_CHECKING:
    import pandas
    from plotly.graph_objects import Figure

DOING = {"thinking": "while thinking", "answer": "while answering", "tool call": "in tool calls"}
"""A kind in a sentence; others are "in …"."""
ROUTING = ("evenness", "overlap", "chance_overlap", "confidence")
"""The routing measures of the frame: means over the layers."""


@dataclass(frozen=True, repr=False, eq=False)
class SegmentsAnswer(FrameAnswer):
    """The answer of `%outlier segments`.

    Attributes:
        trace: of the run; `sentence`, `table`, `notes` and `frame` are those of every answer.
        kinds: the two that were compared.
        routing: how far their routing differs; None where one has fewer than two tokens.
        halves: the same of the two halves of the longer kind.
    """

    kinds: tuple[str, str] = ("thinking", "answer")
    routing: RoutingDivergence | None = None
    halves: RoutingDivergence | None = None

    def figure(self) -> Figure:
        """Divergence above chance by layer, of the kinds and of one's halves; a Plotly figure."""
        return draw("SegmentsAnswer.figure", self)

    def _repr_html_(self) -> str:
        return draw("SegmentsAnswer.html", self)


def segments_answer(
    trace: Trace,
    first: str = "thinking",
    second: str = "answer",
    permutations: int = 999,
    seed: int = 0,
) -> SegmentsAnswer:
    """Compare two kinds of a run's tokens, and list what each kind took.

    Generated tokens of a kind are compared; a kind that was not generated, by the prompt's.

    Args:
        first, second: kinds, by name.
        permutations: random permutations of blocks of tokens.

    Raises:
        OptionError: an unknown kind, or the run's segments were not recorded.
    """
    names = (one_of("first", first, KINDS), one_of("second", second, KINDS))
    if not len(trace.kinds):
        raise OptionError("this run's segments were not recorded: run the prompt again")
    sides = tuple(_tokens_of(trace, name) for name in names)
    routing = halves = None
    if trace.layers and min(int(side.sum()) for side in sides) >= 2:
        routing = part(trace, trace, sides[0], permutations, seed, sides[1])
        longer = max(sides, key=lambda side: int(side.sum()))
        if int(longer.sum()) >= 4:
            halves = part(trace, trace, *_halved(longer, permutations, seed))
    frame = _frame(trace)
    sentence = _sentence(frame, names, sides, routing)
    return SegmentsAnswer(
        trace, sentence, _table(frame), tuple(_notes(names, sides, routing, halves)), frame,
        names, routing, halves,
    )  # fmt: skip


def _tokens_of(trace: Trace, kind: str) -> Mask:
    """The steps that read generated tokens of a kind; without any, those of the prompt."""
    mine = kinds_read(trace) == KINDS.index(kind)
    generated = mine & (trace.phase == DECODE)
    return np.asarray(generated if generated.any() else mine)


def _halved(mask: Mask, permutations: int, seed: int) -> tuple[Mask, int, int, Mask]:
    at = np.flatnonzero(mask)
    early = mask.copy()
    early[at[len(at) // 2 :]] = False
    return early, permutations, seed, mask & ~early


def _frame(trace: Trace) -> pandas.DataFrame:
    """A row per kind of the prompt and of what was generated: what it took, and how it routed."""
    found = segment_frame(trace)
    sums = found.groupby(["part", "kind"], sort=False)[
        ["tokens", "seconds", "hits", "misses", "bytes"]
    ].sum()
    out = sums.reset_index()
    lookups = out.hits + out.misses
    out["hit_rate"] = (out.hits / lookups).where(lookups > 0)
    made = (out.part == "generated") & (out.seconds > 0)
    out["tokens_per_second"] = (out.tokens / out.seconds).where(made)
    out["bytes_per_token"] = out.bytes / out.tokens
    rows = [_routed(trace, row.part == "generated", row.kind) for row in out.itertuples()]
    for name in (*ROUTING, "surprise"):
        out[name] = [row[name] for row in rows]
    return out


def _routed(trace: Trace, generated: bool, kind: str) -> dict[str, float]:
    """Means over the layers of the measures of tokens read, and the mean surprise in nats."""
    if kind not in KINDS:
        return dict.fromkeys((*ROUTING, "surprise"), nan)
    code = KINDS.index(kind)
    mine = (kinds_read(trace) == code) & ((trace.phase == DECODE) == generated)
    out: dict[str, float] = dict.fromkeys(ROUTING, nan)
    if mine.any() and trace.layers:
        measures: Any = routing_measures(trace, np.asarray(mine))
        for name in ROUTING:
            values = np.asarray(getattr(measures, name), np.float64)
            out[name] = float(np.nanmean(values)) if np.isfinite(values).any() else nan
    out["surprise"] = _surprise(trace, generated, code)
    return out


def _surprise(trace: Trace, generated: bool, code: int) -> float:
    """The mean −log-probability of a kind's tokens, by the step before each."""
    if len(trace.logprobs) != trace.steps:
        return nan
    made = trace.produced >= 0
    mine = (trace.kinds[1:] == code) & (made == generated) & np.isfinite(trace.logprobs)
    return float(-trace.logprobs[mine].mean()) if mine.any() else nan


def _doing(kind: str) -> str:
    return DOING.get(kind, f"in {kind} tokens")


def _sentence(
    frame: pandas.DataFrame,
    names: tuple[str, str],
    sides: tuple[Mask, ...],
    routing: RoutingDivergence | None,
) -> str:
    if routing is None:
        few = [
            f"{count(int(side.sum()), 'token')} of {name}"
            for name, side in zip(names, sides, strict=True)
            if int(side.sum()) < 2
        ]
        return f"There is nothing to compare: the model read {' and '.join(few) or 'no experts'}."
    where = " and ".join(_doing(name) for name in names)
    rates = [
        percent(float(rate))
        for name in names
        for rate in frame[(frame.kind == name)].sort_values("part").hit_rate[:1]
    ]
    hits = f"; hit rate {' and '.join(rates)}" if len(rates) == len(names) else ""
    return f"{where[:1].upper()}{where[1:]}, {_finding(routing)}{hits}."


def _finding(routing: RoutingDivergence) -> str:
    layers = routing.differing()
    if routing.caution:
        return "there are too few tokens to tell whether routing differs"
    if not len(layers):
        return "no layer is routed differently beyond chance"
    top = max(layers.tolist(), key=lambda layer: float(routing.excess[layer]))
    ends = interval(float(routing.low[top]), float(routing.high[top]))
    return (
        f"{len(layers)} of {len(routing.js)} layers are routed differently beyond chance, most "
        f"layer {top} ({ends} bits above chance)"
    )


def _notes(
    names: tuple[str, str],
    sides: tuple[Mask, ...],
    routing: RoutingDivergence | None,
    halves: RoutingDivergence | None,
) -> Iterator[str]:
    if routing is None:
        return
    if routing.caution:
        yield routing.caution
    yield (
        f"{routing.permutations:,} permutations of blocks of {routing.block} tokens, corrected for "
        f"{len(routing.js)} layers"
    )
    if routing.open_size:
        yield routing.open_size
    if halves is not None and not halves.caution:
        longer = names[int(sides[1].sum() > sides[0].sum())]
        drift, found = (small(float(np.nanmean(each.excess))) for each in (halves, routing))
        yield (
            f"a text drifts: the two halves of the {longer} alone differ in "
            f"{count(len(halves.differing()), 'layer')}, by {drift} bits above chance on average, "
            f"the two kinds by {found}"
        )


def _table(frame: pandas.DataFrame) -> Table:
    rows = [["", "tokens", "tokens/s", "hit rate", "read per token", "shared with the one before"]]
    for row in frame.itertuples():
        speed = three(float(row.tokens_per_second)) if row.tokens_per_second > 0 else "–"
        rows.append([
            row.kind if row.part == "generated" else f"{row.kind} (prompt)", f"{row.tokens:,}",
            speed, _share(row.hit_rate), size_words(int(row.bytes_per_token)), _share(row.overlap),
        ])  # fmt: skip
    return rows


def _share(value: float) -> str:
    return percent(float(value)) if np.isfinite(value) else "–"
