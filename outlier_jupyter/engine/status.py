"""An engine's state as plain data, with a text form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import nan

from ..checkpoint import Reader
from ..display import draw
from ..distributed.rank_state import RankState
from ..formatting import answer_text, size_words
from ..options import NEUTRAL, sampling_words
from ..paging import Installed
from ..runs.run import Run
from ..system.memory_pressure import pressure_watch
from ..trace import TraceInfo


@dataclass(frozen=True)
class Status:
    """An engine's state: what is loaded, how much of it is in RAM, whether it was closed.

    Attributes:
        model: the name that `load` was called with.
        layers: number of MoE layers.
        experts: number of experts in all layers.
        slots: number of experts that fit in RAM.
        resident: number of experts that are in RAM now.
        bank_nbytes: bytes of the slots, filled or not.
        experts_nbytes: bytes of all experts on disk.
        dense_nbytes: bytes of all other weights, which are always in RAM.
        reader: how experts are read: `pread`, `direct` or `mmap`.
        reader_note: why this reader; "" if there is nothing to say.
        kernels: `cpu` for the compiled ones, or `mlx`.
        top_k: experts per token in each layer; None if unknown.
        changed_output: why the output differs from the model's own; "" if it does not.
        closed: whether the engine was closed.
        sampling: how runs sample by default, as the model's makers advise; else "greedy".
        memory_note: that the cache is smaller for a while, because memory was short; or "".
        tokens_before: tokens of earlier runs whose experts were read at load.
        ranks: what is known of each rank, where the experts are spread over some; `slots`,
            `resident` and `bank_nbytes` are of all together then.
        decode_hit_rate: of the last run, NaN without one; `last_run`, its numbers as text.
    """

    model: str
    layers: int
    experts: int
    slots: int
    resident: int
    bank_nbytes: int
    experts_nbytes: int
    dense_nbytes: int
    reader: str
    reader_note: str
    kernels: str
    top_k: int | None
    changed_output: str
    closed: bool = False
    sampling: str = "greedy"
    decode_hit_rate: float = nan
    last_run: str = field(default="")
    memory_note: str = ""
    tokens_before: int = 0
    ranks: tuple[RankState, ...] = ()

    @classmethod
    def of(
        cls,
        info: TraceInfo,
        installed: Installed,
        reader: Reader,
        resident: int,
        top_k: int | None,
        closed: bool = False,
        last_run: Run | None = None,
        sampling: Mapping[str, float] | None = None,
        memory_note: str = "",
        tokens_before: int = 0,
        ranks: Sequence[RankState] = (),
    ) -> Status:
        """The state of an engine with `resident` experts in RAM; `top_k` as in `LoadOptions`."""
        summary = last_run.summary() if last_run is not None else None
        switches = installed.switches
        return cls(
            model=info.model,
            layers=len(switches),
            experts=sum(switch.experts for switch in switches),
            slots=installed.slots,
            resident=resident,
            bank_nbytes=installed.bank_nbytes + sum(rank.bank_nbytes for rank in ranks),
            experts_nbytes=sum(s.experts * s.expert_nbytes for s in switches),
            dense_nbytes=0 if closed else info.dense_nbytes,
            reader=reader.name,
            reader_note=reader.note,
            kernels=info.kernels,
            top_k=top_k or info.native_top_k,
            changed_output=info.changed_output,
            closed=closed,
            sampling=sampling_words({**NEUTRAL, **(sampling or {})}),
            decode_hit_rate=summary.decode_hit_rate if summary else nan,
            last_run=summary.short() if summary else "",
            memory_note=memory_note,
            tokens_before=tokens_before,
            ranks=tuple(replace(rank) for rank in ranks),
        )

    @property
    def shape(self) -> str:
        """The model and its experts: `demo: 6 layers × 32 experts`."""
        if not self.layers:
            return f"{self.model}: a dense model, loaded whole"
        each = f"{self.experts / self.layers:.3g}"
        layers = f"{self.layers} layer" + ("" if self.layers == 1 else "s")
        return f"{self.model}: {layers} × {each} experts"

    @property
    def ready(self) -> str:
        """What `load` answers."""
        if not self.layers:
            return f"{self.shape}; ready."
        room = "all" if self.slots >= self.experts else f"{self.slots:,}"
        return (
            f"{self.shape}, {size_words(self.experts_nbytes)} of experts, room for {room} of "
            f"{self.experts:,} in RAM; ready."
        )

    @property
    def sentence(self) -> str:
        """The answer of `%outlier status`: model, cache in use, last run."""
        if self.closed:
            return f"{self.model} is closed: its memory was freed; load the model again."
        last = f"Last run: {self.last_run}." if self.last_run else "No run yet."
        if not self.layers:
            return f"{self.shape}. {last}"
        used = "all are there" if self.resident == self.slots else f"{self.resident:,} are there"
        return (
            f"{self.shape}; {self.slots:,} of {self.experts:,} experts fit in RAM "
            f"({size_words(self.bank_nbytes)}), {used}. {last}"
        )

    def facts(self) -> list[tuple[str, str]]:
        """Settings and sizes, as rows of text: (name, value)."""
        rows = [
            ("experts", f"{size_words(self.experts_nbytes)} on disk; {self.top_k} per token in "
             "each layer"),
            ("cache", f"{self.slots:,} of {self.experts:,} fit, {size_words(self.bank_nbytes)}; "
             f"{self.resident:,} are there"),
            ("the rest", f"{size_words(self.dense_nbytes)} of RAM: attention, routers, embeddings"),
            ("reads", self.reader + (f" ({self.reader_note})" if self.reader_note else "")),
            ("memory", self.memory_note or f"pressure: {pressure_watch.words}"),
            ("kernels", self.kernels),
            ("sampling", self.sampling),
        ]  # fmt: skip
        if self.tokens_before:
            rows.insert(
                2,
                (
                    "at load",
                    f"experts of the last {self.tokens_before:,} tokens of earlier runs were read",
                ),
            )
        if not self.layers:
            rows[:2] = [("experts", "none: the model is dense")]
        rows += [(f"rank {n}", rank.words) for n, rank in enumerate(self.ranks)]
        if self.changed_output:
            rows.append(("changed", self.changed_output))
        return rows

    def __str__(self) -> str:
        """The answer, and a line for each setting."""
        return answer_text(self.sentence, [self.facts()])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return draw("Status.html", self)
