"""One colour per name, for runs and classes of tokens.

A name keeps its colour in all figures and tables of a process, and so of a notebook, whatever else
a figure shows and in which order.
"""

from __future__ import annotations

from collections.abc import Iterable

from ...trace.atlas import CLASSES as TOKEN_CLASSES
from .palette import EITHER

COLOURS = (EITHER.hit, EITHER.miss, EITHER.p50, EITHER.p95, "#cc4b4b", EITHER.top)
_numbers = {name: number for number, name in enumerate(TOKEN_CLASSES)}


def class_numbers(names: Iterable[str], looks: int = len(COLOURS)) -> dict[str, int]:
    """The look of each name, 0 to `looks` - 1.

    Names are numbered in the order of their first use in the process. If two of these `names` would
    get the same look, the later one gets the next free one.
    """
    found: dict[str, int] = {}
    for name in names:
        number = _numbers.setdefault(name, len(_numbers)) % looks
        while number in found.values() and len(found) < looks:
            number = (number + 1) % looks
        found[name] = number
    return found
