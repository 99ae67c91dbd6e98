"""What an answer has besides its text, in JupyterLab: its thinking, its tool calls, its formulas.

The model is random, with Qwen3's tokenizer and template; what it says is written in the notebook.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.access import assert_accessible
from tests.browser.conftest import PICTURES, START_S, Lab, command, open_notebook, save
from tests.browser.test_chat import answered, ask, start

SCRIPTED = '''
import time
import mlx.core as mx
import outlier_jupyter
from outlier_jupyter.engine import sampling

engine = outlier_jupyter.load({folder!r}, cache_experts=8)
answers = iter({answers!r})
(thought,) = engine.tokenizer.encode("</think>", add_special_tokens=False)


def speak(tokens):
    for token in tokens:
        while token == thought and "go" not in chat.draft:
            time.sleep(0.02)
        time.sleep(0.06)  # text is gathered for 50 ms: none may wait when the model does
        yield token
    yield min(engine.tokenizer.eos_token_ids)


def make_sampler(*_, **__):
    said = speak(engine.tokenizer.encode(next(answers), add_special_tokens=False))
    return lambda logprobs: mx.array([next(said)])


sampling.make_sampler = make_sampler


def weather(city: str) -> str:
    """The weather in a city.

    Args:
        city: its name
    """
    if city == "Nowhere":
        raise ValueError("no such city")
    return f"sunny in {{city}}"


chat = outlier_jupyter.Chat(engine, tools=[weather], max_tokens=400)
chat
'''


def call(city: str) -> str:
    """A tool call as Qwen3 writes it."""
    content = json.dumps({"name": "weather", "arguments": {"city": city}})
    return f"<tool_call>\n{content}\n</tool_call>"


def say(page: Page, lab: Lab, folder: Path, *answers: str) -> None:
    """Open a notebook with a chat whose model gives these answers."""
    lab.add("parts.ipynb", SCRIPTED.format(folder=str(folder), answers=answers))
    open_notebook(page, lab, "parts.ipynb")
    command(page, "notebook:run-all-cells")
    page.wait_for_selector(".oj-chat .oj-composer textarea", timeout=START_S * 1000)


@pytest.fixture
def qwen(real_checkpoint_of: Callable[[str], Path]) -> Path:
    return real_checkpoint_of("qwen3")


def test_thinking_is_open_while_it_is_written_and_folds(lab: Lab, page: Page, qwen: Path) -> None:
    """It folds when the answer begins, says how long it took, and opens with the keyboard."""
    thought = "<think>\nFirst **this**, then $x^2$.\n</think>\n\nIt is $y_1$."
    say(page, lab, qwen, thought)
    ask(page, "What is it?")
    block = page.locator(".oj-thinking")
    expect(block.locator("summary")).to_have_text("Thinking…")
    expect(block.locator("strong")).to_have_text("this")
    expect(block).to_have_attribute("open", "")
    expect(block.locator("math")).to_be_visible()
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.locator(".oj-chat").screenshot(path=PICTURES / "chat-thinking.png")
    page.locator(".oj-chat .oj-composer textarea").fill("go")  # the model waits for this
    answered(page, 1)
    expect(block).not_to_have_attribute("open", "")
    expect(block.locator("summary")).to_contain_text("Thought for")
    expect(page.locator(".oj-assistant .oj-body math msub")).to_be_visible()
    assert_accessible(page, ".oj-chat")
    block.locator("summary").focus()
    page.keyboard.press("Enter")
    expect(block.locator("strong")).to_be_visible()
    save(page)
    expect(page.locator(".oj-transcript details summary")).to_contain_text("Thought for")


def test_a_likely_token_becomes_another_version_of_the_answer(lab: Lab, page: Page) -> None:
    """A click on it in the answer's run view writes a branch, whose run is shown then."""
    start(page, lab, "branch.ipynb")
    ask(page, "What is an expert?")
    answered(page, 1)
    page.locator(".oj-assistant").get_by_role("button", name="Run 1").click()
    view = page.locator(".oj-dock .oj-run")
    view.locator(".oj-token").nth(2).click()
    other = view.locator(".oj-alternative:not(.oj-taken):visible").first
    expect(other).to_be_visible()
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.locator(".oj-chat").screenshot(path=PICTURES / "chat-alternatives.png")
    other.click()
    expect(page.locator(".oj-assistant .oj-place")).to_have_text("2/2")
    answered(page, 1)
    expect(view.locator(".oj-run-head")).to_contain_text("Run 2")
    expect(view.locator(".oj-token").first).to_be_visible()


def test_a_tool_call_is_allowed_and_another_refused(lab: Lab, page: Page, qwen: Path) -> None:
    """Nothing runs before the click; results and refusals go back, and an error is shown."""
    say(
        page, lab, qwen, "I look. " + call("Paris"), "And there. " + call("Rome"), "I see.",
        call("Nowhere"), "It failed.",
    )  # fmt: skip
    ask(page, "How is the weather?")
    answered(page, 1)
    cards = page.locator(".oj-call")
    expect(cards.locator(".oj-call-name")).to_have_text("weather")
    expect(cards.locator("pre").first).to_contain_text('"city": "Paris"')
    expect(page.locator(".oj-assistant .oj-body").first).to_have_text("I look.")
    assert_accessible(page, ".oj-chat")
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.locator(".oj-chat").screenshot(path=PICTURES / "chat-tool-call.png")
    cards.get_by_role("button", name="Run", exact=True).click()
    answered(page, 2)
    expect(cards.first.locator(".oj-facts")).to_have_text("done")
    cards.first.locator("summary").click()
    expect(cards.first.locator("details pre")).to_contain_text("sunny in Paris")

    refuse = cards.nth(1).get_by_role("button", name="Refuse")
    refuse.focus()
    page.keyboard.press("Enter")
    answered(page, 3)
    expect(cards.nth(1).locator(".oj-facts")).to_have_text("refused")
    expect(page.locator(".oj-assistant .oj-body").nth(2)).to_have_text("I see.")

    ask(page, "And nowhere?")
    answered(page, 4)
    cards.nth(2).get_by_role("button", name="Run", exact=True).click()
    answered(page, 5)
    expect(cards.nth(2).locator(".oj-facts")).to_have_text("failed")
    expect(cards.nth(2).locator("details pre")).to_contain_text("no such city")
    page.locator(".oj-chat").screenshot(path=PICTURES / "chat-tool-calls.png")
    assert_accessible(page, ".oj-chat")
    expect(page.locator(".oj-transcript")).to_contain_text("weather")
