"""The text of the saved view: numbers with units, and reasons for missing data.

Nothing is escaped here except the Markdown form; `page` escapes its HTML.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ....events import DECODE
from ....formatting import count, percent, size_words, small, three
from ....trace.measures import Summary, summarise
from ....trace.segments import ANSWER, Span, name_of
from ....trace.trace import Trace

if TYPE_CHECKING:
    from ....runs.run import Run

READER_WORDS = {
    "direct": "reads past the page cache (direct)",
    "pread": "reads through the page cache (pread)",
    "mmap": "reads by page faults (mmap)",
}

PROMPT_LIMIT, TEXT_LIMIT = 400, 20_000
"""The most characters of the prompt and the generated text: a saved notebook must stay small."""


@dataclass(frozen=True)
class SavedView:
    """The input of the saved view; the attributes are those of a `Run`."""

    text: str
    trace: Trace
    finish_reason: str
    prompt: str
    spans: tuple[Span, ...] = ()

    @classmethod
    def of(cls, run: Run) -> SavedView:
        """What a run shows."""
        return cls(run.text, run.trace, run.finish_reason, run.prompt, run.spans)


def texts(view: SavedView) -> list[tuple[str, str]]:
    """The generated text with its label; if it thinks or calls tools, each part with its kind's."""
    if {kind for kind, _, _ in view.spans} <= {ANSWER}:
        return [("Generated text", shortened(view.text, TEXT_LIMIT, "; see run.text"))]
    parts, room = [], TEXT_LIMIT
    for kind, begin, end in view.spans:
        part = shortened(view.text[begin:end], max(room, 0), "; see run.text")
        parts.append((name_of(kind).capitalize(), part))
        room -= end - begin
    return parts


def reader_words(trace: Trace) -> str:
    """How experts were read."""
    reader = trace.info.reader
    return READER_WORDS.get(reader, f"reader: {reader}" if reader else "reader unknown")


def model_words(trace: Trace) -> str:
    """The model's name, or "unnamed model"."""
    return trace.info.model or "unnamed model"


def no_routing(trace: Trace) -> str:
    """Why there is no routing to show; "" if there is."""
    if not trace.steps:
        return "the run has no tokens"
    if not trace.layers:
        return "a dense model has no expert layers"
    if not (trace.experts >= 0).any():
        return "no routing was recorded"
    return ""


def no_reads(trace: Trace) -> str:
    """Why there is no read latency to show; "" if there is."""
    if len(trace.reads):
        return ""
    if missing := no_routing(trace):
        return missing
    if trace.info.reader == "mmap":
        return "with mmap the operating system reads, and reports no times"
    if bool(trace.hits[trace.experts >= 0].all()):
        return "nothing was read: every chosen expert was already in RAM"
    return "no reads were recorded"


def cache_words(trace: Trace) -> str:
    """Slots and their bytes; "" without a cache."""
    if not trace.info.slots:
        return ""
    size = trace.info.slots * max(trace.info.expert_nbytes, default=0)  # each holds the largest
    slots = f"{trace.info.slots:,} expert slot" + ("s" if trace.info.slots != 1 else "")
    return f"{slots} · {size_words(size)} in RAM" if size else slots


def tiles(trace: Trace) -> list[tuple[str, str]]:
    """(number, label) as in the live view's header. Missing numbers are "no data", not 0."""
    s = summarise(trace)
    found = [
        (three(s.tokens_per_second) if s.decoded_steps else "no data", "tokens/s"),
        (_rate(s.decode_hit_rate), "hit rate (decode)"),
        (three(s.bytes_read / 1e6), "MB read"),
        (_first_token(trace), "time to first token"),
    ]
    if s.compared:
        found.append((f"{small(s.kl)} nats", "KL from the exact model"))
        found.append((percent(s.top1_agreement), "top-1 agreement with it"))
    return found


def _first_token(trace: Trace) -> str:
    """The time of all calls up to the one that produced the first token."""
    produced = np.flatnonzero(trace.produced >= 0)
    if not len(produced) or not trace.has("calls"):
        return "no data"
    ms = float(trace.step_ns[: produced[0] + 1].sum()) / 1e6
    return f"{three(ms)} ms" if ms < 1000 else f"{three(ms / 1000)} s"


def _rate(share: float) -> str:
    return percent(share) if math.isfinite(share) else "no data"


def token_words(trace: Trace) -> str:
    """`27 tokens of the prompt and 71 generated`, or one of both."""
    prompt = int((trace.phase != DECODE).sum())
    made = int((trace.produced >= 0).sum()) or trace.steps - prompt
    if not prompt:
        return f"{count(made, 'token')} generated"
    words = f"{count(prompt, 'token')} of the prompt"
    return f"{words} and {made:,} generated" if made else words


def table(view: SavedView) -> list[tuple[str, str]]:
    """All numbers as (name, value) rows."""
    trace, s = view.trace, summarise(view.trace)
    info = trace.info
    shape = f"{trace.layers} × {max(info.experts_per_layer, default=0)}" if trace.layers else "none"
    rows = [
        ("Model", model_words(trace)),
        ("Ended", ended_words(view.finish_reason)),
        ("Expert layers × experts", shape),
        ("Experts per token", str(trace.experts.shape[2]) if trace.layers else "–"),
        ("Expert cache", cache_words(trace) or "–"),
        ("Reader", reader_words(trace) + (f"; {info.reader_note}" if info.reader_note else "")),
        ("Prefill", f"{count(s.prompt_tokens, 'token')} in {three(s.prefill_seconds)} s"),
        ("Decode", f"{count(s.decoded_steps, 'more token')} in {three(s.decode_seconds)} s"),
        ("Speed", f"{three(s.tokens_per_second)} tokens/s"),
        ("Time to first token", _first_token(trace)),
        ("Lookups", f"{s.lookups:,}, of these {s.hits:,} hits ({percent(s.hit_rate)})"),
        ("Hit rate in decode", percent(s.decode_hit_rate)),
        ("Hit rate in prefill", percent(s.prefill_hit_rate)),
        ("Reads", f"{s.reads:,} reads, {size_words(s.bytes_read)}"),
        ("Read latency", latency_words(s)),
    ]
    if info.changed_output:
        loss = s.loss_text() or "not measured (measure_loss)"
        rows[2:2] = [("Changed output", info.changed_output), ("Loss", loss)]
    return rows


def latency_words(s: Summary) -> str:
    """p50, p95 and max of all reads in ms."""
    if not s.reads:
        return "no data"
    p50, p95, top = three(s.read_p50_ms), three(s.read_p95_ms), three(s.read_max_ms)
    return f"p50 {p50} ms, p95 {p95} ms, max {top} ms"


def ended_words(reason: str) -> str:
    """Why the run ended."""
    known = {
        "stop": "The model ended its answer",
        "length": "The token limit was reached",
        "interrupted": "Stopped early",
        "error": "An error ended the run",
    }
    return known.get(reason, reason or "unknown")


def warning(trace: Trace) -> str:
    """The warning of a changed output; "" if the output is the model's own."""
    why = trace.info.changed_output
    loss = summarise(trace).loss_text() if why else ""
    return f"This is not the model's own output: {why}{f'; {loss}' if loss else ''}" if why else ""


def shortened(words: str, limit: int, where: str) -> str:
    """At most `limit` characters of `words`, with how many are left out and `where` they are."""
    if len(words) <= limit:
        return words
    return f"{words[:limit].rstrip()} … ({len(words) - limit:,} more characters{where})"


def plain(view: SavedView) -> str:
    """The text/plain form: the text, then one line of numbers."""
    line = " · ".join(f"{number} {what}" for number, what in tiles(view.trace))
    parts = [shortened(view.text, TEXT_LIMIT, "; see run.text") or "(no text)", ""]
    if view.finish_reason in ("interrupted", "error"):
        parts.append(f"[{ended_words(view.finish_reason)}]")
    if text := warning(view.trace):
        parts.append(f"[{text}]")
    parts.append(f"{model_words(view.trace)} · {line} · {reader_words(view.trace)}")
    return "\n".join(parts)


def markdown(view: SavedView) -> str:
    """The text/markdown form: prompt and text in fences they cannot close, and a table."""
    blocks = [("Prompt", shortened(view.prompt, PROMPT_LIMIT, "")), *texts(view)]
    parts = [f"**{label}**\n\n{_fenced(text)}" for label, text in blocks]
    if caution := warning(view.trace):
        parts.append(f"**Warning.** {_cell(caution)}")
    rows = "\n".join(f"| {_cell(name)} | {_cell(value)} |" for name, value in table(view))
    parts.append(f"| | |\n|---|---|\n{rows}")
    return "\n\n".join(parts) + "\n"


def _fenced(words: str) -> str:
    fence = "```"
    while fence in words:
        fence += "`"
    return f"{fence}text\n{words}\n{fence}"


def _cell(words: str) -> str:
    """A text escaped for a Markdown table: no cell's end, markup or HTML."""
    for sign in "\\`*_[]<>|":
        words = words.replace(sign, {"<": "&lt;", ">": "&gt;"}.get(sign, "\\" + sign))
    return " ".join(words.split())
