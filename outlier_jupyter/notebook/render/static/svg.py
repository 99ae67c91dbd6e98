"""A scene as one SVG document that follows the reader's light or dark theme, without scripts."""

from __future__ import annotations

import base64
import io
import re
from html import escape

import numpy as np
from PIL import Image

from ..palette import DARK, LIGHT, Theme
from .scene import HEIGHT, WIDTH, Box, Line, Mark, Picture, Scene, Text

DASHES = {"solid": "", "dash": "5 3", "dot": "1.5 3"}
ROLES = re.compile(r'class="(?:line s-)?(\w+)"')
FONT = "system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',sans-serif"


def render(scene: Scene) -> str:
    """The SVG document; all text is escaped."""
    body = "".join(_mark(mark) for mark in scene.marks)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
        f'viewBox="0 0 {WIDTH} {HEIGHT}" role="img"><title>{escape(scene.spoken)}</title>'
        f"<style>{_style(body)}</style>"
        f'<rect class="surface" x=".5" y=".5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="7" '
        f'style="stroke:var(--frame)"/>{body}</svg>'
    )


def data_uri(scene: Scene) -> str:
    """The SVG as the source of an `<img>`."""
    return "data:image/svg+xml;base64," + base64.b64encode(render(scene).encode()).decode()


def png_bytes(picture: Picture) -> bytes:
    """The picture's cells, one pixel each, as an indexed PNG with transparency."""
    image = Image.fromarray(picture.cells).convert("L")
    indexed = Image.frombytes("P", image.size, image.tobytes())
    indexed.putpalette(np.ascontiguousarray(picture.colours[:, :3]).tobytes())
    out = io.BytesIO()
    opaque = picture.colours.shape[1] == 3 or bool((picture.colours[:, 3] == 255).all())
    veil = {} if opaque else {"transparency": picture.colours[:, 3].tobytes()}
    indexed.save(out, "PNG", optimize=True, **veil)
    return out.getvalue()


def _style(body: str) -> str:
    """The style of the roles in use."""
    used = {"surface", "frame", *ROLES.findall(body)}

    def variables(theme: Theme) -> str:
        return ";".join(f"--{role}:{getattr(theme, role)}" for role in sorted(used))

    roles = "".join(
        f".{role}{{fill:var(--{role})}}.s-{role}{{stroke:var(--{role})}}" for role in sorted(used)
    )
    return (
        f":root{{{variables(LIGHT)}}}"
        f"@media(prefers-color-scheme:dark){{:root{{{variables(DARK)}}}}}"
        f"{roles}text{{font-family:{FONT}}}"
        "path.line{fill:none;stroke-linecap:round;stroke-linejoin:round}"
    )


def _mark(mark: Mark) -> str:
    match mark:
        case Box():
            return _box(mark)
        case Line():
            return _line(mark)
        case Text():
            return _text(mark)
        case Picture():
            return _picture(mark)


def _n(value: float) -> str:
    """A coordinate to a tenth of a pixel, as short as possible."""
    return f"{value:.1f}".removesuffix(".0")


def _box(box: Box) -> str:
    parts = [
        f"M{_n(x)} {_n(y)}h{_n(w)}v{_n(h)}h{_n(-w)}z" for x, y, w, h in box.rects if w > 0 and h > 0
    ]
    # Adjacent bars meet at fractions of a pixel; smoothing would draw seams between them.
    crisp = ' shape-rendering="crispEdges"' if len(parts) > 1 else ""
    return f'<path class="{box.role}"{crisp} d="{"".join(parts)}"/>' if parts else ""


def _line(line: Line) -> str:
    parts = []
    for piece in line.pieces:
        points = [f"{_n(x)} {_n(y)}" for x, y in piece]
        # A single point is a stroke of length 0, which the round cap makes a dot.
        parts.append("M" + "L".join(points if len(points) > 1 else points * 2))
    if not parts:
        return ""
    dash = f' stroke-dasharray="{DASHES[line.dash]}"' if DASHES[line.dash] else ""
    shape = f'stroke-width="{_n(line.width)}"{dash} d="{"".join(parts)}"'
    return f'<path class="line s-{line.role}" {shape}/>'


def _text(text: Text) -> str:
    turn = f' transform="rotate(-90 {_n(text.x)} {_n(text.y)})"' if text.upright else ""
    weight = ' font-weight="600"' if text.bold else ""
    return (
        f'<text class="{text.role}" x="{_n(text.x)}" y="{_n(text.y)}" font-size="{_n(text.size)}" '
        f'text-anchor="{text.anchor}"{weight}{turn}>{escape(text.words)}</text>'
    )


def _picture(picture: Picture) -> str:
    source = base64.b64encode(png_bytes(picture)).decode()
    crisp = ' style="image-rendering:pixelated"' if picture.crisp else ""
    return (
        f'<image x="{_n(picture.x)}" y="{_n(picture.y)}" width="{_n(picture.width)}" '
        f'height="{_n(picture.height)}" preserveAspectRatio="none"{crisp} '
        f'href="data:image/png;base64,{source}"/>'
    )
