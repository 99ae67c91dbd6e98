"""The frames of the live view: the changes since the last frame, in a few hundred bytes.

A `Frame` contains the new text, one record per token read by the model, the experts that each of
the newest tokens chose, how often experts were chosen, which were paged in or evicted and when, and
running totals. `encode` and `decode` convert it to little-endian bytes with aligned arrays, so that
a browser can use typed arrays on them. `merge_frames.py` merges frames. This module knows no
events, clocks, Jupyter or MLX.

Layout of version 4, all little-endian, arrays in this order without gaps::

    head      112 bytes   magic "OJLF", u16 version, u16 flags, then 26 u32: length of the
                          whole frame, run, seq, since, first_step, steps, layers, experts,
                          slots, prompt_tokens, text_start, text bytes, counts, changes, k,
                          routed, moves, moves_from, call_tokens, call_layers, parts, first_token,
                          order_kind, ordered, pinned, order_steps
    totals     11 u64     in the order of `Totals`
    steps      f64 nbytes | f32 token_ms, read_p50_ms, read_p95_ms, read_max_ms, then the
               parts of the token's time | u32 hits, misses, reads, text_end
               (one array of `steps` values each)
    counts     u32 index, u32 count
    changes    u32 index
    moves      u32 step, u32 twice the expert's index, plus 1 if paged in
    routing    u16 of `routed` x layers x k
    order      u16 of `ordered`: the low halves of the numbers; if there are more than 65,536
               experts, then as many u16 again: their high halves
    phases     u8 of `steps`
    states     u8 of `changes`
    hits       u8 of `routed` x ceil(layers x k / 8): one bit each, the lowest first
    text       UTF-8

Versions 2 and 3 are read as well. They have no order: the head of version 3 ends with first_token,
that of version 2 with call_layers, and its five parts are `PARTS_OF_2`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ...trace.time_parts import PARTS
from .frame_head import HEAD, MAGIC, NO_ORDER, NO_TOKEN, VERSION, WIDE, Head, parts_of_2, read_head
from .frame_head import FrameError as FrameError

SNAPSHOT = 1
FINAL = 2

NO_EXPERT = 0xFFFF
"""Fills the row of a layer that chose fewer experts than the widest one."""
STEP = np.dtype(
    [
        ("nbytes", "<f8"),
        ("token_ms", "<f4"),
        ("read_p50_ms", "<f4"),
        ("read_p95_ms", "<f4"),
        ("read_max_ms", "<f4"),
        ("parts_ms", "<f4", (len(PARTS),)),
        ("hits", "<u4"),
        ("misses", "<u4"),
        ("reads", "<u4"),
        ("text_end", "<u4"),
        ("phase", "u1"),
    ]
)
"""One token read by the model. The read latencies are NaN where nothing was read.

The tokens of a prefill call share its time equally; a read belongs to the first token that needed
it. `parts_ms` has the parts of `trace.times`, NaN where a part is not measured; the others add up
to `token_ms`. The text produced after a step ends at `text_end`, in UTF-16 code units from the
start of the run.
"""

_TOTALS = struct.Struct("<11Q")
_WIDE = tuple(name for name in STEP.names or () if name != "phase")
_STEP_NBYTES = STEP.itemsize - STEP["parts_ms"].itemsize


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
    """The changes of one run after frame `since`, up to and including frame `seq`.

    Attributes:
        run: number of the run; frames of different runs never merge.
        seq: number of this frame, from 1; a merged frame has that of its last part.
        since: the frame a receiver must have; 0 if none is needed.
        first_step: the number of steps before those in `steps`.
        layers, experts: of the model; `experts` is that of the widest layer.
        slots: of the expert cache.
        prompt_tokens: length of the prompt; 0 until it is known.
        text: the generated text, or its end; `text_start` UTF-16 code units (as browsers count)
            come before it.
        steps: `STEP` [n].
        count_index, count: uint32 [m], how often expert `layer * experts + expert` was chosen.
        change_index: uint32 [r], the same numbering; `change_state` uint8 [r]: 1 resident, 0 not.
        experts_of: uint16 [r, layers, k], the experts of the last r of `steps`, or `NO_EXPERT`.
        hits_of: bool, the same shape: whether it was resident at the lookup.
        move_step: uint32 [q], the step during which an expert was paged in or evicted, in order;
            for a call of several tokens, its last step. `move`: uint32 [q], twice the expert's
            number, plus 1 if paged in. All moves of steps from `moves_from` on are included.
        call_tokens, call_layers: tokens of the open call, and how many layers it has routed.
        first_token: the step that produced the first generated token, or `NO_TOKEN`.
        order_kind: what the frame says of the eviction order: `NO_ORDER`, `EXACT`, …
        order: uint32 [o], the resident experts, next to be evicted first, after `order_steps`
            steps and what their call had moved by then; the last `pinned` are never evicted.
        totals: since the run began.
        snapshot: the whole state, which replaces everything before.
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
    experts_of: npt.NDArray[np.uint16]
    hits_of: npt.NDArray[np.bool_]
    move_step: npt.NDArray[np.uint32]
    move: npt.NDArray[np.uint32]
    totals: Totals
    moves_from: int = 0
    call_tokens: int = 0
    call_layers: int = 0
    first_token: int = NO_TOKEN
    order_kind: int = NO_ORDER
    order: npt.NDArray[np.uint32] = field(default_factory=lambda: np.zeros(0, np.uint32))
    pinned: int = 0
    order_steps: int = 0
    snapshot: bool = False
    final: bool = False

    def __eq__(self, other: object) -> bool:
        """Equal when the bytes are: NaN equals NaN, arrays compare as wholes."""
        return isinstance(other, Frame) and encode(self) == encode(other)

    __hash__ = None  # type: ignore[assignment]  # equal by content, which can be large


def encode(frame: Frame) -> bytes:
    """The frame as bytes; the module describes the layout."""
    # A lone surrogate cannot be sent as UTF-8; it becomes a question mark.
    text = frame.text.encode("utf-8", "replace")
    steps = frame.steps
    routed, layers, k = frame.experts_of.shape
    counted = (len(steps), len(frame.count), len(frame.change_index), len(frame.move), len(text))
    order = _halves(frame)
    length = HEAD.size + _length(*counted, routed, layers * k, len(PARTS)) + len(order)
    head = HEAD.pack(
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
        k,
        routed,
        len(frame.move),
        frame.moves_from,
        frame.call_tokens,
        frame.call_layers,
        len(PARTS),
        frame.first_token,
        frame.order_kind,
        len(frame.order),
        frame.pinned,
        frame.order_steps,
    )
    bits = np.packbits(frame.hits_of.reshape(routed, layers * k), axis=1, bitorder="little")
    return b"".join(
        [
            head,
            _TOTALS.pack(*frame.totals),
            *_wide_fields(steps),
            frame.count_index.astype("<u4", copy=False).tobytes(),
            frame.count.astype("<u4", copy=False).tobytes(),
            frame.change_index.astype("<u4", copy=False).tobytes(),
            frame.move_step.astype("<u4", copy=False).tobytes(),
            frame.move.astype("<u4", copy=False).tobytes(),
            frame.experts_of.astype("<u2", copy=False).tobytes(),
            order,
            steps["phase"].tobytes(),
            frame.change_state.tobytes(),
            bits.tobytes(),
            text,
        ]
    )


def _halves(frame: Frame) -> bytes:
    """The order, as halves of its numbers."""
    low = frame.order.astype("<u2").tobytes()
    wide = frame.layers * frame.experts > WIDE
    return low + (frame.order >> 16).astype("<u2").tobytes() if wide else low


def _wide_fields(steps: npt.NDArray[np.void]) -> list[bytes]:
    """All fields of the steps but the phase, one array after another."""
    if len(steps) == 1:  # the usual frame: the record has the order of the wire
        return [steps.tobytes()[: -STEP["phase"].itemsize]]
    return [steps[name].T.tobytes() for name in _WIDE]


def decode(data: bytes | bytearray | memoryview) -> Frame:
    """The frame in `data`, which must contain exactly one.

    Raises:
        FrameError: not a frame, another version, truncated, or values out of range.
    """
    data = bytes(data)
    head = read_head(data, _TOTALS.size)
    sizes = (head.steps, head.counts, head.changes, head.moves, head.text)
    width = head.layers * head.k
    expected = head.size + _length(*sizes, head.routed, width, head.parts) + 2 * head.halves
    if head.length != len(data) or head.length != expected:
        raise FrameError(
            f"a frame of {head.length} bytes arrived as {len(data)}: it is truncated or damaged"
        )
    frame = _read(data, head)
    chosen = frame.experts_of[frame.experts_of != NO_EXPERT]
    size = head.layers * head.experts
    numbers_of = (frame.count_index, frame.change_index, frame.move // 2, frame.order)
    for index, bound in (*((index, size) for index in numbers_of), (chosen, head.experts)):
        if len(index) and int(index.max()) >= bound:
            raise FrameError(
                f"a frame of {head.layers} x {head.experts} experts contains number {index.max()}"
            )
    return frame


def _read(data: bytes, head: Head) -> Frame:
    """Read a frame from bytes of checked length; arrays are read in the order of the wire."""
    take = _ArrayReader(data, head.size + _TOTALS.size)
    totals = Totals(*_TOTALS.unpack_from(data, head.size))
    if head.version == 2 and totals.decode_steps:
        head = head._replace(first_token=totals.steps - totals.decode_steps - 1)
    table = np.zeros(head.steps, STEP)
    for name in _WIDE:
        if name == "parts_ms":
            parts = take("<f4", head.parts * head.steps).reshape(head.parts, head.steps).T
            table[name] = parts_of_2(parts, table["token_ms"]) if head.version == 2 else parts
        else:
            table[name] = take(str(STEP[name]), head.steps)
    count_index, count = take("<u4", head.counts), take("<u4", head.counts)
    change_index = take("<u4", head.changes)
    move_step, move = take("<u4", head.moves), take("<u4", head.moves)
    shape, width = (head.routed, head.layers, head.k), head.layers * head.k
    experts_of = take("<u2", head.routed * width).reshape(shape)
    halves = take("<u2", head.halves).astype(np.uint32)
    order = halves[: head.ordered]
    if head.halves > head.ordered:
        order |= halves[head.ordered :] << 16
    table["phase"] = take("u1", head.steps)
    change_state = take("u1", head.changes)
    bits = take("u1", head.routed * _bit_bytes(width)).reshape(head.routed, _bit_bytes(width))
    hits_of = np.unpackbits(bits, axis=1, count=width, bitorder="little").astype(bool)
    same = ("run", "seq", "since", "first_step", "layers", "experts", "slots", "prompt_tokens")
    also = ("text_start", "moves_from", "call_tokens", "call_layers", "first_token")
    last = ("order_kind", "pinned", "order_steps")
    return Frame(
        **{name: getattr(head, name) for name in same + also + last},
        text=data[len(data) - head.text :].decode("utf-8", "replace"),
        steps=table,
        count_index=count_index,
        count=count,
        change_index=change_index,
        change_state=change_state,
        experts_of=experts_of,
        hits_of=hits_of.reshape(shape),
        move_step=move_step,
        move=move,
        order=order,
        totals=totals,
        snapshot=bool(head.flags & SNAPSHOT),
        final=bool(head.flags & FINAL),
    )


class _ArrayReader:
    """Reads arrays one after another from a frame's bytes, as writable copies."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data, self._at = data, at

    def __call__(self, dtype: str, n: int) -> npt.NDArray[Any]:
        out: npt.NDArray[Any] = np.frombuffer(self._data, dtype, n, self._at).copy()
        self._at += out.nbytes
        return out


def _bit_bytes(bits: int) -> int:
    return (bits + 7) // 8


def _length(*sizes: int) -> int:
    """Bytes of a frame after its head."""
    steps, counts, changes, moves, text, routed, width, parts = sizes
    fixed = _TOTALS.size + steps * (_STEP_NBYTES + 4 * parts)
    return (
        fixed
        + counts * 8
        + changes * 5
        + moves * 8
        + routed * (2 * width + _bit_bytes(width))
        + text
    )


def utf16_units(text: str) -> int:
    """The number of UTF-16 code units in `text`, the unit of offsets in a browser."""
    return len(text) if text.isascii() else len(text.encode("utf-16-le", "replace")) // 2
