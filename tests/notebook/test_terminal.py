"""The commands in a terminal: those of the magic, with files in place of variables."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from outlier_jupyter import Run
from outlier_jupyter.__main__ import main
from outlier_jupyter.checkpoint.shard import shard_of
from outlier_jupyter.notebook.commands import COMMANDS
from outlier_jupyter.notebook.terminal import Terminal
from outlier_jupyter.system import machine_speed


@pytest.fixture
def saved(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A run that a terminal made and saved."""
    file = tmp_path / "run.safetensors"
    words = ["run", str(tiny), "Which", "expert?", "--max-tokens", "5", "--cache-experts", "8"]
    assert main([*words, "--raw", "-o", str(file)]) == 0
    assert "tokens/s" in capsys.readouterr().out
    return file


def test_a_prompt_is_run_printed_and_saved(saved: Path) -> None:
    """The words are one prompt; flags of loading and of the run stand side by side."""
    run = Run.load(saved)
    assert run.prompt == "Which expert?" and run.trace.info.slots == 8
    assert 0 < run.generated <= 5


def test_a_run_is_spread_over_ranks(saved: Path, tiny: Path, tmp_path: Path, capsys) -> None:
    """`--hosts 2` gives the same tokens, and reads of all ranks.

    More ranks and models are tested in tests/distributed/test_command_line.py.
    """
    file = tmp_path / "spread.safetensors"
    words = ["run", str(tiny), "Which", "expert?", "--max-tokens", "5", "--cache-experts", "4"]
    assert main([*words, "--raw", "--hosts", "2", "-o", str(file)]) == 0
    run = Run.load(file)
    assert run.tokens.tolist() == Run.load(saved).tokens.tolist()
    assert set(run.trace.reads["rank"].tolist()) == {0, 1}
    assert main(["explain", "1", "--run", str(file)]) == 0
    assert "was waited for" in capsys.readouterr().out


def test_a_rank_s_share_is_written(tiny: Path, tmp_path: Path, capsys) -> None:
    """`repack --shard 2/2` says what it wrote and where; without `--folder` it is one sentence."""
    folder = tmp_path / "two"
    assert main(["repack", str(tiny), "--shard", "2/2", "--folder", str(folder)]) == 0
    assert str(folder) in capsys.readouterr().out
    assert shard_of(folder).words == "shard 2 of 2"
    assert main(["repack", str(tiny), "--shard", "2/2"]) == 2
    assert "a folder of its own" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["open", "{run}"], "tokens/s"),
        (["what-if", "--run", "{run}", "--slots", "8", "--policy", "lru"], "of lookups would hit"),
        (["what-if", "--run", "{run}", "--slots", "8", "--frame"], "decode_hit_rate"),
        (["what-if", "--run", "{run}", "--hosts", "1", "--hosts", "2"], "By prediction"),
        (["what-if", "--run", "{run}", "--hosts", "2", "--disk-gb", "1", "--frame"], "imbalance"),
        (["explain", "1", "--run", "{run}"], "token 1"),
        (["expert", "0:1", "{run}"], "Expert 1 of layer 0"),
        (["tokens", "1", "--run", "{run}"], "layer 0"),
        (["measures", "--run", "{run}"], "a token shares"),
        (["measures", "--run", "{run}", "--frame"], "entropy"),
        (["plan", "demo"], "qwen3_moe"),
        (["--help"], "outlier run"),
        (["run", "--help"], "--cache-gb"),
    ],
)
def test_what_a_command_finds_is_printed(saved, words, expected, capsys) -> None:
    """Tables are printed whole, explanations and uses as text."""
    assert main([word.format(run=saved) for word in words]) == 0
    assert expected in capsys.readouterr().out


def test_a_measured_machine_predicts_in_place_of_the_run(saved, tmp_path, monkeypatch, capsys):
    """`--measured` takes what `plan` measured; without that or `--hosts` it is an error."""
    monkeypatch.setattr(machine_speed, "user_cache_path", lambda name: tmp_path)
    words = ["what-if", "--run", str(saved), "--measured"]
    assert main([*words, "--hosts", "2"]) == 2
    assert "outlier plan MODEL --measure" in capsys.readouterr().err
    assert main(words) == 2 and "give --hosts, too" in capsys.readouterr().err
    machine_speed.keep_speed(machine_speed.MachineSpeed(25e9, 2e9, 60e9, 20e6, "2026-01-31"))
    assert main([*words, "--hosts", "2"]) == 0
    assert "measured machine's speeds" in " ".join(capsys.readouterr().out.split())


def test_a_report_and_a_summary_as_json(saved, tiny, tmp_path, capsys) -> None:
    """A written file's path is printed, and `--json` prints JSON alone."""
    page = tmp_path / "page.html"
    assert main(["report", str(page), "--run", str(saved)]) == 0
    assert str(page) in capsys.readouterr().out and page.read_text().startswith("<!doctype html>")
    assert main(["run", str(tiny), "Hello", "--max-tokens", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tokens_per_second"] > 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["nonsense"], "outlier nonsense is not a command; the commands are run, plan"),
        (["repak", "demo"], "did you mean repack?"),
        (["chat"], "outlier chat needs a notebook"),
        (["open", "no-such-file"], "no-such-file"),
        (["explain", "--run", "no-such-file"], "no-such-file"),
        (["explain"], "there is no run yet"),
        (["run", "demo", "Hello", "--max-tokns", "3"], "did you mean --max-tokens?"),
        (["run", "no-such-model", "Hello"], "no-such-model"),
        (["what-if", "--slider"], "unrecognized arguments: --slider"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_a_status(words, expected, capsys) -> None:
    """The line is on standard error; nothing else is printed."""
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert expected in err and out == "" and len(err.strip().splitlines()) == 1


def test_ctrl_c_saves_what_was_made(tiny, tmp_path, monkeypatch, capsys) -> None:
    """The partial run is in the file, and the status is that of an interrupt."""
    file, shown = tmp_path / "part.safetensors", []

    def write(self: Terminal, text: str) -> None:
        shown.append(text)
        if len(shown) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Terminal, "write", write)
    words = ["run", str(tiny), "Hello", "--max-tokens", "50", "--raw", "-o", str(file)]
    assert main([*words, "--temperature", "1", "--seed", "3"]) == 130
    run = Run.load(file)
    assert run.finish_reason == "interrupted" and run.generated == 3


def test_what_needs_a_notebook_is_not_offered() -> None:
    """The terminal offers no command that needs a widget or a loaded engine."""
    offered = {name for name, each in COMMANDS.items() if each.terminal}
    assert offered.isdisjoint({"load", "chat", "view", "status", "resize", "unload", "memory"})


@pytest.mark.parametrize("name", ["what-if", "run", "explain", "expert"])
def test_help_shows_only_flags_that_work(name: str, capsys) -> None:
    """A flag that needs a notebook, or a variable, is not in the help text either."""
    assert main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert not any(flag in shown for flag in ("--slider", "--figure", "--no-widget", "variable"))
    assert ("--output" in shown) is (name == "run")


def test_the_package_is_a_program() -> None:
    """`python -m outlier_jupyter` is the same."""
    words = [sys.executable, "-m", "outlier_jupyter", "plan", "nothing-there"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 2 and "nothing-there" in done.stderr


def test_a_context_is_saved_and_gone_on_from(tiny, tmp_path, capsys):
    """The second prompt reads only its own tokens."""
    file, load = tmp_path / "context.safetensors", [str(tiny), "--cache-experts", "8"]
    assert main(["run", *load, "--save-context", str(file), "A long text. " * 20]) == 0
    assert f"go on from it with context='{file}'" in capsys.readouterr().out
    run = tmp_path / "run.safetensors"
    words = ["--context", str(file), "--max-tokens", "2", "-o", str(run)]
    assert main(["run", *load, *words, "Why?"]) == 0
    assert (Run.load(run).trace.phase == 0).sum() < 60
