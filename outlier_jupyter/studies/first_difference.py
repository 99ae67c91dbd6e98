"""Where two runs first differ: in the text that they generate, and in what their routers choose.

Both count from the first token, as the view of two runs does: token 2 of one beside token 2 of the
other, the third token of one prompt beside the third of the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..runs.run import Run, produced_by
from ..trace import Trace


@dataclass(frozen=True)
class FirstDifference:
    """The first differences of two runs.

    Attributes:
        token: the number of the first generated token that differs, from 1; None if all are alike.
        texts: that token's text in each run; "" where a run has ended.
        step: the first step, from 0, at which a router chose other experts; None if none did.
        at: that step in words, `token 3` or `prompt token 13`; "" if there is none.
        layers: the layers that chose other experts at that step.
    """

    token: int | None
    texts: tuple[str, str]
    step: int | None
    at: str
    layers: tuple[int, ...]

    @property
    def sentence(self) -> str:
        """Both in words."""
        first, second = (f"“{text}”" if text else "the end" for text in self.texts)
        text = f"The texts part at token {self.token}: {first} against {second}"
        if self.token is None:
            text = "The texts are the same"
        if self.step is None:
            return f"{text}; no layer chose other experts."
        layers = (
            f"layer{'s' if len(self.layers) > 1 else ''} {', '.join(map(str, self.layers[:4]))}"
        )
        if len(self.layers) > 4:
            layers = f"{len(self.layers)} layers"
        return f"{text}; the first other experts are chosen at {self.at}, in {layers}."


def first_difference(one: Run, other: Run) -> FirstDifference | None:
    """Where two runs first differ; None if they cannot be laid side by side.

    That is so where one began in the middle of its prompt (`reuse_kv`), or they have other layers.
    """
    runs = (one, other)
    if any(run.reused is not None and len(run.reused) for run in runs):
        return None
    step = _other_experts(one.trace, other.trace)
    if step is None:
        return None
    token = _other_token(one, other)
    texts = tuple(
        "" if token is None or token > run.generated else run.text_of(token).replace("\n", "↵")
        for run in runs
    )
    first, layers = step
    if not layers:
        return FirstDifference(token, (texts[0], texts[1]), None, "", ())
    begin = int(produced_by(one.trace)[0]) if one.generated else len(one.trace.experts)
    at = f"prompt token {first + 1}" if first < begin else f"token {first - begin + 1}"
    return FirstDifference(token, (texts[0], texts[1]), first, at, layers)


def _other_token(one: Run, other: Run) -> int | None:
    a, b = np.asarray(one.tokens), np.asarray(other.tokens)
    shared = min(len(a), len(b))
    differ = np.flatnonzero(a[:shared] != b[:shared])
    if len(differ):
        return int(differ[0]) + 1
    return shared + 1 if len(a) != len(b) else None


def _other_experts(one: Trace, other: Trace) -> tuple[int, tuple[int, ...]] | None:
    """The first step with other experts, and its layers; no layers if there is none."""
    if one.experts.shape[1:] != other.experts.shape[1:]:
        return None
    steps = min(len(one.experts), len(other.experts))
    a, b = (np.sort(trace.experts[:steps], axis=-1) for trace in (one, other))
    differ = (a != b).any(axis=-1)
    found = np.flatnonzero(differ.any(axis=1))
    if not len(found):
        return 0, ()
    step = int(found[0])
    return step, tuple(np.flatnonzero(differ[step]).tolist())
