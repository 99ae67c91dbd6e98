"""The page's cost of moving the playhead through a long run that is over.

    python benchmarks/scrubbing.py [--tokens 10000] [--sizes qwen wide] [--moves 60] [--dry]

A made-up run is displayed in headless Chromium. *Near* moves are those of a held arrow key, *far*
ones clicks at any place of the time axis, which the pointer first hovers. A move costs what the
longest task of the main thread takes until the next move: script, style, layout, paint and commit
of one frame, from a Chromium trace; frames that follow a move (dimming, the rest) are among its
tasks. CPU time says what the view needs, on a busy machine as well; wall time what a user sees.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from drawing import CHROMIUM, TASK, TRACED, build
from playwright.sync_api import Browser, Page, sync_playwright
from results import Row, append

SETTLED_MS = 400
"""Between two clicks: what follows a move is over by then."""
KEY_MS = 33
"""Between two repeats of a held key."""

HEIGHT = 900
"""Of the page, in CSS pixels: a window of a notebook."""

SEED = 17


def opened(browser: Browser, page_file: Path, size: str, arguments: argparse.Namespace) -> Page:
    """A page that shows a run that is over, its playhead on a token."""
    page = browser.new_page(viewport={"width": arguments.width, "height": HEIGHT})
    page.goto(f"file://{page_file}?size={size}&play=1")
    page.wait_for_function("window.harnessReady")
    page.evaluate(f"finish({arguments.tokens})")
    page.evaluate("open()")
    page.wait_for_timeout(2000)
    page.locator(".oj-time canvas").first.click()
    page.wait_for_timeout(1000)
    return page


def near(page: Page, moves: int) -> None:
    """Hold the arrow key."""
    for _ in range(moves):
        page.keyboard.press("ArrowRight")
        page.wait_for_timeout(KEY_MS)


def far(page: Page, moves: int) -> None:
    """Click anywhere on the axis of the time's panel."""
    box = page.locator(".oj-time canvas").first.bounding_box()
    assert box
    chance = random.Random(SEED)
    for _ in range(moves):
        x = box["x"] + 50 + (box["width"] - 70) * chance.random()
        page.mouse.move(x, box["y"] + box["height"] / 2)
        page.wait_for_timeout(50)
        page.mouse.down()
        page.mouse.up()
        page.wait_for_timeout(SETTLED_MS)


def traced(
    browser: Browser, page: Page, act: Callable[[], None], begin: str, keep: Path | None
) -> list[tuple[float, float]]:
    """The longest task's CPU and wall time in ms, of each move that an event `begin` began."""
    browser.start_tracing(page=page, categories=list(TRACED))
    act()
    events = json.loads(browser.stop_tracing())["traceEvents"]
    if keep:
        keep.write_text(json.dumps(events))
    return list(longest_tasks(events, begin))


def longest_tasks(events: list[dict[str, Any]], begin: str) -> Iterator[tuple[float, float]]:
    """The longest task between each event of the type `begin` and the next, on its thread."""
    dispatched = [
        event
        for event in events
        if event["name"] == "EventDispatch" and event["args"]["data"]["type"] == begin
    ]
    main = statistics.mode((event["pid"], event["tid"]) for event in dispatched)
    starts = sorted(e["ts"] for e in dispatched if (e["pid"], e["tid"]) == main)
    tasks = [
        (event["ts"], event.get("tdur", 0) / 1000, event.get("dur", 0) / 1000)
        for event in events
        if event["name"] == TASK and event["ph"] == "X" and (event["pid"], event["tid"]) == main
    ]
    for start, end in zip(starts, [*starts[1:], float("inf")], strict=True):
        during = [task for task in tasks if start <= task[0] + 1000 * task[2] and task[0] < end]
        yield max(cpu for _, cpu, _ in during), max(wall for _, _, wall in during)


def summary(name: str, costs: list[tuple[float, float]]) -> Row:
    """The median, the 95th percentile and the maximum of the moves' costs."""
    row: Row = {f"{name}_moves": len(costs)}
    for kind, values in zip(("main", "wall"), zip(*costs, strict=True), strict=True):
        row[f"{name}_{kind}_median_ms"] = round(statistics.median(values), 1)
        row[f"{name}_{kind}_p95_ms"] = round(statistics.quantiles(values, n=20)[-1], 1)
        row[f"{name}_{kind}_max_ms"] = round(max(values), 1)
    return row


def measured(browser: Browser, page_file: Path, size: str, arguments: argparse.Namespace) -> Row:
    """The row of one size."""
    page = opened(browser, page_file, size, arguments)
    row: Row = {"size": size, "tokens": arguments.tokens, "width": arguments.width}
    shape: Row = page.evaluate("shape")
    row |= {name: shape[name] for name in ("layers", "experts", "k", "slots")}
    acts: dict[str, tuple[Callable[[Page, int], None], str]]
    acts = {"near": (near, "keydown"), "far": (far, "pointermove")}
    for name, (act, begin) in acts.items():
        keep = arguments.keep and arguments.keep / f"{size}-{name}.json"
        moves = partial(act, page, arguments.moves)
        row |= summary(name, traced(browser, page, moves, begin, keep))
    page.close()
    return row | {"load": round(os.getloadavg()[0], 1), "chromium": browser.version}


def main() -> int:
    """Measure, print and append."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=10_000)
    parser.add_argument("--sizes", nargs="+", default=["qwen", "wide"])
    parser.add_argument("--moves", type=int, default=60)
    parser.add_argument("--width", type=int, default=1300)
    parser.add_argument("--keep", type=Path, help="a folder where to leave the traces")
    parser.add_argument("--dry", action="store_true", help="print, and append nothing")
    arguments = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page_file = build(Path(folder))
        browser = playwright.chromium.launch(executable_path=chromium, args=list(CHROMIUM))
        rows = []
        for size in arguments.sizes:
            rows.append(measured(browser, page_file, size, arguments))
            for name, value in rows[-1].items():
                sys.stdout.write(f"{name:24} {value}\n")
        browser.close()
    if not arguments.dry:
        append("scrubbing", rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
