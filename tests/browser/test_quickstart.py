"""The quickstart as a newcomer sees it: JupyterLab in Chromium, live, stopped, saved, reopened."""

from __future__ import annotations

import shutil

import nbformat
import pytest
from playwright.sync_api import Page, expect

from tests.browser.access import assert_accessible
from tests.browser.conftest import (
    PICTURES,
    ROOT,
    Lab,
    command,
    open_notebook,
    save,
    wait_until_idle,
)

LOOK = """() => {
  // Looks at the first live view ten times a second: reading pictures back slows the page down.
  window.seen = [];
  let first = null;
  const look = () => {
    const root = document.querySelector('.oj-root');
    const log = root?.querySelector('.oj-log');
    first ??= log ? root : null;
    if (log && root === first) {
      window.seen.push({
        playing: root.querySelector('.oj-play').textContent.includes('Pause'),
        text: [...log.querySelectorAll('.oj-token')].filter(t => !t.closest('.oj-future'))
          .map(t => t.textContent).join('').length,
        // A plot is canvases, of which some change rarely, and an overlay with the playhead.
        plots: [...root.querySelectorAll('.oj-plot:has(canvas)')].filter(p => p.offsetParent).map(
          plot => [...plot.querySelectorAll('canvas')].map(c => c.toDataURL()).join(' ')
            + (plot.querySelector('.oj-overlay')?.innerHTML ?? '')),
        titles: [...root.querySelectorAll('.oj-panel')].map(panel => panel.textContent).join(' '),
      });
    }
  };
  setInterval(look, 100);
}"""
LONG_RUN = (
    "%load_ext outlier_jupyter",
    "%outlier load demo --cache-gb 0.002 --reader direct -o engine",
    "engine.tokenizer.eos_token_ids = set()",
    "%%outlier --raw --max-tokens 20000 --temperature 0.7 --seed 7 -o run\n"
    'def read_file(path):\n    """',
    "print('the next cell ran')",
)


def test_text_and_all_plots_change_while_the_run_is_played(lab: Lab, page: Page):
    """At its pace the text grows and every plot is redrawn; then the view stays.

    Then the notebook is saved, its kernel is ended, and it still shows the run.
    """
    shutil.copy(ROOT / "examples" / "01_quickstart.ipynb", lab.notebooks / "quickstart.ipynb")
    open_notebook(page, lab, "quickstart.ipynb")
    page.evaluate(LOOK)
    command(page, "notebook:run-all-cells")
    page.locator(".oj-root").first.scroll_into_view_if_needed()
    wait_until_idle(page)
    expect(page.locator(".oj-root").first.locator(".oj-where")).to_have_text("the end")
    running = [look for look in page.evaluate("window.seen") if look["playing"]]
    lengths = [look["text"] for look in running]
    assert lengths == sorted(lengths) and len(set(lengths)) >= 3
    for number in range(len(running[-1]["plots"])):
        drawn = {look["plots"][number] for look in running if len(look["plots"]) > number}
        assert len(drawn) >= 3, f"plot {number} did not change"
    titles = running[-1]["titles"]
    assert all(t in titles for t in ("Routing frequency", "Residency", "Read latency"))

    expect(page.locator(".oj-root:visible")).to_have_count(3)
    expect(page.locator(".oj-saved:visible")).to_have_count(0)
    save(page)
    assert_shown_without_a_kernel(lab, page)


def assert_shown_without_a_kernel(lab: Lab, page: Page) -> None:
    """Reopen what was saved, untrusted and then trusted, with no kernel named, and choose none."""
    saved = nbformat.read(lab.notebooks / "quickstart.ipynb", as_version=4)
    saved.metadata.pop("kernelspec")  # so that Lab offers a choice of kernels
    saved.metadata.pop("language_info")
    nbformat.write(saved, lab.notebooks / "reopened.ipynb")
    assert (lab.notebooks / "reopened.ipynb").stat().st_size < 5_000_000
    for trusted in (False, True):
        if trusted:
            lab.trust("reopened.ipynb")
        page.goto(f"{lab.url}lab/tree/reopened.ipynb?reset")
        page.locator(".jp-Dialog button", has_text="No Kernel").click()
        page.locator('img[alt*="Routing frequency"]').first.wait_for()
        for title in (
            "Residency at the end",
            "Hits and misses per token",
            "Read latency per token",
        ):
            assert page.locator(f'img[alt*="{title}"]').count() >= 1
        expect(page.get_by_text("model not found").locator("visible=true")).to_have_count(0)
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=PICTURES / "reopened.png")


def test_the_stop_button_stops_a_blocking_cell(lab: Lab, page: Page):
    """Stop interrupts the kernel: the run is kept and labelled, and Run All ends there."""
    lab.add("stop.ipynb", *LONG_RUN)
    open_notebook(page, lab, "stop.ipynb")
    command(page, "notebook:run-all-cells")
    page.wait_for_selector(".oj-root .oj-stop")
    page.wait_for_function("document.querySelector('.oj-log').textContent.length > 20")
    page.click(".oj-root .oj-stop")
    wait_until_idle(page)
    expect(page.locator(".oj-root .oj-stop")).to_be_hidden()
    page.wait_for_selector("text=Interrupted: stopped after")
    assert page.locator("text=the next cell ran").count() == 1  # its source; it has no output


@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"])
def test_the_live_view_follows_the_theme(lab: Lab, page: Page, theme: str):
    """Light and dark differ, text is readable in both, and nothing overflows the cell."""
    lab.theme(theme)
    lab.add("theme.ipynb", *LONG_RUN[:4])
    open_notebook(page, lab, "theme.ipynb")
    command(page, "notebook:run-all-cells")
    page.wait_for_selector(".oj-root .oj-log")
    page.wait_for_function("document.querySelector('.oj-log').textContent.length > 200")
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.locator(".oj-root").screenshot(path=PICTURES / f"live-{theme.split()[-1].lower()}.png")
    colour, ground = page.evaluate(
        """() => {
          const log = document.querySelector('.oj-log');
          let at = log, ground = 'rgba(0, 0, 0, 0)';
          while (at && ground === 'rgba(0, 0, 0, 0)') {
            ground = getComputedStyle(at).backgroundColor;
            at = at.parentElement;
          }
          return [getComputedStyle(log).color, ground];
        }"""
    )
    assert contrast(colour, ground) >= 4.5
    assert_accessible(page, ".oj-root")
    spill = "root => root.scrollWidth - root.clientWidth"
    assert page.locator(".oj-root").evaluate(spill) <= 0
    command(page, "notebook:interrupt-kernel")
    wait_until_idle(page)
    lab.theme("JupyterLab Light")


def contrast(one: str, other: str) -> float:
    """WCAG's contrast ratio of two CSS colours of the form rgb(r, g, b)."""

    def luminance(colour: str) -> float:
        parts = [float(n) / 255 for n in colour[colour.index("(") + 1 : -1].split(",")[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)
