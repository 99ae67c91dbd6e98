"""Probes a model's lazy graph for its top-k and the size of its KV cache.

MLX knows the shapes of arrays that it has not computed. So a forward pass that is built and dropped
shows how many experts each layer chooses and how its KV cache grows, for every family, with
mlx-lm's own code. Nothing is evaluated and no weight is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchGLU, SwitchLinear

from .install import MoeSwitch, replace

LENGTHS = (256, 512)
"""Prompt lengths, in tokens, whose KV caches are compared: multiples of the 256 in which mlx-lm's
caches grow, and short, because some layers build one node per token."""


@dataclass(frozen=True)
class KVPart:
    """One of mlx-lm's caches, in numbers.

    Attributes:
        kind: the name of its class.
        shapes: of its arrays, by their place in its state.
    """

    kind: str
    shapes: dict[str, tuple[int, ...]]

    @classmethod
    def of(cls, cache: Any) -> KVPart:
        """That of a cache, which may be lazy."""
        arrays: Any = tree_flatten(cache.state)
        shapes = {at: tuple(part.shape) for at, part in arrays if isinstance(part, mx.array)}
        return cls(type(cache).__name__, shapes)


@dataclass(frozen=True)
class Probed:
    """What a forward pass needs.

    Attributes:
        top_k: experts per token of each MoE layer.
        kv_nbytes_per_token: bytes by which the KV cache grows with each token of a long context.
        kv_nbytes_fixed: the KV cache's other bytes: windows of sliding attention, recurrent states.
        kv_parts: the KV cache of a short prompt, part by part; composite ones are taken apart.
    """

    top_k: tuple[int, ...]
    kv_nbytes_per_token: int
    kv_nbytes_fixed: int
    kv_parts: tuple[KVPart, ...] = ()


def probe(
    model: nn.Module,
    switches: tuple[MoeSwitch, ...],
    stored_type: Callable[[nn.Module], mx.Dtype | None] | None = None,
) -> Probed | None:
    """Build a forward pass of a lazily loaded `model`; None where that fails.

    Meanwhile stubs that compute nothing replace the model's switches.

    Args:
        stored_type: given if activations are float32, as with the CPU kernels, and so KV caches
            but of modules for which it returns another type.
    """
    stubs = [_Stub(switch) for switch in switches]
    try:
        for switch, stub in zip(switches, stubs, strict=True):
            replace(model, switch.path, stub)
        with nullcontext() if stored_type is None else _activations_in_float32(model, stored_type):
            caches, later = (_kv_after(model, length) for length in LENGTHS)
        short, long = [_nbytes(cache) for cache in caches], [_nbytes(cache) for cache in later]
        parts = tuple(map(KVPart.of, caches))
    except Exception:  # a model of any family may fail in any way; the plan then says less
        return None
    finally:
        for switch in switches:
            replace(model, switch.path, switch.module)
    if not all(stub.top_k for stub in stubs):
        return None
    growth = fixed = 0
    for cache, few, many in zip(caches, short, long, strict=True):
        slope = (many - few) // (LENGTHS[1] - LENGTHS[0])
        window = getattr(cache, "max_size", None)
        growth += 0 if window else slope
        fixed += slope * window if window else few - slope * LENGTHS[0]
    return Probed(tuple(stub.top_k for stub in stubs), growth, fixed, parts)


@contextmanager
def _activations_in_float32(
    model: nn.Module, stored_type: Callable[[nn.Module], mx.Dtype | None]
) -> Iterator[None]:
    """Have embeddings return float32 within the block, and attention store its own type."""
    found, kinds = [], []
    for _, module in model.named_modules():
        stored = stored_type(module)
        if stored is not None or isinstance(module, nn.Embedding | nn.QuantizedEmbedding):
            found.append(module)
            kinds.append(type(module))
            mixed: type = _InFloat32 if stored is None else _Stores
            module.__class__ = type(kinds[-1].__name__, (mixed, kinds[-1]), {"_stored": stored})
    try:
        yield
    finally:
        for module, kind in zip(found, kinds, strict=True):
            module.__class__ = kind


class _InFloat32:
    """Mixed into an embedding's class: its output in float32."""

    def __call__(self, x: mx.array) -> mx.array:
        found: mx.array = super().__call__(x)  # type: ignore[misc]  # the other base has it
        return found.astype(mx.float32)


class _Stores:
    """Mixed into an attention's class: keys and values are stored in another type."""

    _stored: mx.Dtype

    def __call__(self, x: mx.array, mask: Any = None, cache: Any = None) -> mx.array:
        found: mx.array = super().__call__(x, mask, cache)  # type: ignore[misc]  # as above
        first = getattr(cache, "caches", (cache,))[0]  # before an indexer's
        first.keys, first.values = (
            part.astype(self._stored) for part in (first.keys, first.values)
        )
        return found


def _kv_after(model: nn.Module, length: int) -> list[Any]:
    """The KV caches after a prompt of `length` tokens; composite ones are taken apart."""
    kv = make_prompt_cache(model)
    model(mx.zeros((1, length), mx.int32), cache=kv)
    return kv_parts(kv)


def kv_parts(kv: list[Any]) -> list[Any]:
    """A model's caches, with composite ones taken apart."""
    return [part for layer in kv for part in getattr(layer, "caches", (layer,))]


def _nbytes(cache: Any) -> int:
    arrays: Any = tree_flatten(cache.state)
    return sum(array.nbytes for _, array in arrays if isinstance(array, mx.array))


def dense_nbytes(model: nn.Module, switches: Sequence[MoeSwitch]) -> int:
    """Bytes of all weights but the experts of `switches`, which must still be in `model`."""
    return _weights(model) - sum(_weights(switch.module) for switch in switches)


def embedding_nbytes(model: nn.Module) -> int:
    """Bytes of an input embedding, of which a token reads a row; 0 if it is the output's, too."""
    arrays: Any = tree_flatten(model.parameters())
    if not any("lm_head" in name for name, _ in arrays):
        return 0
    return sum(array.nbytes for name, array in arrays if "embed_tokens" in name)


def _weights(module: nn.Module) -> int:
    arrays: Any = tree_flatten(module.parameters())
    return sum(array.nbytes for _, array in arrays)


def expert_format(switch: MoeSwitch) -> str:
    """How a layer's experts are stored, in words: `affine 4-bit, group 64`, `BF16`."""
    words: dict[str, None] = {}
    for child in switch.module.children().values():
        if isinstance(child, QuantizedSwitchLinear):
            words[f"{child.mode} {child.bits}-bit, group {child.group_size}"] = None
        elif isinstance(child, SwitchLinear):
            words[str(child.weight.dtype).rpartition(".")[2]] = None
    return " and ".join(words)


class _Stub(nn.Module):
    """Replaces a switch: records k, and returns zeros of the right shape."""

    def __init__(self, switch: MoeSwitch) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # mlx.nn's has no types
        object.__setattr__(self, "_inner", switch.module)
        self._inner: Any
        object.__setattr__(self, "top_k", 0)
        self.top_k: int

    def __getattr__(self, name: str) -> object:
        if name.startswith("_") or name == "top_k":
            raise AttributeError(name)
        return getattr(self._inner, name)

    def __call__(self, x: mx.array, indices: mx.array, *rest: object) -> mx.array:
        object.__setattr__(self, "top_k", indices.shape[-1])
        last = self._inner.down_proj if isinstance(self._inner, SwitchGLU) else self._inner.fc2
        return mx.zeros((*indices.shape, last.weight.shape[1]), x.dtype)
