"""Replays one trace with other cache sizes and policies: hits, reads and predicted speed of each.

The lookups are the trace's own, call by call; all distinct experts of a call and layer are looked
up at once. If every call has one token, a single pass of exact stack distances gives LRU at all
sizes. Prompts in chunks, and all other policies, are replayed size by size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import OptionError, TraceError
from ..events import DECODE
from ..formatting import percent
from ..residency.policies import POLICIES, canonical_name
from ..residency.replay import Curve, RecordedRouting, lru_curve, simulate
from ..values import integers, number, one_of, text, texts
from .cost_model import Cost, fit
from .segments import ANSWER, KINDS, THINKING, TOOL_CALL, kinds_read
from .validate import check_routing

if TYPE_CHECKING:
    import pandas

    from .trace import Trace

Row = dict[str, Any]


def routing_of(trace: Trace) -> RecordedRouting:
    """The routing of a trace, as the replay takes it.

    Raises:
        TraceError: the trace has no MoE layers.
    """
    sizes = trace.info.experts_per_layer
    if len(sizes) != trace.layers or not trace.layers:
        raise TraceError("this trace has no MoE layers, so there is no cache to replay")
    check_routing(trace)
    starts = np.append(trace.calls["first_step"], trace.steps).astype(np.int64)
    banks = trace.info.banks or (0,) * trace.layers
    return RecordedRouting(trace.experts, starts, sizes, np.array(banks, np.int64))


def what_if(
    trace: Trace,
    slots: Sequence[int] | None = None,
    policies: Sequence[str] | None = None,
    after: Sequence[Trace] = (),
) -> pandas.DataFrame:
    """What the trace's lookups would have hit with other caches.

    Args:
        slots: sizes of the cache in experts; by default from half a working set to all experts.
        policies: their names, by default all; "belady" knows the future and is the upper bound.
        after: the traces of earlier runs, oldest first, the first from an empty cache. Replaying
            them gives the cache's contents and the policy's state. Without them every size begins
            with the experts resident when the trace began, as far as they fit.

    Returns:
        One row per policy and size: policy, slots, share (of all experts), gb (10^9 bytes of
        experts); lookups, hits, hit_rate, reads, bytes of the whole run; decode_lookups,
        decode_hits, decode_hit_rate, decode_bytes, decode_waits (layers that waited for a read)
        of decode; tokens_per_second, predicted for decode by the cost fitted to the trace's own
        times, NaN without times. Where several kinds of tokens were generated, as thinking and an
        answer, the hit rate of each: thinking_hit_rate, answer_hit_rate. `attrs["cost"]` describes
        that cost; `attrs["note"]` says why a replay differs from the run, "" if it does not.

    Raises:
        OptionError: an unknown policy, or a size below 1.
        TraceError: the trace has no MoE layers, or `after` is of another model.
    """
    import pandas

    replays = WhatIf(trace, after)
    policies = tuple(POLICIES) if policies is None else texts("policies", policies)
    sizes = replays.sizes() if slots is None else integers("slots", slots)
    if not (policies and sizes):
        raise OptionError("there is nothing to replay: give at least one size and one policy")
    rows = [replays.row(_known(policy), size) for policy in policies for size in sizes]
    for row, named in zip(rows, (p for p in policies for _ in sizes), strict=True):
        row["policy"] = canonical_name(named)
    frame = pandas.DataFrame(rows)
    frame.attrs["cost"] = str(replays.cost)
    frame.attrs["note"] = "; ".join(dict.fromkeys(filter(None, map(note, [*after, trace]))))
    return frame


def note(trace: Trace) -> str:
    """Why a replay of this trace differs from the run; "" if it does not."""
    if trace.shared:
        return (
            "the run shared its calls and the cache with other prompts, whose lookups are not in "
            "the trace, so this replay is the prompt by itself"
        )
    if not trace.info.options.get("measure_loss"):
        return ""
    return (
        "the run measured its loss: the exact model used the same cache, and its lookups are not "
        "in the trace, so this replay is the run without them"
    )


def slots_for(
    trace: Trace, hit_rate: float, policy: str = "default", after: Sequence[Trace] = ()
) -> int:
    """The fewest slots with which `hit_rate` (0 to 1) of decode's lookups hit.

    Found by bisection, which assumes that more slots never hit less. The first lookup of an expert
    misses with any cache, so not every rate can be reached.

    Raises:
        OptionError: an unknown policy, an invalid rate, or one that no cache reaches.
        TraceError: see `what_if`.
    """
    hit_rate = number("hit_rate", hit_rate)
    if not 0 < hit_rate <= 1:
        raise OptionError(f"hit_rate={hit_rate!r} cannot be used: give more than 0, at most 1")
    replays, name = WhatIf(trace, after), _known(policy)
    low, high = 1, sum(trace.info.experts_per_layer)
    best = replays.row(name, high)["decode_hit_rate"]
    if not best >= hit_rate:
        raise OptionError(
            f"no cache hits {percent(hit_rate)} of this trace's decode: all {high:,} experts in "
            f"RAM hit {percent(best)}, since the first lookup of an expert misses; give a lower "
            "rate"
        )
    while low < high:
        middle = (low + high) // 2
        if replays.row(name, middle)["decode_hit_rate"] >= hit_rate:
            high = middle
        else:
            low = middle + 1
    return high


def _known(policy: str) -> str:
    return one_of("policy", canonical_name(text("policy", policy)), POLICIES)


class WhatIf:
    """Replays one trace with several caches; see `what_if`."""

    def __init__(self, trace: Trace, after: Sequence[Trace] = ()) -> None:
        self._trace = trace
        self._routing = self._whole = routing_of(trace)
        for before in reversed(after):
            earlier = routing_of(before)
            if earlier.experts_per_layer != self._routing.experts_per_layer:
                raise TraceError("the traces in `after` are of a different model")
            self._whole = self._whole.after(earlier)
        # With `after`, replaying the earlier runs fills the cache.
        self._start = np.zeros((0, 2), np.int16) if after else trace.resident_at_start
        self._decode = trace.calls["phase"] == DECODE
        self._nbytes = np.array(trace.info.expert_nbytes or (0,) * trace.layers, np.int64)
        self._generated = _generated(trace)
        self._curves: dict[int, Curve] = {}
        self.cost: Cost = fit(trace)

    def sizes(self) -> list[int]:
        """From half a working set to all experts, with the trace's own size."""
        working_set, total = self._routing.experts[0].size, sum(self._routing.experts_per_layer)
        factors = (0.5, 0.9, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32)
        sizes = {round(working_set * factor) for factor in factors}
        sizes |= {self._trace.info.slots, total}
        return sorted(size for size in sizes if 1 <= size <= total)

    def row(self, policy: str, slots: int) -> Row:
        """One row of `what_if`."""
        if slots < 1:
            raise OptionError(f"a cache of {slots} slots holds no expert: give 1 or more")
        counts = self._by_curve(slots) if policy == "lru" and not self._generated else None
        by_kind: Row = {}
        if counts is None:
            counts, by_kind = self._by_replay(policy, slots)
        hits, reads, nbytes, waits = counts
        per_step = (self._trace.experts >= 0).sum(axis=(1, 2))
        lookups = np.array([per_step.sum(), per_step[self._trace.phase == DECODE].sum()])
        sizes = np.array(self._routing.experts_per_layer)
        gb = float((sizes * self._nbytes).sum()) / int(sizes.sum()) * slots / 1e9
        tokens = int((self._trace.phase == DECODE).sum())
        return {
            "policy": policy,
            "slots": slots,
            "share": slots / int(sizes.sum()),
            "gb": gb if self._nbytes.any() else float("nan"),
            "lookups": int(lookups[0]),
            "hits": int(hits.sum()),
            "hit_rate": _ratio(hits.sum(), lookups[0]),
            "reads": int(reads.sum()),
            "bytes": int(nbytes.sum()),
            "decode_lookups": int(lookups[1]),
            "decode_hits": int(hits[DECODE]),
            "decode_hit_rate": _ratio(hits[DECODE], lookups[1]),
            "decode_bytes": int(nbytes[DECODE]),
            "decode_waits": int(waits[DECODE]),
            "tokens_per_second": self.cost.tokens_per_second(
                tokens, float(waits[DECODE]), float(nbytes[DECODE])
            ),
            **by_kind,
        }

    def _by_replay(self, policy: str, slots: int) -> tuple[npt.NDArray[np.int64], Row]:
        """Hits, reads, bytes and layers that waited, in prefill and in decode: int64 [4, 2].

        Beside them the hit rates of the generated kinds.
        """
        outcome = simulate(self._whole, policy, slots, self._start).last(self._routing)
        in_decode = self._trace.phase == DECODE
        per_step = outcome.hits.sum(axis=(1, 2))
        reads = outcome.reads.sum(axis=1)
        nbytes = outcome.reads.astype(np.int64) @ self._nbytes
        waits = (outcome.reads > 0).sum(axis=1)
        rows = [(per_step, in_decode), *((part, self._decode) for part in (reads, nbytes, waits))]
        lookups = (self._trace.experts >= 0).sum(axis=(1, 2))
        by_kind: Row = {
            f"{kind.replace(' ', '_')}_hit_rate": _ratio(per_step[mine].sum(), lookups[mine].sum())
            for kind, mine in self._generated.items()
        }
        return np.array([[part[~mine].sum(), part[mine].sum()] for part, mine in rows]), by_kind

    def _by_curve(self, slots: int) -> npt.NDArray[np.int64] | None:
        """The same for LRU, from stack distances; None where these are not exact."""
        if self._whole is not self._routing or (np.diff(self._routing.starts) > 1).any():
            return None
        total = np.zeros((4, 2), np.int64)
        for mine, share in self._routing.banks(slots):
            bank = int(self._routing.bank[mine][0])
            if bank not in self._curves:
                self._curves[bank] = lru_curve(
                    self._routing, self._decode, self._nbytes.tolist(), self._start, bank
                )
            curve = self._curves[bank]
            if share < curve.widest:
                return None
            total[0] += curve.hit(share)
            total[1:] += curve.missed(share)
        return total


def _generated(trace: Trace) -> dict[str, npt.NDArray[np.bool_]]:
    """The decode steps of each kind, if there are several, as thinking and answer."""
    kinds, decode = kinds_read(trace), trace.phase == DECODE
    there = [code for code in (THINKING, ANSWER, TOOL_CALL) if (decode & (kinds == code)).any()]
    return {KINDS[c]: np.asarray(decode & (kinds == c)) for c in there if len(there) > 1}


def _ratio(part: float, whole: float) -> float:
    return float(part) / float(whole) if whole else float("nan")
