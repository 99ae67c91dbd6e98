"""What an engine says of itself: plain facts, and the lines that tell them."""

from __future__ import annotations

from dataclasses import dataclass

from .units import size_words


@dataclass(frozen=True)
class Status:
    """Where an engine stands: what is loaded, and how much of it sits in RAM."""

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

    def __str__(self) -> str:
        """A few lines, one fact each."""
        lines = [
            f"model     {self.model}",
            f"experts   {self.experts:,} in {self.layers} layers, {size_words(self.experts_nbytes)}"
            f" on disk; {self.top_k} a token in each layer",
            f"slots     {self.slots:,} of {self.experts:,} fit, {size_words(self.bank_nbytes)} of "
            f"RAM; {self.resident:,} taken",
            f"the rest  {size_words(self.dense_nbytes)} of RAM: attention, routers, embeddings",
            f"reads     {self.reader}" + (f" ({self.reader_note})" if self.reader_note else ""),
            f"kernels   {self.kernels}",
        ]
        if not self.layers:
            lines[1:3] = ["experts   none: the model is dense"]
        if self.changed_output:
            lines.append(f"changed   {self.changed_output}")
        return "\n".join(lines)
