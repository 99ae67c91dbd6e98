"""The default policy: how often an expert is used, what followed similar routing, how soon its
layer runs again.

An expert's score estimates its next uses, as the sum of two parts:

- its recent frequency, which decays by `DECAY` per token;
- what followed in similar moments. Each of the last `MOMENTS` tokens is compared with the
  newest by the share of experts they have in common, averaged over about one token's layers up to
  the current one; the experts chosen after the most similar ones (softmax, `SHARPNESS`) count, the
  next token's fully, those of the tokens after it `FADE` times as much each, up to `AHEAD`.

A layer's scores are updated when its router has chosen. A layer's weight is 1 − `NEARNESS` ×
d, where d is how far ahead its next call is, from 0 (next) to 1 (a whole cycle). None of the
numbers is fitted to a model: docs/experiments/caching.md has what other values give.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .. import Float64s
from ..numba_options import compiled
from .registry import Policy

DECAY = 0.85
MOMENTS = 256
SHARPNESS = 12.0
FADE = 0.5
AHEAD = 4
NEARNESS = 0.5


class State(NamedTuple):
    """The policy's memory.

    Attributes:
        frequency, score: float64 [layers, width].
        history: int16 [layers, MOMENTS, k], the experts of the last tokens; token t is in row
            t mod MOMENTS; -1 for none.
        similarity: float64 [MOMENTS], of the newest token with the one so many tokens before.
        clock: int64 [3]: the first token of this pass through the layers, the token after its
            last, and the layer that was routed last (-1 before the first).
    """

    frequency: npt.NDArray[np.float64]
    score: npt.NDArray[np.float64]
    history: npt.NDArray[np.int16]
    similarity: npt.NDArray[np.float64]
    clock: npt.NDArray[np.int64]


def new_state(score: Float64s, k: int) -> State:
    """An empty state for rows of `k` experts; it writes to `score`."""
    layers = len(score)
    return State(
        np.zeros_like(score),
        score,
        np.full((layers, MOMENTS, k), -1, np.int16),
        np.zeros(MOMENTS),
        np.array([0, 0, -1], np.int64),
    )


def widened(state: State, k: int) -> State:
    """The same state for rows of `k` experts."""
    layers, moments, before = state.history.shape
    history = np.full((layers, moments, k), -1, np.int16)
    history[:, :, :before] = state.history
    return state._replace(history=history)


@compiled
def observe(state, layer, rows):  # type: ignore[no-untyped-def]
    """Learn the choice `rows`, int16 [tokens, k], of `layer`, and update the layer's scores."""
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
        state.score[layer, expert] = frequency[expert]
    _recall(state, layer)


@compiled
def _compare(state, layer, row):  # type: ignore[no-untyped-def]
    """Update the similarities by the share of `row` that earlier tokens chose in this layer."""
    history, similarity = state.history[layer], state.similarity
    newest = state.clock[1] - 1
    forget = 1 / len(state.history)
    chosen = np.zeros(state.score.shape[1], np.bool_)
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
    """Add to the scores the layer's choices after the moments most similar to this one."""
    similarity, newest = state.similarity, state.clock[1] - 1
    lags = min(MOMENTS - 1, newest)
    likeness, weight, most = np.empty(lags + 1), np.zeros(lags + 1), 0.0
    for lag in range(1, lags + 1):
        most = max(most, similarity[lag])
    for lag in range(1, lags + 1):
        likeness[lag] = math.exp(SHARPNESS * (similarity[lag] - most))
    fade = 1.0
    for ahead in range(1, min(AHEAD, lags) + 1):
        # The token `ahead` after the moment `lag` ago is known up to the newest token, 0 ago.
        whole = 0.0
        for lag in range(ahead, lags + 1):
            whole += likeness[lag]
        for lag in range(ahead, lags + 1):
            weight[lag - ahead] += fade * likeness[lag] / whole
        fade *= FADE
    for ago in range(lags):
        for expert in state.history[layer, (newest - ago) % MOMENTS]:
            if expert >= 0:
                state.score[layer, expert] += weight[ago]


@compiled
def nearness(now, weight):  # type: ignore[no-untyped-def]
    """Write the weight of each layer's next run to `weight` [layers], after layer `now` ran."""
    layers = len(weight)
    for ahead in range(layers):
        weight[(now + 1 + ahead) % layers] = 1 - NEARNESS * (ahead + 1) / layers


class Predictive(Policy):
    """The predictive policy; it may also learn an earlier run's routing."""

    name = "predictive"

    def __init__(self, experts_per_layer: Sequence[int]) -> None:
        super().__init__(experts_per_layer)
        self._state = new_state(self.score, 1)

    def state(self, k: int) -> State:
        """The memory, for rows of up to `k` experts; changing it changes the policy."""
        if k > self._state.history.shape[2]:
            self._state = widened(self._state, k)
        return self._state

    def routed(self, layer: int, experts: npt.NDArray[np.int16]) -> None:
        """As `Policy.routed`: learn, and update the scores of `layer`."""
        observe(self.state(experts.shape[1]), layer, experts)
        nearness(layer, self.weight)
