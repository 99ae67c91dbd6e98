"""An explanation in words: plain text and Markdown. Numbers come from `explain.py` alone."""

from __future__ import annotations

from math import isnan
from typing import TYPE_CHECKING

from ..events import PREFILL
from ..formatting import percent, size_words, three
from .time_parts import meaning, part_name

if TYPE_CHECKING:
    from .explain import Explanation, LayerStory, Miss

SHOWN = 12
"""Layers told of one by one, those that waited longest; the others are counted."""


def headline(told: Explanation) -> str:
    """How long it took, against the run's other tokens."""
    what = f"{told.name} took {three(told.ms)} ms"
    if told.phase == PREFILL:
        many = f"the {told.call_steps:,} tokens" if told.call_steps > 1 else "one token"
        return f"{told.name}: the prompt's call over {many} took {three(told.ms)} ms."
    if isnan(told.usual_ms):
        return f"{what}."
    times = told.ms / told.usual_ms if told.usual_ms else float("nan")
    return (
        f"{what}, {three(round(times, 2))} times the run's median of {three(told.usual_ms)} ms; "
        f"{percent(told.slower_than)} of its tokens were faster."
    )


def cause(told: Explanation) -> str:
    """Which part set it apart from the median, in a sentence; "" where nothing is known of that."""
    more = {name: ms - told.usual[name] for name, ms in told.parts.items() if name in told.usual}
    apart = told.ms - told.usual_ms
    if not more or isnan(apart):
        return ""
    if abs(apart) < 0.1 * told.usual_ms:
        return "It took about as long as the others do."
    most = max(more, key=lambda name: more[name] if apart > 0 else -more[name])
    return (
        f"It took {three(abs(apart))} ms {'more' if apart > 0 else 'less'} than the median, most "
        f"of it by {part_name(most)}: {three(told.parts[most])} ms in place of "
        f"{three(told.usual[most])} ms."
    )


def parts(told: Explanation) -> list[tuple[str, str, str, str]]:
    """(part, ms, share of the whole, what it is), the largest first; parts of nothing left out."""
    rows = []
    for name, ms in sorted(told.parts.items(), key=lambda each: -each[1]):
        if ms >= 0.0005:
            share = percent(ms / told.ms) if told.ms else "–"
            rows.append((part_name(name), f"{three(ms)} ms", share, meaning(name, told.kernels)))
    return rows


def missed(told: Explanation) -> str:
    """How much was not in RAM, and what of it a cache that knew the future would have had."""
    misses = told.misses
    if not told.layers:
        return "This model has no expert layers."
    if not misses:
        return f"All of its {told.lookups:,} look-ups hit: nothing had to be read."
    waited = sum(bool(layer.misses) for layer in told.layers)
    size = size_words(sum(miss.nbytes for miss in misses))
    experts = f"{len(misses):,} expert{'s' if len(misses) > 1 else ''}"
    said = (
        f"Of {told.lookups:,} look-ups in {len(told.layers)} layers {experts} had to be read, "
        f"{size} in {waited} layer{'s' if waited > 1 else ''} that had to wait."
    )
    known = [miss for miss in misses if miss.resident_under_belady is not None]
    if not known:
        return f"{said} What Belady's cache would have kept is not known: the size is not."
    kept = sum(bool(miss.resident_under_belady) for miss in known)
    first = sum(miss.evicted_at is None for miss in misses)
    new = f"{first:,} of them" if first else "None of them"
    return (
        f"{said} {new} came for the first time in this run. A cache of {told.slots:,} "
        f"slots that knew the future (Belady) would have had {kept:,} of the {len(known):,} in RAM."
    )


def limits(told: Explanation) -> list[str]:
    """Where it stands against what disk and memory allow."""
    waited = told.parts.get("read_wait", 0.0)
    lines = []
    if told.misses:
        disk = told.disk
        if isnan(disk.ms):
            lines.append("The disk's limit is not known: no rate was measured.")
        else:
            against = f"it waited {three(waited)} ms"
            if waited > 0:
                against += f", {three(round(waited / disk.ms, 2))} times that"
            lines.append(
                f"Disk: {size_words(disk.nbytes)} at {size_words(disk.rate)}/s ({disk.source}) "
                f"take {three(disk.ms)} ms; {against}."
            )
    memory = told.memory
    if isnan(memory.ms):
        why = "its dense weights" if not memory.nbytes else "the memory's speed"
        measure = "" if not memory.nbytes else "; `%outlier bench --memory` measures it"
        lines.append(f"Memory's limit is not known: {why} is not{measure}.")
    else:
        rest = told.ms - waited
        lines.append(
            f"Memory: it touched {size_words(memory.nbytes)} of weights, which at "
            f"{size_words(memory.rate)}/s ({memory.source}) take {three(memory.ms)} ms; "
            f"all but waiting took {three(rest)} ms, {three(round(rest / memory.ms, 2))} times "
            f"that."
        )
    return lines


def fate(told: Explanation, miss: Miss) -> str:
    """Why an expert was not in RAM."""
    if miss.evicted_at is None:
        return f"{miss.expert}: for the first time"
    assert miss.evicted_by is not None
    layer, expert = miss.evicted_by
    name = told.names.get(miss.evicted_at, f"step {miss.evicted_at}")
    when = "earlier in this call" if miss.evicted_at >= told.step else f"at {name}"
    said = f"{miss.expert}: left {when}, for layer {layer}'s expert {expert}"
    if miss.resident_under_belady is not None:
        said += "; Belady keeps it" if miss.resident_under_belady else "; Belady gives it up, too"
    return said


def waiting_layers(told: Explanation) -> list[LayerStory]:
    """The layers that had to read, those that waited longest first."""
    there = [layer for layer in told.layers if layer.misses]
    return sorted(there, key=lambda layer: (-_wait(layer), layer.layer))


def layer_rows(told: Explanation, shown: int = SHOWN) -> list[tuple[str, str, str]]:
    """(layer, how long it waited, its misses), in the model's order, of the `shown` longest."""
    chosen = sorted(waiting_layers(told)[:shown], key=lambda layer: layer.layer)
    rows = []
    for layer in chosen:
        wait = _wait(layer)
        again = [miss for miss in layer.misses if miss.evicted_at is not None]
        first = [str(miss.expert) for miss in layer.misses if miss.evicted_at is None]
        words = [fate(told, miss) for miss in again[:SHOWN]]
        if more := len(again) - SHOWN:
            words.append(f"and {more:,} more that had left" if more > 0 else "")
        if first:
            words.append(f"{', '.join(first)}: for the first time")
        rows.append((str(layer.layer), "–" if isnan(wait) else f"{three(wait)} ms",
                     ". ".join(word for word in words if word)))  # fmt: skip
    return rows


def left_out(told: Explanation, shown: int = SHOWN) -> str:
    """How many layers that read something are not among the rows; "" if none is."""
    more = len(waiting_layers(told)) - shown
    return f"{more} more layers had to read" if more > 0 else ""


def _wait(layer: LayerStory) -> float:
    """How long the layer waited; the span of its reads where that was not recorded."""
    if layer.parts:
        return layer.parts["read_wait"]
    ends = [miss.start_ms + miss.ms for miss in layer.misses]
    return max(ends) - min(miss.start_ms for miss in layer.misses) if ends else float("nan")


def plain(told: Explanation) -> str:
    """The text/plain form."""
    lines = [headline(told)]
    if said := cause(told):
        lines.append(said)
    lines.append("")
    rows = parts(told)
    wide = max((len(row[0]) for row in rows), default=0)
    lines += [f"  {name:<{wide}}  {ms:>9}  {share:>6}  {what}" for name, ms, share, what in rows]
    lines += ["", missed(told)]
    lines += [f"  layer {layer} waited {wait}: {what}" for layer, wait, what in layer_rows(told)]
    if said := left_out(told):
        lines.append(f"  {said}.")
    return "\n".join([*lines, *limits(told)])


def markdown(told: Explanation) -> str:
    """The text/markdown form: sentences and two tables."""
    lines = [f"**{_cell(headline(told))}** {_cell(cause(told))}".strip(), ""]
    lines += ["| part | time | share | what it is |", "|---|---:|---:|---|"]
    lines += [f"| {' | '.join(map(_cell, row))} |" for row in parts(told)]
    lines += ["", _cell(missed(told)), ""]
    if rows := layer_rows(told):
        lines += ["| layer | waited | experts that were not in RAM |", "|---:|---:|---|"]
        lines += [f"| {' | '.join(map(_cell, row))} |" for row in rows]
        if said := left_out(told):
            lines += ["", f"{said}."]
        lines.append("")
    return "\n".join([*lines, *map(_cell, limits(told))]) + "\n"


def _cell(words: str) -> str:
    """Words in which Markdown finds neither a cell's end, nor markup, nor HTML."""
    for sign in "\\`*_[]<>|":
        words = words.replace(sign, {"<": "&lt;", ">": "&gt;"}.get(sign, "\\" + sign))
    return " ".join(words.split())
