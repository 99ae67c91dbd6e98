"""What the saved view says in words: numbers with units, and reasons for what is missing.

Nothing here is escaped; `page` escapes all it is given, and markdown is fenced in `plain`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ....formatting import percent, size_words, three
from ....trace.measures import Summary, summarise
from ....trace.trace import Trace

READER_WORDS = {
    "direct": "reads past the page cache (direct)",
    "pread": "reads through the page cache (pread)",
    "mmap": "reads by page faults (mmap)",
}

PROMPT_LIMIT, TEXT_LIMIT = 400, 20_000
"""Characters kept of the prompt and of the generated text: a saved notebook must stay small."""


@dataclass(frozen=True)
class SavedView:
    """All that the saved view is made from."""

    text: str
    trace: Trace
    finish_reason: str
    prompt: str


def reader_words(trace: Trace) -> str:
    """How experts were read, in words; an unknown reader is named as it is."""
    reader = trace.info.reader
    return READER_WORDS.get(reader, f"reader: {reader}" if reader else "reader unknown")


def model_words(trace: Trace) -> str:
    """The model's name, or that it has none."""
    return trace.info.model or "unnamed model"


def no_routing(trace: Trace) -> str:
    """Why there is no routing to show; "" when there is."""
    if not trace.steps:
        return "the run made no step"
    if not trace.layers:
        return "a dense model has no expert layers"
    if not (trace.experts >= 0).any():
        return "no router's choice was recorded"
    return ""


def no_reads(trace: Trace) -> str:
    """Why there is no read latency to show; "" when there is."""
    if len(trace.reads):
        return ""
    if missing := no_routing(trace):
        return missing
    if trace.info.reader == "mmap":
        return "with mmap the operating system reads, and does not say when"
    if bool(trace.hits[trace.experts >= 0].all()):
        return "nothing was read: every chosen expert already sat in RAM"
    return "no read was recorded"


def cache_bytes(trace: Trace) -> int:
    """RAM the slots take: each is as large as the largest expert."""
    return trace.info.slots * max(trace.info.expert_nbytes, default=0)


def cache_words(trace: Trace) -> str:
    """Slots and their bytes; "" when the run had none."""
    if not trace.info.slots:
        return ""
    size = cache_bytes(trace)
    slots = f"{trace.info.slots:,} expert slot" + ("s" if trace.info.slots != 1 else "")
    return f"{slots} · {size_words(size)} in RAM" if size else slots


def tiles(trace: Trace) -> list[tuple[str, str]]:
    """The summary line: (number, what it is). What was not counted is said, not shown as 0."""
    s = summarise(trace)
    found = [
        (three(s.tokens_per_second), "tokens/s") if s.decoded_steps else ("no data", "tokens/s"),
        (_rate(s.decode_hit_rate), "hit rate in decode"),
        (_rate(s.prefill_hit_rate), "hit rate in prefill"),
    ]
    found.append((size_words(s.bytes_read), "read from SSD"))
    if s.reads:
        both = f"{three(s.read_p50_ms)} / {three(s.read_p95_ms)} ms"
        found.append((both, "read latency p50 / p95"))
    else:
        found.append(("no data", "read latency"))
    if s.compared:
        found.append((f"{three(s.kl)} nats", "KL from the exact model"))
        found.append((percent(s.top1_agreement), "top-1 agreement with it"))
    return found


def _rate(share: float) -> str:
    return percent(share) if math.isfinite(share) else "no data"


def table(view: SavedView) -> list[tuple[str, str]]:
    """Every number behind the picture, as (name, value) rows."""
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
        ("Prefill", f"{s.prompt_tokens:,} tokens in {three(s.prefill_seconds)} s"),
        ("Decode", f"{s.decoded_steps:,} steps in {three(s.decode_seconds)} s"),
        ("Speed", f"{three(s.tokens_per_second)} tokens/s"),
        ("Look-ups", f"{s.lookups:,}, of these {s.hits:,} hits ({percent(s.hit_rate)})"),
        ("Hit rate in decode", percent(s.decode_hit_rate)),
        ("Hit rate in prefill", percent(s.prefill_hit_rate)),
        ("Reads", f"{s.reads:,} reads, {size_words(s.bytes_read)}"),
        ("Read latency", latency_words(s)),
    ]
    if info.changed_output:
        said = s.loss_text() or "how far from the exact model was not measured (measure_loss)"
        rows[2:2] = [("Changed output", info.changed_output), ("Loss", said)]
    return rows


def latency_words(s: Summary) -> str:
    """p50, p95 and max of all reads in ms."""
    if not s.reads:
        return "no data"
    p50, p95, top = three(s.read_p50_ms), three(s.read_p95_ms), three(s.read_max_ms)
    return f"p50 {p50} ms, p95 {p95} ms, max {top} ms"


def ended_words(reason: str) -> str:
    """Why the run ended, for a reader."""
    known = {
        "stop": "The model ended its answer",
        "length": "The token limit was reached",
        "interrupted": "Interrupted: this is what was made until then",
        "error": "An error ended the run: this is what was made until then",
    }
    return known.get(reason, reason or "unknown")


def warning(trace: Trace) -> str:
    """The warning a changed output earns; "" when the output is the model's own."""
    why = trace.info.changed_output
    loss = summarise(trace).loss_text() if why else ""
    return f"This is not the model's own output: {why}{f'; {loss}' if loss else ''}" if why else ""


def shortened(words: str, limit: int, where: str) -> str:
    """At most `limit` characters of `words`, saying how many are left out and where they are."""
    if len(words) <= limit:
        return words
    return f"{words[:limit].rstrip()} … ({len(words) - limit:,} more characters{where})"


def plain(view: SavedView) -> str:
    """The text/plain form: the text, then one line of numbers."""
    line = " · ".join(f"{number} {what}" for number, what in tiles(view.trace))
    parts = [shortened(view.text, TEXT_LIMIT, "; see run.text") or "(no text)", ""]
    if view.finish_reason in ("interrupted", "error"):
        parts.append(f"[{ended_words(view.finish_reason)}]")
    if said := warning(view.trace):
        parts.append(f"[{said}]")
    parts.append(f"{model_words(view.trace)} · {line} · {reader_words(view.trace)}")
    return "\n".join(parts)


def markdown(view: SavedView) -> str:
    """The text/markdown form: prompt and text in fences nothing can close, and a table."""
    text = shortened(view.text, TEXT_LIMIT, "; see run.text")
    parts = [
        f"**Prompt**\n\n{_fenced(shortened(view.prompt, PROMPT_LIMIT, ''))}",
        f"**Generated text**\n\n{_fenced(text)}",
    ]
    if said := warning(view.trace):
        parts.append(f"**Warning.** {_cell(said)}")
    rows = "\n".join(f"| {_cell(name)} | {_cell(value)} |" for name, value in table(view))
    parts.append(f"| | |\n|---|---|\n{rows}")
    return "\n\n".join(parts) + "\n"


def _fenced(words: str) -> str:
    fence = "```"
    while fence in words:
        fence += "`"
    return f"{fence}text\n{words}\n{fence}"


def _cell(words: str) -> str:
    """Words in which markdown finds neither a cell's end, nor markup, nor HTML."""
    for sign in "\\`*_[]<>|":
        words = words.replace(sign, {"<": "&lt;", ">": "&gt;"}.get(sign, "\\" + sign))
    return " ".join(words.split())
