"""The formats of packed weights, as data for the code generator and its callers.

MLX packs a row as one little-endian stream of bits, value after value. The formats here are its
affine ones (value = scale × code + bias for each group), mxfp4 (value = 2^scale × a 4-bit float)
and plain rows of floats. Nothing is computed here.

A *code* is one packed weight, without scale and bias. A *block* of codes fills one vector of the
processor: `lanes` lanes of 32 bits, each with `per_lane` adjacent codes. Activations are arranged
to match ([per_lane, lanes] in a block), so that a code is masked and multiplied in place, without
being moved.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

ITEM_BYTES = {"f32": 4, "f16": 2, "bf16": 2, "e8m0": 1, "none": 0}
"""Bytes of one scale, bias or plain weight, by the name of its type."""
PER_LANE = {2: 16, 3: 8, 4: 8, 5: 4, 6: 4, 8: 4}
"""Codes in one 32-bit lane: as many as its bits or, for 3, 5 and 6 bits, whole bytes allow."""
UNIT = 32
"""The fewest values that fill whole bytes in every format; groups are multiples of it."""
GROUPS = (32, 64, 128)


@dataclass(frozen=True)
class Format:
    """One way of storing rows of weights.

    Attributes:
        kind: "affine", "mxfp" or "plain".
        bits: of one code; if plain, of one weight.
        group: values that share a scale; 0 if plain.
        scale: type of scales (and biases): "f32", "f16", "bf16" or "e8m0"; if plain, of weights.
    """

    kind: str
    bits: int
    group: int
    scale: str

    @property
    def name(self) -> str:
        """A short name for `parse`, such as affine4g64bf16 or mxfp4g32e8m0."""
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
        """The factor of activations for code number `code` of a lane.

        A code is masked, not shifted, so it counts 2^(its bit position), which the factor undoes.
        The last code of a full lane is shifted, because its top bit would be the sign.
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
    """MLX's affine format, or None if no kernel is compiled for it."""
    known = bits in PER_LANE and group in GROUPS and scale in ("f32", "f16", "bf16")
    return Format("affine", bits, group, scale) if known else None


def mxfp4() -> Format:
    """MLX's mxfp4: groups of 32, the scale an exponent."""
    return Format("mxfp", 4, 32, "e8m0")


def plain(scale: str) -> Format:
    """Unquantised rows of floats."""
    return Format("plain", 8 * ITEM_BYTES[scale], 0, scale)
