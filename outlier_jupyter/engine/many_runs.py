"""Many prompts: which run together, which one after the other, and what they leave.

Those whose KV caches and routing are of one kind share the calls of the model (`batch.py`). Where
mlx-lm cannot merge the caches, or a run needs calls of its own, prompts run one after the other.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlx_lm.generate import wired_limit
from mlx_lm.models.cache import make_prompt_cache

from ..errors import CheckpointChanged, EngineClosed, OptionError, OutlierError
from ..paging import Stopped
from ..runs.many import ManyInterrupted, ManyRuns, SomeFailed
from ..runs.run import Interrupted
from ..values import count as natural_count
from ..values import items
from .batch import Batch, Taken, Waiting, as_ours
from .batch_kv import unmergeable
from .decode import interruptible
from .kv_cache import kind_of
from .memory_budget import MemoryBounds
from .one_run import begin, checked, encoded
from .open_run import check_files, kinds_of
from .prompts import Prompt

if TYPE_CHECKING:
    from .engine import Engine

AT_ONCE = 8
"""The most prompts that run together by default."""


@dataclass
class StartedMany:
    """Started runs: iterating over `steps` decodes them; `runs` is their result."""

    steps: Generator[Taken, None, None] = field(init=False)
    runs: ManyRuns


def start_many(
    engine: Engine, prompts: Sequence[Prompt], each: Sequence[dict[str, Any]] | None,
    at_once: int, options: dict[str, Any],
) -> StartedMany:  # fmt: skip
    """Runs that decode as their steps are taken; arguments and errors as of `generate_many`."""
    prompts = items("prompts", prompts, "a list of texts or of conversations")
    at_once = natural_count("at_once", at_once)
    if engine.closed:
        raise EngineClosed("this engine was closed: load the model again")
    own = [{} for _ in prompts] if each is None else items("each", each, "a dict per prompt")
    if len(own) != len(prompts) or not all(isinstance(one, dict) for one in own):
        raise OptionError(
            f"each has {len(own)} items for {len(prompts)} prompts: give a dict of options for each"
        )
    engine.routing.options(options)  # what is wrong for all is raised at once
    started = StartedMany(ManyRuns([None] * len(prompts)))
    ready: list[Waiting] = []
    for number, (prompt, mine) in enumerate(zip(prompts, own, strict=True)):
        try:
            ready.append(_waiting(engine, number, prompt, options | mine))
        except OutlierError as error:
            started.runs.errors[number] = error
    steps = _timed(engine, _steps(engine, ready, at_once, started.runs), started.runs)

    def stopped() -> Interrupted | None:
        return ManyInterrupted(started.runs) if any(started.runs) else None

    started.steps = interruptible(engine._interrupts, steps, stopped)
    return started


def _waiting(engine: Engine, number: int, prompt: Prompt, options: dict[str, Any]) -> Waiting:
    tokens, settings = encoded(engine, prompt, options)
    settings, sampling = checked(engine, tokens, settings)
    return Waiting(number, tokens, settings, sampling, kinds_of(engine, tokens))


def _timed(engine: Engine, steps: Iterator[Taken], runs: ManyRuns) -> Generator[Taken, None, None]:
    """`steps`, and the seconds they take."""
    begin = engine._clock()
    try:
        yield from steps
    finally:
        runs.seconds = (engine._clock() - begin) / 1e9
    if runs.failed:
        raise SomeFailed(runs)


def _steps(
    engine: Engine, ready: Sequence[Waiting], at_once: int, runs: ManyRuns
) -> Generator[Taken, None, None]:
    groups: dict[Any, list[Waiting]] = {}
    for each in ready:
        groups.setdefault(kind_of(each.options), []).append(each)
    for group in groups.values():
        reason = "" if len(group) == 1 else _alone(engine, group)
        runs.alone = runs.alone or reason
        if reason or len(group) == 1 or at_once == 1:
            for one in group:
                yield from _one(engine, one, runs)
        else:
            yield from _together(engine, group, at_once, runs)


def _alone(engine: Engine, group: Sequence[Waiting]) -> str:
    """Why these prompts cannot share calls of the model; "" if they can."""
    options = [each.options for each in group]
    if any(one.measure_loss for one in options):
        return "with measure_loss the unchanged model reads each token, too"
    if options[0].kv_bits is not None:
        return "mlx-lm has no quantised KV cache of several prompts"
    if engine.options.spread:
        return "its experts are spread over ranks, which were not tried with several prompts"
    kv = make_prompt_cache(engine.model, options[0].max_kv_size)
    name = unmergeable(str(engine.config.get("model_type")), kv)
    return f"mlx-lm cannot merge this model's KV caches ({name})" if name else ""


def _one(engine: Engine, one: Waiting, runs: ManyRuns) -> Iterator[Taken]:
    """One prompt by itself, as `generate` runs it."""
    started = begin(engine, one.prompt, one.options)
    try:
        for step in started.steps:
            yield one.number, step
    except Interrupted as error:
        runs.runs[one.number] = error.run
        raise ManyInterrupted(runs) from None
    except (EngineClosed, CheckpointChanged) as error:
        runs.errors[one.number] = error
        raise
    except OutlierError as error:
        runs.errors[one.number] = error
    finally:
        runs.runs[one.number] = started.run


def _together(
    engine: Engine, group: Sequence[Waiting], at_once: int, runs: ManyRuns
) -> Iterator[Taken]:
    """Prompts that share the calls of the model, at most `at_once` at a time."""
    with engine._alone(), engine.routing.applied(group[0].options):
        check_files(engine)
        at_once = _that_fit(engine, group, at_once)
        batch, waiting = Batch(engine, at_once), list(group)
        try:
            with wired_limit(engine.model):
                while waiting or batch.lanes:
                    free = at_once - len(batch.lanes)
                    if waiting and free:
                        joining, waiting = waiting[:free], waiting[free:]
                        yield from batch.join(joining)
                    if batch.lanes:
                        yield from batch.step()
                    if engine._stop.is_set() and (batch.lanes or waiting):
                        raise Stopped
        except (Stopped, KeyboardInterrupt):
            batch.end("interrupted")
            _keep(batch, runs)
            if any(runs):
                raise ManyInterrupted(runs) from None
            raise KeyboardInterrupt from None
        except GeneratorExit:
            if not sys.is_finalizing():
                batch.end("interrupted")
            raise
        except Exception as error:
            batch.end("error", error)
            raise
        finally:
            _keep(batch, runs)


def _keep(batch: Batch, runs: ManyRuns) -> None:
    for number, (run, error) in batch.ended.items():
        runs.runs[number] = run
        if error is not None:
            runs.errors[number] = as_ours(error)


def _that_fit(engine: Engine, group: Sequence[Waiting], at_once: int) -> int:
    """How many of the longest prompts' KV caches fit in half of the free memory together."""
    if engine.options.force:
        return at_once
    free = MemoryBounds.now(engine._ram_gb, engine._kv_caches.kept_nbytes).machine.available // 2
    lengths = sorted((len(w.prompt.tokens) + w.options.max_tokens for w in group), reverse=True)
    while at_once > 1 and sum(lengths[:at_once]) * engine._needs.kv_token > free:
        at_once -= 1
    return at_once
