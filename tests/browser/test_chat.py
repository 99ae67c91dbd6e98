"""The chat as a person uses it: JupyterLab in Chromium, three turns, stop, regenerate, edit."""

from __future__ import annotations

import re

from playwright.sync_api import Page, expect

from tests.browser.conftest import PICTURES, START_S, Lab, command, open_notebook, wait_until_idle

SETUP = (
    "%load_ext outlier_jupyter\n%outlier load demo --cache-gb 0.002 -o engine",
    "%outlier chat --max-tokens 40 -o chat",
)
ENDLESS = "engine.tokenizer.eos_token_ids = set(); chat.max_tokens = 20000"


def start(page: Page, lab: Lab, name: str, *cells: str) -> None:
    """Open a notebook with a chat in it and wait for the chat."""
    lab.add(name, *SETUP, *cells)
    open_notebook(page, lab, name)
    command(page, "notebook:run-all-cells")
    page.wait_for_selector(".oj-chat .oj-composer textarea", timeout=START_S * 1000)
    wait_until_idle(page)


def ask(page: Page, text: str) -> None:
    """Type a message and send it by keyboard."""
    page.locator(".oj-chat .oj-composer textarea").first.click()
    page.keyboard.type(text)
    page.keyboard.press("Enter")


def answered(page: Page, count: int) -> None:
    """Wait until this many answers are shown and nothing is being written."""
    chat = page.locator(".oj-chat").first
    expect(chat.locator(".oj-assistant")).to_have_count(count)
    expect(chat).to_have_attribute("data-status", "idle")


def test_three_turns_stop_regenerate_and_edit(lab: Lab, page: Page) -> None:
    """Keyboard and mouse do all of it, and typing triggers no shortcut of the notebook."""
    start(page, lab, "chat.ipynb", ENDLESS)
    cells = page.locator(".jp-Notebook .jp-Cell").count()
    ask(page, "What is an expert?")
    first_words(page)
    expect(page.locator(".oj-chat .oj-composer textarea")).to_have_value("")
    page.keyboard.press("Escape")
    answered(page, 1)
    assert "stopped" in page.locator(".oj-assistant .oj-facts").inner_text()
    set_length(page, 24)
    ask(page, "add a cell: b a dd")
    answered(page, 2)
    ask(page, "And a router?")
    answered(page, 3)
    assert page.locator(".jp-Notebook .jp-Cell").count() == cells
    assert "from the KV cache" in page.locator(".oj-assistant .oj-facts").nth(2).inner_text()

    page.locator(".oj-assistant").nth(2).get_by_role("button", name="Try again").click()
    expect(page.locator(".oj-assistant .oj-place").nth(2)).to_have_text("2/2")
    answered(page, 3)
    page.locator(".oj-user").nth(1).get_by_role("button", name="Edit").click()
    page.keyboard.type(" Yes.")
    page.keyboard.press("Enter")
    answered(page, 2)
    expect(page.locator(".oj-user .oj-place").nth(1)).to_have_text("2/2")
    page.locator(".oj-user").nth(1).get_by_role("button", name="Earlier version").click()
    answered(page, 3)
    page.locator(".oj-assistant").nth(2).get_by_role("button", name="Run 4").click()
    expect(page.locator(".oj-dock .oj-run canvas").first).to_be_visible()
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.locator(".oj-chat").first.screenshot(path=PICTURES / "chat-run.png")


def test_a_text_of_several_lines_is_typed_undone_and_sent(lab: Lab, page: Page) -> None:
    """Shift+Enter adds a line in the message box and in an edit; the notebook runs no cell."""
    start(page, lab, "lines.ipynb", "1 + 1")
    prompts = page.locator(".jp-InputPrompt").all_inner_texts()
    cells = page.locator(".jp-Notebook .jp-Cell").count()
    box = page.locator(".oj-chat .oj-composer textarea").first
    box.click()
    for key in ("o", "n", "e", "Shift+Enter", "t", "w", "o", "Shift+Enter"):
        page.keyboard.press(key)
    expect(box).to_have_value("one\ntwo\n")
    page.keyboard.press("Control+z")
    expect(box).to_have_value(re.compile(r"^one(?!\ntwo\n$)"))
    box.fill("one\ntwo")
    page.keyboard.press("Enter")
    answered(page, 1)
    question = page.locator(".oj-user").first
    expect(question.locator(".oj-body")).to_have_text("one\ntwo")
    question.get_by_role("button", name="Edit").click()
    edit = question.locator("textarea")
    edit.press("End")
    edit.press("Shift+Enter")
    edit.press("x")
    expect(edit).to_have_value("one\ntwo\nx")
    assert page.locator(".jp-InputPrompt").all_inner_texts() == prompts
    assert page.locator(".jp-Notebook .jp-Cell").count() == cells


def test_stop_ends_a_cell_that_waits_for_the_answer(lab: Lab, page: Page) -> None:
    """`chat.send` blocks its cell, and no message is read meanwhile: Stop interrupts the kernel."""
    lab.add("send.ipynb", *SETUP, ENDLESS, "chat.send('Go on')")
    open_notebook(page, lab, "send.ipynb")
    command(page, "notebook:run-all-cells")
    page.wait_for_selector(".oj-chat .oj-assistant .oj-body:not(:empty)")
    page.locator(".oj-chat").get_by_role("button", name="Stop").click()
    page.wait_for_selector("text=Interrupted: stopped after")
    answered(page, 1)


def first_words(page: Page) -> None:
    """Wait for the beginning of an answer."""
    page.wait_for_selector(".oj-chat .oj-assistant .oj-body:not(:empty)")


def set_length(page: Page, tokens: int) -> None:
    """Limit the answers from now on, in the settings."""
    chat = page.locator(".oj-chat").first
    chat.get_by_role("button", name="Settings").click()
    chat.get_by_label("max tokens").fill(str(tokens))
    chat.get_by_label("max tokens").press("Tab")
    chat.get_by_role("button", name="Settings").click()
