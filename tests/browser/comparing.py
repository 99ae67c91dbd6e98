"""Compares a picture with an accepted one: a moved panel differs, a pixel of smoothing does not.

Both are compared at an eighth of their size, where averaging removes the smoothing of letters,
which differs between browser versions. Pictures are saved small: half the size, in 96 colours.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

KEPT = 2
"""A picture is saved at its size divided by this."""
LOOKED_AT = 4
"""And compared at that size divided by this."""
MEAN = 2.0
"""The largest accepted mean difference, of 255."""
FAR, SHARE = 32, 0.004
"""Up to this share of all pixels may differ by more than this."""
TALLER = 0.02
"""Letters of another version may make a picture higher by this share."""
MOST_BYTES = 40_000


def kept(png: bytes) -> Image.Image:
    """A screenshot in the form that is saved."""
    image = Image.open(io.BytesIO(png)).convert("RGB").reduce(KEPT)
    return image.quantize(96, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)


def save(image: Image.Image, path: Path) -> None:
    """Write a picture compressed; a picture that is too large is an error."""
    image.save(path, optimize=True)
    assert path.stat().st_size <= MOST_BYTES, f"{path.name} has {path.stat().st_size} bytes"


def difference(image: Image.Image, accepted: Image.Image) -> str:
    """One sentence on where two saved pictures differ too much; "" where they do not."""
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
