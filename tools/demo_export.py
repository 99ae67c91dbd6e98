"""From a torch checkpoint to a folder that ``mlx_lm.load`` reads: quantise, write, check."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
from demo_tokenizer import END_OF_TEXT, END_OF_TURN, save_tokenizer
from tokenizers import Tokenizer

LIMIT = 9_300_000


def quantize(name: str, weight: np.ndarray, config: dict[str, object]) -> dict[str, mx.array]:
    """A parameter as the checkpoint stores it: norms plain, matrices as weight, scales, biases.

    Scales and biases are rounded to bfloat16, as in training.  Norms and the scales of embedding
    and routers are nevertheless stored as float32: their type decides that of the residual stream,
    and MLX's kernels for processors are many times faster in float32.
    """
    array = mx.array(weight)
    if weight.ndim < 2:
        return {name: array}
    stem = name.removesuffix(".weight")
    quantization = config["quantization"]
    how = quantization.get(stem, quantization)
    kind = mx.float32 if stem.endswith(("embed_tokens", "mlp.gate")) else mx.bfloat16
    packed, scales, biases = mx.quantize(array, how["group_size"], how["bits"])
    return {
        name: packed,
        f"{stem}.scales": scales.astype(mx.bfloat16).astype(kind),
        f"{stem}.biases": biases.astype(mx.bfloat16).astype(kind),
    }


def export(
    parameters: dict[str, np.ndarray],
    config: dict[str, object],
    tokenizer: Tokenizer,
    folder: Path,
) -> None:
    """Write weights, configuration and tokenizer; raises if the weights are too large to ship."""
    folder.mkdir(parents=True, exist_ok=True)
    weights: dict[str, mx.array] = {}
    for name, value in parameters.items():
        weights |= quantize(name, value, config)
    path = folder / "model.safetensors"
    mx.save_safetensors(str(path), weights, {"format": "mlx"})
    if path.stat().st_size > LIMIT:
        raise ValueError(f"{path.stat().st_size} bytes of weights, more than {LIMIT}")
    ends = [tokenizer.token_to_id(END_OF_TURN), tokenizer.token_to_id(END_OF_TEXT)]
    full = {**config, "eos_token_id": ends, "pad_token_id": ends[1]}
    (folder / "config.json").write_text(json.dumps(full, indent=2) + "\n", encoding="utf-8")
    advice = {"do_sample": False, "eos_token_id": ends, "pad_token_id": ends[1]}
    text = json.dumps(advice, indent=2) + "\n"
    (folder / "generation_config.json").write_text(text, encoding="utf-8")
    save_tokenizer(tokenizer, folder, int(str(config["max_position_embeddings"])))
