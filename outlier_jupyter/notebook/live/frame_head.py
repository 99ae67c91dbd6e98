"""The head of a frame's bytes, in every version that can be read.

The layout is described in `frames.py`.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ...errors import OutlierError
from ...trace.time_parts import PARTS

MAGIC = b"OJLF"
VERSION = 4

NO_TOKEN = 0xFFFFFFFF
"""The value of `first_token` before a token is generated."""
NO_ORDER, EXACT, UNKNOWN, RELEARNED = 0, 1, 2, 3
"""What a frame says of the eviction order: nothing, the order, that the policy cannot tell it, or
the order of a policy that lacks what it had learned from earlier runs."""
WIDE = 65_536
"""From more experts than this a number takes two halves in the order."""
PARTS_OF_2 = ("route", "lookup", "read_wait", "install", "sample")
"""The parts in a frame of version 2; the rest of a token's time was mostly computing."""

HEAD = struct.Struct("<4sHH26I")
_HEADS = {2: struct.Struct("<4sHH20I"), 3: struct.Struct("<4sHH22I"), VERSION: HEAD}
"""By version."""
_LATER = {2: (len(PARTS_OF_2), NO_TOKEN, NO_ORDER, 0, 0, 0), 3: (NO_ORDER, 0, 0, 0), VERSION: ()}
"""The values of the numbers that the head of an older version lacks."""


class FrameError(OutlierError):
    """Bytes that are not a frame of this version, or frames out of sequence."""


class Head(NamedTuple):
    """The version, the size of the head in bytes, and its numbers."""

    version: int
    size: int
    flags: int
    length: int
    run: int
    seq: int
    since: int
    first_step: int
    steps: int
    layers: int
    experts: int
    slots: int
    prompt_tokens: int
    text_start: int
    text: int
    counts: int
    changes: int
    k: int
    routed: int
    moves: int
    moves_from: int
    call_tokens: int
    call_layers: int
    parts: int
    first_token: int
    order_kind: int
    ordered: int
    pinned: int
    order_steps: int

    @property
    def halves(self) -> int:
        """The numbers of two bytes that the order takes."""
        return self.ordered * (2 if self.layers * self.experts > WIDE else 1)


def read_head(data: bytes, more: int) -> Head:
    """The head of the frame in `data`, after which at least `more` bytes must follow.

    Raises:
        FrameError: not a frame, another version, or truncated.
    """
    if len(data) < _HEADS[2].size + more or data[:4] != MAGIC:
        raise FrameError(f"{len(data)} bytes starting {data[:4]!r} are not a frame")
    version = int.from_bytes(data[4:6], "little")
    layout = _HEADS.get(version)
    if layout is None:
        raise FrameError(f"a frame has version {version}, expected {VERSION}: reload the page")
    if len(data) < layout.size + more:
        raise FrameError(f"a frame of {len(data)} bytes is truncated")
    _, _, *numbers = layout.unpack_from(data)
    head = Head(version, layout.size, *numbers, *_LATER[version])
    if version > 2 and head.parts != len(PARTS):
        raise FrameError(f"a frame divides time into {head.parts} parts, expected {len(PARTS)}")
    return head


def parts_of_2(
    parts: npt.NDArray[np.float32], token_ms: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Convert parts of version 2, [steps, 5], to current ones, within the token's time."""
    out = np.full((len(parts), len(PARTS)), np.nan, np.float32)
    left = np.nan_to_num(token_ms)
    for name, spent in zip(PARTS_OF_2, parts.T, strict=True):
        out[:, list(PARTS).index(name)] = claimed = np.clip(np.nan_to_num(spent), 0, left)
        left = left - claimed
    out[:, list(PARTS).index("other")] = left
    return out
