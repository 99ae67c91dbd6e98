"""An answer follows a schema, thinking before it is free, and `run.parsed` is its value."""

from __future__ import annotations

import json
import re

import mlx.core as mx
import numpy as np
import pydantic
import pytest

from outlier_jupyter import Run, load
from outlier_jupyter.errors import OptionError, OutlierError
from outlier_jupyter.options import GenerateOptions, make

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"enum": ["Ada", "Émile"]},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


class Person(pydantic.BaseModel):
    """What the model is asked for."""

    model_config = pydantic.ConfigDict(extra="forbid")

    name: str = pydantic.Field(pattern="^[a-z]{3}$")
    age: int = pydantic.Field(ge=0, le=99)


@pytest.fixture(scope="module")
def engine(tiny):
    with load(tiny, cache_experts=8) as engine:
        yield engine


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_answer_of_random_weights_is_valid_json_of_the_schema(engine, temperature, tmp_path):
    """Greedy and sampled; the run says that it was constrained, and is saved with its schema."""
    run = engine.generate("Who?", schema=SCHEMA, temperature=temperature, seed=1, max_tokens=200)
    assert run.finish_reason == "stop"
    value = json.loads(run.text)
    assert value["name"] in SCHEMA["properties"]["name"]["enum"] and 0 <= value["age"] <= 99
    assert run.parsed == value
    assert run.trace.info.changed_output == "constrained to a JSON schema"
    assert Run.load(run.save(tmp_path / "run.trace")).parsed == value


def test_a_pydantic_model_is_made_of_the_answer(engine):
    """`run.parsed` is its instance."""
    run = engine.generate("Who?", schema=Person, temperature=1, seed=2, max_tokens=200)
    assert isinstance(run.parsed, Person) and re.fullmatch("[a-z]{3}", run.parsed.name)


@pytest.mark.parametrize("schema", [re.compile("[0-9]{3}-[xyz]+q"), "[0-9]{3}-[xyz]+q"])
def test_a_regular_expression_is_followed(engine, schema):
    """Compiled or as text, which is also what a flag gives."""
    run = engine.generate("A number", schema=schema, max_tokens=200, temperature=1, seed=3)
    assert re.fullmatch("[0-9]{3}-[xyz]+q", run.parsed) and run.parsed == run.text
    assert run.trace.info.changed_output == "constrained to a regular expression"


def test_a_schema_comes_from_a_file(engine, tmp_path):
    """A path that ends in .json."""
    file = tmp_path / "schema.json"
    file.write_text(json.dumps(SCHEMA))
    assert engine.generate("Who?", schema=str(file), max_tokens=200).parsed["name"]


def test_a_prefilled_beginning_is_part_of_the_value(engine):
    """The constraint goes on from it; one that no value has is refused."""
    run = engine.generate("Who?", schema=SCHEMA, prefill_answer='{"name": "Ada"', max_tokens=200)
    assert run.parsed["name"] == "Ada" and run.text.startswith('{"name": "Ada"')
    with pytest.raises(OptionError, match="nothing follows the schema"):
        engine.generate("Who?", schema=SCHEMA, prefill_answer="[1", max_tokens=9)
    assert engine.generate("Who?", max_tokens=2).generated == 2


def test_an_answer_that_was_cut_off_has_no_value(engine):
    """The error says so, and what to do; without a schema there is none either."""
    with pytest.raises(OptionError, match="cut off; raise max_tokens"):
        _ = engine.generate("Who?", schema=SCHEMA, max_tokens=3).parsed
    with pytest.raises(OptionError, match="cut off"):
        _ = engine.generate("Who?", schema="[0-9]{50}", max_tokens=3).parsed
    with pytest.raises(OptionError, match="had no schema"):
        _ = engine.generate("Who?", max_tokens=3).parsed


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "colour"}, "schema cannot be followed"),
        ({"$ref": "#/nowhere"}, "schema cannot be followed"),
        ("[0-9", "schema cannot be followed"),
        ("nowhere.json", "schema='nowhere.json' cannot be read"),
        ("{1}", "a JSON schema that is JSON"),
        (3, "schema=3 cannot be used"),
        ({"enum": {1, 2}}, "a JSON schema of JSON's types"),
        (re.compile("a", re.MULTILINE), "without flags"),
        (re.compile(b"a"), "cannot be used"),
        (int, "cannot be used"),
        ("", "cannot be used"),
    ],
)
def test_what_is_no_schema_is_one_sentence(engine, schema, message):
    """Before the run begins."""
    with pytest.raises(OptionError, match=message) as refused:
        engine.generate("Who?", schema=schema, max_tokens=1)
    assert len(str(refused.value)) <= 300 and "\n" not in str(refused.value)


def test_without_the_library_the_error_names_it(engine, monkeypatch):
    """It is an extra."""
    monkeypatch.setitem(__import__("sys").modules, "llguidance", None)
    with pytest.raises(OutlierError, match=r"pip install 'outlier-jupyter\[structured\]'"):
        engine.generate("Who?", schema=SCHEMA, max_tokens=1)


@pytest.mark.parametrize(
    ("family", "text"),
    [
        ("qwen3", "<think>\nWell, {]</think>"),
        ("qwen3-thinking", "Well, {]</think>"),
        (
            "gpt-oss",
            "<|channel|>analysis<|message|>Well, {]<|end|><|start|>assistant"
            "<|channel|>final<|message|>",
        ),
    ],
)
def test_thinking_is_free_and_the_answer_is_not(real_checkpoint_of, family, text):
    """With a real vocabulary: a block of thinking of any text, and then the schema."""
    with load(real_checkpoint_of(family), cache_experts=4) as engine:
        tokenizer = engine.tokenizer
        script = tokenizer.encode(text, add_special_tokens=False)
        end = len(script)
        made: list[int] = []

        def thinks(tokens, logits):
            at = len(made)
            made.append(at)
            wanted = mx.arange(logits.shape[-1]) == script[at] if at < end else True
            return mx.where(wanted, logits, -1e30)

        run = engine.generate(
            "Who?", schema=SCHEMA, max_tokens=200, logits_processors=thinks, thinking_budget=100
        )
        assert run.thinking.strip() == "Well, {]"
        assert run.parsed == json.loads(run.answer) and run.parsed["name"] in ("Ada", "Émile")


def test_a_schema_is_an_option_like_others():
    """It is written into a trace as text, from which it can be read again."""
    for given in (SCHEMA, Person, re.compile("a+")):
        schema = make(GenerateOptions, {"schema": given}).schema
        again = make(GenerateOptions, {"schema": str(schema)}).schema
        assert (again.kind, again.text) == (schema.kind, schema.text)
    assert np.isscalar(str(schema))


def test_text_held_back_for_a_stop_word_begins_no_answer():
    """The end of a tag may be the begin of a stop word: thinking is free, and the answer is not."""
    with load("demo", cache_experts=192, quiet=True) as engine:
        for budget in (None, 2):
            options = {"schema": "[a-z ]{3,20}", "thinking_budget": budget, "max_tokens": 60}
            plain = engine.generate("What is an expert?", **options)
            waiting = engine.generate("What is an expert?", stop=">\n\n\n", **options)
            assert waiting.thinking and waiting.text == plain.text
            assert re.fullmatch("[a-z ]{3,20}", waiting.parsed)


def test_a_beginning_that_cannot_be_is_one_error_and_no_other_line(engine, capfd):
    """llguidance writes nothing to the notebook of its own."""
    with pytest.raises(OptionError, match="nothing follows the schema"):
        engine.generate("Who?", schema="[a-z]{3}", prefill_answer="A", max_tokens=3)
    assert not capfd.readouterr().err
