"""Tokens per second of a model that was never loaded, for each size of its cache.

Two recordings of real routing are resampled to the model's geometry and replayed through a cache of
each size, with the default policy. That gives the experts that a token reads, and by this machine's
speeds (`system/machine_speed`) what a token takes. The wait for a prompt was compared for prompts
of 128 tokens alone. MLX's kernels were not measured, so they have no forecast.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, log

import numpy as np

from ..formatting import three
from ..options import AUTO
from ..paging.probe import Probed, embedding_nbytes
from ..residency.replay import RecordedRouting, simulate
from ..residency.resample import RECORDED, Picks, recorded, resampled
from ..system.machine_speed import WAIT_S, MachineSpeed
from ..system.provenance import fingerprint
from ..trace import TraceInfo
from .open_checkpoint import Opened
from .routing_history import RoutingHistory
from .top_k import own_top_k_of

PRODUCTS = 1.0
"""A prompt's products take so many times NumPy's time for the same ones in float32: assumed."""
BAND = 1.25
"""A forecast's factor of doubt, beside the difference between the recordings."""
LEAST_TOKENS = 100
"""A forecast rests on the routing of earlier runs if they had so many tokens."""
PROMPTS = (128, 512, 4096)
"""Tokens of the prompts whose wait is forecast."""


@dataclass(frozen=True)
class Geometry:
    """What a forecast needs of a model.

    Attributes:
        layers, experts, top_k: MoE layers, and the most experts and choices of one.
        expert_nbytes: bytes of the largest expert.
        dense: bytes of other weights that a token multiplies.
        bits: of a stored weight.
    """

    layers: int
    experts: int
    top_k: int
    expert_nbytes: int
    dense: int
    bits: float

    @property
    def active(self) -> int:
        """Bytes that a token multiplies."""
        return self.dense + self.layers * self.top_k * self.expert_nbytes


def geometry_of(opened: Opened, probed: Probed | None, dense: int) -> Geometry | None:
    """What a forecast needs; None without experts."""
    switches = opened.switches
    if not switches:
        return None
    top_k = max(probed.top_k) if probed else own_top_k_of(opened.config) or 1
    quantised = opened.config.get("quantization")
    bits = quantised.get("bits", 16) if isinstance(quantised, dict) else 16
    return Geometry(
        len(switches),
        max(switch.experts for switch in switches),
        top_k,
        max(switch.expert_nbytes for switch in switches),
        dense - embedding_nbytes(opened.module),
        float(bits),
    )


def earlier_routing(opened: Opened) -> Picks | None:
    """What the model chose here before, [tokens, layers, k]; None if that is too little."""
    stamp = fingerprint(opened.config, opened.checkpoint.spans)
    sizes = tuple(switch.experts for switch in opened.switches)
    found = RoutingHistory(TraceInfo(model_hash=stamp, experts_per_layer=sizes), AUTO).read()
    return found if found is not None and len(found) >= LEAST_TOKENS else None


@dataclass(frozen=True)
class ExpectedSpeed:
    """The forecast for one cache size.

    Attributes:
        low, likely, high: tokens per second of decode.
        hit_rate: of decode, with the recording whose layers are closest.
    """

    low: float
    likely: float
    high: float
    hit_rate: float

    def words(self) -> str:
        """The band, such as "9 to 14"."""
        return f"{_two(self.low)} to {_two(self.high)}"


@dataclass(frozen=True)
class Forecast:
    """What a model would do on this machine.

    Attributes:
        speeds: one for each cache size.
        waits: (tokens of a prompt, seconds until its first token with an empty cache).
        basis: what they rest on, in a sentence.
    """

    speeds: tuple[ExpectedSpeed, ...]
    waits: tuple[tuple[int, float], ...]
    basis: str

    def knee(self) -> int:
        """The place of the smallest size that has nine tenths of the largest's speed."""
        enough = 0.9 * max(speed.likely for speed in self.speeds)
        return next(n for n, speed in enumerate(self.speeds) if speed.likely >= enough)

    def words(self) -> str:
        """The waits for prompts, and what all of it rests on."""
        waits = ", ".join(f"{_wait(seconds)} for {tokens:,}" for tokens, seconds in self.waits)
        return f"The first token waits, roughly, {waits} tokens of prompt. {self.basis}"


def forecast(
    model: Geometry, slots: Sequence[int], machine: MachineSpeed, own: Picks | None = None
) -> Forecast:
    """The forecast for caches of so many experts in all.

    Args:
        own: what the model chose in earlier runs here, [tokens, layers, k], if they were enough.
    """
    routes = _routes(model, own)
    closest, *others = routes
    speeds = tuple(_speed(model, list(routes.values()), size, machine) for size in slots)
    nearest = routes[closest]
    waits = tuple((tokens, _prompt_seconds(model, nearest, tokens, machine)) for tokens in PROMPTS)
    source = (
        f"the routing of earlier runs here, and of {' and '.join(others)} in this geometry"
        if own is not None
        else f"the routing of {closest}, whose layers are closest, and of {' and '.join(others)}, "
        "in this geometry"
    )
    return Forecast(speeds, waits, f"A forecast for compiled CPU kernels from {machine.words()} "
                    f"and from {source}.")  # fmt: skip


def _routes(model: Geometry, own: Picks | None) -> dict[str, Picks]:
    """Routing in the model's geometry, the closest first."""

    def unlike(name: str) -> float:
        return abs(log(model.experts / model.top_k) - log(RECORDED[name] / top_k[name]))

    top_k = {name: recorded(name).shape[2] for name in RECORDED}
    found = {} if own is None else {"earlier runs": own}
    for name in sorted(RECORDED, key=unlike):
        shape = model.layers, model.experts, model.top_k
        found[name] = resampled(recorded(name), RECORDED[name], *shape)
    return found


def _speed(
    model: Geometry, routes: Sequence[Picks], slots: int, machine: MachineSpeed
) -> ExpectedSpeed:
    reads = [_reads(model, each, slots) for each in routes]
    seconds = [_seconds(model, *each, machine) for each in reads]
    return ExpectedSpeed(
        1 / (max(seconds) * BAND),
        1 / seconds[0],
        BAND / min(seconds),
        1 - reads[0][0] / (model.layers * model.top_k),
    )


def _seconds(model: Geometry, reads: float, waits: float, machine: MachineSpeed) -> float:
    compute = machine.overhead_s + machine.multiply_s(model.active)
    return compute + WAIT_S * waits + machine.read_s(reads * model.expert_nbytes)


def _prompt_seconds(model: Geometry, route: Picks, tokens: int, machine: MachineSpeed) -> float:
    products = tokens * 8 * model.active / model.bits
    chosen = _chosen(model, route, tokens)
    nbytes = chosen * model.layers * model.experts * model.expert_nbytes
    return PRODUCTS * products / machine.products + machine.read_s(nbytes)


def _chosen(model: Geometry, route: Picks, tokens: int) -> float:
    """The share of all experts that a prompt of so many tokens chooses; a longer one than the
    recording as if its pieces were of different texts.
    """
    whole = min(tokens, len(route))
    seen = sum(len(np.unique(layer[layer >= 0])) for layer in route[:whole].swapaxes(0, 1))
    return float(1 - (1 - seen / (model.layers * model.experts)) ** (tokens / whole))


def _reads(model: Geometry, experts: Picks, slots: int) -> tuple[float, float]:
    """Experts read per token, and layers that wait, in the second half of the routes."""
    if slots >= model.layers * model.experts:
        return 0.0, 0.0
    starts = np.arange(len(experts) + 1, dtype=np.int64)
    banks = np.zeros(model.layers, np.int64)
    routing = RecordedRouting(experts, starts, (model.experts,) * model.layers, banks)
    reads = simulate(routing, "predictive", slots).reads
    late = reads[len(reads) // 2 :]
    return float(late.sum(axis=1).mean()), float((late > 0).sum(axis=1).mean())


def _wait(seconds: float) -> str:
    return f"{_two(seconds)} s" if seconds >= 1 else f"{_two(seconds * 1e3)} ms"


def _two(value: float) -> str:
    """Two digits."""
    if value >= 10 or value == inf:
        return f"{value:.0f}"
    return three(float(f"{value:.2g}"))
