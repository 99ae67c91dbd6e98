"""The answer of `%outlier what-if --hosts`: a sentence, a table, and what it rests on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any

from ..display import draw
from ..formatting import Table, percent, size_words, three
from .answers import FrameAnswer, factor_text
from .what_if_hosts import HOSTS, what_if_hosts

if TYPE_CHECKING:
    from .trace import Trace


@dataclass(frozen=True, repr=False, eq=False)
class HostsAnswer(FrameAnswer):
    """What a run would read, and how fast it would be, on several machines."""

    def _repr_html_(self) -> str:
        return draw("HostsAnswer.html", self)


def hosts_answer(trace: Trace, hosts: Sequence[int] = HOSTS, **options: Any) -> HostsAnswer:
    """What the run would be on n machines; arguments and errors are those of `what_if_hosts`."""
    frame = what_if_hosts(trace, hosts, **options)
    rows = frame.to_dict("records")
    best = max(rows, key=lambda row: row["tokens_per_second"])
    prediction = f"By prediction from {frame.attrs['rests_on']}"
    one = what_if_hosts(trace, [1], **options).iloc[0]
    if isfinite(best["tokens_per_second"]) and isfinite(one.tokens_per_second):
        ratio = best["tokens_per_second"] / float(one.tokens_per_second)
        sentence = (
            f"{prediction}, {best['hosts']} of these numbers of machines would be the fastest: "
            f"{three(best['tokens_per_second'])} tokens/s, {factor_text(ratio)} × one machine's."
        )
        if best["hosts"] == 1:
            sentence = (
                f"{prediction}, one machine is the fastest: "
                f"{three(best['tokens_per_second'])} tokens/s; what more of them save, the "
                "exchange of each layer takes."
            )
    else:
        sentence = (
            f"On {best['hosts']} machines, {percent(best['decode_hit_rate'])} of lookups would hit "
            "in decode; no speed is predicted."
        )
    return HostsAnswer(trace, sentence, _table(rows), frame.attrs["assumed"], frame)


def _table(rows: Sequence[dict[Any, Any]]) -> Table:
    """A row per number of machines."""
    head = ["machines", "hits", "read by the busiest", "× its share", "in RAM, each", "reading",
            "computing", "network", "tokens/s"]  # fmt: skip
    return [head, *([
        str(row["hosts"]), percent(row["decode_hit_rate"]), size_words(row["busiest_bytes"]),
        f"{row['imbalance']:.2f}", size_words(row["resident_gb"] * 1e9),
        *(f"{three(row[part])} ms" for part in ("read_ms", "compute_ms", "network_ms")),
        three(row["tokens_per_second"]),
    ] for row in rows)]  # fmt: skip
