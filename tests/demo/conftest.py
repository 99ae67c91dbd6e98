"""What the demo's tests share: the tools on the import path, and the shipped model, loaded once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))


@pytest.fixture(scope="session")
def folder() -> Path:
    """The folder of the shipped model."""
    return ROOT / "outlier_jupyter" / "demo"


@pytest.fixture(scope="session")
def numbers(folder: Path) -> dict[str, Any]:
    """The numbers block of the model card."""
    from demo_card import read_numbers

    return read_numbers((folder / "README.md").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def loaded(folder: Path) -> tuple[Any, Any]:
    """Model and tokenizer, as mlx-lm loads them."""
    from mlx_lm import load

    return load(str(folder))[:2]
