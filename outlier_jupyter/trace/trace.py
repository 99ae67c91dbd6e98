"""A finished recording: plain arrays and their metadata, however they were recorded.

A *step* is one token read by the model, in prefill or in decode. A *call* is one forward pass: a
prefill chunk of many steps, or one decode step. Layers are the MoE layers only, from 0, in the
model's order; `info.layer_names` has their module names.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .. import values
from ..display import draw
from ..values import checked, integer, rate
from ..values import path as path_of
from . import files, tables, what_if
from .eviction_order import EvictionOrder, EvictionOrders
from .explain import Explainer, Explanation
from .schema import LAYER_PARTS, TraceInfo
from .what_if_hosts import HOSTS, what_if_hosts

if TYPE_CHECKING:
    import pandas
    import pyarrow

    from ..residency.eviction_order import CacheStart


@dataclass(frozen=True)
class Trace:
    """What one run did, step by step. A step is a token read, a call a forward pass.

    Attributes:
        tokens: int32 [steps], the token read in each step.
        produced: int32 [steps], the token sampled after it, or -1 if none was.
        phase: uint8 [steps], 0 prefill, 1 decode.
        call: int32 [steps], the row of `calls` this step belongs to.
        step_ns: int64 [steps], wall time; the steps of a prefill call share its time equally.
        experts: int16 [steps, layers, k], the router's ids in its order; -1 where a layer has
            a smaller k than the widest or the call was interrupted.
        weights: float32 [steps, layers, k], the factor of each expert's output; NaN where it is
            unknown.
        hits: bool [steps, layers, k], whether the expert was resident before the call's reads
            in that layer.
        reads, evictions, calls: structured, see `READ`, `EVICTION`, `CALL`.
        resident_at_start: int16 [n, 2], the (layer, expert) pairs resident when the run began, in
            eviction order.
        info: what was run, on what, and how.
        layer_us: int32 [calls, layers, parts], microseconds of each layer by `LAYER_PARTS`; [0, …]
            if not recorded.
        kl: float32 [steps], KL(exact ‖ run) in nats after each step (`measure_loss`), NaN where
            not measured; [0] if nothing was.
        agrees: bool [steps], whether the exact model would have chosen the same token; False where
            `kl` is NaN.
        logprobs: float32 [steps], the model's log-probability of the token after each step, in
            nats: of `produced`, and with `score_prompt` of the prompt's next token; NaN where there
            is none. Like the next four [0] if not recorded (or [0, 0]). The model's own
            distribution, before penalties, bias, masks and temperature.
        ranks: int32 [steps], that token's rank; 1 is the likeliest, 0 none.
        entropies: float32 [steps], of the whole distribution, in nats.
        alternatives: int32 [steps, n], the n likeliest tokens, likeliest first; -1 none.
        alternative_logprobs: float32 [steps, n], their log-probabilities.
        kinds: uint8 [steps + 1], what each token of the sequence belongs to, by `KINDS` of
            `trace.segments`: the tokens read, then the last one sampled; 255 where it is unknown.
            [0] if not recorded.
        owners: int16 [layers, experts], the rank of each expert, -1 where a layer has fewer; [0, 0]
            where one process computes.
        rank_us: int32 [calls, layers, ranks], microseconds that each rank took for its experts;
            [0, 0, 0] where one process computes.
    """

    tokens: npt.NDArray[np.int32]
    produced: npt.NDArray[np.int32]
    phase: npt.NDArray[np.uint8]
    call: npt.NDArray[np.int32]
    step_ns: npt.NDArray[np.int64]
    experts: npt.NDArray[np.int16]
    weights: npt.NDArray[np.float32]
    hits: npt.NDArray[np.bool_]
    reads: npt.NDArray[np.void]
    evictions: npt.NDArray[np.void]
    calls: npt.NDArray[np.void]
    resident_at_start: npt.NDArray[np.int16]
    info: TraceInfo
    layer_us: npt.NDArray[np.int32] = field(
        default_factory=lambda: np.zeros((0, 0, len(LAYER_PARTS)), np.int32)
    )
    kl: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    agrees: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))
    logprobs: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    ranks: npt.NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    entropies: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    alternatives: npt.NDArray[np.int32] = field(default_factory=lambda: np.zeros((0, 0), np.int32))
    alternative_logprobs: npt.NDArray[np.float32] = field(
        default_factory=lambda: np.zeros((0, 0), np.float32)
    )
    kinds: npt.NDArray[np.uint8] = field(default_factory=lambda: np.zeros(0, np.uint8))
    owners: npt.NDArray[np.int16] = field(default_factory=lambda: np.zeros((0, 0), np.int16))
    rank_us: npt.NDArray[np.int32] = field(default_factory=lambda: np.zeros((0, 0, 0), np.int32))

    @property
    def steps(self) -> int:
        """The number of tokens that the model read."""
        return len(self.tokens)

    @property
    def layers(self) -> int:
        """The number of MoE layers recorded; 0 for a dense model."""
        return int(self.experts.shape[1])

    @property
    def nbytes(self) -> int:
        """Bytes of all its arrays."""
        return sum(value.nbytes for value in vars(self).values() if isinstance(value, np.ndarray))

    def __repr__(self) -> str:
        return (
            f"Trace(model={self.info.model!r}, steps={self.steps}, layers={self.layers}, "
            f"k={self.experts.shape[2]}, reads={len(self.reads)}, reader={self.info.reader!r})"
        )

    def has(self, name: str) -> bool:
        """Whether the array `name` was recorded; traces of other programs may lack some."""
        return name not in self.info.absent

    @checked(path=path_of)
    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the trace to one file, atomically; `Run.save` stores the texts as well.

        Raises:
            TraceError: it cannot be written; an existing file is unchanged.
        """
        return files.write(self, path, None)

    @classmethod
    @checked(path=path_of)
    def load(cls, path: str | os.PathLike[str]) -> Trace:
        """A saved trace, or another program's safetensors file with an array `experts`.

        Raises:
            TraceError: no such file, truncated, not a trace, or of an unknown version.
        """
        return cls.load_with_run(path)[0]

    @classmethod
    def load_with_run(cls, path: str | os.PathLike[str]) -> tuple[Trace, dict[str, Any] | None]:
        """The trace in a file, and the texts of its run, None without.

        Raises:
            TraceError: as `load`.
        """
        fields, run = files.read(path)
        return cls(**fields), run

    def view(self) -> Any:
        """The trace in the live view, without model or text; a widget."""
        return draw("Trace.view", self)

    def to_pandas(self, rows: str = "tokens") -> pandas.DataFrame:
        """One row per token (`tokens`), per token and layer (`layers`), or per read (`reads`).

        Columns that were not recorded are left out.

        Raises:
            OptionError: an unknown value of `rows`.
        """
        return tables.data_frame(self, rows)

    def to_arrow(self, rows: str = "tokens") -> pyarrow.Table:
        """The same rows as an Arrow table; needs the package pyarrow.

        Raises:
            OptionError: an unknown value of `rows`.
            TraceError: pyarrow is not installed.
        """
        return tables.arrow_table(self, rows)

    def times(self) -> pandas.DataFrame:
        """One row per token: its time in ms, and the parts of it, `<part>_ms`."""
        return tables.times_frame(self)

    @checked(step=integer, memory_rate=rate)
    def explain(self, step: int, memory_rate: float | None = None) -> Explanation:
        """Why a step took as long as it did: see `trace.explain`.

        Args:
            step: counted from 0, with the prompt; negative numbers count from the end.
            memory_rate: bytes a second of memory, if the trace does not have it.

        Raises:
            OptionError: no such step.
            TraceError: the trace has no times.
        """
        return self._explainer.explain(step, memory_rate=memory_rate)

    @property
    def shared(self) -> bool:
        """Whether the run shared calls with other prompts, whose reads are not in this trace."""
        at_once = self.info.options.get("at_once")
        return isinstance(at_once, int) and at_once > 1

    @cached_property
    def _explainer(self) -> Explainer:
        return Explainer(self)

    @checked(step=integer)
    def eviction_order(self, step: int = -1) -> EvictionOrder:
        """The resident experts after a step in the order in which the policy would evict them.

        It is the order of the run's own policy, which replays the routing up to that step. It is
        exact for the newest runs of a loaded engine, and where the policy had nothing to learn
        from earlier runs; `exact` says so.

        Args:
            step: counted from 0, with the prompt; negative numbers count from the end.

        Raises:
            OptionError: no such step.
            TraceError: the policy is not registered or has no order, or the trace has no cache.
        """
        return self._orders.after(step)

    @cached_property
    def _orders(self) -> EvictionOrders:
        return EvictionOrders(self, self.__dict__.get("_start"))

    def remember(self, start: CacheStart) -> None:
        """Keep the engine's cache as it was before the run, which makes `eviction_order` exact."""
        self.__dict__["_start"] = start

    def what_if(
        self,
        slots: Sequence[int] | None = None,
        policies: Sequence[str] | None = None,
        after: Sequence[Trace] = (),
    ) -> pandas.DataFrame:
        """What other caches would have hit and read: see `trace.what_if`."""
        return what_if.what_if(self, slots, policies, _traces(after))

    def what_if_hosts(self, hosts: Sequence[int] = HOSTS, **options: Any) -> pandas.DataFrame:
        """The same with the experts spread over n machines: see `trace.what_if_hosts`."""
        return what_if_hosts(self, hosts, **options)

    def sizing(self) -> Any:
        """The old name of `run.figures.what_if()`, kept for one release; it was a slider."""
        return draw("Trace.sizing", self)

    def slots_for(self, hit_rate: float, policy: str = "default", **options: Any) -> int:
        """The smallest cache with this hit rate in decode: see `trace.what_if`."""
        if "after" in options:
            options["after"] = _traces(options["after"])
        return what_if.slots_for(self, hit_rate, policy, **options)


def _traces(after: Any) -> list[Trace]:
    wanted = "traces, such as run.trace, in a list"
    traces = [after] if isinstance(after, Trace) else values.items("after", after, wanted)
    if not all(isinstance(trace, Trace) for trace in traces):
        raise values.refused("after", after, wanted)
    return traces
