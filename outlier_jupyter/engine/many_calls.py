"""The part of `Engine` that runs several prompts together; `many_runs` and `batch` do the work."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any

from ..options import GenerateOptions, takes
from ..runs.many import ManyInterrupted, ManyRuns
from ..runs.run import Step
from .many_runs import AT_ONCE, start_many
from .prompts import Prompt


class ManyCalls:
    """Runs several prompts together."""

    @takes(GenerateOptions)
    def generate_many(
        self: Any, prompts: Sequence[Prompt], *, each: Sequence[dict[str, Any]] | None = None,
        at_once: int = AT_ONCE, on_step: Callable[[int, Step], object] | None = None,
        **options: Any,
    ) -> ManyRuns:  # fmt: skip
        """Generate a text for each prompt, several at a time, and return their runs.

        A layer looks up the experts of all prompts at once, so that one which several of them chose
        is read once. Each prompt has its own run, trace, seed, stop words and end; when one ends
        the next one joins. Hits and bytes are counted once: what is read counts for one of the runs
        that chose it, in turn, and is a hit for the others. Times are those of the shared calls.
        Subscribers receive no events of runs that share their calls.

        Prompts run one after the other where mlx-lm cannot merge their KV caches (`alone` of the
        result says so), and in groups where their routing or KV options differ.

        Args:
            prompts: texts or conversations, as of `generate`.
            each: options of each prompt, on top of `options`: `[{"seed": 1}, {"seed": 2}]`.
            at_once: the most prompts that run together; fewer if memory is short.
            on_step: called with a prompt's number, from 0, and each of its steps.
            **options: the fields of `GenerateOptions`, for all.

        Raises:
            SomeFailed: at the end, if prompts failed; `.runs` has the runs of all others.
            ManyInterrupted: stopped by the user; `.runs` has what each made.
            OptionError, EngineBusy, EngineClosed: the engine stays as it was.
        """
        started = start_many(self, prompts, each, at_once, options)
        with self.run_lock.ends_by_itself(), self._interrupts:
            for number, step in started.steps:
                if on_step is not None:
                    on_step(number, step)
            if self._interrupts.noted and any(started.runs):  # after the last step
                raise ManyInterrupted(started.runs)
        return started.runs

    @takes(GenerateOptions)
    def stream_many(
        self: Any, prompts: Sequence[Prompt], *, each: Sequence[dict[str, Any]] | None = None,
        at_once: int = AT_ONCE, **options: Any,
    ) -> Generator[tuple[int, Step], None, ManyRuns]:  # fmt: skip
        """Yield (number of the prompt, its step) as `generate_many` decodes.

        Arguments and errors are those of `generate_many`; leaving the loop early ends all runs as
        interrupted. The generator's return value are the runs.
        """
        started = start_many(self, prompts, each, at_once, options)
        yield from started.steps
        return started.runs
