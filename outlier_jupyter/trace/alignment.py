"""Aligns two texts: which pieces they share, in order, and where they differ; by `difflib`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

PIECES = re.compile(r"\s*\w+|\s*[^\w\s]|\s+")


@dataclass(frozen=True)
class Stretch:
    """Consecutive pieces that both texts have (`same`), or the different pieces of each."""

    same: bool
    first: str
    second: str


def pieces(text: str) -> list[str]:
    """A text split into words and signs, each with its leading space; joined they are the text."""
    return PIECES.findall(text)


def aligned(first: Sequence[str], second: Sequence[str]) -> list[Stretch]:
    """The stretches of two texts, in order; each side, joined, is its text."""
    matcher = SequenceMatcher(None, first, second, autojunk=False)
    return [
        Stretch(kind == "equal", "".join(first[a:b]), "".join(second[c:d]))
        for kind, a, b, c, d in matcher.get_opcodes()
    ]
