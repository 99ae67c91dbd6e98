"""Compiles a model's kernels ahead of their first use, and reports the progress."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from .append_kv import append_kv_task
from .attention import attention_task
from .compiled import task_loop
from .experts import hidden_task, output_task
from .formats import parse
from .gated_delta import convolve_task, delta_task
from .gating import blend_task, gate_task
from .head_products import heads_task
from .kernel_chain import chain_runner
from .likeliest import likeliest_loop
from .linear import arrange_task, matrix_task
from .norm_and_top_k import choose_task, layer_norm_task, norm_task
from .prefill_matmul import activate_task, quantise_task, tile_task, unpack_task
from .rope import rope_task
from .token_loop import submit_task, token_runner

Work = tuple[Callable[..., Any], tuple[str | int, ...]]
"""A function that compiles one kernel, and its arguments."""


def for_matrix(name: str) -> list[Work]:
    """The kernels of dense matrices in format `name`."""
    return [(arrange_task, (name,)), (matrix_task, (name,)), *_many_rows(name, "none")]


def for_experts(first: str, second: str, activation: str, bias: str) -> list[Work]:
    """The kernels of experts with up and gate in format `first`, down in `second`."""
    return [
        (arrange_task, (first,)),
        (hidden_task, (first, second, activation, bias)),
        (output_task, (second, bias)),
        *_many_rows(first, bias),
        *_many_rows(second, bias),
        (activate_task, (activation,)),
    ]


def _many_rows(name: str, bias: str) -> list[Work]:
    """The kernels that multiply many rows with matrices in format `name`."""
    if parse(name).kind == "plain":
        return [(unpack_task, (name,))]
    return [(quantise_task, (name,)), (tile_task, (name, bias))]


def for_attention(kind: str) -> list[Work]:
    """The kernels of attention over a cache of type `kind`."""
    return [(attention_task, (kind,)), (append_kv_task, (kind,)), (rope_task, ())]


def for_heads(name: str) -> list[Work]:
    """The kernels of matrices of heads in format `name`."""
    return [(arrange_task, (name,)), (heads_task, (name,)), (layer_norm_task, ())]


def for_delta(taps: int, by_column: bool, swish: bool) -> list[Work]:
    """The kernels of a gated delta net with a convolution over `taps` tokens."""
    return [(convolve_task, (taps,)), (delta_task, (int(by_column), int(swish)))]


def for_layers() -> list[Work]:
    """The kernels of whole decoder layers, beside those of matrices, experts and attention."""
    gates: list[Work] = [(gate_task, (swish,)) for swish in (0, 1)]
    alone = chain_runner, submit_task, token_runner, norm_task, choose_task, blend_task
    return gates + [(compile_one, ()) for compile_one in alone]


def precompile(work: Iterable[Work], progress: Callable[[int, int], None] | None = None) -> None:
    """Compile each kernel of `work`, or load it from the cache.

    Args:
        progress: called with (done, total) before the first and after each.
    """
    always: list[Work] = [(task_loop, ()), (likeliest_loop, ())]
    each = list(dict.fromkeys([*always, *work]))
    for done, (compile_one, names) in enumerate(each):
        if progress is not None:
            progress(done, len(each))
        compile_one(*names)
    if progress is not None:
        progress(len(each), len(each))
