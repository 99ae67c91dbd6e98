"""Writes the benchmark's Qwen3-30B-A3B geometry as a GGUF of Q4_0, for llama.cpp.

    python write_gguf.py FOLDER TARGET

Run by the peers' own Python, which has `gguf` and NumPy. FOLDER is the model that the benchmark
made, with `config.json`, `routes.npz` and `gates.npy` (8-bit router codes [layers, experts,
width]). The construction is that of our model: one nonzero number in a token's embedding, routers
that follow the routes, additions to the hidden state scaled down, a head that predicts the next
token. It has 4.5 bits per weight, as affine 4-bit in groups of 64 has.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFWriter, TokenType

BLOCK, BLOCK_NBYTES = 32, 18
POOL = 1 << 20
"""Blocks of random weights that all packed tensors are taken from."""
SMALL, QUIET = 0.002, 6.2e-5
"""Scales; the second is the least normal float16."""
EMBEDDED = 32768
"""The one number of a token's embedding: too large for the layers' additions to change routing."""
QUIET_NAMES = ("attn_output", "ffn_down_exps")
NUMBERS = {
    "context_length": "max_position_embeddings", "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers", "feed_forward_length": "intermediate_size",
    "head_count": "num_attention_heads", "head_count_kv": "num_key_value_heads",
    "key_length": "head_dim", "value_length": "head_dim",
    "layer_norm_rms_eps": "rms_norm_eps", "rope_freq_base": "rope_theta",
    "expert_count": "num_experts", "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
}  # fmt: skip
"""GGUF's names of a model's numbers → those of `config.json`."""


def pool(scale: float) -> np.ndarray:
    """Q4_0 blocks: a float16 scale and sixteen random bytes."""
    random = np.random.default_rng(0)
    blocks = random.integers(0, 256, (POOL, BLOCK_NBYTES), np.uint8)
    blocks[:, :2] = np.frombuffer(np.float16(scale).tobytes(), np.uint8)
    return blocks


def head(shape: tuple[int, int], follows: np.ndarray) -> np.ndarray:
    """Q4_0 [vocabulary, width]: the row of the token after token t has a seven in column t."""
    blocks = np.full((shape[0], shape[1] // BLOCK, BLOCK_NBYTES), 0x88, np.uint8)
    blocks[..., :2] = np.frombuffer(np.float16(1).tobytes(), np.uint8)
    for token, after in enumerate(follows):
        block, at = divmod(token, BLOCK)
        low = at < BLOCK // 2
        blocks[after, block, 2 + at % (BLOCK // 2)] = 0x8F if low else 0xF8
    return blocks


def tensors(config: dict[str, Any]) -> list[tuple[str, tuple[int, ...], Kind]]:
    """Name, shape and kind of each, in the file's order."""
    hidden, width, experts = (config[n] for n in (
        "hidden_size", "moe_intermediate_size", "num_experts"))  # fmt: skip
    size = config["head_dim"]
    queries, keys = (config[n] * size for n in ("num_attention_heads", "num_key_value_heads"))
    packed, plain = Kind.Q4_0, Kind.F32
    found = [
        ("token_embd.weight", (config["vocab_size"], hidden), Kind.F16),
        ("output_norm.weight", (hidden,), plain),
        ("output.weight", (config["vocab_size"], hidden), packed),
    ]
    for i in range(config["num_hidden_layers"]):
        layer = {
            "attn_norm": ((hidden,), plain), "attn_q": ((queries, hidden), packed),
            "attn_k": ((keys, hidden), packed), "attn_v": ((keys, hidden), packed),
            "attn_q_norm": ((size,), plain), "attn_k_norm": ((size,), plain),
            "attn_output": ((hidden, queries), packed), "ffn_norm": ((hidden,), plain),
            "ffn_gate_inp": ((experts, hidden), plain),
            "ffn_gate_exps": ((experts, width, hidden), packed),
            "ffn_up_exps": ((experts, width, hidden), packed),
            "ffn_down_exps": ((experts, hidden, width), packed),
        }  # fmt: skip
        found += [(f"blk.{i}.{name}.weight", *rest) for name, rest in layer.items()]
    return found


def about(writer: GGUFWriter, config: dict[str, Any]) -> None:
    """Write the model's numbers, and a vocabulary of its size."""
    for theirs, ours in NUMBERS.items():
        getattr(writer, f"add_{theirs}")(config[ours])
    size = config["vocab_size"]
    writer.add_tokenizer_model("llama")
    writer.add_token_list([f"<t{token}>" for token in range(size)])
    writer.add_token_scores([0.0] * size)
    writer.add_token_types([TokenType.USER_DEFINED] * size)  # found whole in a text
    writer.add_bos_token_id(size - 2)
    writer.add_eos_token_id(size - 1)
    writer.add_unk_token_id(size - 3)
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)


def values(name: str, shape: tuple[int, ...], kind: Kind, made: dict[str, Any]) -> np.ndarray:
    """A tensor's data."""
    if name == "token_embd.weight":
        rows = np.zeros(shape, np.float16)
        count = len(made["follows"])
        rows[np.arange(count), np.arange(count)] = EMBEDDED
        return rows
    if name == "output.weight":
        return head(shape, made["follows"])
    if "ffn_gate_inp" in name:
        codes = made["gates"][int(name.split(".")[1])].astype(np.float32)
        return codes / np.float32(20 * np.sqrt(shape[1]))
    if kind == Kind.F32:
        return np.ones(shape, np.float32)
    blocks = made["quiet" if any(part in name for part in QUIET_NAMES) else "small"]
    count = int(np.prod(shape)) // BLOCK
    first = made["random"].integers(0, POOL)
    return np.resize(np.roll(blocks, -first, axis=0), (count, BLOCK_NBYTES))


def main() -> None:
    """Write it."""
    folder, target = Path(sys.argv[1]), Path(sys.argv[2])
    config = json.loads((folder / "config.json").read_text())
    routes = np.load(folder / "routes.npz")
    tokens = np.arange(len(routes["picks"]))
    length = int(routes["tokens"])
    made = {
        "gates": np.load(folder / "gates.npy"), "small": pool(SMALL), "quiet": pool(QUIET),
        "follows": tokens // length * length + (tokens % length + 1) % length,
        "random": np.random.default_rng(1),
    }  # fmt: skip
    beside = target.with_suffix(".partial")
    writer = GGUFWriter(str(beside), "qwen3moe")
    about(writer, config)
    listed = tensors(config)
    for name, shape, kind in listed:
        count = int(np.prod(shape))
        nbytes = {Kind.F32: 4 * count, Kind.F16: 2 * count}.get(kind, count // BLOCK * BLOCK_NBYTES)
        writer.add_tensor_info(name, shape, np.dtype(np.float32), nbytes, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, shape, kind in listed:
        writer.write_tensor_data(values(name, shape, kind, made))
    writer.close()
    beside.replace(target)


if __name__ == "__main__":
    main()
