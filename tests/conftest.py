"""What tests share: tiny checkpoints on disk, made once; one seed for what Hypothesis draws.

`make test` draws the same examples each time. `EXPLORE=1 python -m pytest …` draws new ones.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from outlier_jupyter.testing import tiny_checkpoint
from tests.support import Support

settings.register_profile("same", derandomize=True)
settings.register_profile("explore", settings.get_profile("default"))
settings.load_profile("explore" if os.environ.get("EXPLORE") else "same")


@pytest.fixture(scope="session")
def support() -> Support:
    """Collects what was proved, for the tables of docs/models.md."""
    return Support()


@pytest.fixture(scope="session")
def checkpoint_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes a tiny checkpoint, once for each set of settings."""
    made: dict[str, Path] = {}

    def make(**settings: object) -> Path:
        key = repr(sorted(settings.items(), key=str))
        if key not in made:
            made[key] = tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "model", **settings)
        return made[key]

    return make


@pytest.fixture(scope="session")
def tiny(checkpoint_of: Callable[..., Path]) -> Path:
    """A qwen3_moe of 3 layers × 8 experts, top-2, 4-bit."""
    return checkpoint_of()
