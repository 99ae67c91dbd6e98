"""The page that `make demo` writes, opened from its file: it contains all that it needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.browser.conftest import PICTURES, ROOT


def test_the_page_asks_no_host_for_anything(page: Page, tmp_path: Path) -> None:
    """No request goes to a host, also for figures, and nothing fails; both runs are scrubbed."""
    html = tmp_path / "quickstart.html"
    tool, notebook = ROOT / "tools" / "run_example.py", ROOT / "examples" / "01_quickstart.ipynb"
    subprocess.run([sys.executable, str(tool), str(notebook), str(html)], check=True)
    requests: list[str] = []
    failed: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on(
        "console", lambda message: failed.append(message.text) if message.type == "error" else None
    )
    page.on("pageerror", lambda error: failed.append(str(error)))
    page.goto(html.as_uri())
    expect(page.locator(".plotly-graph-div .main-svg").first).to_be_visible()
    page.wait_for_load_state("networkidle")
    view = page.locator(".oj-root").first
    expect(page.locator(".oj-root:visible")).to_have_count(2)
    expect(page.locator(".oj-fallback:visible")).to_have_count(0)
    expect(view.locator(".oj-token").nth(5)).to_be_visible()
    slider = view.locator(".oj-slider")
    slider.press("End")
    last = int(slider.input_value())
    page.keyboard.press("ArrowLeft")
    expect(slider).to_have_value(str(last - 1))
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=PICTURES / "demo-page.png", full_page=True)
    others = [url for url in requests if not url.startswith(("data:", "blob:", html.as_uri()))]
    assert others == [] and failed == []
