"""The magic's flags are the options' fields, and a mistake is one line."""

from __future__ import annotations

from dataclasses import fields

import pytest

from outlier_jupyter.errors import OptionError
from outlier_jupyter.notebook.commands import COMMANDS, help_text
from outlier_jupyter.notebook.commands.line import parse
from outlier_jupyter.notebook.commands.parsing import HelpRequested
from outlier_jupyter.notebook.commands.run import cell_parser
from outlier_jupyter.options import GenerateOptions, LoadOptions, help_of


@pytest.mark.parametrize(
    ("parser", "kind"), [(COMMANDS["load"].parser(), LoadOptions), (cell_parser(), GenerateOptions)]
)
def test_every_option_has_its_flag_and_its_help(parser, kind):
    """Each field of the dataclass is a flag with dashes, with its help text; functions are none."""
    text = " ".join(parser.format_help().split())
    for spec in fields(kind):
        if spec.metadata.get("python_only"):
            assert "--" + spec.name.replace("_", "-") not in text
            continue
        assert "--" + spec.name.replace("_", "-") in text
        assert help_of(spec)[:30] in text


def test_only_flags_on_the_line_are_passed_on():
    """Defaults stay the dataclass's; types are the fields'."""
    assert parse(COMMANDS["load"].parser(), "demo") == {"model": "demo"}
    assert parse(COMMANDS["load"].parser(), "'a folder' --cache-gb 0.5 --cache-experts 3 -o e") == {
        "model": "a folder", "cache_gb": 0.5, "cache_experts": 3, "output": "e",
    }  # fmt: skip
    assert parse(cell_parser(), "--raw --stop a --stop 'b c' --seed 0") == {
        "raw": True, "stop": ("a", "b c"), "seed": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("demo --cache-bg 1", "unrecognized arguments: --cache-bg 1; did you mean --cache-gb?"),
        ("demo --cache-gb much", "invalid float value: 'much'"),
        ("", "the following arguments are required: model"),
        ("'demo", "close the quotes"),
    ],
)
def test_a_mistake_is_one_line(line, message):
    """It names the mistake, a suggestion where there is one, and the help command."""
    with pytest.raises(OptionError) as refused:
        parse(COMMANDS["load"].parser(), line)
    assert message in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "line", ["--cache-gb " + "x" * 3000, "x" * 3000 + " y", "a" + " --b" * 500, "'" + "x" * 3000]
)
def test_a_mistake_does_not_quote_a_whole_line(line):
    """A line may be a whole cell that was pasted; its message stays one sentence."""
    with pytest.raises(OptionError) as refused:
        parse(COMMANDS["load"].parser(), line)
    assert len(str(refused.value)) < 330 and "\n" not in str(refused.value)


def test_help_is_printed_without_an_exit():
    """`--help` returns the text and does not exit the process."""
    with pytest.raises(HelpRequested, match="--max-tokens"):
        parse(cell_parser(), "--help")
    assert "%outlier load" in help_text()
