"""Answers about one trace: a sentence, a small table, and the whole as a DataFrame.

`what_if_answer` and `measures_answer` word what `what_if` and `routing_measures` counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np

from ..display import draw
from ..formatting import Table, answer_text, count, percent, size_words, three
from ..residency.policies import DEFAULT, POLICIES, canonical_name
from .phases import in_phase
from .routing_measures import RoutingMeasures, routing_measures
from .what_if import Row, WhatIf, what_if

if TYPE_CHECKING:
    import pandas
    from plotly.graph_objects import Figure

    from .trace import Trace

FEWEST = 32
"""With fewer tokens a rate is too uncertain to be called a finding."""
ROUGH = 0.25
"""A prediction whose median error on the run's own calls is larger is called rough."""
SIZES = 9
"""The most cache sizes in the small table."""

MEASURED = {
    "evenness": "evenness of choices", "half": "experts with half the choices",
    "never": "experts never chosen", "overlap": "shared with the token before",
    "chance_overlap": "the same by chance", "sch": "segment cache hit rate",
    "confidence": "largest router weight",
}  # fmt: skip
"""The measures in tables, and their names there."""


@dataclass(frozen=True, repr=False, eq=False)
class FrameAnswer:
    """What a command found. It also behaves as its DataFrame: `answer["slots"]`, `answer.shape`.

    Attributes:
        trace: what was asked about.
        sentence: the answer.
        table: a small table of texts, its headings first.
        notes: what limits the answer, a sentence each, without a full stop.
        frame: all numbers, a pandas DataFrame.
    """

    trace: Trace
    sentence: str
    table: Table
    notes: tuple[str, ...]
    frame: pandas.DataFrame

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or "frame" not in vars(self):
            raise AttributeError(name)
        return getattr(self.frame, name)

    def __getitem__(self, key: Any) -> Any:
        return self.frame[key]

    def __len__(self) -> int:
        return len(self.frame)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.frame)

    def __repr__(self) -> str:
        return answer_text(self.sentence, [self.table], self.notes, "All numbers: .frame")


@dataclass(frozen=True, repr=False, eq=False)
class WhatIfAnswer(FrameAnswer):
    """The answer of `%outlier what-if`."""

    def figure(self) -> Figure:
        """Hit rate and predicted speed by cache size, a line per policy; a Plotly figure."""
        frame = self.frame
        return draw(
            "Trace.sizing", self.trace,
            frame.slots.unique().tolist(), frame.policy.unique().tolist(),
        )  # fmt: skip

    def _repr_html_(self) -> str:
        return draw("WhatIfAnswer.html", self)


@dataclass(frozen=True, repr=False, eq=False)
class MeasuresAnswer(FrameAnswer):
    """The answer of `%outlier measures`; `phase` is as in `measures_answer`."""

    phase: str | None = "decode"

    def figure(self) -> Figure:
        """The measures by layer; a Plotly figure."""
        return draw("Trace.measures", self.trace, self.phase)

    def _repr_html_(self) -> str:
        return draw("MeasuresAnswer.html", self)


def what_if_answer(
    trace: Trace,
    slots: Sequence[int] | None = None,
    policies: Sequence[str] | None = None,
    after: Sequence[Trace] = (),
) -> WhatIfAnswer:
    """What other caches would have hit; the arguments and errors are those of `what_if`.

    The sentence is about twice the run's cache, or about the first size and policy requested.
    """
    frame = what_if(trace, slots, policies, after)
    replays, own = WhatIf(trace, after), trace.info.slots
    total = sum(trace.info.experts_per_layer)
    own_policy = canonical_name(trace.info.policy or DEFAULT)
    own_policy = own_policy if own_policy in POLICIES else DEFAULT
    policy = str(frame.policy[0]) if policies or own_policy not in set(frame.policy) else own_policy
    if slots is None:
        size = total if not own else own // 2 or 1 if own >= total else min(2 * own, total)
    else:
        size = next((int(n) for n in frame.slots if n != own), own)
    now = replays.row(own_policy, own) if own else None
    tokens = int((trace.phase == 1).sum())
    notes = []
    if 0 < tokens < FEWEST:
        notes.append(f"only {count(tokens, 'token')} decoded: too few to tell for longer answers")
    if frame.attrs["note"]:
        notes.append(f"not exactly the run: {frame.attrs['note']}")
    bounds = (POLICIES[name] for name in dict.fromkeys(frame.policy))
    notes += [f"{spec.name} {spec.help}" for spec in bounds if spec.make is None]
    if isfinite(replays.cost.compute):
        notes.append(f"speeds are predicted: {replays.cost}")
    sentence = _prediction(replays.row(policy, size), now, own_policy, total, replays.cost.residual)
    return WhatIfAnswer(trace, sentence, _sizes(frame, own, policy), tuple(notes), frame)


def _prediction(then: Row, now: Row | None, own_policy: str, total: int, residual: float) -> str:
    """What the cache of row `then` would give, beside the run's own; `residual` is of its cost."""
    if not then["decode_lookups"]:
        return "No token was decoded, so there are no lookups to replay."
    gb, size = then["gb"], count(then["slots"], "slot")
    size += f", {size_words(gb * 1e9)}" if isfinite(gb) else ""
    hits = f"{percent(then['decode_hit_rate'])} of lookups would hit"
    if now is None:
        return f"With {size}, {hits} in decode."
    other = then["policy"] != own_policy
    cache = f"With {factor_text(then['slots'] / now['slots'])} × the cache ({size})"
    if then["slots"] == now["slots"]:
        cache = f"With the same cache ({size})"
    if other:
        cache += f" and the policy {POLICIES[then['policy']].label}"
    if now["slots"] >= total and not other:
        cache = f"The cache holds all {total:,} experts: more would change nothing. {cache}"
    if then["decode_hits"] == now["decode_hits"]:
        return f"{cache}, {hits}, as now."
    before = percent(now["decode_hit_rate"])
    return f"{cache}, {hits} instead of {before}: {_faster(then, now, residual)}."


def _faster(then: Row, now: Row, residual: float) -> str:
    ratio = then["tokens_per_second"] / (now["tokens_per_second"] or float("nan"))
    if not isfinite(ratio):
        read = size_words(then["decode_bytes"])
        return f"{read} would be read in decode instead of {size_words(now['decode_bytes'])}"
    if abs(ratio - 1) < 0.05:
        return "about as fast"
    error = f" ({'a rough one: ' if residual > ROUGH else ''}median error {percent(residual)})"
    return (
        f"by prediction{error if isfinite(residual) else ''} about {ratio:.2g} × "
        f"{'faster' if ratio > 1 else 'as fast'}"
    )


def factor_text(factor: float) -> str:
    """A factor in two digits: 2, 1.5, 0.25; in full from 100."""
    return f"{factor:.2g}" if factor < 100 else three(factor)


def _sizes(frame: pandas.DataFrame, own: int, policy: str) -> Table:
    """A row per cache size, at most `SIZES`: hit rate of each policy, reads, speed."""
    sizes = sorted(int(n) for n in frame.slots.unique())
    if len(sizes) > SIZES:
        places = np.linspace(0, len(sizes) - 1, SIZES).astype(int)
        sizes = sorted({sizes[i] for i in places} | ({own} & set(sizes)))
    policies = list(dict.fromkeys(frame.policy))
    rows = [["cache", "slots", "of all", *policies, "read in decode", "tokens/s"]]
    for size in sizes:
        mine = frame[frame.slots == size].set_index("policy")
        shown = mine.loc[policy] if policy in mine.index else mine.iloc[0]
        rows.append([
            "this run" if size == own else f"{factor_text(size / own)} ×" if own else "",
            f"{size:,}", percent(float(shown.share)),
            *(percent(float(mine.decode_hit_rate[name])) for name in policies),
            size_words(float(shown.decode_bytes)), three(float(shown.tokens_per_second)),
        ])  # fmt: skip
    return rows


def measures_answer(trace: Trace, phase: str | None = "decode") -> MeasuresAnswer:
    """How a run's routing is balanced and how often experts come again.

    Args:
        phase: "prefill", "decode", a kind of token such as "thinking", or None for all.

    Raises:
        OptionError: an unknown phase.
    """
    import pandas

    found = routing_measures(trace, phase)
    tokens = int(in_phase(trace, phase).sum())
    notes = []
    if 0 < tokens < FEWEST:
        notes.append(f"only {count(tokens, 'token')}: too few to tell layers apart")
    frame = pandas.DataFrame(found.rows())
    where = phase or "prefill and decode"
    return MeasuresAnswer(
        trace, _routing(found, where), _by_measure(found), tuple(notes), frame, phase
    )


def _routing(found: RoutingMeasures, where: str) -> str:
    if not found.choices.sum():
        return f"No routing was recorded in {where}."
    overlap, chance, half = (
        float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")
        for values in (found.overlap, found.chance_overlap, found.half)
    )
    spread = f"half of all choices go to {percent(half)} of the experts"
    if not isfinite(overlap):
        return f"In {where}, {spread}; one token alone shares no experts with another."
    return (
        f"In {where}, a token shares {percent(overlap)} of its experts with the token before "
        f"({percent(chance)} by chance), and {spread}."
    )


def _by_measure(found: RoutingMeasures) -> Table:
    """A row per measure: the mean over layers, and the layers where it is lowest and highest."""
    rows = [["measure", "mean", "lowest", "highest"]]
    for name, words in MEASURED.items():
        values = np.asarray(getattr(found, name), np.float64)
        if not np.isfinite(values).any():
            continue
        form = three if name == "never" else percent
        low, high = int(np.nanargmin(values)), int(np.nanargmax(values))
        rows.append([words, form(float(np.nanmean(values))),
                     *(f"{form(float(values[i]))} (layer {i})" for i in (low, high))])  # fmt: skip
    return rows
