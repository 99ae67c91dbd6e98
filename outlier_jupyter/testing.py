"""Fakes and small checkpoints for tests, of this package and of packages built on it.

`tiny_checkpoint` writes a real safetensors folder that mlx-lm loads, with random weights;
`FakeClock` counts; `FaultyReader` fails on command, `PausedReader` blocks until released. The
package itself imports nothing from here.
"""

from __future__ import annotations

import copy
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_map
from mlx_lm.models.switch_layers import SwitchLinear
from mlx_lm.utils import _get_classes as classes_of
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from .aliases import old_names
from .checkpoint import ByteRange, Identity, KernelReadable, Reader
from .errors import ReadFailed
from .events import Event
from .system.hub import write_hollow

Tensors = dict[str, mx.array]
"""A checkpoint's tensors by name."""

TINY_CONFIG: dict[str, Any] = {
    "model_type": "qwen3_moe",
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "intermediate_size": 64,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "moe_intermediate_size": 64,
    "rms_norm_eps": 1e-6,
    "vocab_size": 260,
    "rope_theta": 10_000.0,
    "tie_word_embeddings": False,
    "max_position_embeddings": 4096,
    "norm_topk_prob": True,
}
"""A qwen3_moe of 3 layers with 8 experts, top-2, width 64."""

DTYPE_NAMES = {mx.uint8: "U8", mx.uint32: "U32", mx.bfloat16: "BF16", mx.float16: "F16",
               mx.float32: "F32"}  # fmt: skip
"""safetensors' names of MLX's dtypes."""

CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_checkpoint(
    folder: Path,
    *,
    bits: int | None = 4,
    group_size: int = 32,
    mode: str = "affine",
    per_path: Mapping[str, dict[str, Any] | bool] | None = None,
    dtype: mx.Dtype = mx.float32,
    expert_dtype: mx.Dtype | None = None,
    shards: int = 1,
    seed: int = 0,
    rewrite: Callable[[nn.Module, Tensors], Tensors] | None = None,
    base: dict[str, Any] = TINY_CONFIG,
    **config: Any,
) -> Path:
    """Write a model with random weights and a byte-level tokenizer to `folder`, and return it.

    Args:
        bits, group_size, mode: quantisation; `bits=None` leaves the weights in `dtype`.
        per_path: another quantisation for some modules' paths (`bits`, `group_size`, `mode`, or
            False for none), as in config["quantization"].
        expert_dtype: of unquantised experts, when it differs from `dtype`.
        shards: number of safetensors files.
        seed: of the weights.
        rewrite: turns MLX's tensors into the tensors to write, for other layouts.
        base, **config: the config, and changes to it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settings = base | config
    mx.random.seed(seed)
    model_class, args_class = classes_of(copy.deepcopy(settings))
    model = model_class(args_class.from_dict(copy.deepcopy(settings)))
    model.update(tree_map(_never_zero, model.parameters()))
    model.set_dtype(dtype)
    if expert_dtype is not None:
        for _, module in model.named_modules():
            if isinstance(module, SwitchLinear):
                module.set_dtype(expert_dtype)
    if bits is not None:
        settings["quantization"] = {"group_size": group_size, "bits": bits, "mode": mode}
        settings["quantization"] |= per_path or {}
        _quantize(model, settings["quantization"])
    mx.eval(model.parameters())
    tensors: Tensors = tree_flatten(model.parameters(), destination={})  # type: ignore[assignment]
    if rewrite is not None:
        tensors = rewrite(model, tensors)
    _save(folder, tensors, shards)
    (folder / "config.json").write_text(json.dumps(settings))
    _byte_tokenizer(folder)
    return folder


def _never_zero(array: mx.array) -> mx.array:
    """Random values in place of zeros: a bias of zeros would hide that it is never added."""
    if mx.any(array).item():
        return array
    if mx.issubdtype(array.dtype, mx.floating):
        return mx.random.normal(array.shape, scale=0.1).astype(array.dtype)
    return mx.random.randint(0, 1 << 30, array.shape).astype(array.dtype)


def _quantize(model: nn.Module, settings: Mapping[str, Any]) -> None:
    def how(path: str, module: nn.Module) -> bool | dict[str, Any]:
        fits = hasattr(module, "to_quantized") and (
            module.weight.shape[-1] % settings["group_size"] == 0
        )
        chosen: bool | dict[str, Any] = settings.get(path, fits)
        return chosen

    nn.quantize(
        model, settings["group_size"], settings["bits"], mode=settings["mode"], class_predicate=how
    )


def hollow_checkpoint(
    folder: Path,
    config: dict[str, Any],
    *,
    bits: int = 4,
    group_size: int = 64,
    mode: str = "affine",
    dtype: mx.Dtype = mx.bfloat16,
    shards: int = 1,
    dense_seed: int | None = None,
) -> Path:
    """Write a model of any size as sparse files: headers and holes, which take no disk space.

    Holes read as zeros, so its experts add nothing. It has no tokenizer unless `dense_seed` is set.

    Args:
        config: the whole config.json, with `model_type`.
        bits, group_size, mode: quantisation.
        dtype: of unquantised weights, and of scales.
        shards: number of safetensors files.
        dense_seed: fills everything but the experts with random values, and adds a tokenizer, so
            that the model loads, runs and routes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model_class, args_class = classes_of(config)
    model = model_class(args_class.from_dict(config))
    model.set_dtype(dtype)
    nn.quantize(model, group_size, bits, mode=mode)  # lazily: nothing is evaluated
    settings = {"group_size": group_size, "bits": bits, "mode": mode}
    (folder / "config.json").write_text(json.dumps(config | {"quantization": settings}))
    tensors: Any = tree_flatten(model.parameters())
    for index in range(shards):
        begin, header = 0, {}
        for name, array in tensors[index::shards]:
            end = begin + array.nbytes
            dtype_name = DTYPE_NAMES[array.dtype]
            header[name] = {
                "dtype": dtype_name, "shape": list(array.shape), "data_offsets": [begin, end],
            }  # fmt: skip
            begin = end
        file = folder / f"model-{index:05d}.safetensors"
        write_hollow(file, header)
        if dense_seed is not None:
            _fill_dense(file, header, np.random.default_rng(dense_seed))
    if dense_seed is not None:
        _byte_tokenizer(folder)
    return folder


def _fill_dense(file: Path, header: dict[str, Any], rng: np.random.Generator) -> None:
    with file.open("r+b") as stream:
        data = 8 + int.from_bytes(stream.read(8), "little")
        for name, entry in header.items():
            # o_proj stays zero: attention then adds nothing, and tokens differ as embeddings do.
            if "switch_mlp" in name or "experts" in name or "o_proj" in name:
                continue
            stream.seek(data + entry["data_offsets"][0])
            if entry["dtype"] == "U32":
                values = rng.integers(0, 1 << 32, entry["shape"], np.uint32)
            else:
                values = rng.normal(size=entry["shape"]).astype(np.float32) * np.float32(0.05)
                if entry["dtype"] == "BF16":  # its bits are a float32's upper half
                    values = (values.view(np.uint32) >> 16).astype(np.uint16)
                elif entry["dtype"] == "F16":
                    values = values.astype(np.float16)
            stream.write(values.tobytes())


def _save(folder: Path, tensors: Tensors, shards: int) -> None:
    names = sorted(tensors)
    for index in range(shards):
        file = f"model-{index:05d}.safetensors" if shards > 1 else "model.safetensors"
        mine = {name: tensors[name] for name in names[index::shards]}
        mx.save_safetensors(str(folder / file), mine, metadata={"format": "mlx"})


def _byte_tokenizer(folder: Path) -> None:
    """One token per byte, and three special ones: begin and end of a turn, end of text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: index for index, character in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>", "<|endoftext|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "eos_token": "<|im_end|>",
                "chat_template": CHAT_TEMPLATE,
            }
        )
    )


@dataclass
class FakeClock:
    """A clock that stands still, or advances by `tick` nanoseconds at every call."""

    now: int = 0
    tick: int = 0

    def __call__(self) -> int:
        self.now += self.tick
        return self.now


@dataclass
class EventLog:
    """A sink that keeps every event in order."""

    events: list[Event] = field(default_factory=list)

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    def kinds(self) -> list[str]:
        """The names of the events' types, in order."""
        return [type(event).__name__ for event in self.events]


FAULTS = ("error", "short", "slow", "changed")
"""What a `FaultyReader` may do to a read: fail, with other bytes in the memory; fail after half of
the bytes; be 20 ms late; return other bytes, after which the file counts as written to."""
SLOW_S = 0.02


class FaultyReader:
    """Forwards reads to a real reader, except those for which `fails(range)` is true.

    `fails` returns one of `FAULTS`, True for "error", or False or "" for a read that succeeds.

    Attributes:
        reads: number of reads so far; `inner`, the real reader.
    """

    def __init__(self, reader: Reader, fails: Callable[[ByteRange], bool | str]) -> None:
        self.name = reader.name
        self.fails = fails
        self.reads = 0
        self.inner = reader
        self._changed = ""

    @property
    def note(self) -> str:
        """As the real reader's."""
        return self.inner.note

    @note.setter
    def note(self, text: str) -> None:
        """Set the real reader's."""
        self.inner.note = text

    def read(self, where: ByteRange, into: memoryview) -> None:
        """Read; or overwrite the memory, as a torn read would, and raise ReadFailed."""
        self.scatter(where, [into])

    def scatter(self, where: ByteRange, into: Sequence[memoryview]) -> None:
        """As `read`, into several pieces."""
        self.reads += 1
        fault = self.fails(where)
        if fault == "slow":
            time.sleep(SLOW_S)
        if not fault or fault in ("slow", "short"):
            self.inner.scatter(where, into) if len(into) > 1 else self.inner.read(where, into[0])
        if not fault or fault == "slow":
            return
        torn = len(into) // 2 if fault == "short" and len(into) > 1 else 0
        for view in into[torn:]:
            half = len(view) // 2 if fault == "short" and not torn else 0
            np.frombuffer(view, np.uint8)[half:] = 0xA5
        if fault != "changed":
            raise ReadFailed(f"made to fail at {where.offset} of {where.file.name}")
        self._changed = f"{where.file.name} was written to after the model was loaded"

    def kernel_readable(self, where: ByteRange) -> KernelReadable | None:
        """None, so that every read passes through this reader."""
        return None

    def changed(self, before: Mapping[Path, Identity] | None = None) -> str:
        """As the real reader's; or that a read was made to return other bytes."""
        return self._changed or self.inner.changed(before)

    def buffer_nbytes(self) -> int:
        """As the real reader's."""
        return self.inner.buffer_nbytes()

    def close(self) -> None:
        """Close the real reader."""
        self.inner.close()


class PausedReader(FaultyReader):
    """Blocks every read until `release`; a read that is blocked for `patience_s` fails.

    Attributes:
        waiting: number of blocked reads; `done`, of completed ones.
    """

    def __init__(self, reader: Reader, patience_s: float = 20.0) -> None:
        super().__init__(reader, self._block)
        self.waiting = self.done = 0
        self._patience_s = patience_s
        self._gate = threading.Event()

    def release(self) -> None:
        """Let all reads through from now on."""
        self._gate.set()

    def _block(self, where: ByteRange) -> bool:
        self.waiting += 1
        open_now = self._gate.wait(self._patience_s)
        self.waiting -= 1
        self.done += open_now
        return not open_now


__getattr__ = old_names(__name__, HeldReader="PausedReader")
