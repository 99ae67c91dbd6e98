"""Which steps a measure is about: those of a phase, or those that read tokens of one kind."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..errors import OptionError, shown
from ..events import DECODE, PREFILL
from .segments import KINDS, kinds_read
from .trace import Trace

PHASES = {"prefill": PREFILL, "decode": DECODE}

Mask = npt.NDArray[np.bool_]
Phase = str | int | None | Mask
"""A phase by name or number, the name of a kind, a mask of the steps, or None for all of them."""


def check_phase(phase: Phase) -> None:
    """Raises OptionError: neither a phase nor a kind."""
    if phase is None or _number(phase) is not None:
        return
    if not (isinstance(phase, str) and phase in KINDS):
        raise OptionError(
            f"phase={shown(phase)} is unknown: choose 'prefill', 'decode', None for both, or a "
            f"kind of token: {', '.join(KINDS)}"
        )


def in_phase(trace: Trace, phase: Phase) -> Mask:
    """Which steps belong to a phase, or read a token of a kind: bool [steps].

    Raises:
        OptionError: unknown, or a kind where none was recorded.
    """
    if isinstance(phase, np.ndarray) and phase.dtype == np.bool_ and phase.shape == (trace.steps,):
        return phase
    check_phase(phase)
    if phase is None:
        return np.ones(trace.steps, bool)
    number = _number(phase)
    if number is not None:
        return np.asarray(trace.phase == number)
    if not len(trace.kinds):
        raise OptionError(
            f"phase={shown(phase)} cannot be used: this run's segments were not recorded; give "
            "'prefill' or 'decode', or run the prompt again"
        )
    return np.asarray(kinds_read(trace) == KINDS.index(str(phase)))


def phase_words(phase: str | int | None) -> str:
    """A phase as the title of a figure names it."""
    if phase is None:
        return "prefill and decode"
    return next((name for name, number in PHASES.items() if phase == number), str(phase))


def _number(phase: object) -> int | None:
    for name, number in PHASES.items():
        if isinstance(phase, str | int) and phase in (name, number):
            return number
    return None
