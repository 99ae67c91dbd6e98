"""A chart as plain marks on a small canvas; `svg` and `raster` draw it. It knows no trace.

The SVG and the PNG must show the same, so both draw one `Scene`. Colours are roles (field names of
`palette.Theme`), which the page resolves per theme.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

WIDTH, HEIGHT = 400, 270
"""Size of a chart in CSS pixels: legible on a page of 400 px."""

LEFT, RIGHT, TOP, BOTTOM = 54.0, 382.0, 60.0, 222.0
"""The plot area inside a chart."""

Dash: TypeAlias = Literal["solid", "dash", "dot"]
Anchor: TypeAlias = Literal["start", "middle", "end"]


@dataclass(frozen=True)
class Box:
    """Filled rectangles of one role: each row is x, y, width, height."""

    rects: npt.NDArray[np.float64]
    role: str


@dataclass(frozen=True)
class Line:
    """Separate polylines of one role; a single point is a dot."""

    pieces: list[npt.NDArray[np.float64]]
    role: str
    width: float = 1.0
    dash: Dash = "solid"


@dataclass(frozen=True)
class Text:
    """One line of text; `y` is its baseline. `upright` text reads from bottom to top."""

    x: float
    y: float
    words: str
    role: str = "muted"
    size: float = 11
    anchor: Anchor = "start"
    bold: bool = False
    upright: bool = False


@dataclass(frozen=True)
class Picture:
    """An indexed image, stretched over a rectangle: `cells` are rows of `colours` (RGBA)."""

    x: float
    y: float
    width: float
    height: float
    cells: npt.NDArray[np.uint8]
    colours: npt.NDArray[np.uint8]

    @property
    def crisp(self) -> bool:
        """Whether cells are larger than a pixel; smaller ones must be averaged, not dropped."""
        rows, columns = self.cells.shape
        return bool(self.width >= columns and self.height >= rows)


Mark: TypeAlias = Box | Line | Text | Picture


@dataclass
class Scene:
    """One chart: marks in drawing order, and its description for screen readers."""

    title: str
    spoken: str
    marks: list[Mark] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.marks.append(Text(16, 25, self.title, "ink", 14, bold=True))


@dataclass(frozen=True)
class Scale:
    """Maps values between `low` and `high` onto pixels between `start` and `stop`."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def __call__(self, values: npt.ArrayLike) -> npt.NDArray[np.float64]:
        low, high, at = self.low, self.high, np.asarray(values, float)
        if self.log:
            low, high, at = math.log10(low), math.log10(high), np.log10(at)
        return np.asarray(self.start + (at - low) / (high - low) * (self.stop - self.start))


def ticks(low: float, high: float, wanted: int = 5, whole: bool = False) -> list[float]:
    """About `wanted` round values between `low` and `high`: 1, 2 or 5 times a power of ten."""
    raw = max(high - low, 1e-12) / max(wanted, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * (1 - 1e-9))
    if whole:
        step = max(1.0, round(step))
    start = math.ceil(low / step - 1e-9)
    count = math.floor(high / step + 1e-9) - start + 1
    return [round((start + i) * step, 10) for i in range(count)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten in the range; also 2 and 5 times these if there are fewer than three."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for multiples in ((1,), (1, 2, 5)):
        found = [m * 10.0**d for d in decades for m in multiples]
        found = [v for v in found if low * (1 - 1e-9) <= v <= high * (1 + 1e-9)]
        if len(found) >= 3:
            break
    return found


def legend(scene: Scene, items: Sequence[tuple[str, str, Dash | None]]) -> None:
    """A row of (role, label, dash) under the title; without a dash, a filled swatch."""
    x = 16.0
    for role, label, dash in items:
        if dash is None:
            scene.marks.append(Box(np.array([[x, 36.0, 10.0, 10.0]]), role))
            x += 15
        else:
            stroke = np.array([[x, 41.0], [x + 20, 41.0]])
            scene.marks.append(Line([stroke], role, 1.8, dash))
            x += 25
        scene.marks.append(Text(x, 45, label))
        x += text_width(label) + 16


def text_width(words: str) -> float:
    """The approximate width of `words` at 11 px; fonts differ."""
    wide = {**dict.fromkeys(" .,:;'|!()ijltf", 0.36), **dict.fromkeys("mwMW%", 0.88)}
    return 11 * sum(wide.get(sign, 0.57) for sign in words)


def x_axis(scene: Scene, scale: Scale, title: str, least: float = -math.inf) -> None:
    """Integer ticks from `least` on under the plot, and the axis title."""
    for value in ticks(max(math.ceil(scale.low), least), math.floor(scale.high), 6, whole=True):
        x = float(scale(value))
        scene.marks.append(Line([np.array([[x, BOTTOM], [x, BOTTOM + 4]])], "frame"))
        scene.marks.append(Text(x, BOTTOM + 16, f"{value:,.0f}", anchor="middle"))
    scene.marks.append(Text((LEFT + RIGHT) / 2, HEIGHT - 12, title, anchor="middle"))


def y_axis(scene: Scene, scale: Scale, title: str, places: list[float], lines: bool) -> None:
    """Ticks at `places` left of the plot, grid lines if `lines`, and the axis title."""
    for value in places:
        y = float(scale(value))
        if lines:
            scene.marks.append(Line([np.array([[LEFT, y], [RIGHT, y]])], "grid"))
        scene.marks.append(Text(LEFT - 6, y + 4, f"{value:,.10g}", anchor="end"))
    scene.marks.append(Text(18, (TOP + BOTTOM) / 2, title, anchor="middle", upright=True))


def no_data(scene: Scene, reason: str) -> Scene:
    """An empty plot with the reason, in one or two centred lines."""
    scene.marks.append(Box(np.array([[LEFT, TOP, RIGHT - LEFT, BOTTOM - TOP]]), "band"))
    middle = (LEFT + RIGHT) / 2
    scene.marks.append(Text(middle, 132, "no data", "ink", 13, "middle", bold=True))
    words, line, y = reason.split(), "", 152.0
    for word in [*words, ""]:
        if word and len(line) + len(word) < 46:
            line = f"{line} {word}".strip()
            continue
        scene.marks.append(Text(middle, y, line, anchor="middle"))
        line, y = word, y + 16
    return scene
