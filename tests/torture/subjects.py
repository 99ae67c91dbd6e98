"""The subjects: each module here that has `torture`, in the page's order."""

from __future__ import annotations

import inspect
import pkgutil
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType

from .counts import Counts

HERE = Path(__file__).parent
NOT_SUBJECTS = {"__main__", "fuzz_child"}
"""Modules that are not imported here: one runs on import, the other needs the fuzzer."""


@dataclass(frozen=True)
class Subject:
    """A module with what it says of itself.

    Attributes:
        name: the module's.
        title: its heading on the page.
        group: its place on the page.
        about: its docstring.
        quick_s, long_s: seconds of a unit in `make test` and in `make torture`.
        units: the parts that run one by one; one without a name if there are none.
    """

    name: str
    title: str
    group: float
    about: str
    quick_s: float
    long_s: float
    units: tuple[str, ...]
    module: ModuleType

    def run(self, unit: str, seconds: float, seed: int, scratch: Path) -> Counts:
        """Torture one unit for about `seconds`."""
        counts: Counts
        if unit:
            counts = self.module.torture(seconds, seed, scratch, unit)
        else:
            counts = self.module.torture(seconds, seed, scratch)
        return counts


def subjects() -> list[Subject]:
    """All subjects, in the page's order."""
    found = []
    for info in pkgutil.iter_modules([str(HERE)]):
        if info.name in NOT_SUBJECTS or info.name.startswith("test_") or info.ispkg:
            continue
        module = import_module(f"{__package__}.{info.name}")
        if not hasattr(module, "torture"):
            continue
        found.append(
            Subject(
                info.name,
                module.TITLE,
                module.GROUP,
                inspect.getdoc(module) or "",
                module.QUICK_S,
                module.LONG_S,
                tuple(getattr(module, "UNITS", ("",))),
                module,
            )
        )
    return sorted(found, key=lambda each: (each.group, each.name))
