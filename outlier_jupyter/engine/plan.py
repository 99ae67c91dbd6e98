"""`plan`: the size of a model's experts, and how large a cache fits this machine, before loading.

`plan` reads the config and the shards' headers, a few megabytes at most, also of a model that is
not downloaded. mlx-lm builds the model lazily, as in `load`, so layers, formats and top-k are what
`load` will find. A `Plan` is plain data with a text and an HTML form.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from html import escape
from math import floor, log10
from typing import Any

from ..aliases import alias, with_old_keys
from ..checkpoint.model_folder import ModelFolder
from ..cpu.modules import wanted
from ..display import INERT
from ..errors import place
from ..formatting import percent, size_words, three
from ..options import AUTO, LoadOptions, make
from ..paging import share_slots
from ..paging.install import MoeSwitch
from ..paging.probe import Probed, dense_nbytes, expert_format
from ..system import hub
from ..system.machine_speed import kept_speed
from ..system.memory_info import Machine
from ..values import boolean, checked, path, refused, text
from .engine import Engine
from .forecast import Forecast, earlier_routing, forecast, geometry_of
from .load import probed_of
from .loads import loads
from .measure_speed import measure_speed
from .memory_budget import MemoryBounds, Needs, best_nbytes, least_nbytes, needs_of, up
from .open_checkpoint import Opened, open_model
from .prompts import context_of
from .top_k import own_top_k_of

ROWS = 7
"""Cache sizes shown beside the advised one and the largest."""


@dataclass(frozen=True)
class CacheSize:
    """A cache size and what it holds.

    Attributes:
        cache_gb: GB (10^9 bytes), as for `load`.
        experts: number of experts that fit; `share`, of all.
        working_sets: `experts` in working sets: the experts of one token, layers × top-k.
        memory: bytes of RAM with dense weights, KV caches and the rest of the process.
        fits: whether that fits this machine now, and `ram_gb` if set.
    """

    cache_gb: float
    experts: int
    share: float
    working_sets: float
    memory: int
    fits: bool

    tokens = alias("working_sets")


@dataclass(frozen=True)
class Plan:
    """What `load` will find, and which cache sizes fit. Sizes are bytes.

    Attributes:
        model, model_type: the name that was passed, and the config's type.
        here: whether its weights are on this machine already.
        experts_per_layer, expert_nbytes, top_k: one entry per MoE layer.
        formats: the experts' formats as text, without duplicates.
        experts_total: bytes of all experts; `dense`, of everything else.
        cold_per_token: bytes that one token reads when no expert is resident.
        kv_per_token, kv_fixed: the KV cache's growth per token of context, and its constant part;
            None if unknown. `kv_kept` is the most that caches of earlier runs take.
        context: the model's full context in tokens; None if its config does not say.
        planned_tokens: the context that `sizes` make room for.
        total, available: memory of this machine, in all and free.
        sizes: cache sizes and what they hold, smallest first.
        cache_gb: the advised size; None if the model has no experts or does not fit.
        advice: the reason, in a sentence.
        forecast: tokens per second for each of `sizes`; None where this machine was not measured,
            or MLX's kernels compute.
    """

    model: str
    model_type: str
    here: bool
    experts_per_layer: tuple[int, ...]
    expert_nbytes: tuple[int, ...]
    top_k: tuple[int, ...]
    formats: tuple[str, ...]
    experts_total: int
    dense: int
    cold_per_token: int
    kv_per_token: int | None
    kv_fixed: int | None
    context: int | None
    kv_kept: int
    planned_tokens: int
    total: int
    available: int
    sizes: tuple[CacheSize, ...]
    cache_gb: float | None
    advice: str
    forecast: Forecast | None = None

    @property
    def layers(self) -> int:
        """The number of MoE layers."""
        return len(self.experts_per_layer)

    def to_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON; those of a size have their old names as well."""
        sizes = tuple(with_old_keys(CacheSize, asdict(size)) for size in self.sizes)
        return asdict(self) | {"layers": self.layers, "sizes": sizes}

    def facts(self) -> list[tuple[str, str]]:
        """The model and the machine, as rows of text: (name, value)."""
        where = "on this machine" if self.here else "not downloaded; only its headers were read"
        rows = [("model", f"{self.model} ({self.model_type}; {where})")]
        if self.layers:
            each = _alike(self.expert_nbytes, size_words)
            rows += [
                ("experts", f"{self.layers} layers × {_alike(self.experts_per_layer)}, top-"
                 f"{_alike(self.top_k)}; {each} each, {size_words(self.experts_total)} in all"),
                ("format", ", ".join(self.formats)),
                ("cold", f"{size_words(self.cold_per_token)} read per token when none is in RAM"),
            ]  # fmt: skip
        else:
            rows.append(("experts", "none that can be paged: the model is loaded whole"))
        kv = "unknown"
        if self.kv_per_token is not None:
            kv = f"{size_words(self.kv_per_token)} per token"
            kv += f" and {size_words(self.kv_fixed)}" if self.kv_fixed else ""
        context = f"; the full context is {self.context:,} tokens" if self.context else ""
        return [
            *rows,
            ("the rest", f"{size_words(self.dense)} of RAM: attention, routers, embeddings"),
            ("KV cache", kv + context),
            ("", f"caches of earlier runs are kept up to {size_words(self.kv_kept)}"),
            ("machine", f"{size_words(self.available)} of {size_words(self.total)} RAM free"),
        ]

    def table(self) -> list[tuple[str, ...]]:
        """The cache sizes as text: a row of headings, then one row per size."""
        rows: list[tuple[str, ...]] = []
        heads = ("cache_gb", "experts", "share", "working sets", "RAM in all")
        speeds = [each.words() for each in self.forecast.speeds] if self.forecast else []
        rows.append((*heads, *(["tokens/s"] if speeds else []), "fits now"))
        for number, size in enumerate(self.sizes):
            mark = " ←" if size.cache_gb == self.cache_gb else ""
            fits = ("yes" if size.fits else "no") + mark
            holds = (f"{size.experts:,}", percent(size.share), three(size.working_sets))
            speed = speeds[number : number + 1]
            rows.append((f"{size.cache_gb:g}", *holds, size_words(size.memory), *speed, fits))
        return rows

    def expected(self) -> str:
        """What the forecast says beside the table; "" without one."""
        if self.forecast is None:
            return ""
        enough = self.sizes[self.forecast.knee()]
        return (
            f"From cache_gb={enough.cache_gb:g} on, more RAM gains less than a tenth. "
            f"{self.forecast.words()}"
        )

    def __str__(self) -> str:
        """Facts, table and advice, as lines of text."""
        lines = [f"{name:<9} {value}" for name, value in self.facts()]
        if self.sizes:
            rows = self.table()
            widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
            lines += ["", f"with a context of {self.planned_tokens:,} tokens:"]
            for row in rows:
                cells = [c.rjust(w) for c, w in zip(row[:-1], widths, strict=False)]
                lines.append("  ".join([*cells, row[-1]]).rstrip())
        return "\n".join([*lines, "", self.advice, *filter(None, [self.expected()])])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        facts = "".join(
            f"<tr><th style='text-align:left'>{escape(name)}</th>"
            f"<td style='text-align:left'>{escape(value)}</td></tr>"
            for name, value in self.facts()
        )
        heads, *rows = self.table()
        head = "".join(f"<th>{escape(cell)}</th>" for cell in heads)
        lines = "".join(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
        )
        sizes = (
            f"<table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody><caption>with a context "
            f"of {self.planned_tokens:,} tokens</caption></table>"
        )
        sentences = "".join(
            f"<p>{escape(text)}</p>" for text in (self.advice, self.expected()) if text
        )
        body = f"<table>{facts}</table>{sizes if rows else ''}{sentences}"
        return f'<div class="{INERT}">{body}</div>'


@checked(model=path, revision=text, trust_remote_code=boolean, measure=boolean)
def plan(
    model: str | os.PathLike[str],
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    machine: Machine | None = None,
    ram_gb: float | None = None,
    kernels: str = AUTO,
    kept_kv_gb: float = LoadOptions.kept_kv_gb,
    replacing: Engine | None = None,
    measure: bool = False,
) -> Plan:
    """Report what `load(model)` will find and which cache size fits, from headers alone.

    Args:
        model: "demo", a folder, or a Hugging Face id, which need not be downloaded.
        revision: branch, tag or commit of a Hugging Face repository.
        trust_remote_code: allow the model folder's own Python code to run, if the model needs it.
        machine: plan for this memory instead of what is free now.
        ram_gb, kernels, kept_kv_gb: as in `load`.
        replacing: an open engine whose memory would be freed first.
        measure: measure this machine's memory, disk and products for three seconds, and keep that
            for later plans. A forecast of tokens per second needs it once.

    Raises:
        ModelNotFound, CheckpointError, UnsupportedModel, OptionError: the message says what to do.
    """
    options = make(LoadOptions, {"ram_gb": ram_gb, "kernels": kernels, "kept_kv_gb": kept_kv_gb})
    if machine is not None and not isinstance(machine, Machine):
        raise refused("machine", machine, "an outlier_jupyter.system.memory_info.Machine")
    if replacing is not None and not isinstance(replacing, Engine):
        raise refused("replacing", replacing, "an engine, or nothing")
    with loads.one(), hub.headers(os.fspath(model), revision) as (folder, here):
        opened = open_model(ModelFolder(folder, trusted=trust_remote_code))
        formats = dict.fromkeys(expert_format(s) for s in opened.switches)
        dense = dense_nbytes(opened.module, opened.switches)
        probed = probed_of(opened, options.kernels)
        geometry = geometry_of(opened, probed, dense)
        if measure and geometry is not None and wanted(options.kernels):
            measure_speed(opened.checkpoint.files if here else (), geometry.expert_nbytes)
    freed = replacing.memory().freed if replacing is not None else 0
    bound = options.ram_gb
    room = MemoryBounds.now(bound, freed) if machine is None else MemoryBounds(machine, 0, bound)
    needs = needs_of(opened.config, dense, probed, options.kept_kv_gb)
    found = _plan(place(model, 1000), here, opened, tuple(formats), probed, needs, room)
    speed = kept_speed() if wanted(options.kernels) else None
    if speed is None or geometry is None:
        return found
    slots = [size.experts for size in found.sizes]
    return replace(found, forecast=forecast(geometry, slots, speed, earlier_routing(opened)))


def _plan(
    model: str,
    here: bool,
    opened: Opened,
    formats: tuple[str, ...],
    probed: Probed | None,
    needs: Needs,
    room: MemoryBounds,
) -> Plan:
    switches = opened.switches
    nbytes = tuple(switch.expert_nbytes for switch in switches)
    top_k = probed.top_k if probed else (own_top_k_of(opened.config) or 1,) * len(switches)
    sizes, best = _sizes(switches, top_k, needs, room)
    return Plan(
        model=model,
        model_type=str(opened.config.get("model_type", "")),
        here=here,
        experts_per_layer=tuple(switch.experts for switch in switches),
        expert_nbytes=nbytes,
        top_k=top_k,
        formats=formats,
        experts_total=sum(s.experts * s.expert_nbytes for s in switches),
        dense=needs.dense,
        cold_per_token=sum(k * n for k, n in zip(top_k, nbytes, strict=True)),
        kv_per_token=probed.kv_nbytes_per_token if probed else None,
        kv_fixed=probed.kv_nbytes_fixed if probed else None,
        context=context_of(opened.config),
        kv_kept=needs.kv_kept,
        planned_tokens=needs.tokens,
        total=room.machine.total,
        available=room.machine.available,
        sizes=sizes,
        cache_gb=best.cache_gb if best else None,
        advice=_advice(sizes, best, needs, room),
    )


def _sizes(
    switches: Sequence[MoeSwitch], top_k: Sequence[int], needs: Needs, room: MemoryBounds
) -> tuple[tuple[CacheSize, ...], CacheSize | None]:
    """Round sizes from about half a working set to all experts, and the advised one."""
    if not switches:
        return (), None
    everything = sum(s.experts * s.expert_nbytes for s in switches)
    cold = sum(k * s.expert_nbytes for k, s in zip(top_k, switches, strict=True))
    experts = sum(s.experts for s in switches)
    beside, left = room.beside(needs), room.for_experts(needs)

    def size(nbytes: int) -> CacheSize:
        gb = min(up(everything), nbytes) / 1e9
        slots = sum(share_slots(switches, gb, None).values())
        taken = min(nbytes, everything)
        return CacheSize(gb, slots, slots / experts, slots / sum(top_k), beside + taken,
                         taken <= left)  # fmt: skip

    steps = [n for n in _round_sizes(cold // 2, everything) if n > least_nbytes(switches)]
    if len(steps) > ROWS:
        steps = steps[: ROWS - 3] + steps[-3:]
    nbytes = best_nbytes(switches, left)
    best = None if nbytes is None else size(nbytes)
    rows = [size(n) for n in (*steps, up(everything))] + ([best] if best else [])
    return tuple(
        sorted({row.cache_gb: row for row in rows}.values(), key=lambda s: s.cache_gb)
    ), best


def _advice(
    sizes: Sequence[CacheSize], best: CacheSize | None, needs: Needs, room: MemoryBounds
) -> str:
    beside, left = size_words(room.beside(needs)), room.for_experts(needs)
    if not sizes:
        fits = "fits" if left >= 0 else "does not fit"
        return f"No expert can be paged; loaded whole the model {fits} here: it takes {beside}."
    if best is None:
        return (
            f"It does not fit here now: {beside} are needed beside the experts, and the process "
            f"may take {size_words(room.most)} ({room.words()})."
        )
    if best.share >= 1:
        return f"Take cache_gb={best.cache_gb:g}: all experts fit, and nothing is read twice."
    spared = size_words(room.spared)
    take = f"Take cache_gb={best.cache_gb:g}: the most that fits "
    if room.bounded:
        take += f"in {room.words()} beside {beside} for the rest"
    else:
        take += f"beside {beside} for the rest and {spared} left free"
    if best.working_sets < 1:
        return (
            f"{take}; that is less than the experts of a single token, so nearly every expert is "
            "read each time it is needed."
        )
    return f"{take}; it holds the experts of {three(best.working_sets)} tokens."


def _round_sizes(low: int, high: int) -> list[int]:
    """1, 2 and 5 times powers of ten, in bytes, from `low` up to below `high`."""
    powers = range(floor(log10(max(low, 1))), floor(log10(high)) + 1)
    sizes = [digit * 10**power for power in powers for digit in (1, 2, 5)]
    return [n for n in sizes if low <= n < high]


def _alike(values: Sequence[int], words: Any = str) -> str:
    """The value as text, or the least and the most if layers differ."""
    least, most = min(values), max(values)
    return words(least) if least == most else f"{words(least)} to {words(most)}"
