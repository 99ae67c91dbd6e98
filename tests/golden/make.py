"""Writes the golden frames that the Python and the TypeScript tests both read.

Run it (`python tests/golden/make.py`) only when the wire format changes on purpose, together with
its version number. Each case is a .bin file and a .json file that says what is in it; NaN is null.
"""

from __future__ import annotations

import json
import math
import pathlib
from typing import Any

import numpy as np

from outlier_jupyter.notebook.frames import STEP, Frame, Totals, as_snapshot, encode, merge

PLAIN = (
    *("run", "seq", "since", "first_step", "layers", "experts", "slots", "prompt_tokens"),
    *("text", "text_start", "snapshot", "final"),
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
        totals=Totals(),
    )
    return {
        "empty": empty,
        "first": _first(),
        "second": _second(),
        "snapshot": as_snapshot(merge(_first(), _second())),
    }


def _first() -> Frame:
    steps = np.zeros(3, STEP)
    steps["nbytes"] = [9_000_000_000, 0, 0]  # more than 32 bits hold
    steps["token_ms"] = 1.5
    steps["read_p50_ms"] = [0.25, math.nan, math.nan]
    steps["read_p95_ms"] = [0.5, math.nan, math.nan]
    steps["read_max_ms"] = [4.0, math.nan, math.nan]
    steps["hits"] = [0, 1, 4]
    steps["misses"] = [4, 3, 0]
    steps["reads"] = [7, 0, 0]
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
        totals=Totals(3, 12, 5, 7, 9_000_000_000, 0, 4_500_000, 0, 0, 0, 0),
    )


def _second() -> Frame:
    steps = np.zeros(1, STEP)
    steps["token_ms"] = math.nan
    steps["read_p50_ms"] = steps["read_p95_ms"] = steps["read_max_ms"] = math.nan
    steps["hits"] = 4
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
        text_start=9,
        steps=steps,
        count_index=np.array([4, 6], np.uint32),
        count=np.array([1, 1], np.uint32),
        change_index=np.array([4, 6], np.uint32),
        change_state=np.array([0, 1], np.uint8),
        totals=Totals(4, 16, 9, 7, 9_000_000_000, 1, 2**53 - 1, 1, 4, 4, 3_000_000),
        final=True,
    )


def described(frame: Frame) -> dict[str, Any]:
    """What the JSON file says: numbers, text, and every array as a list."""
    plain = {name: getattr(frame, name) for name in PLAIN}
    arrays = {
        name: getattr(frame, name).tolist()
        for name in ("count_index", "count", "change_index", "change_state")
    }
    steps = {
        name: [None if value != value else value for value in frame.steps[name].tolist()]
        for name in STEP.names or ()
    }
    return {**plain, **arrays, "steps": steps, "totals": frame.totals._asdict()}


def main() -> None:
    for name, frame in cases().items():
        (HERE / f"{name}.bin").write_bytes(encode(frame))
        text = json.dumps(described(frame), indent=1, ensure_ascii=False, sort_keys=True)
        (HERE / f"{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
