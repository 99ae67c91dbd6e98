"""What tests inspect or replace without a public name; the only place that does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers.utils import chat_template_utils

from outlier_jupyter.notebook.render import class_colours

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    import pytest

    from outlier_jupyter import Engine
    from outlier_jupyter.checkpoint import Reader
    from outlier_jupyter.distributed import Ranks
    from outlier_jupyter.engine.memory_budget import Needs
    from outlier_jupyter.engine.prefill_chunk import Costs
    from outlier_jupyter.engine.pressure import MemoryRelief
    from outlier_jupyter.engine.vocabulary import Vocabulary
    from outlier_jupyter.notebook.live.merge_frames import History
    from outlier_jupyter.notebook.live.watch import Watched
    from outlier_jupyter.paging import Installed
    from outlier_jupyter.paging.pager import Pager
    from outlier_jupyter.paging.router_tap import RouterTap
    from outlier_jupyter.residency.policies.predictive import Predictive, State


def stepwise(
    engine: Engine, prompt: str, max_tokens: int, do: Callable[[], None] | None = None
) -> list[int]:
    """The tokens of a run; `do` is called after the fifth."""
    found = []
    for step in engine.stream(prompt, max_tokens=max_tokens):
        found.append(step.token)
        if len(found) == 5 and do is not None:
            do()
    return found


def inside(engine: Engine) -> Installed:
    """The paged parts of an engine's model: pagers, switches, tap."""
    return engine._installed


def compiled_template(source: str) -> Any:
    """A chat template as transformers compiles it, and keeps it."""
    return chat_template_utils._compile_jinja_template(source)


def newly_compiled_template(source: str) -> Any:
    """The same, compiled now."""
    return chat_template_utils._cached_compile_jinja_template(source)


def pager_of(engine: Engine, number: int = 0) -> Pager:
    """A pager of an engine; most models have one."""
    return engine._installed.pagers[number]


def ranks_of(engine: Engine) -> Ranks:
    """The ranks of an engine whose experts are spread."""
    return engine._installed.ranks


def change_messages(ranks: Ranks, change: Callable[[list[Any]], list[Any]]) -> None:
    """Have the ranks be sent what `change` makes of their messages."""
    plain = ranks._all

    def changed(messages: list[Any], *more: Any) -> Any:
        return plain(change(list(messages)), *more)

    vars(ranks)["_all"] = changed


def reader_of(engine: Engine) -> Reader:
    """The reader of an engine's experts."""
    return engine._reader


def replace_reader(engine: Engine, reader: Reader) -> None:
    """Have an engine read its experts with another reader."""
    engine._reader = reader
    for pager in engine._installed.pagers:
        pager.reader = reader


def relieve_with(engine: Engine, relief: MemoryRelief | None) -> MemoryRelief:
    """What answers memory pressure for an engine; replaced by `relief`, if any."""
    if relief is not None:
        engine._relief = relief
    return engine._relief


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


def stop_requested(engine: Engine) -> bool:
    """Whether the run under way was asked to stop."""
    return engine._stop.is_set()


def fetch_under_way(pager: Pager) -> bool:
    """Whether a pager still has reads of a lookup to finish."""
    return pager._current is not None


def kernel_reads_in_flight(pager: Pager) -> int:
    """How many reads a pager has submitted to the kernel that have not ended."""
    return 0 if pager.queued is None else pager.queued.queue.pending


def watched_arrays(tap: RouterTap) -> int:
    """How many arrays and ids a tap refers to."""
    return len(tap._weights) + len(tap._ids) + len(tap._seen)


def memory_of(policy: Predictive) -> State:
    """What the predictive policy remembers of the tokens so far."""
    return policy._state


def frames_kept(history: History) -> int:
    """How many frames a live view's history holds before it merges them."""
    return len(history._frames)


def change_end(
    patch: pytest.MonkeyPatch, view: Watched, change: Callable[[threading.Event], object]
) -> None:
    """Replace the event that `Watched.wait` waits for by `change` of it."""
    patch.setattr(view, "_ended", change(view._ended))


def forget_colours(patch: pytest.MonkeyPatch) -> None:
    """Let only the token classes have colours, as in a new process."""
    numbers = {name: number for number, name in enumerate(class_colours.TOKEN_CLASSES)}
    patch.setattr(class_colours, "_numbers", numbers)


def bound_ram(engine: Engine, ram_gb: float) -> None:
    """Limit an engine to `ram_gb`, as if it had been loaded with it."""
    engine._ram_gb = ram_gb
