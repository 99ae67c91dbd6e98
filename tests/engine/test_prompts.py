"""Prompts and chat templates: a refusal is one sentence, and a chat can continue."""

from __future__ import annotations

import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import outlier_jupyter
from outlier_jupyter import load
from outlier_jupyter.errors import OptionError, UnsupportedModel
from tests.inspection import vocabulary_of

DEMO = Path(outlier_jupyter.__file__).parent / "demo"
BODY = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}<|im_start|>assistant\n"
)
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
NO_CONTROL = (
    "{% for m in messages %}{% if m['role'] == 'assistant' and '<|channel|>' in m['content'] %}"
    "{{ raise_exception('you have passed a message containing <|channel|> tags') }}"
    "{% endif %}{% endfor %}"
)


@pytest.fixture(scope="module")
def engine():
    """The demo model, whose template the tests replace."""
    with load("demo", cache_gb=0.002, quiet=True) as engine:
        yield engine


@pytest.fixture
def template(engine):
    """Gives the engine another chat template, for one test."""
    inner = engine.tokenizer._tokenizer
    before = inner.chat_template

    def use(text):
        inner.chat_template = text

    yield use
    inner.chat_template = before


@pytest.mark.parametrize(
    "text", [NO_SYSTEM + BODY, "{% for %}", "{{ messages[9]['x']['y'] }}", "{{ 1 / 0 }}"]
)
def test_what_a_template_raises_is_one_sentence(engine, template, text):
    """A refusal, broken syntax, a lookup in an undefined value, an arithmetic error."""
    template(text)
    with pytest.raises(OptionError, match="chat template refused") as caught:
        engine.generate("hello", system="be short", max_tokens=1)
    assert len(str(caught.value)) <= 300
    template(BODY)
    assert engine.generate("hello", max_tokens=1).tokens.size == 1


def test_a_conversation_goes_on_after_an_answer_with_control_tokens(engine, template):
    """The template receives that answer's last message, without the tokens."""
    template(NO_CONTROL + BODY)
    answer = "<|channel|>analysis<|message|>hm<|end|><|channel|>final<|message|>Yes.<|return|>"
    run = engine.generate(
        [
            {"role": "user", "content": "Is it?"},
            {"role": "assistant", "content": answer},
            {"role": "user", "content": "Sure?"},
        ],
        max_tokens=1,
    )
    assert "assistant\nYes.<|im_end|>" in run.encoded


def test_a_message_may_have_no_content(engine, template):
    """A tool call has no content; the prompt names the call."""
    template(BODY)
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
    run = engine.generate([{"role": "user", "content": "weather?"}, call], max_tokens=1)
    assert run.prompt == "user: weather?\nassistant: f({})"


@pytest.mark.parametrize("prompt", [["hello"], [{"content": "hello"}], [{"role": 7}]])
def test_what_is_no_message_is_refused(engine, prompt):
    """The error has the value and what is allowed."""
    with pytest.raises(OptionError, match="is no message"):
        engine.generate(prompt, max_tokens=1)


def test_a_model_without_a_template_takes_texts_alone(engine, template):
    """Base models have no template."""
    template(None)
    engine.tokenizer.has_chat_template, before = False, engine.tokenizer.has_chat_template
    try:
        with pytest.raises(OptionError, match="has no chat template"):
            engine.generate([{"role": "user", "content": "hello"}], max_tokens=1)
    finally:
        engine.tokenizer.has_chat_template = before


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("kernels", ["mlx", "auto"])
def test_logits_that_are_no_numbers_end_the_run(tmp_path, kernels, temperature):
    """The weights are damaged: the run reports it and keeps its tokens, and the engine closes."""
    folder = Path(shutil.copytree(DEMO, tmp_path / "model", copy_function=shutil.copyfile))
    weights = mx.load(str(folder / "model.safetensors"))
    weights["model.norm.weight"] = weights["model.norm.weight"] * mx.array(np.nan)
    mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})
    with load(folder, cache_gb=0.002, quiet=True, kernels=kernels, repacked="off") as engine:
        with pytest.raises(UnsupportedModel, match="NaN or infinity"):
            engine.generate("hello", max_tokens=3, temperature=temperature)
        assert engine.last_run.finish_reason == "error"


def test_ids_beyond_the_tokenizer_have_no_text(engine):
    """Vocabularies are rounded up; such an id is generated like any other and has no text."""
    from outlier_jupyter.runs.text_stream import Transcript

    transcript = Transcript(engine.tokenizer.detokenizer, (), vocabulary_of(engine).size)
    known = engine.tokenizer.encode("expert", add_special_tokens=False)
    texts = [transcript.add(token) for token in [*known, 10**6, *known]] + [transcript.finish()]
    assert "".join(texts) == "expertexpert"
