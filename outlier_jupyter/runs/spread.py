"""Median and range of the numbers of repeated runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, nan
from statistics import median

from ..formatting import percent, three
from ..trace.measures import Summary


@dataclass(frozen=True)
class Spread:
    """Median, minimum and maximum over repeats of one prompt.

    Attributes:
        runs: the number of runs.
        tokens_per_second, decode_hit_rate: (median, minimum, maximum) over the runs that have the
            number; NaN if none has.
    """

    runs: int
    tokens_per_second: tuple[float, float, float]
    decode_hit_rate: tuple[float, float, float]

    @classmethod
    def of(cls, found: Sequence[Summary]) -> Spread:
        """The spread of several summaries."""
        speeds = _middle_and_ends([summary.tokens_per_second for summary in found])
        return cls(len(found), speeds, _middle_and_ends([s.decode_hit_rate for s in found]))

    def __str__(self) -> str:
        speed = [three(value) for value in self.tokens_per_second]
        rate = [percent(value) for value in self.decode_hit_rate]
        return (
            f"{self.runs} runs: median {speed[0]} tokens/s ({speed[1]} to {speed[2]}) · "
            f"hit rate in decode {rate[0]} ({rate[1]} to {rate[2]}); each began with the cache "
            "that the one before left"
        )


def _middle_and_ends(values: list[float]) -> tuple[float, float, float]:
    known = [value for value in values if isfinite(value)]
    return (median(known), min(known), max(known)) if known else (nan, nan, nan)
