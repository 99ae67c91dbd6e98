"""Numbers for people: bytes and shares in about three digits, with their unit."""

from __future__ import annotations

import math


def three(value: float) -> str:
    """A number in about three digits, never in powers of ten: 0.0123, 1.23, 123, 1,234."""
    if not math.isfinite(value):
        return "–"
    if value == round(value):
        return f"{value:,.0f}"
    decimals = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}"


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
