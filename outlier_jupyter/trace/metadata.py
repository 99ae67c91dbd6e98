"""What a trace's file says in words beside its arrays: of its model and its run, checked.

Words are what they were, but for halves of characters, which no page or file can hold.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy.typing as npt

from .schema import TraceInfo

HEX = re.compile("([0-9a-f]{2})*")

MOST_EXPERTS_OF_A_LAYER = 2**15 - 1
"""Ids are 16-bit numbers."""


def info_of(saved: Any) -> TraceInfo:
    """What was saved of a `TraceInfo`, lists as the tuples they were; `check_info` judges it.

    Raises:
        ValueError: it is no record.
    """
    _want(isinstance(saved, dict), "`info` is no record")
    options = saved.get("options", {})
    _want(isinstance(options, dict), "`options` is no record")
    versions = saved.get("versions", {})
    _want(
        isinstance(versions, dict) and all(isinstance(v, str) for v in versions.values()),
        "`versions` holds something that is no text",
    )
    names = {field.name for field in fields(TraceInfo)}
    known = {name: _tupled(mended(value)) for name, value in saved.items() if name in names}
    told = {name: _tupled(value) for name, value in mended(options).items()}
    return TraceInfo(**known | {"options": told})


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def foreign_info(experts: npt.NDArray[Any], about: Mapping[str, str]) -> TraceInfo:
    """What another program's metadata says of its model.

    Raises:
        ValueError: a number that is none, or cannot be.
    """
    _, layers, k = experts.shape
    _want(experts.dtype.kind in "iu", f"`experts` is {experts.dtype}: whole numbers were wanted")
    # Where nobody says how many there are, those are counted that were seen.
    seen = max(int(experts.max(initial=0)) + 1, k, 1)
    width = _number(about, "num_experts", seen)
    top_k = _number(about, "top_k", 0)
    _want(top_k is None or top_k <= width, f"`top_k` is {top_k} of {width} experts")
    return TraceInfo(
        model=mended(about.get("model", "")),
        layer_names=tuple(f"layer {layer}" for layer in range(layers)),
        experts_per_layer=(width,) * layers,
        native_top_k=top_k or None,
        reader_note=mended(f"recorded elsewhere: {about['source']}") if "source" in about else "",
    )


def _number(about: Mapping[str, str], name: str, missing: int) -> int:
    if name not in about:
        _want(missing <= MOST_EXPERTS_OF_A_LAYER, f"`experts` holds {missing - 1}, no expert's id")
        return missing
    words = about[name].strip()
    right = words.isdecimal() and len(words) <= 9 and 1 <= int(words) <= MOST_EXPERTS_OF_A_LAYER
    _want(right, f"`{name}` is {words[:20]!r}, and 1 to {MOST_EXPERTS_OF_A_LAYER:,} was wanted")
    return int(words)


TEXTS = ("prompt", "encoded", "text", "finish_reason")


def run_of(saved: Any) -> dict[str, Any] | None:
    """What was kept of a run beside its trace; None where nothing was.

    Raises:
        ValueError: something is missing, of another type, or no number that can be.
    """
    if saved is None:
        return None
    _want(isinstance(saved, dict), "`run` is no record")
    for name in TEXTS:
        _want(isinstance(saved.get(name), str), f"`run` has no text `{name}`")
    for name in ("tokens", "text_ends"):
        values = saved.get(name)
        right = isinstance(values, list) and all(type(n) is int and 0 <= n < 2**31 for n in values)
        _want(right, f"`{name}` of `run` is no list of whole numbers")
    _want(len(saved["text_ends"]) <= len(saved["tokens"]), "`text_ends` is longer than `tokens`")
    _want(saved["text_ends"] == sorted(saved["text_ends"]), "`text_ends` goes backwards")
    pieces = saved.get("pieces", {})
    _want(isinstance(pieces, dict), "`pieces` is no record")
    for token, text in pieces.items():
        right = token.isdecimal() and len(token) <= 10 and isinstance(text, str)
        _want(right, "`pieces` holds something else than texts of tokens")
    parts = saved.get("parts", {})
    _want(isinstance(parts, dict), "`parts` is no record")
    for token, each in parts.items():
        right = token.isdecimal() and len(token) <= 10 and isinstance(each, str)
        _want(right and bool(HEX.fullmatch(each)), "`parts` holds something else than bytes in hex")
    return dict(mended(saved))


def mended(value: Any) -> Any:
    """A value from JSON with the halves of characters in its texts replaced (U+FFFD)."""
    if isinstance(value, str):
        if value.isascii():
            return value
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, list):
        return [mended(each) for each in value]
    if isinstance(value, dict):
        return {mended(name): mended(each) for name, each in value.items()}
    return value


def _want(right: bool, seen: str) -> None:
    if not right:
        raise ValueError(seen)
