"""What the model found likely: bars on hover and by key; a click goes on from there, below."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.access import assert_accessible
from tests.browser.conftest import PICTURES
from tests.browser.hosts import Host

TOKENS = 24
CELLS = (
    "%load_ext outlier_jupyter\n%outlier load demo --cache-gb 0.002 -o engine;\n"
    "engine.tokenizer.eos_token_ids = set()",
    f"%%outlier --raw --max-tokens {TOKENS} -o run\nOnce upon",
)


def bars(view: Locator) -> Locator:
    return view.locator(".oj-alternative:visible")


def other_than_chosen(view: Locator) -> Locator:
    return view.locator('.oj-alternative:visible[aria-disabled="false"]')


@pytest.mark.parametrize("host", ["lab", "notebook"], indirect=True)
def test_a_run_goes_on_from_a_likely_token(
    host: Host, page: Page, request: pytest.FixtureRequest
) -> None:
    """Bars follow the pointer and the arrow keys without moving the text; a click, and Enter, show
    a new run below that begins as the first one does.
    """
    PICTURES.mkdir(parents=True, exist_ok=True)
    name = f"likely-{request.node.callspec.id}"
    host.show(page, name, *CELLS)
    views = page.locator(".oj-run-view")
    first = views.first
    expect(first.locator(".oj-status")).to_have_text("Done, token limit reached")
    first.scroll_into_view_if_needed()
    expect(bars(first)).to_have_count(5)
    row, log = first.locator(".oj-likely"), first.locator(".oj-log")
    height = log.bounding_box()
    first.locator(".oj-token").nth(9).hover()
    expect(row).to_have_attribute("aria-label", re.compile(r"token 10$"))
    expect(first.locator(".oj-alternative.oj-taken:visible")).to_have_count(1)
    assert log.bounding_box() == height
    first.locator(".oj-token").nth(9).click()
    page.keyboard.press("ArrowLeft")
    page.mouse.move(1, 1)
    expect(row).to_have_attribute("aria-label", re.compile(r"token 9$"))
    assert_accessible(page, ".oj-run-view", "heading-order")

    chosen = other_than_chosen(first).first
    text = re.sub(r"[“”]", "", chosen.locator("span").first.text_content() or "")
    tokens = [first.locator(".oj-token").nth(n).text_content() or "" for n in range(8)]
    chosen.click()
    expect(views).to_have_count(2)
    below = views.nth(1)
    expect(below.locator(".oj-status")).to_have_text(re.compile("^Done"))
    begun = "".join(tokens) + text.replace("\u00a0", " ").replace("↵", "\n")
    assert (below.locator(".oj-log").text_content() or "").startswith(begun)
    expect(below.locator(".oj-token").first).not_to_have_text(begun)
    page.screenshot(path=PICTURES / f"{name}.png")

    other_than_chosen(below).first.focus()
    page.keyboard.press("Enter")
    expect(views).to_have_count(3)
    expect(views.nth(2).locator(".oj-status")).to_have_text(re.compile("^Done"))
