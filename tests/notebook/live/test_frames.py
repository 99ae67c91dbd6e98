"""The wire frame: decoding inverts encoding, and merged frames equal one frame."""

from __future__ import annotations

import json
import math
import runpy
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outlier_jupyter.notebook.live import merge_frames as merging
from outlier_jupyter.notebook.live.frames import (
    STEP,
    Frame,
    FrameError,
    Totals,
    decode,
    encode,
    utf16_units,
)
from outlier_jupyter.notebook.live.merge_frames import History, as_snapshot, merge
from outlier_jupyter.trace.time_parts import PARTS
from tests.inspection import frames_kept

GOLDEN = Path(__file__).parents[2] / "golden"
MAKE: dict[str, Any] = runpy.run_path(str(GOLDEN / "make.py"))
LAYERS, EXPERTS = 3, 5

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
U32 = st.integers(0, 2**32 - 1)
F32 = st.floats(width=32)


@st.composite
def step_tables(draw: st.DrawFn) -> np.ndarray[Any, Any]:
    """Up to four step records with any numbers, NaN and infinity included."""
    parts = st.tuples(*[F32] * len(PARTS))
    row = st.tuples(st.floats(), *[F32] * 4, parts, *[U32] * 4, st.integers(0, 1))
    return np.array(draw(st.lists(row, max_size=4)), STEP).reshape(-1)


def sparse(values: st.SearchStrategy[int]) -> st.SearchStrategy[dict[int, int]]:
    return st.dictionaries(st.integers(0, LAYERS * EXPERTS - 1), values)


@st.composite
def routings(draw: st.DrawFn, steps: int) -> dict[str, Any]:
    """The routing of the newest of `steps`, with a k for each frame, and some moves."""
    shape = (draw(st.integers(0, steps)), LAYERS, draw(st.integers(0, 3)))
    random = np.random.default_rng(draw(st.integers(0, 99)))
    moves = draw(st.lists(st.integers(0, 2 * LAYERS * EXPERTS - 1), max_size=4))
    return {
        "experts_of": random.integers(0, EXPERTS, shape).astype(np.uint16),
        "hits_of": random.integers(0, 2, shape).astype(bool),
        "move_step": np.arange(len(moves), dtype=np.uint32),
        "move": np.array(moves, np.uint32),
        "moves_from": draw(st.integers(0, 3)),
        "call_tokens": draw(st.integers(0, 3)),
        "call_layers": draw(st.integers(0, LAYERS)),
    }


@st.composite
def orders(draw: st.DrawFn) -> dict[str, Any]:
    """An eviction order of some experts, or none."""
    if not (kind := draw(st.integers(0, 3))):
        return {}
    keys = draw(st.lists(st.integers(0, LAYERS * EXPERTS - 1), unique=True))
    order = np.array(keys, np.uint32)
    return {"order_kind": kind, "order": order, "pinned": draw(U32), "order_steps": draw(U32)}


@st.composite
def chains(draw: st.DrawFn) -> list[Frame]:
    """Frames that follow each other from the first one on."""
    frames: list[Frame] = []
    steps, text_bytes = 0, 0
    for seq in range(1, draw(st.integers(1, 6)) + 1):
        table, text = draw(step_tables()), draw(TEXT)
        counts, changes = draw(sparse(st.integers(1, 9))), draw(sparse(st.integers(0, 1)))
        frames.append(
            Frame(
                run=4,
                seq=seq,
                since=seq - 1,
                first_step=steps,
                layers=LAYERS,
                experts=EXPERTS,
                slots=7,
                prompt_tokens=2,
                text=text,
                text_start=text_bytes,
                steps=table,
                count_index=np.array(sorted(counts), np.uint32),
                count=np.array([counts[i] for i in sorted(counts)], np.uint32),
                change_index=np.array(sorted(changes), np.uint32),
                change_state=np.array([changes[i] for i in sorted(changes)], np.uint8),
                **draw(routings(len(table))),
                totals=Totals(*draw(st.tuples(*[st.integers(0, 2**63)] * 11))),
                first_token=draw(U32),
                **draw(orders()),
                final=draw(st.booleans()),
            )
        )
        steps += len(table)
        text_bytes += utf16_units(text)
    return frames


@given(chains())
def test_decode_gives_back_what_encode_took(frames: list[Frame]) -> None:
    """Every field of a frame, down to the bits of its NaNs, survives the wire."""
    for frame in frames:
        again = decode(encode(frame))
        assert again == frame
        assert (again.text, again.totals, again.final) == (frame.text, frame.totals, frame.final)
        np.testing.assert_array_equal(again.steps["token_ms"], frame.steps["token_ms"])
        np.testing.assert_array_equal(again.steps["parts_ms"], frame.steps["parts_ms"])
        assert again.first_token == frame.first_token
        np.testing.assert_array_equal(again.count, frame.count)
        np.testing.assert_array_equal(again.change_state, frame.change_state)
        np.testing.assert_array_equal(again.experts_of, frame.experts_of)
        np.testing.assert_array_equal(again.hits_of, frame.hits_of)
        np.testing.assert_array_equal(again.move, frame.move)
        np.testing.assert_array_equal(again.order, frame.order)


@given(chains(), st.data())
def test_merging_is_associative(frames: list[Frame], data: st.DataObject) -> None:
    """Wherever a chain is cut in two, merging its halves equals merging all of it."""
    cut = data.draw(st.integers(0, len(frames) - 1))
    halves = [merge(*part) for part in (frames[:cut], frames[cut:]) if part]
    assert merge(*halves) == merge(*frames)


@given(chains())
def test_the_merge_of_all_frames_is_the_whole_state(frames: list[Frame]) -> None:
    """Counts add up, the last change of an expert wins, text and steps come one after another."""
    counts = np.zeros(LAYERS * EXPERTS, np.int64)
    resident = np.zeros(LAYERS * EXPERTS, np.uint8)
    for frame in frames:
        counts[frame.count_index] += frame.count
        resident[frame.change_index] = frame.change_state
    whole = as_snapshot(merge(*frames))
    np.testing.assert_array_equal(whole.count_index, np.flatnonzero(counts))
    np.testing.assert_array_equal(whole.count, counts[counts > 0])
    np.testing.assert_array_equal(whole.change_index, np.flatnonzero(resident))
    assert whole.text == "".join(frame.text for frame in frames)
    assert len(whole.steps) == sum(len(frame.steps) for frame in frames)
    assert (whole.snapshot, whole.seq, whole.totals) == (True, len(frames), frames[-1].totals)


@given(chains())
def test_a_history_folds_to_the_same_snapshot(frames: list[Frame]) -> None:
    """Folding at every frame gives the same as one fold at the end."""
    often, once = History(), History()
    for frame in frames:
        often.add(frame)
        often.snapshot()
        once.add(frame)
    assert often.snapshot() == once.snapshot() == as_snapshot(merge(*frames))


def test_a_history_stays_small_and_starts_anew_with_a_run() -> None:
    """It folds by itself, and a frame of another run replaces all of the old one."""
    history = History()
    assert history.snapshot() is None
    for frame in _many(3 * History.FOLD_AFTER):
        history.add(frame)
    assert frames_kept(history) <= History.FOLD_AFTER + 1
    other = decode(encode(MAKE["cases"]()["first"]))
    history.add(other)
    assert history.snapshot() == as_snapshot(other)


def test_a_snapshot_keeps_the_newest_steps_and_whole_characters() -> None:
    """Beyond its bounds it drops the oldest steps and text, and counts them."""
    frame = MAKE["cases"]()["snapshot"]
    small = as_snapshot(frame, keep_steps=2, keep_text_bytes=10)
    assert (small.first_step, len(small.steps)) == (2, 2)
    assert small.text == "</b> 🌍"  # ten bytes would begin inside 界
    assert small.text_start == utf16_units(frame.text) - utf16_units(small.text) == 12
    np.testing.assert_array_equal(small.count, frame.count)
    assert len(small.experts_of) == 2


def test_a_snapshot_bounds_routing_and_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest routing and moves stay, with the step from which the moves are complete."""
    frame = MAKE["cases"]()["snapshot"]
    monkeypatch.setattr(merging, "KEPT_ROUTING_BYTES", 2 * 2 * 4 * 2)
    monkeypatch.setattr(merging, "KEPT_MOVES", 3)
    small = as_snapshot(frame)
    np.testing.assert_array_equal(small.experts_of, frame.experts_of[-2:])
    np.testing.assert_array_equal(small.hits_of, frame.hits_of[-2:])
    assert small.move.tolist() == frame.move.tolist()[-3:]
    assert (frame.moves_from, small.moves_from) == (1, 3)
    assert decode(encode(small)) == small


def test_routing_ends_at_its_first_gap() -> None:
    """When a frame's routing lacks its oldest steps, that of the frames before it is dropped."""
    first, second = (MAKE["cases"]()[name] for name in ("first", "second"))
    assert len(first.experts_of) < len(first.steps)
    whole = merge(first, second)
    assert whole.experts_of.shape == (3, 2, 4)
    assert (whole.experts_of[:2, :, 3] == 0xFFFF).all()
    none = Frame(
        **{**vars(second), "experts_of": second.experts_of[1:]} | {"hits_of": second.hits_of[1:]}
    )
    assert len(merge(first, none).experts_of) == 0


@given(chains())
def test_a_merge_has_the_newest_order(frames: list[Frame]) -> None:
    """An order that a later frame repeats or replaces is dropped, one that it does not stays."""
    whole = as_snapshot(merge(*frames))
    newest = next((frame for frame in reversed(frames) if frame.order_kind), frames[-1])
    for name in ("order_kind", "pinned", "order_steps"):
        assert getattr(whole, name) == getattr(newest, name)
    np.testing.assert_array_equal(whole.order, newest.order)


def test_a_snapshot_supersedes_what_came_before() -> None:
    """A snapshot may follow anything, and the merge is then the snapshot with what follows it."""
    cases = MAKE["cases"]()
    assert merge(cases["empty"], cases["snapshot"]) == cases["snapshot"]


@pytest.mark.parametrize("name", ["empty", "first", "second", "snapshot", "wide"])
def test_golden_frames_stay_as_they_are(name: str) -> None:
    """The bytes on disk decode to what their JSON says, and encode to the same bytes again."""
    data = (GOLDEN / f"{name}.bin").read_bytes()
    frame = decode(data)
    described = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
    assert json.loads(json.dumps(MAKE["described"](frame))) == described
    assert encode(frame) == data == encode(MAKE["cases"]()[name])


SINCE_4 = ("order_kind", "order", "pinned", "order_steps")


@pytest.mark.parametrize("name", ["first-of-3", "snapshot-of-3"])
def test_frames_of_version_3_are_read(name: str) -> None:
    """They lack an eviction order, and nothing else."""
    frame = decode((GOLDEN / f"{name}.bin").read_bytes())
    found = json.loads(json.dumps(MAKE["described"](frame)))
    assert [found.pop(part) for part in SINCE_4] == [0, [], 0, 0]
    assert found == json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
    assert decode(encode(frame)) == frame


@pytest.mark.parametrize("name", ["first-of-2", "snapshot-of-2"])
def test_frames_of_the_version_before_are_read(name: str) -> None:
    """All of their fields are there; their five parts never exceed the token's time."""
    frame = decode((GOLDEN / f"{name}.bin").read_bytes())
    told = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
    found = json.loads(json.dumps(MAKE["described"](frame)))
    parts = {"route": "route_ms", "lookup": "lookup_ms", "read_wait": "wait_ms",
             "install": "install_ms", "sample": "sample_ms"}  # fmt: skip
    by_name = dict(zip(PARTS, found["steps"].pop("parts_ms"), strict=True))
    for part, before in parts.items():
        assert by_name[part][0] == told["steps"].pop(before)[0]
    assert by_name["other"][:3] == [0.5625, 0.5625, 0.53125]
    assert by_name["dense"] == [None] * len(frame.steps)
    assert found["steps"] == told.pop("steps")
    assert [found.pop(name) for name in SINCE_4] == [0, [], 0, 0]
    first_token = found.pop("first_token")
    assert first_token == (2 if told["totals"]["decode_steps"] else 0xFFFFFFFF)
    del found["steps"]
    assert found == told
    assert decode(encode(frame)) == frame


def test_wrong_bytes_are_refused_with_a_reason() -> None:
    """Another magic, another version, missing or extra bytes and wild numbers are FrameErrors."""
    good = (GOLDEN / "first.bin").read_bytes()
    with pytest.raises(FrameError, match="not a frame"):
        decode(b"")
    with pytest.raises(FrameError, match="not a frame"):
        decode(b"JSON" + good[4:])
    with pytest.raises(FrameError, match="version 5, expected 4"):
        decode(good[:4] + struct.pack("<H", 5) + good[6:])
    with pytest.raises(FrameError, match="time into 12 parts, expected 11"):
        decode(good[:88] + struct.pack("<I", 12) + good[92:])
    with pytest.raises(FrameError, match="truncated"):
        decode(good[:-1])
    with pytest.raises(FrameError, match="truncated"):
        decode(good + b"\0")
    with pytest.raises(FrameError, match="contains number 9"):
        decode(good[:36] + struct.pack("<I", 4) + good[40:])  # 4 experts a layer in place of 5


def test_frames_that_do_not_follow_are_not_merged() -> None:
    """A gap, another run, or nothing at all cannot be merged."""
    cases = MAKE["cases"]()
    with pytest.raises(FrameError, match="nothing to merge"):
        merge()
    with pytest.raises(FrameError, match="does not follow"):
        merge(cases["second"], cases["first"])
    with pytest.raises(FrameError, match="does not follow"):
        merge(cases["empty"], cases["second"])
    with pytest.raises(FrameError, match="not the whole state"):
        as_snapshot(cases["second"])


def test_a_lone_surrogate_does_not_stop_a_frame() -> None:
    """Text that UTF-8 cannot encode is sent with a question mark in its place."""
    frame = _many(1)[0]
    again = decode(encode(Frame(**{**vars(frame), "text": "a\ud800b"})))
    assert again.text == "a?b"


def test_arrays_are_aligned_for_a_browser() -> None:
    """Each array begins at a multiple of its item's size, whatever the lengths."""
    for frame in MAKE["cases"]().values():
        steps, (routed, layers, k) = len(frame.steps), frame.experts_of.shape
        floats = 200 + 8 * steps
        assert floats % 4 == 0 and 200 % 8 == 0
        words = floats + 4 * (8 + len(PARTS)) * steps
        assert words % 4 == 0
        tail = 8 * len(frame.count) + 5 * len(frame.change_index) + 8 * len(frame.move) + steps
        routing = routed * (2 * layers * k + (layers * k + 7) // 8)
        order = len(frame.order) * (4 if frame.layers * frame.experts > 65_536 else 2)
        assert len(encode(frame)) == words + tail + routing + order + len(frame.text.encode())


def _many(n: int) -> list[Frame]:
    """`n` frames of one step each."""
    steps = np.zeros(1, STEP)
    steps["read_p50_ms"] = math.nan
    one = np.array([1], np.uint32)
    return [
        Frame(
            **{"run": 1, "seq": i + 1, "since": i, "first_step": i, "layers": 1, "experts": 3},
            **{"slots": 2, "prompt_tokens": 1, "text": "x", "text_start": i},
            steps=steps,
            count_index=one,
            count=one,
            change_index=one,
            change_state=np.array([i % 2], np.uint8),
            experts_of=np.array([[[i % 3]]], np.uint16),
            hits_of=np.array([[[i % 2]]], bool),
            move_step=np.array([i], np.uint32),
            move=np.array([2 + i % 2], np.uint32),
            totals=Totals(steps=i + 1),
        )
        for i in range(n)
    ]
