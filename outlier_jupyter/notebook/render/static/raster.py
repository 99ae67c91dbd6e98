"""Scenes as one PNG, for front ends that show neither HTML nor SVG.

Pillow draws it rather than matplotlib: scenes are already laid out, so rectangles, lines and text
are enough. It is a tenth of the install, needs no font cache, has no global state, and contains its
own font, so the picture is the same on every machine. That font has little more than ASCII, so
generated text is not drawn.
"""

from __future__ import annotations

import base64
import io
from dataclasses import asdict
from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageColor, ImageDraw, ImageFont

from ..palette import LIGHT, Theme, ramp
from .charts import LEVELS
from .scene import HEIGHT, WIDTH, Box, Line, Picture, Scene, Text

SCALE = 2
"""Pixels of the PNG per CSS pixel."""

FINE = 2
"""Lines are drawn this much larger and averaged down, as Pillow does not smooth them."""

GAP = 12
DASHES = {"solid": (), "dash": (5.0, 3.0), "dot": (1.5, 3.0)}


def png(scenes: list[Scene], heading: str, lines: list[tuple[str, str]]) -> str:
    """The scenes in two columns under a heading and (role, text) lines, as base64 of a PNG."""
    top = 40 + 20 * len(lines)
    rows = -(-len(scenes) // 2)
    size = (2 * WIDTH + 3 * GAP, top + rows * (HEIGHT + GAP))
    page = Image.new("RGB", (size[0] * SCALE, size[1] * SCALE), LIGHT.surface)
    for i, scene in enumerate(scenes):
        x, y = GAP + (i % 2) * (WIDTH + GAP), top + (i // 2) * (HEIGHT + GAP)
        page.paste(_chart(scene), (x * SCALE, y * SCALE))
    head = Text(GAP + 4, 28, _fitted(heading, 15, size[0]), "ink", 15, bold=True)
    _write(page, head, LIGHT)
    for i, (role, line) in enumerate(lines):
        fitted = _fitted(line, 12, size[0])
        _write(page, Text(GAP + 4, 48 + 20 * i, fitted, role, 12), LIGHT)
    small = page.quantize(palette=_palette(), dither=Image.Dither.NONE)
    out = io.BytesIO()
    small.save(out, "PNG", optimize=True)
    return base64.b64encode(out.getvalue()).decode()


@cache
def _palette() -> Image.Image:
    """All colours of a page: the count ramp, and each role in shades down to the background.

    A palette found by counting pixels would use most of its colours for text, and show the ramp in
    steps.
    """
    role = {name: np.array(ImageColor.getrgb(c)[:3]) for name, c in asdict(LIGHT).items()}
    faint = ("surface", "frame", "grid", "band", "empty")
    shades = np.linspace(0, 1, 9)[1:, None]
    # Pale colours get no shades: one too close to white would tint the page.
    strong = [role[name] for name in role if name not in faint]
    mixed = [colour * shades + role["surface"] * (1 - shades) for colour in strong]
    pale = np.array([role[name] for name in faint])
    colours = np.unique(
        np.concatenate([ramp(LEVELS), pale, *mixed]).round().astype(np.uint8), axis=0
    )
    image = Image.new("P", (1, 1))
    image.putpalette(colours[:256].tobytes())
    return image


def _chart(scene: Scene) -> Image.Image:
    """One scene at `SCALE`: shapes drawn larger and averaged down, then text at its final size."""
    zoom = SCALE * FINE
    image = Image.new("RGB", (WIDTH * zoom, HEIGHT * zoom), LIGHT.surface)
    pen = ImageDraw.Draw(image)
    edge = (zoom // 2, zoom // 2, WIDTH * zoom - zoom // 2, HEIGHT * zoom - zoom // 2)
    pen.rounded_rectangle(edge, 7 * zoom, outline=LIGHT.frame, width=zoom)
    for mark in scene.marks:
        match mark:
            case Box():
                _draw_box(pen, mark, zoom)
            case Line():
                _draw_line(pen, mark, zoom)
            case Picture():
                _draw_picture(image, mark, zoom)
            case Text():
                pass
    image = image.reduce(FINE)
    for mark in scene.marks:
        if isinstance(mark, Text):
            _write(image, mark, LIGHT)
    return image


def _draw_box(pen: ImageDraw.ImageDraw, box: Box, zoom: int) -> None:
    colour = getattr(LIGHT, box.role)
    for x, y, width, height in box.rects * zoom:
        # Pillow's rectangles include their last pixel.
        right, bottom = round(x + width) - 1, round(y + height) - 1
        if right >= round(x) and bottom >= round(y):
            pen.rectangle((round(x), round(y), right, bottom), fill=colour)


def _draw_line(pen: ImageDraw.ImageDraw, line: Line, zoom: int) -> None:
    colour, width = getattr(LIGHT, line.role), round(line.width * zoom)
    for piece in line.pieces:
        points = piece * zoom
        if len(points) == 1:
            (x, y), r = points[0], width * 0.6
            pen.ellipse((x - r, y - r, x + r, y + r), fill=colour)
            continue
        for part in _dashed(points, [length * zoom for length in DASHES[line.dash]]):
            pen.line([tuple(p) for p in part], fill=colour, width=width, joint="curve")


def _dashed(points: npt.NDArray[np.float64], pattern: list[float]) -> list[npt.NDArray[np.float64]]:
    """The polyline cut into the strokes of a dash pattern (on, off, …); whole without one."""
    if not pattern:
        return [points]
    lengths = np.hypot(*np.diff(points, axis=0).T)
    along = np.concatenate([[0.0], np.cumsum(lengths)])
    starts = np.arange(0, along[-1], sum(pattern))
    parts = []
    for start in starts:
        stop = min(start + pattern[0], along[-1])
        inner = along[(along > start) & (along < stop)]
        at = np.concatenate([[start], inner, [stop]])
        parts.append(np.stack([np.interp(at, along, points[:, c]) for c in (0, 1)], axis=1))
    return parts


def _draw_picture(image: Image.Image, picture: Picture, zoom: int) -> None:
    colours = picture.colours
    if colours.shape[1] == 3:
        colours = np.pad(colours, ((0, 0), (0, 1)), constant_values=255)
    cells = Image.fromarray(np.ascontiguousarray(colours[picture.cells]))
    how = Image.Resampling.NEAREST if picture.crisp else Image.Resampling.BOX
    size = (round(picture.width * zoom), round(picture.height * zoom))
    stretched = cells.resize(size, how)
    image.paste(stretched, (round(picture.x * zoom), round(picture.y * zoom)), stretched)


def _write(image: Image.Image, text: Text, theme: Theme) -> None:
    words, colour = _drawable(text.words), getattr(theme, text.role)
    font = _font(text.size * SCALE)
    x, y = text.x * SCALE, text.y * SCALE
    stroke = 0.35 * SCALE if text.bold else 0
    anchor = {"start": "l", "middle": "m", "end": "r"}[text.anchor] + "s"
    if not text.upright:
        pen = ImageDraw.Draw(image)
        pen.text((x, y), words, colour, font, anchor=anchor, stroke_width=stroke)
        return
    long, tall = round(font.getlength(words)) + 8, round(text.size * SCALE * 1.6)
    strip = Image.new("L", (long, tall), 0)
    ImageDraw.Draw(strip).text((long / 2, tall * 0.75), words, 255, font, anchor="ms")
    turned = strip.rotate(90, expand=True)
    at = (round(x - tall * 0.75), round(y - long / 2))
    image.paste(Image.new("RGB", turned.size, colour), at, turned)


@cache
def _font(size: float) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("this build of Pillow has no FreeType; install Pillow from its wheel")
    return font


def _drawable(words: str) -> str:
    """`words` in the characters of the embedded font."""
    for sign, plain in {"×": "x", "–": "-", "µ": "u", "→": "->"}.items():
        words = words.replace(sign, plain)
    return "".join(c if c.isascii() or c in "·…°“”’" else "?" for c in words)


LONGEST = 400
"""Characters that are measured: no page is wider, and a name from a file may be of any length."""


def _fitted(words: str, size: float, width: float) -> str:
    """`words`, cut with an ellipsis if they are wider than the page."""
    font, room = _font(size * SCALE), (width - 2 * GAP - 8) * SCALE
    words = _drawable(words[:LONGEST])
    if font.getlength(words) <= room:
        return words
    while words and font.getlength(words + "…") > room:
        words = words[:-1]
    return words + "…"
