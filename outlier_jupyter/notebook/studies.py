"""`%outlier ablate` and `%outlier sweep`: the arguments of a line as those of a function."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from ..engine import Engine
from ..errors import OptionError
from ..studies.ablation import Ablation, ablate
from ..studies.sweep import sweep
from ..studies.swept import Sweep
from .arguments import near


def study(
    engine: Engine, command: str, given: dict[str, Any], variables: Mapping[str, Any]
) -> Ablation | Sweep:
    """What `command`, `ablate` or `sweep`, finds; a sweep's record is written at once.

    Args:
        given: as its parser gives them.
        variables: where `--prompts` is looked up.

    Raises:
        OptionError: what cannot be understood or used.
    """
    prompts = _prompts(command, given, variables)
    if command == "ablate":
        if prompts is None:
            raise OptionError("%outlier ablate has nothing to read: give --prompt or --prompts")
        return ablate(engine, prompts, given.pop("experts"), **given)
    folder = given.pop("folder", ".")
    axes: dict[str, Any] = {}
    for name, values in given.pop("axes"):
        axes.setdefault(name, []).extend(values)
    found = sweep(engine, prompts=prompts, **given, **axes)
    for path in found.save(folder):
        sys.stdout.write(f"written: {path}\n")
    return found


def _prompts(command: str, given: dict[str, Any], variables: Mapping[str, Any]) -> Any:
    texts, name = list(given.pop("prompt", ())), given.pop("prompts", None)
    if name is None:
        return texts or None
    held = variables.get(name)
    if held is None or isinstance(held, int | float):
        raise OptionError(
            f"%outlier {command}: there are no prompts in a variable {name!r}"
            f"{near(name, [key for key, value in variables.items() if isinstance(value, list)])}"
        )
    if command == "sweep":
        held = [held] if isinstance(held, str) else list(
            held.values() if isinstance(held, Mapping) else held
        )  # fmt: skip
        return [*held, *texts]
    return [*held, *texts] if texts and isinstance(held, list | tuple) else held
