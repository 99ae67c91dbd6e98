"""A map of (layer, expert) units: units chosen by the same tokens lie near each other.

The table tokens × units holds 1 where the token chose the unit. Its correspondence analysis gives
every unit coordinates: the scores on the largest axes after the trivial one. (This is the spectral
embedding of the units' co-activation, normalised by how often each unit is chosen.) A unit gets the
class of token that chooses it more often than by chance (hypergeometric test, corrected over all
units and classes), or no class. Neighbouring tokens are similar, so these are hints, not proofs.
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
from .phases import in_phase
from .routing_measures import Floats, Ints
from .trace import Trace
from .validate import check_routing

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

TOKENS = 4000
"""Of more tokens an even sample of this size is used: the map changes little, its cost much."""
FEWEST = 3
"""A unit chosen less often has no place on the map: its place would be chance."""
NONE = "no class more than chance"
CLASSES = ("word", "digit", "punctuation", "code sign", "whitespace", "other")
CODE = set("{}[]()<>=+-*/\\|&^%$#@~`_")


@dataclass(frozen=True)
class Atlas:
    """Units and their coordinates.

    Attributes:
        layer, expert: int64 [units].
        fired: int64 [units], how many of the `tokens` chose the unit.
        place: float64 [units, axes], coordinates, in the order of `share`.
        share: float64 [axes], share of the table's inertia, without the trivial axis.
        label: [units], the class that chooses the unit more often than by chance, or `NONE`; empty
            if no labels were given.
        lift: float64 [units], how much more often than by chance that class is among its tokens;
            NaN without a class.
        left_out: units chosen fewer than `FEWEST` times.
        tokens: how many tokens were analysed.
        about: the names of the model and the runs.
        classes: all classes, in the order of their first token.
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
        """The map, with each unit's class as colour and symbol; a Plotly figure."""
        return draw("Atlas.figure", self, self.about)


def token_class(text: str) -> str:
    """The one of `CLASSES` that a token's text belongs to, by its first character but spaces."""
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
    """The class of each token, from its text alone by `decode` (a tokenizer's)."""
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
        labels: for each trace one label per step: `token_class` of its text, or a prompt's name.
        alpha: the false discovery rate of the units' classes.

    Raises:
        OptionError: traces of different models, labels that do not fit, or too few tokens.
    """
    for trace in traces:
        check_routing(trace)
    if len({trace.info.experts_per_layer for trace in traces}) != 1:
        raise OptionError("an atlas shows one model: give one trace or more, all of the same model")
    if labels is not None and [len(words) for words in labels] != [t.steps for t in traces]:
        raise OptionError(
            "labels do not fit the traces: give one label for each step of each trace"
        )
    steps = [np.flatnonzero(in_phase(trace, phase)) for trace in traces]
    chosen = np.concatenate([t.experts[at] for t, at in zip(traces, steps, strict=True)])
    thin = np.arange(0, len(chosen), max(1, -(-len(chosen) // TOKENS)))
    width = max(traces[0].info.experts_per_layer, default=1)
    table, ids, left_out = _table(chosen[thin], width)
    seen = np.flatnonzero(np.asarray(table.sum(axis=1)) > 0)
    table = table[seen]
    if min(len(seen), len(ids)) < axes + 3:
        raise OptionError(
            f"{len(seen)} tokens and {len(ids)} units chosen {FEWEST} times or more are too few "
            f"for {axes} axes: use a longer run"
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
    """The table [tokens, units] of 0 and 1, the units' ids, and how many units were left out."""
    tokens, layers, _ = chosen.shape
    valid = chosen >= 0
    units = (chosen.astype(np.int64) + np.arange(layers)[:, None] * width)[valid]
    rows = np.broadcast_to(np.arange(tokens)[:, None, None], chosen.shape)[valid]
    fired = np.bincount(units, minlength=layers * width)
    ids = np.flatnonzero(fired >= FEWEST)
    column = np.full(layers * width, -1)
    column[ids] = np.arange(len(ids))
    often = column[units] >= 0
    where = (rows[often], column[units[often]])
    table = csr_array((np.ones(int(often.sum())), where), (tokens, len(ids)))
    return table, ids, int((fired > 0).sum() - len(ids))


def _embed(table: csr_array, axes: int) -> tuple[Floats, Floats]:
    """Principal column scores of the correspondence analysis, and each axis' share."""
    rows, columns = np.asarray(table.sum(axis=1)), np.asarray(table.sum(axis=0))
    scaled = csr_array(table.multiply(1 / np.sqrt(rows)[:, None]).multiply(1 / np.sqrt(columns)))
    start = np.ones(min(scaled.shape))
    _, sizes, right = svds(scaled, k=axes + 1, v0=start)
    order = np.argsort(-sizes)[1:]  # the first is 1, along the square roots of the masses
    scores = right[order] * sizes[order, None] / np.sqrt(columns / columns.sum())
    # The sign of an axis is arbitrary: its largest score is made positive.
    largest = scores[np.arange(axes), np.abs(scores).argmax(axis=1)]
    inertia = float(scaled.multiply(scaled).sum()) - 1
    share = sizes[order] ** 2 / inertia if inertia > 0 else np.full(axes, np.nan)
    return np.asarray((scores * np.sign(largest)[:, None]).T), np.asarray(share)


def _classes(
    table: csr_array, fired: Ints, words: list[str], alpha: float
) -> tuple[tuple[str, ...], Floats]:
    """Each unit's class, or `NONE`, and its lift."""
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
