"""Runs within an `ipywidgets.Output`, where the page drops updates of displays."""

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
CLOSE = (
    "from outlier_jupyter.notebook.live import open_views\n"
    "for view in open_views.views():\n    view.close()"
)
CHAT = (
    "out = ipywidgets.Output()\ndisplay(out)\nchat = outlier_jupyter.Chat(engine, max_tokens=8)\n"
    "with out:\n    display(chat)\nchat.send('What is an expert?');"
)


def test_a_chat_in_an_output_leaves_its_text(lab: Lab, page: Page) -> None:
    """The chat works there as elsewhere, and its transcript replaces it when it is closed."""
    lab.add("chat-output.ipynb", SETUP, CHAT, "chat.close()")
    open_notebook(page, lab, "chat-output.ipynb")
    for _ in range(2):
        command(page, "notebook:run-cell-and-select-next")
    cell = page.locator(".jp-Cell").nth(1)
    expect(cell.locator(".oj-chat .oj-assistant")).to_have_count(1)
    command(page, "notebook:run-cell-and-select-next")
    expect(cell.locator(".oj-transcript")).to_be_visible()
    expect(cell.locator(".oj-transcript pre").first).to_have_text("What is an expert?")
    expect(cell.locator(".oj-chat")).to_have_count(0)


def test_what_runs_in_an_output_is_shown_there(lab: Lab, page: Page) -> None:
    """In a block, in a button's callback, and watched: the view stays, also after a reload.

    When a view is closed, the static view is in its place.
    """
    lab.add("output.ipynb", SETUP, WITHIN, BUTTON, WATCHED, CLOSE)
    open_notebook(page, lab, "output.ipynb")
    for _ in range(4):
        command(page, "notebook:run-cell-and-select-next")
    wait_until_idle(page)
    page.get_by_role("button", name="Ask").click()
    cells = page.locator(".jp-Cell")
    for number in (1, 2, 3):
        view = cells.nth(number).locator(".oj-root")
        view.scroll_into_view_if_needed()  # an unseen view is not drawn
        expect(view.locator(".oj-token")).to_have_count(8)
        expect(view.locator(".oj-stop")).to_be_hidden()
        expect(cells.nth(number).locator(".oj-static")).to_have_count(0)
    page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    page.reload()
    cells = page.locator(".jp-Cell")
    cells.nth(1).locator(".oj-root").scroll_into_view_if_needed()
    expect(cells.nth(1).locator(".oj-token")).to_have_count(8)
    cells.nth(4).click()
    command(page, "notebook:run-cell")
    for number, prompt in ((1, "What is an expert?"), (2, "What is a router?"),
                           (3, "What is a cache?")):  # fmt: skip
        view = cells.nth(number).locator(".oj-static")
        expect(view).to_have_count(1)
        expect(view.locator("pre").first).to_have_text(prompt)
        expect(cells.nth(number).locator(".oj-root")).to_have_count(0)


DOLLARS = (
    SETUP + "\nname, said = '$a_1$ and $b^2$', 'It costs $5_1$ or $$y^2$$ more, \\\\(z_3\\\\)'",
    "run = engine.generate(said, max_tokens=6)\nrun",
    "other = engine.generate('$q$ ' + said, max_tokens=6)\n"
    "outlier_jupyter.tokens_of({name: run, '$c$': other}, 0, int(run.trace.experts[0, 0, 0]))",
    "outlier_jupyter.compare({name: run, '$c$': other})",
    "run.experts_of(slice(0, 4))",
    "run.explain(1)",
    "out = ipywidgets.Output()\ndisplay(out)\nwith out:\n"
    "    get_ipython().run_cell_magic('outlier', '--max-tokens 6', said)",
    "chat = outlier_jupyter.Chat(engine, max_tokens=6)\ndisplay(chat)\n"
    "chat.send(said)\nchat.close()",
)


def test_no_dollars_are_typeset(lab: Lab, page: Page) -> None:
    """JupyterLab, which has MathJax, shows texts and names in all of our HTML unchanged."""
    math = "from IPython.display import HTML\nHTML('<p>$x^2$</p>')"  # MathJax typesets it
    lab.add("dollars.ipynb", *DOLLARS, math)
    open_notebook(page, lab, "dollars.ipynb")
    command(page, "notebook:run-all-cells")
    wait_until_idle(page)
    cells = page.locator(".jp-Cell")
    cells.nth(len(DOLLARS)).scroll_into_view_if_needed()
    expect(cells.nth(len(DOLLARS)).locator("mjx-container")).to_have_count(1)
    for number in range(1, len(DOLLARS)):
        cells.nth(number).scroll_into_view_if_needed()
        shown = cells.nth(number).locator(".oj-static:visible, .oj-root:visible")
        expect(shown.first).to_be_visible()
        assert cells.nth(number).locator("mjx-container").count() == 0, DOLLARS[number]
