"""Tool calls are found in every syntax that mlx-lm reads, and in gpt-oss's; none raises."""

from __future__ import annotations

import importlib
import json
import pkgutil
from pathlib import Path
from typing import Any

import mlx_lm.tool_parsers
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx_lm.chat_templates.muse_spark import RESPONSE_FORMAT
from mlx_lm.tokenizer_utils import BPEStreamingDetokenizer, TokenizerWrapper
from transformers import AutoTokenizer

from outlier_jupyter.engine.dialects import dialect_of
from outlier_jupyter.engine.segments import GeneratedSegments
from outlier_jupyter.engine.tool_calls import (
    DEEPEST,
    FoundCall,
    calls_tools,
    check_calls,
    find_calls,
)
from outlier_jupyter.errors import OptionError
from outlier_jupyter.runs.text_stream import Transcript
from outlier_jupyter.tools import schemas_of
from tests.real_tokenizers import wrapped, write_tokenizer
from tests.test_tools import weather

SCHEMAS = schemas_of("tools", [weather])
CITY, PLACE = {"city": "Paris", "days": 2}, {"city": "Rome"}
ONE, OTHER = json.dumps(CITY), json.dumps(PLACE)


def tagged(start: str, end: str, value: str = "{}") -> list[str]:
    """A call's arguments between tags, for both calls."""
    pairs = [[("city", "Paris"), ("days", "2")], [("city", "Rome")]]
    return ["".join(start.format(k) + value.format(v) + end for k, v in pairs[at]) for at in (0, 1)]


GLM = tagged("<arg_key>{}</arg_key>\n<arg_value>", "</arg_value>\n")
LONGCAT = tagged("<longcat_arg_key>{}</longcat_arg_key>\n<longcat_arg_value>",
                 "</longcat_arg_value>\n")  # fmt: skip
CODER = tagged("<parameter={}>\n", "\n</parameter>\n")
MINIMAX = tagged('<parameter name="{}">', "</parameter>\n")
MINICPM = tagged('<param name="{}">', "</param>")
ATEM = tagged('<atem:parameter name="{}">', "</atem:parameter>\n")
XTML = [
    '<|open|>argument key="city" type="string"<|sep|>Paris<|close|>argument<|sep|>'
    '<|open|>argument key="days" type="integer"<|sep|>2<|close|>argument<|sep|>',
    f'<|open|>json type="object"<|sep|>{OTHER}<|close|>json<|sep|>',
]
SYNTAX = {
    "function_gemma": [
        "<start_function_call>call:weather{city:<escape>Paris<escape>,days:2}<end_function_call>",
        "<start_function_call>call:weather{city:<escape>Rome<escape>}<end_function_call>",
    ],
    "gemma4": [
        '<|tool_call>call:weather{city:<|"|>Paris<|"|>,days:2}<tool_call|>',
        '<|tool_call>call:weather{city:<|"|>Rome<|"|>}<tool_call|>',
    ],
    "glm47": [f"<tool_call>weather\n{part}</tool_call>\n" for part in GLM],
    "json_tools": [
        f'<tool_call>\n{{"name": "weather", "arguments": {ONE}}}\n</tool_call>',
        f'<tool_call>\n{{"name": "weather", "arguments": {OTHER}}}\n</tool_call>',
    ],
    "kimi_k2": [
        "<|tool_calls_section_begin|>"
        f"<|tool_call_begin|>functions.weather:0<|tool_call_argument_begin|>{ONE}<|tool_call_end|>",
        f"<|tool_call_begin|>functions.weather:1<|tool_call_argument_begin|>{OTHER}"
        "<|tool_call_end|><|tool_calls_section_end|>",
    ],
    "kimi_k3": [
        "<|open|>tools<|sep|>"
        f'<|open|>call tool="weather" index="1"<|sep|>{XTML[0]}<|close|>call<|sep|>',
        f'<|open|>call tool="weather" index="2"<|sep|>{XTML[1]}<|close|>call<|sep|>'
        "<|close|>tools<|sep|>",
    ],
    "laguna": [f"<tool_call>weather\n{part}</tool_call>\n" for part in GLM],
    "longcat": [f"<longcat_tool_call>weather\n{part}</longcat_tool_call>" for part in LONGCAT],
    "minicpm5": [f'<function name="weather">{part}</function>' for part in MINICPM],
    "minimax_m2": [
        f'<minimax:tool_call>\n<invoke name="weather">\n{MINIMAX[0]}</invoke>\n',
        f'<invoke name="weather">\n{MINIMAX[1]}</invoke>\n</minimax:tool_call>',
    ],
    "mistral": [f"[TOOL_CALLS]weather[ARGS]{ONE}", f"weather[ARGS]{OTHER}"],
    "muse_spark": [
        f'<atem:function_calls>\n<atem:invoke name="weather">\n{ATEM[0]}</atem:invoke>\n',
        f'<atem:invoke name="weather">\n{ATEM[1]}</atem:invoke>\n</atem:function_calls>',
    ],
    "pythonic": [
        '<|tool_call_start|>[weather(city="Paris", days=2), ',
        "weather(city='Rome')]<|tool_call_end|>",
    ],
    "qwen3_coder": [
        f"<tool_call>\n<function=weather>\n{part}</function>\n</tool_call>\n" for part in CODER
    ],
    "harmony": [
        "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>commentary "
        f"to=functions.weather <|constrain|>json<|message|>{ONE}<|call|>",
        "<|start|>assistant to=functions.weather<|channel|>commentary <|constrain|>json"
        f"<|message|>{OTHER}<|call|>",
    ],
}
"""Two calls of the same tool as each family writes them."""
ENDLESS = ("mistral",)
"""Families that write no end of a call."""


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TokenizerWrapper]:
    """Qwen3's tokenizer with each parser, and gpt-oss's, which needs none."""
    folder = tmp_path_factory.mktemp("tokenizers")
    inner = AutoTokenizer.from_pretrained(write_tokenizer("qwen3", folder))
    detokenizer = BPEStreamingDetokenizer(inner)  # made once: it lists the whole vocabulary
    found = {"harmony": wrapped("gpt-oss", folder)}
    for name in SYNTAX.keys() - {"harmony"}:
        parser = importlib.import_module(f"mlx_lm.tool_parsers.{name}")
        found[name] = TokenizerWrapper(
            inner,
            lambda _: detokenizer,
            tool_parser=parser.parse_tool_call,
            tool_call_start=parser.tool_call_start,
            tool_call_end=parser.tool_call_end,
            response_format=RESPONSE_FORMAT if name == "muse_spark" else None,
        )
    return found


def found_in(
    tokenizer: Any, pieces: str | list[str], whole: bool = True, exact: bool = True
) -> list[FoundCall]:
    """The calls in a text, from its pieces' tokens, as a run releases and reads them.

    Args:
        exact: whether the tokenizer gives the text back as it was: it normalises characters.
    """
    transcript = Transcript(tokenizer.detokenizer, [])
    dialect = dialect_of(tokenizer)
    segments = GeneratedSegments(dialect, dialect.initial)
    for piece in [pieces] if isinstance(pieces, str) else pieces:
        for token in tokenizer.encode(piece, add_special_tokens=False):
            segments.add(transcript.add(token))
    segments.add(transcript.finish())
    segments.finish()
    text = transcript.text
    assert text == "".join(pieces) or not exact
    return find_calls(tokenizer, text, segments.spans(text), SCHEMAS, whole)


def test_every_parser_of_mlx_lm_is_tried() -> None:
    """A parser that mlx-lm adds fails here until its syntax is in the table."""
    known = {module.name for module in pkgutil.iter_modules(mlx_lm.tool_parsers.__path__)}
    assert known == SYNTAX.keys() - {"harmony"}


@pytest.mark.parametrize("name", SYNTAX)
@given(data=st.data())
def test_calls_are_found_wherever_tokens_are_cut(
    tokenizers: dict[str, TokenizerWrapper], name: str, data: st.DataObject
) -> None:
    """Two calls after a text, with names and arguments, in the model's own syntax."""
    before = "" if name in ("muse_spark", "harmony") else "Let me look.\n"
    text = before + "".join(SYNTAX[name])
    cuts = sorted(data.draw(st.sets(st.integers(1, len(text) - 1), max_size=12)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    found = found_in(tokenizers[name], pieces)
    assert [(call.name, call.arguments, call.error) for call in found] == [
        ("weather", CITY, ""), ("weather", PLACE, ""),
    ]  # fmt: skip
    assert calls_tools(tokenizers[name])


@pytest.mark.parametrize("name", SYNTAX)
@given(data=st.data())
def test_what_is_malformed_is_an_error_of_its_call(
    tokenizers: dict[str, TokenizerWrapper], name: str, data: st.DataObject
) -> None:
    """Text is cut out and put in anywhere: nothing is raised, arguments are JSON objects."""
    text = "".join(SYNTAX[name])
    first = data.draw(st.integers(0, len(text)))
    last = data.draw(st.integers(first, min(len(text), first + 30)))
    noise = data.draw(st.one_of(st.just(""), st.text(max_size=5), st.sampled_from("{}[]<>|\":,'")))
    text = text[:first] + noise + text[last:]
    for whole in (True, False):
        for call in found_in(tokenizers[name], text, whole, exact=False):
            assert json.loads(json.dumps(call.arguments, allow_nan=False)) == call.arguments
            assert call.error or (call.name == "weather" and "city" in call.arguments)


@pytest.mark.parametrize("name", SYNTAX)
def test_a_call_that_is_cut_off_is_no_call(
    tokenizers: dict[str, TokenizerWrapper], name: str
) -> None:
    """Lenient parsers would read the arguments that are there, and run it with those alone."""
    text = SYNTAX[name][0]
    if name not in ENDLESS:
        text = text[: text.index("Paris") + 5]
    (call,) = found_in(tokenizers[name], text, whole=False)
    assert (call.name, call.error) == ("weather", "it was cut off") and not call.arguments


@pytest.mark.parametrize(
    ("written", "error"),
    [
        ('{"name": "weather", "arguments": {"city": "Paris"', "JSONDecodeError"),
        ('{"name": "rain", "arguments": {}}', "there is no tool 'rain': there are weather"),
        ('{"name": "weather", "arguments": {"days": 2}}', "it lacks the argument 'city'"),
        ('{"name": "weather"}', "it lacks the argument 'city'"),
        ('{"name": 3, "arguments": {}}', "it names no function"),
        ('["weather"]', "it names no function"),
        ("[]", "it names no function"),
        ("3", "it names no function"),
        ('{"name": "weather", "arguments": [1]}', "its arguments are no JSON object"),
        ('{"name": "weather", "arguments": "Paris"}', "its arguments are not JSON"),
        ('{"name": "weather", "arguments": {"city": NaN}}', "its arguments are not JSON"),
        (
            '{"name": "weather", "arguments": {"city": ' + "[" * 300 + "]" * 300 + "}}",
            f"more than {DEEPEST} levels",
        ),
        ("[" * 100_000, "RecursionError"),
    ],
)
def test_what_is_wrong_with_a_call_is_its_error(
    tokenizers: dict[str, TokenizerWrapper], written: str, error: str
) -> None:
    """And the tool that it seems to mean is named where one is."""
    (call,) = found_in(tokenizers["json_tools"], f"<tool_call>{written}</tool_call>")
    assert error in call.error and call.text == written
    assert call.name == ("weather" if "weather" in written and "3," not in written else call.name)


def test_arguments_as_text_are_read_and_half_characters_replaced(
    tokenizers: dict[str, TokenizerWrapper],
) -> None:
    """OpenAI's form has the arguments as JSON text; half a surrogate pair fits in no file."""
    written = json.dumps({"name": "weather", "arguments": json.dumps({"city": "a\ud800b"})})
    (call,) = found_in(tokenizers["json_tools"], f"<tool_call>{written}</tool_call>")
    assert (call.arguments, call.error) == ({"city": "a?b"}, "")


def test_a_models_own_id_is_kept(tokenizers: dict[str, TokenizerWrapper]) -> None:
    """Kimi's templates write it again."""
    found = found_in(tokenizers["kimi_k2"], SYNTAX["kimi_k2"])
    assert [call.id for call in found] == ["functions.weather:0", "functions.weather:1"]


def test_calls_within_the_thinking_count(tokenizers: dict[str, TokenizerWrapper]) -> None:
    """As in mlx-lm's server: some models call before they have closed the block."""
    text = "<think>I look it up." + SYNTAX["json_tools"][0] + "Good.</think>Rain."
    (call,) = found_in(tokenizers["json_tools"], text)
    assert call.arguments == CITY


def test_a_model_without_a_parser_says_so(tmp_path: Path) -> None:
    """DeepSeek-V3's own syntax is read by no parser of mlx-lm."""
    tokenizer = wrapped("deepseek-v3", tmp_path)
    assert not calls_tools(tokenizer)
    (call,) = found_in(tokenizer, "<｜tool▁calls▁begin｜>weather")
    assert (call.name, call.error) == ("weather", "no parser reads this model's calls")
    with pytest.raises(OptionError, match="no parser for this model's tool calls"):
        check_calls(tokenizer)
