"""The colours of what is told apart by name alone: runs, classes of tokens.

A name has one colour in all figures and tables of a process, so of a notebook: whatever else is in
the figure, in which order, and whether the name has anything to show there.
"""

from __future__ import annotations

from collections.abc import Iterable

from ...trace.atlas import CLASSES as TOKEN_CLASSES
from .palette import EITHER

COLOURS = (EITHER.hit, EITHER.miss, EITHER.p50, EITHER.p95, "#cc4b4b", EITHER.top)
_numbers = {name: number for number, name in enumerate(TOKEN_CLASSES)}


def class_numbers(names: Iterable[str], looks: int = len(COLOURS)) -> dict[str, int]:
    """Which of so many looks each name has.

    Names are numbered as they come up, for as long as the process lasts. Where two of these
    `names` would look alike, the later one gets the next look that is free.
    """
    found: dict[str, int] = {}
    for name in names:
        number = _numbers.setdefault(name, len(_numbers)) % looks
        while number in found.values() and len(found) < looks:
            number = (number + 1) % looks
        found[name] = number
    return found
