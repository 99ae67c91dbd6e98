"""The eviction order at earlier tokens of a finished run, for a page that scrubs back.

A page asks for one step and gets those around it, too: one message for many tokens of a small
cache, for few of a large one. The answer has one buffer, uint32: the experts' numbers
(layer x experts + expert) of one step after another, next to be evicted first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...errors import OutlierError
from ...events import DECODE
from ...runs.run import Run
from ...trace import Trace
from ...trace.measures import widest
from .frame_head import EXACT, NO_ORDER, RELEARNED, UNKNOWN

ANSWER_NBYTES = 128_000
"""About the size of an answer: some milliseconds on the way."""
MOST_STEPS = 32

MOST_TOKENS = 1_000
"""The most tokens, the last ones, whose orders a page without a kernel has: some ms each."""


def order_after(trace: Trace, step: int) -> dict[str, Any]:
    """The fields of a frame for the eviction order after a step."""
    try:
        found = trace.eviction_order(step)
    except OutlierError:
        return {"order_kind": UNKNOWN if trace.layers and trace.steps else NO_ORDER}
    layer, expert = found.experts.astype(np.uint32).T
    return {
        "order_kind": EXACT if found.exact else RELEARNED,
        "order": layer * widest(trace) + expert,
        "pinned": found.pinned,
        "order_steps": found.step + 1,
    }


def orders_around(run: Run | None, step: int) -> tuple[dict[str, Any], list[bytes]]:
    """The message, and its buffer, that answers a page's question for the order after `step`."""
    if run is None or not 0 <= step < run.trace.steps:
        return {"type": "orders", "from": step, "orders": []}, [b""]
    trace = run.trace
    count = max(1, min(MOST_STEPS, ANSWER_NBYTES // (4 * max(1, trace.info.slots))))
    first = step - step % count
    found = [order_after(trace, at) for at in range(first, min(trace.steps, first + count))]
    message, buffer = orders_message(first, found)
    return message, [buffer]


def all_orders(trace: Trace) -> tuple[int, list[dict[str, Any]]]:
    """The step of token 1 and the orders after it and all later ones; at most `MOST_TOKENS`."""
    first = int(np.flatnonzero(np.append(trace.phase == DECODE, True))[0]) - 1
    first = max(0, first, trace.steps - MOST_TOKENS)
    found: list[dict[str, Any]] = []
    for step in range(first, trace.steps):
        found.append(order_after(trace, step))
        if "order" not in found[0]:
            break  # nor has any other
    return first, found


def orders_message(
    first: int, found: Sequence[Mapping[str, Any]], most: int | None = None
) -> tuple[dict[str, Any], bytes]:
    """The message about the orders `found` after `first` and later steps, and its buffer.

    Args:
        most: experts of each order, those that are next out; None for all.
    """
    orders, about = [np.zeros(0, np.uint32)], []
    for each in found:
        order, pinned = each.get("order", orders[0]), each.get("pinned", 0)
        entry = {"kind": each["order_kind"]}
        if most is not None:
            order, pinned = order[: len(order) - pinned][:most], 0
            entry["part"] = True
        orders.append(order)
        about.append(entry | {"length": len(order), "pinned": pinned})
    buffer = np.concatenate(orders).astype("<u4").tobytes()
    return {"type": "orders", "from": first, "orders": about}, buffer
