"""How kernels are compiled, and where the code is kept.

A kernel is a function of (address of its arguments, number of a task), compiled by itself: that
takes a fraction of a second, where a loop that Numba makes parallel takes several.

Numba keeps what it compiled in files and asks only whether the function's own file has changed.
Here the folder's name holds a hash of the files whose code is put into others' functions, so
code made from an older inner loop is never taken.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba import cfunc, types
from numba.core import config

Array = np.ndarray[Any, Any]
ORDERED = {"reassoc", "contract"}
"""Sums may be taken in another order, and nothing else."""


@lru_cache
def cache_folder() -> Path | None:
    """Where machine code made from these very sources is kept, or None if nothing can be written.

    Below NUMBA_CACHE_DIR, or the user's cache.
    """
    sources = [Path(__file__).parent / f"{name}.py" for name in INLINED]
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:16]
    base = os.environ.get("NUMBA_CACHE_DIR")
    if base is None:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        base = str(Path(home) / "outlier_jupyter")
    folder = Path(base) / f"kernels-{digest}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


def cached(make: Callable[[bool], Any]) -> Any:
    """What `make` compiles, where its code is kept; it is told whether it can be."""
    folder = cache_folder()
    before = config.CACHE_DIR
    config.CACHE_DIR = str(folder or before)
    try:
        return make(folder is not None)
    finally:
        config.CACHE_DIR = before


def task(function: Callable[[int, int], None], finite: bool = True) -> int:
    """Compile a kernel's task (arguments' address, number) or load it; the address of its code.

    Args:
        finite: whether it may be compiled as if there were no infinities and no NaNs.
    """
    fastmath = True if finite else ORDERED
    signature = types.void(types.int64, types.int64)

    def make(cache: bool) -> Any:
        return cfunc(
            signature, cache=cache, fastmath=fastmath, error_model="numpy", boundscheck=False
        )(function)

    compiled = cached(make)
    _KEPT.append(compiled)
    return int(compiled.address)


INLINED = (
    "activations",
    "codes",
    "crew",
    "digits",
    "formats",
    "memory",
    "reductions",
    "rows",
    "simd",
)
"""Files of this room whose code becomes part of kernels written elsewhere."""
_KEPT: list[Any] = []
"""What was compiled is freed with its object, and only its address is handed out."""


@lru_cache
def threads() -> int:
    """How many threads a kernel uses; asked once, for Numba takes a lock to answer."""
    return int(numba.get_num_threads())


def address(array: Array | None) -> int:
    """Where a contiguous array begins; 0 for None."""
    if array is None:
        return 0
    if not array.flags.c_contiguous:
        raise ValueError(f"an array of strides {array.strides} cannot be read in one go")
    return int(array.ctypes.data)
