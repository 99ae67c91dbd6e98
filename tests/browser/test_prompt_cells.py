"""In JupyterLab a cell of `%%outlier` is a prompt: its text is not coloured as Python."""

from __future__ import annotations

from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import Lab, open_notebook

WORDS = "for what is a class not True"
"""Six words that Python would colour."""


def coloured(cell: Locator) -> Locator:
    """The parts of a cell's text that have a colour of their own."""
    return cell.locator(".cm-line span[class*='ͼ']")


def test_a_prompt_is_text_and_python_is_python(lab: Lab, page: Page) -> None:
    """Also while typing: the first line makes a cell a prompt, and without it a cell is code."""
    lab.add("prompts.ipynb", f"%%outlier --raw\n{WORDS}", f"print({WORDS!r}) if True else None")
    open_notebook(page, lab, "prompts.ipynb")
    cells = page.locator(".jp-CodeCell")
    expect(coloured(cells.nth(1))).not_to_have_count(0)
    expect(coloured(cells.nth(0))).to_have_count(0)
    expect(cells.nth(0)).to_contain_text(WORDS)

    editor = cells.nth(0).locator(".cm-content")
    editor.click()
    page.keyboard.press("Control+Home")
    page.keyboard.press("Shift+End")
    page.keyboard.press("Delete")
    expect(coloured(cells.nth(0))).not_to_have_count(0)
    page.keyboard.type("%%outlier")
    expect(coloured(cells.nth(0))).to_have_count(0)
