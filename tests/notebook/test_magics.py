"""The magics in a plain IPython shell: load, run, status, unload, and every kind of bad input."""

from __future__ import annotations

import html
import json
from pathlib import Path

import pytest

from outlier_jupyter.benchmark.short import Benched
from outlier_jupyter.engine import measure_speed
from outlier_jupyter.errors import OptionError, OutlierError, ReadFailed
from outlier_jupyter.formatting import size_words
from outlier_jupyter.notebook.commands import COMMANDS
from outlier_jupyter.runs.run import Interrupted, Run
from outlier_jupyter.system import machine_speed


@pytest.fixture(scope="module")
def ip(shell):
    shell.run_line_magic("load_ext", "outlier_jupyter")
    yield shell
    shell.run_line_magic("unload_ext", "outlier_jupyter")


@pytest.fixture
def loaded(ip, tiny):
    ip.run_line_magic("outlier", f"load {tiny} --cache-experts 6 -o engine")
    return ip


def test_loading_the_extension_says_nothing(ip, capsys):
    """`%load_ext` is silent."""
    ip.run_line_magic("reload_ext", "outlier_jupyter")
    assert capsys.readouterr().out == ""


def test_a_cell_runs_streams_its_text_and_is_the_run(loaded, capsys):
    """The cell's value is the Run, `-o` stores it, and a terminal sees the text."""
    run = loaded.run_cell_magic("outlier", "--max-tokens 7 -o answer", "Hello\n")
    assert isinstance(run, Run) and 0 < run.generated <= 7
    assert loaded.user_ns["answer"] is run
    assert run.text in capsys.readouterr().out
    assert run.prompt == "Hello"


def test_a_cell_s_fields_are_filled_with_several_values(loaded):
    """`--vary` crosses lists or variables, `--each` takes them side by side; `-o` has the table."""
    loaded.user_ns["names"] = ["it", "her"]
    line = "--vary n=[1, 'two words'] what=names --max-tokens 3 -o tried"
    found = loaded.run_cell_magic("outlier", line, "Say {n} about {what}")
    assert found is loaded.user_ns["tried"] and len(found) == 4
    assert found.prompts[2] == "Say two words about it"
    found = loaded.run_cell_magic("outlier", '--each n=["a","b"] --wanted ab --max-tokens 3', "{n}")
    assert found.prompts == ("a", "b") and found.frame.logprob.notna().all()
    wrong = ["--vary n", "--vary n=missing", "--vary other=[1]", "--wanted ab"]
    wrong += [f"--vary n=[1] {flag}" for flag in ("--repeat 2", "--json", "--pace 8", "--fill")]
    for line in wrong:
        with pytest.raises(OptionError):
            loaded.run_cell_magic("outlier", line, "Say {n}")


def test_the_result_is_one_line_at_first_and_whole_on_display(loaded):
    """The cell has just shown the view: its value is one line, later displays are whole."""
    run = loaded.run_cell_magic("outlier", "--max-tokens 2", "Hello")
    line = run._repr_mimebundle_()
    assert line == {"text/plain": repr(run), "text/html": f"<code>{run!r}</code>"}
    assert "image/png" in run._repr_mimebundle_()


def test_status_says_what_is_loaded(loaded, tiny, capsys):
    """One sentence: model, cache and the last run; then a line for each setting."""
    status = loaded.run_line_magic("outlier", "status")
    assert status.sentence == (
        f"{tiny}: 3 layers × 8 experts; 6 of 24 experts fit in RAM "
        f"({size_words(status.bank_nbytes)}), 0 are there. No run yet."
    )
    assert "6 of 24 fit" in str(status) and "reads     pread" in repr(status)
    run = loaded.run_cell_magic("outlier", "--max-tokens 4 -q -o run", "Hello")
    run, status = loaded.user_ns["run"], loaded.run_line_magic("outlier", "status")
    assert f"Last run: {run.summary().short()}." in status.sentence
    assert status.decode_hit_rate == run.summary().decode_hit_rate
    assert html.escape(status.sentence) in status._repr_html_()
    loaded.run_line_magic("outlier", "unload")


def test_resize_changes_the_cache_and_says_what_fits(loaded, capsys):
    """It takes experts or GB, as loading does; without either, one sentence refuses it."""
    loaded.run_line_magic("outlier", "resize --cache-experts 9")
    assert "9 of 24 fit" in capsys.readouterr().out
    loaded.run_line_magic("outlier", "resize --cache-gb 1 --json")
    assert json.loads(capsys.readouterr().out)["slots"] == 24
    with pytest.raises(OptionError, match="give the cache's new size in one way"):
        loaded.run_line_magic("outlier", "resize")
    with pytest.raises(OptionError, match="cache_experts=0 is too small"):
        loaded.run_line_magic("outlier", "resize --cache-experts 0")
    assert loaded.user_ns["engine"].status().slots == 24


def test_memory_is_a_table_or_json(loaded, capsys):
    """One row per part; as JSON the numbers, which add up."""
    loaded.run_line_magic("outlier", "memory")
    assert "expert slots" in capsys.readouterr().out
    loaded.run_line_magic("outlier", "memory --json")
    use = json.loads(capsys.readouterr().out)
    assert use["accounted"] + use["unaccounted"] == use["process"]


def test_a_disk_that_cannot_be_measured_leaves_the_plan(ip, tiny, tmp_path, monkeypatch):
    """There is no forecast then; it is an error only where a measurement was requested."""

    def broken(*_):
        raise ReadFailed("the disk cannot be measured")

    monkeypatch.setattr(machine_speed, "user_cache_path", lambda name: tmp_path)
    monkeypatch.setattr(measure_speed, "PROBED_NBYTES", 4 << 20)
    monkeypatch.setattr(measure_speed, "probe_disk", broken)
    assert ip.run_line_magic("outlier", f"plan {tiny}").forecast is None
    with pytest.raises(ReadFailed, match="cannot be measured"):
        ip.run_line_magic("outlier", f"plan {tiny} --measure")


def test_plan_says_what_a_model_weighs_without_loading_it(ip, tiny, capsys):
    """Its value is the Plan, `-o` stores it, `--json` prints it; the engine stays as it was."""
    engine = ip.user_ns.get("engine")
    found = ip.run_line_magic("outlier", f"plan {tiny} -o found")
    assert ip.user_ns["found"] is found and "3 layers × 8, top-2" in str(found)
    assert ip.run_line_magic("outlier", f"plan {tiny} --json") is None
    assert json.loads(capsys.readouterr().out)["layers"] == 3
    assert ip.user_ns.get("engine") is engine
    with pytest.raises(OutlierError, match="there is no folder"):
        ip.run_line_magic("outlier", "plan ./nothing")


def test_repack_says_where_the_records_are(ip, tiny, tmp_path, capsys):
    """The file, how many experts are in it and how many were written; `-o` stores it."""
    ip.run_line_magic("outlier", f"repack {tiny} --folder {tmp_path} --quiet -o done")
    printed = capsys.readouterr().out
    assert (
        f"24 experts, 295 kB, one read each, in {tmp_path}" in printed
        and "24 written now" in printed
    )
    assert ip.user_ns["done"].written == 24
    ip.run_line_magic("outlier", f"repack {tiny} --folder {tmp_path} --quiet")
    assert "0 written now, all checked" in capsys.readouterr().out


def test_bench_disk_prints_the_table_of_the_probe(loaded, tiny, capsys):
    """It has a row for each way of reading and names the best; the loaded model is the default."""
    for line in ("bench --disk", f"bench --disk {tiny}"):
        assert loaded.run_line_magic("outlier", line) is None
        printed = capsys.readouterr().out
        assert "MB/s" in printed and "p95 ms" in printed and "model.safetensors" in printed
        assert printed.count("pread ") >= 4
    with pytest.raises(OptionError, match="or give --disk"):
        loaded.run_line_magic("outlier", "bench demo")


def test_bench_makes_its_table(loaded, monkeypatch, tmp_path, capsys):
    """Without --disk the short form runs in the named folder; its table is the cell's value."""
    received = {}

    def short(folder, traces, *, report):
        report("making a slice")
        received.update(folder=folder, traces=traces)
        return Benched([{"subject": "all cached", "tokens_per_s": 2.5}], "of a fake")

    monkeypatch.setattr("outlier_jupyter.notebook.commands.bench.short", short)
    found = loaded.run_line_magic("outlier", f"bench --folder {tmp_path} -o table")
    assert loaded.user_ns["table"] is found and received == {"folder": tmp_path, "traces": None}
    assert "all cached  2.50" in str(found) and "of a fake" in found._repr_markdown_()
    assert "making a slice" in capsys.readouterr().out


def test_loading_again_closes_the_engine_before(loaded, tiny):
    """The magics have one engine at a time."""
    first = loaded.user_ns["engine"]
    loaded.run_line_magic("outlier", f"load {tiny} -o engine")
    assert first.closed and not loaded.user_ns["engine"].closed


def test_a_model_that_cannot_be_loaded_leaves_the_one_before(loaded):
    """A failed load keeps the loaded engine."""
    engine = loaded.user_ns["engine"]
    with pytest.raises(OptionError):
        loaded.run_line_magic("outlier", "load demo --cache-gb 0")
    assert not engine.closed


def test_chat_is_made_with_its_settings(loaded):
    """`%outlier chat` gives a Chat with the loaded engine, `-o` stores it."""
    chat = loaded.run_line_magic("outlier", "chat --temperature 0.5 --system 'Be brief.' -o talk")
    assert loaded.user_ns["talk"] is chat and chat.engine is loaded.user_ns["engine"]
    assert (chat.temperature, chat.system, chat.reuse_kv) == (0.5, "Be brief.", True)
    with pytest.raises(OptionError, match="did you mean --temperature"):
        loaded.run_line_magic("outlier", "chat --temprature 1")
    chat.close()


def test_unload_closes_and_a_cell_then_says_what_to_do(loaded):
    """After unload the next cell names the command to run."""
    loaded.run_line_magic("outlier", "unload")
    assert loaded.user_ns["engine"].closed
    with pytest.raises(OutlierError, match="run `%outlier load demo` first"):
        loaded.run_cell_magic("outlier", "", "Hello")


@pytest.mark.parametrize(
    ("line", "cell", "message"),
    [
        (
            "lode demo",
            None,
            "%outlier lode is not a command; did you mean load?; the commands are",
        ),
        ("Hello", None, "%outlier Hello is not a command; the commands are load, run, plan"),
        ("run --max-token 3 Hello", None, "did you mean --max-tokens?"),
        ("run --max-tokens 3", None, "the prompt is empty"),
        ("status now", None, "unrecognized arguments: now"),
        ("--max-token 3", "Hello", "did you mean --max-tokens?"),
        ("--max-tokens 0", "Hello", "max_tokens=0 is too small"),
        ("-o 3x --max-tokens 1", "Hello", "is not a valid variable name"),
        ("--pace 0", "Hello", "0 is no pace: give tokens/s, such as 8"),
        ("--pace fast", "Hello", "fast is no pace: give tokens/s, such as 8"),
        ("", "\n", "the prompt is empty"),
    ],
)
def test_bad_input_is_one_line(loaded, line, cell, message):
    """Each mistake raises one sentence, so that Run All stops."""
    with pytest.raises(OptionError) as refused:
        if cell is None:
            loaded.run_line_magic("outlier", line)
        else:
            loaded.run_cell_magic("outlier", line, cell)
    assert message in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("line", ["", "--help", "help"])
def test_help_is_one_screen_in_groups(ip, line, capsys):
    """Every command, under one of four headings, in at most 40 lines of 100 characters."""
    ip.run_line_magic("outlier", line)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 40 and max(map(len, lines)) <= 100
    assert [one for one in lines if one.istitle()] == ["Start", "Watch", "Explain", "Research"]
    for name in COMMANDS:
        assert sum(one.startswith(f"  %outlier {name} ") for one in lines) == 1


def test_a_command_s_own_help_has_its_flags(ip, capsys):
    """`load --help` prints the flags of load."""
    ip.run_line_magic("outlier", "load --help")
    assert "--cache-gb" in capsys.readouterr().out


def test_an_interrupted_cell_stores_what_was_made(loaded):
    """`-o` stores the partial run, and the interrupt is raised again so that Run All stops."""
    engine = loaded.user_ns["engine"]
    seen = []

    def stop_after_three(event):
        seen.append(event)
        if sum(type(e).__name__ == "StepDone" for e in seen) == 4:
            engine.stop()

    unsubscribe = engine.subscribe(stop_after_three)
    with pytest.raises(Interrupted):
        loaded.run_cell_magic("outlier", "-o partial --max-tokens 50", "Hello")
    unsubscribe()
    assert loaded.user_ns["partial"].finish_reason == "interrupted"


def test_config_sets_what_flags_leave_out(loaded):
    """`%config OutlierMagics.max_tokens` is the default of later cells; a flag overrides it."""
    loaded.run_line_magic("config", "OutlierMagics.max_tokens = 2")
    try:
        assert loaded.run_cell_magic("outlier", "--quiet -o run", "Hello") is None
        assert loaded.user_ns["run"].trace.info.options["max_tokens"] == 2
        loaded.run_cell_magic("outlier", "--quiet --max-tokens 1 -o run", "Hello")
        assert loaded.user_ns["run"].generated == 1
        loaded.run_line_magic("config", "OutlierMagics.max_tokens = -1")
        with pytest.raises(OptionError, match="max_tokens=-1 is too small"):
            loaded.run_cell_magic("outlier", "", "Hello")
    finally:
        loaded.run_line_magic("config", "OutlierMagics.max_tokens = None")


def test_variables_are_filled_in_only_with_the_flag(loaded):
    """The prompt is taken as it is; with `--fill`, {name} is a variable."""
    loaded.user_ns["who"] = "you"
    flags = "--quiet --max-tokens 1 -o run"
    loaded.run_cell_magic("outlier", flags, "Hello {who}")
    assert loaded.user_ns["run"].prompt == "Hello {who}"
    loaded.run_cell_magic("outlier", f"{flags} --fill", "Hello {who} {{}}")
    assert loaded.user_ns["run"].prompt == "Hello you {}"
    with pytest.raises(OptionError, match="there is no variable 'nobody'"):
        loaded.run_cell_magic("outlier", f"{flags} --fill", "Hello {nobody}")
    with pytest.raises(OptionError, match="--fill cannot read the cell"):
        loaded.run_cell_magic("outlier", f"{flags} --fill", "Hello {")


@pytest.mark.parametrize(
    ("line", "prompt"),
    [
        ("What's an expert?", "What's an expert?"),
        ('"In quotes;"', "In quotes;"),
        ("-- --max is a flag", "--max is a flag"),
        ("--stop 'a b' a $who {who} b", "a $who {who} b"),
        ("--fill a {who} b", "a you b"),
    ],
)
def test_a_prompt_may_be_a_line(loaded, line, prompt):
    """Flags first, then the prompt as it is: apostrophes, dollars and braces included."""
    loaded.user_ns["who"] = "you"
    run = loaded.run_line_magic("outlier", f"run --max-tokens 1 -o run {line}")
    assert run is loaded.user_ns["run"] and run.prompt == prompt


def test_variables_in_flags_are_filled_in_as_in_any_magic(loaded):
    """$name and {expression} are filled in flags of lines and cells, not in a prompt."""
    loaded.user_ns["count"] = 2
    loaded.run_line_magic("outlier", "run --max-tokens $count --quiet -o run Hello")
    assert loaded.user_ns["run"].generated <= 2
    loaded.run_cell_magic("outlier", "--max-tokens {count - 1} --quiet -o run", "Hello $count")
    assert loaded.user_ns["run"].generated == 1
    assert loaded.user_ns["run"].prompt == "Hello $count"


@pytest.mark.parametrize(
    ("schema", "read"),
    [
        ("[a-z]{3}", "[a-z]{3}"),
        ("[a-z]{2,4}", "[a-z]{2,4}"),
        ("[a-z]{{3}}", "[a-z]{3}"),
        ('{"pattern": "^a{3}$"}', '"^a{3}$"'),
    ],
)
def test_a_number_in_braces_is_no_variable(loaded, schema, read):
    """A regular expression's {3} arrives as it is written, and as before with doubled braces."""
    loaded.run_cell_magic("outlier", f"--schema '{schema}' --max-tokens 9 --quiet -o run", "Hello")
    assert read in loaded.user_ns["run"].trace.info.options["schema"]


def test_a_semicolon_silences_the_result(loaded):
    """At the end of the line, or of a cell's first line; the run is stored all the same."""
    assert loaded.run_line_magic("outlier", "run --max-tokens 1 -o a Hello;") is None
    assert loaded.run_cell_magic("outlier", "--max-tokens 1 -o b;", "Hello;") is None
    assert loaded.user_ns["a"].prompt == "Hello" and loaded.user_ns["b"].prompt == "Hello;"
    assert loaded.run_line_magic("outlier", "load demo -o engine;") is None


def test_quiet_shows_nothing_and_json_is_json(loaded, capsys):
    """`--quiet` prints and returns nothing; `--json` prints one object, with null for no data."""
    assert loaded.run_cell_magic("outlier", "--quiet --max-tokens 1", "Hello") is None
    assert capsys.readouterr().out == ""
    assert loaded.run_cell_magic("outlier", "--json --max-tokens 1", "Hello") is None
    summary = json.loads(capsys.readouterr().out)
    assert summary["prompt_tokens"] > 0 and summary["tokens_per_second"] is None
    loaded.run_line_magic("outlier", "status --json")
    assert json.loads(capsys.readouterr().out)["slots"] == 6


def test_compare_puts_runs_beside_each_other(loaded):
    """Runs are named by their variables; the value is the comparison, `-o` stores it."""
    for name, prompt in (("one", "Hello there, you"), ("other", "1 + 2 + 3 + 4 = ")):
        loaded.run_cell_magic("outlier", f"--max-tokens 9 -q -o {name}", prompt)
    found = loaded.run_line_magic("outlier", "compare one other --permutations 19 -o both")
    assert found.names == ("one", "other") and loaded.user_ns["both"] is found
    assert found.pairs[0, 1].permutations == 19 and found.phase is None
    assert "one and other" in repr(found)
    with pytest.raises(OptionError, match="no run in a variable 'ohter'; did you mean other"):
        loaded.run_line_magic("outlier", "compare one ohter")


def test_routing_is_changed_for_a_cell(loaded, capsys):
    """Flags mask, boost and force; the summary has the loss; a bad expert is one sentence."""
    line = "--mask 0:1-3 --boost 1:4=+2.0 --force 2:5 --top-k 3 --measure-loss --max-tokens 3"
    run = loaded.run_cell_magic("outlier", line, "Hello")
    changed = run.trace.info.changed_output
    assert "experts 0:1, 0:2, 0:3 masked" in changed and "expert 1:4 boosted by +2" in changed
    assert "expert 2:5 always chosen" in changed and "top-k 3 in place of the model's 2" in changed
    assert run.summary().compared == run.generated
    loaded.run_cell_magic("outlier", f"{line} --json", "Hello")
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["kl"] > 0
    with pytest.raises(OptionError, match="the last one is 2:7"):
        loaded.run_cell_magic("outlier", "--mask 7:0", "Hello")


def test_ablate_and_sweep_are_their_functions(loaded, capsys, tmp_path):
    """Prompts come from flags or a variable; a sweep's record is written to the named file."""
    loaded.user_ns["texts"] = {"a": "Hello", "b": "Bye"}
    found = loaded.run_line_magic(
        "outlier", "ablate 0:1-2 2:5 --prompts texts --draws 2 --max-tokens 3 --seed 4 -o cost"
    )
    assert found.names == ("a", "b") and len(found.masks) == 2 and found.seed == 4
    assert loaded.user_ns["cost"] is found and len(found.experts) == 3
    line = "ablate 0:1 --prompt Hello --continuation there --draws 0"
    assert loaded.run_line_magic("outlier", line).continuations == ("there",)
    loaded.run_cell_magic("outlier", "--max-tokens 2 --quiet", "<mine>")
    line = f"sweep top_k=1,2 cache_experts=6,9 --prompt Hello --max-tokens 3 --folder {tmp_path}"
    swept = loaded.run_line_magic("outlier", line)
    settings = [tuple(row.setting.values()) for row in swept.rows]
    assert settings == [(1, 6), (1, 9), (2, 6), (2, 9)]
    assert capsys.readouterr().out.count("written: ") == 2 == len(list(tmp_path.iterdir()))
    loaded.run_line_magic("outlier", f"report {tmp_path}/last.html")
    assert "&lt;mine&gt;" in (tmp_path / "last.html").read_text()
    for line, message in (
        ("ablate 0:1", "give --prompt or --prompts"),
        ("ablate 0:1 --prompts text", "no prompts in a variable 'text'"),
        ("sweep nothing=1", "is not NAME=VALUES"),
        ("sweep top_k=x", "comma-separated values of type int"),
        ("sweep quiet=1", "names are top_k, cache_gb"),
    ):
        with pytest.raises(OptionError, match=message):
            loaded.run_line_magic("outlier", line)


def test_a_run_s_name_in_place_of_a_file_writes_that_run(loaded, capsys, monkeypatch, tmp_path):
    """`report first` writes the run `first` to first.html, not the last run to a file `first`."""
    monkeypatch.chdir(tmp_path)
    for name in ("first", "last"):
        loaded.run_cell_magic("outlier", f"--max-tokens 2 --quiet -o {name}", f"prompt {name}")
    capsys.readouterr()
    for line in ("report first", "save first", "save last.safetensors --run first", "report page"):
        loaded.run_line_magic("outlier", line)
    files = ["first.html", "first.safetensors", "last.safetensors", "page.html"]
    assert capsys.readouterr().out.split() == files == sorted(p.name for p in tmp_path.iterdir())
    assert "prompt first" in Path("first.html").read_text()
    assert "prompt last" in Path("page.html").read_text()
    assert {Run.load(name).prompt for name in files[1:3]} == {"prompt first"}


def test_a_repeated_cell_is_its_last_run_with_all_of_them(loaded, capsys):
    """`--repeat` runs the prompt several times, prints the spread, and keeps every run."""
    run = loaded.run_cell_magic("outlier", "--max-tokens 3 --repeat 3 -o again", "Hello")
    assert len(run.repeats) == 3 and run.text == run.repeats[-1].text
    assert loaded.user_ns["again"] is run
    assert "3 runs: median" in capsys.readouterr().out
    assert not loaded.run_cell_magic("outlier", "--max-tokens 3", "Hello").repeats
    with pytest.raises(OptionError, match="0 is too small"):
        loaded.run_cell_magic("outlier", "--repeat 0", "Hello")


def test_unloading_the_extension_restores_what_was_there(ip):
    """`%unload_ext` removes the magics, or puts back those of the same name."""
    table = ip.magics_manager.magics
    ip.run_line_magic("unload_ext", "outlier_jupyter")
    assert "outlier" not in table["line"] and "outlier" not in table["cell"]
    assert not any(type(c).__name__ == "OutlierMagics" for c in ip.configurables)
    assert ip.Completer.custom_matchers == []

    def before(line):
        """A magic of another extension."""

    ip.register_magic_function(before, "line", "outlier")
    ip.run_line_magic("load_ext", "outlier_jupyter")
    assert table["line"]["outlier"] is not before
    ip.run_line_magic("unload_ext", "outlier_jupyter")
    assert table["line"]["outlier"] is before
    del table["line"]["outlier"]
    ip.run_line_magic("load_ext", "outlier_jupyter")


def test_a_cell_is_kept_as_a_context_and_gone_on_from(loaded, tmp_path):
    """`--save-context` only reads; `--context` reads the new cell alone."""
    file = tmp_path / "context.safetensors"
    context = loaded.run_cell_magic("outlier", f"--save-context {file} -o kept", "Experts. " * 20)
    assert loaded.user_ns["kept"] is context and len(context.tokens) > 100
    run = loaded.run_cell_magic("outlier", f"--context {file} --max-tokens 3", "Which?")
    assert len(run.reused) >= len(context.tokens) - 8 and run.generated <= 3
