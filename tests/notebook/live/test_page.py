"""The live view on a page without a kernel: small, self-contained, and data where texts are."""

from __future__ import annotations

import base64
import gzip
import json
import re
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from outlier_jupyter import Engine, Run
from outlier_jupyter.notebook.live import page
from outlier_jupyter.notebook.live.finished_run import frame_of_run
from outlier_jupyter.notebook.live.frames import decode, encode
from outlier_jupyter.notebook.page_modules import STATIC
from tests.notebook.conftest import build

HOSTILE = "</script><script>x</script><!--<script> \u2028 ]]> &amp; <img src=x onerror=alert(1)>"


def data_of(html: str) -> tuple[dict[str, Any], bytes]:
    """What a page carries of a run: the traits with answers, and the snapshot."""
    (found,) = re.findall(r'<script type="application/json">(.*?)</script>', html, re.DOTALL)
    packed = json.loads(found)
    state, snapshot = (
        gzip.decompress(base64.b64decode(packed[name])) for name in ("run", "snapshot")
    )
    return json.loads(state), snapshot


def test_a_report_carries_the_run_and_what_python_would_say(engine: Engine) -> None:
    """The last frame, the header, and explanations of the slowest tokens, slowest first."""
    run = engine.generate("Hello", max_tokens=12)
    state, snapshot = data_of(page.run_page(run, "static"))
    assert snapshot == encode(frame_of_run(run)) and decode(snapshot).text == run.text
    assert state["status"] == run.finish_reason and state["info"]["prompt"] == "Hello"
    slowest = [answer["about"]["step"] for answer in state["answers"]]
    times = run.trace.step_ns[slowest]
    assert len(slowest) >= 11 and (np.diff(times) <= 0).all()
    assert all("ms" in answer["words"] for answer in state["answers"])


def test_a_report_carries_the_eviction_order_after_each_token(engine: Engine) -> None:
    """As `run.eviction_order` says it; of many tokens and slots only those that are next out."""
    run = engine.generate("Hello", max_tokens=12)
    orders, experts = orders_of(page.run_page(run, ""))
    width = max(run.trace.info.experts_per_layer)
    for token in range(1, 13):
        told = orders[run.step_of(token)]
        expected = run.eviction_order(token)
        assert told["pinned"] == expected.pinned and "part" not in told
        assert experts[run.step_of(token)] == (expected.experts @ [width, 1]).tolist()


def test_a_page_of_many_slots_has_the_experts_that_are_next_out(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three of each token: no page grows by more than a bound."""
    monkeypatch.setattr(page, "ORDERS_BYTES", 10)
    run = engine.generate("Hello", max_tokens=5)
    orders, experts = orders_of(page.run_page(run, ""))
    step = run.step_of(4)
    expected = run.eviction_order(4).experts[:3] @ [max(run.trace.info.experts_per_layer), 1]
    assert experts[step] == expected.tolist() and orders[step]["part"] is True


def orders_of(html: str) -> tuple[dict[int, dict[str, Any]], dict[int, list[int]]]:
    """What a page says of the order after each step: the message's entry, and the experts."""
    state, _ = data_of(html)
    (found,) = re.findall(r'<script type="application/json">(.*?)</script>', html, re.DOTALL)
    values = np.frombuffer(gzip.decompress(base64.b64decode(json.loads(found)["orders"])), "<u4")
    message = state["orders"]
    entries = {message["from"] + n: each for n, each in enumerate(message["orders"])}
    ends = np.cumsum([each["length"] for each in entries.values()])
    parts = np.split(values, ends[:-1])
    return entries, {step: part.tolist() for step, part in zip(entries, parts, strict=True)}


def test_five_hundred_tokens_of_48_layers_are_under_2_mb(tmp_path: Path) -> None:
    """The whole report, with script, style and the static view; every choice is in it."""
    trace = build(steps=532, layers=48, experts=128, k=8, slots=1200, prompt=32, seed=5)
    file = Run.of(trace).report(tmp_path / "report.html")
    assert file.stat().st_size < 2_000_000
    _, snapshot = data_of(file.read_text())
    assert len(decode(snapshot).experts_of) == 532


def test_no_text_is_markup_or_code(engine: Engine, tmp_path: Path) -> None:
    """Texts of a model and a user are data; the policy allows the package's script alone, and
    the page names no other place.
    """
    run = engine.generate("Hello", max_tokens=3)
    info = replace(run.trace.info, model=HOSTILE)
    run = replace(run, prompt=HOSTILE, text=HOSTILE, trace=replace(run.trace, info=info))
    html = run.report(tmp_path / "report.html").read_text()
    state, _ = data_of(html)
    assert state["info"]["prompt"] == HOSTILE
    scripts = re.findall(r"<script[^>]*>", html)
    assert scripts == ['<script type="application/json">', "<script>"] and "<img src=x" not in html
    digest = base64.b64encode(sha256((STATIC / "report.js").read_bytes()).digest()).decode()
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'; " in html
    assert f"script-src 'sha256-{digest}'" in html
    assert not re.search(r'(?:src|href)="(?!data:)', html)


@pytest.mark.parametrize("name", ["report.js", "live.css"])
def test_script_and_style_stay_in_their_elements(name: str) -> None:
    """Nothing in them ends the element that holds them; the script is small."""
    text = (STATIC / name).read_text()
    assert not re.search(r"</(script|style)|<!--|<script", text, re.IGNORECASE)
    assert 10_000 < len(text.encode()) <= 120_000


def test_a_trace_without_times_has_a_report(tmp_path: Path) -> None:
    """What was not recorded is missing from the page, and nothing fails."""
    trace = build(steps=8, layers=2, experts=8, k=2, slots=4, prompt=3, seed=1)
    info = replace(trace.info, absent=("calls", "step_ns", "reads"))
    state, _ = data_of(page.run_page(Run.of(replace(trace, info=info)), ""))
    assert state["status"] == "stop"
