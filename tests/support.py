"""What the tests found out about models, formats and layouts: the rows of docs/models.md.

A test that has proved something says so with `support.record(kind, name, …)`; the last test of
its file calls `support.check(kind)`, which holds the rows of this session against the committed
table. When a table is to change, run its tests, then `make support`.
"""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "build" / "support.json"
TABLE = ROOT / "docs" / "models.md"

COLUMNS = {
    "model types": ("type", "switch", "paged", "weights", "routing changed by"),
    "expert formats": ("format", "proved on", "paged"),
    "layouts": ("layout", "proved on", "paged"),
}
"""Kind of row → the columns of its table; a row's first column is its name."""

INTRODUCTION = {
    "model types": "Each model type of mlx-lm with a switch of experts, run as a tiny "
    "random model, paged at three cache sizes against mlx-lm unpaged. The last column is what "
    "changed its routing when asked; what is missing there was refused, or had no effect.",
    "expert formats": "How experts may be stored.",
    "layouts": "How the tensors may lie in files.",
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
        """Say that `name` was proved; `cells` are the columns after the name."""
        assert len(cells) == len(COLUMNS[kind]) - 1, f"a row of {kind} has {COLUMNS[kind]}"
        self.rows.setdefault(kind, {})[name] = cells

    def check(self, kind: str) -> None:
        """Assert that docs/models.md tells of `kind` exactly what this session found."""
        self.save()
        committed = TABLE.read_text() if TABLE.exists() else ""
        assert section(kind, self.rows.get(kind, {})) in committed, (
            f"docs/models.md does not say of {kind} what these tests found: run their whole file, "
            "then `make support`"
        )

    def save(self) -> None:
        """Merge this session's kinds into build/support.json."""
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(load() | self.rows, indent=1, sort_keys=True))


def load() -> Rows:
    """What earlier sessions found."""
    if not RESULTS.exists():
        return {}
    found = json.loads(RESULTS.read_text())
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
