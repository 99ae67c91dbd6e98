"""The text of an explanation: plain and Markdown. All numbers come from `explain.py`."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan
from typing import TYPE_CHECKING

from ..events import PREFILL
from ..formatting import percent, size_words, three
from .time_parts import meaning, part_name

if TYPE_CHECKING:
    from .explain import ExplainedLayer, Explanation, Miss

SHOWN = 12
"""The most layers listed one by one, those that waited longest; the others are counted."""


def headline(found: Explanation) -> str:
    """How long the token took, compared with the run's other tokens."""
    what = f"{found.name} took {three(found.ms)} ms"
    if found.phase == PREFILL:
        many = f"the {found.call_steps:,} tokens" if found.call_steps > 1 else "one token"
        return f"{found.name}: the prompt's call over {many} took {three(found.ms)} ms."
    if isnan(found.usual_ms):
        return f"{what}."
    times = found.ms / found.usual_ms if found.usual_ms else float("nan")
    faster = "none of its tokens was faster"
    if round(found.slower_than * found.decode_calls) == found.decode_calls - 1 > 0:
        faster = f"the slowest of its {found.decode_calls:,} decoded tokens"
    elif found.slower_than:
        faster = f"{percent(found.slower_than)} of its tokens were faster"
    return f"{what}, {_times(times)} × the run's median of {three(found.usual_ms)} ms; {faster}."


def cause(found: Explanation) -> str:
    """One sentence: the part that differs most from the median; "" if none does, or unknown."""
    more = {name: ms - found.usual[name] for name, ms in found.parts.items() if name in found.usual}
    extra = found.ms - found.usual_ms
    if not more or isnan(extra):
        return ""
    if abs(extra) < 0.1 * found.usual_ms:
        return ""  # as the headline says
    most = max(more, key=lambda name: more[name] if extra > 0 else -more[name])
    # Medians of parts do not add up to the median of the calls: the largest may be less than half.
    due = "the largest part of it in"
    if abs(more[most]) > abs(extra) / 2:
        due = "mostly due to" if extra > 0 else "mostly in"
    return (
        f"It took {three(abs(extra))} ms {'more' if extra > 0 else 'less'} than the median, {due} "
        f"{part_name(most)}: {three(found.parts[most])} ms instead of "
        f"{three(found.usual[most])} ms."
    )


def parts(found: Explanation) -> list[tuple[str, str, str, str]]:
    """(part, ms, share of the call, what it contains), the largest first; without zeros."""
    rows = []
    for name, ms in sorted(found.parts.items(), key=lambda each: -each[1]):
        if ms >= 0.0005:
            share = percent(ms / found.ms) if found.ms else "–"
            rows.append((part_name(name), f"{three(ms)} ms", share, meaning(name, found.kernels)))
    return rows


def missed(found: Explanation) -> str:
    """One paragraph: how many lookups missed, and how many an optimal cache would have hit."""
    misses = found.misses
    if not found.layers:
        return "This model has no expert layers."
    if not misses:
        return f"All {found.lookups:,} lookups hit: nothing was read."
    layers = sum(bool(layer.misses) for layer in found.layers)
    size = size_words(sum(miss.nbytes for miss in misses))
    first = sum(miss.evicted_at is None for miss in misses)
    return (
        f"{_many(len(misses), 'expert')} had to be read for {_many(found.lookups, 'lookup')}: "
        f"{size}, in {layers:,} of {_many(len(found.layers), 'layer')}. "
        f"{_never(first, len(misses))} been in RAM before. "
        f"{optimal(found)}"
    )


def _never(first: int, of: int) -> str:
    if not first:
        return "All of these experts had" if of > 1 else "It had"
    return f"{_few(first, of)} of these experts had never" if of > 1 else "It had never"


def optimal(found: Explanation, note: str = ", which knows the future (Belady),") -> str:
    """How many of the misses an optimal cache of the same size would have had in RAM."""
    known = [miss for miss in found.misses if miss.resident_under_belady is not None]
    if not found.misses:
        return ""
    if not known:
        return "What an optimal cache would have kept is unknown: the trace has no cache size."
    kept = sum(bool(miss.resident_under_belady) for miss in known)
    what = f"{'An' if kept else 'Even an'} optimal cache of {_many(found.slots, 'expert')}{note}"
    if len(known) == 1:
        return f"{what} would {'' if kept else 'not '}have had it in RAM."
    few = _few(kept, len(known)).lower()
    return f"{what} would have had {few} of the {len(known):,} in RAM."


def sentences(found: Explanation) -> list[str]:
    """Up to three, for a stranger: what it waited for, why that was not in RAM, what could be."""
    if not found.misses:
        most = max(found.parts, key=lambda name: found.parts[name], default="")
        if not most or not found.ms:
            return [missed(found)]
        spent = f"{three(found.parts[most])} ms ({percent(found.parts[most] / found.ms)})"
        return [missed(found), f"Most of its time was {part_name(most)}: {spent}."]
    return [_waited_for(found), _largest(found), optimal(found, "")]


def _waited_for(found: Explanation) -> str:
    """How long, for how many experts, and in which layer most."""
    misses, waits = found.misses, waiting_layers(found)
    size = size_words(sum(miss.nbytes for miss in misses))
    waited = found.parts.get("read_wait", float("nan"))
    share = f" of {three(found.ms)} ms ({percent(waited / found.ms)})" if found.ms else ""
    text = f"It waited {three(waited)} ms{share} for {_many(len(misses), 'expert')}, {size}"
    most = waits[0]
    if len(waits) == 1:
        return f"{text}, all in layer {most.layer}."
    wait = _wait(most)
    text += f", in {len(waits):,} of {len(found.layers):,} layers"
    return f"{text}." if isnan(wait) else f"{text}; {three(wait)} ms of it in layer {most.layer}."


def _largest(found: Explanation) -> str:
    """Why the expert with the longest read was not in RAM."""
    miss = max(found.misses, key=lambda each: (0.0 if isnan(each.ms) else each.ms, each.nbytes))
    size = [size_words(miss.nbytes)] if miss.nbytes else []
    took = [] if isnan(miss.ms) else [f"{three(miss.ms)} ms"]
    what = f"Layer {miss.layer}'s expert {miss.expert}"
    if took or size:
        what = f"The longest read was layer {miss.layer}'s expert {miss.expert} " \
               f"({', '.join(size + took)}): it"  # fmt: skip
    return f"{what} was {why(found, miss)}."


def why(found: Explanation, miss: Miss) -> str:
    """Why an expert was not in RAM: "evicted at token 16 for layer 1's expert 30"."""
    if miss.evicted_at is None:
        return "never in RAM before"
    assert miss.evicted_by is not None
    layer, expert = miss.evicted_by
    name = found.names.get(miss.evicted_at, f"step {miss.evicted_at}")
    when = "earlier in this call" if miss.evicted_at >= found.step else f"at {name}"
    if (layer, expert) == (miss.layer, miss.expert):
        return f"evicted {when} because memory was short"
    return f"evicted {when} for layer {layer}'s expert {expert}"


def limits(found: Explanation) -> list[str]:
    """Which rank was waited for; the lower bounds by disk and memory beside the measured time."""
    waited = found.parts.get("read_wait", 0.0)
    lines = [text for text in [slowest_rank(found)] if text]
    if found.misses:
        disk = found.disk
        if isnan(disk.ms):
            lines.append("Disk speed is unknown: the reads were not recorded.")
        else:
            wait = f"it waited {three(waited)} ms"
            if waited > 0:
                wait += f", {_times(waited / disk.ms)} times that"
            # No "at least": single reads may be faster than this rate, or begin before the wait.
            lines.append(
                f"Disk: reading {size_words(disk.nbytes)} takes {three(disk.ms)} ms at "
                f"{size_words(disk.rate)}/s ({disk.source}); {wait}."
            )
    memory = found.memory
    if isnan(memory.ms):
        lines.append(
            "Memory speed has not been measured: run %outlier bench --memory."
            if memory.nbytes
            else "No limit by memory: the size of its dense weights was not recorded."
        )
    else:
        rest = found.ms - waited
        lines.append(
            f"Memory: reading the {size_words(memory.nbytes)} of weights that it used takes at "
            f"least {three(memory.ms)} ms at {size_words(memory.rate)}/s ({memory.source}); "
            f"without waiting for the disk it took {three(rest)} ms, "
            f"{_times(rest / memory.ms)} times that."
        )
    return lines


def slowest_rank(found: Explanation) -> str:
    """Which rank was the last for most of the time; "" where one process computes."""
    if not found.ranks:
        return ""
    first, total = found.ranks[0], sum(rank.ms for rank in found.ranks)
    layers = sum(rank.layers for rank in found.ranks)
    return (
        f"Ranks: rank {first.rank} ({first.host}) was waited for: {three(first.ms)} of the "
        f"{three(total)} ms that {len(found.ranks)} ranks took for the experts; it was the last in "
        f"{first.layers:,} of {_many(layers, 'layer')}."
    )


def miss_text(found: Explanation, miss: Miss) -> str:
    """An expert, why it was not in RAM, and whether an optimal cache would have kept it."""
    text = why(found, miss)
    if miss.evicted_at is not None and miss.resident_under_belady is not None:
        optimal = "keep it" if miss.resident_under_belady else "evict it too"
        text += f"; an optimal cache would {optimal}"
    return f"expert {miss.expert} ({text})"


def _listed(texts: Sequence[str]) -> str:
    """Of a list: "a", "a and b", "a, b and c"."""
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


def _times(ratio: float) -> str:
    """A ratio: three digits from 1, two below: 4.82, 0.27."""
    return three(ratio) if not ratio < 0.995 else f"{ratio:.2g}"


def _few(count: int, of: int) -> str:
    """A count out of several: "None", "3" or "All"."""
    return {0: "None", of: "All"}.get(count, f"{count:,}")


def _many(count: int, word: str) -> str:
    """A count and its noun: "1 lookup", "2 lookups"."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def waiting_layers(found: Explanation) -> list[ExplainedLayer]:
    """The layers with misses, those that waited longest first."""
    missed = [layer for layer in found.layers if layer.misses]
    return sorted(missed, key=lambda layer: (-_wait(layer), layer.layer))


def layer_rows(found: Explanation) -> list[tuple[str, str, str]]:
    """(layer, its wait, its misses) of the `SHOWN` longest waits, in the model's order."""
    chosen = sorted(waiting_layers(found)[:SHOWN], key=lambda layer: layer.layer)
    rows = []
    for layer in chosen:
        wait = _wait(layer)
        again = [miss for miss in layer.misses if miss.evicted_at is not None]
        first = [str(miss.expert) for miss in layer.misses if miss.evicted_at is None]
        texts = [miss_text(found, miss) for miss in again[:SHOWN]]
        if (more := len(again) - SHOWN) > 0:
            texts.append(f"{more:,} more that were evicted")
        if first:
            noun = "expert" if len(first) == 1 else "experts"
            texts.append(f"{noun} {_listed(first)} (never in RAM before)")
        rows.append((str(layer.layer), "–" if isnan(wait) else f"{three(wait)} ms",
                     _listed(texts)))  # fmt: skip
    return rows


def left_out(found: Explanation) -> str:
    """How many layers with misses the rows leave out; "" if none."""
    more = len(waiting_layers(found)) - SHOWN
    return f"{_many(more, 'more layer')} had misses" if more > 0 else ""


def _wait(layer: ExplainedLayer) -> float:
    """How long the layer waited; the span of its reads if that was not recorded."""
    if layer.parts:
        return layer.parts["read_wait"]
    ends = [miss.start_ms + miss.ms for miss in layer.misses]
    return max(ends) - min(miss.start_ms for miss in layer.misses) if ends else float("nan")


def plain(found: Explanation) -> str:
    """The text/plain form."""
    lines = [headline(found)]
    if sentence := cause(found):
        lines.append(sentence)
    lines.append("")
    rows = parts(found)
    wide = max((len(row[0]) for row in rows), default=0)
    lines += [f"  {name:<{wide}}  {ms:>9}  {share:>6}  {what}" for name, ms, share, what in rows]
    lines += ["", missed(found)]
    lines += [
        f"  layer {layer} waited {wait} for {what}" for layer, wait, what in layer_rows(found)
    ]
    if more := left_out(found):
        lines.append(f"  {more}.")
    return "\n".join([*lines, *limits(found)])


def markdown(found: Explanation) -> str:
    """The text/markdown form: sentences and two tables."""
    lines = [f"**{_cell(headline(found))}** {_cell(cause(found))}".strip(), ""]
    lines += ["| part | time | share | what it contains |", "|---|---:|---:|---|"]
    lines += [f"| {' | '.join(map(_cell, row))} |" for row in parts(found)]
    lines += ["", _cell(missed(found)), ""]
    if rows := layer_rows(found):
        lines += ["| layer | waited | experts that were not in RAM |", "|---:|---:|---|"]
        lines += [f"| {' | '.join(map(_cell, row))} |" for row in rows]
        if more := left_out(found):
            lines += ["", f"{more}."]
        lines.append("")
    return "\n".join([*lines, *map(_cell, limits(found))]) + "\n"


def _cell(text: str) -> str:
    """A text escaped for a Markdown table: no cell's end, markup or HTML."""
    for sign in "\\`*_[]<>|":
        text = text.replace(sign, {"<": "&lt;", ">": "&gt;"}.get(sign, "\\" + sign))
    return " ".join(text.split())
