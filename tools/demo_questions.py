"""The questions the demo model learns to answer, read from ``tools/questions/*.txt``.

Each item is two or three lines: ``? `` and the ways to ask, separated by `` | ``, then ``~ `` and
what the model thinks first, where it thinks at all, then ``= `` and the answer.  The last way to
ask is never trained on; it measures whether the model understands a question it has not seen word
for word.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent / "questions"


@dataclass(frozen=True)
class Item:
    """One answer with the ways to ask for it."""

    topic: str
    asked: tuple[str, ...]
    held_out: str
    answer: str
    thought: str = ""


class Turn(NamedTuple):
    """A question, its answer, and what is thought between the two (nothing if empty)."""

    question: str
    answer: str
    thought: str = ""


def read_items(folder: Path = FOLDER) -> list[Item]:
    """All items, in the order of the files' names and of their lines."""
    items: list[Item] = []
    thought = ""
    for path in sorted(folder.glob("*.txt")):
        asked: list[str] = []
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if line.startswith("? "):
                asked, thought = [way.strip() for way in line[2:].split(" | ")], ""
            elif line.startswith("~ "):
                thought = line[2:].strip()
            elif line.startswith("= "):
                if len(asked) < 2:
                    raise ValueError(f"{path.name}:{number}: an answer needs two ways to ask")
                answer = line[2:].strip()
                items.append(Item(path.stem, tuple(asked[:-1]), asked[-1], answer, thought))
                asked = []
            elif line.strip() and not line.startswith("#"):
                raise ValueError(f"{path.name}:{number}: expected '? ', '~ ', '= ' or '#'")
    return items


def vary(question: str, rng: random.Random) -> str:
    """The question as hasty people type it: other case, no full stop, a polite phrase."""
    body = question
    if rng.random() < 0.3:
        body = body.rstrip("?!. ")
    if rng.random() < 0.3:
        body = body[0].lower() + body[1:]
    if rng.random() < 0.1:
        body = body.lower()
    if rng.random() < 0.15:
        phrase = rng.choice(
            ("Please: ", "Tell me: ", "Hi, ", "One question: ", "I would like to know: ", "So, ")
        )
        body = phrase + body
    return body


def small_sum(rng: random.Random) -> tuple[str, str]:
    """A sum as a question, and its answer."""
    sign = rng.choice("+-*")
    left, right = rng.randint(0, 10), rng.randint(0, 10)
    if sign == "-":
        left, right = max(left, right), min(left, right)
    result = {"+": left + right, "-": left - right, "*": left * right}[sign]
    ask = rng.choice(("What is {}?", "How much is {}?", "Calculate {}", "{} ="))
    line = f"{left} {sign} {right}"
    return ask.format(line), f"{line} = {result}."


def conversation(items: list[Item], rng: random.Random) -> list[Turn]:
    """One to four turns on independent questions, as training sees them."""
    turns = []
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3))):
        if rng.random() < 0.06:
            turns.append(Turn(*small_sum(rng)))
        else:
            item = rng.choice(items)
            question = vary(rng.choice(item.asked), rng)
            turns.append(Turn(question, item.answer, item.thought))
    return turns
