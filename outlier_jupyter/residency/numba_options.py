"""How this room compiles its loops. Importing this imports Numba."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def compiled(function: Callable[..., Any]) -> Any:
    """Compile with Numba on the first call; kept on disk where there is a place to write."""
    try:
        return numba.njit(nogil=True, error_model="numpy", cache=True)(function)
    except RuntimeError:  # nowhere to keep machine code: an install that cannot be written
        return numba.njit(nogil=True, error_model="numpy")(function)
