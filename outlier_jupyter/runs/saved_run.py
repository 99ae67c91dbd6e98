"""What a file keeps of a run besides its trace: texts, tokens and the bytes of each token."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from .origin import Branch
from .text_stream import readable
from .token_table import TokenIds

if TYPE_CHECKING:
    from .run import Run

TEXTS = ("prompt", "encoded", "text", "finish_reason", "prefilled")
ARRAYS = ("tokens", "text_ends")
"""Texts and arrays of a run, by the names of its fields; older files lack `prefilled`."""


def saved_form(run: Run, bytes_of: Callable[[int], bytes]) -> dict[str, Any]:
    """The run as JSON; `bytes_of` is a token's bytes by its id."""
    texts = {name: getattr(run, name) for name in TEXTS}
    arrays: dict[str, Any] = {name: getattr(run, name).tolist() for name in ARRAYS}
    arrays["spans"] = [list(span) for span in run.spans]
    arrays["reused"] = None if run.reused is None else run.reused.tolist()
    arrays["branched"] = None if run.branched is None else asdict(run.branched)
    others = run.trace.alternatives[run.trace.alternatives >= 0]
    ids = {*run.trace.tokens.tolist(), *run.tokens.tolist(), *others.tolist()}
    known = {str(token): bytes_of(token) for token in sorted(ids)}
    pieces = {token: readable(each) for token, each in known.items() if each}
    parts = {t: b.hex() for t, b in known.items() if b != pieces.get(t, "").encode()}
    return texts | arrays | {"pieces": pieces, "parts": parts}


def fields_of(saved: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `Run`, all but its trace, from what `saved_form` made."""
    texts = {name: str(saved.get(name, "")) for name in TEXTS}
    tokens = np.array(saved["tokens"], np.int32).view(TokenIds)
    ends = np.array(saved["text_ends"], np.int32)
    spans = tuple((kind, begin, end) for kind, begin, end in saved.get("spans", []))
    known = _token_bytes(saved.get("pieces", {}), saved.get("parts", {}))
    reused, branched = saved.get("reused"), saved.get("branched")
    return texts | {
        "tokens": tokens,
        "text_ends": ends,
        "spans": spans,
        "branched": Branch(**branched) if branched else None,
        "reused": None if reused is None else np.array(reused, np.int32),
        "_token_bytes": known,
    }


def _token_bytes(pieces: dict[str, str], parts: dict[str, str]) -> dict[int, bytes]:
    """Each id's bytes from a saved run: `pieces` as text, `parts` in hex."""
    known = {int(token): text.encode() for token, text in pieces.items()}
    return known | {int(token): bytes.fromhex(each) for token, each in parts.items()}
