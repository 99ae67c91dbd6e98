"""A run's tokens as a table: what each was, how likely the model found it, what it cost.

`run.tokens` is an array of ids, and as a function it makes this table.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..events import DECODE, PREFILL
from ..trace.measures import hits_per_step
from ..trace.segments import name_of

if TYPE_CHECKING:
    import pandas

    from ..trace import Trace
    from .run import Run

PROMPT, GENERATED = "prompt", "generated"
"""The parts of a run, in the column `part`."""


class TokenIds(np.ndarray[Any, np.dtype[np.int32]]):
    """The generated ids, int32 [generated]. Called, they become a table: see `token_table`."""

    _run: Run | None

    def __array_finalize__(self, _: object) -> None:
        self._run = None  # what is computed from it belongs to no run

    def __call__(self, prompt: bool = False) -> pandas.DataFrame:
        """See `token_table`."""
        if self._run is None:
            raise TypeError("these are numbers and no run's tokens: call run.tokens() itself")
        return token_table(self._run, prompt)

    def __repr__(self) -> str:
        return repr(np.asarray(self))

    def __reduce__(self) -> Any:
        return np.asarray(self).__reduce__()


class TokensOfRun:
    """The attribute `tokens` of a run: stored as a plain array, read as `TokenIds`."""

    def __get__(self, run: Run | None, _: object = None) -> TokenIds:
        if run is None:  # a dataclass's field without a default
            raise AttributeError("tokens")
        found: TokenIds = vars(run)["tokens"].view(TokenIds)
        found._run = run
        return found

    def __set__(self, run: Run, ids: npt.NDArray[np.int32]) -> None:
        stored = vars(ids._run).get("tokens") if isinstance(ids, TokenIds) and ids._run else None
        vars(run)["tokens"] = np.asarray(ids) if stored is None else stored


def produced_by(trace: Trace) -> npt.NDArray[np.int64]:
    """The steps that produced a token, in order; all decode steps if unknown."""
    found = np.flatnonzero(trace.produced >= 0)
    return np.asarray(found if len(found) else np.flatnonzero(trace.phase == DECODE), np.int64)


def token_table(run: Run, prompt: bool = False) -> pandas.DataFrame:
    """One row per token.

    Args:
        prompt: the prompt's tokens first, those that were read; their probabilities are known only
            with `score_prompt`.

    Returns:
        The columns `part` (prompt or generated), `token` (its number within the part, from 1),
        `id`, `text`, `kind` (of its segment), `logprob` (nats), `probability`, `rank`, `entropy`
        (nats), `alternatives` and `probabilities` (the likeliest tokens' texts, and how likely they
        were), `hits`, `misses`, `ms`. Hits, misses and time are of the step that sampled a
        generated token, and of the step that read a prompt's one. Columns that were not recorded
        are left out.
    """
    import pandas

    trace = run.trace
    made = produced_by(trace)
    read = np.flatnonzero(trace.phase == PREFILL) if prompt else np.zeros(0, np.int64)
    cost = np.concatenate([read, made])
    predicted = np.concatenate([read - 1, made])  # a prompt's token comes after the step before it
    ids = [*trace.tokens[read].tolist(), *trace.produced[made].tolist()]
    columns: dict[str, Any] = {
        "part": [PROMPT] * len(read) + [GENERATED] * len(made),
        "token": np.concatenate([np.arange(len(read)), np.arange(len(made))]) + 1,
        "id": ids,
        "text": [*run.pieces(ids[: len(read)]), *run.pieces(ids[len(read) :])],
    }
    if len(trace.kinds):
        at = np.concatenate([read, made + 1])  # in the sequence of all tokens
        columns["kind"] = [name_of(kind) for kind in trace.kinds[at].tolist()]
    columns |= _predicted(run, predicted)
    hits, misses = hits_per_step(trace)
    if trace.has("hits"):
        columns |= {"hits": hits[cost], "misses": misses[cost]}
    if trace.has("calls"):
        columns["ms"] = trace.step_ns[cost] / 1e6
    return pandas.DataFrame(columns)


def _predicted(run: Run, steps: npt.NDArray[np.int64]) -> Iterator[tuple[str, Any]]:
    """The columns of what the model found likely after these steps; −1 is before the first."""
    trace = run.trace
    before = steps < 0
    if len(trace.logprobs):
        logprobs = np.where(before, np.nan, trace.logprobs[steps])
        yield "logprob", logprobs
        yield "probability", np.exp(logprobs.astype(np.float64))
    if len(trace.ranks):
        yield "rank", np.where(before, 0, trace.ranks[steps])
    if len(trace.entropies):
        yield "entropy", np.where(before, np.nan, trace.entropies[steps])
    if trace.alternatives.size:
        ids = np.where(before[:, None], -1, trace.alternatives[steps])
        shares = np.exp(trace.alternative_logprobs[steps].astype(np.float64))
        yield "alternatives", [[run.piece(i) for i in row if i >= 0] for row in ids.tolist()]
        yield (
            "probabilities",
            [share[row >= 0].tolist() for row, share in zip(ids, shares, strict=True)],
        )
