"""Thinking with real tokenizers and templates: prompts, options, two turns, random tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from outlier_jupyter import Engine, Run, load
from outlier_jupyter.errors import OptionError
from outlier_jupyter.events import SegmentText, TextProduced
from outlier_jupyter.runs.text_stream import Transcript
from outlier_jupyter.trace.segments import KINDS, UNKNOWN, name_of, segments_of
from tests.real_tokenizers import REAL

DIALOGUE: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief"},
    {"role": "user", "content": "What is é?"},
    {"role": "assistant", "content": "A letter.", "reasoning_content": "Hm, letters."},
    {"role": "user", "content": "user"},
    {"role": "assistant", "content": "", "thinking": "Call it.", "tool_calls": [
        {"type": "function", "function": {"name": "get", "arguments": '{"a": 1}'}}]},
    {"role": "tool", "content": "22 degrees"},
]  # fmt: skip
"""Ends with a tool's result, after which Qwen3's template keeps the last call's thinking."""
QUIET = {"max_tokens": 2, "alternatives": 0}


@pytest.fixture(scope="module", params=list(REAL))
def real(request: pytest.FixtureRequest, real_checkpoint_of: Callable[[str], Path]) -> Any:
    """The name of a family, and an engine of it."""
    yield from _engine(request.param, real_checkpoint_of)


def _engine(name: str, made: Callable[[str], Path]) -> Iterator[tuple[str, Engine]]:
    with load(made(name), cache_experts=8, quiet=True) as engine:
        yield name, engine


def prompt_texts(run: Run) -> dict[str, list[str]]:
    """The texts of the prompt's segments, by kind."""
    out: dict[str, list[str]] = {name: [] for name in KINDS}
    prompt = len(run.trace.kinds) - run.generated
    for kind, first, last in segments_of(run.trace.kinds[:prompt]):
        out[name_of(kind)].append("".join(run.read_pieces[first : last + 1]))
    return out


def test_each_message_of_a_prompt_has_its_kind(real: tuple[str, Engine]) -> None:
    """By the real template: also a question that is the name of a role, and an answer's call."""
    name, engine = real
    run = engine.generate(DIALOGUE, **QUIET)
    found = prompt_texts(run)
    assert UNKNOWN not in run.trace.kinds
    assert found["system"] == ["Be brief"] and found["user"] == ["What is é?", "user"]
    assert found["answer"] == ["A letter."] and found["tool result"] == ["22 degrees"]
    # The thinking of an earlier answer goes back to no model; that of a call to those that want it.
    assert [t.strip() for t in found["thinking"]] == (
        ["Call it."] if name in ("qwen3", "gpt-oss") else []
    )
    calls = "".join(found["tool call"])
    assert ("get" in calls and '"a": 1' in calls) or name == "deepseek-v3"
    assert "Hm, letters." not in run.encoded


def test_a_text_that_the_tokenizer_normalises_has_its_kind(real: tuple[str, Engine]) -> None:
    """Qwen's tokenizer composes accents, so that its tokens are shorter than the text."""
    _, engine = real
    long = "e\u0301" * 30
    messages = [{"role": "user", "content": long}, {"role": "assistant", "content": "A letter."}]
    found = prompt_texts(engine.generate([*messages, {"role": "user", "content": "So?"}], **QUIET))
    assert found["answer"] == ["A letter."] and found["user"][-1] == "So?"


def test_streamed_pieces_are_the_tokenizer_s_decoding(real: tuple[str, Engine]) -> None:
    """For random tokens of any kind: special ones, parts of characters, tags."""
    _, engine = real
    vocabulary = sorted(engine.tokenizer.get_vocab().values())
    added = sorted(engine.tokenizer.added_tokens_decoder)
    ids = st.lists(st.sampled_from(vocabulary) | st.sampled_from(added), max_size=40)

    @settings(suppress_health_check=[HealthCheck.too_slow])
    @given(tokens=ids)
    def check(tokens: list[int]) -> None:
        transcript = Transcript(engine.tokenizer.detokenizer, ())
        pieces = [*map(transcript.add, tokens), transcript.finish()]
        assert "".join(pieces) == transcript.text == engine.tokenizer.decode(tokens)

    check()


def test_a_run_s_texts_are_its_tokens_decoding(real: tuple[str, Engine]) -> None:
    """Steps, both kinds of events and the run; its kinds are those of its spans."""
    _, engine = real
    events: list[Any] = []
    unsubscribe = engine.subscribe(events.append, TextProduced, SegmentText)
    steps = list(engine.stream("Hi", max_tokens=24, temperature=1.5, seed=3))
    unsubscribe()
    run = engine.last_run
    assert run is not None
    ends = engine.tokenizer.eos_token_ids
    whole = engine.tokenizer.decode([token for token in run.tokens.tolist() if token not in ends])
    assert run.text == whole == "".join(step.text for step in steps)
    assert whole == "".join(event.text for event in events if type(event) is TextProduced)
    for kind, text in (("thinking", run.thinking), ("answer", run.answer)):
        streamed = "".join(e.text for e in events if type(e) is SegmentText and e.kind == kind)
        assert streamed.replace("\n", "") == text.replace("\n", "")


SWITCHED = {
    "qwen3": ("<|im_start|>assistant\n", "<|im_start|>assistant\n<think>\n\n</think>\n\n"),
    "qwen3-thinking": (
        "<|im_start|>assistant\n<think>\n",
        "<|im_start|>assistant\n<think>\n\n</think>\n\n",
    ),
    "gpt-oss": ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
    "deepseek-v3.1": ("<｜Assistant｜><think>", "<｜Assistant｜></think>"),
}


def test_thinking_is_switched_on_and_off(real: tuple[str, Engine]) -> None:
    """By the template's own switch, or by the text after the prompt; refused without tags."""
    name, engine = real
    if name not in SWITCHED:
        with pytest.raises(OptionError, match="have no tags for thinking"):
            engine.generate("Hi", thinking="on", **QUIET)
        return
    for thinking, end in zip(("on", "off"), SWITCHED[name], strict=True):
        run = engine.generate("Hi", thinking=thinking, **QUIET)
        assert run.encoded.endswith(end)
        begins = "thinking" if thinking == "on" and name != "qwen3" else "answer"
        assert name_of(int(run.trace.kinds[-1])) in (begins, "template")


def test_a_budget_closes_the_block(real: tuple[str, Engine]) -> None:
    """After so many tokens of thinking the closing tag is next, and then the answer."""
    name, engine = real
    if name not in ("qwen3-thinking", "gpt-oss", "deepseek-v3.1"):
        return
    for budget in (0, 5):
        run = engine.generate(
            "Hi", thinking="on", thinking_budget=budget, max_tokens=16, temperature=1.2, seed=1
        )
        kinds = [name_of(kind) for kind in run.trace.kinds[-run.generated :].tolist()]
        assert kinds.count("thinking") == budget and set(kinds[:budget]) <= {"thinking"}
        closing = engine.tokenizer.decode(run.tokens[budget:])
        assert closing.startswith("<|end|>" if name == "gpt-oss" else "</think>")
        assert "answer" in kinds and run.answer
        assert f"thinking ended after {budget} tokens" in run.trace.info.changed_output
    free = engine.generate("Hi", thinking="on", thinking_budget=99, **QUIET)
    assert free.trace.info.changed_output == ""


def test_variables_of_the_template(real: tuple[str, Engine]) -> None:
    """As a dictionary or as NAME=VALUE; one that the template does not read is refused."""
    name, engine = real
    if name == "gpt-oss":
        for template in ({"reasoning_effort": "low"}, "reasoning_effort=low"):
            run = engine.generate("Hi", template=template, **QUIET)
            assert "Reasoning: low" in run.encoded
            assert run.trace.info.options["template"] == ("reasoning_effort=low",)
    if name == "qwen3":
        for template in ({"enable_thinking": False}, ["enable_thinking=false"]):
            run = engine.generate("Hi", template=template, **QUIET)
            assert run.encoded.endswith("</think>\n\n")
    for wrong in ({"nonsense": 1}, {"messages": []}, {"role": 1}):
        with pytest.raises(OptionError, match="reads no variable"):
            engine.generate("Hi", template=wrong, **QUIET)
    with pytest.raises(OptionError, match="raw=True uses no chat template"):
        engine.generate("Hi", template={"tools": []}, raw=True, **QUIET)


def test_two_turns_reuse_the_kv_cache_though_thinking_is_dropped(real: tuple[str, Engine]) -> None:
    """The second turn reads what differs, and generates what a fresh run would."""
    name, engine = real
    question = [{"role": "user", "content": "Hi there"}]
    first = engine.generate(question, max_tokens=8, reuse_kv=True)
    turn = {"role": "assistant", "content": "Hello.", "reasoning_content": first.thinking or "Hm."}
    second = [*question, turn, {"role": "user", "content": "And now?"}]
    reused = engine.generate(second, max_tokens=6, reuse_kv=True)
    fresh = engine.generate(second, max_tokens=6)
    # The sliding window of gpt-oss, once full, cannot go back to before the thinking.
    assert reused.trace.steps < fresh.trace.steps or name == "gpt-oss"
    assert reused.tokens.tolist() == fresh.tokens.tolist()
    assert np.array_equal(reused.trace.kinds, fresh.trace.kinds[-reused.trace.steps - 1 :])
    assert reused.encoded == fresh.encoded and "Hm." not in fresh.encoded


def test_an_answer_with_its_tags_goes_back_as_the_template_wants(real: tuple[str, Engine]) -> None:
    """Thinking between tags in the content: the template drops it, and the rest is the answer."""
    name, engine = real
    if name not in ("qwen3", "qwen3-thinking", "deepseek-v3.1"):
        return
    turn = {"role": "assistant", "content": "<think>\nHm.\n</think>\n\nA letter."}
    run = engine.generate([DIALOGUE[1], turn, DIALOGUE[3]], **QUIET)
    assert "Hm." not in run.encoded
    assert prompt_texts(run)["answer"] == ["A letter."]


@pytest.mark.parametrize("stop", ["k>\n\n\n", "<think>!", "</think>!", "\n</"])
def test_text_held_back_for_a_stop_word_hides_no_tag(stop: str) -> None:
    """The budget counts as without the stop word, and the block is closed by one tag."""
    with load("demo", cache_experts=192, quiet=True) as engine:
        options: dict[str, Any] = {"thinking_budget": 3, "max_tokens": 24}
        plain = engine.generate("What is an expert?", **options)
        waiting = engine.generate("What is an expert?", stop=stop, **options)
    assert waiting.tokens.tolist() == plain.tokens.tolist() and waiting.answer == plain.answer
    assert waiting.segments["kind"].tolist() == plain.segments["kind"].tolist()
