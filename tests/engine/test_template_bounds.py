"""A stranger's chat template takes no more memory than a prompt needs, and does not get out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment
from transformers.utils import chat_template_utils

from outlier_jupyter import Engine
from outlier_jupyter.engine.bounded_templates import MOST, BoundedEnvironment, install, weight
from outlier_jupyter.engine.templates import templated
from outlier_jupyter.errors import OptionError, TemplateRefused, TemplateTooLarge
from tests.hostile_templates import DEEP, FAIR, LARGE, OUTSIDE
from tests.inspection import compiled_template, newly_compiled_template
from tests.peak_memory import peak

MESSAGES = [
    {"role": "user", "content": " hi <there> "},
    {"role": "assistant", "content": "x" * 100},
    {"role": "user", "content": "Ünïcode 𝄞"},
]


@pytest.fixture
def use(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that renders MESSAGES with another template."""
    inner = engine.tokenizer._tokenizer
    before = inner.chat_template

    def render(template: str) -> str:
        inner.chat_template = template
        return templated(engine.tokenizer, MESSAGES)

    yield render
    inner.chat_template = before


@pytest.mark.parametrize("template", LARGE, ids=lambda text: text[-40:])
def test_a_template_that_would_take_gigabytes_is_refused_before(use, template) -> None:
    """At once where one operation would make them, else when the process has grown by 128 MB."""
    with peak() as grown, pytest.raises((TemplateTooLarge, TemplateRefused)) as refused:
        use(template)
    assert grown() < 256e6 and len(str(refused.value)) < 300


@pytest.mark.parametrize("template", OUTSIDE)
def test_a_template_does_not_get_out(use, template, tmp_path: Path) -> None:
    """It is refused, or has an undefined value, whose text is empty."""
    place = tmp_path / "made"
    with pytest.raises(OptionError):
        use(template.replace("PLACE", str(place)))
    assert not place.exists()


@pytest.mark.parametrize("template", DEEP, ids=lambda text: ascii(text[:30]))
def test_a_template_that_is_none_is_one_sentence(use, template) -> None:
    """Recursion without end, and nesting that no parser can follow, too."""
    with pytest.raises(OptionError) as refused:
        use(template)
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize("template", FAIR)
def test_other_templates_make_the_same_text_as_without_bounds(use, monkeypatch, template) -> None:
    """Filters, methods and operators do what Jinja's own do."""
    bounded = use(template)
    monkeypatch.setattr(
        chat_template_utils, "ImmutableSandboxedEnvironment", ImmutableSandboxedEnvironment
    )
    free = newly_compiled_template(template)
    assert not isinstance(free.environment, BoundedEnvironment)
    assert bounded == free.render(messages=MESSAGES, add_generation_prompt=True)


def test_transformers_compiles_with_the_bounds(use) -> None:
    """Under the name that it has for its environment; with another it would have none of them."""
    use("{{ messages[0].content }}")
    found = compiled_template("{{ messages[0].content }}")
    assert isinstance(found.environment, BoundedEnvironment)
    install()
    assert chat_template_utils.ImmutableSandboxedEnvironment is BoundedEnvironment


def test_a_value_s_weight_counts_what_is_shared_each_time() -> None:
    """About the length of its text, and no more work than that of the most that is allowed."""
    text = "x" * 1000
    assert 1000 <= weight(text) <= 1010
    assert 10_000 < weight([text] * 10) < 11_000
    nested: Any = []
    for _ in range(100):
        nested = [nested, nested]
    assert weight({"a": nested}) > MOST
