"""Whether reads begun early, by the next layer's router on this layer's state, would pay.

    python benchmarks/lookahead.py

The demo model reads four texts. At each layer the next layer's router is given this layer's state,
under the next layer's own norm: before this layer's experts have added theirs, or after. Told are:
how many of the experts chosen it names; the control, the same question put with the state that the
router does get, which must be answered without a fault; and of the experts it names that are not in
RAM, how many are then asked for: those in RAM are the easy ones.

What that is worth is worked out, not timed: reads of one disk, one after the other, each of `read`
times what a layer computes; the misses of a layer first, then what is foreseen, which is dropped
from the queue when the next layer's router says otherwise, unless it is being read.
"""

from __future__ import annotations

import shutil
import textwrap
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm import load
from mlx_lm.models.base import create_attention_mask
from results import Row, append

import outlier_jupyter
from outlier_jupyter.residency import ExpertKey
from outlier_jupyter.residency.policies import make_policy
from outlier_jupyter.residency.slot_table import SlotTable

QUESTIONS = Path(__file__).parents[1] / "tools" / "questions"
DEMO = Path(outlier_jupyter.__file__).parent / "demo"
BEGIN, END = 200, 450
SLOTS = (22, 48, 96)
"""0.9, 2 and 4 working sets."""
READS = (1.5, 0.5)
"""Of a layer's computing: how long one expert's read takes."""
BEFORE_ROUTER = 0.4
"""The share of a layer's computing that comes before its router has chosen."""

Text = dict[str, np.ndarray]
"""`chosen` [tokens, layers, k]; `before` and `after` [tokens, layers − 1, experts], best first."""


def record(model: Any, ids: list[int]) -> Text:
    """What the routers choose for a text, and what the next layer's would of this one's state."""
    hidden = state = model.model.embed_tokens(mx.array([ids]))
    mask = create_attention_mask(hidden, None)
    k = model.args.num_experts_per_tok
    chosen, before, after, control = [], [], [], []
    for index, layer in enumerate(model.layers):
        if index:
            after.append(_ranked(layer, hidden))
            before.append(_ranked(layer, state))
        state = hidden + layer.self_attn(layer.input_layernorm(hidden), mask, None)
        gates = mx.softmax(layer.mlp.gate(layer.post_attention_layernorm(state)), axis=-1)
        ids_chosen = mx.argpartition(gates, kth=-k, axis=-1)[..., -k:]
        chosen.append(np.array(ids_chosen)[0])
        control.append(_ranked(layer, state)[:, :k])
        hidden = state + layer.mlp(layer.post_attention_layernorm(state))
    found = {"chosen": chosen, "before": before, "after": after}
    for true, named in zip(chosen, control, strict=True):
        assert (np.sort(true) == np.sort(named)).all(), "the control is not 100 %"
    return {name: np.stack(rows, axis=1) for name, rows in found.items()}


def _ranked(layer: Any, state: mx.array) -> np.ndarray:
    logits = np.array(layer.mlp.gate(layer.post_attention_layernorm(state)))[0]
    return np.argsort(-logits, axis=-1, kind="stable")


def recall(texts: list[Text], when: str) -> Row:
    """How many of the experts chosen are named by the first k, by layer and by rank."""
    named = []
    for text in texts:
        k = text["chosen"].shape[-1]
        first, true = text[when][..., :k], text["chosen"][:, 1:]
        named.append((first[..., :, None] == true[..., None, :]).any(-1))
    found = np.concatenate(named)
    return {
        "when": when,
        "recall": round(float(found.mean()), 3),
        "by_layer": " ".join(f"{value:.2f}" for value in found.mean((0, 2))),
        "by_rank": " ".join(f"{value:.2f}" for value in found.mean((0, 1))),
    }


class Replay:
    """A text's tokens through a cache and over a disk, with `cut` experts foreseen at a time."""

    def __init__(self, text: Text, slots: int, experts: int, when: str, cut: int, read: float):
        self.text, self.when, self.cut, self.read = text, when, cut, read
        layers = text["chosen"].shape[1]
        self.table = SlotTable(slots, make_policy("predictive", [experts] * layers))
        self.now = self.disk_free = 0.0
        self.coming: dict[ExpertKey, float] = {}  # foreseen and read: when it will have landed
        self.waiting: list[ExpertKey] = []
        self.misses = self.used = self.unused = 0

    def run(self) -> Replay:
        """Every token, layer by layer."""
        for step, rows in enumerate(self.text["chosen"]):
            for layer, experts in enumerate(rows):
                self._layer(step, layer, experts)
        return self

    def _layer(self, step: int, layer: int, experts: np.ndarray) -> None:
        self._read_ahead(self.now + BEFORE_ROUTER)
        self.now += BEFORE_ROUTER
        self.waiting.clear()
        keys = [ExpertKey(layer, int(expert)) for expert in experts]
        landed = max((self.coming.get(key, 0.0) for key in keys), default=0.0)
        self.used += sum(key in self.coming for key in keys)
        self.unused += len(self.coming.keys() - set(keys))
        self.coming.clear()
        self.table.routed(layer, experts[None])
        missing = self._hold(keys)
        self.misses += missing
        if missing:
            self.disk_free = max(self.disk_free, self.now) + missing * self.read
            landed = max(landed, self.disk_free)
        if self.cut and layer + 1 < len(self.text["chosen"][step]):
            ranked = self.text[self.when][step, layer, : self.cut].tolist()
            foreseen = [ExpertKey(layer + 1, expert) for expert in ranked]
            self.waiting = [key for key in foreseen if key not in self.table]
        end = max(self.now + 1 - BEFORE_ROUTER, landed)
        if self.when == "before":
            self._read_ahead(end)
        self.now = end

    def _read_ahead(self, until: float) -> None:
        """Begin foreseen reads as the disk gets free, up to a moment."""
        while self.waiting and max(self.disk_free, self.now) < until:
            key = self.waiting.pop(0)
            self.disk_free = max(self.disk_free, self.now) + self.read
            self._hold([key])
            self.coming[key] = self.disk_free

    def _hold(self, keys: list[ExpertKey]) -> int:
        plan = self.table.reserve(keys)
        for placement in plan.placements:
            self.table.commit(placement)
        return len(plan.placements)


def worth(texts: list[Text], experts: int, slots: int, when: str) -> list[Row]:
    """Time with so many foreseen, as a share of the time with none."""
    rows = []
    for read in READS:
        plain = sum(Replay(text, slots, experts, when, 0, read).run().now for text in texts)
        for cut in (1, 2, 3):
            runs = [Replay(text, slots, experts, when, cut, read).run() for text in texts]
            used, unused = (sum(getattr(run, name) for run in runs) for name in ("used", "unused"))
            rows.append(
                {
                    "slots": slots, "when": when, "read": read, "cut": cut,
                    "time": round(sum(run.now for run in runs) / plain, 3),
                    "read_early_and_used": used, "read_early_and_not": unused,
                    "misses_left": sum(run.misses for run in runs),
                }
            )  # fmt: skip
    return rows


def main() -> None:
    """Record, ask, replay; rows to benchmarks/results."""
    model, tokenizer = load(str(DEMO))[:2]
    files = [*sorted(QUESTIONS.glob("*.txt"))[:2],
             *(Path(str(module.__file__)) for module in (textwrap, shutil))]  # fmt: skip
    texts = [record(model, tokenizer.encode(file.read_text())[BEGIN:END]) for file in files]
    rows = [recall(texts, when) for when in ("before", "after")]
    for when in ("before", "after"):
        for slots in SLOTS:
            rows += worth(texts, model.args.num_experts, slots, when)
    for row in rows:
        print(row)  # noqa: T201
    append("lookahead", rows)


if __name__ == "__main__":
    main()
