"""The reference page says what the code says."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def reference():
    """tools/api_reference.py as a module."""
    spec = importlib.util.spec_from_file_location("api", ROOT / "tools" / "api_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_is_what_the_code_says():
    """docs/api.md is the page the tool writes: `python tools/api_reference.py` renews it."""
    api = reference()
    assert (ROOT / "docs" / "api.md").read_text() == api.page()


def test_every_command_and_name_is_in_it():
    """Each command has its form as a call, each public name its paragraph, each flag its line."""
    api, page = reference(), (ROOT / "docs" / "api.md").read_text()
    assert all(each.call for each in api.COMMANDS.values())
    for name in api.outlier_jupyter.__all__:
        assert name.startswith("_") or name.endswith("extension") or f"### `{name}" in page
    assert "`--max-tokens" in page and "`.explain(token, memory_rate=None)`" in page


def test_every_experiment_names_its_processor():
    """What of it the kernels used, that it was not recorded, or a dash where it makes no odds."""
    rows = [
        line for line in (ROOT / "EXPERIMENTS.md").read_text().splitlines() if line[:4] == "| 20"
    ]
    assert rows
    for row in rows:
        date, processor, *others = (cell.strip() for cell in row.strip("| ").split(" | "))
        assert len(others) >= 4, f"no column of the processor: {row[:60]}"
        assert re.search(r"^–$|^not recorded$|AVX|lanes|NEON", processor), f"{date}: {processor}"
