"""Variants of a prompt: what a change of wording does to the text, its cost and its routing.

The prompt has `{fields}`; each variant fills them with other values. All variants run together
(`Engine.generate_many`), and one table compares them with the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from ..display import draw
from ..engine.engine import Engine
from ..engine.many_runs import AT_ONCE
from ..errors import OptionError, OutlierError
from ..events import PREFILL
from ..formatting import Table, answer_text, count, percent, size_words, small, three
from ..runs.many import ManyInterrupted, ManyRuns, SomeFailed
from ..runs.run import Run, Step
from ..trace.divergence import RoutingDivergence, part
from ..values import items, one_of

if TYPE_CHECKING:
    import pandas

Values = tuple[Any, ...]
PERMUTATIONS = 199
"""Random permutations of each comparison with the first variant."""
SHOWN, MOST = 48, 40
"""Characters of a text, and variants, in the small table."""
OF_PROMPTS = ("system", "raw", "tools", "thinking", "template", "mask", "boost", "force", "top_k",
              "router_temperature", "reuse_kv", "context")  # fmt: skip
"""Options of a run that the likelihood of a wanted answer depends on."""


@dataclass(frozen=True, repr=False, eq=False)
class Variants:
    """What `variants` found. Indexing returns a variant's run, or raises its error.

    Attributes:
        fields: the names of the fields.
        values: a tuple per variant, in their order.
        prompts: the prompts made of them.
        runs: their runs, and the errors of those that failed.
        wanted: the answer whose likelihood was measured; None without.
        logprobs: its log-probability after each prompt, in nats; NaN where it was not measured.
        routing: how far each variant's routing differs from the first one's; None for the first,
            and where a run has too few tokens to be compared.
    """

    fields: tuple[str, ...]
    values: tuple[Values, ...]
    prompts: tuple[str, ...]
    runs: ManyRuns
    wanted: str | None = None
    logprobs: tuple[float, ...] = ()
    routing: tuple[RoutingDivergence | None, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.prompts)

    def __iter__(self) -> Iterator[Run]:
        return iter(self.runs)

    def __getitem__(self, number: int) -> Run:
        return self.runs[number]

    @property
    def frame(self) -> pandas.DataFrame:
        """A row per variant: the fields, then its numbers.

        They are `text`, `tokens`, `logprob` (of the wanted answer, nats), `misses`, `hit_rate`,
        `decode_hit_rate` (without the prompt's), `bytes`, `seconds` (of the calls that it shared),
        `distance` (of its routing from the first variant's, bits above chance, mean of the layers),
        `p` (the least of the layers, corrected for their number; NaN with too few tokens),
        `finish` and `error`.
        """
        import pandas

        rows = [self._row(number) for number in range(len(self))]
        return pandas.DataFrame(rows)

    def to_pandas(self) -> pandas.DataFrame:
        """`frame`."""
        return self.frame

    def sort(self, by: str, descending: bool = False) -> Variants:
        """The variants in the order of a column of `frame`; rows without a number come last.

        Raises:
            OptionError: no such column.
        """
        frame = self.frame
        one_of("by", by, [str(name) for name in frame.columns])
        order = frame[by].sort_values(ascending=not descending, kind="stable").index.tolist()

        def sorted_(each: Sequence[Any]) -> tuple[Any, ...]:
            return tuple(each[number] for number in order)

        runs = replace(
            self.runs, runs=list(sorted_(self.runs.runs)), errors=list(sorted_(self.runs.errors))
        )
        return replace(
            self, values=sorted_(self.values), prompts=sorted_(self.prompts), runs=runs,
            logprobs=sorted_(self.logprobs), routing=sorted_(self.routing),
        )  # fmt: skip

    @property
    def sentence(self) -> str:
        """The answer."""
        runs = self.runs
        words = f"{count(len(self), 'variant')}, {count(runs.generated, 'token')} in "
        words += f"{three(runs.seconds)} s ({three(runs.tokens_per_second)} tokens/s together)."
        if self.wanted is not None and not np.isnan(self.logprobs).all():
            best = int(np.nanargmax(self.logprobs))
            words += f" The wanted answer is likeliest with {self.name(best)}."
        far = [i for i, each in enumerate(self.routing) if each is not None and _p(each) <= 0.05]
        if far:
            words += f" {count(len(far), 'variant is', 'variants are')} routed differently from "
            words += "the first beyond chance."
        return words

    @property
    def table(self) -> Table:
        """A row per variant as texts, headings first."""
        heads = ["", *self.fields, "text", "tokens"]
        heads += ["log-probability"] if self.wanted is not None else []
        heads += ["misses", "hit rate in decode", "read", "s", "distance", "p"]
        rows = [self._texts(number) for number in range(min(len(self), MOST))]
        return [heads, *rows]

    @property
    def notes(self) -> list[str]:
        """What limits the answer."""
        found = [f"one after the other: {self.runs.alone}"] if self.runs.alone else []
        if len(self) > MOST:
            found.append(f"the table shows the first {MOST} of {len(self)} variants")
        cautions = {each.caution for each in self.routing if each is not None} - {""}
        if cautions:
            found.append("no p: some texts are too short to tell routing from chance")
        if len(list(self.runs)) > 1 and not self.runs.alone:
            found.append("an expert that several variants read together counts for one of them")
        found += [f"{self.name(n)} failed: {self.runs.errors[n]}" for n in self.runs.failed]
        return found

    def view(self) -> Any:
        """The table as a widget: sort it by any column, and open a variant's run below it."""
        return draw("Variants.view", self)

    def name(self, number: int) -> str:
        """A variant's values: `tone=formal, n=1`."""
        pairs = zip(self.fields, self.values[number], strict=True)
        return ", ".join(f"{name}={value}" for name, value in pairs)

    def __repr__(self) -> str:
        more = "All numbers: .frame; a variant's run: variants[0]; to sort and open them: .view()"
        return answer_text(self.sentence, [self.table], self.notes, more)

    def _repr_html_(self) -> str:
        return draw("Variants.html", self)

    def _row(self, number: int) -> dict[str, Any]:
        run, found = (
            self.runs.runs[number],
            dict(zip(self.fields, self.values[number], strict=True)),
        )
        error, pair = self.runs.errors[number], self.routing[number]
        summary = None if run is None else run.summary()
        none = float("nan")
        return found | {
            "text": "" if run is None else run.text,
            "tokens": 0 if run is None else run.generated,
            "logprob": self.logprobs[number],
            "misses": none if summary is None else summary.lookups - summary.hits,
            "hit_rate": none if summary is None else summary.hit_rate,
            "decode_hit_rate": none if summary is None else summary.decode_hit_rate,
            "bytes": none if summary is None else summary.bytes_read,
            "seconds": none if summary is None
            else summary.prefill_seconds + summary.decode_seconds,
            "distance": none if pair is None else float(np.nanmean(pair.excess)),
            "p": none if pair is None else _p(pair),
            "finish": "" if run is None else run.finish_reason,
            "error": "" if error is None else str(error),
        }  # fmt: skip

    def _texts(self, number: int) -> list[str]:
        row = self._row(number)
        run = self.runs.runs[number]
        answer = "" if run is None else run.answer.strip()  # what was thought before it is alike
        line = " ".join(str(row["error"] or answer or row["text"]).split())
        cells = [str(number), *map(str, self.values[number])]
        cells += [line if len(line) <= SHOWN else line[: SHOWN - 1] + "…", f"{row['tokens']:,}"]
        cells += [three(row["logprob"])] if self.wanted is not None else []
        cells += [three(row["misses"]), percent(row["decode_hit_rate"])]
        cells += [
            "–" if np.isnan(row["bytes"]) else size_words(row["bytes"]),
            three(row["seconds"]),
        ]
        distance = "" if number == 0 and np.isnan(row["distance"]) else small(row["distance"])
        return [*cells, f"{distance} bits" if distance else "", small(row["p"])]


def variants(
    engine: Engine,
    prompt: str,
    vary: Mapping[str, Sequence[Any]] | None = None,
    *,
    each: Mapping[str, Sequence[Any]] | None = None,
    wanted: str | None = None,
    permutations: int = PERMUTATIONS,
    at_once: int = AT_ONCE,
    on_step: Callable[[int, Step], object] | None = None,
    **options: Any,
) -> Variants:
    """Fill the fields of a prompt with values, run all variants together, and compare them.

    Args:
        prompt: a text with `{fields}`; `{{` and `}}` are braces.
        vary: field → its values: every combination is a variant.
        each: field → its values, side by side: the first of all, the second of all, …
        wanted: an answer whose log-probability after each prompt is measured, in a further pass.
        permutations: of the test whether routing differs from the first variant's.
        at_once, on_step: as of `Engine.generate_many`.
        **options: the fields of `GenerateOptions`, for all.

    Raises:
        OptionError: no values, a field without any, or as `Engine.generate_many`.
        ManyInterrupted: stopped by the user; `.runs` has what each made.
    """
    fields, values = combinations_of(vary or {}, each or {})
    prompts = tuple(filled(prompt, dict(zip(fields, row, strict=True))) for row in values)
    logprobs = (float("nan"),) * len(prompts)
    if wanted is not None:
        logprobs = _likelihoods(engine, prompts, wanted, at_once, options)
    try:
        runs = engine.generate_many(prompts, at_once=at_once, on_step=on_step, **options)
    except SomeFailed as error:
        runs = error.runs
        if len(runs.failed) == len(prompts):
            raise runs.errors[0] or error from None
    routing = tuple(_distance(runs.runs[0], run, permutations) for run in runs.runs[1:])
    return Variants(fields, values, prompts, runs, wanted, logprobs, (None, *routing))


def combinations_of(
    vary: Mapping[str, Sequence[Any]], each: Mapping[str, Sequence[Any]]
) -> tuple[tuple[str, ...], tuple[Values, ...]]:
    """The fields, and the values of each variant: those of `each` side by side, `vary` crossed.

    Raises:
        OptionError: nothing to vary, a field twice or without values, or lists of `each` that
            differ in length.
    """
    lists = {n: items(n, v, "a list of values") for n, v in (*vary.items(), *each.items())}
    if not lists or len(lists) < len(vary) + len(each):
        raise OptionError(
            "name each field once, with its values: vary={'tone': ['formal', 'plain']}"
        )
    if empty := [name for name, found in lists.items() if not found]:
        raise OptionError(f"the field {empty[0]!r} has no values: give one or more")
    lengths = {len(lists[name]) for name in each}
    if len(lengths) > 1:
        raise OptionError(
            f"the fields of each have {', '.join(map(str, sorted(lengths)))} values: give as many "
            "for each of them, or use vary"
        )
    rows = list(zip(*(lists[name] for name in each), strict=True)) if each else [()]
    crossed = product(*(lists[name] for name in vary))
    return (*vary, *each), tuple((*one, *row) for one in crossed for row in rows)


def filled(prompt: str, values: Mapping[str, Any]) -> str:
    """The prompt with its fields filled, as `str.format` does.

    Raises:
        OptionError: a field without values, or braces that do not match.
    """
    try:
        return prompt.format_map(values)
    except KeyError as error:
        raise OptionError(
            f"the prompt has a field {error} without values: give some, or write {{{{ and }}}} for "
            "plain braces"
        ) from error
    except (ValueError, IndexError, AttributeError) as error:
        raise OptionError(
            f"the prompt's fields cannot be read ({error}): write {{{{ and }}}} for plain braces"
        ) from error


def _likelihoods(
    engine: Engine, prompts: Sequence[str], wanted: str, at_once: int, options: dict[str, Any]
) -> tuple[float, ...]:
    """The log-probability of the answer `wanted` after each prompt; NaN where that fails."""
    mine = {name: options[name] for name in OF_PROMPTS if name in options}
    mine |= {"prefill_answer": wanted, "score_prompt": True, "max_tokens": 1, "reuse_kv": False}
    try:
        runs = engine.generate_many(prompts, at_once=at_once, **mine)
    except ManyInterrupted:
        raise
    except SomeFailed as error:
        runs = error.runs
    return tuple(_logprob(run) for run in runs.runs)


def _logprob(run: Run | None) -> float:
    """Of the tokens that the answer began with."""
    if run is None or run.origin is None or not len(run.trace.logprobs):
        return float("nan")
    read = int((run.trace.phase == PREFILL).sum())
    kept = run.origin.encoded.kept
    return float(run.trace.logprobs[read - 1 - kept : read - 1].astype(np.float64).sum())


def _distance(first: Run | None, run: Run | None, permutations: int) -> RoutingDivergence | None:
    if first is None or run is None:
        return None
    try:
        return part(first.trace, run.trace, "decode", permutations)
    except OutlierError:  # a run of one token
        return None


def _p(found: RoutingDivergence) -> float:
    """The least of the layers' corrected p-values; NaN if the texts are too short to tell."""
    return float("nan") if found.caution else float(np.min(found.q))
