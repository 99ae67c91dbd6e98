"""How undecided the router was: the entropy of the weights that it gave a token's experts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .routing_measures import entropy
from .trace import Trace
from .validate import check_routing


def router_entropy(trace: Trace) -> npt.NDArray[np.float32]:
    """Entropy of each token's weights over their sum, in bits: float32 [steps, layers].

    At most log2(k), always 0 at top-1; NaN if unknown.
    """
    check_routing(trace)
    out = np.full((trace.steps, trace.layers), np.nan, np.float32)
    for layer in range(trace.layers):
        known = np.nan_to_num(trace.weights[:, layer].astype(np.float64))
        out[:, layer] = np.maximum(entropy(known), 0)
    return out
