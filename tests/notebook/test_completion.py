"""Tab offers what the parsers accept, and nothing else."""

from __future__ import annotations

import pytest
from IPython.core.completer import provisionalcompleter

from outlier_jupyter.notebook.commands import COMMANDS
from outlier_jupyter.notebook.completion import completions


def words(line: str, variables=()) -> list[str]:
    return [offer.text for offer in completions(line, variables)]


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        (
            "%outlier ",
            [
                "load",
                "run",
                "plan",
                "repack",
                "bench",
                "chat",
                "compare",
                "explain",
                "expert",
                "tokens",
                "what-if",
                "measures",
                "segments",
                "atlas",
                "view",
                "save",
                "open",
                "report",
                "ablate",
                "sweep",
                "resize",
                "unload",
                "status",
                "memory",
            ],
        ),
        ("%outlier un", ["unload"]),
        ("%outlier nonsense --", []),
        ("%outlier load de", ["demo"]),
        ("%outlier load demo --reader ", ["auto", "pread", "direct", "mmap"]),
        ("%outlier load demo --reader d", ["direct"]),
        ("%outlier load demo --cache-", ["--cache-experts", "--cache-gb"]),
        ("%outlier load demo --cache-gb ", ["8.0", "auto"]),
        ("%outlier load demo --cache-gb a", ["auto"]),
        ("%outlier load demo --cache-experts ", []),
        ("%outlier run --max-tokens ", ["256"]),
        ("%outlier run --fi", ["--fill"]),
        ("%outlier chat --temp", ["--temperature", "--template"]),
        ("%outlier resize --", ["--cache-experts", "--cache-gb", "--force", "--help", "--json"]),
        ("%outlier status --", ["--help", "--json"]),
        ("%%outlier --max", ["--max-kv-size", "--max-tokens"]),
        ("%%outlier --kv-bits ", ["2", "3", "4", "5", "6", "8"]),
        ("%outlier plan de", ["demo"]),
        ("%outlier compare ru", ["run"]),
        ("%outlier compare run --ph", ["--phase"]),
        ("%outlier explain --run an", ["answer"]),
        ("%outlier ablate 0:1 --pro", ["--prompt", "--prompts"]),
        ("%outlier sweep top_k=2 --rep", ["--repeats"]),
        ("%%outlier --fo", ["--force"]),
        ("%outlier repack de", ["demo"]),
        ("%outlier repack demo --fo", ["--folder"]),
        ("%outlier plan demo --j", ["--json"]),
        ("%outlier memory --j", ["--json"]),
        ("%%outlier --max-tokens 3 --no", ["--no-widget"]),
        ("%%outlier -o ", ["answer", "run"]),
        ("%%outlier -o r", ["run"]),
    ],
)
def test_what_tab_offers(line, offered):
    """Commands, then flags, then the values a flag takes."""
    assert words(line, ["run", "answer", "_hidden"]) == offered


def test_folders_are_offered_for_a_model(tmp_path):
    """A partial path is completed with existing folders."""
    (tmp_path / "model-a").mkdir()
    (tmp_path / "model-b").mkdir()
    (tmp_path / "model-file").write_text("")
    begun = f"{tmp_path}/model-"
    assert words(f"%outlier load {begun}") == [f"{begun}a/", f"{begun}b/"]


@pytest.mark.parametrize("begun", ["a\0b/", "~no-user-of-this-name/", "not-there/", "{file}/"])
def test_what_is_no_folder_offers_none(tmp_path, begun):
    """A text that is no path, an unknown user's folder, and a file have no folders."""
    (tmp_path / "file").write_text("")
    assert words(f"%outlier load {begun.replace('{file}', str(tmp_path / 'file'))}") == []


def offered_by(shell, text: str) -> list[tuple[str, str]]:
    """(word, kind) as a front end receives them, in that order."""
    with provisionalcompleter():
        found = shell.Completer.completions(text, len(text))
        return [(each.text, each.type) for each in found]


@pytest.mark.parametrize("lines", ["", "x = 1\n"])
def test_a_shell_offers_these_and_nothing_of_python(shell, lines):
    """The first Tab offers them in the order of help, with their kind; elsewhere Python's own."""
    shell.run_line_magic("load_ext", "outlier_jupyter")
    try:
        found = offered_by(shell, lines + "%outlier ")
        assert found == [(name, "command") for name in COMMANDS]
        assert offered_by(shell, lines + "%outlier lo") == [("load", "command")]
        assert offered_by(shell, lines + "%outlier load d")[0] == ("demo", "model")
        assert set(offered_by(shell, lines + "%outlier load demo --")) > {("--reader", "flag")}
        assert all(kind == "flag" for _, kind in offered_by(shell, lines + "%outlier load demo -"))
        assert offered_by(shell, lines + "%outlier load demo --reader p") == [("pread", "value")]
        assert "print" in {word for word, _ in offered_by(shell, lines + "pri")}
    finally:
        shell.run_line_magic("unload_ext", "outlier_jupyter")
    assert ("load", "command") not in offered_by(shell, "%outlier ")
