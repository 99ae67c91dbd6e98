"""From words to experts and back, in JupyterLab: the text's colour, chosen tokens, pins."""

from __future__ import annotations

import re

from playwright.sync_api import Page, expect

from tests.browser.access import assert_accessible
from tests.browser.conftest import Lab


def test_words_lead_to_experts_and_back(lab: Lab, page: Page) -> None:
    """Python sends entropy and weights; a drag, Shift and keys choose tokens; Lab sees no key."""
    lab.show(
        page,
        "words",
        "import outlier_jupyter\nengine = outlier_jupyter.load('demo', cache_gb=0.002)",
        "engine.tokenizer.eos_token_ids = set()",
        "engine.generate('Once', raw=True, max_tokens=40).view()",
    )
    expect(page.locator(".oj-where")).to_have_text("the end")
    colour, scale = page.locator(".oj-colour"), page.locator(".oj-scale")
    expect(scale).to_contain_text("%")
    colour.select_option("entropy")
    expect(scale).to_have_text(re.compile(r"[\d.]+.bits \(p1\)[≥\s]*[\d.]+.bits"))
    page.locator(".oj-routing .oj-canvas").click()
    expect(page.locator(".oj-text .oj-readout")).to_have_text(
        re.compile(r"\d+ of 40.tokens? chose layer \d+ expert \d+|any of")
    )
    colour.select_option("weight")
    expect(scale).to_have_text(re.compile(r"^0[≥\s]*[\d.]+( \(p99\))?$"))
    page.keyboard.press("Escape")
    choose_tokens(page)
    assert_accessible(page, ".oj-root")


def choose_tokens(page: Page) -> None:
    """Choose tokens with the keys, then with the mouse, and end the choice."""
    tokens, subtitle = page.locator(".oj-token"), page.locator(".oj-routing .oj-subtitle")
    tokens.nth(4).click()
    page.locator(".oj-log").focus()
    for _ in range(3):
        page.keyboard.press("Shift+ArrowRight")
    expect(subtitle).to_have_text(re.compile(r"^of 4.chosen tokens$"))
    expect(page.locator(".oj-routing .oj-readout")).to_contain_text("chosen tokens share")
    page.keyboard.press("Escape")
    expect(subtitle).to_have_text("times chosen")
    boxes = [tokens.nth(n).bounding_box() for n in (1, 2)]
    assert boxes[0] is not None and boxes[1] is not None
    page.mouse.move(boxes[0]["x"] + 1, boxes[0]["y"] + boxes[0]["height"] / 2)
    page.mouse.down()
    page.mouse.move(
        boxes[1]["x"] + boxes[1]["width"] - 1, boxes[1]["y"] + boxes[1]["height"] / 2, steps=4
    )
    page.mouse.up()
    expect(page.locator(".oj-token.oj-chosen").first).to_be_visible()
    page.get_by_role("button", name="All tokens").click()
    expect(page.locator(".oj-token.oj-chosen")).to_have_count(0)
