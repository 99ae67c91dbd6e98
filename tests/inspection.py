"""The parts of an engine that tests inspect without a public name; the only place that does."""

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
    """The reader of an engine's experts."""
    return engine._reader


def reading_threads(engine: Engine) -> int:
    """How many threads read at once."""
    return engine._executor._max_workers


def reads_on_threads(engine: Engine) -> bool:
    """Whether its pager submits reads to threads instead of reading on the calling thread."""
    return pager_of(engine)._executor is engine._executor


def needs_of(engine: Engine) -> Needs:
    """The RAM that an engine needs beside its slots."""
    return engine._needs


def costs_of(engine: Engine) -> Costs:
    """The cost of a prompt's chunk, by its length."""
    return engine._costs


def vocabulary_of(engine: Engine) -> Vocabulary:
    """An engine's tokens as bytes."""
    return engine._vocabulary


def bound_ram(engine: Engine, ram_gb: float) -> None:
    """Limit an engine to `ram_gb`, as if it had been loaded with it."""
    engine._ram_gb = ram_gb
