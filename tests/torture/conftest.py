"""Tests here compute as users' runs do, with compiled kernels."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from outlier_jupyter.cpu import modules as native
from outlier_jupyter.engine import load as loading


@pytest.fixture(autouse=True, scope="package")
def natively() -> Iterator[None]:
    """Undo what tests/conftest.py sets for all other tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "native_wanted", native.wanted)
        yield
