"""A map of (layer, expert) units: those chosen by the same tokens lie near each other.

Tokens and units make a table of who chose whom. Its correspondence analysis, which is the spectral
embedding of the units' co-activation normalised by how often each fires, gives every unit a place:
the scores of the largest axes after the trivial one. A unit is coloured by the class of token that
fires it more than chance would (hypergeometric, corrected over all units and classes); where none
does, it has no class. Neighbouring tokens are alike, so these are hints and no proofs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.sparse.linalg import svds
from scipy.stats import false_discovery_control, hypergeom

from ..display import draw
from ..errors import OptionError
from .routing_measures import Floats, Ints, in_phase
from .trace import Trace
from .validate import check_routing

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

TOKENS = 4000
"""More tokens are thinned out to so many, evenly: the map changes little, its cost much."""
FEWEST = 3
"""A unit that fired less often has no place: where it lies would be chance."""
NONE = "no class more than chance"
CLASSES = ("word", "digit", "punctuation", "code sign", "whitespace", "other")
CODE = set("{}[]()<>=+-*/\\|&^%$#@~`_")


@dataclass(frozen=True)
class Atlas:
    """Units and where they lie.

    Attributes:
        layer, expert: int64 [units].
        fired: int64 [units], tokens that chose the unit, of `tokens` looked at.
        place: float64 [units, axes], in the order of `share`.
        share: float64 [axes], of the table's inertia, the trivial axis left out.
        label: [units], the class that fires the unit more than chance, or `NONE`; () unasked.
        lift: float64 [units], how much more often than by chance that class is among its tokens;
            NaN where there is none.
        left_out: units that fired, but less than `FEWEST` times.
        tokens: how many were looked at.
        about: the model and the runs, in words.
        classes: all that a unit could have had, in the order in which they were first met.
    """

    layer: Ints
    expert: Ints
    fired: Ints
    place: Floats
    share: Floats
    label: tuple[str, ...]
    lift: Floats
    left_out: int
    tokens: int
    about: str = ""
    classes: tuple[str, ...] = ()

    def figure(self) -> Figure:
        """The units at their places; the class that fires them as colour and sign; in Plotly."""
        return draw("Atlas.figure", self, self.about)


def token_class(text: str) -> str:
    """Which of `CLASSES` a token's text is, by its first sign that is no space."""
    bare = text.strip()
    if not bare:
        return "whitespace" if text else "other"
    first = bare[0]
    if first.isdigit():
        return "digit"
    if first.isalpha():
        return "word"
    if first in CODE:
        return "code sign"
    return "punctuation" if first.isascii() and first.isprintable() else "other"


def token_classes(tokens: npt.NDArray[np.integer], decode: Callable[[list[int]], str]) -> list[str]:
    """The class of each token, by what `decode` (a tokenizer's) makes of it alone."""
    known = {int(token): token_class(decode([int(token)])) for token in np.unique(tokens)}
    return [known[int(token)] for token in tokens]


def atlas(
    traces: Sequence[Trace],
    labels: Sequence[Sequence[str]] | None = None,
    phase: str | int | None = None,
    axes: int = 2,
    alpha: float = 0.05,
) -> Atlas:
    """Place the units of one or more runs of one model.

    Args:
        labels: for each trace a word per step: `token_class` of its text, or its prompt's name.
        alpha: the false discovery rate at which a unit is given a class.

    Raises:
        OptionError: traces of different models, labels that do not fit, or too little to place.
    """
    for trace in traces:
        check_routing(trace)
    if len({trace.info.experts_per_layer for trace in traces}) != 1:
        raise OptionError("an atlas is of one model: give one or more traces, all of the same")
    if labels is not None and [len(words) for words in labels] != [t.steps for t in traces]:
        raise OptionError("labels do not fit the traces: give one word for each step of each")
    steps = [np.flatnonzero(in_phase(trace, phase)) for trace in traces]
    chosen = np.concatenate([t.experts[at] for t, at in zip(traces, steps, strict=True)])
    thin = np.arange(0, len(chosen), max(1, -(-len(chosen) // TOKENS)))
    width = max(traces[0].info.experts_per_layer, default=1)
    table, ids, left_out = _table(chosen[thin], width)
    seen = np.flatnonzero(np.asarray(table.sum(axis=1)) > 0)
    table = table[seen]
    if min(len(seen), len(ids)) < axes + 3:
        raise OptionError(
            f"{len(seen)} tokens and {len(ids)} units that fired {FEWEST} times or more "
            f"are too few to be placed on {axes} axes: use a longer run"
        )
    place, share = _embed(table, axes)
    fired = np.asarray(table.sum(axis=0)).astype(np.int64)
    label: tuple[str, ...] = ()
    classes = tuple(dict.fromkeys(itertools.chain(*(labels or ()))))
    lift = np.full(len(ids), np.nan)
    if labels is not None:
        words = [
            words[step] for words, at in zip(labels, steps, strict=True) for step in at.tolist()
        ]
        label, lift = _classes(table, fired, [words[i] for i in thin[seen]], alpha)
    return Atlas(
        ids // width, ids % width, fired, place, share, label, lift, left_out, len(seen),
        classes=classes,
    )  # fmt: skip


def _table(chosen: npt.NDArray[np.int16], width: int) -> tuple[csr_array, Ints, int]:
    """Who chose whom, 0 or 1 [tokens, units], of the units that fired often enough."""
    tokens, layers, _ = chosen.shape
    there = chosen >= 0
    units = (chosen.astype(np.int64) + np.arange(layers)[:, None] * width)[there]
    rows = np.broadcast_to(np.arange(tokens)[:, None, None], chosen.shape)[there]
    fired = np.bincount(units, minlength=layers * width)
    ids = np.flatnonzero(fired >= FEWEST)
    column = np.full(layers * width, -1)
    column[ids] = np.arange(len(ids))
    often = column[units] >= 0
    where = (rows[often], column[units[often]])
    table = csr_array((np.ones(int(often.sum())), where), (tokens, len(ids)))
    return table, ids, int((fired > 0).sum() - len(ids))


def _embed(table: csr_array, axes: int) -> tuple[Floats, Floats]:
    """Principal scores of the columns in correspondence analysis, and each axis' share."""
    rows, columns = np.asarray(table.sum(axis=1)), np.asarray(table.sum(axis=0))
    scaled = csr_array(table.multiply(1 / np.sqrt(rows)[:, None]).multiply(1 / np.sqrt(columns)))
    start = np.ones(min(scaled.shape))
    _, sizes, right = svds(scaled, k=axes + 1, v0=start)
    order = np.argsort(-sizes)[1:]  # the first is 1, along the square roots of the masses
    scores = right[order] * sizes[order, None] / np.sqrt(columns / columns.sum())
    # An axis may as well point the other way: let its largest score be positive.
    far = scores[np.arange(axes), np.abs(scores).argmax(axis=1)]
    inertia = float(scaled.multiply(scaled).sum()) - 1
    share = sizes[order] ** 2 / inertia if inertia > 0 else np.full(axes, np.nan)
    return np.asarray((scores * np.sign(far)[:, None]).T), np.asarray(share)


def _classes(
    table: csr_array, fired: Ints, words: list[str], alpha: float
) -> tuple[tuple[str, ...], Floats]:
    names = sorted(set(words))
    is_of = np.array([[word == name for name in names] for word in words], float)
    both = np.asarray(table.T @ is_of)
    size = is_of.sum(axis=0)
    p = np.asarray(hypergeom.sf(both - 1, len(words), size[None, :], fired[:, None]))
    q = false_discovery_control(np.clip(p, 0, 1).ravel()).reshape(both.shape)
    lift = both / fired[:, None] / (size / len(words))
    best = np.where(q <= alpha, lift, -np.inf).argmax(axis=1)
    rows = np.arange(len(best))
    sure = q[rows, best] <= alpha
    label = tuple(names[i] if ok else NONE for i, ok in zip(best.tolist(), sure, strict=True))
    return label, np.where(sure, lift[rows, best], np.nan)
