"""Run Mixture-of-Experts models larger than memory in a notebook, and watch where they route.

    import outlier_jupyter
    engine = outlier_jupyter.load("demo", cache_gb=0.002)
    run = engine.generate("What is an expert?")

In a notebook: `%load_ext outlier_jupyter`, then `%outlier --help`.

This module is a door: it imports nothing heavy until a name is used.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from .engine import Engine as Engine
    from .errors import OutlierError as OutlierError
    from .loading import load as load
    from .memory import MemoryUse as MemoryUse
    from .notebook.chat import Chat as Chat
    from .notebook.watching import watch as watch
    from .planning import Plan as Plan
    from .planning import plan as plan
    from .repacking import Repacked as Repacked
    from .repacking import repack as repack
    from .run import Interrupted as Interrupted
    from .run import Run as Run
    from .run import Step as Step
    from .run import repeated as repeated
    from .studies.ablation import Ablation as Ablation
    from .studies.ablation import ablate as ablate
    from .studies.comparison import Comparison as Comparison
    from .studies.comparison import compare as compare
    from .studies.mapping import atlas as atlas
    from .studies.sweep import sweep as sweep
    from .studies.swept import Sweep as Sweep
    from .trace import Trace as Trace
    from .trace.atlas import Atlas as Atlas
    from .uses import experts_of as experts_of
    from .uses import tokens_of as tokens_of

_HOMES = {
    "Ablation": ".studies.ablation",
    "Atlas": ".trace.atlas",
    "Chat": ".notebook.chat",
    "Comparison": ".studies.comparison",
    "Engine": ".engine",
    "Interrupted": ".run",
    "MemoryUse": ".memory",
    "OutlierError": ".errors",
    "Plan": ".planning",
    "Repacked": ".repacking",
    "Run": ".run",
    "Step": ".run",
    "Sweep": ".studies.swept",
    "Trace": ".trace",
    "ablate": ".studies.ablation",
    "atlas": ".studies.mapping",
    "compare": ".studies.comparison",
    "experts_of": ".uses",
    "load": ".loading",
    "plan": ".planning",
    "repack": ".repacking",
    "repeated": ".run",
    "sweep": ".studies.sweep",
    "tokens_of": ".uses",
    "watch": ".notebook.watching",
}

__all__ = [
    "Ablation",
    "Atlas",
    "Chat",
    "Comparison",
    "Engine",
    "Interrupted",
    "MemoryUse",
    "OutlierError",
    "Plan",
    "Repacked",
    "Run",
    "Step",
    "Sweep",
    "Trace",
    "__version__",
    "ablate",
    "atlas",
    "compare",
    "experts_of",
    "load",
    "load_ipython_extension",
    "plan",
    "repack",
    "repeated",
    "sweep",
    "tokens_of",
    "unload_ipython_extension",
    "watch",
]

__version__ = version("outlier-jupyter")


def load_ipython_extension(shell: InteractiveShell) -> None:
    """`%load_ext outlier_jupyter`: add the `%outlier` magics, silently."""
    import_module(".notebook.magics", __name__).register(shell)


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """`%unload_ext outlier_jupyter`: close the engine and restore what was there before."""
    import_module(".notebook.magics", __name__).unregister(shell)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
