"""Segments: runs of consecutive tokens of one kind, from the system message to a tool's result.

A token's kind is a code of `KINDS`, one per token of the sequence: those read, then the last one
sampled. Texts have *spans*, (kind, begin, end) in characters, which leave tags out. This module
knows neither templates nor tokenizers; `engine/dialects` and `engine/segments` find the kinds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..events import DECODE
from .measures import bytes_per_step, hits_per_step

if TYPE_CHECKING:
    import pandas

    from .trace import Trace

KINDS = ("template", "system", "user", "thinking", "answer", "tool call", "tool result")
"""What a token belongs to, by its code. Tags, role markers and all else are `template`."""
TEMPLATE, SYSTEM, USER, THINKING, ANSWER, TOOL_CALL, TOOL_RESULT = range(len(KINDS))
UNKNOWN = 255
"""The code of a token whose kind is not known."""

Kinds = npt.NDArray[np.uint8]
Span = tuple[int, int, int]
"""A kind's code, and the begin and end of its text in characters."""


class Segment(NamedTuple):
    """Consecutive tokens of one kind: `first` to `last`, both included.

    Places in a sequence count from 0; the rows of a run number its tokens from 1.
    """

    kind: int
    first: int
    last: int


def name_of(kind: int) -> str:
    """A kind's name; `unknown` for any other code."""
    return KINDS[kind] if 0 <= kind < len(KINDS) else "unknown"


def kind_names(kinds: Kinds) -> npt.NDArray[Any]:
    """The names of kinds, one text for each."""
    return np.array([name_of(kind) for kind in range(UNKNOWN + 1)])[kinds]


def segments_of(kinds: Kinds) -> list[Segment]:
    """The segments of a sequence, in order; together they are all of it."""
    if not len(kinds):
        return []
    starts = [0, *(np.flatnonzero(np.diff(kinds.astype(np.int16))) + 1).tolist()]
    ends = [*(start - 1 for start in starts[1:]), len(kinds) - 1]
    return [
        Segment(int(kinds[first]), first, last) for first, last in zip(starts, ends, strict=True)
    ]


def kinds_read(trace: Trace) -> Kinds:
    """The kind of the token read in each step, [steps]; `UNKNOWN` where it was not recorded."""
    if len(trace.kinds) < trace.steps:
        return np.full(trace.steps, UNKNOWN, np.uint8)
    return trace.kinds[: trace.steps]


def kinds_there(trace: Trace) -> tuple[str, ...]:
    """The names of the kinds that some token read has, in the order of `KINDS`."""
    there = np.unique(kinds_read(trace))
    return tuple(KINDS[kind] for kind in there.tolist() if kind < len(KINDS))


def texts_of(text: str, spans: Iterable[Span], kind: int) -> str:
    """The texts of a kind, joined by blank lines; "" without any."""
    return "\n\n".join(text[begin:end] for each, begin, end in spans if each == kind)


def trimmed(text: str, spans: Iterable[Span]) -> tuple[Span, ...]:
    """The spans without the line breaks beside tags, and without those that are then empty.

    Templates write them, and remove them from what they read. A text without tags stays as it is.
    """
    found, out = list(spans), []
    for number, (kind, begin, end) in enumerate(found):
        if begin > 0 or number > 0 or kind != ANSWER:
            while begin < end and text[begin] == "\n":
                begin += 1
        if end < len(text) or number < len(found) - 1 or kind != ANSWER:
            while end > begin and text[end - 1] == "\n":
                end -= 1
        if end > begin:
            out.append((kind, begin, end))
    return tuple(out)


def _rows(trace: Trace) -> Iterator[tuple[str, Segment, npt.NDArray[np.bool_]]]:
    """Each segment: whether of the prompt or generated, its tokens from 1, and the steps it took.

    A prompt's tokens take the steps that read them, and a generated token the decode step that
    produced it. So each step belongs to one segment; the first generated token is the prompt's last
    step's.
    """
    prompt, steps = int(np.count_nonzero(trace.phase != DECODE)), np.arange(trace.steps)
    for part, begin, end in (("prompt", 0, prompt), ("generated", prompt, _end(trace))):
        for kind, first, last in segments_of(trace.kinds[begin:end]):
            low, high = (first, last) if part == "prompt" else (first + begin - 1, last + begin - 1)
            mine = (steps >= low) & (steps <= high) & ((trace.phase == DECODE) == (begin > 0))
            yield part, Segment(kind, first + 1, last + 1), mine


def _end(trace: Trace) -> int:
    """The number of tokens: those read and, once the prompt was, the one sampled last."""
    return trace.steps + bool((trace.produced >= 0).any() or (trace.phase == DECODE).any())


def spent_on(trace: Trace, kind: int) -> tuple[int, float]:
    """How many tokens of a kind were generated, and the seconds of the decode steps for them."""
    prompt = int(np.count_nonzero(trace.phase != DECODE))
    mine = trace.kinds[prompt : _end(trace)] == kind
    return int(mine.sum()), float(trace.step_ns[prompt:][mine[1:]].sum()) / 1e9


def segment_frame(trace: Trace) -> pandas.DataFrame:
    """One row per segment; see `Run.segments`."""
    import pandas

    hits, misses = hits_per_step(trace)
    nbytes = bytes_per_step(trace)
    rows = [
        {
            "part": part,
            "kind": name_of(segment.kind),
            "first": segment.first,
            "last": segment.last,
            "tokens": segment.last - segment.first + 1,
            "seconds": float(trace.step_ns[mine].sum()) / 1e9,
            "hits": int(hits[mine].sum()),
            "misses": int(misses[mine].sum()),
            "bytes": int(nbytes[mine].sum()),
        }
        for part, segment, mine in _rows(trace)
    ]
    columns = (
        "part", "kind", "first", "last", "tokens", "seconds", "hits", "misses", "bytes",
    )  # fmt: skip
    return pandas.DataFrame(rows, columns=columns)
