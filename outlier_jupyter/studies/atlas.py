"""An atlas of the experts of one or several runs, with runs or token classes as labels.

`trace/atlas.py` computes the map; this module knows runs, their names and their tokens' texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..errors import OptionError
from ..runs.run import Run
from ..runs.token_experts import named
from ..trace import Trace
from ..trace import atlas as mapping
from ..trace.atlas import Atlas, token_class
from ..trace.segments import kinds_read, name_of
from ..values import one_of

BY = ("runs", "tokens", "segments")
"""The labels of units: the run, or the class, of the tokens that choose them."""


def atlas(
    runs: Run | Trace | Sequence[Run | Trace] | Mapping[str, Run | Trace],
    by: str | None = None,
    phase: str | None = None,
) -> Atlas:
    """A map of (layer, expert) units: units chosen by the same tokens are near each other.

    Args:
        runs: runs or traces of one model, or their names and them.
        by: "runs", "tokens" or "segments": label a unit by the run, the class, or the kind (as
            thinking) of the tokens that choose it beyond chance. By default runs if there are
            several, else tokens if their texts are known.
        phase: "prefill", "decode", or a kind of token such as "thinking"; None for all.

    Raises:
        OptionError: no runs, runs of several models or too short; an unknown `by`, or unknown
            texts.
    """
    by_name = named(runs)
    by = None if by is None else one_of("by", by, BY)
    pieces = [run.read_pieces[: run.trace.steps] for run in by_name.values()]
    known = all(any(each) for each in pieces)
    if by == "tokens" and not known:
        raise OptionError("the texts of these tokens are unknown: give runs, not bare traces")
    by = by or ("runs" if len(by_name) > 1 else "tokens" if known else None)
    labels = None
    if by == "runs":
        labels = [[name] * run.trace.steps for name, run in by_name.items()]
    elif by == "tokens":
        labels = [[token_class(piece) for piece in each] for each in pieces]
    elif by == "segments":
        if not all(len(run.trace.kinds) for run in by_name.values()):
            raise OptionError("the segments of these runs were not recorded: run them again")
        labels = [
            [name_of(kind) for kind in kinds_read(run.trace).tolist()] for run in by_name.values()
        ]
    found = mapping.atlas([run.trace for run in by_name.values()], labels, phase)
    first = next(iter(by_name.values())).trace.info.model or "unnamed model"
    return replace(found, about=f"{first} · {', '.join(by_name)}")
