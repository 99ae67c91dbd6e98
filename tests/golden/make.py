"""Writes the golden frames that the Python and the TypeScript tests both read.

Run it (`python tests/golden/make.py`) only when the wire format changes on purpose, together with
its version number. Files named `…-of-2` and `…-of-3` are of those versions and stay as they are. A
case is a .bin file and a .json file that says what is in it; NaN is null.
"""

from __future__ import annotations

import json
import math
import pathlib
from dataclasses import replace
from typing import Any

import numpy as np

from outlier_jupyter.notebook.live.frame_head import EXACT
from outlier_jupyter.notebook.live.frames import NO_EXPERT, STEP, Frame, Totals, encode
from outlier_jupyter.notebook.live.merge_frames import as_snapshot, merge

PLAIN = (
    *("run", "seq", "since", "first_step", "layers", "experts", "slots", "prompt_tokens"),
    *("text", "text_start", "snapshot", "final", "moves_from", "call_tokens", "call_layers"),
    *("first_token", "order_kind", "pinned", "order_steps"),
)
ARRAYS = (
    *("count_index", "count", "change_index", "change_state"),
    *("experts_of", "hits_of", "move_step", "move", "order"),
)
HERE = pathlib.Path(__file__).parent


def cases() -> dict[str, Frame]:
    """The frames, by name."""
    nothing = np.zeros(0, np.uint32)
    empty = Frame(
        run=1,
        seq=1,
        since=0,
        first_step=0,
        layers=0,
        experts=0,
        slots=0,
        prompt_tokens=0,
        text="",
        text_start=0,
        steps=np.zeros(0, STEP),
        count_index=nothing,
        count=nothing,
        change_index=nothing,
        change_state=np.zeros(0, np.uint8),
        experts_of=np.zeros((0, 0, 0), np.uint16),
        hits_of=np.zeros((0, 0, 0), bool),
        move_step=nothing,
        move=nothing,
        totals=Totals(),
    )
    return {
        "empty": empty,
        "first": _first(),
        "second": _second(),
        "snapshot": as_snapshot(merge(_first(), _second())),
        "wide": replace(
            empty, layers=70, experts=1000, order_kind=EXACT, order=np.array([69_999, 3], "u4")
        ),
    }


def _first() -> Frame:
    steps = np.zeros(3, STEP)
    steps["nbytes"] = [9_000_000_000, 0, 0]  # more than 32 bits can store
    steps["token_ms"] = 1.5
    steps["read_p50_ms"] = [0.25, math.nan, math.nan]
    steps["read_p95_ms"] = [0.5, math.nan, math.nan]
    steps["read_max_ms"] = [4.0, math.nan, math.nan]
    steps["hits"] = [0, 1, 4]
    steps["misses"] = [4, 3, 0]
    steps["reads"] = [7, 0, 0]
    steps["text_end"] = [0, 0, 7]
    # Two parts are unknown; the others add up to the token's time.
    steps["parts_ms"] = [
        *[0.5, 0.25, math.nan, math.nan],
        *[0.125, 0.0625, 0.25, 0.0625],
        0,
        0,
        0.25,
    ]
    steps["parts_ms"][2, 8:] = [0.03125, 0, 0.21875]
    return Frame(
        run=7,
        seq=1,
        since=0,
        first_step=0,
        layers=2,
        experts=5,
        slots=6,
        prompt_tokens=3,
        text="Grüße, ",
        text_start=0,
        steps=steps,
        count_index=np.array([0, 4, 9], np.uint32),
        count=np.array([3, 2, 70_000], np.uint32),
        change_index=np.array([0, 4, 5, 9], np.uint32),
        change_state=np.array([1, 1, 1, 1], np.uint8),
        # The second layer chooses fewer than the first; the first step's routing is dropped.
        experts_of=np.array([[[0, 1, 4], [2, 3, NO_EXPERT]], [[4, 1, 0], [0, 4, NO_EXPERT]]], "u2"),
        hits_of=np.array([[[0, 1, 0], [0, 0, 0]], [[1, 1, 1], [1, 0, 0]]], bool),
        move_step=np.array([2, 2], np.uint32),
        move=np.array([2 * 5 + 1, 2 * 9 + 1], np.uint32),
        moves_from=1,
        call_tokens=1,
        call_layers=1,
        first_token=2,
        order_kind=EXACT,
        order=np.array([9, 0, 5, 4], np.uint32),
        pinned=1,
        order_steps=3,
        totals=Totals(3, 12, 5, 7, 9_000_000_000, 0, 4_500_000, 0, 0, 0, 0),
    )


def _second() -> Frame:
    steps = np.zeros(1, STEP)
    steps["token_ms"] = math.nan
    steps["parts_ms"] = math.nan
    steps["read_p50_ms"] = steps["read_p95_ms"] = steps["read_max_ms"] = math.nan
    steps["hits"] = 4
    steps["text_end"] = 7 + 12  # the globe is two code units
    steps["phase"] = 1
    return Frame(
        run=7,
        seq=2,
        since=1,
        first_step=3,
        layers=2,
        experts=5,
        slots=6,
        prompt_tokens=3,
        text="<b>世界</b> 🌍",
        text_start=7,
        steps=steps,
        count_index=np.array([4, 6], np.uint32),
        count=np.array([1, 1], np.uint32),
        change_index=np.array([4, 6], np.uint32),
        change_state=np.array([0, 1], np.uint8),
        experts_of=np.array([[[0, 1, 2, 3], [4, 3, 2, 1]]], np.uint16),
        hits_of=np.array([[[1, 0, 1, 0], [1, 1, 0, 0]]], bool),
        move_step=np.array([3, 3], np.uint32),
        move=np.array([2 * 4, 2 * 6 + 1], np.uint32),
        totals=Totals(4, 16, 9, 7, 9_000_000_000, 1, 2**53 - 1, 1, 4, 4, 3_000_000),
        first_token=2,
        final=True,
    )


def described(frame: Frame) -> dict[str, Any]:
    """The JSON file's contents: numbers, text, and every array as a list."""
    plain = {name: getattr(frame, name) for name in PLAIN}
    arrays = {name: getattr(frame, name).tolist() for name in ARRAYS}
    steps = {name: _no_nan(frame.steps[name].T.tolist()) for name in STEP.names or ()}
    return {**plain, **arrays, "steps": steps, "totals": frame.totals._asdict()}


def _no_nan(values: list[Any]) -> list[Any]:
    """The parts of a token's time are columns, too: a list for each."""
    return [
        _no_nan(value) if isinstance(value, list) else None if value != value else value
        for value in values
    ]


def main() -> None:
    for name, frame in cases().items():
        (HERE / f"{name}.bin").write_bytes(encode(frame))
        text = json.dumps(described(frame), indent=1, ensure_ascii=False, sort_keys=True)
        (HERE / f"{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
