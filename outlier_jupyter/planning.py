"""Before a model is loaded: what its experts weigh, and how large a cache this machine can hold.

`plan` reads the config and the shards' headers, a few megabytes at most, also of a model that is
not downloaded, and has mlx-lm build the model lazily, as `load` does. So what it says of layers,
formats and top-k is what `load` will find. A `Plan` is plain data that shows itself.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape
from math import floor, log10
from typing import Any

from . import hub
from .errors import place
from .loading import native_top_k
from .machine import Machine, machine_memory
from .memory import beside_nbytes
from .model_folder import ModelFolder
from .opening import Opened, open_model
from .paging import share_slots
from .paging.install import Switch
from .paging.probe import Probed, dense_nbytes, expert_format, probe
from .prompts import context_of
from .units import percent, size_words, three

PLANNED_TOKENS = 8192
"""The context whose KV cache is planned for, or the model's own where that is shorter."""
SPARED = 0.1
"""The share of the machine's memory that is left to everybody else and to the page cache."""
ROWS = 7
"""Cache sizes shown beside the advised one and the whole."""


@dataclass(frozen=True)
class CacheSize:
    """What a `cache_gb` would hold.

    Attributes:
        cache_gb: GB (10^9 bytes), as given to `load`.
        experts: how many experts it holds; `share`, of all.
        tokens: how many tokens' worth that is: times the experts one token needs in all layers.
        memory: bytes of RAM with dense weights, KV cache and what a process takes beside them.
        fits: whether that fits this machine now.
    """

    cache_gb: float
    experts: int
    share: float
    tokens: float
    memory: int
    fits: bool


@dataclass(frozen=True)
class Plan:
    """What `load` would find, and what fits. Sizes are bytes.

    Attributes:
        model, model_type: as asked, and as the config says.
        here: whether its weights are on this machine already.
        experts_per_layer, expert_nbytes, top_k: one entry per MoE layer.
        formats: the experts' formats in words, each once.
        experts_total: of all experts; `dense`, of everything else.
        cold_per_token: what one token reads when nothing is in RAM.
        kv_per_token, kv_fixed: the KV cache's growth per token of context, and what it takes
            beside that; None where that could not be told.
        context: the model's full context in tokens; None where its config does not say.
        planned_tokens: the context that `sizes` make room for.
        total, available: memory of this machine, and what of it is free to take now.
        sizes: cache sizes and what they hold, smallest first.
        cache_gb: the size to take; None for a model that has no experts or does not fit.
        advice: why, in a sentence.
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
    planned_tokens: int
    total: int
    available: int
    sizes: tuple[CacheSize, ...]
    cache_gb: float | None
    advice: str

    @property
    def layers(self) -> int:
        """How many MoE layers there are."""
        return len(self.experts_per_layer)

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON takes them."""
        return asdict(self) | {"layers": self.layers}

    def facts(self) -> list[tuple[str, str]]:
        """What is known of the model and the machine, in words: (name, value)."""
        where = "on this machine" if self.here else "not downloaded; only its headers were read"
        rows = [("model", f"{self.model} ({self.model_type}; {where})")]
        if self.layers:
            each = _alike(self.expert_nbytes, size_words)
            rows += [
                ("experts", f"{self.layers} layers × {_alike(self.experts_per_layer)}, top-"
                 f"{_alike(self.top_k)}; {each} each, {size_words(self.experts_total)} in all"),
                ("format", ", ".join(self.formats)),
                ("cold", f"{size_words(self.cold_per_token)} read for a token when none is in RAM"),
            ]  # fmt: skip
        else:
            rows.append(("experts", "none that can be paged: the model is held whole"))
        kv = "unknown"
        if self.kv_per_token is not None:
            kv = f"{size_words(self.kv_per_token)} per token"
            kv += f" and {size_words(self.kv_fixed)}" if self.kv_fixed else ""
        context = f"; the full context is {self.context:,} tokens" if self.context else ""
        return [
            *rows,
            ("the rest", f"{size_words(self.dense)} of RAM: attention, routers, embeddings"),
            ("KV cache", kv + context),
            ("machine", f"{size_words(self.available)} of {size_words(self.total)} RAM free"),
        ]

    def table(self) -> list[tuple[str, ...]]:
        """The cache sizes in words: a row of headings, then one row per size."""
        rows: list[tuple[str, ...]] = []
        rows.append(("cache_gb", "experts", "share", "tokens' worth", "RAM in all", "fits now"))
        for s in self.sizes:
            mark = " ←" if s.cache_gb == self.cache_gb else ""
            fits = ("yes" if s.fits else "no") + mark
            rows.append((f"{s.cache_gb:g}", f"{s.experts:,}", percent(s.share), three(s.tokens),
                         size_words(s.memory), fits))  # fmt: skip
        return rows

    def __str__(self) -> str:
        """Facts, table and advice, in lines."""
        lines = [f"{name:<9} {value}" for name, value in self.facts()]
        if self.sizes:
            rows = self.table()
            widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
            lines += ["", f"with a context of {self.planned_tokens:,} tokens:"]
            for row in rows:
                cells = [c.rjust(w) for c, w in zip(row[:-1], widths, strict=False)]
                lines.append("  ".join([*cells, row[-1]]).rstrip())
        return "\n".join([*lines, "", self.advice])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        facts = "".join(
            f"<tr><th style='text-align:left'>{escape(name)}</th>"
            f"<td style='text-align:left'>{escape(value)}</td></tr>"
            for name, value in self.facts()
        )
        heads, *rows = self.table()
        head = "".join(f"<th>{escape(cell)}</th>" for cell in heads)
        body = "".join(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
        )
        sizes = (
            f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody><caption>with a context of "
            f"{self.planned_tokens:,} tokens</caption></table>"
        )
        return f"<table>{facts}</table>{sizes if rows else ''}<p>{escape(self.advice)}</p>"


def plan(
    model: str | os.PathLike[str],
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    machine: Machine | None = None,
) -> Plan:
    """Say what `load(model)` would find and which cache size to take, from headers alone.

    Args:
        model: "demo", a folder, or a Hugging Face id, which need not be downloaded.
        revision: branch, tag or commit of a Hugging Face repository.
        trust_remote_code: run the code that the model's folder brings, where it needs that.
        machine: plan for this memory instead of what is free here and now.

    Raises:
        ModelNotFound, CheckpointError, UnsupportedModel: each says what to do.
    """
    with hub.headers(os.fspath(model), revision) as (folder, here):
        opened = open_model(ModelFolder(folder, trusted=trust_remote_code))
        formats = dict.fromkeys(expert_format(s) for s in opened.switches)
        dense = dense_nbytes(opened.module, opened.switches)
        probed = probe(opened.module, opened.switches)
    return _plan(place(model, 1000), here, opened, tuple(formats), dense, probed,
                 machine or machine_memory())  # fmt: skip


def _plan(
    model: str,
    here: bool,
    opened: Opened,
    formats: tuple[str, ...],
    dense: int,
    probed: Probed | None,
    machine: Machine,
) -> Plan:
    switches = opened.switches
    nbytes = tuple(switch.expert_nbytes for switch in switches)
    top_k = probed.top_k if probed else (native_top_k(opened.config) or 1,) * len(switches)
    context = context_of(opened.config)
    tokens = min(context or PLANNED_TOKENS, PLANNED_TOKENS)
    kv = probed.kv_nbytes_fixed + tokens * probed.kv_nbytes_per_token if probed else 0
    beside = dense + kv + beside_nbytes(_vocabulary(opened.config))
    room = machine.available - int(SPARED * machine.total) - beside
    sizes, best = _sizes(switches, top_k, beside, room)
    advice = _advice(sizes, best, beside, machine)
    return Plan(
        model=model,
        model_type=str(opened.config.get("model_type", "")),
        here=here,
        experts_per_layer=tuple(switch.experts for switch in switches),
        expert_nbytes=nbytes,
        top_k=top_k,
        formats=formats,
        experts_total=sum(s.experts * s.expert_nbytes for s in switches),
        dense=dense,
        cold_per_token=sum(k * n for k, n in zip(top_k, nbytes, strict=True)),
        kv_per_token=probed.kv_nbytes_per_token if probed else None,
        kv_fixed=probed.kv_nbytes_fixed if probed else None,
        context=context,
        planned_tokens=tokens,
        total=machine.total,
        available=machine.available,
        sizes=sizes,
        cache_gb=best.cache_gb if best else None,
        advice=advice,
    )


def _vocabulary(config: dict[str, Any]) -> int:
    """How many tokens the model knows, as its config says; 0 where it does not."""
    inner = config.get("text_config")
    found = config.get("vocab_size") or (inner.get("vocab_size") if isinstance(inner, dict) else 0)
    return found if isinstance(found, int) else 0


def _sizes(
    switches: Sequence[Switch], top_k: Sequence[int], beside: int, room: int
) -> tuple[tuple[CacheSize, ...], CacheSize | None]:
    """Round sizes from about one token's worth to everything, and the one to take."""
    if not switches:
        return (), None
    everything = sum(s.experts * s.expert_nbytes for s in switches)
    cold = sum(k * s.expert_nbytes for k, s in zip(top_k, switches, strict=True))
    experts = sum(s.experts for s in switches)

    def size(nbytes: int) -> CacheSize:
        gb = min(_up(everything), nbytes) / 1e9
        held = sum(share_slots(switches, gb, None).values())
        taken = min(nbytes, everything)
        return CacheSize(gb, held, held / experts, held / sum(top_k), beside + taken,
                         taken <= room)  # fmt: skip

    least = max(s.expert_nbytes for s in switches) * 2 * len({s.geometry for s in switches})
    steps = [n for n in _round_sizes(cold // 2, everything) if n > least]
    if len(steps) > ROWS:
        steps = steps[: ROWS - 3] + steps[-3:]
    best = size(_up(everything) if everything <= room else _down(room)) if room > least else None
    rows = [size(n) for n in (*steps, _up(everything))] + ([best] if best else [])
    return tuple(
        sorted({row.cache_gb: row for row in rows}.values(), key=lambda s: s.cache_gb)
    ), best


def _advice(
    sizes: Sequence[CacheSize], best: CacheSize | None, beside: int, machine: Machine
) -> str:
    if not sizes:
        fits = beside <= machine.available
        return f"No expert can be paged; held whole it {'fits' if fits else 'does not fit'} here."
    spared = size_words(SPARED * machine.total)
    if best is None:
        return (
            f"It does not fit here now: {size_words(beside)} are needed beside the experts, "
            f"and {size_words(machine.available)} are free, of which {spared} should stay so."
        )
    if best.share >= 1:
        return f"Take cache_gb={best.cache_gb:g}: all experts fit, and nothing is read twice."
    take = (
        f"Take cache_gb={best.cache_gb:g}: the most that fits beside {size_words(beside)} for the "
        f"rest and {spared} left free"
    )
    if best.tokens < 1:
        return (
            f"{take}; that is less than the experts of a single token, so nearly every expert is "
            "read each time it is needed."
        )
    return f"{take}; it holds the experts of {three(best.tokens)} tokens."


def _round_sizes(low: int, high: int) -> list[int]:
    """1, 2 and 5 times powers of ten, in bytes, from `low` up to below `high`."""
    powers = range(floor(log10(max(low, 1))), floor(log10(high)) + 1)
    sizes = [digit * 10**power for power in powers for digit in (1, 2, 5)]
    return [n for n in sizes if low <= n < high]


def _down(nbytes: int) -> int:
    """Two digits of it, rounded down."""
    unit = int(10 ** (floor(log10(nbytes)) - 1))
    return nbytes // max(unit, 1) * max(unit, 1)


def _up(nbytes: int) -> int:
    """Three digits of it, rounded up, so that all of it fits."""
    unit = max(int(10 ** (floor(log10(nbytes)) - 2)), 1)
    return -(-nbytes // unit) * unit


def _alike(values: Sequence[int], words: Any = str) -> str:
    """One value in words, or the least and the most where layers differ."""
    least, most = min(values), max(values)
    return words(least) if least == most else f"{words(least)} to {words(most)}"
