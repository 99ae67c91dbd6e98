"""A rank's share of a model: its switches, with slots and reads for the experts that it owns.

The rest of the model is built, as mlx-lm needs it to find the experts' tensors, and never read.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from time import perf_counter_ns
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt

from ..checkpoint import Reader
from ..checkpoint.model_folder import ModelFolder
from ..checkpoint.shard import check_share
from ..cpu.modules import native as native_part
from ..cpu.modules import wanted as native_wanted
from ..errors import OptionError
from ..formatting import size_words
from ..options import LoadOptions, make
from ..paging import Installed, check_device, install, resize
from ..paging.install import MoeSwitch, module_at
from ..paging.ownership import Share
from ..paging.preload import parse_pins, pin, warm
from ..paging.switch_inputs import SwitchInputs, TokenInputs
from ..residency import ExpertKey
from ..system.hub import resolve
from ..system.memory_info import machine_memory, process_nbytes
from ..system.provenance import fingerprint
from .choose_reader import open_experts
from .memory_budget import MemoryBounds, Needs, fitted, slots_of
from .open_checkpoint import open_model

Mine = Sequence[npt.NDArray[np.bool_]]


@dataclass
class ExpertShare:
    """The experts of one rank.

    Attributes:
        installed: the paged switches.
        model_hash: identifies the checkpoint.
        beside: ranks on this machine, it among them.
    """

    installed: Installed
    reader: Reader
    options: LoadOptions
    model_hash: str
    mine: Mine
    modules: list[Any]
    beside: int = 1

    @classmethod
    def load(
        cls, model: str, options: dict[str, Any], mine: Mine,
        earlier: npt.NDArray[np.int16] | None, beside: int, undo: ExitStack,
    ) -> ExpertShare:  # fmt: skip
        """Load the experts that are `mine`, for each layer bool [experts].

        Args:
            options: fields of `LoadOptions`.
            earlier: [steps, layers, k], routing to warm up from.
            beside: ranks on this machine, it among them, which share its memory.
            undo: closes what is opened.

        Raises:
            OutlierError: as `load`.
        """
        settings = make(LoadOptions, options)
        path = resolve(model, settings.revision, quiet=True)
        check_share(path, mine)
        folder = ModelFolder(path, trusted=settings.trust_remote_code)
        module, _, checkpoint, switches = open_model(folder, None, settings.force)
        pins = parse_pins(settings.pin, [switch.experts for switch in switches])
        settings = _sized(switches, settings, beside)
        holder = nn.Module()
        holder.switches = [switch.module for switch in switches]
        native = native_part(holder) if native_wanted(settings.kernels) else None
        left = [(s.path, s.module) for s in switches if not (native and native.computes(s.module))]
        check_device(module, left)
        if native:
            undo.callback(native.cancel)
            native.begin()
        slots = _slots(switches, mine, settings, beside)
        switches, reader, threads, _ = open_experts(checkpoint, switches, settings, undo)
        executor = ThreadPoolExecutor(threads, thread_name_prefix="outlier-read")
        undo.callback(executor.shutdown)
        installed = install(module, switches, slots, reader, executor, perf_counter_ns, settings)
        if native:
            native.finish(quiet=True)
        modules = [module_at(module, switch.path) for switch in switches]
        share = Share(mine)
        for each in modules:
            each.paged.owner = share
        stamp = fingerprint({}, checkpoint.spans)
        found = cls(installed, reader, settings, stamp, mine, modules, beside)
        found._fill(pins, earlier)
        return found

    def compute(self, layer: int, inputs: SwitchInputs) -> Any:
        """The output of a layer, with zeros for experts of other ranks."""
        output = self.modules[layer].paged.serve(inputs, perf_counter_ns(), None)
        if isinstance(inputs, TokenInputs):
            return output
        return output.astype(self._shape(layer, inputs.array(), inputs.indices).dtype)

    def nothing(self, layer: int, inputs: SwitchInputs) -> Any:
        """An output of zeros, for a layer that could not be computed."""
        if isinstance(inputs, TokenInputs):
            return np.zeros((*inputs.indices.shape, inputs.x.shape[-1]), np.float32)
        like = self._shape(layer, inputs.array(), inputs.indices)
        return mx.zeros(like.shape, like.dtype)

    def _shape(self, layer: int, x: mx.array, indices: mx.array) -> mx.array:
        """An array of the shape and type of the layer's output; nothing is evaluated."""
        inner = self.modules[layer].inner
        if hasattr(inner, "parts"):
            return mx.zeros((*indices.shape, x.shape[-1]), mx.float32)
        output: mx.array = inner(x, mx.zeros_like(indices))
        return output

    def resize(self, cache_gb: float | str, cache_experts: int | None) -> None:
        """Give the cache another size; see `Engine.resize`."""
        options = replace(
            self.options, cache_gb=cache_gb, cache_experts=cache_experts, resident=False
        )
        switches = self.installed.switches
        have = self.installed.bank_nbytes
        options = _sized(switches, options, self.beside, have)
        counts = _slots(switches, self.mine, options, self.beside, have)
        resize(self.installed, 0.0, None, counts)
        self.options = options

    def resident(self) -> list[list[int]]:
        """The resident [layer, expert] pairs, in eviction order."""
        return [list(key) for key in self.installed.resident()]

    def words(self) -> dict[str, Any]:
        """What the rank answers to the driving process."""
        switches = self.installed.switches
        counts = [int(each.sum()) for each in self.mine]
        owned = [n * s.expert_nbytes for n, s in zip(counts, switches, strict=True)]
        return {
            "slots": self.installed.slots,
            "experts": sum(counts),
            "resident": len(self.installed.resident()),
            "bank_nbytes": self.installed.bank_nbytes,
            "expert_nbytes": sum(owned),
            "reader": self.reader.name,
            "process_nbytes": process_nbytes(),
            "model_hash": self.model_hash,
        }

    def _fill(self, pins: list[ExpertKey], earlier: npt.NDArray[np.int16] | None) -> None:
        """Preload pinned experts and those of an earlier run, or all; only the rank's own."""

        def read(count: int) -> None:
            """No bar: nobody sees it."""

        if pins:
            pin(self.installed, [key for key in pins if self.mine[key.layer][key.expert]], read)
        if earlier is not None:
            warm(self.installed, earlier, read, self.mine)
        if self.options.resident:
            for pager in self.installed.pagers:
                for layer in sorted(pager.layers):
                    pager.bank.settle()
                    experts = np.flatnonzero(self.mine[layer]).tolist()
                    pager.acquire([ExpertKey(layer, expert) for expert in experts])


def _sized(
    switches: Sequence[MoeSwitch], options: LoadOptions, beside: int, have: int = 0
) -> LoadOptions:
    """`options` with a cache size in numbers: what this machine's memory allows, if they ask that.

    Args:
        beside: ranks that share it.
        have: bytes of the present slots.
    """
    if not options.sized_by_memory:
        return options
    room = MemoryBounds.now(options.ram_gb, have, beside)
    return fitted(switches, options, Needs(0, 0, 0, 0, 1), room, have)


def _slots(
    switches: Sequence[MoeSwitch], mine: Mine, options: LoadOptions, beside: int, have: int = 0
) -> dict[Any, int]:
    """Slots of each geometry, at most one for each expert that is owned, and at least one.

    Raises:
        OptionError: there is not enough memory for them.
    """
    slots, owned = slots_of(switches, options), dict[Any, int]()
    for switch, each in zip(switches, mine, strict=True):
        owned[switch.geometry] = owned.get(switch.geometry, 0) + int(each.sum())
    slots = {kind: max(1, min(count, owned[kind])) for kind, count in slots.items()}
    nbytes = {switch.geometry: switch.expert_nbytes for switch in switches}
    wanted = sum(count * nbytes[kind] for kind, count in slots.items())
    free = machine_memory().available // beside + have
    if wanted > free and not options.force:
        raise OptionError(
            f"a cache of {size_words(wanted)} does not fit, {size_words(free)} are free: give a "
            "smaller cache_gb, or force=True"
        )
    return slots
