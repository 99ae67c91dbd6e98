"""Models of published geometries with random weights, whose routers follow recorded routes.

The routes are encoded in the weights, so no engine needs to know of them:

- a token's embedding is one number in its own dimension;
- attention and experts add nearly nothing to it, so every layer sees it;
- a layer's router has, in that dimension, large weights for the experts of the route;
- the output head makes the next token of the text the likeliest.

So any engine that computes the model decodes the text of the trace with its routing, and reads and
multiplies as much as a real model of this geometry. The vocabulary is smaller than the real one.
Layers may share their bytes on disk ("aliased"): each still has its own name, and is cached and
read separately.
"""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt
from mlx.utils import tree_flatten
from mlx_lm.utils import _get_classes as classes_of
from tokenizers import Tokenizer, models

from .routing import Routes

BITS, GROUP = 4, 64
DTYPES = {mx.uint32: "U32", mx.bfloat16: "BF16", mx.float16: "F16", mx.float32: "F32"}
QUIET = ("o_proj", "out_proj", "down_proj")
"""Projections that add to the hidden state; here they add nearly nothing."""
EMBEDDED = 16.0
"""The only non-zero number of a token's embedding."""
LAYER = re.compile(r"(?<=layers\.)(\d+)\.")
ABOUT = "bench.json"
MOST_TEXTS = 12
POOL = 32 << 20
"""Random bytes per file from which weights are taken: their values do not affect the speed."""

GEOMETRIES: dict[str, dict[str, Any]] = {
    "30b": {
        "model_type": "qwen3_moe", "hidden_size": 2048, "num_hidden_layers": 48,
        "intermediate_size": 6144, "num_attention_heads": 32, "num_key_value_heads": 4,
        "head_dim": 128, "num_experts": 128, "num_experts_per_tok": 8,
        "decoder_sparse_step": 1, "mlp_only_layers": [], "moe_intermediate_size": 768,
        "rms_norm_eps": 1e-6, "vocab_size": 8192, "rope_theta": 1e6, "norm_topk_prob": True,
        "tie_word_embeddings": False, "max_position_embeddings": 40960,
    },
    "397b": {
        "model_type": "qwen3_5_moe",
        "text_config": {
            "model_type": "qwen3_5_moe_text", "hidden_size": 4096, "num_hidden_layers": 60,
            "num_attention_heads": 32, "num_key_value_heads": 2, "head_dim": 256,
            "vocab_size": 8192, "linear_num_value_heads": 64, "linear_num_key_heads": 16,
            "linear_key_head_dim": 128, "linear_value_head_dim": 128,
            "max_position_embeddings": 262144, "num_experts": 512, "num_experts_per_tok": 10,
            "moe_intermediate_size": 1024, "shared_expert_intermediate_size": 1024,
        },
    },
}  # fmt: skip
"""Qwen3-30B-A3B and Qwen3.5-397B-A17B, with a vocabulary of 8,192."""


@dataclass(frozen=True)
class Shape:
    """The sizes in a config that the benchmark needs."""

    layers: int
    experts: int
    k: int
    hidden: int
    vocabulary: int

    @classmethod
    def of(cls, config: dict[str, Any]) -> Shape:
        """Read them from a config.json."""
        inner = config.get("text_config", config)
        names = ("num_hidden_layers", "num_experts", "num_experts_per_tok", "hidden_size",
                 "vocab_size")  # fmt: skip
        return cls(*(int(inner[name]) for name in names))

    def texts(self, tokens: int) -> int:
        """The number of texts of `tokens` tokens to make: each token needs a dimension."""
        return min(MOST_TEXTS, min(self.hidden, self.vocabulary) // tokens)


def config_of(name: str, layers: int | None = None) -> dict[str, Any]:
    """A geometry's config.json, optionally with fewer layers."""
    config = copy.deepcopy(GEOMETRIES[name])
    if layers is not None:
        config.get("text_config", config)["num_hidden_layers"] = layers
    return config


def write_model(
    folder: Path,
    config: dict[str, Any],
    routes: Routes,
    *,
    distinct: int | None = None,
) -> Path:
    """Write the model, unless it exists already with these routes.

    Args:
        distinct: number of layers with their own bytes; the others share them in turn.
    """
    shape = Shape.of(config)
    distinct = min(distinct or shape.layers, shape.layers)
    about = {"config": config, "routes": routes.description, "distinct": distinct, "version": 1}
    made = folder / ABOUT
    if made.exists() and made.read_text() == json.dumps(about):
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tensors, quantization = _tensors(config)
    files: dict[str, dict[str, Any]] = {}
    for name, entry in tensors.items():
        layer = LAYER.search(name)
        file = f"layer-{int(layer[1]) % distinct:03}" if layer else "rest"
        files.setdefault(file, {})[name] = entry
    for file, mine in sorted(files.items()):
        # Experts first: their rows are whole pages, and the data begins on one.
        mine = dict(sorted(mine.items(), key=lambda item: "switch_mlp" not in item[0]))
        _write_file(folder / f"model-{file}.safetensors", mine, routes)
    (folder / "config.json").write_text(json.dumps(config | {"quantization": quantization}))
    _write_tokenizer(folder, shape.vocabulary)
    made.write_text(json.dumps(about))
    return folder


def prompt_of(tokens: list[int]) -> str:
    """The text that the model's tokenizer encodes to these tokens."""
    return "".join(f"<t{token}>" for token in tokens)


def _tensors(config: dict[str, Any]) -> tuple[dict[str, tuple[str, tuple[int, ...]]], Any]:
    """Name → dtype and shape of all tensors that mlx-lm would save, and the quantisation config."""
    model_class, args_class = classes_of(copy.deepcopy(config))
    model = model_class(args_class.from_dict(copy.deepcopy(config)))
    model.set_dtype(mx.bfloat16)
    settings: dict[str, Any] = {"group_size": GROUP, "bits": BITS, "mode": "affine"}
    rule = getattr(model, "quant_predicate", None) or (lambda path, module: True)

    def how(path: str, module: nn.Module) -> Any:
        if not hasattr(module, "to_quantized"):
            return False
        chosen = rule(path, module)
        if isinstance(chosen, dict):
            settings[path] = chosen
        return chosen

    nn.quantize(model, GROUP, BITS, class_predicate=how)  # lazily: nothing is evaluated
    flat: Any = tree_flatten(model.parameters())
    return {name: (DTYPES[a.dtype], tuple(a.shape)) for name, a in flat}, settings


def _write_file(file: Path, tensors: dict[str, Any], routes: Routes) -> None:
    """Write a safetensors file. Tensors that layers share are written once and named twice."""
    places: dict[object, tuple[int, int]] = {}
    header, order, end = {}, [], 0
    for name, (dtype, shape) in tensors.items():
        own = ".gate." in name and "mlp" in name
        key: object = name if own else (LAYER.sub("", name), dtype, shape)
        if key not in places:
            nbytes = int(np.prod(shape)) * (4 if dtype in ("U32", "F32") else 2)
            places[key] = (end, end + nbytes)
            end += nbytes
            order.append((name, dtype, shape))
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": list(places[key])}
    text = json.dumps(header).encode()
    text += b" " * (-(len(text) + 8) % 4096)
    rng = np.random.default_rng(zlib.crc32(file.name.encode()))
    pool = rng.bytes(POOL)
    with file.open("wb", buffering=0) as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for name, dtype, shape in order:
            for part in _values(name, dtype, shape, routes, rng, pool):
                left = np.ascontiguousarray(part).data.cast("B")
                while left:
                    left = left[stream.write(left) :]
        os.fsync(stream.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _values(
    name: str, dtype: str, shape: tuple[int, ...], routes: Routes, rng: np.random.Generator,
    pool: bytes,
) -> Iterator[npt.NDArray[Any]]:  # fmt: skip
    """A tensor's values, in pieces; packed weights are the pool's bytes from a random offset."""
    kind = name.rpartition(".")[2]
    if "embed_tokens" in name or "lm_head" in name:
        yield _rows_of_tokens(name, kind, shape, routes)
    elif ".mlp.gate." in name:
        yield _router(name, kind, shape, routes, rng)
    elif dtype == "U32":
        left = int(np.prod(shape)) * 4
        while left:
            begin = int(rng.integers(0, POOL // 2))
            piece = np.frombuffer(pool, np.uint8, min(left, POOL // 2), begin)
            left -= len(piece)
            yield piece
    elif kind in ("scales", "biases"):
        scale = 1e-8 if any(part in name for part in QUIET) else 0.002
        value = scale if kind == "scales" else -7.5 * scale
        yield np.full(shape, bf16(np.float32(value)), np.uint16)
    else:
        few = np.ones(shape, np.float32) if len(shape) == 1 else rng.normal(0, 0.05, shape)
        yield few.astype(np.float32) if dtype == "F32" else bf16(few)


def bf16(values: Any) -> npt.NDArray[np.uint16]:
    """float32 → the bits of bfloat16, truncated."""
    wide = np.asarray(values, np.float32).view(np.uint32)
    return (wide >> 16).astype(np.uint16)


def _rows_of_tokens(name: str, kind: str, shape: tuple[int, ...], routes: Routes) -> Any:
    """Embedding: token t has its number in dimension t. Head: the token after t has it there."""
    if kind != "weight":
        full = EMBEDDED / 15 if "embed" in name else 0.1
        return np.full(shape, bf16(np.float32(full if kind == "scales" else 0)), np.uint16)
    codes = np.zeros(shape, np.uint32)
    tokens = np.arange(len(routes.picks))
    at = tokens if "embed" in name else np.array([routes.after(int(token)) for token in tokens])
    codes[at, tokens // 8] = np.uint32(15) << (4 * (tokens % 8)).astype(np.uint32)
    return codes


def _router(
    name: str, kind: str, shape: tuple[int, ...], routes: Routes, rng: np.random.Generator
) -> Any:
    """8-bit codes: up to 200 for the experts of the route, at most 40 for the others."""
    if kind != "weight":
        hidden = shape[1] * GROUP
        scale = np.float32(1 / (20 * np.sqrt(hidden)))
        return np.full(shape, bf16(scale if kind == "scales" else np.float32(0)), np.uint16)
    found = LAYER.search(name)
    assert found is not None
    layer = int(found[1])
    return router_codes(routes, layer, shape[0], shape[1] * 4, rng).view(np.uint32)


def router_codes(
    routes: Routes, layer: int, experts: int, hidden: int, rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """uint8 [experts, hidden]: column t ranks the experts for token t; 20 is a logit of one."""
    codes = rng.integers(0, 41, (experts, hidden), np.uint8)
    picks = routes.picks[:, layer].astype(np.int64)
    tokens, k = picks.shape
    worth = (200 - (100 // k) * np.arange(k)).astype(np.uint8)
    codes[picks, np.arange(tokens)[:, None]] = worth
    return codes


def _write_tokenizer(folder: Path, vocabulary: int) -> None:
    """One added token per id: <t0>, <t1>, …; every tokenizer class keeps added tokens whole."""
    words = {f"<t{token}>": token for token in range(vocabulary)}
    tokenizer = Tokenizer(models.BPE(words, []))
    tokenizer.add_special_tokens(list(words))
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": f"<t{vocabulary - 1}>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
