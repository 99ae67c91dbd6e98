"""Lines after `%outlier` with question marks, dashes, comments, braces, line breaks."""

from __future__ import annotations

import numpy as np
import pytest

from outlier_jupyter.errors import OptionError
from outlier_jupyter.notebook.commands import COMMANDS
from outlier_jupyter.notebook.commands.line import parse, split_prompt
from outlier_jupyter.notebook.commands.run import cell_parser
from outlier_jupyter.options import GenerateOptions, LoadOptions, make


@pytest.fixture
def loaded(shell):
    """The shell with the magics and the demo model."""
    shell.run_line_magic("load_ext", "outlier_jupyter")
    shell.run_line_magic("outlier", "load demo --cache-gb 0.002 --quiet")
    yield shell
    shell.run_line_magic("unload_ext", "outlier_jupyter")


@pytest.mark.parametrize("prompt", ["What is an expert?", "-5 + 3", "- a list", "who? # me"])
def test_a_prompt_may_look_like_something_else(loaded, prompt):
    """A question, a calculation, a list or a comment is a prompt as a whole."""
    loaded.run_cell(f"%outlier run --max-tokens 2 --quiet -o found {prompt}")
    assert loaded.user_ns["found"].prompt == prompt


def test_help_by_a_question_mark_stays():
    """IPython answers `%outlier?` and `%outlier run?`."""
    from outlier_jupyter.notebook.magics import keep_question_mark

    for line in ("%outlier?\n", "%outlier run?\n", "x = 1\n"):
        assert keep_question_mark([line]) == [line]


def test_what_is_text_for_the_model_keeps_its_braces(loaded):
    """`--fill` inserts variables; without it a system message and a stop text stay as written."""
    loaded.user_ns.update(json="a variable", many=3)
    line = "--system 'Answer as {json}' --max-tokens {many} --quiet -o found"
    loaded.run_cell_magic("outlier", line, "hello")
    run = loaded.user_ns["found"]
    assert "Answer as {json}" in run.encoded and run.tokens.size <= 3
    loaded.run_cell_magic("outlier", line + " --fill", "hello")
    assert "Answer as a variable" in loaded.user_ns["found"].encoded


def test_a_comment_ends_a_line_of_flags():
    """`#` begins a comment, as in Python."""
    assert parse(COMMANDS["load"].parser(), "demo --cache-gb 1 # a small one") == {
        "model": "demo", "cache_gb": 1.0
    }  # fmt: skip
    flags, prompt = split_prompt(cell_parser(), "--seed 3 # not one")
    assert (flags.split(), prompt) == (["--seed", "3"], "# not one")


def test_a_stop_flag_may_say_line_break():
    r"""A flag decodes \n, \t and \\; a text from Python stays unchanged."""
    given = parse(cell_parser(), r"--stop '\n\n' --stop 'a\tb' --stop '\\n'")
    assert given["stop"] == ("\n\n", "a\tb", r"\n")
    assert make(GenerateOptions, {"stop": r"\n"}).stop == (r"\n",)


@pytest.mark.parametrize("stop", ["END", ["END"], ("END",), {"END": 1}.keys(), iter(["END"])])
def test_stop_takes_one_text_or_several(stop):
    """It takes a text by itself, or texts in any container."""
    assert make(GenerateOptions, {"stop": stop}).stop == ("END",)


@pytest.mark.parametrize("stop", [7, ["a", 7], b"END", {"a": 1}])
def test_stop_takes_texts_alone(stop):
    """Any other value is refused in one sentence."""
    with pytest.raises(OptionError, match="stop="):
        make(GenerateOptions, {"stop": stop})


@pytest.mark.parametrize("seed", [-1, 2**64, 10**30])
def test_a_seed_has_64_bits(seed):
    """A seed beyond MLX's range is refused with that range."""
    with pytest.raises(OptionError, match=f"seed={seed}"):
        make(GenerateOptions, {"seed": seed})
    assert make(GenerateOptions, {"seed": 2**64 - 1}).seed == 2**64 - 1


def test_numbers_of_numpy_are_numbers():
    """Integers and floats work, as a loop over an array yields them."""
    options = make(GenerateOptions, {"max_tokens": np.int64(3), "temperature": np.float32(0.5)})
    assert (options.max_tokens, options.temperature) == (3, 0.5)
    with pytest.raises(OptionError):
        make(GenerateOptions, {"max_tokens": np.array([3])})


def test_a_path_is_taken_where_a_text_is(tmp_path):
    """`warm=` and `repacked=` accept paths of files and folders."""
    assert make(LoadOptions, {"warm": tmp_path / "run"}).warm == str(tmp_path / "run")
