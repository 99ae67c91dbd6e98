"""An engine's state as plain data, with a text form."""

from __future__ import annotations

from dataclasses import dataclass

from ..checkpoint import Reader
from ..formatting import size_words
from ..paging import Installed
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

    @classmethod
    def of(
        cls,
        info: TraceInfo,
        installed: Installed,
        reader: Reader,
        resident: int,
        top_k: int | None,
        closed: bool = False,
    ) -> Status:
        """The state of an engine with `resident` experts in RAM; `top_k` as in `LoadOptions`."""
        switches = installed.switches
        return cls(
            model=info.model,
            layers=len(switches),
            experts=sum(switch.experts for switch in switches),
            slots=installed.slots,
            resident=resident,
            bank_nbytes=installed.bank_nbytes,
            experts_nbytes=sum(s.experts * s.expert_nbytes for s in switches),
            dense_nbytes=0 if closed else info.dense_nbytes,
            reader=reader.name,
            reader_note=reader.note,
            kernels=info.kernels,
            top_k=top_k or info.native_top_k,
            changed_output=info.changed_output,
            closed=closed,
        )

    def __str__(self) -> str:
        """A few lines, one fact each."""
        lines = [
            f"model     {self.model}",
            f"experts   {self.experts:,} in {self.layers} layers, {size_words(self.experts_nbytes)}"
            f" on disk; {self.top_k} per token in each layer",
            f"slots     {self.slots:,} of {self.experts:,} fit, {size_words(self.bank_nbytes)} of "
            f"RAM; {self.resident:,} taken",
            f"the rest  {size_words(self.dense_nbytes)} of RAM: attention, routers, embeddings",
            f"reads     {self.reader}" + (f" ({self.reader_note})" if self.reader_note else ""),
            f"kernels   {self.kernels}",
        ]
        if not self.layers:
            lines[1:3] = ["experts   none: the model is dense"]
        if self.closed:
            lines.insert(1, "closed    its memory was freed; load the model again")
        if self.changed_output:
            lines.append(f"changed   {self.changed_output}")
        return "\n".join(lines)
