"""The compiled loops of `habit`, what it learns and chooses, and what the replays share with it.

A key is a number here: layer × width + expert, width being
the most experts a layer has. Arrays are NumPy's; nothing here knows a trace or a slot's memory.
Importing this imports Numba; a function is compiled when it is first called, then kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt

DECAY = 0.85
MOMENTS = 256
SHARPNESS = 12.0
FADE = 0.5
AHEAD = 4
NEARNESS = 0.5

NEVER = np.int64(2**62)
"""The next use of what is not used again."""


def compiled(function: Callable[..., Any]) -> Any:
    """Compile with Numba on the first call; kept on disk where there is a place to write."""
    try:
        return numba.njit(nogil=True, error_model="numpy", cache=True)(function)
    except RuntimeError:  # nowhere to keep machine code: an install that cannot be written
        return numba.njit(nogil=True, error_model="numpy")(function)


class State(NamedTuple):
    """What `habit` has learned.

    Attributes:
        frequency, value: float64 [layers, width].
        history: int16 [layers, MOMENTS, k], the experts of the last tokens; token t is in row
            t mod MOMENTS, -1 where there is none.
        similarity: float64 [MOMENTS], of the newest token with the one so many tokens before.
        clock: int64 [3]: the first token of this pass through the layers, the one after its
            last, and the layer that was routed last (-1 before the first).
    """

    frequency: npt.NDArray[np.float64]
    value: npt.NDArray[np.float64]
    history: npt.NDArray[np.int16]
    similarity: npt.NDArray[np.float64]
    clock: npt.NDArray[np.int64]


def new_state(layers: int, width: int, k: int) -> State:
    """Nothing learned yet, for rows of `k` experts."""
    return State(
        np.zeros((layers, width)),
        np.zeros((layers, width)),
        np.full((layers, MOMENTS, k), -1, np.int16),
        np.zeros(MOMENTS),
        np.array([0, 0, -1], np.int64),
    )


def widened(state: State, k: int) -> State:
    """The same knowledge with room for rows of `k` experts."""
    layers, moments, before = state.history.shape
    history = np.full((layers, moments, k), -1, np.int16)
    history[:, :, :before] = state.history
    return state._replace(history=history)


@compiled
def observe(state, layer, rows):  # type: ignore[no-untyped-def]
    """The router of `layer` chose `rows` int16 [tokens, k]: learn, and renew the layer's values."""
    tokens, k = rows.shape
    frequency, history, clock = state.frequency[layer], state.history, state.clock
    if layer <= clock[2] or tokens != clock[1] - clock[0]:
        clock[0] = clock[1]
        clock[1] += tokens
        for each in range(len(history)):
            for token in range(max(clock[0], clock[1] - MOMENTS), clock[1]):
                for i in range(history.shape[2]):
                    history[each, token % MOMENTS, i] = -1
    clock[2] = layer
    for token in range(tokens):
        for expert in range(len(frequency)):
            frequency[expert] *= DECAY
        for i in range(k):
            if rows[token, i] >= 0:
                frequency[rows[token, i]] += 1 - DECAY
            history[layer, (clock[0] + token) % MOMENTS, i] = rows[token, i]
    _compare(state, layer, rows[tokens - 1])
    for expert in range(len(frequency)):
        state.value[layer, expert] = frequency[expert]
    _recall(state, layer)


@compiled
def _compare(state, layer, row):  # type: ignore[no-untyped-def]
    """Renew the similarities by how much of `row` the tokens before chose in this layer."""
    history, similarity = state.history[layer], state.similarity
    newest = state.clock[1] - 1
    forget = 1 / len(state.history)
    chosen = np.zeros(state.value.shape[1], np.bool_)
    k = 0
    for expert in row:
        if expert >= 0:
            chosen[expert] = True
            k += 1
    for lag in range(1, min(MOMENTS - 1, newest) + 1):
        common = 0
        for expert in history[(newest - lag) % MOMENTS]:
            if expert >= 0 and chosen[expert]:
                common += 1
        similarity[lag] += (common / max(k, 1) - similarity[lag]) * forget


@compiled
def _recall(state, layer):  # type: ignore[no-untyped-def]
    """Add to the values what was chosen in this layer after the moments most like this one."""
    similarity, newest = state.similarity, state.clock[1] - 1
    lags = min(MOMENTS - 1, newest)
    likeness, weight, most = np.empty(lags + 1), np.zeros(lags + 1), 0.0
    for lag in range(1, lags + 1):
        most = max(most, similarity[lag])
    for lag in range(1, lags + 1):
        likeness[lag] = math.exp(SHARPNESS * (similarity[lag] - most))
    fade = 1.0
    for ahead in range(1, min(AHEAD, lags) + 1):
        # What came `ahead` tokens after the moment `lag` ago is known up to the newest token,
        # which is 0 ago.
        whole = 0.0
        for lag in range(ahead, lags + 1):
            whole += likeness[lag]
        for lag in range(ahead, lags + 1):
            weight[lag - ahead] += fade * likeness[lag] / whole
        fade *= FADE
    for ago in range(lags):
        for expert in state.history[layer, (newest - ago) % MOMENTS]:
            if expert >= 0:
                state.value[layer, expert] += weight[ago]


@compiled
def nearness(layers, now, factor):  # type: ignore[no-untyped-def]
    """Write how much a layer's next turn weighs to `factor` [layers], after layer `now`'s turn."""
    for ahead in range(layers):
        factor[(now + 1 + ahead) % layers] = 1 - NEARNESS * (ahead + 1) / layers


@compiled
def least(value, factor, held, count, keep, out):  # type: ignore[no-untyped-def]
    """Write the keys of least value × factor of their layer to `out`; how many there were.

    Args:
        value: float64 [layers, width]; factor: float64 [layers].
        held: int64, keys in held[:count]; keep: bool [layers × width], those that must stay.
        out: int64. The least comes first; of equals, the lower key.
    """
    width = value.shape[1]
    flat = value.ravel()
    worth = np.empty(len(out))
    found = 0
    for i in range(count):
        key = held[i]
        mine = flat[key] * factor[key // width]
        at = found
        if found == len(out):
            if found == 0 or mine > worth[found - 1]:
                continue
            if mine == worth[found - 1] and key > out[found - 1]:
                continue
            at = found - 1
        if keep[key]:
            continue
        while at > 0 and (worth[at - 1] > mine or (worth[at - 1] == mine and out[at - 1] > key)):
            worth[at], out[at] = worth[at - 1], out[at - 1]
            at -= 1
        worth[at], out[at] = mine, key
        found = min(found + 1, len(out))
    return found


LRU, HABIT, BELADY = 0, 1, 2
"""The policies that `replay` knows."""


@compiled
def distinct(experts, first, end, layer, keys, seen):  # type: ignore[no-untyped-def]
    """Write the distinct experts of experts[first:end, layer] to `keys`, ascending; how many.

    `seen`, bool [width], is all False and stays so.
    """
    width, count = len(seen), 0
    if end - first == 1:
        for expert in experts[first, layer]:
            if expert < 0 or seen[expert]:
                continue
            seen[expert] = True
            at = count
            while at > 0 and keys[at - 1] > expert:
                keys[at] = keys[at - 1]
                at -= 1
            keys[at] = expert
            count += 1
        for i in range(count):
            seen[keys[i]] = False
        return count
    for step in range(first, end):
        for expert in experts[step, layer]:
            if expert >= 0:
                seen[expert] = True
    for expert in range(width):
        if seen[expert]:
            keys[count] = expert
            count += 1
            seen[expert] = False
    return count


@compiled
def next_uses(experts, starts, width):  # type: ignore[no-untyped-def]
    """When each chosen expert is looked up again, and when each expert is for the first time.

    Time counts look-ups: call × layers + layer; `NEVER` where there is none. Both int64:
    [steps, layers, k] and [layers, width].
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
