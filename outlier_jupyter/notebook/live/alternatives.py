"""What the model found likely in the place of each token, for a page that shows it as bars.

A page sends `{"type": "ask", "about": {"alternatives": 12}}` for a step and gets those around it,
too: one message for many tokens that a pointer passes over.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from ...runs.run import Run

BLOCK = 64
"""The steps of an answer."""


def alternatives_around(run: Run | None, step: int) -> dict[str, Any]:
    """The answer to a page's question for the alternatives of `step`: `about` the first step of its
    block, and `likely` in the place of each.
    """
    first = step - step % BLOCK
    steps = range(first, first + BLOCK) if run is not None and step >= 0 else ()
    likely = [likely_at(run, at) for at in steps if run is not None and at < run.trace.steps]
    return {"about": {"alternatives": first}, "likely": likely}


def likely_at(run: Run, step: int) -> dict[str, Any] | None:
    """What the model found likely after a step; None if nothing is known.

    Returns:
        chosen: [id, text, log-probability] of the token that came.
        rank: of it, from 1; 0 if it was not recorded.
        others: as `chosen`, of the likeliest tokens, the likeliest first.
    """
    trace = run.trace
    if not trace.alternatives.size or np.isnan(trace.logprobs[step]):
        return None
    token = int(trace.produced[step])
    if token < 0:  # of a scored prompt: its next token
        token = int(trace.tokens[step + 1])
    ids, logprobs = trace.alternatives[step], trace.alternative_logprobs[step]
    return {
        "chosen": _one(run, token, float(trace.logprobs[step])),
        "rank": int(trace.ranks[step]) if trace.ranks.size else 0,
        "others": [
            _one(run, int(other), float(logprob))
            for other, logprob in zip(ids, logprobs, strict=True)
            if other >= 0
        ],
    }


def embedded_alternatives(run: Run, most_bytes: int) -> dict[str, Any]:
    """The alternatives for a page without a kernel, for its `info`: step → `likely_at`.

    If all are more than `most_bytes` as JSON, the most surprising tokens have theirs.
    """
    trace, found = run.trace, {}
    if not trace.alternatives.size:
        return {}
    room = most_bytes
    for step in np.argsort(trace.logprobs, kind="stable").tolist():  # NaN last
        likely = likely_at(run, step) if trace.produced[step] >= 0 else None
        if likely is None:
            continue
        room -= len(json.dumps(likely)) + 10
        if room < 0:
            break
        found[str(step)] = likely
    return found


def _one(run: Run, token: int, logprob: float) -> list[Any]:
    return [token, run.piece(token), round(logprob, 4)]
