"""How weights are packed, as data: what the code generator and its callers know of a format.

MLX packs a row as one little-endian stream of bits, value after value. The formats here are its
affine ones (value = scale × code + bias for each group), mxfp4 (value = 2^scale × a 4-bit float)
and plain rows of floats. Nothing is computed here.

A *block* is what one vector of the processor holds: `lanes` lanes of 32 bits, each with `per_lane`
codes beside each other. Activations are laid out to match ([per_lane, lanes] in a block), so that
a code is masked where it stands and multiplied there, without being moved.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

ITEM_BYTES = {"f32": 4, "f16": 2, "bf16": 2, "e8m0": 1, "none": 0}
"""Bytes of one scale, bias or plain weight, by the name of its type."""
PER_LANE = {2: 16, 3: 8, 4: 8, 5: 4, 6: 4, 8: 4}
"""Codes that one 32-bit lane takes: as many as its bits or, for 3, 5, 6 bits, whole bytes allow."""
UNIT = 32
"""Values in the smallest run that fills whole bytes in every format; groups are multiples of it."""
GROUPS = (32, 64, 128)


@dataclass(frozen=True)
class Format:
    """One way of storing rows of weights.

    Attributes:
        kind: "affine", "mxfp" or "plain".
        bits: of one code; of one weight where plain.
        group: values that share a scale; 0 where plain.
        scale: type of scales (and biases): "f32", "f16", "bf16" or "e8m0"; where plain, of weights.
    """

    kind: str
    bits: int
    group: int
    scale: str

    @property
    def name(self) -> str:
        """A short name that `parse` reads back, such as affine4g64bf16 or mxfp4g32e8m0."""
        return f"{self.kind}{self.bits}g{self.group}{self.scale}"

    @property
    def per_lane(self) -> int:
        """Codes in one lane."""
        return 1 if self.kind == "plain" else PER_LANE[self.bits]

    def row_bytes(self, width: int) -> int:
        """Bytes of the codes of one row of `width` values."""
        return width * self.bits // 8

    def scale_bytes(self, width: int) -> int:
        """Bytes of the scales of one row of `width` values."""
        return 0 if self.kind == "plain" else width // self.group * ITEM_BYTES[self.scale]

    def factor(self, code: int) -> float:
        """What activations at place `code` of a lane are multiplied by, so that masking is enough.

        A code stays where it stands in its lane and so counts 2^(its place); the last one of a
        full lane is shifted down, because it would be read as a sign.
        """
        if self.kind == "plain":
            return 1.0
        if self.kind == "mxfp":  # two codes to a byte, table values doubled to be whole numbers
            byte = code // 2
            return 0.5 * (1.0 if byte == 3 else 2.0 ** (-8 * byte))
        full = self.bits * self.per_lane == 32
        return 1.0 if full and code == self.per_lane - 1 else 2.0 ** (-self.bits * code)


@lru_cache
def parse(name: str) -> Format:
    """The format called `name`."""
    found = re.fullmatch(r"(affine|mxfp|plain)(\d+)g(\d+)([a-z]\w*)", name)
    if found is None:
        raise ValueError(f"{name!r} is no format's name")
    kind, bits, group, scale = found.groups()
    return Format(kind, int(bits), int(group), scale)


def affine(bits: int, group: int, scale: str) -> Format | None:
    """MLX's affine format, or None where it is not one of those compiled."""
    known = bits in PER_LANE and group in GROUPS and scale in ("f32", "f16", "bf16")
    return Format("affine", bits, group, scale) if known else None


def mxfp4() -> Format:
    """MLX's mxfp4: groups of 32, the scale an exponent."""
    return Format("mxfp", 4, 32, "e8m0")


def plain(scale: str) -> Format:
    """Unquantised rows of floats."""
    return Format("plain", 8 * ITEM_BYTES[scale], 0, scale)
