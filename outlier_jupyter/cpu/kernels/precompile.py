"""Compile what a model will need before it is asked for, and tell how far that is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from .attention import attention_task, keep_task
from .compiled import dealer
from .experts import hidden_task, look_up_task, output_task
from .kernel_chain import chain_runner
from .linear import arrange_task, matrix_task
from .norm_and_top_k import blend_task, choose_task, norm_task
from .prefill_attention import causal_task
from .prefill_matmul import activate_task, unpack_task
from .rope import turn_task

Work = tuple[Callable[..., Any], tuple[str, ...]]
"""A function that compiles one kernel, and the names it is called with."""


def for_matrix(name: str) -> list[Work]:
    """What dense matrices of format `name` need."""
    return [(arrange_task, (name,)), (matrix_task, (name,)), (unpack_task, (name,))]


def for_experts(first: str, second: str, activation: str, bias: str) -> list[Work]:
    """What experts need, with up and gate in format `first`, down in `second`."""
    return [
        (arrange_task, (first,)),
        (hidden_task, (first, second, activation, bias)),
        (output_task, (second, bias)),
        (look_up_task, ()),
        (unpack_task, (first,)),
        (unpack_task, (second,)),
        (activate_task, (second, activation, bias)),
    ]


def for_attention(kind: str) -> list[Work]:
    """What attention over a cache of type `kind` needs."""
    return [(attention_task, (kind,)), (causal_task, (kind,)), (turn_task, ())]


def for_layers() -> list[Work]:
    """What whole decoder layers need beside matrices, experts and attention."""
    return [
        (compile_one, ())
        for compile_one in (chain_runner, norm_task, choose_task, keep_task, blend_task)
    ]


def warm(work: Iterable[Work], progress: Callable[[int, int], None] | None = None) -> None:
    """Compile, or load from the cache, everything in `work` once.

    Args:
        progress: called with (done, of how many) before the first and after each.
    """
    always: list[Work] = [(dealer, ())]
    each = list(dict.fromkeys([*always, *work]))
    for done, (compile_one, names) in enumerate(each):
        if progress is not None:
            progress(done, len(each))
        compile_one(*names)
    if progress is not None:
        progress(len(each), len(each))
