"""The sanitize trace: where mlx-lm's `sanitize` takes each element of a model's tensors from.

A checkpoint may store experts stacked, one by one, fused, interleaved, transposed, under any name;
only the model's `sanitize` says how they become the model's tensors. Here it runs on placeholders
under MLX's own tracer. The graph's movements of data become `ArrayView`s: where each element of a
tensor is on disk. No weight is read. A computed tensor has no place on disk; the trace names the
operation that computes it.
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
from .slot_bank import MLX_DTYPES

_patching = threading.Lock()


@dataclass(frozen=True)
class Moved:
    """A tensor of the model whose elements are on disk, unchanged."""

    view: ArrayView
    dtype: mx.Dtype


@dataclass(frozen=True)
class Computed:
    """A tensor of the model that mlx-lm computes from what is on disk.

    Attributes:
        how: the operation that is not a movement of data; "" for a constant.
        nbytes: bytes of the checkpoint that it is computed from.
    """

    how: str
    nbytes: int


Origin = Moved | Computed


def trace_sanitize(
    model: nn.Module, checkpoint: Checkpoint, names: Sequence[str]
) -> dict[str, Origin]:
    """How each of the model's parameters `names` comes from the checkpoint's tensors.

    Names that `sanitize` does not return are left out. The model's parameters are not touched.
    """
    spans = {name: s for name, s in checkpoint.spans.items() if s.dtype in MLX_DTYPES}
    raw = [mx.zeros(span.shape, MLX_DTYPES[span.dtype]) for span in spans.values()]
    leaves: list[Origin] = [
        Moved(span.view(), array.dtype) for span, array in zip(spans.values(), raw, strict=True)
    ]
    sanitize = getattr(model, "sanitize", dict)
    returned: list[str] = []

    def run(*tensors: mx.array) -> list[mx.array]:
        made = sanitize(dict(zip(spans, tensors, strict=True)))
        returned[:] = [name for name in names if name in made]
        return [made[name] for name in returned]

    graph = _GraphReader(leaves)
    try:
        with deferred(), _contiguous_is_transparent():
            mx.export_function(graph, run, *raw)
    except ValueError as error:
        # What cannot be exported is not a movement of data. `sanitize` itself has run before, when
        # mlx-lm loaded the model, so its own errors do not come here.
        how = str(error).rpartition("primitive ")[2]
        nbytes = sum(span.bytes.nbytes for span in checkpoint.spans.values())
        return dict.fromkeys(names, Computed(how, nbytes))
    return dict(zip(returned, graph.results(), strict=True))


@contextmanager
def _contiguous_is_transparent() -> Iterator[None]:
    """Let `mx.contiguous` return its argument: MLX 0.32's tracer cannot express it.

    The values are the same either way, also for another thread that calls it meanwhile. Interrupts
    must be deferred: one that came as this is entered would leave the lock taken.
    """
    with _patching:
        real = mx.contiguous
        mx.contiguous = lambda a, *_, **__: a
        try:
            yield
        finally:
            mx.contiguous = real


class _GraphReader:
    """Called by `mx.export_function` with each part of the graph in turn."""

    def __init__(self, leaves: Sequence[Origin]) -> None:
        self._leaves = leaves
        self._made: dict[str, Origin] = {}
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

    def results(self) -> list[Origin]:
        return [self._made[name] for name in self._outputs]

    def _primitive(self, part: Mapping[str, Any]) -> None:
        name: str = part["name"]
        inputs = [self._made[source] for source, *_ in part["inputs"]]
        outputs = [(target, tuple(shape), dtype) for target, shape, dtype in part["outputs"]]
        moved = [origin for origin in inputs if isinstance(origin, Moved)]
        computed = [origin for origin in inputs if isinstance(origin, Computed)]
        nbytes = sum(_nbytes(origin) for origin in inputs)
        only_constants = bool(computed) and not moved and not any(c.how for c in computed)
        why = "" if only_constants else next((c.how for c in computed if c.how), name)
        if name in MOVES and not computed:
            try:
                views = MOVES[name](
                    [origin.view for origin in moved],
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


def _nbytes(origin: Origin) -> int:
    if isinstance(origin, Computed):
        return origin.nbytes
    nbytes = origin.view.itemsize
    for n in origin.view.shape:
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
"""MLX's primitives that only move data. All others count as arithmetic."""
