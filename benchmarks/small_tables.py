"""Tables of docs/benchmarks.md that a script each measures: batches, forecasts, ranks, the page.

Of each script they take the rows of its last commit on each processor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from benchmarks.results import Row, all_rows
from outlier_jupyter.formatting import percent, three

Table = tuple[tuple[str, ...], list[tuple[str, ...]]]
"""Heads, and rows of as many cells."""


def text() -> str:
    """All of them, each processor's under its name, as Markdown."""
    lines: list[str] = []
    for title, name, made in TABLES:
        for rows in last(all_rows(name)):
            heads, cells = made(rows)
            if not cells:
                continue
            lines += [f"### {title}", "", about(rows[0]), ""]
            lines += [
                "| " + " | ".join(line) + " |" for line in (heads, ("---",) * len(heads), *cells)
            ]
            lines.append("")
    return "\n".join(lines)


def last(rows: list[Row]) -> Iterator[list[Row]]:
    """The rows of each processor's last commit, the processor measured last first."""
    machines = {row["machine"]: row["date"] for row in rows}
    for machine in sorted(machines, key=lambda each: str(machines[each]), reverse=True):
        mine = [row for row in rows if row["machine"] == machine]
        yield [row for row in mine if row["commit"] == mine[-1]["commit"]]


def about(row: Row) -> str:
    """Where and when rows were measured."""
    busy = f"; load {three(number(row, 'load'))}" if row.get("load") else ""
    when = f"{row['date']}, commit {str(row['commit'])[:8]}{busy}"
    return f"{row['processor']}, {row['vectors']}; {when}."


def number(row: Row, name: str) -> float:
    """A cell as a number; NaN if it is empty."""
    return float(str(row.get(name) or "nan"))


def batches(rows: list[Row]) -> Table:
    """Several prompts at once against one after the other."""
    return ("model; prompts", "cached", "one after the other, tokens/s", "together", "ratio",
            "bytes alone would allow", "misses, one after the other", "together"), [
        (f"{row['model']}; {row['prompts']}, {row['kind']}", percent(number(row, "share")),
         three(number(row, "one_by_one_tokens_per_s")), three(number(row, "together_tokens_per_s")),
         f"{number(row, 'ratio'):.2f} × ({number(row, 'least'):.2f}–{number(row, 'most'):.2f})",
         allowed(row),
         f"{number(row, 'one_by_one_misses'):,.0f}", f"{number(row, 'together_misses'):,.0f}")
        for row in rows
    ]  # fmt: skip


def allowed(row: Row) -> str:
    """The ratio of bytes, of memory and of the disk where it is read."""
    if not row.get("by_memory"):
        return "–"
    disk = f", disk {number(row, 'by_disk'):.2f} ×" if row.get("by_disk") else ""
    return f"memory {number(row, 'by_memory'):.2f} ×{disk}"


def forecasts(rows: list[Row]) -> Table:
    """What `plan` foresaw, beside what was measured."""
    return ("model, layers", "cached", "forecast, tokens/s", "band", "measured",
            "forecast ÷ measured"), [
        (f"{row['model']}, {row['layers']}", percent(number(row, "share")),
         three(number(row, "likely")),
         f"{three(number(row, 'low'))}–{three(number(row, 'high'))}",
         three(number(row, "measured")), f"{number(row, 'likely_over_measured'):.2f}")
        for row in rows
    ]  # fmt: skip


def exchanges(rows: list[Row]) -> Table:
    """What ranks cost where nothing is read."""
    return ("all experts in RAM", "one process, ms a token", "two ranks", "a layer's exchange"), [
        (f"demo, {row['layers']} layers", three(number(row, "one_ms")),
         three(number(row, "ranks_ms")), f"{three(number(row, 'layer_ms'))} ms")
        for row in rows if row["part"] == "overhead"
    ]  # fmt: skip


def error(row: Row, name: str) -> str:
    """A relative error; a dash where the row has none."""
    return f"{100 * number(row, name):+.0f} %" if row.get(name) else "–"


def ranks(rows: list[Row]) -> Table:
    """What one process, and this processor's speeds, predict for two, and what they took."""
    return ("two processes, a quarter of the experts cached by each", "a disk each, MB/s",
            "one process (4 MB/s; 30b 500), ms a token", "two, measured",
            "predicted by the one's times", "error", "by this processor's speeds", "error"), [
        (("demo, " if row["part"] != "slice" else "30b, 4 layers, ")
         + f"{three(number(row, 'hop_ms'))} ms added to a hop",
         three(number(row, "disk_mb_per_s")), three(number(row, "one_ms")),
         three(number(row, "ranks_ms")), three(number(row, "predicted_ms")),
         error(row, "error"),
         three(number(row, "machine_ms")) if row.get("machine_ms") else "–",
         error(row, "machine_error"))
        for row in rows if row["part"] != "overhead"
    ]  # fmt: skip


def moves(rows: list[Row]) -> Table:
    """The page's cost of a move of the playhead."""
    return ("tokens; layers × experts", "arrow keys, median", "p95", "clicks anywhere, median",
            "p95"), [
        (f"{int(number(row, 'tokens')):,}; {row['layers']} × {row['experts']}",
         *(f"{three(number(row, f'{kind}_main_{what}_ms'))} ms"
           for kind in ("near", "far") for what in ("median", "p95")))
        for row in rows
    ]  # fmt: skip


def drawn(rows: list[Row]) -> Table:
    """The page's cost of a run under way."""
    return ("layers × experts, tokens/s", "frames/s", "main thread a frame, median", "p95",
            "first picture"), [
        (f"{row['layers']} × {row['experts']}, {row['tokens_per_s']}",
         three(number(row, "live_frames_per_s")), f"{three(number(row, 'main_median_ms'))} ms",
         f"{three(number(row, 'main_p95_ms'))} ms", f"{three(number(row, 'first_paint_ms'))} ms")
        for row in rows[-1:]
    ]  # fmt: skip


TABLES: tuple[tuple[str, str, Callable[[list[Row]], Table]], ...] = (
    ("Several prompts at once", "batch", batches),
    ("Forecasts", "forecasting", forecasts),
    ("What ranks cost", "ranks", exchanges),
    ("What ranks bring", "ranks", ranks),
    ("The live view under way", "drawing", drawn),
    ("The live view of a run that is over", "scrubbing", moves),
)
"""Title, file of rows, and what makes the table."""
