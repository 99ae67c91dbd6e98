"""The tables of a trace, column by column, and what a trace says of its model and its run."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

READ = np.dtype(
    [
        ("step", np.int32),
        ("layer", np.int16),
        ("expert", np.int16),
        ("nbytes", np.int64),
        ("start_ns", np.int64),
        ("ns", np.int64),
    ]
)
"""One expert read from disk. `step` is the first step of its call that chose this expert."""

EVICTION = np.dtype(
    [
        ("step", np.int32),
        ("layer", np.int16),
        ("expert", np.int16),
        ("by_layer", np.int16),
        ("by_expert", np.int16),
    ]
)
"""One expert that lost its slot to (by_layer, by_expert)."""

PREFETCHED = np.dtype(
    [
        ("step", np.int32),
        ("layer", np.int16),
        ("expert", np.int16),
        ("nbytes", np.int64),
        ("used", np.uint8),
    ]
)
"""One expert read before its router had chosen. A used one is among the reads as well, with its
true times; of one that was not asked for (0), `nbytes` were wasted."""

CALL = np.dtype(
    [
        ("phase", np.uint8),
        ("first_step", np.int32),
        ("steps", np.int32),
        ("start_ns", np.int64),
        ("ns", np.int64),
        ("route_ns", np.int64),
        ("lookup_ns", np.int64),
        ("read_wait_ns", np.int64),
        ("install_ns", np.int64),
        ("sample_ns", np.int64),
        ("forward_ns", np.int64),
        ("outside_ns", np.int64),
        ("experts_ns", np.int64),
        ("watch_ns", np.int64),
    ]
)
"""One forward pass and where its time went, in nanoseconds.

`route_ns` is the time until the routers' ids left the device: with MLX's kernels dense compute,
attention and the experts of the layer before, all of which that evaluation brings about.
`lookup_ns` is who is in RAM and who leaves; `sample_ns` what came after the model's own code: the
sampler, and with MLX's kernels the last layer's experts and the output head. `forward_ns` is all of
the model's code, `outside_ns` what of it was outside of the experts' switches, `experts_ns` what
the experts' modules took (with MLX's kernels both only build a graph), `watch_ns` what listeners
took, recorder and live view. `times.py` makes parts of these that add up.
"""

LAYER_PARTS = ("before", "route", "lookup", "read_wait", "install", "experts", "watch")
"""Where a layer's time went, in this order: since the layer before, then within its switch."""


@dataclass(frozen=True)
class TraceInfo:
    """What was run, on what, and how: everything needed to read the arrays of a `Trace`.

    Attributes:
        model: as it was named to `load`.
        layer_names: each MoE layer's module in the model.
        experts_per_layer: experts of each MoE layer.
        expert_nbytes: bytes of one expert of each layer.
        native_top_k: the model's own number of experts per token; None where not known.
        slots: how many experts fit in RAM.
        reader: how experts were read; `reader_note` says why, or what was found.
        kernels: `cpu` for the compiled ones, or `mlx`.
        options: those of the run, by name.
        policy: which expert was evicted when a slot was needed.
        banks: for each layer, which layers it shares its slots with: those of the same number.
        model_hash: tells one checkpoint from another: of its config and of its tensors' names and
            places.
        machine: system, processor and cores, in words.
        dense_nbytes: bytes of the weights that are no experts, which every token touches; 0 where
            not known.
        disk_rate: bytes a second that the disk was measured to give; 0 where nobody has.
        memory_rate: the same of memory.
        versions: of Python, MLX and the libraries, by name.
        absent: the arrays that were not recorded; they hold nothing that was seen.
        changed_output: why the output differs from the model's own ("" when it does not): another
            `top_k`, changed routing, a KV cache that was quantised or forgot.
    """

    model: str = ""
    layer_names: tuple[str, ...] = ()
    experts_per_layer: tuple[int, ...] = ()
    expert_nbytes: tuple[int, ...] = ()
    native_top_k: int | None = None
    slots: int = 0
    reader: str = ""
    reader_note: str = ""
    kernels: str = ""
    options: dict[str, object] = field(default_factory=dict)
    policy: str = ""
    banks: tuple[int, ...] = ()
    model_hash: str = ""
    machine: str = ""
    dense_nbytes: int = 0
    disk_rate: float = 0.0
    memory_rate: float = 0.0
    versions: dict[str, str] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    changed_output: str = ""
