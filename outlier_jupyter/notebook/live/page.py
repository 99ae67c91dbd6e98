"""The live view of a finished run on a page without a kernel: data, script and style.

The page carries the last frame, compressed, the eviction order after each generated token, and what
Python would answer about the slowest tokens. `static/report.js` shows them in the live view.
Nothing is fetched, and all texts are data. Without script, or in a browser that cannot unpack, the
static view stays.
"""

from __future__ import annotations

import gzip
import json
from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from ...display import draw
from ...errors import OutlierError
from ...runs.run import Run
from ...trace import Trace
from ...trace.explain import slowest
from ..page_modules import STATIC
from . import open_views
from .alternatives import embedded_alternatives
from .answers import answer
from .columns import embedded_columns
from .eviction_orders import all_orders, orders_message
from .finished_run import frame_of_run
from .frames import encode
from .widget import LiveView, header, of_finished

ANSWERED = 24
ANSWERS_BYTES = 200_000
"""The slow tokens that the page explains as a kernel does, and the most bytes of that."""

ALTERNATIVES_BYTES = 600_000
"""The most bytes, before compression, of the tokens that the model found likely."""

ORDERS_BYTES = 400_000
RAW_ORDERS_BYTES = 16_000_000
"""The most bytes of the eviction orders in a page, and before compression. Above either, a
page has only the `NEXT_OUT` experts that are evicted next.
"""
NEXT_OUT = 3

STYLE = """
.oj-page{container-type:inline-size}
.oj-page.oj-shown>.oj-fallback{display:none}
@media print{.oj-page.oj-shown>.oj-fallback{display:block}.oj-page>.oj-live{display:none}}
"""


def run_page(run: Run, static: str) -> str:
    """The place of a run's view in a page that also has `assets`.

    Args:
        static: HTML of the static view.
    """
    info = header(run.trace.info, run.prompt) | of_finished(run)
    info["columns"] = embedded_columns(run)
    if likely := embedded_alternatives(run, ALTERNATIVES_BYTES):
        info["likely"] = likely
    orders, packed = _orders(run.trace)
    answers = _answers(run)
    state = {"info": info, "status": run.finish_reason, "answers": answers, "orders": orders}
    data = {
        "run": _packed(json.dumps(state).encode()),
        "snapshot": _packed(encode(frame_of_run(run))),
        "orders": packed,
    }
    return (
        f'<div class="oj-page"><script type="application/json">{json.dumps(data)}</script>'
        f'<div class="oj-fallback">{static}</div></div>'
    )


def pages() -> dict[str, str]:
    """The places of all open views of finished runs, by the class of their saved views."""
    return {
        view.view_id: run_page(run, draw("Run.mimebundle", run)["text/html"])
        for view in open_views.views()
        if isinstance(view, LiveView) and (run := view.finished_run) is not None
    }


def assets() -> str:
    """The style and the script, for the end of a page, once."""
    return f"<style>{_read('live.css')}{STYLE}</style><script>{_read('report.js')}</script>"


def policy() -> str:
    """A Content-Security-Policy for a page with `assets`: no script but theirs, nothing fetched."""
    digest = b64encode(sha256(_read("report.js").encode()).digest()).decode()
    return (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'"
    )


def _read(name: str) -> str:
    return (STATIC / name).read_text(encoding="utf-8")


def _packed(data: bytes) -> str:
    """As `unpack.ts` reads it: base64 has no character that ends a script element."""
    return b64encode(gzip.compress(data, 9, mtime=0)).decode()


def _orders(trace: Trace) -> tuple[dict[str, Any], str]:
    """The eviction orders as a kernel would send them, and their buffer, packed."""
    first, found = all_orders(trace)
    message, buffer = orders_message(first, found)
    if len(buffer) <= RAW_ORDERS_BYTES and len(packed := _packed(buffer)) <= ORDERS_BYTES:
        return message, packed
    message, buffer = orders_message(first, found, NEXT_OUT)
    return message, _packed(buffer)


def _answers(run: Run) -> list[Mapping[str, Any]]:
    """What a kernel would say about the slowest tokens, slowest first, bounded."""
    answers: list[Mapping[str, Any]] = []
    room = ANSWERS_BYTES
    try:
        steps = slowest(run.trace, ANSWERED).tolist()
    except OutlierError:  # times were not recorded
        return []
    for step in steps:
        about = {"step": step}
        message = {"about": about, **answer(run, about)}
        room -= len(json.dumps(message))
        if room < 0:
            break
        answers.append(message)
    return answers
