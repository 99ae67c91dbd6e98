"""Between MLX's arrays and NumPy's, on the CPU: views of the same memory where that can be.

A view is valid while its array lives and MLX does not use its memory for something else: views of
parameters may be kept with the parameter, those of anything else only for the call.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt

F32s = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
KINDS = {mx.float32: "f32", mx.float16: "f16", mx.bfloat16: "bf16"}
"""MLX's floats by the names `kernels` has for them."""


def view(array: mx.array) -> npt.NDArray[Any]:
    """The memory of an array, which is evaluated for it; bfloat16 as uint16, its bits."""
    mx.eval(array)
    if array.dtype == mx.bfloat16:
        # It has the buffer protocol, which its type does not say.
        flat: Any = np.frombuffer(memoryview(array).cast("B"), np.uint16)  # type: ignore[arg-type]
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
    """A view, or a copy where the memory is not in the order of the elements."""
    return np.ascontiguousarray(view(array))
