"""Compares a picture with one that was accepted, so that a moved panel is told and a hair is not.

Both are looked at in an eighth of their size, where the smoothing of letters has been averaged
away: browsers differ in that from version to version. Pictures are kept small: half the size, in
96 colours.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

KEPT = 2
"""A picture is kept in this fraction of its size."""
LOOKED_AT = 4
"""And compared in this fraction of that."""
MEAN = 2.0
"""The mean difference that is let pass, of 255."""
FAR, SHARE = 32, 0.004
"""Pixels that are further apart than this are let pass up to this share of all."""
TALLER = 0.02
"""Letters of another version may make a picture higher by this share."""
MOST_BYTES = 40_000


def kept(png: bytes) -> Image.Image:
    """A screenshot in the form that is kept."""
    image = Image.open(io.BytesIO(png)).convert("RGB").reduce(KEPT)
    return image.quantize(96, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)


def save(image: Image.Image, path: Path) -> None:
    """Write a picture as small as it gets; a picture that is too large is an error."""
    image.save(path, optimize=True)
    assert path.stat().st_size <= MOST_BYTES, f"{path.name} has {path.stat().st_size} bytes"


def difference(image: Image.Image, accepted: Image.Image) -> str:
    """In what two kept pictures differ too much, in one sentence; "" where they do not."""
    (width, height), (wanted_width, wanted_height) = image.size, accepted.size
    if width != wanted_width or abs(height - wanted_height) > TALLER * wanted_height:
        return f"it is {width} × {height} in place of {wanted_width} × {wanted_height} pixels"
    one, other = (_coarse(each, min(height, wanted_height)) for each in (image, accepted))
    apart = np.abs(one - other).max(axis=2)
    if apart.mean() > MEAN:
        return f"it differs by {apart.mean():.1f} of 255 in the mean, more than {MEAN}"
    if (share := float((apart > FAR).mean())) > SHARE:
        return f"{share:.2%} of it differ by more than {FAR} of 255, more than {SHARE:.2%}"
    return ""


def _coarse(image: Image.Image, height: int) -> np.ndarray:
    cropped = image.convert("RGB").crop((0, 0, image.width, height))
    return np.asarray(cropped.reduce(LOOKED_AT), np.int16)
