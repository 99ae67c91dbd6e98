"""The chat's look and state in JupyterLab: widths, themes, and a page that is reloaded."""

from __future__ import annotations

import re
from html import unescape

import nbformat
import pytest
from playwright.sync_api import Page, expect

from tests.browser.access import assert_accessible
from tests.browser.conftest import PICTURES, START_S, Lab, command, save, wait_until_idle
from tests.browser.test_chat import ENDLESS, answered, ask, start
from tests.browser.test_quickstart import contrast

RICH = r'''
book = chat.conversations[0]
question = book.add(book.end, "user", "Show me what you can write, please.\nIn two lines.")
answer = book.add(question.id, "assistant", """Here is **how** it works, in `three` steps:

1. The router picks *experts*.
2. They are read from disk:
   - only the missing ones

```python
def route(x: np.ndarray) -> list[int]:
    return np.argsort(-x @ W)[:4].tolist()  # a long line that goes on and on, beyond the edge
```

| layer | experts | hit rate |
|---|---:|:---:|
| 0 | 32 | 0.91 |

> A quote with <b>HTML</b> as text. [A link](https://example.org), [no link](javascript:x)

A long word: """ + "a" * 120, "length")
answer.numbers = {"prompt": 3100, "reused": 2900, "generated": 912, "tokens_per_second": 41.2}
chat.runner.publish()
'''


def words_of(html: str) -> str:
    """What a reader sees of `html`, a space between words: an answer may hold code and emphasis."""
    return " ".join(unescape(re.sub(r"<[^>]+>", "", html)).split())


def test_a_reload_in_the_middle_of_an_answer_loses_nothing(lab: Lab, page: Page) -> None:
    """The page comes back with the answer, which has continued, and with the typed draft."""
    start(page, lab, "reload.ipynb", ENDLESS)
    ask(page, "Go on and on")
    page.wait_for_selector(".oj-chat .oj-assistant .oj-body:not(:empty)")
    page.keyboard.type("half a thou")
    page.wait_for_timeout(1000)  # the page sends the draft when typing pauses
    before = page.locator(".oj-assistant .oj-body").inner_text().strip()
    save(page)
    page.reload()
    page.wait_for_selector(".oj-chat .oj-assistant .oj-body:not(:empty)", timeout=START_S * 1000)
    expect(page.locator(".oj-chat .oj-composer textarea")).to_have_value("half a thou")
    length = "document.querySelector('.oj-assistant .oj-body').innerText.length"
    page.wait_for_function(f"{length} > {len(before)}")
    page.locator(".oj-chat").get_by_role("button", name="Stop").click()
    answered(page, 1)
    assert page.locator(".oj-assistant .oj-body").inner_text().startswith(before[:40])


def test_a_chat_saved_after_a_reload_is_whole_and_says_how_to_go_on(lab: Lab, page: Page) -> None:
    """Turns after the reload are in the file; without its kernel all conversations are shown."""
    start(page, lab, "whole.ipynb")
    ask(page, "Before the reload")
    answered(page, 1)
    page.locator(".oj-chat").get_by_role("button", name="New").click()
    answered(page, 0)
    save(page)
    page.reload()
    expect(page.locator(".oj-chat .oj-composer textarea")).to_be_enabled()
    ask(page, "After the reload")
    answered(page, 1)
    answer = page.locator(".oj-assistant .oj-body").inner_text().strip()
    first_words = " ".join(answer.split("\n")[0].split()[:6])
    file = lab.notebooks / "whole.ipynb"
    expect(page.locator(".oj-transcript")).to_contain_text(first_words)  # what will be saved
    save(page)
    saved = nbformat.read(file, as_version=4)
    shown = str(saved.cells[1].outputs[-1]["data"])
    assert "Before the reload" in shown and "After the reload" in shown
    assert first_words in words_of(saved.cells[1].outputs[-1]["data"]["text/html"])
    expect(page.locator(".oj-transcript:visible")).to_have_count(0)

    command(page, "notebook:restart-kernel")
    page.locator(".jp-Dialog .jp-mod-accept").click()
    hint = page.locator(".oj-chat .oj-composer .oj-hint")
    expect(hint).to_contain_text("Run the cell that loads demo, then this cell again to continue")
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.locator(".oj-chat").screenshot(path=PICTURES / "chat-restarted.png")
    wait_until_idle(page)
    page.reload()
    transcript = page.locator(".oj-transcript")
    expect(transcript).to_be_visible(timeout=START_S * 1000)
    expect(transcript).to_contain_text(
        "To continue, run the cell that loads demo, then this cell again"
    )
    expect(transcript.locator("details[open]")).to_contain_text("After the reload")
    transcript.get_by_text("Before the reload · 2 messages").click()
    expect(transcript.locator("details[open]")).to_have_count(2)
    dead = page.locator('[data-mime-type="application/vnd.jupyter.widget-view+json"]')
    expect(dead).to_be_hidden()
    page.screenshot(path=PICTURES / "chat-without-a-kernel.png")


@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"])
def test_it_fits_and_can_be_read(lab: Lab, page: Page, theme: str) -> None:
    """Nothing overflows at any width, and text contrasts with its background in both themes."""
    lab.theme(theme)
    page.set_viewport_size({"width": 1700, "height": 1400})
    start(page, lab, f"{theme}.ipynb", f"chat.send('What is an expert?')\n{RICH}")
    page.wait_for_selector(".oj-chat .oj-code")
    PICTURES.mkdir(parents=True, exist_ok=True)
    for width in (1100, 420):
        name = f"chat-{theme.split()[-1].lower()}-{width}"
        page.locator(".oj-chat").evaluate(f"chat => {{ chat.style.width = '{width}px'; }}")
        page.wait_for_timeout(300)
        page.locator(".oj-chat").screenshot(path=PICTURES / f"{name}.png")
        page.get_by_role("button", name="Settings").click()
        page.locator(".oj-chat").screenshot(path=PICTURES / f"{name}-settings.png")
        assert_fits(page)
        assert_accessible(page, ".oj-chat")
        page.get_by_role("button", name="Settings").click()
    assert_accessible(page, ".oj-chat")
    ground = page.locator(".oj-chat").evaluate("node => getComputedStyle(node).backgroundColor")
    for part in (".oj-assistant .oj-body", ".oj-facts", ".oj-quiet", ".oj-composer .oj-hint"):
        colour = page.locator(f".oj-chat {part}").first.evaluate(
            "node => getComputedStyle(node).color"
        )
        assert contrast(colour, ground) >= 4.5, part
    lab.theme("JupyterLab Light")


def assert_fits(page: Page) -> None:
    """Assert that nothing scrolls sideways but code."""
    for part in (".oj-frame", ".oj-messages", ".oj-settings"):
        spill = "node => node.scrollWidth - node.clientWidth"
        assert page.locator(f".oj-chat {part}").first.evaluate(spill) <= 0, part
