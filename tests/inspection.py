"""What tests look at within an engine, which has no public name for it; the one place that does."""

from __future__ import annotations

from outlier_jupyter import Engine
from outlier_jupyter.checkpoint import Reader
from outlier_jupyter.engine.memory_budget import Needs
from outlier_jupyter.engine.prefill_chunk import Costs
from outlier_jupyter.engine.vocabulary import Vocabulary
from outlier_jupyter.paging import Installed
from outlier_jupyter.paging.pager import Pager


def inside(engine: Engine) -> Installed:
    """The paged parts of an engine's model: pagers, switches, tap."""
    return engine._installed


def pager_of(engine: Engine, number: int = 0) -> Pager:
    """A pager of an engine; most models have one."""
    return engine._installed.pagers[number]


def reader_of(engine: Engine) -> Reader:
    """What reads an engine's experts."""
    return engine._reader


def reading_threads(engine: Engine) -> int:
    """How many threads read at once."""
    return engine._executor._max_workers


def reads_on_threads(engine: Engine) -> bool:
    """Whether its pager hands reads to threads, and does not make them where it is called."""
    return pager_of(engine)._executor is engine._executor


def needs_of(engine: Engine) -> Needs:
    """The RAM that an engine needs beside its slots."""
    return engine._needs


def costs_of(engine: Engine) -> Costs:
    """What a prompt's chunk costs, by its length."""
    return engine._costs


def vocabulary_of(engine: Engine) -> Vocabulary:
    """An engine's tokens as bytes."""
    return engine._vocabulary


def bound_ram(engine: Engine, ram_gb: float) -> None:
    """Have an engine keep to `ram_gb`, as if it had been loaded so."""
    engine._ram_gb = ram_gb
