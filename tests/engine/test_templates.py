"""Chat templates of real models: where they are, what they refuse, what they receive."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from outlier_jupyter import Engine, load
from outlier_jupyter.engine import templates
from outlier_jupyter.engine.templates import content_of, templated, without_refused
from outlier_jupyter.errors import CheckpointError, OptionError, TemplateEndless, TemplateRefused
from outlier_jupyter.testing import CHAT_TEMPLATE

USE = Callable[[Any], None]
BODY = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
WITHOUT_EMPTY = (
    "{% for m in messages %}{% if m['role'] == 'assistant' and not m['content'] %}"
    "{{ raise_exception('Assistant message must have content') }}{% endif %}{% endfor %}"
)
WITHOUT_CHANNELS = (
    "{% for m in messages %}{% if '<|channel|>' in m['content'] %}"
    "{{ raise_exception('You have passed a message containing <|channel|> tags') }}"
    "{% endif %}{% endfor %}"
)


@pytest.fixture
def use(engine: Engine) -> Iterator[USE]:
    """Gives the engine another chat template, for one test."""
    before = engine.tokenizer.chat_template
    yield lambda template: setattr(engine.tokenizer, "chat_template", template)
    engine.tokenizer.chat_template = before


@pytest.fixture
def folder(tiny: Path, tmp_path: Path) -> Callable[..., Path]:
    """Makes a copy of the tiny model with other templates in its files."""

    def make(in_config: Any = None, **files: str) -> Path:
        to = Path(shutil.copytree(tiny, tmp_path / "model", copy_function=shutil.copyfile))
        config = json.loads((to / "tokenizer_config.json").read_text())
        config.pop("chat_template")
        config |= {} if in_config is None else {"chat_template": in_config}
        (to / "tokenizer_config.json").write_text(json.dumps(config))
        for name, text in files.items():
            path = to / name.replace("__", "/").replace("_dot_", ".")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        return to

    return make


def conversation(*texts: str) -> list[dict[str, str]]:
    """Alternating questions and answers."""
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]


JSON = json.dumps({"chat_template": CHAT_TEMPLATE})


@pytest.mark.parametrize(
    ("in_config", "files"),
    [
        (None, {"chat_template_dot_json": JSON}),
        (None, {"chat_template_dot_jinja": CHAT_TEMPLATE, "chat_template_dot_json": "{"}),
        ([{"name": "default", "template": CHAT_TEMPLATE}, {"name": "rag", "template": "x"}], {}),
        ([{"name": "chat", "template": CHAT_TEMPLATE}], {}),
        (None, {"additional_chat_templates__chat_dot_jinja": CHAT_TEMPLATE}),
    ],
)
def test_a_template_is_found_wherever_it_lies(folder, in_config, files) -> None:
    """In `chat_template.json`, by name, or in its own folder, as in the usual places."""
    with load(folder(in_config, **files), cache_experts=8) as engine:
        run = engine.generate("hello", max_tokens=1)
    assert run.encoded == "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"chat_template": 5}'])
def test_a_broken_template_file_is_one_sentence(folder, text: str) -> None:
    """The sentence names the file and what to do."""
    with pytest.raises(CheckpointError, match=r"chat_template\.json") as caught:
        load(folder(chat_template_dot_json=text), cache_experts=8)
    assert len(str(caught.value)) <= 300


def test_of_several_templates_without_a_default_one_is_chosen(engine, use: USE) -> None:
    """The error lists their names, and setting one of them works."""
    use({"rag": BODY, "tool_use": BODY})
    with pytest.raises(OptionError, match="named 'rag', 'tool_use' and none is the default"):
        engine.generate("hello", max_tokens=1)
    engine.tokenizer.chat_template = engine.tokenizer.chat_template["rag"]
    assert engine.generate("hello", max_tokens=1).encoded == "<user>hello<assistant>"


def test_a_template_that_makes_nothing_is_an_error(engine, use: USE) -> None:
    """The error names the template, not the prompt, which was not empty."""
    use("")
    with pytest.raises(OptionError, match="template gives no text for these messages"):
        engine.generate("hello", max_tokens=1)


def test_a_system_message_that_nobody_reads_is_refused(engine, folder) -> None:
    """A raw prompt and a base model refuse it instead of dropping it silently."""
    with pytest.raises(OptionError, match="raw=True sends the prompt as it is"):
        engine.generate("hello", system="Be brief", raw=True, max_tokens=1)
    with load(folder(), cache_experts=8) as base:
        with pytest.raises(OptionError, match="the model has no chat template"):
            base.generate("hello", system="Be brief", max_tokens=1)
        assert base.generate("hello", max_tokens=1).encoded == "hello"


def test_a_template_receives_text(engine, use: USE) -> None:
    """Parts are joined; missing content and None become the empty text, never the word None."""
    use(BODY)
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]}
    parts = [{"type": "text", "text": "wea"}, {"type": "text", "text": "ther?"}]
    messages = [{"role": "user", "content": parts}, call, {"role": "tool", "content": "rain"}]
    run = engine.generate(messages, max_tokens=1)
    assert run.encoded == "<user>weather?<assistant><tool>rain<assistant>"
    assert run.prompt == "user: weather?\nassistant: f()\ntool: rain"


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ messages[0].tool_calls[0].function.arguments.city }}", "Rome"),
        ("{{ messages[0].tool_calls[0].function.arguments | tojson }}", '{"city": "Rome"}'),
        ("{{ 'call ' + messages[0].tool_calls[0].function.arguments }}", 'call {"city":"Rome"}'),
    ],
)
def test_arguments_of_a_call_are_as_the_template_takes_them(
    engine, use, template, expected
) -> None:
    """An object for most templates, and the original text for one that needs text."""
    use(template)
    call = {"function": {"name": "weather", "arguments": '{"city":"Rome"}'}}
    messages = [{"role": "assistant", "tool_calls": [call]}]
    assert templated(engine.tokenizer, messages) == expected
    assert call["function"]["arguments"] == '{"city":"Rome"}'
    assert content_of(messages[0]) == 'weather({"city":"Rome"})'


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        ({"role": "user"}, "neither content nor tool_calls"),
        ({"role": "user", "content": 5}, "content of message 1 is 5"),
        ({"role": "user", "content": [{"type": "image", "url": "x"}]}, "a part of type 'image'"),
        ({"role": "user", "content": [7]}, "a part of type 7"),
        ({"role": "user", "content": "\ud800"}, "half of a surrogate pair"),
    ],
)
def test_what_is_no_text_is_one_sentence(engine, message, sentence) -> None:
    """It has the message's number and comes before the template runs."""
    with pytest.raises(OptionError, match=sentence) as caught:
        engine.generate([message], max_tokens=1)
    assert len(str(caught.value)) <= 300


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        ("<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>Yes.",
         "Yes."),
        ("<|channel|>final <|constrain|>json<|message|>{}<|return|>", "{}"),
        ("<|channel|>final<|message|>No.<|end|><|channel|>final<|message|>Yes.<|end|>x", "Yes."),
        ("<|channel|>analysis<|message|>cut off while it thou", ""),
    ],
)  # fmt: skip
def test_of_an_answer_in_channels_the_final_one_goes_back(engine, use, answer, read) -> None:
    """Where the template refuses the whole answer, only its final channel is sent, no analysis."""
    use(WITHOUT_CHANNELS + BODY)
    messages = conversation("Is it?", answer, "Sure?")
    assert (
        templated(engine.tokenizer, messages)
        == f"<user>Is it?<assistant>{read}<user>Sure?<assistant>"
    )
    use(BODY)
    assert answer in templated(engine.tokenizer, messages)


def test_only_what_is_refused_is_left_out(engine, use: USE) -> None:
    """An answer is dropped with its question; a refusal of the last question stays an error."""
    use(WITHOUT_EMPTY + BODY)
    messages = conversation("a", "A", "b", "", "c", "C", "d")
    with pytest.raises(TemplateRefused, match="must have content"):
        templated(engine.tokenizer, messages)
    kept, left_out = without_refused(engine.tokenizer, messages, None)
    assert left_out == 1 and [m["content"] for m in kept] == ["a", "A", "c", "C", "d"]
    use("{{ raise_exception('never') }}")
    assert without_refused(engine.tokenizer, messages, "s") == (messages[-1:], 3)


ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_template_that_does_not_end_is_stopped(
    monkeypatch: pytest.MonkeyPatch, elsewhere: bool
) -> None:
    """On the main thread and on another; engine and thread are afterwards as before."""
    monkeypatch.setattr(templates, "TEMPLATE_S", 0.2)
    with load("demo", cache_gb=0.002, quiet=True) as engine:
        inner, found = engine.tokenizer._tokenizer, list[int]()
        before = inner.chat_template

        def ask() -> None:
            inner.chat_template = ENDLESS
            with pytest.raises(TemplateEndless):
                engine.generate("hello", max_tokens=1)
            inner.chat_template = before
            found.append(engine.generate("hello", max_tokens=1).tokens.size)

        if elsewhere:
            thread = threading.Thread(target=ask)
            thread.start()
            thread.join()
        else:
            ask()
        assert found == [1]


TRACED = """
import sys
from outlier_jupyter.errors import TemplateEndless
from outlier_jupyter.system.interrupt import within

with within(60, TemplateEndless):
    pass
try:
    with within(0.05, TemplateEndless):
        while True:
            pass
except TemplateEndless:
    pass

def traced(frame, event, value):
    return traced

def called():
    return 1

sys.setprofile(lambda *event: None)
sys.settrace(traced)
print([called() for _ in range(3)])
"""


def test_a_time_limit_leaves_the_interpreter_as_it_was() -> None:
    """After a timeout or none a debugger works; cancelling a scheduled exception would hang it."""
    done = subprocess.run(
        [sys.executable, "-c", TRACED], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "[1, 1, 1]\n", done.stderr
