"""Merge consecutive frames into one, and keep the history of a run.

The merge of all frames so far is a *snapshot*: the whole state. Its history is bounded: older steps
are dropped, and the frame contains the first step that is complete. This module knows no bytes,
events, clocks or Jupyter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from .frames import NO_EXPERT, STEP, Frame, FrameError, utf16_units

KEPT_STEPS = 4_000
KEPT_TEXT_BYTES = 200_000
KEPT_ROUTING_BYTES = 512_000
KEPT_MOVES = 50_000
"""How much history a snapshot keeps; counts, residency and totals are always complete."""

UNCHANGED = 255
"""The state of an expert that a frame does not mention."""


def merge(*frames: Frame) -> Frame:
    """Merge consecutive `frames` into one; a snapshot replaces the frames before it.

    Raises:
        FrameError: no frames, or a frame that does not follow the one before it.
    """
    if not frames:
        raise FrameError("there is nothing to merge: give at least one frame")
    for earlier, later in pairwise(frames):
        _check_follows(earlier, later)
    begin = max((n for n, frame in enumerate(frames) if frame.snapshot), default=0)
    frames = frames[begin:]
    if len(frames) == 1:
        return frames[0]
    first, last = frames[0], frames[-1]
    count_index, count = _summed(frames)
    change_index, change_state = _last_wins(frames)
    experts_of, hits_of = _routing(frames)
    ordered = next((frame for frame in reversed(frames) if frame.order_kind), last)
    return replace(
        last,
        since=first.since,
        first_step=first.first_step,
        text="".join(frame.text for frame in frames),
        text_start=first.text_start,
        steps=_all_steps(frames),
        count_index=count_index,
        count=count,
        change_index=change_index,
        change_state=change_state,
        experts_of=experts_of,
        hits_of=hits_of,
        move_step=np.concatenate([frame.move_step for frame in frames]),
        move=np.concatenate([frame.move for frame in frames]),
        moves_from=max(frame.moves_from for frame in frames),
        order_kind=ordered.order_kind,
        order=ordered.order,
        pinned=ordered.pinned,
        order_steps=ordered.order_steps,
        snapshot=first.snapshot,
    )


def as_snapshot(
    frame: Frame, keep_steps: int = KEPT_STEPS, keep_text_bytes: int = KEPT_TEXT_BYTES
) -> Frame:
    """Make a snapshot, bounded to the newest steps and text, of the merge of all frames so far.

    Raises:
        FrameError: `frame` depends on earlier frames, so it is not the whole state.
    """
    if frame.since:
        raise FrameError(
            f"the frame has the changes since frame {frame.since}, not the whole state"
        )
    dropped = max(0, len(frame.steps) - keep_steps)
    present = frame.change_state > 0
    text, skipped = _tail(frame.text, keep_text_bytes)
    rows = min(routing_rows(*frame.experts_of.shape[1:]), keep_steps)
    routed = max(0, len(frame.experts_of) - rows)
    moves = max(0, len(frame.move) - KEPT_MOVES)
    # The oldest step with kept moves may have lost some of them: moves are complete from the next.
    moves_from = int(frame.move_step[moves - 1]) + 1 if moves else frame.moves_from
    return replace(
        frame,
        first_step=frame.first_step + dropped,
        steps=frame.steps[dropped:],
        text=text,
        text_start=frame.text_start + skipped,
        change_index=frame.change_index[present],
        change_state=frame.change_state[present],
        experts_of=frame.experts_of[routed:],
        hits_of=frame.hits_of[routed:],
        move_step=frame.move_step[moves:],
        move=frame.move[moves:],
        moves_from=max(moves_from, frame.moves_from),
        snapshot=True,
    )


class History:
    """The frames of one run so far; a snapshot is available at any time.

    It merges when more than `FOLD_AFTER` frames have accumulated: one merge of many frames costs
    much less than many merges of one.
    """

    FOLD_AFTER = 64

    def __init__(self) -> None:
        self._frames: list[Frame] = []

    def add(self, frame: Frame) -> None:
        """Add the next frame; a snapshot, or a frame of another run, starts a new history.

        Raises:
            FrameError: the frame does not follow the last one.
        """
        if frame.snapshot or (self._frames and self._frames[-1].run != frame.run):
            self._frames.clear()
        if self._frames:
            _check_follows(self._frames[-1], frame)
        self._frames.append(frame)
        if len(self._frames) > self.FOLD_AFTER:
            self.snapshot()

    def snapshot(self) -> Frame | None:
        """The whole state, or None before the first frame."""
        if not self._frames:
            return None
        whole = as_snapshot(merge(*self._frames))
        self._frames = [whole]
        return whole


def _check_follows(earlier: Frame, later: Frame) -> None:
    if later.snapshot:
        return
    ends = earlier.first_step + len(earlier.steps)
    expected = (earlier.run, earlier.layers, earlier.experts, earlier.seq, ends)
    actual = (later.run, later.layers, later.experts, later.since, later.first_step)
    if actual != expected:
        raise FrameError(
            f"frame {later.seq} does not follow frame {earlier.seq}: its run, layers, experts, "
            f"frame before and first step are {actual}, wanted {expected}"
        )


def _summed(frames: Sequence[Frame]) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    # With an array of all experts: sorting the numbers of many frames, as np.unique does, costs ten
    # times as much.
    total = np.zeros(frames[0].layers * frames[0].experts, np.uint32)
    index = np.concatenate([frame.count_index for frame in frames])
    np.add.at(total, index, np.concatenate([frame.count for frame in frames]))
    numbers = np.flatnonzero(total).astype(np.uint32)
    return numbers, total[numbers]


def _last_wins(frames: Sequence[Frame]) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint8]]:
    state = np.full(frames[0].layers * frames[0].experts, UNCHANGED, np.uint8)
    for frame in frames:
        state[frame.change_index] = frame.change_state
    numbers = np.flatnonzero(state != UNCHANGED).astype(np.uint32)
    return numbers, state[numbers]


def _all_steps(frames: Sequence[Frame]) -> npt.NDArray[np.void]:
    # np.concatenate would compare the fields of every part.
    out = np.zeros(sum(len(frame.steps) for frame in frames), STEP)
    at = 0
    for frame in frames:
        out[at : at + len(frame.steps)] = frame.steps
        at += len(frame.steps)
    return out


def routing_rows(layers: int, k: int) -> int:
    """The number of steps whose routing is kept, for a model of this shape."""
    return KEPT_ROUTING_BYTES // max(1, 2 * layers * k)


def widened(values: npt.NDArray[Any], k: int, fill: int | bool) -> npt.NDArray[Any]:
    """Pad [n, layers, less than k] to [n, layers, k]."""
    short = k - values.shape[2]
    return np.pad(values, ((0, 0), (0, 0), (0, short)), constant_values=fill) if short else values


def _routing(
    frames: Sequence[Frame],
) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.bool_]]:
    """The routing of the newest steps, back to the first gap."""
    parts: list[Frame] = []
    for frame in reversed(frames):
        parts.append(frame)
        if len(frame.experts_of) < len(frame.steps):
            break
    k = max(part.experts_of.shape[2] for part in parts)
    experts = [widened(part.experts_of, k, NO_EXPERT) for part in reversed(parts)]
    hits = [widened(part.hits_of, k, False) for part in reversed(parts)]
    return np.concatenate(experts), np.concatenate(hits)


def _tail(text: str, keep_bytes: int) -> tuple[str, int]:
    """The end of `text` within `keep_bytes` of UTF-8, and the number of code units dropped."""
    if len(text) * 4 <= keep_bytes:
        return text, 0
    data = text.encode("utf-8", "replace")
    cut = max(0, len(data) - keep_bytes)
    while cut < len(data) and data[cut] & 0xC0 == 0x80:  # never inside a character
        cut += 1
    return data[cut:].decode("utf-8"), utf16_units(data[:cut].decode("utf-8"))
