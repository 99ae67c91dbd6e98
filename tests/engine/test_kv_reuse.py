"""Two alternating conversations, each with its KV cache: mlx-lm's numbers, bit for bit."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.generate import generate_step
from mlx_lm.models.cache import LRUPromptCache, make_prompt_cache
from mlx_lm.utils import load_model

import outlier_jupyter
from tests.paging.test_formats import ARCHITECTURES

TURNS = {
    "weather": (
        ("What will it be?", "Rain and then some sun."),
        ("And the day after?", "More of the same, I fear."),
        ("Thank you.", ""),
    ),
    "cooking": (
        ("How long do I boil an egg, if it shall be soft?", "Six minutes."),
        ("A hard one?", "Ten."),
        ("And a goose's egg?", ""),
    ),
}
"""Conversation → its turns: (question, the answer that the next turn quotes)."""
TOKENS = 7


def conversation(name: str, turn: int) -> list[dict[str, str]]:
    """The messages of a conversation up to and with a turn's question."""
    messages = []
    for question, answer in TURNS[name][: turn + 1]:
        messages += [{"role": "user", "content": question}]
        messages += [{"role": "assistant", "content": answer}]
    return messages[:-1]


class Unpaged:
    """mlx-lm's own loop over its own model, with its own prompt caches."""

    def __init__(self, folder) -> None:
        self.model, _ = load_model(folder)
        self.kept = LRUPromptCache(max_size=4)

    def answer(self, tokens: list[int]) -> tuple[list[int], list[np.ndarray], int]:
        """The ids, the log-probabilities of each step, and how many ids came from a cache."""
        cache, rest = self.kept.fetch_nearest_cache("", tokens)
        cache = cache or make_prompt_cache(self.model)
        steps = list(
            generate_step(mx.array(rest), self.model, max_tokens=TOKENS, prompt_cache=cache)
        )
        ids = [int(token) for token, _ in steps]
        self.kept.insert_cache("", (tokens + ids)[: cache[0].offset], cache)
        return ids, [np.array(logprobs) for _, logprobs in steps], len(tokens) - len(rest)


def listen(engine) -> list[np.ndarray]:
    """Record the log-probabilities after the last token of every call of the engine's model."""
    seen: list[np.ndarray] = []
    kind = type(engine.model)

    def call(self, *inputs, **named):
        logits = kind.__call__(self, *inputs, **named)
        last = logits[:, -1, :]
        seen.append(np.array((last - mx.logsumexp(last, keepdims=True))[0]))
        return logits

    engine.model.__class__ = type(kind.__name__, (kind,), {"__call__": call})
    return seen


@pytest.mark.parametrize("slots", [3, 7, 16])
@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_two_conversations_with_reused_kv_caches_are_exact(model_type, slots, checkpoint_of):
    """In turn, each reads only new tokens, and every step has mlx-lm's log-probabilities."""
    settings = ARCHITECTURES[model_type] | {"sliding_window": 512}
    folder = checkpoint_of(model_type=model_type, **settings)
    unpaged = Unpaged(folder)
    reused = []
    with outlier_jupyter.load(folder, cache_experts=slots) as engine:
        seen = listen(engine)
        for turn in range(3):
            for name in TURNS:
                seen.clear()
                run = engine.generate(conversation(name, turn), max_tokens=TOKENS, reuse_kv=True)
                prompt = engine.tokenizer.encode(run.encoded, add_special_tokens=False)
                ids, rows, shared = unpaged.answer(prompt)
                made = len(run.tokens)  # fewer than TOKENS where the end of turn was sampled
                assert made > 0 and run.tokens.tolist() == ids[:made]
                assert np.array_equal(seen[-made:], rows[:made])
                assert int((run.trace.phase == 0).sum()) == len(prompt) - shared
                reused.append(shared / len(prompt))
    assert reused[0] == 0 and reused[1] < 0.3 < min(reused[2:])
