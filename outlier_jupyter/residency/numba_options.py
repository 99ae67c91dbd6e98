"""How this room compiles its loops. Importing this imports Numba."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def compiled(function: Callable[..., Any]) -> Any:
    """Compile with Numba on the first call, and cache the machine code on disk where possible."""
    try:
        return numba.njit(nogil=True, error_model="numpy", cache=True)(function)
    except RuntimeError:  # no writable place for machine code: a read-only install
        return numba.njit(nogil=True, error_model="numpy")(function)
