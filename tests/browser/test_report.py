"""A run's report, opened from its file: the live view without a kernel, a server or a network."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from outlier_jupyter.notebook.live.answers import answer
from outlier_jupyter.runs.run import Run
from outlier_jupyter.trace.explain import slowest
from tests.browser.access import assert_accessible
from tests.browser.conftest import PICTURES
from tests.browser.scenes import invented_run


@pytest.fixture(scope="module")
def run() -> Run:
    return invented_run()


@pytest.fixture(scope="module")
def file(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run.report(tmp_path_factory.mktemp("report") / "report.html")


def test_a_report_is_scrubbed_and_explains(file: Path, page: Page) -> None:
    """The live view is in the static view's place; a token is explained as by the kernel; nothing
    is requested, and nothing fails.
    """
    requested: list[str] = []
    failed: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    page.on("console", lambda message: failed.append(message.text))
    page.on("pageerror", lambda error: failed.append(str(error)))
    page.goto(file.as_uri())
    view = page.locator(".oj-root")
    expect(view).to_have_count(1)
    expect(view.locator(".oj-token")).to_have_count(121)
    expect(page.locator(".oj-fallback")).to_be_hidden()
    slider = view.locator(".oj-slider")
    slider.press("End")
    last = int(slider.input_value())
    for _ in range(4):
        page.keyboard.press("ArrowLeft")
    expect(slider).to_have_value(str(last - 4))
    assert failed == [] and all(url.startswith(("file:", "data:", "blob:")) for url in requested)


def test_the_slowest_token_is_explained_as_by_python(run: Run, file: Path, page: Page) -> None:
    """The page has Python's own words for it."""
    (step,) = slowest(run.trace, 1).tolist()
    words = answer(run, {"step": step})["token"]["sentences"]
    page.goto(file.as_uri())
    expect(page.locator(".oj-token")).to_have_count(121)  # drawn: the slider has its range
    slider = page.locator(".oj-slider")
    slider.press("End")
    for _ in range(int(slider.input_value()) - step):
        page.keyboard.press("ArrowLeft")
    expect(slider).to_have_value(str(step))
    expect(page.locator(".oj-explain")).to_contain_text(words[0])


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_pictures_of_a_report(file: Path, browser: Browser, theme: str) -> None:
    """It follows the reader's theme, and nothing overflows the page at any width."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    for width in (500, 1000, 1280, 1700):
        context = browser.new_context(
            viewport={"width": width, "height": 1000},
            color_scheme=theme,  # type: ignore[arg-type]
            bypass_csp=True,  # for axe
        )
        page = context.new_page()
        page.goto(file.as_uri())
        expect(page.locator(f".oj-root[data-oj-theme={theme}]")).to_be_visible()
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert_accessible(page, "main")
        page.screenshot(path=PICTURES / f"report-{theme}-{width}.png")
        context.close()


def test_without_script_the_static_view_is_there(file: Path, browser: Browser) -> None:
    """A reader who runs no script sees charts and numbers."""
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(file.as_uri())
    expect(page.locator('.oj-fallback img[alt*="Routing frequency"]')).to_be_visible()
    expect(page.locator(".oj-root")).to_have_count(0)
    context.close()


def test_damaged_data_leave_the_static_view(file: Path, page: Page, tmp_path: Path) -> None:
    """A page whose data cannot be unpacked shows the static view."""
    damaged = tmp_path / "damaged.html"
    damaged.write_text(file.read_text().replace('"snapshot": "H4sI', '"snapshot": "AAAA'))
    page.goto(damaged.as_uri())
    page.wait_for_timeout(300)
    expect(page.locator(".oj-fallback")).to_be_visible()
    expect(page.locator(".oj-root")).to_have_count(0)
