"""The policy `habit`: keeps the experts that are used often, that followed when routing last
looked as it does now, and that the cycle of the layers will ask for soonest.

An expert's value is what is expected of its next uses, the sum of two parts:

- how often it was chosen of late, decaying by `DECAY` a token;
- what followed in moments like this one. Each of the last `MOMENTS` tokens is compared with the
  newest by the share of experts they have in common, averaged over about one token's layers up to
  the current one; the experts chosen after the most similar ones (softmax, `SHARPNESS`) count, the
  next token's fully, those of the tokens after it `FADE` times as much each, up to `AHEAD`.

Values of a layer are renewed when its router has chosen. The expert with the least value × (1 −
`NEARNESS` × d) leaves, where d is how far ahead its layer's next turn is, from 0 (next) to 1 (a
whole cycle). None of the numbers was fitted to a model: EXPERIMENTS.md has what other values give.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any

import numpy as np
import numpy.typing as npt

from . import loops
from .policies import ExpertKey, enough


class Habit:
    """See the module. It knows experts by layer and id, and may be fed an earlier run's routing."""

    name = "habit"

    def __init__(self, experts_per_layer: Sequence[int]) -> None:
        self._width = max(experts_per_layer, default=1)
        self._layers = max(len(experts_per_layer), 1)
        self._state = loops.new_state(self._layers, self._width, 1)
        self._keep = np.zeros(self._layers * self._width, np.bool_)
        self._place: dict[ExpertKey, int] = {}
        self._held = np.zeros(64, np.int64)
        self._layer = -1  # routed last
        self._near = True
        self._factor = np.ones(self._layers)
        self._compile()

    def _compile(self) -> None:
        """Compile, or load what was compiled, now and not at the first token."""
        nothing = loops.new_state(1, 2, 1)
        loops.observe(nothing, 0, np.zeros((1, 1), np.int16))
        loops.nearness(1, 0, np.ones(1))
        one, keep = np.zeros(1, np.int64), np.zeros(2, np.bool_)
        loops.least(nothing.value, np.ones(1), one, 1, keep, one.copy())

    def routed(self, layer: int, experts: npt.NDArray[Any]) -> None:
        rows = np.ascontiguousarray(experts, np.int16)
        if rows.shape[1] > self._state.history.shape[2]:
            self._state = loops.widened(self._state, rows.shape[1])
        loops.observe(self._state, layer, rows)
        self._near = False
        self._layer = layer

    def ask(self, keys: Sequence[ExpertKey]) -> None:
        for key in keys:
            if key not in self._place:
                place = len(self._place)
                if place == len(self._held):
                    self._held = np.resize(self._held, 2 * place)
                self._place[key] = place
                self._held[place] = key.layer * self._width + key.expert

    def drop(self, key: ExpertKey) -> None:
        place, last = self._place.pop(key), len(self._place)
        if place != last:
            moved = self._held[place] = self._held[last]
            self._place[ExpertKey(*divmod(int(moved), self._width))] = place

    def victims(self, count: int, keep: Set[ExpertKey]) -> list[ExpertKey]:
        codes = [key.layer * self._width + key.expert for key in keep if key in self._place]
        self._keep[codes] = True
        out = np.empty(count, np.int64)
        value, factor = self._state.value, self._factors()
        found = loops.least(value, factor, self._held, len(self._place), self._keep, out)
        self._keep[codes] = False
        keys = [ExpertKey(*divmod(code, self._width)) for code in out[:found].tolist()]
        return enough(keys, count)

    def order(self) -> list[ExpertKey]:
        held = np.sort(self._held[: len(self._place)])
        worth = self._state.value.ravel()[held] * self._factors()[held // self._width]
        leaving = held[np.argsort(worth, kind="stable")]
        return [ExpertKey(*divmod(code, self._width)) for code in leaving.tolist()]

    def _factors(self) -> npt.NDArray[np.float64]:
        """What the values of each layer are worth, by how soon its turn is: when somebody asks."""
        if not self._near:
            loops.nearness(self._layers, self._layer, self._factor)
            self._near = True
        return self._factor
