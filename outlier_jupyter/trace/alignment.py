"""Two texts beside each other: what they have in common, and where they part. By pieces, in order.

The alignment is difflib's; a piece is whatever the caller cut the texts into.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

PIECES = re.compile(r"\s*\w+|\s*[^\w\s]|\s+")


@dataclass(frozen=True)
class Stretch:
    """A run of pieces that both texts have (`same`), or what each has in its place."""

    same: bool
    first: str
    second: str


def pieces(text: str) -> list[str]:
    """A text cut into words and signs, each with the space before it; joined they are the text."""
    return PIECES.findall(text)


def aligned(first: Sequence[str], second: Sequence[str]) -> list[Stretch]:
    """The stretches of two texts, in order; joined, each side is its text."""
    matcher = SequenceMatcher(None, first, second, autojunk=False)
    return [
        Stretch(kind == "equal", "".join(first[a:b]), "".join(second[c:d]))
        for kind, a, b, c, d in matcher.get_opcodes()
    ]
