"""A finished run: its text, its trace, why it ended, and its views."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..display import draw
from ..errors import OptionError, TraceError
from ..events import DECODE
from ..formatting import count as count_words
from ..options import sampling_words
from ..system import files
from ..trace import Trace
from ..trace.files import write
from ..trace.measures import Summary, summarise
from ..trace.segments import Span, name_of
from ..values import checked, count, instance, integer, items, rate, refused
from ..values import path as path_of
from ..values import seed as seed_of
from .origin import Branch, Origin, engine_of
from .run_texts import RunTexts
from .saved_run import fields_of, saved_form
from .spread import Spread
from .step import Step as Step
from .token_table import TokenIds, TokensOfRun
from .token_table import produced_by as produced_by

if TYPE_CHECKING:
    from ..trace.eviction_order import EvictionOrder
    from ..trace.explain import Explanation
    from ..trace.routing_measures import RoutingMeasures
    from ..trace.segment_answers import SegmentsAnswer
    from .token_experts import ExpertUses, TokenExperts


@dataclass(frozen=True)
class Run(RunTexts):
    """A finished, or interrupted, generation.

    Attributes:
        prompt: the prompt as passed; a conversation as lines of `role: content`.
        encoded: the text the model read, after the chat template.
        text: the generated text, without a stop word; after `prefilled`, if the answer began so.
        tokens: int32 [generated], the generated ids, with an end-of-turn token. As a function,
            `run.tokens()`, a table of them with their probabilities: see `token_table`.
        finish_reason: `stop`, `length` or `interrupted`.
        trace: what happened, step by step.
        text_ends: int32 [generated], the length of the text released up to each token. The last
            may be less than that of `text`, whose end was held back for a stop word. Empty if
            unknown.
        spans: what the text's parts are, without tags: the code of a kind (`trace.segments`), begin
            and end in characters.
        prefilled: the beginning of `text` that was there before the first of `tokens`: the answer
            that a branch goes on with, or of `prefill_answer`; else "".
        branched: where a branch left another run; None for other runs.
        reused: int32, the prompt's first ids, which were not read (`reuse_kv`); None if unknown.
        origin: the engine and what it was asked; None for a loaded run.
        repeats: all runs of a repeated prompt, this one last; else empty.
        spell: a function from an id to its bytes, by the model's tokenizer; None without it.
    """

    prompt: str
    encoded: str
    text: str
    tokens: TokenIds
    finish_reason: str
    trace: Trace
    text_ends: npt.NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    spans: tuple[Span, ...] = ()
    prefilled: str = ""
    branched: Branch | None = None
    reused: npt.NDArray[np.int32] | None = field(default=None, repr=False, compare=False)
    origin: Origin | None = field(default=None, repr=False, compare=False)
    repeats: tuple[Run, ...] = field(default=(), repr=False, compare=False)
    spell: Callable[[int], bytes] | None = field(default=None, repr=False, compare=False)
    _token_bytes: dict[int, bytes] = field(default_factory=dict, repr=False, compare=False)
    _brief: list[bool] = field(default_factory=list, repr=False, compare=False)

    @property
    def generated(self) -> int:
        """The number of generated tokens."""
        return len(self.tokens)

    @property
    def figures(self) -> Any:
        """Plotly figures: `.routing()`, `.residency()`, `.latency()`."""
        return draw("Run.figures", self.trace)

    @checked(pace=rate)
    def view(self, pace: float | None = None, *, beside: Run | Trace | None = None) -> Any:
        """The live view, at `pace` tokens per second; with `beside` of both, see `side_by_side`."""
        return draw("Run.view", self, pace) if beside is None else draw("Run.beside", self, beside)

    @classmethod
    @checked(trace=instance(Trace, wanted="a trace"))
    def of(cls, trace: Trace) -> Run:
        """A run of a bare trace: its sampled tokens, without text."""
        sampled = trace.produced[trace.produced >= 0]
        return cls("", "", "", sampled.view(TokenIds), "stop", trace)

    @checked(path=path_of)
    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the run to one file: its trace (`Trace.load` reads it too) and its texts.

        Raises:
            TraceError: it cannot be written; an existing file is unchanged.
        """
        return write(self.trace, path, saved_form(self, self._bytes_of))

    @classmethod
    @checked(path=path_of)
    def load(cls, path: str | os.PathLike[str]) -> Run:
        """A saved run, or the run of a saved trace as by `of`.

        Raises:
            TraceError: no such file, truncated, not a trace, or of an unknown version.
        """
        trace, saved = Trace.load_with_run(path)
        return cls.of(trace) if saved is None else cls(trace=trace, **fields_of(saved))

    @property
    def sampling(self) -> str:
        """How it was sampled: "temperature 0.6, top-p 0.95, seed 7" or "greedy"; "" if unknown.

        With this seed and these options `Engine.generate` repeats the run.
        """
        return sampling_words(self.trace.info.options)

    def summary(self) -> Summary:
        """The headline numbers."""
        return summarise(self.trace)

    def measures(self, phase: str | None = "decode") -> RoutingMeasures:
        """Measures of its routing, one number per layer: `routing_measures` of its trace.

        Args:
            phase: "prefill", "decode", a kind of token such as "thinking", or None for all.
        """
        from ..trace.routing_measures import routing_measures  # imports compiled code

        return routing_measures(self.trace, phase)

    @checked(permutations=count, seed=seed_of)
    def compare_segments(
        self,
        first: str = "thinking",
        second: str = "answer",
        permutations: int = 999,
        seed: int = 0,
    ) -> SegmentsAnswer:
        """Whether routing differs between two kinds of tokens: `segments_answer` of its trace."""
        from ..trace.segment_answers import segments_answer  # imports compiled code

        return segments_answer(self.trace, first, second, permutations, seed)

    @checked(token=integer, memory_rate=rate)
    def explain(self, token: int, memory_rate: float | None = None) -> Explanation:
        """Why a generated token took as long as it did, as text and as a figure.

        Args:
            token: its number as in the live view, from 1; negative numbers count from the end.
            memory_rate: bytes a second of memory, if the trace does not have it.

        Raises:
            OptionError: no such token.
            TraceError: the trace has no times.
        """
        step = self.step_of(token)
        explainer = self.trace._explainer
        return explainer.explain(step, step_names(self), memory_rate)

    def branch(
        self, token: int, choose: int | str | None = None, *, rank: int | None = None,
        **options: Any,
    ) -> Run:  # fmt: skip
        """Go on from a generated token with another in its place: see `Engine.branch`.

        Raises:
            OptionError: no such token or choice, or the run was loaded from a file.
        """
        found: Run = engine_of(self).branch(self, token, choose, rank=rank, **options)
        return found

    @checked(token=integer)
    def eviction_order(self, token: int = -1) -> EvictionOrder:
        """Which expert would be evicted next after a generated token: `Trace.eviction_order`."""
        return self.trace.eviction_order(self.step_of(token))

    @checked(token=integer)
    def step_of(self, token: int) -> int:
        """The step that produced a generated token, numbered as in `explain`.

        Raises:
            OptionError: no such token.
        """
        steps = produced_by(self.trace)
        at = token - 1 if token > 0 else token
        if token == 0 or not -len(steps) <= at < len(steps):
            raise OptionError(
                f"there is no token {token!r}: this run generated {len(steps)}, numbered from 1"
            )
        return int(steps[at])

    def tokens_of(self, layer: int, expert: int) -> ExpertUses:
        """The tokens that chose an expert; for several runs, `outlier_jupyter.tokens_of`.

        Raises:
            OptionError: no such expert.
        """
        return draw("Run.tokens_of", self, layer, expert)

    def experts_of(self, tokens: int | slice | Iterable[int]) -> TokenExperts:
        """The experts that generated tokens, numbered as in `explain`, chose; see `experts_of`.

        Raises:
            OptionError: no such tokens.
        """
        return draw("Run.experts_of", self, tokens)

    @checked(path=path_of)
    def report(self, path: str | os.PathLike[str]) -> Path:
        """Write the run to one self-contained HTML page: live view, tables, provenance.

        Raises:
            TraceError: it cannot be written.
        """
        return files.write(path, draw("Run.report", self), TraceError, "the report")

    def spread(self) -> Spread:
        """Median and range over `repeats`; of a single run its own numbers."""
        return Spread.of([run.summary() for run in self.repeats or (self,)])

    def brief_once(self) -> Run:
        """Make the next rich display one line, after the magic has shown the whole view."""
        self._brief[:] = [True]
        return self

    def __repr__(self) -> str:
        sampled = f", {self.sampling}" if self.trace.info.options.get("temperature") else ""
        tokens = count_words(self.generated, "token")
        return f"Run({tokens}, {self.finish_reason}{sampled} · {self.summary()})"

    def __str__(self) -> str:
        return self.text

    def _ipython_display_(self) -> None:
        draw("Run.show", self, bool(self._brief))  # the live view, where a user can use it

    def _repr_mimebundle_(
        self, include: object = None, exclude: object = None
    ) -> dict[str, str | bytes]:
        if self._brief:
            self._brief.clear()
            # A notebook breaks lines of plain text within words.
            return {"text/plain": repr(self), "text/html": f"<code>{escape(repr(self))}</code>"}
        return draw("Run.mimebundle", self)


setattr(Run, "tokens", TokensOfRun())  # noqa: B010, to a type checker it is a plain field


def step_names(run: Run) -> dict[int, str]:
    """The label of each step: `token 12 “the”` if it produced a token, else `prompt token 3`."""
    names = {
        int(step): f"prompt token {step + 1}" for step in np.flatnonzero(run.trace.phase != DECODE)
    }
    for number, step in enumerate(produced_by(run.trace).tolist(), 1):
        text = run.text_of(number).replace("\n", "↵").replace("\t", "⇥")
        kind = name_of(int(run.trace.kinds[step + 1])) if len(run.trace.kinds) else "answer"
        names[step] = f"token {number}" + (f" “{text}”" if text else "")
        names[step] += f" ({kind})" if kind in ("thinking", "tool call") else ""
    return names


def repeated(runs: Sequence[Run]) -> Run:
    """The last of several runs of one prompt, with all of them as its `repeats`.

    `repeated([engine.generate(prompt) for _ in range(5)]).spread()` is `%%outlier --repeat 5`.
    """
    found: list[Run] = items("runs", runs, "runs, in a list")
    if not found or not all(isinstance(run, Run) for run in found):
        raise refused("runs", runs, "one run or more, in a list")
    last = found[-1]
    return last if len(found) == 1 else replace(last, repeats=tuple(found))


class Interrupted(KeyboardInterrupt):
    """The user stopped a run; `run` has the tokens, text and trace until then.

    It is a KeyboardInterrupt, so a notebook's "Run All" stops there. In a process that ignores
    SIGINT, as in the background of a shell script, Ctrl-C has no effect; `engine.stop()` from
    another thread does.
    """

    def __init__(self, run: Run) -> None:
        super().__init__(
            f"stopped after {count_words(run.generated, 'token')}; the partial run is kept"
        )
        self.run = run

    def _render_traceback_(self) -> list[str]:
        """IPython's hook: one line in the cell instead of a stack of internals."""
        return [f"Interrupted: {self}"]
