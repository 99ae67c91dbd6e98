"""Runs within an `ipywidgets.Output`, whose page drops updates of what was displayed there."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from tests.browser.conftest import Lab, command, open_notebook, wait_until_idle

SETUP = (
    "%load_ext outlier_jupyter\n%outlier load demo --cache-gb 0.002 -o engine;\n"
    "import ipywidgets, outlier_jupyter"
)
WITHIN = (
    "out = ipywidgets.Output()\ndisplay(out)\nwith out:\n"
    "    get_ipython().run_cell_magic('outlier', '--max-tokens 8 -o run', 'What is an expert?')"
)
BUTTON = (
    "button, out = ipywidgets.Button(description='Ask'), ipywidgets.Output()\n"
    "@out.capture()\ndef ask(_):\n"
    "    get_ipython().run_cell_magic('outlier', '--max-tokens 8 -o run', 'What is a router?')\n"
    "button.on_click(ask)\ndisplay(button, out)"
)
WATCHED = (
    "out = ipywidgets.Output()\ndisplay(out)\nwith out:\n"
    "    display(outlier_jupyter.watch(engine, 'What is a cache?', max_tokens=8))"
)


def test_what_runs_in_an_output_is_shown_there(lab: Lab, page: Page) -> None:
    """In a block, in the callback of a button, and watched: the view that stays takes the place.

    No other is left, and it is there again when the page has been reloaded.
    """
    lab.add("output.ipynb", SETUP, WITHIN, BUTTON, WATCHED)
    open_notebook(page, lab, "output.ipynb")
    command(page, "notebook:run-all-cells")
    wait_until_idle(page)
    page.get_by_role("button", name="Ask").click()
    cells = page.locator(".jp-Cell")
    for number, prompt in ((1, "What is an expert?"), (2, "What is a router?"),
                           (3, "What is a cache?")):  # fmt: skip
        view = cells.nth(number).locator(".oj-static")
        expect(view).to_have_count(1)
        expect(view.locator("pre").first).to_have_text(prompt)
        expect(view.locator("pre").nth(1)).to_contain_text(" ")
        expect(cells.nth(number).locator(".oj-root")).to_have_count(0)
    page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    page.reload()
    expect(page.locator(".jp-Cell").nth(1).locator(".oj-static")).to_have_count(1)
