"""Finds the switch modules of a lazily loaded model, by type, and replaces them by paged ones.

This must run before anything of the model is evaluated: MLX's lazy loads of the expert tensors are
then dropped unread. `expert_tensors` knows where the experts' bytes are on disk.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from dataclasses import replace as replaced
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.switch_layers import SwitchGLU, SwitchMLP

from ..checkpoint import Checkpoint, ExpertPart, Reader, open_queue
from ..errors import OptionError
from ..options import LoadOptions
from ..residency import ExpertKey
from ..residency.policies import make_policy
from ..residency.slot_table import SlotTable
from .block_hooks import follow
from .expert_tensors import Locator
from .fetch import TINY, InlineExecutor, overlaps
from .pager import Pager
from .release import release
from .router_tap import RouterTap
from .routing_override import RoutingOverride
from .shared_expert import shared_expert
from .slot_bank import make_bank
from .switch import PagedSwitch

Geometry = tuple[tuple[str, str, tuple[int, ...]], ...]
"""What experts must share to share a bank: (name, dtype, shape) of each of their tensors."""


@dataclass(frozen=True)
class MoeSwitch:
    """The switch of one MoE layer: its path in the model, its module, its experts on disk."""

    path: str
    module: nn.Module
    parts: tuple[ExpertPart, ...]

    @property
    def experts(self) -> int:
        """How many experts the layer has."""
        return self.parts[0].experts

    @property
    def expert_nbytes(self) -> int:
        """Bytes of one expert."""
        return sum(part.nbytes for part in self.parts)

    @property
    def geometry(self) -> Geometry:
        """What experts must share to share a bank."""
        return tuple((part.name, part.dtype, part.shape) for part in self.parts)


@dataclass(frozen=True)
class Installed:
    """The paged layers of a model, in the model's order, and the pagers that serve them."""

    switches: tuple[MoeSwitch, ...]
    pagers: tuple[Pager, ...]
    tap: RouterTap
    routing_override: RoutingOverride

    @property
    def slots(self) -> int:
        """Experts that fit in RAM at once, over all pagers."""
        return sum(pager.table.capacity for pager in self.pagers)

    @property
    def bank_nbytes(self) -> int:
        """Bytes the slots take."""
        return sum(pager.bank.expert_nbytes * pager.bank.used for pager in self.pagers)

    @property
    def tables(self) -> list[tuple[Sequence[int], SlotTable]]:
        """The layers of each slot table, and the table."""
        return [(list(pager.layers), pager.table) for pager in self.pagers]

    @property
    def rank_states(self) -> Sequence[Any]:
        """What is known of each rank; none where this process has all experts."""
        return ()

    def resident(self) -> list[ExpertKey]:
        """The resident experts, in eviction order."""
        return [key for pager in self.pagers for key in pager.table.order()]

    def load_all(self, each: Callable[[], object]) -> None:
        """Read every expert; there must be a slot for each. `each` is called after a layer."""
        for pager in self.pagers:
            pager.load_all(each)

    def check(self) -> None:
        """Raises RankLost: other processes that compute the experts have ended."""

    def settle(self) -> None:
        """Wait for the reads, and evaluate the arrays, that an interrupted run left.

        Only the run's own thread can do that.
        """
        for pager in self.pagers:
            pager.finish()
            pager.bank.settle()
            pager.batch = None
        self.tap.forget()

    def release(self) -> Installed:
        """Free all that was loaded; return a record of the layers, without slots.

        No thread may be computing with the model or reading for it.
        """
        for pager in self.pagers:
            pager.release()
        self.tap.forget()
        self.routing_override.release()
        for switch in self.switches:
            release(switch.module)
        return replaced(self, pagers=())


def switch_modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """(path, module) of every switch that mlx-lm built, ordered by the numbers in its path."""
    found = [
        (path, module)
        for path, module in model.named_modules()
        if isinstance(module, SwitchGLU | SwitchMLP)
    ]
    return sorted(found, key=lambda item: [int(n) for n in re.findall(r"\d+", item[0])])


def find(model: nn.Module, checkpoint: Checkpoint) -> tuple[MoeSwitch, ...]:
    """Every switch of the model with its experts' tensors; empty for a dense model.

    Raises:
        NotPageable: a switch's tensors are not in the checkpoint in the form that the model uses.
    """
    found = switch_modules(model)
    located = Locator(model, checkpoint, found)
    return tuple(MoeSwitch(path, module, located.parts(path)) for path, module in found)


def install(
    model: nn.Module,
    switches: Sequence[MoeSwitch],
    slots: dict[Geometry, int],
    reader: Reader,
    executor: Executor,
    clock: Callable[[], int],
    options: LoadOptions | None = None,
) -> Installed:
    """Put a `PagedSwitch` in place of each of `switches`, sharing a bank per geometry."""
    options = options or LoadOptions()
    tap = RouterTap(len(switches))
    pagers: dict[Geometry, Pager] = {}
    try:
        _put_in_place(model, switches, slots, reader, executor, clock, options, tap, pagers)
        routing_override = RoutingOverride(
            model, [(switch.path, switch.experts) for switch in switches]
        )
    except BaseException:
        for pager in pagers.values():
            pager.release()
        raise
    return Installed(tuple(switches), tuple(pagers.values()), tap, routing_override)


def _put_in_place(
    model: nn.Module,
    switches: Sequence[MoeSwitch],
    slots: dict[Geometry, int],
    reader: Reader,
    executor: Executor,
    clock: Callable[[], int],
    options: LoadOptions,
    tap: RouterTap,
    pagers: dict[Geometry, Pager],
) -> None:
    """Make the `pagers`, and put paged switches that use them in place of `switches`."""
    sizes = [switch.experts for switch in switches]
    for geometry, count in slots.items():
        members = {i: s.parts for i, s in enumerate(switches) if s.geometry == geometry}
        bank = make_bank(next(iter(members.values())), count)
        table = SlotTable(count, make_policy(options.policy, sizes))
        overlap = overlaps(options.overlap, bank.expert_nbytes)
        tiny = bank.expert_nbytes < TINY and reader.name == "pread"
        inline = tiny and not overlap
        pagers[geometry] = Pager(
            members, bank, table, reader, InlineExecutor() if inline else executor, clock, overlap,
            open_queue() if reader.name == "direct" or inline else None,
        )  # fmt: skip
    for layer, switch in enumerate(switches):
        pager = pagers[switch.geometry]
        for name, array in pager.bank.arrays.items():
            bind(switch.module, name, array)
        stand_in = PagedSwitch(switch.module, layer, switch.experts, pager, tap)
        block = replace(model, switch.path, stand_in)
        if isinstance(block, nn.Module):
            follow(block, tap)
            if pager.overlap:
                stand_in.paged.shared_expert = shared_expert(block)


def share_slots(
    switches: Sequence[MoeSwitch], cache_gb: float, cache_experts: int | None
) -> dict[Geometry, int]:
    """How many slots each geometry gets, in proportion to its experts.

    Raises:
        OptionError: the cache is too small for a single expert.
    """
    total = sum(s.experts * s.expert_nbytes for s in switches)
    total_experts = sum(s.experts for s in switches)
    share = (
        cache_experts / max(total_experts, 1)
        if cache_experts is not None
        else cache_gb * 1e9 / max(total, 1)
    )
    slots: dict[Geometry, int] = {}
    for switch in switches:
        slots[switch.geometry] = slots.get(switch.geometry, 0) + switch.experts
    for geometry, experts in slots.items():
        slots[geometry] = min(experts, int(experts * share + 1e-9))
        if slots[geometry] < 1:
            least = total / experts / 1e9
            raise OptionError(
                f"the cache is too small for even one expert: give cache_gb={least * 1.01:.2g} or "
                "more, best enough for the experts of a token in all layers"
            )
    return slots


def banks_nbytes(switches: Sequence[MoeSwitch], slots: Mapping[Geometry, int]) -> int:
    """Bytes of the banks that `install` makes for so many slots."""
    kinds = {switch.geometry: switch.expert_nbytes for switch in switches}
    return sum(nbytes * slots[kind] for kind, nbytes in kinds.items())


def bind(module: nn.Module, name: str, array: mx.array) -> None:
    """Have a switch's own module compute over `array`, a part of the bank."""
    if release := getattr(module, "release", None):
        release()  # a native module keeps the memory of the array that was there
    child, _, parameter = name.rpartition(".")
    (module[child] if child else module)[parameter] = array


def replace(model: nn.Module, path: str, new: nn.Module) -> Any:
    """Put `new` at `path`, and return the module or list that holds it."""
    above, _, last = path.rpartition(".")
    at = module_at(model, above)
    at[int(last) if isinstance(at, list) else last] = new
    return at


def module_at(model: Any, path: str) -> Any:
    """The module or list at `path`; the model itself at an empty one."""
    for step in path.split(".") if path else ():
        model = model[int(step)] if isinstance(model, list) else model[step]
    return model
