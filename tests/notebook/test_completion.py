"""Tab offers what the parsers accept, and nothing else."""

from __future__ import annotations

import pytest

from outlier_jupyter.notebook.completion import completions


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
        ("%outlier chat --temp", ["--temperature"]),
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
    assert completions(line, ["run", "answer", "_hidden"]) == offered


def test_folders_are_offered_for_a_model(tmp_path):
    """A path that was begun goes on with the folders that are there."""
    (tmp_path / "model-a").mkdir()
    (tmp_path / "model-b").mkdir()
    (tmp_path / "model-file").write_text("")
    begun = f"{tmp_path}/model-"
    assert completions(f"%outlier load {begun}") == [f"{begun}a/", f"{begun}b/"]
