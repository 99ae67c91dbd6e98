"""Validates the JSON metadata of a trace's file: its model and the texts of its run.

Texts stay as they are, except lone surrogates, which no page or file can encode.
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
    """The saved `TraceInfo`, with lists as tuples; `check_info` validates its values.

    Raises:
        ValueError: not a JSON object of the right form.
    """
    _check(isinstance(saved, dict), "`info` is not an object")
    options = saved.get("options", {})
    _check(isinstance(options, dict), "`options` is not an object")
    versions = saved.get("versions", {})
    _check(
        isinstance(versions, dict) and all(isinstance(v, str) for v in versions.values()),
        "`versions` has a value that is not text",
    )
    names = {field.name for field in fields(TraceInfo)}
    known = {name: _tupled(mended(value)) for name, value in saved.items() if name in names}
    options = {name: _tupled(value) for name, value in mended(options).items()}
    return TraceInfo(**known | {"options": options})


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def foreign_info(experts: npt.NDArray[Any], about: Mapping[str, str]) -> TraceInfo:
    """The `TraceInfo` from another program's metadata.

    Raises:
        ValueError: a value that is not a number, or out of range.
    """
    _, layers, k = experts.shape
    _check(experts.dtype.kind in "iu", f"`experts` is {experts.dtype}: integers expected")
    # Without `num_experts`, the largest id gives the number.
    seen = max(int(experts.max(initial=0)) + 1, k, 1)
    width = _number(about, "num_experts", seen)
    top_k = _number(about, "top_k", 0)
    _check(top_k is None or top_k <= width, f"`top_k` is {top_k} of {width} experts")
    return TraceInfo(
        model=mended(about.get("model", "")),
        layer_names=tuple(f"layer {layer}" for layer in range(layers)),
        experts_per_layer=(width,) * layers,
        native_top_k=top_k or None,
        reader_note=mended(f"recorded elsewhere: {about['source']}") if "source" in about else "",
    )


def _number(about: Mapping[str, str], name: str, missing: int) -> int:
    if name not in about:
        _check(missing <= MOST_EXPERTS_OF_A_LAYER, f"`experts` has {missing - 1}, no expert's id")
        return missing
    text = about[name].strip()
    valid = text.isdecimal() and len(text) <= 9 and 1 <= int(text) <= MOST_EXPERTS_OF_A_LAYER
    _check(valid, f"`{name}` is {text[:20]!r}: 1 to {MOST_EXPERTS_OF_A_LAYER:,} expected")
    return int(text)


TEXTS = ("prompt", "encoded", "text", "finish_reason")


def run_of(saved: Any) -> dict[str, Any] | None:
    """The saved texts and tokens of a run; None if there are none.

    Raises:
        ValueError: a value that is missing, of another type, or out of range.
    """
    if saved is None:
        return None
    _check(isinstance(saved, dict), "`run` is not an object")
    for name in TEXTS:
        _check(isinstance(saved.get(name), str), f"`run` has no text `{name}`")
    for name in ("tokens", "text_ends"):
        values = saved.get(name)
        valid = isinstance(values, list) and all(type(n) is int and 0 <= n < 2**31 for n in values)
        _check(valid, f"`{name}` of `run` is not a list of integers")
    _check(len(saved["text_ends"]) <= len(saved["tokens"]), "`text_ends` is longer than `tokens`")
    _check(saved["text_ends"] == sorted(saved["text_ends"]), "`text_ends` is not ascending")
    _check_spans(saved)
    _check_branch(saved)
    for name in ("pieces", "parts"):
        texts = saved.get(name, {})
        _check(isinstance(texts, dict), f"`{name}` is not an object")
        for token, text in texts.items():
            valid = token.isdecimal() and len(token) <= 10 and isinstance(text, str)
            _check(valid, f"`{name}` has an entry that is not a token and its text")
    valid = all(HEX.fullmatch(text) for text in saved.get("parts", {}).values())
    _check(valid, "`parts` has a text that is not bytes in hex")
    return dict(mended(saved))


def _check_branch(saved: dict[str, Any]) -> None:
    """Raises ValueError: what a run began with, or where it left another, is not valid."""
    _check(isinstance(saved.get("prefilled", ""), str), "`prefilled` is not a text")
    reused = saved.get("reused") or []
    valid = isinstance(reused, list) and all(type(n) is int and 0 <= n < 2**31 for n in reused)
    _check(valid, "`reused` of `run` is not a list of integers")
    if (branch := saved.get("branched")) is not None:
        valid = isinstance(branch, dict) and branch.keys() == {"token", "chosen", "text"}
        _check(valid, "`branched` is not a token, its id and its text")
        numbers = branch["token"], branch["chosen"]
        valid = all(type(n) is int and 0 <= n < 2**31 for n in numbers)
        _check(valid and isinstance(branch["text"], str), "`branched` has a value of another type")


def _check_spans(saved: dict[str, Any]) -> None:
    """Raises ValueError: the segments' texts are not ascending. They may end after the text, which
    is shorter where half of a character was replaced.
    """
    spans, at = saved.get("spans", []), 0
    _check(isinstance(spans, list), "`spans` is not a list")
    for span in spans:
        valid = isinstance(span, list) and len(span) == 3 and all(type(n) is int for n in span)
        _check(valid, "`spans` has an entry that is not a kind, a begin and an end")
        kind, begin, end = span
        _check(0 <= kind <= 255 and at <= begin <= end, "`spans` is not ascending")
        at = end


def mended(value: Any) -> Any:
    """A JSON value with the lone surrogates in its texts replaced (U+FFFD)."""
    if isinstance(value, str):
        if value.isascii():
            return value
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, list):
        return [mended(each) for each in value]
    if isinstance(value, dict):
        return {mended(name): mended(each) for name, each in value.items()}
    return value


def _check(valid: bool, fault: str) -> None:
    if not valid:
        raise ValueError(fault)
