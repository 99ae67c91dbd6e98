"""Measures the shipped, quantised model, run by mlx-lm, on text it has not seen."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import mlx.core as mx
import numpy as np
from demo_answers import KINDS, answer_all, thinking_facts
from demo_questions import Item
from demo_routing import Recorder, record
from mlx import nn
from mlx_lm import load, stream_generate

LOG = logging.getLogger(__name__)
PROMPTS = {
    "python": "def read(self, path):\n    ",
    "english": "The administrator of a server should",
    "german": "Der Administrator eines Servers",
    "french": "L'administrateur d'un serveur",
    "spanish": "El administrador de un servidor",
    "c": "struct option {\n\tint ",
    "shell": "_disk()\n{\n    local cur prev words cword\n",
    "arithmetic": "7 * 1 = 7\n7 * 2 = 14\n7 * 3 =",
    "json": '{"id": 17, "name":',
}


def load_fast(folder: Path) -> tuple[nn.Module, object]:
    """The model with bfloat16 scales widened once instead of in each product: the same numbers."""
    model, tokenizer = load(str(folder))[:2]
    model.set_dtype(mx.float32)
    return model, tokenizer


def windows(tokens: np.ndarray, length: int, count: int) -> np.ndarray:
    """Up to ``count`` windows of ``length + 1`` tokens, spread evenly and without overlap."""
    total = (len(tokens) - 1) // length
    starts = np.linspace(0, total - 1, min(count, total)).round().astype(int) * length
    return np.stack([tokens[start : start + length + 1] for start in starts]).astype(np.int32)


def model_loss(model: nn.Module, rows: np.ndarray) -> float:
    """Mean loss per token, in nats."""
    losses = []
    for row in rows:
        logits = model(mx.array(row[None, :-1])).astype(mx.float32)
        losses.append(nn.losses.cross_entropy(logits, mx.array(row[None, 1:])).mean().item())
    return float(np.mean(losses))


def bigram_loss(training: np.ndarray, rows: np.ndarray, vocab_size: int) -> float:
    """Mean loss of a Witten-Bell bigram model over an add-one unigram model."""
    single = np.bincount(training, minlength=vocab_size).astype(np.float64)
    base = (single + 1) / (single.sum() + vocab_size)
    pairs = Counter(zip(training[:-1].tolist(), training[1:].tolist(), strict=True))
    follow, kinds = np.zeros(vocab_size), np.zeros(vocab_size)
    for (left, _), count in pairs.items():
        follow[left] += count
        kinds[left] += 1
    losses = []
    for row in rows:
        for left, right in zip(row[:-1].tolist(), row[1:].tolist(), strict=True):
            seen = follow[left] + kinds[left]
            count = pairs.get((left, right), 0)
            share = (count + kinds[left] * base[right]) / seen if seen else base[right]
            losses.append(-np.log(share))
    return float(np.mean(losses))


def continuations(model: nn.Module, tokenizer: object, tokens: int = 48) -> dict[str, str]:
    """A greedy continuation per domain, without the prompt."""
    return {
        name: "".join(
            part.text for part in stream_generate(model, tokenizer, prompt, max_tokens=tokens)
        )
        for name, prompt in PROMPTS.items()
    }


def evaluate(
    folder: Path,
    training: dict[str, np.ndarray],
    held_out: dict[str, np.ndarray],
    items: list[Item],
    count: int = 16,
    length: int = 256,
) -> dict[str, object]:
    """Everything the card reports about the model in ``folder``."""
    model, tokenizer = load_fast(folder)
    recorders: list[Recorder] = record(model)
    perplexity, routing = {}, {}
    for name, tokens in held_out.items():
        rows = windows(tokens, length, count)
        for recorder in recorders:
            recorder.clear()
        loss = model_loss(model, rows)
        # [windows, layers, experts]
        routing[name] = np.stack([recorder.histograms() for recorder in recorders], axis=1)
        perplexity[name] = {
            "tokens": int(rows.shape[0] * length),
            "model": round(float(np.exp(loss)), 2),
            "bigram": round(
                float(np.exp(bigram_loss(training[name], rows, model.args.vocab_size))), 2
            ),
        }
        LOG.info("perplexity %s: %s", name, perplexity[name])
    model, tokenizer = load_fast(folder)
    answers = {}
    for kind in KINDS:
        answers[kind] = answer_all(model, tokenizer, items, kind)
        LOG.info("%s: %d of %d", kind, answers[kind].right, answers[kind].asked)
    return {
        "perplexity": perplexity,
        "routing": routing,
        "answers": answers,
        "thinking": thinking_facts(answers, items),
        "samples": continuations(model, tokenizer),
    }
