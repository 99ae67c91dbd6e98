"""Replays one trace with its experts placed over n machines: hits, bytes of each, predicted speed.

A machine looks up its own experts in a cache of its own. A layer takes as long as the machine that
is the last: its reads, and its share of the layer's chosen experts. To that comes the exchange of a
layer by the network. Compute and the price of reads are fitted to the trace's own calls, or follow
from the speeds of a measured machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import OptionError, TraceError
from ..events import DECODE
from ..formatting import three
from ..residency.placement import Placement, even, learned
from ..residency.policies import POLICIES, canonical_name
from ..residency.replay import simulate
from ..values import integers, number, one_of, text
from .machine_costs import MachineCosts, costs_of
from .validate import MOST_HOSTS
from .what_if import routing_of

if TYPE_CHECKING:
    import pandas

    from ..system.machine_speed import MachineSpeed
    from .trace import Trace

HOSTS = (1, 2, 4, 8, 16, 32, 64)
PLACEMENTS = ("even", "learned")
WIDTH = 2048
"""The width of a layer's input in a trace that does not have it: that of most models here."""


@dataclass(frozen=True)
class Network:
    """What connects the machines.

    Attributes:
        latency_ms: from one machine to another, one way.
        gb_per_s: 10^9 bytes a second, of each machine's own link.
        layer_ms: what an exchange takes without a network: waking processes, copying, adding.
    """

    latency_ms: float = 0.1
    gb_per_s: float = 1.25
    layer_ms: float = 0.5

    def exchange_ms(self, hosts: int, width: int, k: int) -> float:
        """One layer of one token: input to all, a ring's sum, the output back; 0 with one machine.

        Args:
            width: of a layer's input and of each expert's output, as float32.
            k: experts per token.
        """
        if hosts == 1:
            return 0.0
        hops = 2 + 2 * (hosts - 1)
        sent = hosts * width + k * width * (1 + 2 * (hosts - 1) / hosts)
        return self.layer_ms + hops * self.latency_ms + 4 * sent / (self.gb_per_s * 1e6)

    def __str__(self) -> str:
        """The figures in words."""
        return (
            f"{three(self.latency_ms)} ms from machine to machine, {three(self.gb_per_s)} GB/s, "
            f"{three(self.layer_ms)} ms per layer without a network"
        )


def what_if_hosts(
    trace: Trace,
    hosts: Sequence[int] = HOSTS,
    slots: int | None = None,
    policy: str = "default",
    placement: str = "even",
    network: Network | None = None,
    disk_rate: float | None = None,
    machine: MachineSpeed | str | None = None,
) -> pandas.DataFrame:
    """What the trace's lookups would hit and read with its experts spread over n machines.

    Args:
        hosts: numbers of machines.
        slots: of each machine's cache, in experts; by default the run's own size, on each.
        policy: of all caches; by default the default policy.
        placement: even, in turn; or learned from this trace, which no other run has.
        network: its figures; by default `Network()`, a guess for 10 Gbit/s.
        disk_rate: bytes a second of one machine's disk, measured; by default the price of a read is
            fitted to the trace, or the machine's.
        machine: the speeds of one machine's memory, disk and Python, from which computing and reads
            follow as in `plan`'s forecast; "measured" for this machine, as `plan` last measured it.
            By default the trace's own times.

    Returns:
        One row per number of machines: hosts, slots (of each), decode_hit_rate, decode_bytes,
        busiest_bytes (of the machine that reads most), imbalance (these × hosts ÷ all), resident_gb
        (of each), decode_waits (layers in which a machine reads); of a decoded token read_ms,
        compute_ms, network_ms and their sum token_ms, and tokens_per_second, NaN without times.
        `attrs["rests_on"]` says whose speeds the prediction rests on, `attrs["assumed"]` on what
        else.

    Raises:
        OptionError: no number of machines from 1 to 64, a figure that cannot be used, or
            "measured" on a machine that was not.
        TraceError: the trace has no MoE layers, was itself made by several machines, or has not
            the size of the weights, which a measured machine's computing needs.
    """
    import pandas

    counts = integers("hosts", hosts)
    if not counts or min(counts) < 1 or max(counts) > MOST_HOSTS:
        raise OptionError(f"hosts={list(counts)} cannot be replayed: give numbers from 1 to 64")
    if trace.info.hosts:
        raise TraceError(
            "this run was made by several machines, so its times are not those of one: give a run "
            "of one process"
        )
    size = integers("slots", [trace.info.slots if slots is None else slots])[0]
    if size < 1:
        raise OptionError("the cache's size is unknown or below 1: give slots=…, of each machine")
    kind = one_of("placement", placement, PLACEMENTS)
    _check(network or Network())
    name = one_of("policy", canonical_name(text("policy", policy)), POLICIES)
    costs = costs_of(trace, machine, disk_rate)
    replays = _Replays(trace, name, kind, network or Network(), costs)
    frame = pandas.DataFrame([replays.row(count, size) for count in counts])
    frame.attrs["assumed"] = replays.assumed
    frame.attrs["rests_on"] = costs.rests_on
    return frame


def _check(network: Network) -> None:
    for name in ("latency_ms", "gb_per_s", "layer_ms"):
        value = number(name, getattr(network, name))
        if value < 0 or (name == "gb_per_s" and not value):
            raise OptionError(f"{name}={value:g} cannot be used: give a positive number")


class _Replays:
    """Replays a trace over several numbers of machines."""

    def __init__(
        self, trace: Trace, policy: str, placement: str, network: Network, costs: MachineCosts
    ) -> None:
        self._trace, self._policy, self._placement = trace, policy, placement
        self._network, self._routing = network, routing_of(trace)
        self._decode = trace.calls["phase"] == DECODE
        self._nbytes = np.array(trace.info.expert_nbytes or (0,) * trace.layers, np.int64)
        self._costs, self._cost = costs, costs.cost

    @property
    def assumed(self) -> tuple[str, ...]:
        """What a prediction rests on, a sentence each, without a full stop."""
        width = self._trace.info.width or WIDTH
        return (
            str(self._costs),
            f"the network: {self._network}; each layer's input of {width:,} numbers goes to every "
            "machine, the outputs meet in a ring, and rank 0 sends the sum back",
            "all machines are alike, each with a disk and a cache of its own; one of them computes "
            "all but the experts, and nothing overlaps with an exchange",
            "the experts' computing is divided by the machines"
            if self._costs.experts_ns
            else "the experts' computing was not measured apart, so it is not divided",
        )

    def row(self, hosts: int, slots: int) -> dict[str, Any]:
        """One row of `what_if_hosts`."""
        trace, routing, decode = self._trace, self._routing, self._decode
        placement = self._placed(hosts)
        own = np.zeros((trace.layers, routing.width), np.int64)
        for layer, each in enumerate(placement):
            own[layer, : len(each)] = each
        chosen = routing.experts >= 0
        rank_of = own[np.arange(trace.layers)[:, None], routing.experts]
        sizes = min(slots, sum(routing.experts_per_layer))
        hits = np.zeros(routing.experts.shape, bool)
        reads = np.zeros((hosts, routing.calls, trace.layers), np.int64)
        share = np.zeros((hosts, trace.steps, trace.layers))
        start = trace.resident_at_start.astype(np.int64)
        for rank in range(hosts):
            mine = chosen & (rank_of == rank)
            part = replace(routing, experts=np.where(mine, routing.experts, np.int16(-1)))
            before = start[own[start[:, 0], start[:, 1]] == rank]
            outcome = simulate(part, self._policy, sizes, before)
            hits |= outcome.hits & mine
            reads[rank] = outcome.reads
            share[rank] = mine.sum(axis=2)
        return self._summary(hosts, slots, hits & chosen, reads[:, decode], share)

    def _placed(self, hosts: int) -> Placement:
        sizes = self._trace.info.experts_per_layer
        if self._placement == "even":
            return even(sizes, hosts)
        return learned(sizes, hosts, self._routing.experts)

    def _summary(
        self, hosts: int, slots: int, hits: npt.NDArray[np.bool_], reads: npt.NDArray[np.int64],
        share: npt.NDArray[np.float64],
    ) -> dict[str, Any]:  # fmt: skip
        trace, info = self._trace, self._trace.info
        in_decode = trace.phase == DECODE
        nbytes = reads * self._nbytes
        by_rank, longest = nbytes.sum(axis=(1, 2)), nbytes.max(axis=0)
        lookups = int((trace.experts[in_decode] >= 0).sum())
        calls = max(1, reads.shape[1])
        waits = int((longest > 0).sum())
        waited = np.nan_to_num(self._cost.wait) * waits + self._cost.per_byte * float(longest.sum())
        read_ms = waited / calls / 1e6 if longest.any() else 0.0
        compute_ms = self._compute_ns(share[:, in_decode]) / 1e6
        k = int(trace.experts.shape[2])
        exchange = self._network.exchange_ms(hosts, info.width or WIDTH, k)
        network_ms = trace.layers * exchange
        token_ms = read_ms + compute_ms + network_ms
        owned = min(slots, -(-sum(info.experts_per_layer) // hosts))
        mean = float(self._nbytes.mean()) if trace.layers else 0.0
        return {
            "hosts": hosts,
            "slots": slots,
            "decode_hit_rate": float(hits[in_decode].sum()) / lookups if lookups else float("nan"),
            "decode_bytes": int(by_rank.sum()),
            "busiest_bytes": int(by_rank.max()),
            "imbalance": float(by_rank.max() * hosts / by_rank.sum()) if by_rank.any() else 1.0,
            "resident_gb": owned * mean / 1e9,
            "decode_waits": waits,
            "read_ms": read_ms,
            "compute_ms": compute_ms,
            "network_ms": network_ms,
            "token_ms": token_ms,
            "tokens_per_second": 1e3 / token_ms if token_ms > 0 else float("nan"),
        }

    def _compute_ns(self, share: npt.NDArray[np.float64]) -> float:
        """Nanoseconds of a token without reads: the experts' part as the busiest machine's.

        Args:
            share: the number of choices of each machine, [hosts, steps, layers].
        """
        total, most = float(share.sum()), float(share.max(axis=0, initial=0).sum())
        spared = self._costs.experts_ns * (1 - most / total if total else 0.0)
        return self._cost.compute - spared
