"""Widgets beside and inside others, twice, over a page reload, and after the kernel's end."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from tests.browser.conftest import START_S, Lab, command, save, wait_until_idle
from tests.browser.test_chat import answered, ask

CELLS = (
    "import ipywidgets, outlier_jupyter\n"
    "engine = outlier_jupyter.load('demo', cache_gb=0.002)\n"
    "other = outlier_jupyter.load('demo', cache_gb=0.002)\n"
    "other.tokenizer.eos_token_ids = set()",
    "view = outlier_jupyter.watch(other, 'Once', raw=True, max_tokens=100_000)\n"
    "chat = outlier_jupyter.Chat(engine, max_tokens=80)\n"
    "slider = ipywidgets.FloatSlider(max=2, description='heat')\n"
    "ipywidgets.link((slider, 'value'), (chat, 'temperature'))\n"
    "ipywidgets.VBox([slider, ipywidgets.HBox([chat, view])])",
    "display(chat, chat)",
    "view",
)
BOX = ".widget-hbox"


def test_side_by_side_twice_reloaded_and_left_alone(lab: Lab, page: Page) -> None:
    """One chat and one run, each shown several times, stay the same through all of it."""
    page.set_viewport_size({"width": 1700, "height": 4200})
    lab.show(page, "compose", *CELLS)
    expect(page.locator(".oj-chat")).to_have_count(3, timeout=120_000)
    expect(page.locator(f"{BOX} .oj-token").nth(10)).to_be_attached()
    wait_until_idle(page)
    for part in (".oj-chat", ".oj-root:not(.oj-chat)"):
        box = page.locator(f"{BOX} {part}").bounding_box()
        assert box is not None and box["width"] > 300
    ask(page, "What is an expert?")
    answered(page, 1)
    for number in range(3):
        expect(page.locator(".oj-chat").nth(number).locator(".oj-assistant")).to_have_count(1)
    bind(page)
    reload(page)
    lose_the_kernel(page)


def bind(page: Page) -> None:
    """A slider and the chat's own control are one setting."""
    chat = page.locator(".oj-chat").first
    chat.get_by_role("button", name="Settings").click()
    heat = chat.get_by_label("temperature")
    heat.fill("0.5")
    heat.press("Tab")
    expect(page.locator(".widget-readout")).to_have_text("0.50")
    page.locator(".widget-slider [role=slider], .noUi-handle").first.focus()
    page.keyboard.press("ArrowRight")
    expect(heat).to_have_value("0.6")
    chat.get_by_role("button", name="Settings").click()


def reload(page: Page) -> None:
    """The page comes back in the middle of the run, and all views with it."""
    save(page)
    page.reload()
    expect(page.locator(".oj-chat .oj-assistant")).to_have_count(3, timeout=START_S * 1000)
    log = page.locator(f"{BOX} .oj-log")
    expect(log).to_contain_text("the")
    tokens = page.locator(f"{BOX} .oj-text .oj-subtitle")
    before = tokens.inner_text()
    expect(tokens).not_to_have_text(before)


def lose_the_kernel(page: Page) -> None:
    """Every view says that the kernel is gone, and keeps what it has."""
    command(page, "notebook:restart-kernel")
    page.locator(".jp-Dialog .jp-mod-accept").click()
    gone = page.get_by_text("Kernel disconnected.")
    expect(gone).to_have_count(5)
    expect(page.locator(".oj-chat .oj-composer textarea").first).to_be_disabled()
    assert page.locator(f"{BOX} .oj-token").count() > 10
    assert page.locator(".oj-chat").first.locator(".oj-assistant .oj-body").inner_text()
    wait_until_idle(page)
