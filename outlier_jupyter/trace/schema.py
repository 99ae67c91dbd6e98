"""The columns of a trace's tables, and the metadata of its model and run."""

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
        ("rank", np.int16),
    ]
)
"""One expert read from disk. `step` is the first step of its call that chose this expert, and
`rank` the rank that read it, 0 where one process reads all."""

EVICTION = np.dtype(
    [
        ("step", np.int32),
        ("layer", np.int16),
        ("expert", np.int16),
        ("by_layer", np.int16),
        ("by_expert", np.int16),
    ]
)
"""One expert that lost its slot to (by_layer, by_expert); itself, if memory was short."""

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

- `route_ns`: until the routers' ids left the device. With MLX's kernels that evaluation computes
  attention, the dense parts and the experts of the layer before.
- `lookup_ns`: finding resident experts and choosing evictions.
- `read_wait_ns`, `install_ns`: waiting for reads, and copying them into slots.
- `sample_ns`: after the model's own code: the sampler, and with MLX's kernels the last layer's
  experts and the output head.
- `forward_ns`: the model's own code; of it `outside_ns` outside of the experts' switches and
  `experts_ns` in the experts' modules (with MLX's kernels both only build a graph).
- `watch_ns`: in the subscribers, recorder and live view.

`time_parts.py` divides a call into parts that add up.
"""

LAYER_PARTS = ("before", "route", "lookup", "read_wait", "install", "experts", "watch")
"""Where a layer's time went: first what passed since the layer before, then within its switch."""


@dataclass(frozen=True)
class TraceInfo:
    """What was run, on what, and how: everything needed to read the arrays of a `Trace`.

    Attributes:
        model: the name given to `load`.
        layer_names: the module of each MoE layer in the model.
        experts_per_layer: experts of each MoE layer.
        expert_nbytes: bytes of one expert of each layer.
        native_top_k: the model's own number of experts per token; None if unknown.
        slots: size of the expert cache, in experts.
        reader: how experts were read; `reader_note` says why this reader was chosen.
        kernels: `cpu` for compiled kernels, or `mlx`.
        options: the options of the run, by name.
        policy: the eviction policy.
        banks: a number per layer; layers with the same number share their slots.
        model_hash: identifies the checkpoint: a hash of its config and its tensors' names and
            offsets, and of the content of its adapter, if there is one.
        machine: system, processor and cores.
        dense_nbytes: bytes of the weights that are not experts; 0 if unknown.
        embedding_nbytes: of these, bytes of an input embedding, of which a token reads a row; 0 if
            it is the output's, too, or unknown.
        disk_rate, memory_rate: measured bytes a second of disk and memory; 0 if not measured.
        versions: of Python, MLX and the libraries, by name.
        absent: the arrays that were not recorded; they hold placeholder values.
        hosts: the host of each rank that the experts were spread over; () where one process reads.
        width: the numbers of a layer's input for each token; 0 if unknown.
        changed_output: why the output differs from the model's own, "" if it does not: another
            `top_k`, changed routing, a quantised or truncated KV cache, or logits that were changed
            before sampling (a bias, own processors, a schema).
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
    embedding_nbytes: int = 0
    disk_rate: float = 0.0
    memory_rate: float = 0.0
    versions: dict[str, str] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    width: int = 0
    changed_output: str = ""
