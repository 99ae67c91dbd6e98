"""Options for ranges are checked against what exists before they are expanded."""

from __future__ import annotations

import tracemalloc

import pytest

import outlier_jupyter
from outlier_jupyter.errors import OptionError
from outlier_jupyter.notebook.chat.conversations import Conversations
from outlier_jupyter.paging.interventions import parse_experts
from outlier_jupyter.paging.preload import parse_pins

MILLION = 1_000_000
SIZES = (32,) * 4


@pytest.fixture(scope="module")
def run():
    with outlier_jupyter.load("demo", cache_gb=0.002, quiet=True) as engine:
        run = engine.generate("What is an expert?", max_tokens=6)
    run.experts_of(1)  # imports and compiles what every case needs
    outlier_jupyter.compare({"a": run, "b": run}, permutations=9)
    return run


@pytest.mark.parametrize(
    "ask",
    [
        lambda run: parse_experts("mask", ["0:0-1000000000000"], SIZES),
        lambda run: parse_experts("boost", ["0-1000000000000:0"], SIZES),
        lambda run: parse_experts("force", ["0:" + "9" * 5000], SIZES),
        lambda run: parse_experts("mask", ["0:7-3"], SIZES),
        lambda run: parse_pins(["0:" + "9" * 5000], SIZES),
        lambda run: run.experts_of(slice(1, 10**12)),
        lambda run: outlier_jupyter.experts_of(run, steps=range(10**12)),
        lambda run: outlier_jupyter.experts_of(run, steps=[10**30]),
        lambda run: outlier_jupyter.compare({"a": run, "b": run}, permutations=10**9),
    ],
)
def test_what_there_is_not_is_refused_before_memory_is_taken(run, ask):
    """Ranges of experts, spans of tokens and steps, deals: one sentence, a megabyte at most."""
    tracemalloc.start()
    try:
        with pytest.raises(OptionError) as caught:
            ask(run)
        assert tracemalloc.get_traced_memory()[1] < MILLION
    finally:
        tracemalloc.stop()
    assert len(str(caught.value)) <= 300


def test_a_range_named_again_and_again_is_written_out_once():
    """Repeating it takes no more memory."""
    words = "0:" + ",".join(["0-31"] * 20_000)
    tracemalloc.start()
    try:
        assert len(parse_experts("mask", [words], SIZES)) == 32
        assert tracemalloc.get_traced_memory()[1] < 3 * MILLION
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_a_chat_with_numbers_that_are_none_is_refused(number):
    """JSON, and so the page, cannot represent them."""
    text = saved().replace('"numbers": {}', f'"numbers": {{"tokens": {number}}}', 1)
    with pytest.raises(OptionError, match="values that are not numbers"):
        Conversations().add_from(text)


def test_half_a_character_in_a_chat_is_replaced():
    """The page cannot receive a lone surrogate either."""
    found = Conversations()
    found.add_from(saved().replace("question", "quest\\ud800ion"))
    assert found.current.path()[0].text == "quest\ufffdion"


def saved() -> str:
    """A chat of one question."""
    chat = Conversations()
    chat.current.add(0, "user", "question")
    return chat.dumps()
