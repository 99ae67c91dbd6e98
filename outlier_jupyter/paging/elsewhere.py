"""Layers whose experts other processes compute: what a switch sends them, and what comes back.

A paged switch stays in the model, for the tap, routing overrides and times. In place of slots and
reads it has `ComputedElsewhere`, which sends a layer's input to all ranks and reports what they did
as one process would. Arrays travel as their bytes, so that nothing is rounded.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from dataclasses import replace as replaced
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt

from ..distributed import Ranks
from ..errors import EngineClosed
from ..events import Event, Sink
from ..residency.slot_table import SlotTable
from .block_hooks import follow
from .install import Installed, MoeSwitch, bind, replace
from .pager import StopFlag, Stopped
from .router_tap import RouterTap
from .routing_override import RoutingOverride
from .switch import PagedSwitch, stacked_tensors
from .switch_inputs import Ids, LazyInputs, SwitchInputs, TokenInputs

Words = npt.NDArray[np.uint32]


class ComputedElsewhere:
    """Stands in for a pager, where ranks have the slots and the reads of all layers.

    Attributes:
        stop, sink, report_ns, clock: as of `Pager`.
        bank: only evaluates: there is nothing to keep from being overwritten.
    """

    token = None
    overlap = False

    def __init__(
        self, ranks: Ranks, switches: Sequence[MoeSwitch], clock: Callable[[], int]
    ) -> None:
        self.clock = clock
        self.stop = StopFlag()
        self.sink: Sink = lambda event: None
        self.report_ns = 0
        self.closed = False
        self.batch: Any = None
        self.bank: Any = SimpleNamespace(settle=mx.eval, reading=lambda array: None)
        self._ranks, self._nbytes = ranks, [switch.expert_nbytes for switch in switches]

    @property
    def layers(self) -> Collection[int]:
        """All MoE layers."""
        return range(len(self._nbytes))

    def report(self, event: Event) -> None:
        """As `Pager.report`."""
        begin = self.clock()
        self.sink(event)
        self.report_ns += self.clock() - begin

    def check_running(self) -> None:
        """As `Pager.check_running`."""
        if self.stop.is_set():
            raise Stopped
        if self.closed:
            raise EngineClosed("this model's engine was closed: load the model again")

    def slot_map(self, layer: int) -> None:
        """No layer's experts are here."""

    def serve(
        self, layer: int, inputs: SwitchInputs, ids: Ids, times: tuple[int, int],
        meanwhile: Callable[[], object] | None,
    ) -> tuple[Any, int]:  # fmt: skip
        """The output of a layer, and the nanoseconds of it that ranks waited for reads.

        Args:
            times: when the switch was called, and when the ids were there.
        """
        message, x = sent(inputs)
        at = self.clock()
        output = self._ranks.compute(layer, ids, message, x, meanwhile)
        rows, rank_of = ids.reshape(-1, ids.shape[-1]), self._ranks.placement[layer]
        for event in output.report.events(
            layer, rows, (*times, at), self._nbytes[layer], self._ranks.first_slots, rank_of,
            [state.resident for state in self._ranks.states],
        ):  # fmt: skip
            self.report(event)
        token = isinstance(inputs, TokenInputs)
        found = _rows if token else from_bytes
        return found(output.data, output.dtype, output.shape), output.report.wait_ns


@dataclass(frozen=True)
class InstalledElsewhere(Installed):
    """The layers of a model whose experts are spread over `ranks`."""

    ranks: Ranks

    @property
    def slots(self) -> int:
        """As `Installed.slots`, over all ranks."""
        return self.ranks.slots

    @property
    def bank_nbytes(self) -> int:
        """This process has no slots."""
        return 0

    @property
    def tables(self) -> list[tuple[Sequence[int], SlotTable]]:
        """Each rank has its own."""
        return []

    @property
    def rank_states(self) -> Sequence[Any]:
        """As `Installed.rank_states`."""
        return self.ranks.states

    def resident(self) -> list[Any]:
        """As `Installed.resident`, rank by rank."""
        return [tuple(pair) for pair in self.ranks.resident()]

    def check(self) -> None:
        """As `Installed.check`: the ranks must be there."""
        self.ranks.check()

    def settle(self) -> None:
        """As `Installed.settle`: no read is under way between two layers."""
        for pager in self.pagers:
            pager.batch = None
        self.tap.forget()

    def release(self) -> Installed:
        """As `Installed.release`; the ranks end."""
        for pager in self.pagers:
            pager.closed = True
        self.ranks.close()
        self.tap.forget()
        self.routing_override.release()
        return replaced(self, pagers=())


def install_elsewhere(
    model: nn.Module, switches: Sequence[MoeSwitch], ranks: Ranks, clock: Callable[[], int]
) -> Installed:
    """Put a switch that `ranks` compute in place of each of `switches`."""
    tap = RouterTap(len(switches))
    elsewhere: Any = ComputedElsewhere(ranks, switches, clock)
    for layer, switch in enumerate(switches):
        stand_in = PagedSwitch(switch.module, layer, switch.experts, elsewhere, tap)
        stand_in.paged.elsewhere = elsewhere
        for name, tensor in stacked_tensors(switch.module).items():
            bind(switch.module, name, mx.zeros((0,), tensor.dtype))  # nothing reads the experts
        block = replace(model, switch.path, stand_in)
        if isinstance(block, nn.Module):
            follow(block, tap)
    override = RoutingOverride(model, [(switch.path, switch.experts) for switch in switches])
    return InstalledElsewhere(tuple(switches), (elsewhere,), tap, override, ranks)


def sent(inputs: SwitchInputs) -> tuple[dict[str, Any], bytes]:
    """A switch's activations as a message and their bytes."""
    if isinstance(inputs, TokenInputs):
        x = inputs.x
        return {"x": list(x.shape), "dtype": "float32", "token": True}, x.tobytes()
    array = inputs.array()
    dtype = str(array.dtype).removeprefix("mlx.core.")
    return {"x": list(array.shape), "dtype": dtype, "token": False}, _bytes_of(array).tobytes()


def inputs_of(message: dict[str, Any], x: memoryview, ids: Ids) -> SwitchInputs:
    """The inputs that `sent` described, on a rank."""
    if message["token"]:
        rows = np.frombuffer(x, np.float32).reshape(message["x"]).copy()  # kernels may write
        return TokenInputs(rows, ids, np.zeros(ids.shape, np.float32))
    array = from_bytes(x, message["dtype"], message["x"])
    return LazyInputs(array, mx.array(ids.astype(np.uint32)))


def from_bytes(data: memoryview, dtype: str, shape: Sequence[int]) -> mx.array:
    """An array from its bytes."""
    return mx.array(np.frombuffer(data, np.uint8)).view(getattr(mx, dtype)).reshape(shape)


def to_words(output: mx.array | npt.NDArray[Any]) -> tuple[Words, str]:
    """An output's bytes as uint32 words, zeros at the end, and MLX's name of its type."""
    if isinstance(output, np.ndarray):
        return np.ascontiguousarray(output).reshape(-1).view(np.uint32), str(output.dtype)
    flat = _bytes_of(output)
    words = np.zeros(-(-flat.size // 4) * 4, np.uint8)
    words[: flat.size] = flat
    return words.view(np.uint32), str(output.dtype).removeprefix("mlx.core.")


def _bytes_of(array: mx.array) -> npt.NDArray[np.uint8]:
    return np.array(array.reshape(-1).view(mx.uint8))


def _rows(data: memoryview, dtype: str, shape: Sequence[int]) -> npt.NDArray[np.float32]:
    return np.frombuffer(data, np.float32).reshape(shape).copy()
