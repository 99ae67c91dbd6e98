"""The chat and the run view in Notebook 7, marimo and Voilà, by Python calls, without magics."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import PICTURES
from tests.browser.hosts import Host
from tests.browser.test_chat import answered, ask, first_words, set_length
from tests.browser.test_view_in_hosts import MOMENT, assert_named

CELLS = (
    "import outlier_jupyter",
    "engine = outlier_jupyter.load('demo', cache_gb=0.002)\n"
    "engine.tokenizer.eos_token_ids = set()\n"
    "run = engine.generate('Once', raw=True, max_tokens=24)",
    "run.view()",
    "other = outlier_jupyter.load('demo', cache_gb=0.002)\n"
    "other.tokenizer.eos_token_ids = set()\n"
    "watched = outlier_jupyter.watch(other, 'Once', raw=True, max_tokens=100_000)\n"
    "watched",
    "chat = outlier_jupyter.Chat(engine, max_tokens=20000)\n"
    "first = chat.conversations[0]\n"
    "question = first.add(first.end, 'user', 'What is softmax?')\n"
    "text = 'It is $e^{x_i} / \\\\sum_j e^{x_j}$:\\n```python\\nreturn exp(x)\\n```'\n"
    "first.add(question.id, 'assistant', text, 'stop')\n"
    "chat.new()\nchat",
)
WATCHED = CELLS[3]
VIEW = ".oj-root:not(.oj-chat)"


@pytest.mark.parametrize("host", ["notebook", "marimo"], indirect=True)
def test_the_widgets_work_in_other_hosts(
    host: Host, page: Page, request: pytest.FixtureRequest
) -> None:
    """A run is watched and stopped, another inspected; a chat has three turns, stop, edit."""
    host.show(page, "widgets", *CELLS)
    views = page.locator(VIEW)
    expect(views).to_have_count(2, timeout=120_000)
    stop_the_run(page, views.nth(1))
    look_into(page, views.nth(0))
    talk(page)
    look_at_a_formula(page)
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=PICTURES / f"host-{request.node.callspec.id}.png")


@pytest.mark.parametrize("host", ["voila"], indirect=True)
def test_a_page_without_cells_shows_the_widgets(host: Host, page: Page) -> None:
    """Voilà runs the cells before there is a page: the view is whole, and the chat answers."""
    host.show(page, "page", *(cell for cell in CELLS if cell != WATCHED))
    look_into(page, page.locator(VIEW))
    talk(page)
    look_at_a_formula(page)


def stop_the_run(page: Page, view: Locator) -> None:
    """Text arrives without any input; Stop ends it, and the partial output stays."""
    view.scroll_into_view_if_needed()  # a view out of sight is not drawn
    tokens = view.locator(".oj-log .oj-token")
    expect(tokens.nth(8)).to_be_attached()
    expect(tokens.nth(tokens.count() + 20)).to_be_attached()
    view.get_by_role("button", name="Stop").click()
    # Where outputs can be replaced, the static view is there now.
    expect(page.get_by_text("Stopped early").first).to_be_visible()


def look_into(page: Page, view: Locator) -> None:
    """All panels show the token under the pointer; arrow keys and a click move the playhead."""
    view.scroll_into_view_if_needed()
    assert_named(view)
    expect(view.locator(".oj-where")).to_have_text("the end")
    view.locator(".oj-token").nth(5).hover()
    expect(view.locator(".oj-token.oj-on")).to_have_count(1)
    for panel in MOMENT:
        expect(view.locator(f".oj-{panel} .oj-readout")).to_contain_text("token")
    view.locator(".oj-slider").focus()
    for _ in range(4):
        page.keyboard.press("ArrowLeft")
    expect(view.locator(".oj-where")).to_have_text("token 20 of 24")
    view.locator(".oj-token").nth(5).click()
    expect(view.locator(".oj-token.oj-at")).to_have_count(1)
    expect(view.locator(".oj-explain h3")).to_contain_text(re.compile(r"Why token \d+ took"))


def look_at_a_formula(page: Page) -> None:
    """An earlier answer's formula is typeset and its code coloured, by modules of their own."""
    page.locator(".oj-chat .oj-pick").select_option(index=0)
    answer = page.locator(".oj-assistant .oj-body")
    expect(answer.locator("math msub").first).to_be_visible()
    expect(answer.locator(".oj-code-kwd")).to_have_text("return")


def talk(page: Page) -> None:
    """Three turns, the first of which is stopped; then an edit and a regenerated answer."""
    ask(page, "What is an expert?")
    first_words(page)
    page.keyboard.press("Escape")
    answered(page, 1)
    expect(page.locator(".oj-assistant .oj-facts")).to_contain_text("stopped")
    set_length(page, 12)
    for turn in (2, 3):
        ask(page, f"And number {turn}?")
        answered(page, turn)
    page.locator(".oj-assistant").nth(2).get_by_role("button", name="Try again").click()
    expect(page.locator(".oj-assistant .oj-place").nth(2)).to_have_text("2/2")
    answered(page, 3)
    page.locator(".oj-user").nth(1).get_by_role("button", name="Edit").click()
    page.keyboard.type(" Yes.")
    page.keyboard.press("Enter")
    answered(page, 2)
