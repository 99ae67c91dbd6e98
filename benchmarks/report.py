"""Fills docs/benchmarks.md and the README's table from the newest rows of the benchmark.

    python -m benchmarks.report

Of every part of the benchmark it takes the rows of the last run, separately for each processor: no
table or figure mixes two. A mark shows rows that were measured on a busy machine. In both files the
tables are between two marks; the figures are in `docs/`.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import plotly.graph_objects as go
from PIL import Image
from playwright.sync_api import sync_playwright
from plotly.subplots import make_subplots

from benchmarks import small_tables
from benchmarks.edge import EDGE
from benchmarks.results import ROOT, UNKNOWN, Row, all_rows
from outlier_jupyter.formatting import percent, three

BEGIN, END = "<!-- benchmark: begin -->", "<!-- benchmark: end -->"
SMALL = "<!-- small tables: begin -->", "<!-- small tables: end -->"
SIZE = (900, 340)
OURS, LIMIT, MOVED, THEIRS, BESIDE = "#2f6fbb", "#9aa3ad", "#7fb2a5", "#d9822b", "#a35d9c"
CHROMIUM = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
BUSY = "¹"
Where = tuple[str, str, str]
"""Processor, its instructions that the kernels used, and machine: the key of related rows."""
Parts = dict[str, list[Row]]
"""Part → its newest rows."""


def newest(rows: list[Row], part: str) -> list[Row]:
    """The rows of a part's last run: of its last commit, the last of each subject.

    Beside llama.cpp each memory limit is a run of its own.
    """
    mine = [row for row in rows if row.get("part") == part]
    commits = {row.get("limit_gib"): row["commit"] for row in mine}
    last = [row for row in mine if row["commit"] == commits[row.get("limit_gib")]]
    keys = ("subject", "beside", "prompt", "limit_gib")
    return list({tuple(row.get(key, "") for key in keys): row for row in last}.values())


def where(row: Row) -> Where:
    """The processor, vector instructions and machine of a row."""
    return str(row["processor"]), str(row["vectors"]), str(row["machine"])


def collect() -> dict[Where, Parts]:
    """The parts of each processor that has rows; the one measured last comes first."""
    found: dict[Where, Parts] = {}
    every = [row for name in ("decode", "prompts", "recording", "peers") for row in all_rows(name)]
    latest: dict[Where, str] = {}
    for row in every:
        latest[where(row)] = max(latest.get(where(row), ""), str(row["date"]))
    for here in sorted(latest, key=lambda here: latest[here], reverse=True):
        if here[:2] == (UNKNOWN, UNKNOWN):
            continue
        rows = [row for row in every if where(row) == here]
        parts = dict.fromkeys(str(row.get("part", "")) for row in rows)
        found[here] = {part: newest(rows, part) for part in parts}
    return found


def named(here: Where) -> str:
    """A processor and the instructions that the kernels used, as text."""
    processor, vectors, machine = here
    if processor == UNKNOWN:
        processor = f"processor {UNKNOWN}"
    system, kind, cores, *_ = machine.split("-")
    return (
        f"{processor}, kernels with {vectors}; {system} {kind}, {cores.removesuffix('cores')} cores"
    )


def picture_of(here: Where, shade: str) -> str:
    """The name of the figure's file."""
    words = re.sub(r"[^a-z0-9]+", "-", f"{here[0]} {here[1]}".replace(UNKNOWN, "").lower())
    return f"bench-{words.strip('-')}-{shade}.png"


def number(row: Row, name: str) -> float:
    """A cell as a number; NaN if it is empty."""
    text = str(row.get(name) or "nan")
    return float(text)


def cell(row: Row, name: str, scale: float = 1.0) -> str:
    """A cell rounded to three digits."""
    return three(number(row, name) * scale)


def speed(row: Row) -> str:
    """Tokens a second, with the range, and a mark if the machine was busy."""
    mark = BUSY if row.get("busy") == "yes" else ""
    return f"{cell(row, 'tokens_per_s')} ({cell(row, 'slowest')}–{cell(row, 'fastest')}){mark}"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines] + [""]


def decode_lines(parts: Parts) -> list[str]:
    """Decode by cache size, both geometries."""
    rows = [*parts.get("sizes", []), *parts.get("huge", [])]
    heads = ("decode", "tokens/s", "hits", "expert reads, MB/s", "disk, MB/s", "times the limit",
             "times its bytes, moved in order")  # fmt: skip
    return table(heads, [
        (("Qwen3.5-397B-A17B, " if "397B" in str(r["subject"]) else "Qwen3-30B-A3B, ")
         + str(r["subject"]).partition(", ")[2] + f" ({percent(number(r, 'share'))})",
         speed(r), percent(number(r, "hit_rate")), cell(r, "read_mb_per_s"),
         cell(r, "disk_mb_per_s"), cell(r, "times_limit"), cell(r, "times_in_order"))
        for r in rows
    ]) if rows else []  # fmt: skip


def short_lines(parts: Parts) -> list[str]:
    """The short form, on a slice of layers."""
    rows = parts.get("short", [])
    if not rows:
        return []
    heads = (f"a slice of {rows[0]['layers']} of the 48 layers", "tokens/s", "hits",
             "expert reads, MB/s", "disk, MB/s", "times the limit")  # fmt: skip
    return table(heads, [
        (str(r["subject"]), speed(r), percent(number(r, "hit_rate")) if r["hit_rate"] else "–",
         cell(r, "read_mb_per_s"), cell(r, "disk_mb_per_s"), cell(r, "times_limit"))
        for r in rows
    ])  # fmt: skip


def feature_lines(parts: Parts) -> list[str]:
    """Each feature off, beside the base of the same rounds, but for lookahead, since removed."""
    rows = parts.get("features", [])
    bases = {r["beside"]: r for r in rows if r["subject"] == "base"}
    others = [r for r in rows if str(r["subject"]).split(",")[0] not in ("base", "lookahead")]
    heads = ("a quarter cached, but", "tokens/s", "as it is, in turn with it", "ratio")
    return table(heads, [
        (str(r["subject"]), speed(r), speed(bases[r["beside"]]),
         three(number(r, "tokens_per_s") / number(bases[r["beside"]], "tokens_per_s")))
        for r in others
    ]) if others else []  # fmt: skip


def unpaged_lines(parts: Parts) -> list[str]:
    """Against mlx-lm with all in RAM, on a slice of layers."""
    rows = {str(r["subject"]): r for r in parts.get("unpaged", [])}
    ours = rows.get("all cached")
    if ours is None:
        return []
    found = []
    for name in ("mlx-lm in RAM, bf16", "mlx-lm in RAM, float32"):
        if name in rows:
            ratio = number(ours, "tokens_per_s") / number(rows[name], "tokens_per_s")
            found.append((name, speed(rows[name]), speed(ours), f"{three(ratio)} ×"))
    heads = (f"a slice of {ours['layers']} of the 48 layers, all cached", "tokens/s",
             "compiled kernels", "ratio")  # fmt: skip
    return table(heads, found)


def prompt_lines(parts: Parts) -> list[str]:
    """Prompts of several lengths, beside NumPy's products."""
    rows = [*parts.get("prompts", []), *parts.get("long", [])]
    by: dict[str, dict[str, Row]] = {}
    for r in rows:
        by.setdefault(str(r["prompt"]), {})[str(r["subject"])] = r
    layers = rows[0]["layers"] if rows else 0
    heads = (f"prompt, tokens (a slice of {layers} layers)", "all cached, s",
             "a quarter cached, s", "NumPy's products alone, s",
             "NumPy's share of ours")  # fmt: skip
    found = []
    for length, each in by.items():
        whole, part = each.get("all cached"), each.get("a quarter cached")
        alone = each.get("NumPy's products, float32")
        if whole and part and alone:
            share = number(alone, "prompt_s") / number(whole, "prompt_s")
            mark = BUSY if whole.get("busy") == "yes" else ""
            found.append((length, cell(whole, "prompt_s") + mark, cell(part, "prompt_s"),
                          cell(alone, "prompt_s"), f"{100 * share:.3g} %"))  # fmt: skip
    return table(heads, found) if found else []


def by_memory(rows: list[Row]) -> list[tuple[str, Row, Row, Row | None]]:
    """For each memory size, the largest first: its text, our row, llama.cpp's best, and EDGE's."""
    limits = {str(row.get("limit_gib") or "") for row in rows}
    found = []
    for limit in sorted(limits, key=lambda limit: -float(limit or "inf")):
        here = [row for row in rows if str(row.get("limit_gib") or "") == limit]
        mine = [row for row in here if str(row["subject"]).startswith("ours")]
        theirs = [row for row in here if str(row["subject"]).startswith("llama.cpp")]
        edge = next((row for row in here if row["subject"] == EDGE), None)
        if mine and theirs:
            best = max(theirs, key=lambda row: number(row, "tokens_per_s"))
            memory = f"{float(limit):g} GiB" if limit else "all in RAM"
            found.append((memory, mine[0], best, edge))
    return found


def peer_lines(parts: Parts) -> list[str]:
    """Ours and llama.cpp's, in RAM and in the same memory, where it ran with EDGE's beside."""
    every = by_memory(parts.get("peers", []))
    heads = ["memory", "this package, tokens/s", "llama.cpp, tokens/s", "its way"]
    heads += [f"{EDGE}, tokens/s"] if any(edge for *_, edge in every) else []
    found = [
        [memory, speed(mine), speed(best), str(best["subject"]).partition(", ")[2],
         "–" if edge is None else speed(edge)][: len(heads)]
        for memory, mine, best, edge in every
    ]  # fmt: skip
    return table(heads, found) if found else []


def abreast_lines(parts: Parts) -> list[str]:
    """Ours and llama.cpp's, both in RAM at once, token by token."""
    rows = parts.get("abreast", [])
    heads = ("both in RAM at once, tokens in turn", "this package, tokens/s", "llama.cpp, tokens/s",
             "its time for a token ÷ ours", "times the memory limit, ours and its")  # fmt: skip
    found = []
    for way in dict.fromkeys(str(r["beside"]) for r in rows):
        theirs, mine = (
            next(r for r in rows if r["beside"] == way and (r["subject"] == way) == its)
            for its in (True, False)
        )
        said = f"{mine['layers']} of the 48 layers, {way.partition(', ')[2]}"
        limits = f"{cell(mine, 'times_limit')}, {cell(theirs, 'times_limit')}"
        found.append((said, speed(mine), speed(theirs), cell(mine, "ratio"), limits))
    return table(heads, found) if found else []


def other_lines(parts: Parts) -> list[str]:
    """The results that are written as sentences, not as tables."""
    said = [
        f"A process of its own with a quarter cached took {cell(r, 'rss_gb')} GB after a prompt of "
        f"{r['prompt']} tokens, {percent(number(r, 'rss_of_budget'))} of what it promises to keep "
        f"to, and {percent(number(r, 'peak_of_budget'))} at its most."
        for r in parts.get("resident", [])
    ]
    live = [r for r in parts.get("recording", []) if r["subject"] == "live"]
    for r in live:
        mark = BUSY if r.get("busy") == "yes" else ""
        said.append(
            f"Recording with a live view attached took {100 * number(r, 'cost'):.1f} % of decode's "
            f"time by the clock (standard error {100 * number(r, 'error'):.1f}) and "
            f"{percent(number(r, 'sinks'))} measured in subscribers{mark}."
        )
    return [" ".join(said), ""] if said else []


def notes(parts: Parts, here: Where) -> list[str]:
    """The conditions of the measurements above."""
    every = [row for rows in parts.values() for row in rows]
    if not every:
        return []
    commits = ", ".join(dict.fromkeys(str(row["commit"]) for row in every))
    routing = next((str(r["routing"]) for r in every if r.get("routing")), "")
    lines = [
        f"Medians of interleaved rounds (least–most), at {commits}; {named(here)}. "
        f"Weights are random and the vocabulary is 8,192; routing is real ({routing}): each "
        "model's router follows the recorded choices, in every engine. Each round reads another "
        "text, with other experts. The limit: bytes multiplied ÷ memory bandwidth or bytes missed "
        "÷ disk bandwidth, whichever takes longer, both measured between the rounds; memory's "
        "may change by half from minute to minute on a virtual machine, so a ratio below one "
        "means that a run met a better minute than its test. Its bytes, moved in order: what a "
        "loop that adds up numbers and the kernel's queue of reads take for the same bytes, reads "
        "beginning when a router has chosen and not before, and nothing else being done "
        "(`benchmarks/traffic.py`); measured after each run.",
    ]
    if any(row.get("busy") == "yes" for row in every):
        lines.append(f"{BUSY} Other processes took more than 5 % of the processors meanwhile.")
    return [line for text in lines for line in (text, "")]


def figure(parts: Parts, here: Where, dark: bool) -> go.Figure:
    """Decode against the limit by cache size; and beside llama.cpp in the same memory."""
    sizes, peers = parts.get("sizes", []), by_memory(parts.get("peers", []))
    panels = [bool(sizes), bool(peers)]
    wanted = ("Qwen3-30B-A3B geometry, by share of experts in RAM", "in the same memory")
    titles = [name for name, there in zip(wanted, panels, strict=True) if there]
    found = make_subplots(1, max(1, sum(panels)), subplot_titles=titles)
    if sizes:
        names = [percent(number(r, "share")) for r in sizes]
        # The ratio is taken within each round, because the machine drifts between rounds.
        limits = [number(r, "tokens_per_s") * number(r, "times_limit") for r in sizes]
        found.add_bar(x=names, y=limits, name="the hardware's limit", marker_color=LIMIT,
                      row=1, col=1)  # fmt: skip
        moved = [number(r, "tokens_per_s") * number(r, "times_in_order") for r in sizes]
        found.add_bar(x=names, y=moved, name="its bytes, moved in order", marker_color=MOVED,
                      row=1, col=1)  # fmt: skip
        found.add_bar(x=names, y=[number(r, "tokens_per_s") for r in sizes], name="this package",
                      marker_color=OURS, row=1, col=1)  # fmt: skip
    if peers:
        labels = [memory for memory, *_ in peers]
        subjects = ("this package", OURS), ("llama.cpp", THEIRS), (EDGE, BESIDE)
        for n, (name, colour) in enumerate(subjects, 1):
            rows = [peer[n] for peer in peers]
            if any(rows):
                speeds = [number(row, "tokens_per_s") if row else None for row in rows]  # type: ignore[arg-type]
                found.add_bar(x=labels, y=speeds, name=name, marker_color=colour,
                              row=1, col=sum(panels), showlegend=n > 1 or not sizes)  # fmt: skip
    found.update_layout(
        template="plotly_dark" if dark else "plotly_white", width=SIZE[0], height=SIZE[1],
        margin={"l": 50, "r": 10, "t": 70, "b": 40}, font_size=12, barmode="group",
        title={"text": named(here), "font_size": 13, "x": 0, "xref": "paper", "y": 0.97},
        legend={"orientation": "h", "y": -0.15},
        paper_bgcolor="#0d1117" if dark else "white", plot_bgcolor="#0d1117" if dark else "white",
    )  # fmt: skip
    found.update_yaxes(title_text="tokens/s", rangemode="tozero")
    return found


def draw(parts: Parts, here: Where, folder: Path) -> None:
    """The figure as two small pictures."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as home, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(CHROMIUM))
        for name, dark in (("light", False), ("dark", True)):
            page_file = Path(home) / f"{name}.html"
            figure(parts, here, dark).write_html(page_file, config={"staticPlot": True})
            page = browser.new_page(viewport={"width": SIZE[0] + 20, "height": SIZE[1] + 20})
            page.goto(f"file://{page_file}")
            page.wait_for_selector(".main-svg")
            picture = page.locator(".plot-container").first.screenshot()
            image = Image.open(io.BytesIO(picture)).convert("RGB")
            image.quantize(64, dither=Image.Dither.NONE).save(
                folder / picture_of(here, name), optimize=True
            )
        browser.close()


def drawn(parts: Parts) -> bool:
    """Whether there are rows to draw."""
    return bool(parts.get("sizes") or parts.get("peers"))


def section(parts: Parts, here: Where) -> list[str]:
    """All results of one processor, under its name."""
    alt = f":alt: Decode speed by cache size, beside the limit and llama.cpp: {named(here)}"
    picture = [
        line
        for shade in ("light", "dark")
        for line in (
            f"```{{image}} {picture_of(here, shade)}", alt, f":class: only-{shade}", "```", ""
        )
    ]  # fmt: skip
    tables = (
        decode_lines,
        short_lines,
        unpaged_lines,
        peer_lines,
        abreast_lines,
        feature_lines,
        prompt_lines,
    )
    return [
        f"### {named(here)}", "", *(picture if drawn(parts) else []),
        *(line for make in tables for line in labelled(make(parts), here)),
        *other_lines(parts), *notes(parts, here),
    ]  # fmt: skip


def labelled(lines: list[str], here: Where) -> list[str]:
    """A table whose first column head names the processor, so that it can stand alone."""
    processor = here[1] if here[0] == UNKNOWN else f"{here[0]}, {here[1]}"
    return [*(line.replace(" |", f"; {processor} |", 1) for line in lines[:1]), *lines[1:]]


def report() -> str:
    """The text between the marks of docs/benchmarks.md."""
    found = "\n".join(line for here, parts in collect().items() for line in section(parts, here))
    return found.replace("tokens' worth", "working sets")


def brief() -> str:
    """The text between the marks of the README: decode by cache size, last measured."""
    here, parts = next((here, parts) for here, parts in collect().items() if parts.get("sizes"))
    lines = labelled(decode_lines(parts), here)
    return "\n".join([*lines, f"Measured on: {named(here)}."]).replace(
        "tokens' worth", "working sets"
    )


def fill(page: Path, text: str, marks: tuple[str, str] = (BEGIN, END)) -> None:
    """Put `text` between the marks of a page."""
    begin, end = marks
    before, rest = page.read_text().split(begin, 1)
    page.write_text(f"{before}{begin}\n{text}\n{end}{rest.split(end, 1)[1]}")


def main() -> int:
    """Write the parts of both pages that are made from the rows, and the pictures."""
    fill(ROOT / "docs" / "benchmarks.md", report())
    fill(ROOT / "docs" / "benchmarks.md", small_tables.text(), SMALL)
    fill(ROOT / "README.md", brief())
    for here, parts in collect().items():
        if drawn(parts):
            draw(parts, here, ROOT / "docs")
        told = {name: len(rows) for name, rows in parts.items()}
        sys.stdout.write(json.dumps({named(here): told}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
