"""Loads a model whose experts are spread over ranks: starts them, and has each load its share."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..distributed import Placement, Ranks, even, hosts_of, learned
from ..errors import CheckpointError, OptionError
from ..options import LoadOptions
from ..paging.install import MoeSwitch
from ..system.provenance import fingerprint
from ..trace import Trace
from .open_checkpoint import Opened

HERE = ("hosts", "hostfile", "placement", "warm", "top_k", "adapter", "kept_kv_gb", "kernels")
"""The options of the driving process alone; all others are the ranks'."""
EVEN = "even"
SHARD = "{shard}"
"""In a model's name, the number of the rank that loads it, from 1."""


def start_ranks(options: LoadOptions, undo: ExitStack) -> Ranks | None:
    """Start the ranks' processes, which import their libraries meanwhile; None without hosts.

    Raises:
        OptionError: the hosts cannot be used.
    """
    if not options.spread:
        return None
    ranks = Ranks(hosts_of(options.hosts, options.hostfile))
    undo.callback(ranks.close)
    return ranks


def local_options(options: LoadOptions) -> LoadOptions:
    """`options` for the reader of this process, which reads no experts where ranks do."""
    if not options.spread:
        return options
    return replace(options, reader="pread", repacked="off", read_threads=1)


def load_ranks(
    ranks: Ranks, model: str, opened: Opened, options: LoadOptions, placement: Placement,
    earlier: npt.NDArray[np.int16] | None,
    compiled: bool,
) -> None:  # fmt: skip
    """Have each rank load its share of the experts.

    Args:
        placement: the rank of each expert.
        earlier: the routing of a run to warm up from, [steps, layers, k].
        compiled: whether this process, and so the ranks, compute with compiled kernels.

    Raises:
        CheckpointError: a rank has other files of it.
    """
    values = {f.name: getattr(options, f.name) for f in fields(options) if f.name not in HERE}
    values["quiet"] = True
    values["kernels"] = "auto" if compiled else "mlx"
    wanted: dict[str, Any] = {"options": values}
    payload = b""
    if earlier is not None:
        wanted["earlier"] = list(earlier.shape)
        payload = np.ascontiguousarray(earlier, np.int16).tobytes()
    names = [state.host for state in ranks.states]
    each = [
        {"model": model.replace(SHARD, str(rank + 1)), "beside": names.count(name)}
        for rank, name in enumerate(names)
    ]
    found = ranks.load(placement, wanted, each, payload)
    ours = fingerprint({}, opened.checkpoint.spans)
    for rank, message in enumerate(found):
        if message["model_hash"] != ours:
            raise CheckpointError(
                f"rank {rank} ({ranks.states[rank].host}) has other files of {model} than this "
                "machine: copy the same checkpoint to all"
            )


def placement_of(ranks: Ranks | None, switches: Sequence[MoeSwitch], name: str) -> Placement:
    """The rank of each expert of each layer, by the option `placement`; empty without ranks.

    Raises:
        TraceError, OptionError: it names no trace of this model, or that is dense.
    """
    if ranks is None:
        return []
    if not switches:
        raise OptionError("this model is dense: it has no experts to spread, so leave hosts out")
    return placed(name, [switch.experts for switch in switches], len(ranks))


def placed(placement: str, sizes: Sequence[int], ranks: int) -> Placement:
    """As `placement_of`, from the number of experts of each layer.

    Raises:
        TraceError, OptionError: it names no trace of this model.
    """
    if placement == EVEN:
        return even(sizes, ranks)
    return learned(sizes, ranks, Trace.load(placement).experts)


def here(model: str, options: LoadOptions) -> str:
    """The model's folder for this process, which takes the first shard."""
    return model.replace(SHARD, "1") if options.spread else model
