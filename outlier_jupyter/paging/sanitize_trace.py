"""What mlx-lm's own `sanitize` does to a checkpoint's tensors, traced and not repeated.

A checkpoint may hold experts stacked, one by one, fused, interleaved, transposed, under any name;
how they become a model's tensors is written down once, in the model's `sanitize`. Here it is run
on placeholders under MLX's own tracer, which hands out the graph, and the graph's movements of
data become `ArrayView`s: where each element of a model's tensor lies on disk. No weight is read.
Arithmetic has no place on disk: what is computed is said to be, with the operation's name.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..checkpoint import ArrayView, Checkpoint, NotAddressable
from ..system.interrupt import deferred
from .slots import MLX_DTYPES

_patching = threading.Lock()


@dataclass(frozen=True)
class Moved:
    """A tensor of the model whose elements lie on disk as they are."""

    view: ArrayView
    dtype: mx.Dtype


@dataclass(frozen=True)
class Computed:
    """A tensor of the model that mlx-lm computes from what is on disk.

    Attributes:
        how: the operation that makes it no movement of data; "" for a constant.
        nbytes: how much of the checkpoint goes into it.
    """

    how: str
    nbytes: int


Recipe = Moved | Computed


def trace_sanitize(
    model: nn.Module, checkpoint: Checkpoint, wanted: Sequence[str]
) -> dict[str, Recipe]:
    """How each tensor in `wanted`, names of the model's parameters, is made of the checkpoint's.

    Names that `sanitize` does not give are left out. The model's parameters are not touched.
    """
    spans = {name: s for name, s in checkpoint.spans.items() if s.dtype in MLX_DTYPES}
    raw = [mx.zeros(span.shape, MLX_DTYPES[span.dtype]) for span in spans.values()]
    leaves: list[Recipe] = [
        Moved(span.view(), array.dtype) for span, array in zip(spans.values(), raw, strict=True)
    ]
    sanitize = getattr(model, "sanitize", dict)
    given: list[str] = []

    def run(*tensors: mx.array) -> list[mx.array]:
        made = sanitize(dict(zip(spans, tensors, strict=True)))
        given[:] = [name for name in wanted if name in made]
        return [made[name] for name in given]

    graph = _Graph(leaves)
    try:
        with deferred(), _contiguous_is_transparent():
            mx.export_function(graph, run, *raw)
    except ValueError as error:
        # What cannot be exported is no movement of data; `sanitize` itself has run before, in
        # mlx-lm's own loading, so its own complaints do not come here.
        how = str(error).rpartition("primitive ")[2]
        return dict.fromkeys(wanted, Computed(how, checkpoint_nbytes(checkpoint)))
    return dict(zip(given, graph.results(), strict=True))


def checkpoint_nbytes(checkpoint: Checkpoint) -> int:
    """Bytes of all tensors of the checkpoint."""
    return sum(span.bytes.nbytes for span in checkpoint.spans.values())


@contextmanager
def _contiguous_is_transparent() -> Iterator[None]:
    """Let `mx.contiguous` hand on its argument: MLX 0.32's tracer cannot express it.

    The values are the same either way, also for another thread that calls it meanwhile. To be used
    with interrupts deferred: one that came as this is entered would leave the lock taken.
    """
    with _patching:
        real = mx.contiguous
        mx.contiguous = lambda a, *_, **__: a
        try:
            yield
        finally:
            mx.contiguous = real


class _Graph:
    """Called by `mx.export_function` with one part of the graph after the other."""

    def __init__(self, leaves: Sequence[Recipe]) -> None:
        self._leaves = leaves
        self._made: dict[str, Recipe] = {}
        self._outputs: list[str] = []

    def __call__(self, part: Mapping[str, Any]) -> None:
        kind = part["type"]
        if kind == "inputs":
            for (name, *_), leaf in zip(part["inputs"], self._leaves, strict=True):
                self._made[name] = leaf
        elif kind == "constants":
            for name, _ in part["constants"]:
                self._made[name] = Computed("", 0)
        elif kind == "outputs":
            self._outputs = [name for name, *_ in part["outputs"]]
        elif kind == "primitive":
            self._primitive(part)

    def results(self) -> list[Recipe]:
        return [self._made[name] for name in self._outputs]

    def _primitive(self, part: Mapping[str, Any]) -> None:
        name: str = part["name"]
        inputs = [self._made[source] for source, *_ in part["inputs"]]
        outputs = [(target, tuple(shape), dtype) for target, shape, dtype in part["outputs"]]
        moved = [recipe for recipe in inputs if isinstance(recipe, Moved)]
        computed = [recipe for recipe in inputs if isinstance(recipe, Computed)]
        nbytes = sum(_nbytes(recipe) for recipe in inputs)
        only_constants = bool(computed) and not moved and not any(c.how for c in computed)
        why = "" if only_constants else next((c.how for c in computed if c.how), name)
        if name in MOVES and not computed:
            try:
                views = MOVES[name](
                    [recipe.view for recipe in moved],
                    list(part["arguments"]),
                    [shape for _, shape, _ in outputs],
                    outputs[0][2].size,
                )
            except NotAddressable as error:
                why = str(error)
            else:
                for (target, shape, dtype), view in zip(outputs, views, strict=True):
                    if view.shape != shape or view.itemsize != dtype.size:
                        raise ValueError(f"{name} was traced to {view.shape}, MLX says {shape}")
                    self._made[target] = Moved(view, dtype)
                return
        for target, *_ in outputs:
            self._made[target] = Computed(why, nbytes)


def _nbytes(recipe: Recipe) -> int:
    if isinstance(recipe, Computed):
        return recipe.nbytes
    nbytes = recipe.view.itemsize
    for n in recipe.view.shape:
        nbytes *= n
    return nbytes


Shapes = list[tuple[int, ...]]
Move = Callable[[list[ArrayView], list[Any], Shapes, int], list[ArrayView]]
"""(inputs, the primitive's arguments, the outputs' shapes, their item size) → the outputs."""


def _slice(
    views: list[ArrayView], arguments: list[Any], shapes: Shapes, itemsize: int
) -> list[ArrayView]:
    starts, _, steps = arguments
    return [views[0].slice(tuple(starts), tuple(steps), shapes[0])]


def _split(
    views: list[ArrayView], arguments: list[Any], shapes: Shapes, itemsize: int
) -> list[ArrayView]:
    axis = arguments[1]
    ones = (1,) * len(shapes[0])
    parts, begin = [], 0
    for shape in shapes:
        starts = tuple(begin if at == axis else 0 for at in range(len(shape)))
        parts.append(views[0].slice(starts, ones, shape))
        begin += shape[axis]
    return parts


def _transpose(
    views: list[ArrayView], arguments: list[Any], shapes: Shapes, itemsize: int
) -> list[ArrayView]:
    return [views[0].transpose(tuple(arguments[0]))]


def _concatenate(
    views: list[ArrayView], arguments: list[Any], shapes: Shapes, itemsize: int
) -> list[ArrayView]:
    return [ArrayView.concatenate(views, arguments[0])]


def _reshape(
    views: list[ArrayView], arguments: list[Any], shapes: Shapes, itemsize: int
) -> list[ArrayView]:
    return [views[0].reshape(shapes[0])]


def _expand(
    views: list[ArrayView], arguments: list[Any], shapes: Shapes, itemsize: int
) -> list[ArrayView]:
    axes = arguments[0]
    if len(axes) > 1:
        return _reshape(views, arguments, shapes, itemsize)
    return [views[0].expand(axes[0] % len(shapes[0]))]


def _reinterpret(
    views: list[ArrayView], arguments: list[Any], shapes: Shapes, itemsize: int
) -> list[ArrayView]:
    return [views[0].reinterpret(itemsize)]


def _same(
    views: list[ArrayView], arguments: list[Any], shapes: Shapes, itemsize: int
) -> list[ArrayView]:
    return [views[0]]


MOVES: dict[str, Move] = {
    "Slice": _slice,
    "Split": _split,
    "Transpose": _transpose,
    "Concatenate": _concatenate,
    "Reshape": _reshape,
    "Flatten": _reshape,
    "Unflatten": _reshape,
    "Squeeze": _reshape,
    "ExpandDims": _expand,
    "View": _reinterpret,
    "Copy": _same,
    "StopGradient": _same,
}
"""MLX's primitives that only move data. Any other counts as arithmetic."""
