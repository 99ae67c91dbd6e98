"""The page's cost of showing a run: frames drawn a second, and the main thread's time for each.

    python benchmarks/drawing.py [--seconds 10] [--width 1300] [--dry]

A made-up run of 60 layers × 512 experts is played to the view in headless Chromium: 30 tokens a
second in 20 messages a second, made before the clock starts. It is played twice.

*Live*, in real time: how many frames a second were drawn, and the wall time of their callbacks. On
a busy machine these measure the machine more than the view.

*Stepped*, by a clock that is paused while a frame is drawn, 60 frames a second: the CPU time of
the main thread from one frame to the next (script, style, layout, paint, commit), from a Chromium
trace. A busy machine does not change it much.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, CDPSession, Page, sync_playwright
from results import append

ROOT = Path(__file__).parent.parent
RATE = 30
BEFORE = 60
"""Tokens that are already decoded when the run is displayed."""

CHROMIUM = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
)
TRACED = ("toplevel", "devtools.timeline")
TASK = "ThreadControllerImpl::RunTask"

COUNT_FRAMES = """
window.frames_drawn = [];
const asked = window.requestAnimationFrame.bind(window);
window.requestAnimationFrame = (callback) => asked((now) => {
  const began = performance.now();
  callback(now);
  window.frames_drawn.push(performance.now() - began);
});
"""


def build(folder: Path) -> Path:
    """The harness page in `folder`, built as the widget is."""
    esbuild = ROOT / "js/node_modules/.bin/esbuild"
    entries = [f"harness={ROOT / 'js/harness/harness.ts'}", f"live={ROOT / 'js/src/live.css'}"]
    command = [esbuild, *entries, "--bundle", f"--outdir={folder / 'out'}", "--log-level=error"]
    subprocess.run(command, check=True)
    return Path(shutil.copy(ROOT / "js/harness/index.html", folder))


def opened(
    browser: Browser, page_file: Path, arguments: argparse.Namespace
) -> tuple[Page, dict[str, Any]]:
    """A page that shows a run in progress, and the ms until its first picture."""
    size = {"width": arguments.width, "height": 1400}
    page = browser.new_page(viewport=size, device_scale_factor=arguments.scale)  # type: ignore[arg-type]
    page.goto(f"file://{page_file}?size=wide&play=1")
    page.wait_for_function("window.harnessReady")
    page.evaluate(f"fill({BEFORE})")
    page.wait_for_timeout(500)
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    before = busy(session)
    first: float = page.evaluate("open()")
    spent = 1000 * (busy(session) - before)
    page.evaluate(f"prepare({arguments.seconds}, {RATE})")
    page.wait_for_timeout(1000)
    return page, {"first_paint_ms": round(first), "first_paint_main_ms": round(spent)}


def busy(session: CDPSession) -> float:
    """CPU time that the page's main thread has spent on tasks, in seconds."""
    found = session.send("Performance.getMetrics")["metrics"]
    return next(float(each["value"]) for each in found if each["name"] == "TaskDuration")


def live(page: Page, seconds: float) -> dict[str, Any]:
    """Play in real time: frames drawn a second, and their callbacks' time."""
    page.evaluate(COUNT_FRAMES)
    messages = page.evaluate("start()")
    costs = page.evaluate("window.frames_drawn")
    return {
        "messages_per_s": round(messages / seconds, 1),
        "live_frames_per_s": round(len(costs) / seconds, 1),
        "live_callback_median_ms": round(statistics.median(costs), 2),
        "live_callback_p95_ms": round(statistics.quantiles(costs, n=20)[-1], 2),
    }


def stepped(browser: Browser, page: Page, seconds: float, keep: Path | None) -> dict[str, Any]:
    """Play by the paused clock while tracing: the main thread's CPU time for each frame."""
    browser.start_tracing(page=page, categories=list(TRACED))
    drawn: list[int] = page.evaluate("step()")
    events = json.loads(browser.stop_tracing())["traceEvents"]
    if keep:
        keep.write_text(json.dumps(events))
    each = per_frame(events)
    spent = [ms for ms, drew in zip(each, drawn[: len(each)], strict=True) if drew]
    return {
        "frames_per_s": round(sum(drawn) / seconds, 1),
        "main_median_ms": round(statistics.median(spent), 2),
        "main_p95_ms": round(statistics.quantiles(spent, n=20)[-1], 2),
        "main_mean_ms": round(statistics.fmean(spent), 2),
    }


def per_frame(events: list[dict[str, Any]]) -> list[float]:
    """The main thread's CPU time from each animation frame to the next, in ms."""
    fired = [event for event in events if event["name"] == "FireAnimationFrame"]
    main = statistics.mode((event["pid"], event["tid"]) for event in fired)
    begins = sorted(e["ts"] for e in fired if (e["pid"], e["tid"]) == main)
    tasks = [
        event
        for event in events
        if event["name"] == TASK and event["ph"] == "X" and (event["pid"], event["tid"]) == main
    ]
    spent, at = [0.0] * len(begins), -1
    for task in sorted(tasks, key=lambda e: e["ts"]):
        # A task belongs to the frame whose callback it runs, or to the one before.
        while at + 1 < len(begins) and begins[at + 1] < task["ts"] + task.get("dur", 0):
            at += 1
        if at >= 0:
            spent[at] += task.get("tdur", 0) / 1000
    return spent[:-1]  # the last one has no next


def main() -> int:
    """Measure, print and append."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--width", type=int, default=1300)
    parser.add_argument("--scale", type=float, default=1, help="device pixels per CSS pixel")
    parser.add_argument("--keep", type=Path, help="where to leave the trace")
    parser.add_argument("--dry", action="store_true", help="print, and append nothing")
    arguments = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    row: dict[str, Any] = {"layers": 60, "experts": 512, "tokens_per_s": RATE}
    row |= {"width": arguments.width, "scale": arguments.scale}
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page_file = build(Path(folder))
        browser = playwright.chromium.launch(executable_path=chromium, args=list(CHROMIUM))
        page, first = opened(browser, page_file, arguments)
        row |= first
        row |= stepped(browser, page, arguments.seconds, arguments.keep)
        page.close()
        page, _ = opened(browser, page_file, arguments)
        row |= live(page, arguments.seconds)
        row |= {"load": round(os.getloadavg()[0], 1), "chromium": browser.version}
        browser.close()
    for name, value in row.items():
        sys.stdout.write(f"{name:24} {value}\n")
    if not arguments.dry:
        append("drawing", [row])
    return 0


if __name__ == "__main__":
    sys.exit(main())
