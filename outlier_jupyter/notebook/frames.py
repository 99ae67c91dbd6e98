"""The wire frame of the live view: what changed since the last one, as a few hundred bytes.

A `Frame` carries the new text, one record per token read by the model, how often experts were
chosen, which experts arrived or left, and running totals. Frames that follow each other merge
into one, and the merge of all of them is a *snapshot*: the whole state, told from zero. `encode`
and `decode` turn a frame into little-endian bytes whose arrays are aligned, so that a browser
can lay typed arrays over them. This module knows nothing of events, clocks, Jupyter or MLX.

Layout of version 1, all little-endian, arrays in this order without gaps::

    head       64 bytes   magic "OJLF", u16 version, u16 flags, then 14 u32: length of the
                          whole frame, run, seq, since, first_step, steps, layers, experts,
                          slots, prompt_tokens, text_start, text bytes, counts, changes
    totals     11 u64     in the order of `Totals`
    steps      f64 nbytes | f32 token_ms, read_p50_ms, read_p95_ms, read_max_ms
               | u32 hits, misses, reads    (one array of `steps` values each)
    counts     u32 index, u32 count
    changes    u32 index
    phases     u8 of `steps`
    states     u8 of `changes`
    text       UTF-8
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import OutlierError

MAGIC = b"OJLF"
VERSION = 1
SNAPSHOT = 1
FINAL = 2

KEPT_STEPS = 4_000
KEPT_TEXT_BYTES = 200_000
"""What a snapshot keeps of the past; counts, residency and totals are always whole."""

STEP = np.dtype(
    [
        ("nbytes", "<f8"),
        ("token_ms", "<f4"),
        ("read_p50_ms", "<f4"),
        ("read_p95_ms", "<f4"),
        ("read_max_ms", "<f4"),
        ("hits", "<u4"),
        ("misses", "<u4"),
        ("reads", "<u4"),
        ("phase", "u1"),
    ]
)
"""One token read by the model. The read latencies are NaN where nothing was read.

A prefill call's time is shared equally by its tokens; a read belongs to the first of them that
needed it.
"""

_HEAD = struct.Struct("<4sHH14I")
_TOTALS = struct.Struct("<11Q")
_WIDE = tuple(name for name in STEP.names or () if name != "phase")
_STEP_NBYTES = STEP.itemsize


class FrameError(OutlierError):
    """Bytes that are not a frame of this version, or frames that do not follow each other."""


class Totals(NamedTuple):
    """Everything since the run began; the `decode_` ones count generated tokens only."""

    steps: int = 0
    lookups: int = 0
    hits: int = 0
    reads: int = 0
    nbytes: int = 0
    evictions: int = 0
    elapsed_ns: int = 0
    decode_steps: int = 0
    decode_lookups: int = 0
    decode_hits: int = 0
    decode_ns: int = 0


@dataclass(frozen=True, eq=False)
class Frame:
    """What changed after frame `since`, up to and with frame `seq`, of one run.

    Attributes:
        run: number of the run; frames of different runs never merge.
        seq: number of this frame, from 1; a merged frame has that of its last part.
        since: the frame a receiver must have seen; 0 means that none is needed.
        first_step: how many steps came before those in `steps`.
        layers, experts: of the model; `experts` is that of the widest layer.
        slots: how many experts fit in RAM.
        prompt_tokens: length of the prompt; 0 until it is known.
        text: what was generated, or the end of it; `text_start` UTF-8 bytes came before.
        steps: `STEP` [n].
        count_index, count: uint32 [m], expert `layer * experts + expert` was chosen so often.
        change_index: uint32 [r], the same numbering; `change_state` uint8 [r]: 1 in RAM, 0 gone.
        totals: since the run began.
        snapshot: the whole state from zero, to be used instead of what was known before.
        final: the run is over.
    """

    run: int
    seq: int
    since: int
    first_step: int
    layers: int
    experts: int
    slots: int
    prompt_tokens: int
    text: str
    text_start: int
    steps: npt.NDArray[np.void]
    count_index: npt.NDArray[np.uint32]
    count: npt.NDArray[np.uint32]
    change_index: npt.NDArray[np.uint32]
    change_state: npt.NDArray[np.uint8]
    totals: Totals
    snapshot: bool = False
    final: bool = False

    def __eq__(self, other: object) -> bool:
        """Equal when the bytes are: NaN equals NaN, arrays compare as wholes."""
        return isinstance(other, Frame) and encode(self) == encode(other)

    __hash__ = None  # type: ignore[assignment]


def encode(frame: Frame) -> bytes:
    """The frame as bytes; see the module for the layout."""
    # A lone surrogate cannot be sent as UTF-8; it becomes a question mark.
    text = frame.text.encode("utf-8", "replace")
    steps = frame.steps
    length = _length(len(steps), len(frame.count), len(frame.change_index), len(text))
    head = _HEAD.pack(
        MAGIC,
        VERSION,
        SNAPSHOT * frame.snapshot | FINAL * frame.final,
        length,
        frame.run,
        frame.seq,
        frame.since,
        frame.first_step,
        len(steps),
        frame.layers,
        frame.experts,
        frame.slots,
        frame.prompt_tokens,
        frame.text_start,
        len(text),
        len(frame.count),
        len(frame.change_index),
    )
    return b"".join(
        [
            head,
            _TOTALS.pack(*frame.totals),
            *(steps[name].tobytes() for name in _WIDE),
            frame.count_index.astype("<u4", copy=False).tobytes(),
            frame.count.astype("<u4", copy=False).tobytes(),
            frame.change_index.astype("<u4", copy=False).tobytes(),
            steps["phase"].tobytes(),
            frame.change_state.tobytes(),
            text,
        ]
    )


def decode(data: bytes | bytearray | memoryview) -> Frame:
    """The frame in `data`, which must hold exactly one.

    Raises:
        FrameError: not a frame, another version, cut short, or numbers that cannot be.
    """
    data = bytes(data)
    if len(data) < _HEAD.size + _TOTALS.size or data[:4] != MAGIC:
        raise FrameError(f"{len(data)} bytes starting {data[:4]!r} are not a frame")
    _, version, flags, length, *numbers = _HEAD.unpack_from(data)
    if version != VERSION:
        raise FrameError(f"frame version {version} was seen, {VERSION} is wanted; reload the page")
    run, seq, since, first, steps, layers, experts, slots, prompt, start, text, counts, changes = (
        numbers
    )
    if length != len(data) or length != _length(steps, counts, changes, text):
        raise FrameError(
            f"a frame of {length} bytes came as {len(data)}: it was cut short or mixed up"
        )
    take = _Taker(data, _HEAD.size + _TOTALS.size)
    table = np.zeros(steps, STEP)
    for name in _WIDE:
        table[name] = take(str(STEP[name]), steps)
    frame = Frame(
        run=run,
        seq=seq,
        since=since,
        first_step=first,
        layers=layers,
        experts=experts,
        slots=slots,
        prompt_tokens=prompt,
        text_start=start,
        steps=table,
        count_index=take("<u4", counts),
        count=take("<u4", counts),
        change_index=take("<u4", changes),
        change_state=_phases_then_states(take, table, changes),
        text=data[length - text :].decode("utf-8", "replace"),
        totals=Totals(*_TOTALS.unpack_from(data, _HEAD.size)),
        snapshot=bool(flags & SNAPSHOT),
        final=bool(flags & FINAL),
    )
    for index in (frame.count_index, frame.change_index):
        if len(index) and int(index.max()) >= layers * experts:
            raise FrameError(f"a frame of {layers} x {experts} experts names number {index.max()}")
    return frame


def merge(*frames: Frame) -> Frame:
    """One frame that tells what `frames` tell one after another; a snapshot supersedes the past.

    Raises:
        FrameError: no frame at all, or one that does not follow the one before it.
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
    return replace(
        last,
        since=first.since,
        first_step=first.first_step,
        text="".join(frame.text for frame in frames),
        text_start=first.text_start,
        steps=np.concatenate([frame.steps for frame in frames]),
        count_index=count_index,
        count=count,
        change_index=change_index,
        change_state=change_state,
        snapshot=first.snapshot,
    )


def as_snapshot(
    frame: Frame, keep_steps: int = KEPT_STEPS, keep_text_bytes: int = KEPT_TEXT_BYTES
) -> Frame:
    """The merge of all frames so far, as a snapshot bounded to the newest steps and text.

    Raises:
        FrameError: `frame` needs frames before it and so does not tell the whole state.
    """
    if frame.since:
        raise FrameError(
            f"the frame tells what came after frame {frame.since}, not the whole state"
        )
    dropped = max(0, len(frame.steps) - keep_steps)
    present = frame.change_state > 0
    text, skipped = _tail(frame.text, keep_text_bytes)
    return replace(
        frame,
        first_step=frame.first_step + dropped,
        steps=frame.steps[dropped:],
        text=text,
        text_start=frame.text_start + skipped,
        change_index=frame.change_index[present],
        change_state=frame.change_state[present],
        snapshot=True,
    )


class History:
    """The frames of one run so far, folded now and then, so that a snapshot can be had at any time.

    It keeps at most `FOLD_AFTER` frames unfolded: one fold of many costs much less than many
    folds of one.
    """

    FOLD_AFTER = 64

    def __init__(self) -> None:
        self._frames: list[Frame] = []

    def add(self, frame: Frame) -> None:
        """Take the next frame; a snapshot, or a frame of another run, starts anew.

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


class _Taker:
    """Reads arrays one after another out of a frame's bytes, as copies that can be written."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data, self._at = data, at

    def __call__(self, dtype: str, n: int) -> npt.NDArray[Any]:
        out: npt.NDArray[Any] = np.frombuffer(self._data, dtype, n, self._at).copy()
        self._at += out.nbytes
        return out


def _phases_then_states(
    take: _Taker, table: npt.NDArray[np.void], changes: int
) -> npt.NDArray[np.uint8]:
    table["phase"] = take("u1", len(table))
    return take("u1", changes)


def _length(steps: int, counts: int, changes: int, text: int) -> int:
    return _HEAD.size + _TOTALS.size + steps * _STEP_NBYTES + counts * 8 + changes * 5 + text


def _check_follows(earlier: Frame, later: Frame) -> None:
    if later.snapshot:
        return
    ends = earlier.first_step + len(earlier.steps)
    wanted = (earlier.run, earlier.layers, earlier.experts, earlier.seq, ends)
    seen = (later.run, later.layers, later.experts, later.since, later.first_step)
    if seen != wanted:
        raise FrameError(
            f"frame {later.seq} does not follow frame {earlier.seq}: its run, layers, experts, "
            f"frame before and first step are {seen}, wanted {wanted}"
        )


def _summed(frames: Sequence[Frame]) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    index = np.concatenate([frame.count_index for frame in frames])
    unique, where = np.unique(index, return_inverse=True)
    total = np.zeros(len(unique), np.uint32)
    np.add.at(total, where, np.concatenate([frame.count for frame in frames]))
    return unique, total


def _last_wins(frames: Sequence[Frame]) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint8]]:
    # np.unique gives the first place of each value: backwards, that is the latest change.
    index = np.concatenate([frame.change_index for frame in frames])[::-1]
    state = np.concatenate([frame.change_state for frame in frames])[::-1]
    unique, first = np.unique(index, return_index=True)
    return unique, state[first]


def _tail(text: str, keep_bytes: int) -> tuple[str, int]:
    """The end of `text`, within `keep_bytes` of UTF-8, and how many bytes were left off."""
    if len(text) * 4 <= keep_bytes:
        return text, 0
    data = text.encode("utf-8", "replace")
    cut = max(0, len(data) - keep_bytes)
    while cut < len(data) and data[cut] & 0xC0 == 0x80:  # never inside a character
        cut += 1
    return data[cut:].decode("utf-8"), cut
