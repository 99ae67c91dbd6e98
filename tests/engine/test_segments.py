"""Thinking, answers and tool calls in generated text, in every dialect, however tokens split it."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx_lm import tokenizer_utils
from mlx_lm.chat_templates.muse_spark import RESPONSE_FORMAT
from mlx_lm.tokenizer_utils import TokenizerWrapper
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from outlier_jupyter.engine.dialects import HARMONY, Dialect, dialect_of
from outlier_jupyter.engine.segments import GeneratedSegments
from outlier_jupyter.engine.template_variables import with_thinking
from outlier_jupyter.options import GenerateOptions
from outlier_jupyter.testing import CHAT_TEMPLATE
from outlier_jupyter.trace.segments import ANSWER, TEMPLATE, THINKING, TOOL_CALL, texts_of

XTML = ("<|open|>", "<|close|>", "<|sep|>", "<|end_of_msg|>")
DIALECTS = {
    "think": (("<think>", "</think>"), "<think>\nHm.\n</think>\n\nYes."),
    "longcat": (
        ("<longcat_think>", "</longcat_think>"),
        "<longcat_think>Hm.</longcat_think>Yes.",
    ),
    "think:start": (
        ("<|think:start|>", "<|think:end|>"),
        "<|think:start|>Hm.<|think:end|>Yes.",
    ),
    "gemma4": (("<|channel>", "<channel|>"), "<|channel>thought\nHm.<channel|>Yes."),
    "xtml": (
        XTML,
        "<|open|>think<|sep|>Hm.<|close|>think<|sep|><|open|>response<|sep|>Yes."
        "<|close|>response<|sep|><|close|>message<|sep|>",
    ),
    "gpt-oss": (
        ("<|channel|>", "<|message|>", "<|start|>", "<|end|>"),
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes.",
    ),
    "written": ((), "<think>\nHm.\n</think>\n\nYes."),
    "seed": (("<seed:think>", "</seed:think>"), "<seed:think>Hm.</seed:think>Yes."),
    "magistral": (("[THINK]", "[/THINK]"), "[THINK]Hm.[/THINK]Yes."),
    "muse_spark": (
        ("<|start|>", "<|message|>", "<|eom|>", "<|eot|>"),
        "to=self<|message|>Hm.<|eom|><|start|>assistant to=user<|message|>Yes.<|eot|>",
    ),
}
"""Name → added tokens, and a text that thinks `Hm.` and answers `Yes.`."""


def wrapped(tokens: tuple[str, ...], template: str = "", **options: Any) -> TokenizerWrapper:
    """mlx-lm's wrapper of a tokenizer of bytes with these tokens of its own."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({sign: n for n, sign in enumerate(alphabet)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(list(tokens))
    fast = PreTrainedTokenizerFast(tokenizer_object=made)
    fast.chat_template = template or None
    return TokenizerWrapper(fast, **options)


def of(name: str) -> Dialect:
    tokens, _ = DIALECTS[name]
    options = {"response_format": RESPONSE_FORMAT} if name == "muse_spark" else {}
    return dialect_of(wrapped(tokens, "</think>" if name == "written" else "", **options))


def read(dialect: Dialect, pieces: list[str], state: str | None = None) -> GeneratedSegments:
    segments = GeneratedSegments(dialect, state or dialect.initial)
    length = 0
    for piece in pieces:
        length += len(piece)
        segments.add(piece)
        segments.take(length, thinking=False)
    segments.finish()
    return segments


@pytest.mark.parametrize("name", DIALECTS)
@given(data=st.data())
def test_thinking_and_answer_are_found_in_every_dialect(name: str, data: st.DataObject) -> None:
    """Wherever the text is cut into pieces: the same spans, and the same text as it streams."""
    dialect, text = of(name), DIALECTS[name][1]
    cuts = sorted(data.draw(st.sets(st.integers(1, len(text) - 1))))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    segments, streamed = GeneratedSegments(dialect, dialect.initial), []
    for piece in pieces:
        streamed += segments.add(piece)
    streamed += segments.finish()
    spans = segments.spans(text)
    assert texts_of(text, spans, THINKING) == "Hm." and texts_of(text, spans, ANSWER) == "Yes."
    texts = {kind: "".join(t for k, t in streamed if k == kind) for kind in (THINKING, ANSWER)}
    assert texts[THINKING].rstrip("\n") == "Hm." and texts[ANSWER] == "Yes."


def test_each_dialect_of_mlx_lm_is_among_these() -> None:
    """A newer mlx-lm with another pair of tags fails here, so that it is tested as well."""
    source = inspect.getsource(tokenizer_utils).partition("def _infer_thinking")[2]
    tags = set(re.findall(r'"(<[^"]*>[^"]*)"', source.partition("\ndef ")[0]))
    known = "".join(text + "".join(tokens) for tokens, text in DIALECTS.values())
    assert len(tags) >= 10 and not {tag for tag in tags if tag not in known}


@given(pieces=st.lists(st.text("<think>/ab\n", max_size=9), max_size=12))
def test_no_text_is_lost_or_doubled(pieces: list[str]) -> None:
    """Every character is text of one kind or of a tag; a tag cut short is text."""
    dialect, text = of("think"), "".join(pieces)
    segments = GeneratedSegments(dialect, dialect.initial)
    out = [piece for each in pieces for piece in segments.add(each)] + segments.finish()
    plain, rest, tags = "", text, ["<think>", "</think>"]
    while tags[0] in rest:
        before, _, rest = rest.partition(tags[0])
        plain, tags = plain + before, tags[::-1]
    assert "".join(t for _, t in out).replace("\n", "") == (plain + rest).replace("\n", "")
    spans = segments.spans(text)
    assert all(0 <= begin < end <= len(text) for _, begin, end in spans)
    assert [b for _, b, _ in spans] == sorted(b for _, b, _ in spans)


def test_a_prompt_that_opens_the_block_begins_inside_it() -> None:
    """As Qwen3-thinking and DeepSeek-R1: the closing tag alone ends the thinking."""
    segments = read(of("think"), ["Hm.\n", "</think>", "\n\nYes."], "reasoning")
    text = "Hm.\n</think>\n\nYes."
    assert segments.spans(text) == ((THINKING, 0, 3), (ANSWER, 14, 18))
    assert list(segments.token_kinds()) == [THINKING, TEMPLATE, ANSWER]


def test_tokens_of_a_tag_in_several_are_the_template_s() -> None:
    """A token that ends a tag and begins the text is the text's."""
    pieces = ["<th", "ink", ">", "Hm", ".</", "think", ">Y", "es"]
    kinds = read(of("written"), pieces).token_kinds()
    assert list(kinds) == [0, 0, 0, THINKING, THINKING, 0, ANSWER, ANSWER]


def test_part_of_a_character_belongs_to_what_comes_next() -> None:
    """It has no text yet; an end-of-turn token is the template's."""
    dialect = of("think")
    segments = GeneratedSegments(dialect, "normal")
    for piece, length in (("<think>", 7), ("", 7), ("é", 8), ("</think>", 16), ("", -1)):
        segments.add(piece)
        segments.take(length, thinking=False)
    segments.finish()
    assert list(segments.token_kinds()) == [0, THINKING, THINKING, 0, TEMPLATE]


def test_a_call_in_a_channel_is_a_tool_call_and_a_preamble_an_answer() -> None:
    """gpt-oss: the call's text begins with the function's name."""
    text = (
        "<|channel|>analysis<|message|>Look.<|end|><|start|>assistant<|channel|>commentary"
        "<|message|>I look.<|end|><|start|>assistant<|channel|>commentary to=functions.find "
        '<|constrain|>json<|message|>{"a": 1}<|call|>'
    )
    spans = read(of("gpt-oss"), [text]).spans(text)
    assert [texts_of(text, spans, kind) for kind in (THINKING, ANSWER, TOOL_CALL)] == [
        "Look.", "I look.", 'find <|constrain|>json<|message|>{"a": 1}']  # fmt: skip


def test_a_model_that_leaves_its_channels_out_still_answers() -> None:
    """Its text is the answer, not a header."""
    text = "Yes, of course."
    assert read(of("gpt-oss"), [text]).spans(text) == ((ANSWER, 0, len(text)),)
    assert "begin" in HARMONY


def test_a_text_without_tags_stays_as_it_is() -> None:
    """Also its line breaks at both ends."""
    text = "\n\nYes.\n"
    assert read(of("think"), [text]).spans(text) == ((ANSWER, 0, len(text)),)


def test_a_tokenizer_that_is_no_tokenizer_has_no_tags() -> None:
    """Nothing of it may fail a run."""
    assert dialect_of(object()) == Dialect()


def test_a_model_that_only_shares_its_family_s_tokenizer_is_left_alone() -> None:
    """Its template knows no tags: off changes nothing, and on opens a block."""
    plain = wrapped(("<think>", "</think>"), CHAT_TEMPLATE)
    thinker = wrapped(("<think>", "</think>"), CHAT_TEMPLATE + "{# drops </think> #}")
    off, on = (GenerateOptions(thinking=each) for each in ("off", "on"))
    assert with_thinking("a", plain, off, dialect_of(plain)) == "a"
    assert with_thinking("a", plain, on, dialect_of(plain)) == "a<think>\n"
    assert with_thinking("a", thinker, off, dialect_of(thinker)) == "a<think>\n\n</think>\n\n"
