"""Run Mixture-of-Experts models larger than memory in a notebook, and watch where they route.

    import outlier_jupyter
    engine = outlier_jupyter.load("demo", cache_gb=0.002)
    run = engine.generate("What is an expert?")

In a notebook: `%load_ext outlier_jupyter`, then `%outlier --help`.

The module imports nothing heavy until a name is used.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from .aliases import MOVED, MovedModules, moved

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from .engine.engine import Engine as Engine
    from .engine.load import load as load
    from .engine.memory import MemoryUse as MemoryUse
    from .engine.plan import Plan as Plan
    from .engine.plan import plan as plan
    from .engine.repack import Repacked as Repacked
    from .engine.repack import repack as repack
    from .errors import OutlierError as OutlierError
    from .notebook.chat.chat import Chat as Chat
    from .notebook.live.side_by_side import side_by_side as side_by_side
    from .notebook.live.watch import watch as watch
    from .runs.run import Interrupted as Interrupted
    from .runs.run import Run as Run
    from .runs.run import Step as Step
    from .runs.run import repeated as repeated
    from .runs.token_experts import experts_of as experts_of
    from .runs.token_experts import tokens_of as tokens_of
    from .studies.ablate import Ablation as Ablation
    from .studies.ablate import ablate as ablate
    from .studies.atlas import atlas as atlas
    from .studies.compare import Comparison as Comparison
    from .studies.compare import compare as compare
    from .studies.sweep import sweep as sweep
    from .studies.sweep_result import Sweep as Sweep
    from .studies.variants import Variants as Variants
    from .studies.variants import variants as variants
    from .trace import Trace as Trace
    from .trace.atlas import Atlas as Atlas

_HOMES = {
    "Ablation": ".studies.ablate",
    "Atlas": ".trace.atlas",
    "Chat": ".notebook.chat.chat",
    "Comparison": ".studies.compare",
    "Engine": ".engine.engine",
    "Interrupted": ".runs.run",
    "MemoryUse": ".engine.memory",
    "OutlierError": ".errors",
    "Plan": ".engine.plan",
    "Repacked": ".engine.repack",
    "Run": ".runs.run",
    "Step": ".runs.run",
    "Sweep": ".studies.sweep_result",
    "Trace": ".trace",
    "Variants": ".studies.variants",
    "ablate": ".studies.ablate",
    "atlas": ".studies.atlas",
    "compare": ".studies.compare",
    "experts_of": ".runs.token_experts",
    "load": ".engine.load",
    "plan": ".engine.plan",
    "repack": ".engine.repack",
    "repeated": ".runs.run",
    "side_by_side": ".notebook.live.side_by_side",
    "sweep": ".studies.sweep",
    "tokens_of": ".runs.token_experts",
    "variants": ".studies.variants",
    "watch": ".notebook.live.watch",
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
    "Variants",
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
    "side_by_side",
    "sweep",
    "tokens_of",
    "unload_ipython_extension",
    "variants",
    "watch",
]

__version__ = version("outlier-jupyter")

sys.meta_path.append(MovedModules())


def load_ipython_extension(shell: InteractiveShell) -> None:
    """`%load_ext outlier_jupyter`: register the `%outlier` magics, silently."""
    import_module(".notebook.magics", __name__).register(shell)


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """`%unload_ext outlier_jupyter`: close the engine and remove the magics."""
    import_module(".notebook.magics", __name__).unregister(shell)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name], __name__), name)
    if name in MOVED:
        return moved(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
