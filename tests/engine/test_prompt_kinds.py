"""Whose each prompt token is: any texts, in templates that trim, escape, move or drop them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment

from outlier_jupyter.engine.dialects import Dialect, dialect_of
from outlier_jupyter.engine.prompt_kinds import PromptKinds, prompt_kinds, split
from outlier_jupyter.testing import CHAT_TEMPLATE
from outlier_jupyter.trace.segments import (
    ANSWER,
    SYSTEM,
    TEMPLATE,
    THINKING,
    TOOL_CALL,
    TOOL_RESULT,
    USER,
)
from tests.engine.test_segments import wrapped

CODES = {"system": SYSTEM, "user": USER, "assistant": ANSWER, "tool": TOOL_RESULT}
THINK = dialect_of(wrapped(("<think>", "</think>", "<tool_call>", "</tool_call>")))


def render(template: str, messages: list[dict[str, Any]]) -> str:
    environment = ImmutableSandboxedEnvironment()
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    made = environment.from_string(template)
    return str(made.render(messages=messages, add_generation_prompt=True))


def kinds_of(
    template: str, messages: list[dict[str, Any]], dialect: Dialect = THINK
) -> tuple[str, PromptKinds]:
    """The text of a template, and the kinds of its characters' bytes."""
    text = render(template, messages)
    tokens = [sign.encode("utf-8", "surrogatepass") for sign in text]
    found = prompt_kinds(text, tokens, messages, lambda form: render(template, form), dialect)
    assert len(found.kinds) == len(text)
    return text, found


def texts(text: str, found: PromptKinds, kind: int) -> list[str]:
    """The parts of the text that are of a kind."""
    marked = "".join(s if k == kind else "\0" for s, k in zip(text, found.kinds, strict=True))
    return [part for part in marked.split("\0") if part]


TEXTS = st.text(st.sampled_from("user system<|im_end|>\nassistant{}é🚀 "), max_size=12)
MESSAGES = st.lists(
    st.builds(dict, role=st.sampled_from(list(CODES)), content=TEXTS), min_size=1, max_size=6
)


@given(messages=MESSAGES)
def test_any_message_is_found_where_it_stands(messages: list[dict[str, Any]]) -> None:
    """Also one that looks like the template's own text, or like another message."""
    text, found = kinds_of(CHAT_TEMPLATE, messages)
    wanted, at = bytearray(len(text)), 0
    for message in messages:
        begin = at + len(f"<|im_start|>{message['role']}\n")
        end = begin + len(message["content"])
        wanted[begin:end] = bytes([CODES[message["role"]]]) * (end - begin)
        at = end + len("<|im_end|>\n")
    assert found.kinds == bytes(wanted) and found.state == "normal"


TRICKY = {
    "trims": "{% for m in messages %}[{{ m.role }}] {{ m.content | trim }}\n{% endfor %}",
    "escapes": "{% for m in messages %}{{ m.role }}: {{ m.content | tojson }};{% endfor %}",
    "moves": "{% for m in messages if m.role == 'system' %}{{ m.content }}{% endfor %}"
    "{% for m in messages if m.role != 'system' %}<{{ m.role }}>{{ m.content }}{% endfor %}",
    "reads": "{% for m in messages %}{{ m.role }}"
    "{{ '!' if m.content.startswith('What') else '?' }}{{ m.content }}\n{% endfor %}",
}


@pytest.mark.parametrize("template", TRICKY.values(), ids=TRICKY)
def test_templates_that_change_their_messages(template: str) -> None:
    """Trimmed, as JSON, in another order, or with text that depends on what they read."""
    messages = [
        {"role": "user", "content": " What is <b>\"é\"</b>?\n"},
        {"role": "assistant", "content": "A letter."},
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "So?"},
    ]  # fmt: skip
    text, found = kinds_of(template, messages)
    first, second = texts(text, found, USER)
    assert "What is" in first and second.strip() in ("So?", '"So?"')
    assert texts(text, found, SYSTEM)[0].strip('"') == "Be brief."
    assert texts(text, found, ANSWER)[0].strip('"') == "A letter."


def test_what_is_not_found_is_the_template_s() -> None:
    """A template that writes other words, and one that fails when it is applied again."""
    messages = [{"role": "user", "content": "hello"}]
    text, found = kinds_of("{{ messages[0].content | upper }}!", messages)
    assert text == "HELLO!" and set(found.kinds) == {TEMPLATE}

    def refuse(form: list[dict[str, Any]]) -> str:
        raise ZeroDivisionError

    found = prompt_kinds("hello", [b"hello"], messages, refuse, THINK)
    assert list(found.kinds) == [TEMPLATE]


def test_thinking_and_calls_in_earlier_answers() -> None:
    """In fields of their own, or between tags in the content."""
    template = (
        "{% for m in messages %}<{{ m.role }}>{% if m.reasoning_content %}<think>"
        "{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}{% for c in m.tool_calls or []"
        " %}<tool_call>{{ c.function.name }}</tool_call>{% endfor %}</>{% endfor %}<think>\n"
    )
    call = {"function": {"name": "find", "arguments": {}}}
    for answer in (
        {"role": "assistant", "reasoning_content": "Hm.", "content": "Yes.", "tool_calls": [call]},
        {"role": "assistant", "content": "<think>Hm.</think>Yes.<tool_call>find</tool_call>"},
    ):
        text, found = kinds_of(template, [{"role": "user", "content": "Hm. Yes."}, answer])
        assert texts(text, found, USER) == ["Hm. Yes."] and found.state == "reasoning"
        kinds = (THINKING, ANSWER, TOOL_CALL)
        assert [texts(text, found, kind) for kind in kinds] == [["Hm."], ["Yes."], ["find"]]


def test_an_answer_without_its_opening_tag_is_split_all_the_same() -> None:
    """Where the template wrote the tag, the text begins inside the thinking."""
    parts = [(part.text, part.kind) for part in split("Hm.\n</think>\n\nYes.", THINK)]
    assert parts == [("Hm.", THINKING), ("Yes.", ANSWER)]


def test_a_raw_prompt_is_the_user_s() -> None:
    """One that ends with the opening tag is gone on with inside the thinking."""
    found = prompt_kinds("ab", [b"a", b"b"], None, lambda form: "", THINK)
    assert found == PromptKinds(bytes([USER, USER]), "normal")
    assert prompt_kinds("<think>\n", [b"x"], None, lambda form: "", THINK).state == "reasoning"


def test_a_vocabulary_that_begins_with_a_space_is_aligned() -> None:
    """SentencePiece writes one before the text, which is of no message."""
    template = "{{ messages[0].content }}</s>"
    tokens = ["▁ab".replace("▁", " ").encode(), b"c", b"</s>"]
    found = prompt_kinds(
        "abc</s>", tokens, [{"role": "user", "content": "abc"}],
        lambda form: render(template, form), Dialect(),
    )  # fmt: skip
    assert list(found.kinds) == [USER, USER, TEMPLATE]
