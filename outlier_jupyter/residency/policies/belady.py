"""Belady's bound (1966): the expert used again furthest in the future is evicted first.

It needs the future, so only a replay can use it; no policy reads fewer experts.
"""

from __future__ import annotations

import numpy as np

from ..numba_options import compiled

NEVER = np.int64(2**62)
"""The next use of an expert that is not used again."""


@compiled
def next_uses(experts, starts, width):  # type: ignore[no-untyped-def]
    """The next lookup of each chosen expert, and the first lookup of each expert.

    Time counts lookups: call × layers + layer, or `NEVER`. Both are int64: [steps, layers, k] and
    [layers, width].
    """
    steps, layers, k = experts.shape
    out = np.full((steps, layers, k), NEVER)
    later = np.full((layers, width), NEVER)
    for call in range(len(starts) - 2, -1, -1):
        for layer in range(layers):
            for step in range(starts[call], starts[call + 1]):
                for i in range(k):
                    if experts[step, layer, i] >= 0:
                        out[step, layer, i] = later[layer, experts[step, layer, i]]
            for step in range(starts[call], starts[call + 1]):
                for i in range(k):
                    if experts[step, layer, i] >= 0:
                        later[layer, experts[step, layer, i]] = call * layers + layer
    return out, later
