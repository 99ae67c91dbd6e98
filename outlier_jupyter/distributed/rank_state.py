"""What a layer's ranks give, and what is known of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from ..formatting import size_words
from .layer_report import LayerReport


class LayerOutput(NamedTuple):
    """The sum of the ranks' outputs of a layer.

    Attributes:
        data: its bytes; `dtype` is MLX's name of its type, `shape` its shape.
        report: what the ranks did for it.
    """

    data: memoryview
    dtype: str
    shape: list[int]
    report: LayerReport


@dataclass
class RankState:
    """What is known of one rank.

    Attributes:
        host: the name of its host.
        slots, experts: how many experts fit its cache, and how many it owns.
        resident: how many are in it.
        bank_nbytes, expert_nbytes: bytes of its slots, and of the experts that it owns.
        reads, nbytes: experts and bytes that it has read in runs.
        busy_s: seconds it computed and read; `awaited` in how many layers it was the last.
        reader: how it reads; `process_nbytes` its size when it was loaded or last looked at.
        ended: whether its process is no more.
    """

    host: str
    slots: int = 0
    experts: int = 0
    resident: int = 0
    bank_nbytes: int = 0
    expert_nbytes: int = 0
    reads: int = 0
    nbytes: int = 0
    busy_s: float = 0.0
    awaited: int = 0
    reader: str = ""
    process_nbytes: int = 0
    ended: bool = False

    def end(self) -> None:
        """Note that its process ended, and what it had in memory with it."""
        self.ended = True
        self.resident = self.bank_nbytes = self.process_nbytes = 0

    def take(self, message: dict[str, Any]) -> None:
        """Note what the rank answered to a load or a resize."""
        for name in ("slots", "experts", "resident", "bank_nbytes", "expert_nbytes", "reader",
                     "process_nbytes"):  # fmt: skip
            setattr(self, name, message[name])

    @property
    def words(self) -> str:
        """The state in a line."""
        if self.ended:
            return f"{self.host}: ended; load the model again"
        fit = "all" if self.slots >= self.experts else f"{self.slots:,}"
        return (
            f"{self.host}: {fit} of its {self.experts:,} experts fit "
            f"({size_words(self.bank_nbytes)}), {self.resident:,} are there, "
            f"{size_words(self.nbytes)} in {self.reads:,} reads, "
            f"{self.busy_s:.3g} s of work; the last to finish in {self.awaited:,} layers"
        )
