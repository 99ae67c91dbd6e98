"""What the tests prove about models, formats and layouts: the rows of docs/models.md.

A test that has proved something records it with `support.record(kind, name, …)`; the last test
of its file calls `support.check(kind)`, which compares the rows of this session with the
committed table. To change a table, run its tests, then `make support`.
"""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "build" / "support"
"""A file for each kind of row: files of tests may run side by side, and each has its own kind."""
TABLE = ROOT / "docs" / "models.md"

COLUMNS = {
    "model types": ("type", "switch", "paged", "weights", "routing changed by"),
    "expert formats": ("format", "proved on", "paged"),
    "layouts": ("layout", "proved on", "paged"),
}
"""Kind of row → the columns of its table; a row's first column is its name."""

INTRODUCTION = {
    "model types": "Each model type of mlx-lm with a switch of experts, run as a tiny "
    "random model, paged at three cache sizes against mlx-lm unpaged: prompts of 1, 7 and 130 "
    "tokens, and 20 decoded tokens; the longest prompt and what is decoded after it at one of the "
    'sizes, in turn. Weights "as applied" are what each expert\'s output was '
    "multiplied by in all, held against the unpaged model's, with the ids. The last column is what "
    "changed the routing when asked; what is missing there was refused, or had no effect.",
    "expert formats": "How experts may be stored. Prompts of 1, 7 and 130 tokens and 20 decoded "
    "tokens, at three cache sizes on one of two types and at one size on the other, in turn. MLX "
    "multiplies three of these on a GPU only; on a CPU they are "
    "refused, as mlx-lm refuses them. Their tests give paged and unpaged model the same stand-in, "
    "which takes each token's matrix (of nvfp4: dequantised) and multiplies in the token's type.",
    "layouts": "How the tensors may lie in files. The first two types of a layout are run as the "
    "formats are, the others with fewer tokens at one size.",
}
HEAD = """# What runs

This page is written by `make support` from what the tests found; the tests hold it to that.
"exact" means: logits equal mlx-lm's own, unpaged, bit for bit.
"""

Rows = dict[str, dict[str, tuple[str, ...]]]
"""Kind → name → the other columns."""


class Support:
    """The rows of one session of tests."""

    def __init__(self) -> None:
        self.rows: Rows = {}

    def record(self, kind: str, name: str, *cells: str) -> None:
        """Record that `name` was proved; `cells` are the columns after the name."""
        assert len(cells) == len(COLUMNS[kind]) - 1, f"a row of {kind} has {COLUMNS[kind]}"
        self.rows.setdefault(kind, {})[name] = cells

    def check(self, kind: str) -> None:
        """Assert that docs/models.md has exactly the rows of `kind` that this session found."""
        rows = self.rows.get(kind, {})
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / f"{kind}.json").write_text(json.dumps(rows, indent=1, sort_keys=True))
        committed = TABLE.read_text() if TABLE.exists() else ""
        named = [line for line in committed.splitlines() if line.startswith("## ")]
        assert committed.startswith(HEAD) and named == [
            f"## {kind.capitalize()}" for kind in COLUMNS
        ]
        assert section(kind, rows) in committed, (
            f"docs/models.md does not say of {kind} what these tests found: run their whole file, "
            "then `make support`"
        )


def load() -> Rows:
    """The rows that earlier sessions found."""
    found = {path.stem: json.loads(path.read_text()) for path in RESULTS.glob("*.json")}
    return {
        kind: {name: tuple(cells) for name, cells in rows.items()} for kind, rows in found.items()
    }


def section(kind: str, rows: dict[str, tuple[str, ...]]) -> str:
    """One kind's table as Markdown, its rows by name."""
    columns = COLUMNS[kind]
    lines = [f"## {kind.capitalize()}", "", INTRODUCTION[kind], ""]
    lines += ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    names = sorted(rows, key=str.lower)
    lines += ["| " + " | ".join((name, *rows[name])) + " |" for name in names]
    return "\n".join(lines) + "\n"


def render(rows: Rows) -> str:
    """The whole page."""
    return "\n".join([HEAD, *(section(kind, rows[kind]) for kind in COLUMNS if kind in rows)])


if __name__ == "__main__":
    TABLE.write_text(render(load()))
