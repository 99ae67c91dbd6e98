"""Replays a recorded routing with a policy and a number of slots: what hits, and what is read.

The lookups are those of a running engine: for each call of the model, layer by layer, all distinct
experts of the call's tokens at once, in ascending order. Hits are those resident before any of them
is read, and none of them is evicted for another. A chunk of a prompt keeps its most used experts,
as in the engine. Belady's policy is different, so that it is a true lower bound on reads: where the
experts of a lookup need not be resident together (those of a prompt, or more than there are slots),
it may evict one for another, and keeps those used again soonest.

This module knows arrays, and nothing of traces, files or times.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import TraceError
from . import ExpertKey
from .policies import POLICIES, PolicySpec, canonical_name
from .policies.registry import BELADY

if TYPE_CHECKING:
    from .slot_table import SlotTable


@dataclass(frozen=True)
class RecordedRouting:
    """The choices of a model's routers, call by call.

    Attributes:
        experts: int16 [steps, layers, k]; -1 for none.
        starts: int64 [calls + 1], the first step of each call, and the number of steps.
        experts_per_layer: experts of each layer.
        bank: int64 [layers]; layers with the same number share slots.
    """

    experts: npt.NDArray[np.int16]
    starts: npt.NDArray[np.int64]
    experts_per_layer: tuple[int, ...]
    bank: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        """Raises TraceError: the arrays do not match, and the compiled replay does not check."""
        experts, starts, sizes = self.experts, self.starts, self.experts_per_layer
        right = (
            experts.ndim == 3
            and experts.dtype.kind in "iu"
            and len(sizes) == len(self.bank) == experts.shape[1]
            and len(starts) > 0
            and starts[0] == 0
            and starts[-1] == len(experts)
            and bool((np.diff(starts) >= 0).all())
        )
        if not right or (
            experts.size and (experts.max(axis=(0, 2)).astype(np.int64) >= np.array(sizes)).any()
        ):
            raise TraceError(
                "this routing cannot be replayed: its calls are not its steps one after the other, "
                "or its layers do not have the experts that were chosen"
            )

    @property
    def width(self) -> int:
        """The most experts of a layer."""
        return max(self.experts_per_layer, default=1)

    @property
    def calls(self) -> int:
        """The number of calls of the model."""
        return len(self.starts) - 1

    def banks(self, slots: int) -> list[tuple[npt.NDArray[np.bool_], int]]:
        """The layers of each bank, bool [layers], and its share of `slots`, as in an engine."""
        sizes = np.array(self.experts_per_layer)
        shares = []
        for bank in np.unique(self.bank):
            mine = self.bank == bank
            experts = int(sizes[mine].sum())
            share = min(experts, int(experts * (slots / int(sizes.sum())) + 1e-9))
            shares.append((mine, max(1, share)))
        return shares

    def after(self, before: RecordedRouting) -> RecordedRouting:
        """The routing `before`, followed by this one."""
        k = max(before.experts.shape[2], self.experts.shape[2])
        both = [_padded(routing.experts, k) for routing in (before, self)]
        starts = np.concatenate([before.starts[:-1], len(before.experts) + self.starts])
        return RecordedRouting(np.concatenate(both), starts, self.experts_per_layer, self.bank)


def part_of(routing: RecordedRouting, first: int, end: int) -> RecordedRouting:
    """The calls [first, end) of a routing."""
    starts = routing.starts[first : end + 1]
    experts = routing.experts[starts[0] : starts[-1]]
    return RecordedRouting(experts, starts - starts[0], routing.experts_per_layer, routing.bank)


def _padded(experts: npt.NDArray[np.int16], k: int) -> npt.NDArray[np.int16]:
    room = ((0, 0), (0, 0), (0, k - experts.shape[2]))
    return np.pad(experts, room, constant_values=-1)


@dataclass(frozen=True)
class Outcome:
    """The result of a replay.

    Attributes:
        hits: bool [steps, layers, k], resident before the lookup's reads.
        reads: int32 [calls, layers], the number of experts read.
    """

    hits: npt.NDArray[np.bool_]
    reads: npt.NDArray[np.int32]

    def last(self, routing: RecordedRouting) -> Outcome:
        """The outcome of the calls of `routing`, which were replayed last."""
        k = routing.experts.shape[2]
        hits = self.hits[len(self.hits) - len(routing.experts) :, :, :k]
        return Outcome(hits, self.reads[len(self.reads) - routing.calls :])


Keys = Sequence[ExpertKey] | npt.NDArray[np.integer[Any]]
"""(layer, expert) pairs."""


def simulate(routing: RecordedRouting, policy: str, slots: int, at_start: Keys = ()) -> Outcome:
    """Replay `routing` from `slots` slots.

    Args:
        policy: the name of one of `POLICIES`.
        at_start: the experts resident before, in eviction order; those that do not fit are left
            out, from the front. The policy starts without what it had learned.
    """
    spec = POLICIES[canonical_name(policy)]
    if spec.kernel is None:
        return simulate_in_python(routing, spec, slots, at_start)
    return _compiled(routing, spec.kernel, slots, at_start)


def _compiled(routing: RecordedRouting, kernel: int, slots: int, at_start: Keys) -> Outcome:
    from .policies.belady import next_uses
    from .policies.predictive import new_state
    from .replay_loop import replay
    from .slots import new_slots

    experts = np.ascontiguousarray(routing.experts, np.int16)
    steps, layers, k = experts.shape
    hits = np.zeros((steps, layers, k), np.bool_)
    reads = np.zeros((routing.calls, layers), np.int32)
    future, score = np.zeros((0, 0, 0), np.int64), np.zeros((layers, routing.width))
    if kernel == BELADY:  # experts resident at the start have a next use, too
        future, first = next_uses(experts, routing.starts, routing.width)
        score = -first.astype(np.float64)
    for mine, share in routing.banks(slots):
        state = new_state(score.copy(), k)
        table = new_slots(share, state.score, np.ones(layers))
        start = _codes(at_start, mine, routing.width)[-share:]
        replay(kernel, state, table, future, experts, routing.starts, mine, start, hits, reads)
    return Outcome(hits, reads)


def simulate_in_python(
    routing: RecordedRouting, spec: PolicySpec, slots: int, at_start: Keys = ()
) -> Outcome:
    """`simulate` with a policy that has no compiled kernel: the same table, one call at a time."""
    from .slot_table import SlotTable

    assert spec.make is not None, f"{spec.name} can be replayed only by a compiled kernel"
    tables: dict[int, SlotTable] = {}
    for mine, share in routing.banks(slots):
        table = SlotTable(share, spec.make(routing.experts_per_layer))
        for code in _codes(at_start, mine, routing.width)[-share:].tolist():
            _look_up(table, [ExpertKey(*divmod(code, routing.width))])
        tables |= dict.fromkeys(np.flatnonzero(mine).tolist(), table)
    return serve(routing, tables)


def serve(routing: RecordedRouting, tables: Mapping[int, SlotTable]) -> Outcome:
    """Look up a whole routing in slot tables, one for each layer, one call at a time."""
    hits = np.zeros(routing.experts.shape, np.bool_)
    reads = np.zeros((routing.calls, routing.experts.shape[1]), np.int32)
    for call, layer, rows in _lookups(routing):
        table = tables[layer]
        keys = [ExpertKey(layer, e) for e in np.unique(rows[rows >= 0]).tolist()]
        resident = [key.expert for key in keys if key in table]
        first, end = routing.starts[call], routing.starts[call + 1]
        hits[first:end, layer] = np.isin(rows, resident)
        table.routed(layer, rows)
        uses, keep = None, None
        if len(rows) > 1:  # a chunk of a prompt, as `PagedLayer` takes it
            counts = np.bincount(rows[rows >= 0])
            uses = {key: int(counts[key.expert]) for key in keys}
            keep = table.most_used(layer, uses, sum(each is table for each in tables.values()))
        for part in table.split(keys, uses):
            reads[call, layer] += _look_up(table, part)
            if keep is not None:
                table.demote_except(layer, keep)
    return Outcome(hits, reads)


def _look_up(table: SlotTable, keys: Sequence[ExpertKey]) -> int:
    """Look up `keys` together, and make the misses resident; return how many there were."""
    placements = table.reserve(keys).placements
    for placement in placements:
        table.commit(placement)
    return len(placements)


def _codes(keys: Keys, mine: npt.NDArray[np.bool_], width: int) -> npt.NDArray[np.int64]:
    pairs = np.asarray(keys, np.int64).reshape(-1, 2)
    if len(pairs) and (
        pairs.min() < 0 or pairs[:, 0].max() >= len(mine) or pairs[:, 1].max() >= width
    ):
        raise ValueError("at_start names an expert that does not exist")
    if len(np.unique(pairs, axis=0)) != len(pairs):
        raise ValueError("at_start names an expert twice")
    pairs = pairs[mine[pairs[:, 0]]]
    return np.asarray(pairs[:, 0] * width + pairs[:, 1], np.int64)


def _lookups(routing: RecordedRouting) -> Any:
    """Each (call, layer, rows [tokens, k]) with at least one choice."""
    for call in range(routing.calls):
        steps = slice(routing.starts[call], routing.starts[call + 1])
        for layer in range(routing.experts.shape[1]):
            rows = routing.experts[steps, layer]
            if (rows >= 0).any():
                yield call, layer, rows


@dataclass(frozen=True)
class Curve:
    """The hits and reads of LRU with any number of slots.

    Attributes:
        choices, experts, nbytes, stalls: int64 [2 phases, distances]: the choices of an expert,
            the distinct experts looked up, their bytes, and the lookups (counted
            at their largest distance) that need so many slots to hit. The last column never hits.
        widest: the most experts of one lookup; the curve is wrong for fewer slots.
    """

    choices: npt.NDArray[np.int64]
    experts: npt.NDArray[np.int64]
    nbytes: npt.NDArray[np.int64]
    stalls: npt.NDArray[np.int64]
    widest: int

    def hit(self, slots: int) -> npt.NDArray[np.int64]:
        """Choices that hit, [2 phases]."""
        return np.asarray(self.choices[:, : slots + 1].sum(axis=1), np.int64)

    def missed(self, slots: int) -> npt.NDArray[np.int64]:
        """[3, 2 phases]: experts read, their bytes, lookups with at least one read."""
        parts = (self.experts, self.nbytes, self.stalls)
        return np.stack([part[:, slots + 1 :].sum(axis=1) for part in parts])


def lru_curve(
    routing: RecordedRouting,
    phase: npt.NDArray[np.uint8],
    nbytes: Sequence[int],
    at_start: Keys = (),
    bank: int | None = None,
) -> Curve:
    """All sizes of an LRU cache from one pass, over the layers of one bank (default: all layers).

    This is right only if every call has one token: what a chunk of a prompt keeps depends on the
    size, so such calls need a replay instead.

    Args:
        phase: uint8 [calls], 0 or 1: counted separately.
        nbytes: bytes of one expert of each layer.
    """
    from .stack_distance import stack_distances

    mine = np.ones(len(routing.bank), bool) if bank is None else routing.bank == bank
    experts = np.ascontiguousarray(routing.experts, np.int16)
    sizes = np.array(nbytes, np.int64) if len(nbytes) else np.zeros(experts.shape[1], np.int64)
    if len(sizes) != experts.shape[1] or len(phase) != routing.calls:
        raise ValueError("give one size for each layer and one phase for each call")
    start = _codes(at_start, mine, routing.width)
    phases = phase.astype(np.uint8)
    out, widest = stack_distances(
        experts, routing.starts, phases, mine, sizes, routing.width, start
    )
    return Curve(out[:, :, 0], out[:, :, 1], out[:, :, 2], out[:, :, 3], int(widest))
