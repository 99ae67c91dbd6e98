"""Preload: fills slots before the first token, with pinned experts and those an earlier run used.

The policy also learns from the earlier run's routing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from ..errors import OptionError, shown
from ..residency import ExpertKey
from .install import Installed
from .pager import Pager

BATCH = 32
"""Experts read between two reports of progress."""
LEARNED_TOKENS = 1024
"""The policy learns from so many of an earlier run's last tokens; its memory is shorter."""


def parse_pins(pins: Sequence[str], experts_per_layer: Sequence[int]) -> list[ExpertKey]:
    """Parse experts written as LAYER:EXPERT.

    Raises:
        OptionError: a pin has another form, or the model has no such expert.
    """
    return [_parse(pin, experts_per_layer) for pin in dict.fromkeys(pins)]


def _parse(pin: str, experts_per_layer: Sequence[int]) -> ExpertKey:
    layer, colon, expert = pin.partition(":")
    if not (colon and layer.strip().isdecimal() and expert.strip().isdecimal()):
        raise OptionError(f"pin={shown(pin)} cannot be used: give LAYER:EXPERT, such as 12:37")
    layers = len(experts_per_layer)
    if max(len(layer.strip()), len(expert.strip())) > 9:  # Python reads no number of 5,000 digits
        raise OptionError(f"pin={shown(pin)}: this model has no such expert")
    key = ExpertKey(int(layer), int(expert))
    if key.layer >= layers or key.expert >= experts_per_layer[key.layer]:
        last = f"{layers - 1}:{experts_per_layer[-1] - 1}" if layers else "none: it is dense"
        raise OptionError(
            f"pin={shown(pin)}: this model has no such expert; the last one is {last}"
        )
    return key


def pin(installed: Installed, keys: Sequence[ExpertKey], read: Callable[[int], object]) -> None:
    """Pin `keys`: read them, and never evict them.

    Args:
        read: called after each batch with the number of experts read.

    Raises:
        OptionError: they leave too few slots for a token of the widest layer.
        ReadFailed: an expert could not be read.
    """
    for pager in installed.pagers:
        mine = [key for key in keys if key.layer in pager.layers]
        try:
            pager.table.pin(mine)
        except ValueError as error:
            raise OptionError(f"{error}: pin fewer, or give a larger cache") from error
        _read(pager, mine, read)


def warm(
    installed: Installed, experts: npt.NDArray[np.int16], read: Callable[[int], object],
    mine: Sequence[npt.NDArray[np.bool_]] | None = None,
) -> None:  # fmt: skip
    """Have the policies learn an earlier run's routing, and read its most used experts that fit.

    Args:
        experts: [steps, layers, k] of the same model; -1 for none.
        read: called after each batch with the number of experts read.
        mine: the experts that may be read, for each layer bool [experts]; None for all.

    Raises:
        OptionError: the run is of another model.
        ReadFailed: an expert could not be read.
    """
    sizes = [switch.experts for switch in installed.switches]
    if experts.shape[1] != len(sizes) or any(
        experts[:, layer].max(initial=-1) >= size for layer, size in enumerate(sizes)
    ):
        raise OptionError(
            f"the trace to warm up from has {experts.shape[1]} layers, of other sizes than this "
            f"model's {len(sizes)}: give a trace of this model"
        )
    for layer in range(len(sizes) if len(experts) else 0):
        pager = next(pager for pager in installed.pagers if layer in pager.layers)
        pager.table.routed(layer, experts[-LEARNED_TOKENS:, layer])
    for pager in installed.pagers:
        used: dict[ExpertKey, int] = {}
        for layer in sorted(pager.layers):
            chosen = experts[:, layer]
            counts = np.bincount(chosen[chosen >= 0], minlength=sizes[layer])
            counts = counts if mine is None else counts * mine[layer]
            used |= {ExpertKey(layer, e): int(counts[e]) for e in np.flatnonzero(counts).tolist()}
        free = pager.table.capacity - len(pager.table)
        absent = [key for key in used if key not in pager.table]
        _read(pager, sorted(absent, key=lambda key: -used[key])[:free], read)


def _read(pager: Pager, keys: Sequence[ExpertKey], read: Callable[[int], object]) -> None:
    step = min(BATCH, pager.table.room)
    for start in range(0, len(keys), step):
        part = keys[start : start + step]
        pager.bank.settle()
        for layer in sorted({key.layer for key in part}):
            pager.acquire([key for key in part if key.layer == layer])
        read(len(part))
