"""Two runs side by side in JupyterLab: recorded, and live."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from tests.browser.conftest import START_S, Lab, command, open_notebook, save, wait_until_idle

SETUP = (
    "import outlier_jupyter\nengine = outlier_jupyter.load('demo', cache_gb=0.002)\n"
    "engine.tokenizer.eos_token_ids = set()"
)
RECORDED = (
    "one, other = (engine.generate('Once upon', raw=True, max_tokens=24, temperature=0.9, seed=s)\n"
    "              for s in (1, 2))\none.view(beside=other)"
)
LIVE = (
    "views = [outlier_jupyter.watch(engine, prompt, max_tokens=12) for prompt in ('Who?', 'Hi')]\n"
    "outlier_jupyter.side_by_side(*views, names=['question', 'greeting'])"
)


def test_two_live_runs_are_shown_and_saved(lab: Lab, page: Page) -> None:
    """Live runs fill while they run; a notebook that is opened later has the static views of both,
    and of recorded ones.
    """
    lab.add("two.ipynb", SETUP, RECORDED, LIVE)
    open_notebook(page, lab, "two.ipynb")
    command(page, "notebook:run-all-cells")
    recorded, live = (page.locator(".jp-Cell").nth(number) for number in (1, 2))
    expect(recorded.locator(".oj-parting")).to_contain_text("The texts part at token ")
    live.locator(".oj-compare").scroll_into_view_if_needed()  # an unseen view is not drawn
    expect(live.locator(".oj-compare .oj-token")).to_have_count(24)
    expect(live.locator(".oj-side")).to_have_count(2)
    expect(page.locator(".oj-saved:visible")).to_have_count(0)
    wait_until_idle(page)
    for cell in (recorded, live):  # what is saved
        expect(cell.locator(".oj-static")).to_have_count(2)
    save(page)
    command(page, "notebook:restart-kernel")
    page.locator(".jp-Dialog .jp-mod-accept").click()
    page.reload()
    for cell in (recorded, live):
        expect(cell.locator(".oj-static:visible")).to_have_count(2, timeout=START_S * 1000)
