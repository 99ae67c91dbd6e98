"""Training on from exported weights: their values, and a shorter, gentler plan."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import torch
from demo_card import read_numbers
from demo_corpus import CONTINUED_CHAT_SHARE
from demo_model import DemoMoe, Geometry
from demo_tokenizer import END_OF_TURN, THINK, TURN
from demo_train import Plan
from tokenizers import Tokenizer

PLAN = Plan(
    seed=20261129,
    steps=540,
    horizon=900,
    cool_from=0.5,
    tokens_per_step=3072,
    chat=CONTINUED_CHAT_SHARE,
    late_chat=CONTINUED_CHAT_SHARE,
    quantize_from=0.5,
    matrix_lr=0.006,
    other_lr=1e-3,
    warmup=15,
    threads=1,
    save_every=40,
)


def dequantized(folder: Path, g: Geometry) -> dict[str, torch.Tensor]:
    """The parameters of an exported model, as numbers on the grid they were rounded to."""
    quantization = json.loads((folder / "config.json").read_text(encoding="utf-8"))["quantization"]
    stored = mx.load(str(folder / "model.safetensors"))
    state = {}
    for name, _ in DemoMoe(g, 0).named_parameters():
        stem = name.removesuffix(".weight")
        value = stored[name]
        if f"{stem}.scales" in stored:
            how = quantization.get(stem, quantization)
            scales, biases = (stored[f"{stem}.{part}"].astype(mx.float32) for part in
                              ("scales", "biases"))  # fmt: skip
            value = mx.dequantize(value, scales, biases, how["group_size"], how["bits"])
        state[name] = torch.from_numpy(np.array(value.astype(mx.float32)))
    return state


def start_of_thinking(state: dict[str, torch.Tensor], tokenizer: Tokenizer) -> None:
    """Begin the two new tokens' embeddings near those of the chat's markers.

    The rows they take over belonged to two rare pieces of text.
    """
    rows = state["model.embed_tokens.weight"]
    markers = [tokenizer.token_to_id(name) for name in (TURN, END_OF_TURN)]
    first = tokenizer.token_to_id(THINK)
    noise = torch.Generator().manual_seed(first)
    size = rows[3:].std()
    for row in (first, first + 1):
        new = torch.randn(rows.shape[1], generator=noise) * size
        rows[row] = 0.5 * rows[markers].mean(0) + new


def trained_before(folder: Path) -> dict[str, object]:
    """What the card of an exported model says about its training and its weights."""
    numbers = read_numbers((folder / "README.md").read_text(encoding="utf-8"))
    return {**numbers["training"], "sha256": numbers["sha256"]}
