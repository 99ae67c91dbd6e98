"""One self-contained HTML page of a run: its live view, tables, settings and provenance.

Nothing is fetched, and the page works from its file: the live view has the run's data in the page
(`notebook/live/page.py`). Without script the static view is in its place. Plots are SVG that
follows the reader's light or dark theme, about 50 kB each; plotly's script alone would be five
megabytes. A section whose numbers were not recorded says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from html import escape
from math import isfinite
from typing import TYPE_CHECKING

import numpy as np

from ....errors import OutlierError
from ....events import DECODE
from ....formatting import percent, size_words, three
from ....residency.policies import POLICIES
from ....runs.run import produced_by, step_names
from ....trace.answers import MEASURED
from ....trace.explain import slowest
from ....trace.routing_measures import routing_measures
from ....trace.segment_answers import segments_answer
from ....trace.time_parts import meaning, part_name, parts_of_tokens
from ....trace.trace import Trace
from ....trace.what_if import WhatIf, note
from ...live.page import assets, policy, run_page
from .answer_charts import of_layers
from .charts import all_charts
from .explanation import html as explained_html
from .explanation import table
from .page import ROOT, STYLE, image, page
from .report_charts import caches, time_parts
from .text import SavedView, model_words, no_routing, warning

if TYPE_CHECKING:
    from ....runs.run import Run

SLOW = 3
"""Number of slow tokens that are explained."""
PERMUTATIONS = 499
"""Of the test of the run's segments."""
SIZES = 9
"""The most cache sizes in the table."""

SHEET = """
:root{color-scheme:light dark;--jp-layout-color1:#fff}
@media(prefers-color-scheme:dark){:root{--jp-layout-color1:#0b0c0e}}
main,main *{box-sizing:border-box}body{margin:0;background:#fff;color:#1f2328;
 font:14px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1240px;margin:0 auto;padding:20px 16px 48px}
main>:not(.oj-page){max-width:1000px}
h1{font-size:22px;margin:0 0 4px}h2{font-size:17px;margin:30px 0 8px}
main>p{margin:0 0 10px}
main .oj-static{max-width:none;margin-bottom:10px}
main .oj-static .oj-charts img{max-width:480px}
@media(prefers-color-scheme:dark){body{background:#0b0c0e;color:#e6e8eb}}
@media print{h2,.oj-charts img{break-inside:avoid}}
"""


def report(run: Run) -> str:
    """The whole page; everything that came from a model or a user is escaped."""
    trace = run.trace
    title = f"Run of {model_words(trace)}"
    view = SavedView.of(run)
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy()}">',
        f"<title>{escape(title)}</title><style>{SHEET}{STYLE}</style></head><body><main>",
        f"<h1>{escape(title)}</h1>",
        f"<p>{escape(_exactness(trace))}</p>",
        "<h2>The run</h2>",
        run_page(run, page(view, all_charts(trace))),
    ]
    for name, section in SECTIONS.items():
        parts += [f"<h2>{name}</h2>", *_guarded(section, run)]
    return "\n".join([*parts, "</main>", assets(), "</body></html>"])


def _exactness(trace: Trace) -> str:
    """One sentence: whether the output is the model's own."""
    if text := warning(trace):
        return f"{text}."
    kernels = {"mlx": "MLX's kernels", "cpu": "compiled kernels in float32"}.get(
        trace.info.kernels, "unknown kernels"
    )
    return f"The output is the model's own, computed completely by {kernels}."


def _guarded(section: Callable[[Run], Iterator[str]], run: Run) -> Iterator[str]:
    """A section, or the reason why it is missing: traces of other programs lack some arrays."""
    try:
        yield from section(run)
    except OutlierError as error:
        yield f"<p>{escape(str(error))}.</p>"


def _time(run: Run) -> Iterator[str]:
    trace = run.trace
    decode = trace.phase == DECODE
    if not trace.has("calls") or not decode.any():
        yield "<p>No times of decode were recorded.</p>"
        return
    parts = parts_of_tokens(trace)
    whole = float(np.mean(trace.step_ns[decode])) / 1e6
    rows = []
    for name, values in parts.items():
        mine = values[decode]
        if np.isnan(mine).all() or mine.max() < 0.0005:
            continue
        mean = float(np.mean(mine))
        numbers = (f"{three(float(value))} ms" for value in np.quantile(mine, (0.5, 0.95)))
        rows.append((mean, (part_name(name), f"{three(mean)} ms", percent(mean / whole), *numbers,
                            meaning(name, trace.info.kernels))))  # fmt: skip
    head = ("part", "mean", "share", "median", "p95", "what it contains")
    by_size = table(head, [row for _, row in sorted(rows, key=lambda each: -each[0])])
    yield _framed(f'<div class="oj-charts">{image(time_parts(trace))}</div>{by_size}')


def _slow(run: Run) -> Iterator[str]:
    explainer, names = run.trace._explainer, step_names(run)
    made = produced_by(run.trace).tolist()
    found = slowest(run.trace, SLOW).tolist()
    if not found:
        yield "<p>No token was decoded.</p>"
    if run.trace.shared:
        yield "<p>The run shared its calls with other prompts: their times are of all.</p>"
        return
    for step in found:
        if step in made:
            yield explained_html(explainer.explain(step, names), styled=False)


def _caches(run: Run) -> Iterator[str]:
    trace = run.trace
    if reason := no_routing(trace):
        yield f"<p>{escape(reason)}.</p>"
        return
    replays = WhatIf(trace)
    sizes = replays.sizes()
    if len(sizes) > SIZES:
        own = {trace.info.slots} & set(sizes)
        sizes = sorted({sizes[i] for i in np.linspace(0, len(sizes) - 1, SIZES).astype(int)} | own)
    rows = [replays.row(policy, size) for policy in POLICIES for size in sizes]
    head = (
        "slots",
        "of all",
        "size",
        *(f"{policy}: hit rate · read · tokens/s" for policy in POLICIES),
    )
    body = []
    for i, size in enumerate(sizes):
        mine = rows[i :: len(sizes)]
        cells = [
            f"{percent(row['decode_hit_rate'])} · {size_words(row['decode_bytes'])} · "
            f"{three(row['tokens_per_second'])}"
            for row in mine
        ]
        gb = mine[0]["gb"]
        cache = size_words(gb * 1e9) if isfinite(gb) else "–"
        here = " ←" if size == trace.info.slots else ""
        body.append((f"{size:,}{here}", percent(mine[0]["share"]), cache, *cells))
    chart = f'<div class="oj-charts">{image(caches(rows, trace))}</div>'
    yield _framed(chart + table(head, body))
    if caution := note(trace):
        yield f"<p>Not exactly the run: {escape(caution)}.</p>"
    yield (
        "<p>Replays of this run's lookups in decode; ← marks the run's own size. "
        f"Speeds are predicted: {escape(str(replays.cost))}.</p>"
    )


def _routing(run: Run) -> Iterator[str]:
    if reason := no_routing(run.trace):
        yield f"<p>{escape(reason)}.</p>"
        return
    for phase in ("decode", "prefill"):
        found = routing_measures(run.trace, phase)
        if not found.choices.any():
            continue
        rows = [
            (str(int(row["layer"])), *(_measure(name, row[name]) for name in MEASURED))
            for row in found.rows()
        ]
        by_layer = table(("layer", *MEASURED.values()), rows)
        opened = " open" if phase == "decode" and len(rows) <= 16 else ""
        yield _framed(f"<details{opened}><summary>{phase}, by layer</summary>{by_layer}</details>")


def _segments(run: Run) -> Iterator[str]:
    if not len(run.trace.kinds):
        yield "<p>The segments of this run were not recorded.</p>"
        return
    found = segments_answer(run.trace, permutations=PERMUTATIONS)
    charts = [] if found.routing is None else [of_layers(found.routing, " and ".join(found.kinds))]
    chart = "".join(f'<div class="oj-charts">{image(each)}</div>' for each in charts)
    if found.routing is not None:
        yield f"<p>{escape(found.sentence)}</p>"
    yield _framed(chart + table(found.table[0], found.table[1:]))
    for each in found.notes:
        yield f"<p>{escape(each[:1].upper() + each[1:])}.</p>"


def _measure(name: str, value: float) -> str:
    if not isfinite(value):
        return "–"
    return f"{value:,.0f}" if name == "never" else percent(value)


def _origin(run: Run) -> Iterator[str]:
    info = run.trace.info
    rows = [
        ("Model", model_words(run.trace)),
        ("Checkpoint", info.model_hash or "unknown"),
        ("Machine", info.machine or "unknown"),
        ("Versions", ", ".join(f"{name} {v}" for name, v in info.versions.items()) or "unknown"),
        ("Kernels", info.kernels or "unknown"),
        ("Cache policy", info.policy or "unknown"),
        ("Resident at the start", f"{len(run.trace.resident_at_start):,} experts"),
        ("Disk", f"{size_words(info.disk_rate)}/s, probed" if info.disk_rate else "not probed"),
        ("Output", info.changed_output or "the model's own"),
        ("Not recorded", ", ".join(info.absent) or "nothing"),
    ]
    rows += [
        (name.replace("_", " "), "not set" if value in (None, "", ()) else str(value))
        for name, value in info.options.items()
    ]
    yield _framed(table(("what", "value"), rows))


def _framed(body: str) -> str:
    return f'<div class="{ROOT}">{body}</div>'


SECTIONS = {
    "Where the time went": _time,
    "The slowest tokens": _slow,
    "Other cache sizes and policies": _caches,
    "Segments": _segments,
    "Routing": _routing,
    "Settings and origin": _origin,
}
