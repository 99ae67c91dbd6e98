"""After a run the view stays, to scrub and to explain; the static view is for when it cannot."""

from __future__ import annotations

import nbformat
import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import (
    PICTURES,
    START_S,
    Lab,
    command,
    open_notebook,
    save,
    wait_until_idle,
)

SETUP = "%load_ext outlier_jupyter\n%outlier load demo --cache-gb 0.002 -o engine;"
RUN = "engine.tokenizer.eos_token_ids = set()"
CELL = "%%outlier --raw --max-tokens 24 -o run\nOnce upon"
WATCHED = "import outlier_jupyter\nwatched = outlier_jupyter.watch(engine, 'Once', max_tokens=24)"
LIVE, STATIC = ".oj-root", ".oj-static"


def start(page: Page, lab: Lab, name: str, *cells: str) -> None:
    """Run a notebook whose third cell and those after it show a run each."""
    lab.add(name, SETUP, RUN, *cells)
    open_notebook(page, lab, name)
    command(page, "notebook:run-all-cells")
    wait_until_idle(page)


def scrubbed(page: Page, view: Locator) -> None:
    """The arrow keys go back in the run, and each panel shows the token under the pointer."""
    view.scroll_into_view_if_needed()
    expect(view.locator(".oj-token")).to_have_count(24)
    slider = view.locator(".oj-slider")
    last = int(slider.get_attribute("max") or 0)
    slider.press("End")
    for _ in range(4):
        page.keyboard.press("ArrowLeft")
    expect(slider).to_have_value(str(last - 4))


def explained(view: Locator) -> str:
    """The explanation of the token that is clicked."""
    view.locator(".oj-token").nth(6).click()
    expect(view.locator(".oj-explain")).to_be_visible()
    expect(view.locator(".oj-explain")).to_contain_text("ms")
    return view.locator(".oj-explain").inner_text()


def only(shown: str, cell: Locator) -> None:
    """The cell shows one of the two views, and nothing of the other."""
    expect(cell.locator(f"{shown}:visible")).to_have_count(1)
    other = STATIC if shown == LIVE else LIVE
    expect(cell.locator(f"{other}:visible")).to_have_count(0)


@pytest.mark.parametrize("show", [CELL, f"{WATCHED}\nwatched", f"{CELL[:0]}engine.last_run.view()"])
def test_the_view_stays_after_the_run(lab: Lab, page: Page, show: str) -> None:
    """It is scrubbed and explains, also after a reload and with the kernel restarted; and a saved
    notebook shows the static view alone, trusted or not.
    """
    name = f"stays-{abs(hash(show)) % 1000}.ipynb"
    before = ["engine.generate('Once', max_tokens=24)\nNone"] if "last_run" in show else []
    start(page, lab, name, *before, show)
    cell = page.locator(".jp-Cell").nth(2 + len(before))
    only(LIVE, cell)
    scrubbed(page, cell)
    explained(cell)
    save(page)
    page.reload()
    cell = page.locator(".jp-Cell").nth(2 + len(before))
    expect(cell.locator(LIVE)).to_be_visible(timeout=START_S * 1000)
    only(LIVE, cell)
    scrubbed(page, cell)
    command(page, "notebook:restart-kernel")
    page.locator(".jp-Dialog .jp-mod-accept").click()
    wait_until_idle(page)
    only(LIVE, cell)
    scrubbed(page, cell)
    explained(cell)
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=PICTURES / "stays-restarted.png")
    page.reload()  # the kernel has forgotten the widget
    cell = page.locator(".jp-Cell").nth(2 + len(before))
    expect(cell.locator(STATIC)).to_be_visible(timeout=START_S * 1000)
    wait_until_idle(page)
    without_a_kernel(page, cell)
    reopened(lab, page, name, 2 + len(before))


def without_a_kernel(page: Page, cell: Locator) -> None:
    """The static view alone: no message of a dead widget, no text form of it."""
    only(STATIC, cell)
    for words in ("model not found", "Loading widget", "LiveView("):
        expect(page.get_by_text(words).locator("visible=true")).to_have_count(0)
    outputs = cell.locator(".jp-OutputArea-output:visible")
    assert [text for text in outputs.all_inner_texts() if not text.strip()] in ([], [""])


def reopened(lab: Lab, page: Page, name: str, number: int) -> None:
    """Open the saved file without a kernel, untrusted and then trusted."""
    saved = nbformat.read(lab.notebooks / name, as_version=4)
    saved.metadata.pop("kernelspec", None)  # so that Lab offers a choice of kernels
    saved.metadata.pop("language_info", None)
    nbformat.write(saved, lab.notebooks / f"re{name}")
    for trusted in (False, True):
        if trusted:
            lab.trust(f"re{name}")
        page.goto(f"{lab.url}lab/tree/re{name}?reset")
        page.locator(".jp-Dialog button", has_text="No Kernel").click()
        cell = page.locator(".jp-Cell").nth(number)
        cell.locator('img[alt*="Routing frequency"]').wait_for()
        without_a_kernel(page, cell)
        page.screenshot(path=PICTURES / f"stays-reopened-{trusted}.png")


def test_a_page_reloaded_during_the_run_saves_the_static_view(lab: Lab, page: Page) -> None:
    """The page no longer receives updates of outputs, so the widget brings the static view."""
    lab.add("midway.ipynb", SETUP, RUN, WATCHED.replace("24", "100_000") + "\nwatched")
    open_notebook(page, lab, "midway.ipynb")
    command(page, "notebook:run-all-cells")
    cell = page.locator(".jp-Cell").nth(2)
    expect(cell.locator(".oj-token").nth(5)).to_be_attached()
    save(page)
    page.reload()
    expect(cell.locator(".oj-token").nth(5)).to_be_attached(timeout=START_S * 1000)
    cell.get_by_role("button", name="Stop").click()
    expect(cell.locator(STATIC)).to_be_attached()
    only(LIVE, cell)
    save(page)
    saved = nbformat.read(lab.notebooks / "midway.ipynb", as_version=4)
    pages = [str(output.get("data", {}).get("text/html")) for output in saved.cells[2].outputs]
    assert any("Stopped early" in html for html in pages)  # a warning may stand below it
