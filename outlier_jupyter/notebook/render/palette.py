"""The colours of all figures and static views. It knows no plotting library.

Counts use cividis, which keeps its order for colour-blind readers and in grey print. Hits are blue
and misses orange, a pair that can be distinguished in every common form of colour blindness. No
meaning depends on colour alone: plots add an order, a dash pattern or a label.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

CIVIDIS = (
    (0, 34, 78),
    (18, 53, 112),
    (59, 73, 108),
    (87, 93, 109),
    (112, 113, 115),
    (138, 134, 120),
    (165, 156, 116),
    (195, 179, 105),
    (225, 204, 85),
    (254, 232, 56),
)
"""Cividis (Nuñez, Anderton, Renslow 2018) at ten even positions, 0 to 255 per channel."""

RESIDENT = (74, 134, 196)
"""A resident expert: a blue that is legible on white and on near-black."""

NEUTRAL = (128, 128, 128, 46)
"""RGBA of an empty cell (never chosen, on SSD): translucent over either theme."""


@dataclass(frozen=True)
class Theme:
    """One colour per role of a mark; the field names are the roles."""

    surface: str
    frame: str
    ink: str
    muted: str
    grid: str
    band: str
    empty: str
    resident: str
    hit: str
    miss: str
    p50: str
    p95: str
    top: str
    warn: str
    dense: str
    experts: str
    graph: str
    route: str
    lookup: str
    install: str
    sample: str
    watch: str
    other: str


LIGHT = Theme(
    surface="#ffffff",
    frame="#dfe3e8",
    ink="#1f2328",
    muted="#59636e",
    grid="#e9ecef",
    band="#e9edf3",
    empty="#e8e8e8",
    resident="#4a86c4",
    hit="#3b76b4",
    miss="#d4760a",
    p50="#00826b",
    p95="#a3478f",
    top="#7d8590",
    warn="#9a5b00",
    dense="#4c78a8",
    experts="#3a9c86",
    graph="#8d6e4e",
    route="#7d94c4",
    lookup="#8f6bb3",
    install="#a8841a",
    sample="#b8577f",
    watch="#6c7a3a",
    other="#858c96",
)
DARK = Theme(
    surface="#16181c",
    frame="#30353c",
    ink="#e6e8eb",
    muted="#a2aab4",
    grid="#2a2e35",
    band="#262b33",
    empty="#34363a",
    resident="#4a86c4",
    hit="#5a9bdc",
    miss="#f0993e",
    p50="#35c0a2",
    p95="#d987c6",
    top="#8b949e",
    warn="#f0b35a",
    dense="#6f9bd1",
    experts="#4fb8a0",
    graph="#c4a27e",
    route="#a5b8e6",
    lookup="#b394dc",
    install="#d9bb4d",
    sample="#e28fb2",
    watch="#a9b86f",
    other="#6b737d",
)

EITHER = Theme(
    surface="rgba(0,0,0,0)",
    frame="rgba(128,128,128,0.4)",
    ink="#7a7e85",
    muted="#7a7e85",
    grid="rgba(128,128,128,0.22)",
    band="rgba(128,128,128,0.14)",
    empty="rgba(128,128,128,0.18)",
    resident="#4a86c4",
    hit="#4583c2",
    miss="#d4760a",
    p50="#0b8f76",
    p95="#b355a0",
    top="#7d8590",
    warn="#b06a08",
    dense="#5581b4",
    experts="#339680",
    graph="#98795a",
    route="#7388ba",
    lookup="#9774bb",
    install="#a07c14",
    sample="#c0608a",
    watch="#758340",
    other="#7f8690",
)
"""For pictures that do not know their page's theme. Text keeps a contrast of 4 on white and on the
dark backgrounds of notebooks (#111111 to #1f1f1f), marks keep 3; the rest is translucent."""


PART_ROLES = {
    **{"dense": "dense", "experts": "experts", "graph": "graph", "compute": "dense"},
    **{"route": "route", "lookup": "lookup", "read_wait": "miss", "install": "install"},
    **{"sample": "sample", "watch": "watch", "other": "other"},
}
"""Part of a token's time → the role with its colour, in every view; as in time-parts.ts."""


def ramp(levels: int) -> npt.NDArray[np.uint8]:
    """Cividis at `levels` even positions, dark to bright: uint8 [levels, 3]."""
    stops = np.asarray(CIVIDIS, float)
    at = np.linspace(0, len(stops) - 1, levels)
    columns = [np.interp(at, np.arange(len(stops)), stops[:, c]) for c in range(3)]
    return np.stack(columns, axis=1).round().astype(np.uint8)


def colorscale(first: str, stops: int = 24) -> list[tuple[float, str]]:
    """Plotly's (position, colour) pairs: `first` at 0, then cividis by square root.

    A few experts are chosen far more often than the rest; on a linear scale all others would be
    the same dark blue.
    """
    pairs = [(0.0, first), (1e-9, first)]
    for i, (r, g, b) in enumerate(ramp(stops)):
        pairs.append((max(2e-9, (i / (stops - 1)) ** 2), f"rgb({r},{g},{b})"))
    return pairs
