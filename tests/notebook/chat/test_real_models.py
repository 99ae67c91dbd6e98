"""Chats with tools and thinking, on the tokenizers and templates of real models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import outlier_jupyter
from outlier_jupyter import Engine
from outlier_jupyter.errors import OptionError
from outlier_jupyter.notebook.chat.chat import Chat
from outlier_jupyter.notebook.chat.tool_calls import OF_REFUSED
from tests.notebook.chat.scripted import call, script
from tests.test_tools import weather

FAMILIES = ("qwen3", "gpt-oss")
"""Those whose templates take tools."""


@pytest.fixture(scope="module", params=FAMILIES)
def engine(request: pytest.FixtureRequest, real_checkpoint_of: Any) -> Iterator[Engine]:
    """A tiny model of the family with its whole vocabulary; it ends its turns."""
    with outlier_jupyter.load(real_checkpoint_of(request.param), cache_experts=8) as engine:
        engine.family = request.param  # type: ignore[attr-defined]
        yield engine


def asks(family: str, thought: str, city: str) -> str:
    """An answer that thinks, and calls the tool."""
    if family == "gpt-oss":
        return (
            f"<|channel|>analysis<|message|>{thought}<|end|><|start|>assistant<|channel|>commentary"
            f' to=functions.weather <|constrain|>json<|message|>{{"city": "{city}"}}<|call|>'
        )
    return f"<think>\n{thought}\n</think>\n\n{call('weather', city=city)}"


def says(family: str, thought: str, answer: str) -> str:
    """An answer that thinks, and says something."""
    if family == "gpt-oss":
        return (
            f"<|channel|>analysis<|message|>{thought}<|end|>"
            f"<|start|>assistant<|channel|>final<|message|>{answer}"
        )
    return f"<think>\n{thought}\n</think>\n\n{answer}"


def test_two_turns_with_a_tool(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls, results and refusals are in the prompts as the family's template writes them."""
    family = engine.family  # type: ignore[attr-defined]
    chat = Chat(engine, tools=[weather], max_tokens=200)
    script(
        monkeypatch, engine, asks(family, "Look it up.", "Paris"), says(family, "Wet.", "Rain."),
        asks(family, "Once more.", "Rome"), says(family, "Not allowed.", "I cannot know."),
    )  # fmt: skip
    chat.send("Paris?")
    (proposed,) = chat.messages[-1].tool_calls
    assert (proposed.name, proposed.arguments) == ("weather", {"city": "Paris"})
    run = chat.allow()
    assert run is not None and "Paris: 1 days of rain" in run.encoded
    assert "to=functions.weather" in run.encoded or '{"name": "weather", "arg' in run.encoded
    # Within one question the thinking belongs to what the model reads on.
    assert "Look it up." in run.encoded
    first, last = chat.messages[-2:]
    assert first.thinking["text"] == "Look it up." and first.text == ""
    assert (last.text, last.thinking["text"]) == ("Rain.", "Wet.")
    # gpt-oss's sliding caches cannot be trimmed to where the template writes the call otherwise.
    assert (last.numbers["reused"] > 0) == (family == "qwen3")

    chat.send("And Rome?")
    assert chat.messages[-1].tool_calls[0].arguments == {"city": "Rome"}
    run = chat.refuse()
    assert run is not None and OF_REFUSED in run.encoded and "Once more." in run.encoded
    assert "Wet." not in run.encoded  # of an earlier question it is left out
    assert run.encoded.count("Rain.") == 1 and chat.messages[-1].text == "I cannot know."
    chat.close()


def test_deepseek_v3_says_that_it_takes_no_tools(real_checkpoint_of: Any, tmp_path: Path) -> None:
    """mlx-lm has no parser for its calls, and its template has no place for schemas."""
    with outlier_jupyter.load(real_checkpoint_of("deepseek-v3"), cache_experts=8) as engine:
        with pytest.raises(OptionError, match="no parser for this model's tool calls"):
            Chat(engine, tools=[weather])
        with pytest.raises(OptionError, match="chat template takes no tools"):
            engine.generate("Hi", tools=[weather])
