"""Numbers and answers for people: three digits with a unit, and text that fits a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from textwrap import wrap
from typing import TypeAlias

LEAST = 0.001
"""Numbers nearer to 0 are shown as "< 0.001"."""
COLUMNS = 80
"""The width of an answer's text in a terminal."""

Table: TypeAlias = Sequence[Sequence[str]]
"""A small table of texts: a row of headings, then the rows."""


def three(value: float) -> str:
    """A number in about three digits, never in powers of ten: 0.0123, 1.23, 123, 1,234."""
    if not math.isfinite(value):
        return "–"
    if value == round(value):
        return f"{value:,.0f}"
    decimals = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}"


def small(value: float) -> str:
    """`three`, and "< 0.001" or "> -0.001" for a number that is nearer to 0 than that."""
    if not math.isfinite(value) or value == 0 or abs(value) >= LEAST:
        return three(value)
    return f"< {LEAST}" if value > 0 else f"> -{LEAST}"


def interval(low: float, high: float) -> str:
    """Both ends with the same decimals, those of the larger in three digits: -0.001 to 0.245."""
    largest = max(abs(low), abs(high))
    if not math.isfinite(largest) or largest == 0:
        return f"{three(low)} to {three(high)}"
    decimals = max(0, 2 - math.floor(math.log10(largest)))
    return " to ".join(f"{round(end, decimals) + 0.0:,.{decimals}f}" for end in (low, high))


def p_text(value: float) -> str:
    """A p-value: p = 0.004, p < 0.001."""
    if 0 <= value < LEAST:
        return f"p < {LEAST}"
    return f"p = {value:.3f}".rstrip("0").rstrip(".")


def size_words(nbytes: float) -> str:
    """Bytes in decimal units: 1,234,567 becomes 1.23 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(nbytes) < 999.5:
            return f"{three(nbytes)} {unit}"
        nbytes /= 1000
    return f"{three(nbytes)} TB"


def percent(share: float) -> str:
    """A share as a percentage with one decimal, or more near 0 and 100: 0.0004 %, 99.98 %.

    So only none of a whole is "0 %", and only all of it "100 %".
    """
    if not math.isfinite(share):
        return "–"
    least = 100 * min(abs(share), abs(1 - share))  # the distance to 0 or 100
    decimals = max(1, math.ceil(-math.log10(least))) if least else 1
    return f"{100 * share:.{decimals}f}".rstrip("0").removesuffix(".") + " %"


def count(number: int, one: str, many: str = "") -> str:
    """A number and its noun: 1 token, 2 tokens, 2 replies."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def answer_text(
    sentence: str, tables: Sequence[Table] = (), notes: Sequence[str] = (), more: str = ""
) -> str:
    """An answer as text: its sentence, small tables, notes, and where to find more.

    Sentences are wrapped at `COLUMNS`; a table is as wide as its cells.
    """
    parts = ["\n".join(wrap(sentence, COLUMNS, break_long_words=False))]
    parts += ["\n".join(table_lines(table)) for table in tables if table]
    parts += ["\n".join(wrap(f"Note: {note}.", COLUMNS)) for note in notes]
    parts += ["\n".join(wrap(more, COLUMNS))] if more else []
    return "\n\n".join(parts)


def table_lines(table: Table) -> list[str]:
    """The lines of a table: the first column to the left, others to the right if there are two."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if i and len(row) > 2 else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]
