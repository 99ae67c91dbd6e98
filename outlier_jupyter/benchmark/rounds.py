"""Runs subjects in turn, round after round, with the hardware's limits measured in each round.

A machine's speed drifts; interleaved subjects drift together. A row has medians and the range, and
the limits that were measured with it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from pathlib import Path
from statistics import median

from .limits import Memory, disk_bytes_per_s, least_seconds

Numbers = dict[str, float]
Row = dict[str, object]
Run = Callable[[int], Numbers]
"""One run of a subject; takes the number of the round."""
Hardware = Callable[[], Numbers]
"""Measures `memory_gb_per_s` and `disk_mb_per_s` now."""


def hardware(file: Path, nbytes: int, memory: Memory) -> Numbers:
    """Both bandwidths now: of the memory, and of direct reads of `nbytes` of `file`."""
    return {
        "memory_gb_per_s": memory.bytes_per_s() / 1e9,
        "disk_mb_per_s": disk_bytes_per_s(file, nbytes) / 1e6,
    }


def interleave(
    subjects: Mapping[str, Run], rounds: int, limits: Hardware
) -> dict[str, list[Numbers]]:
    """Every subject once in each round, the limits measured before each of them."""
    seen: dict[str, list[Numbers]] = {name: [] for name in subjects}
    for number in range(rounds):
        for name, run in subjects.items():
            now = limits()
            seen[name].append(limited(run(number) | now))
    return seen


def limited(found: Numbers) -> Numbers:
    """`found` with its limit, if it has the bytes that a token multiplies and misses."""
    if "active_bytes" not in found:
        return found
    least = least_seconds(
        found["active_bytes"], found.get("missed_bytes", 0.0),
        found["memory_gb_per_s"] * 1e9, found["disk_mb_per_s"] * 1e6,
    )  # fmt: skip
    return found | {"limit_s": least, "times_limit": found["token_s"] / least}


def row(subject: str, found: Sequence[Numbers], **settings: object) -> Row:
    """Medians, and the range of the speed."""
    found = [{name: x for name, x in one.items() if isfinite(x)} for one in found]
    names = dict.fromkeys(name for one in found for name in one)
    middle = {name: digits(median(one[name] for one in found if name in one)) for name in names}
    speeds = sorted(1 / one["token_s"] for one in found if one.get("token_s"))
    speed: Row = {}
    if speeds:
        speed = {"tokens_per_s": digits(median(speeds)), "slowest": digits(speeds[0]),
                 "fastest": digits(speeds[-1])}  # fmt: skip
    return {
        "subject": subject, **settings, **speed, **middle, "rounds": len(found),
        "load": round(os.getloadavg()[0], 1),
    }  # fmt: skip


def digits(value: float) -> float:
    """`value` rounded to four digits."""
    return float(f"{value:.4g}")
