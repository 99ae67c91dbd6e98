"""The time of NumPy's float32 matrix products for the multiplications of a prompt.

The same shapes, one after the other: attention's four projections and the router for all rows,
and each expert's three for the rows routed to it. Weights are unpacked beforehand and few, so they
stay in the processor's caches: this is the product's own speed, without reading weights.
"""

from __future__ import annotations

import time
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from outlier_jupyter.benchmark.routing import Routes

Floats = npt.NDArray[np.float32]


@cache
def matrix(rows: int, columns: int) -> Floats:
    """A random float32 matrix, the same for every call with this shape."""
    random = np.random.default_rng(rows * 31 + columns)
    return random.normal(size=(rows, columns)).astype(np.float32)


def layer_seconds(config: dict[str, Any], routes: Routes, ids: list[int], layer: int) -> float:
    """Seconds for the products of one layer with these tokens and their routing."""
    hidden, width = config["hidden_size"], config["moe_intermediate_size"]
    head, kv = config["head_dim"], config["num_key_value_heads"]
    queries = config["num_attention_heads"] * head
    x, up = matrix(len(ids), hidden), matrix(hidden, width)
    dense = [matrix(hidden, queries), matrix(hidden, kv * head), matrix(hidden, kv * head)]
    router, output, down = (
        matrix(hidden, config["num_experts"]),
        matrix(queries, hidden),
        matrix(width, hidden),
    )
    attended = matrix(len(ids), queries)
    counts = np.bincount(routes.picks[ids, layer].ravel(), minlength=config["num_experts"])
    begin = time.perf_counter()
    for weights in (*dense, router):
        x @ weights
    attended @ output
    for count in counts[counts > 0].tolist():
        rows = x[:count] if count <= len(x) else matrix(count, hidden)
        inner = rows @ up
        rows @ up
        inner @ down
    return time.perf_counter() - begin
