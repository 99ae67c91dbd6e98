"""The text of an explanation: plain and Markdown. All numbers come from `explain.py`."""

from __future__ import annotations

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
    return (
        f"{what}, {three(round(times, 2))} times the run's median of {three(found.usual_ms)} ms; "
        f"{percent(found.slower_than)} of its tokens were faster."
    )


def cause(found: Explanation) -> str:
    """One sentence: the part that differs most from the median; "" if unknown."""
    more = {name: ms - found.usual[name] for name, ms in found.parts.items() if name in found.usual}
    extra = found.ms - found.usual_ms
    if not more or isnan(extra):
        return ""
    if abs(extra) < 0.1 * found.usual_ms:
        return "It took about as long as the others."
    most = max(more, key=lambda name: more[name] if extra > 0 else -more[name])
    return (
        f"It took {three(abs(extra))} ms {'more' if extra > 0 else 'less'} than the median, mostly "
        f"due to {part_name(most)}: {three(found.parts[most])} ms instead of "
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
    """One paragraph: how many lookups missed, and how many Belady's cache would have hit."""
    misses = found.misses
    if not found.layers:
        return "This model has no expert layers."
    if not misses:
        return f"All {found.lookups:,} lookups hit: nothing was read."
    waited = sum(bool(layer.misses) for layer in found.layers)
    size = size_words(sum(miss.nbytes for miss in misses))
    experts = f"{len(misses):,} expert{'s' if len(misses) > 1 else ''}"
    read = (
        f"Of {found.lookups:,} lookups in {len(found.layers)} layers {experts} had to be read: "
        f"{size}, in {waited} layer{'s' if waited > 1 else ''}, which waited for it."
    )
    known = [miss for miss in misses if miss.resident_under_belady is not None]
    if not known:
        return (
            f"{read} What Belady's cache would have kept is unknown: the trace has no cache size."
        )
    kept = sum(bool(miss.resident_under_belady) for miss in known)
    first = sum(miss.evicted_at is None for miss in misses)
    new = f"{first:,} of them" if first else "None of them"
    return (
        f"{read} {new} had never been resident in this run. A cache of {found.slots:,} slots "
        f"that knows the future (Belady) would have kept {kept:,} of the {len(known):,}."
    )


def limits(found: Explanation) -> list[str]:
    """The lower bounds by disk and by memory, compared with the measured time."""
    waited = found.parts.get("read_wait", 0.0)
    lines = []
    if found.misses:
        disk = found.disk
        if isnan(disk.ms):
            lines.append("The disk's limit is unknown: no rate was measured.")
        else:
            wait = f"it waited {three(waited)} ms"
            if waited > 0:
                wait += f", {three(round(waited / disk.ms, 2))} times that"
            lines.append(
                f"Disk: {size_words(disk.nbytes)} at {size_words(disk.rate)}/s ({disk.source}) "
                f"take {three(disk.ms)} ms; {wait}."
            )
    memory = found.memory
    if isnan(memory.ms):
        why = (
            "the memory's speed was not measured; `%outlier bench --memory` measures it"
            if memory.nbytes
            else "the size of its dense weights was not recorded"
        )
        lines.append(f"The memory's limit is unknown: {why}.")
    else:
        rest = found.ms - waited
        lines.append(
            f"Memory: it used {size_words(memory.nbytes)} of weights, which at "
            f"{size_words(memory.rate)}/s ({memory.source}) take {three(memory.ms)} ms; "
            f"without waiting it took {three(rest)} ms, {three(round(rest / memory.ms, 2))} times "
            f"that."
        )
    return lines


def miss_text(found: Explanation, miss: Miss) -> str:
    """Why an expert was not resident."""
    if miss.evicted_at is None:
        return f"{miss.expert}: never resident before"
    assert miss.evicted_by is not None
    layer, expert = miss.evicted_by
    name = found.names.get(miss.evicted_at, f"step {miss.evicted_at}")
    when = "earlier in this call" if miss.evicted_at >= found.step else f"at {name}"
    text = f"{miss.expert}: evicted {when} by expert {expert} of layer {layer}"
    if miss.resident_under_belady is not None:
        text += "; Belady keeps it" if miss.resident_under_belady else "; Belady evicts it, too"
    return text


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
            texts.append(f"and {more:,} more that were evicted")
        if first:
            texts.append(f"{', '.join(first)}: never resident before")
        rows.append((str(layer.layer), "–" if isnan(wait) else f"{three(wait)} ms",
                     ". ".join(texts)))  # fmt: skip
    return rows


def left_out(found: Explanation) -> str:
    """How many layers with misses the rows leave out; "" if none."""
    more = len(waiting_layers(found)) - SHOWN
    return f"{more} more layers had misses" if more > 0 else ""


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
    lines += [f"  layer {layer} waited {wait}: {what}" for layer, wait, what in layer_rows(found)]
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
        lines += ["| layer | waited | experts that were not resident |", "|---:|---:|---|"]
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
