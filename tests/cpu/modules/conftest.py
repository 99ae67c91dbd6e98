"""Here models compute natively, as they do for users; everywhere else tests hold MLX's bits."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from outlier_jupyter.cpu import modules as native
from outlier_jupyter.engine import load as loading


@pytest.fixture(autouse=True, scope="package")
def natively() -> Iterator[None]:
    """Undo what tests/conftest.py does to all others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "native_wanted", native.wanted)
        yield
