"""Numbers as people read them: bytes, shares and times in about three digits, with their unit."""

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
    """A share as a percentage; never 100 unless it is all, never 0 unless it is none."""
    if not math.isfinite(share):
        return "–"
    if 0 < share < 1:
        share = min(max(share, 0.001), 0.999)
    return f"{100 * share:.1f}".removesuffix(".0") + " %"
