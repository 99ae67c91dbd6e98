"""NumPy views of MLX arrays on the CPU, over the same memory where possible.

A view is valid while its array lives and MLX does not reuse its memory: views of parameters may be
kept with the parameter, all others only for the call.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt

F32s = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
KINDS = {mx.float32: "f32", mx.float16: "f16", mx.bfloat16: "bf16"}
"""MLX's float types → their names in `kernels`."""


def view(array: mx.array) -> npt.NDArray[Any]:
    """A view of an array, which is evaluated first; bfloat16 as uint16, its bits.

    Where bfloat16 is not contiguous it is a copy.
    """
    mx.eval(array)
    # mx.array has the buffer protocol, but its type stub does not say so.
    if array.dtype == mx.bfloat16 and not memoryview(array).c_contiguous:  # type: ignore[arg-type]
        array = mx.contiguous(array)
        mx.eval(array)
    if array.dtype == mx.bfloat16:
        flat: Any = np.frombuffer(memoryview(array).cast("B"), np.uint16)  # type: ignore[arg-type]  # same
        bits: npt.NDArray[Any] = flat.reshape(array.shape)
        return bits
    found: npt.NDArray[Any] = np.asarray(memoryview(array))  # type: ignore[arg-type]  # as above
    return found


def as_rows(x: mx.array) -> F32s:
    """x [..., width] as contiguous float32 [rows, width]."""
    if x.dtype != mx.float32:
        x = x.astype(mx.float32)
    found = np.ascontiguousarray(view(x), np.float32)
    return found.reshape(-1, found.shape[-1])


def contiguous(array: mx.array) -> npt.NDArray[Any]:
    """A view, or a copy if the array is not C-contiguous."""
    return np.ascontiguousarray(view(array))
