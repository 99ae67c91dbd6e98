"""An atlas of one run's experts, or of several runs' together: which words the units are told by.

The places are `trace/atlas.py`'s; this knows runs, their names and the texts of their tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..errors import OptionError
from ..runs.run import Run
from ..runs.token_experts import named
from ..trace import Trace
from ..trace import atlas as placing
from ..trace.atlas import Atlas, token_class
from ..values import one_of

BY = ("runs", "tokens")
"""What may tell units apart: the run whose tokens fire them, or the class of token."""


def atlas(
    runs: Run | Trace | Sequence[Run | Trace] | Mapping[str, Run | Trace],
    by: str | None = None,
    phase: str | None = None,
) -> Atlas:
    """A map of (layer, expert) units over one run or more, those the same tokens choose near.

    Args:
        runs: runs or traces of one model, or their names and them.
        by: "runs" or "tokens": whose tokens, or what kind of token, fire a unit beyond chance. By
            default runs where there are several, else tokens where their texts are known.
        phase: "prefill" or "decode"; None for both.

    Raises:
        OptionError: no runs, of several models or too short; another word for `by`, or texts that
            are not known.
    """
    held = named(runs)
    by = None if by is None else one_of("by", by, BY)
    pieces = [run.read_pieces[: run.trace.steps] for run in held.values()]
    known = all(any(each) for each in pieces)
    if by == "tokens" and not known:
        raise OptionError("the texts of these tokens are not known: give runs, not bare traces")
    by = by or ("runs" if len(held) > 1 else "tokens" if known else None)
    labels = None
    if by == "runs":
        labels = [[name] * run.trace.steps for name, run in held.items()]
    elif by == "tokens":
        labels = [[token_class(piece) for piece in each] for each in pieces]
    found = placing.atlas([run.trace for run in held.values()], labels, phase)
    first = next(iter(held.values())).trace.info.model or "unnamed model"
    return replace(found, about=f"{first} · {', '.join(held)}")
