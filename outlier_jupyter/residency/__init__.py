"""Which expert is in which slot, and which is evicted next. No MLX, no files.

`slot_table` is the table of an engine, `replay` replays a recorded routing; both call the compiled
functions of `slots`. `policies` scores experts: the lowest score is evicted first.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class ExpertKey(NamedTuple):
    """One expert of one MoE layer: the key of the cache."""

    layer: int
    expert: int


Int64s = npt.NDArray[np.int64]
Float64s = npt.NDArray[np.float64]

__all__ = ["ExpertKey", "Float64s", "Int64s"]
