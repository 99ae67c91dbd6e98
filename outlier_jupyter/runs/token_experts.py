"""Finds the tokens that chose an expert, over several runs, and the experts that tokens chose.

An expert is chosen while a token is read. A row has that token, and the name of the one sampled
after it, as everywhere else. Counts come from arrays; texts come from the runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..display import draw
from ..errors import OptionError
from ..formatting import count, percent, three
from ..trace import Trace
from ..values import checked, instance, integer, integers, items, refused, text
from .run import Run, step_names

if TYPE_CHECKING:
    import pandas
    from plotly.graph_objects import Figure

CONTEXT = 4
"""Tokens of context on either side."""
ROWS_SHOWN = 12
"""Rows of the text form."""
PHASES = np.array(["prefill", "decode"])


@dataclass(frozen=True)
class ExpertUses:
    """The tokens that chose one expert.

    Attributes:
        layer, expert: the expert.
        runs: the runs by name.
        frame: one row per choice: run, step, name (`token 12 “the”`, of the token sampled, or
            `prompt token 3`), phase, token (read), next (sampled after it), weight, rank (0: none
            of its choices in this layer weighs more), hit, context. Unknown texts are "".
    """

    layer: int
    expert: int
    runs: Mapping[str, Run]
    frame: pandas.DataFrame

    def figure(self) -> Figure:
        """Each run's choices of the expert over the steps, by weight; a Plotly figure."""
        return draw("ExpertUses.figure", self)

    def __str__(self) -> str:
        lines = [_headline(self)]
        order = self.frame.sort_values("weight", ascending=False, kind="stable")
        for row in order.head(ROWS_SHOWN).itertuples():
            where = row.name if len(self.runs) == 1 else f"{row.run}, {row.name}"
            text = row.context or row.token
            lines.append(f"  {three(float(row.weight)):>6}  {where}{text and ', reading '}{text}")
        if (more := len(self.frame) - ROWS_SHOWN) > 0:
            lines.append(f"  and {more:,} more with lower weights: see .frame")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return draw("ExpertUses.html", self, _headline(self))


@dataclass(frozen=True)
class TokenExperts:
    """The experts that a span of tokens chose.

    Attributes:
        run: the run of the tokens.
        steps: int64 [tokens], their steps.
        frame: one row per (layer, expert): layer, expert, times, weight (the sum), mean_weight,
            hits, share (of the layer's choices in the span), usual (of those in the whole run).
            Within a layer the most chosen experts come first.
    """

    run: Run
    steps: npt.NDArray[np.int64]
    frame: pandas.DataFrame

    def figure(self) -> Figure:
        """The span's choices as a map of layers × experts; a Plotly figure."""
        return draw("TokenExperts.figure", self)

    def __str__(self) -> str:
        lines = [_span(self)]
        for layer, rows in self.frame.groupby("layer"):
            first = list(rows.head(6).itertuples())
            experts = ", ".join(f"{row.expert} ({row.times}×)" for row in first)
            more = f" and {len(rows) - 6} more" if len(rows) > 6 else ""
            lines.append(f"  layer {layer}: {experts}{more}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return draw("TokenExperts.html", self, _span(self))


@checked(layer=integer, expert=integer)
def tokens_of(
    runs: Run | Trace | Sequence[Run | Trace] | Mapping[str, Run | Trace], layer: int, expert: int
) -> ExpertUses:
    """The tokens that chose an expert, over one run or several of one model.

    Args:
        runs: one or several runs or traces, or a mapping of names to them.
        layer, expert: counted from 0; layers are MoE layers.

    Raises:
        OptionError: no runs, or one without such an expert.
    """
    import pandas

    runs_by_name = named(runs)
    for name, run in runs_by_name.items():
        sizes = run.trace.info.experts_per_layer
        if not (0 <= layer < len(sizes) and 0 <= expert < sizes[layer]):
            shape = f"{len(sizes)} MoE layers" + (
                f", layer {layer} has {sizes[layer]} experts" if 0 <= layer < len(sizes) else ""
            )
            raise OptionError(f"{name} has no expert {layer}:{expert}: it has {shape}, from 0")
    parts = [_choices(name, run, layer, expert) for name, run in runs_by_name.items()]
    return ExpertUses(layer, expert, runs_by_name, pandas.concat(parts, ignore_index=True))


@checked(run=instance(Run, Trace, wanted="a run or a trace"))
def experts_of(
    run: Run | Trace,
    tokens: int | slice | Iterable[int] | None = None,
    *,
    steps: Iterable[int] | None = None,
) -> TokenExperts:
    """The experts that some tokens chose.

    Args:
        tokens: numbers of generated tokens as in the live view, from 1; a slice includes its end,
            like `5:9` in the magic.
        steps: instead, steps of the trace, from 0, with the prompt.

    Raises:
        OptionError: no such tokens, or not exactly one of the two was given.
    """
    import pandas

    if (tokens is None) == (steps is None):
        raise OptionError("give experts_of either tokens, from 1, or steps=…, from 0")
    whole = run if isinstance(run, Run) else Run.of(run)
    trace = whole.trace
    span = _validated(trace, steps) if tokens is None else _steps(whole, tokens)
    at, layers, i = np.nonzero(trace.experts[span] >= 0)
    chosen = trace.experts[span][at, layers, i].astype(np.int64)
    frame = pandas.DataFrame(
        {
            "layer": layers,
            "expert": chosen,
            "weight": trace.weights[span][at, layers, i],
            "hit": trace.hits[span][at, layers, i],
        }
    )
    grouped = frame.groupby(["layer", "expert"], as_index=False).agg(
        times=("hit", "size"),
        weight=("weight", "sum"),
        mean_weight=("weight", "mean"),
        hits=("hit", "sum"),
    )
    grouped["share"] = grouped.times / grouped.groupby("layer").times.transform("sum")
    grouped["usual"] = _usual(trace)[grouped.layer, grouped.expert]
    order = grouped.sort_values(
        ["layer", "times", "weight", "expert"], ascending=[True, False, False, True]
    )
    return TokenExperts(whole, span, order.reset_index(drop=True))


def named(
    runs: Run | Trace | Sequence[Run | Trace] | Mapping[str, Run | Trace],
) -> dict[str, Run]:
    """Runs by name; a trace as a run without text.

    Raises:
        OptionError: no runs.
    """
    found = by_name(runs)
    if not found:
        raise OptionError("no runs were given: run a prompt first, or load a saved run")
    return {name: run if isinstance(run, Run) else Run.of(run) for name, run in found.items()}


def by_name(runs: Any) -> dict[str, Run | Trace]:
    """Runs or traces by name: the mapping's names, or `run 0`, `run 1`, …

    Raises:
        OptionError: values that are not runs or traces.
    """
    wanted = "a run or a trace, several in a list, or their names and them"
    if isinstance(runs, Run | Trace):
        found: dict[str, Run | Trace] = {"run": runs}
    elif isinstance(runs, Mapping):
        found = {text("runs", name): run for name, run in runs.items()}
    else:
        found = {f"run {i}": run for i, run in enumerate(items("runs", runs, wanted))}
    for run in found.values():
        if not isinstance(run, Run | Trace):
            raise refused("runs", run, wanted)
    return found


def _choices(name: str, run: Run, layer: int, expert: int) -> pandas.DataFrame:
    import pandas

    trace, names = run.trace, step_names(run)
    steps, place = np.nonzero(trace.experts[:, layer] == expert)
    weights = trace.weights[steps, layer]
    weight = weights[np.arange(len(steps)), place]
    return pandas.DataFrame(
        {
            "run": name,
            "step": steps,
            "name": [names[step] for step in steps.tolist()],
            "phase": PHASES[trace.phase[steps]],
            "token": [run.piece_at(step) for step in steps.tolist()],
            "next": [run.piece_after(step) for step in steps.tolist()],
            "weight": weight,
            "rank": (weights > weight[:, None]).sum(axis=1),  # routers name them in any order
            "hit": trace.hits[steps, layer, place],
            "context": [_context(run, step) for step in steps.tolist()],
        }
    )


def _context(run: Run, step: int) -> str:
    """The token read in `step`, in brackets, among those around it; "" if texts are unknown."""
    pieces = run.read_pieces[max(0, step - CONTEXT) : min(step + CONTEXT + 1, run.trace.steps)]
    at, shown = min(step, CONTEXT), run.piece_at(step)
    if not shown:
        return ""
    text = f"{''.join(pieces[:at])}[{shown}]{''.join(pieces[at + 1 :])}"
    return text.replace("\n", "↵")


def _validated(trace: Trace, steps: Iterable[int] | None) -> npt.NDArray[np.int64]:
    # A huge range is cut: one step more than the trace has is enough to refuse it.
    if isinstance(steps, range):
        steps = steps[: trace.steps + 1]
    numbers = integers("steps", steps)
    found = np.array([step for step in numbers if -1 <= step < 2**31], np.int64)
    if len(found) < len(numbers) or not len(found) or found.min() < 0 or found.max() >= trace.steps:
        raise OptionError(f"there are no such steps: this trace has {trace.steps}, from 0")
    return found


def _steps(run: Run, tokens: int | slice | Iterable[int]) -> npt.NDArray[np.int64]:
    """The steps that produced generated tokens."""
    if isinstance(tokens, slice):
        ends = (tokens.start or 1, tokens.stop or run.generated)
        first, last = (integer("tokens", end) for end in ends)
        if tokens.step not in (None, 1) or not 1 <= first <= last:
            raise OptionError(f"{first}:{last} is no span of tokens: give FIRST:LAST, from 1")
        run.step_of(last)  # validated before the span is expanded
        tokens = range(first, last + 1)
    several = isinstance(tokens, Iterable) and not isinstance(tokens, str)
    numbers = integers("tokens", tokens) if several else [integer("tokens", tokens)]
    if not numbers:
        raise OptionError("no tokens were given: give one number or more, from 1")
    return np.array([run.step_of(number) for number in numbers], np.int64)


def _usual(trace: Trace) -> npt.NDArray[np.float64]:
    """Each expert's share of its layer's choices in the whole run: [layers, experts]."""
    counts = np.zeros((trace.layers, max(trace.info.experts_per_layer, default=0)))
    at, layers, i = np.nonzero(trace.experts >= 0)
    np.add.at(counts, (layers, trace.experts[at, layers, i]), 1)
    return np.asarray(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))


def _headline(found: ExpertUses) -> str:
    read = sum(run.trace.steps for run in found.runs.values())
    share = percent(len(found.frame) / read) if read else "–"
    over = "" if len(found.runs) == 1 else f" of {len(found.runs)} runs"
    return (
        f"Expert {found.expert} of layer {found.layer} was chosen by {len(found.frame):,} of "
        f"{count(read, 'token')} read{over} ({share})"
    )


def _span(found: TokenExperts) -> str:
    pieces = "".join(found.run.pieces(found.run.trace.produced[found.steps].tolist()))
    text = f" “{pieces}”" if pieces else ""
    tokens, experts = count(len(found.steps), "token"), count(len(found.frame), "different expert")
    return f"{tokens}{text} chose {experts}"
