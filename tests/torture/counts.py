"""What a subject tried, how often, and what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

KEPT = 5
"""Sentences of failures that a row keeps."""


class Skipped(Exception):
    """What a subject needs is not on this machine; the message says what."""


@dataclass
class Tried:
    """One row: a kind of try.

    Attributes:
        times: how often.
        failed: how often what must hold did not.
        notes: the first sentences of what failed, or a measured value.
    """

    times: int = 0
    failed: int = 0
    notes: list[str] = field(default_factory=list)


@dataclass
class Counts:
    """The rows of one call of a subject."""

    rows: dict[str, Tried] = field(default_factory=dict)

    def add(self, tried: str, times: int = 1, failed: str = "") -> None:
        """Count `times` tries of a kind; `failed` is a sentence if one of them failed."""
        row = self.rows.setdefault(tried, Tried())
        row.times += times
        row.failed += bool(failed)
        if failed and len(row.notes) < KEPT:
            row.notes.append(" ".join(failed.split())[:300])

    def measure(self, what: str, value: str, failed: bool = False) -> None:
        """Record a measured value, and whether it is out of its bounds."""
        self.rows[what] = Tried(1, int(failed), [value])

    @property
    def times(self) -> int:
        """How often anything was tried."""
        return sum(row.times for row in self.rows.values())

    @property
    def failures(self) -> list[str]:
        """All that failed, each with its kind of try."""
        return [
            f"{tried}: {'; '.join(row.notes) or row.failed}"
            for tried, row in self.rows.items()
            if row.failed
        ]


def deadline(seconds: float) -> Callable[[], bool]:
    """A function that is true until `seconds` from now."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() < end
