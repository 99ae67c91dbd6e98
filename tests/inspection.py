"""What tests look at within an engine, which has no public name for it; the one place that does."""

from __future__ import annotations

from outlier_jupyter import Engine
from outlier_jupyter.paging import Installed
from outlier_jupyter.paging.pager import Pager


def inside(engine: Engine) -> Installed:
    """The paged parts of an engine's model: pagers, switches, tap."""
    return engine._installed


def pager_of(engine: Engine, number: int = 0) -> Pager:
    """A pager of an engine; most models have one."""
    return engine._installed.pagers[number]
