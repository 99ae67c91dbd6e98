"""What several prompts that ran together leave: their runs, and the errors of those that failed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from ..errors import OutlierError
from ..formatting import count, three
from .run import Interrupted, Run


@dataclass
class ManyRuns:
    """The runs of `Engine.generate_many`, in the order of its prompts.

    Indexing returns a prompt's run, or raises its error; iterating yields the runs that there are.

    Attributes:
        runs: one per prompt; None where it never began.
        errors: one per prompt; None where nothing failed. A run that failed on its way is kept.
        alone: why prompts ran one after the other; "" if they ran together.
        seconds: from the first call to the last.
    """

    runs: list[Run | None]
    errors: list[OutlierError | None] = field(default_factory=list)
    alone: str = ""
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.errors = self.errors or [None] * len(self.runs)

    def __len__(self) -> int:
        return len(self.runs)

    def __iter__(self) -> Iterator[Run]:
        return (run for run in self.runs if run is not None)

    def __getitem__(self, number: int) -> Run:
        error, run = self.errors[number], self.runs[number]
        if error is not None:
            raise error
        if run is None:
            raise IndexError(f"prompt {number} never began: the runs were interrupted before")
        return run

    @property
    def generated(self) -> int:
        """The tokens generated, of all runs together."""
        return sum(run.generated for run in self)

    @property
    def tokens_per_second(self) -> float:
        """Generated tokens of all runs per second, with the prompts' reading."""
        return self.generated / self.seconds if self.seconds else float("nan")

    @property
    def failed(self) -> list[int]:
        """The prompts that failed, from 0."""
        return [number for number, error in enumerate(self.errors) if error is not None]

    def __repr__(self) -> str:
        words = [
            f"{count(len(self), 'prompt')}: {count(self.generated, 'token')} in "
            f"{three(self.seconds)} s, {three(self.tokens_per_second)} tokens/s together"
        ]
        if self.alone:
            words.append(f"one after the other: {self.alone}")
        words += [f"prompt {i} failed: {self.errors[i]}" for i in self.failed]
        return "\n".join(words)


class SomeFailed(OutlierError):
    """Some of several prompts failed; `runs` has the runs of all others, and the errors."""

    def __init__(self, runs: ManyRuns) -> None:
        first = runs.failed[0]
        super().__init__(
            f"{len(runs.failed)} of {count(len(runs), 'prompt')} failed, the first of them prompt "
            f"{first}: {runs.errors[first]}; this error's .runs has the others"
        )
        self.runs = runs


class ManyInterrupted(Interrupted):
    """The user stopped several runs; `runs` has what each made, `run` the first of those."""

    def __init__(self, runs: ManyRuns) -> None:
        begun = list(runs)
        KeyboardInterrupt.__init__(
            self,
            f"stopped after {count(runs.generated, 'token')} of {count(len(runs), 'prompt')}; the "
            "partial runs are kept",
        )
        self.run = begun[0]
        self.runs = runs
