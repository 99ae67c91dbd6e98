"""A slider of cache sizes over one trace: what each policy would have hit, read and given.

A plain ipywidgets box, for whoever wants it beside others: `slots` is the slider, `readout` the
table below it, and `rows` what stands there. What is shown is `what_if`'s, worked out when a size
is first asked for. Without a kernel a saved notebook shows its last table only as text.
"""

from __future__ import annotations

from html import escape

import ipywidgets

from ...formatting import percent, size_words, three
from ...residency.policies import POLICIES
from ...trace import Trace
from ...trace.what_if import Row, WhatIf, note
from ..render.static.explanation import table
from ..render.static.page import ROOT, STYLE

HEAD = ("policy", "hits in decode", "read in decode", "tokens/s, predicted")


class Sizing(ipywidgets.VBox):
    """The slider and its table; `Trace.sizing()` makes one.

    Attributes:
        slots: the slider, from 1 expert to all.
        readout: the table.
        rows: by policy, `what_if`'s row of the size that is chosen.
    """

    def __init__(self, trace: Trace) -> None:
        self._asked = WhatIf(trace)
        self._known: dict[int, dict[str, Row]] = {}
        self._trace = trace
        most = sum(trace.info.experts_per_layer)
        self.slots = ipywidgets.IntSlider(
            # Where the run's own size is not known, a quarter says more than a single expert.
            value=min(max(trace.info.slots or most // 4, 1), most),
            min=1,
            max=most,
            description="slots",
            continuous_update=False,  # large traces take a moment for each size
            layout=ipywidgets.Layout(width="min(100%, 640px)"),
        )
        self.readout = ipywidgets.HTML()
        self.rows: dict[str, Row] = {}
        self._show()
        self.slots.observe(lambda _: self._show(), "value")
        super().__init__([self.slots, self.readout])

    def _show(self) -> None:
        size = int(self.slots.value)
        if size not in self._known:
            self._known[size] = {name: self._asked.row(name, size) for name in POLICIES}
        self.rows = self._known[size]
        first = self.rows["lru"]
        held = f"{size:,} of {self.slots.max:,} experts in RAM ({percent(first['share'])})"
        sized = first["gb"] == first["gb"]  # NaN where the experts' size is not known
        if sized:
            held += f", {size_words(1e9 * first['gb'])}"
        own = "; the size this run had" if size == self._trace.info.slots else ""
        told = [
            (spec.label, percent(row["decode_hit_rate"]),
             size_words(row["decode_bytes"]) if sized else "–", three(row["tokens_per_second"]))
            for name, row in self.rows.items() for spec in (POLICIES[name],)
        ]  # fmt: skip
        left_out = note(self._trace)
        if left_out:
            left_out = f"<p><b>Not hit for hit</b>: {escape(left_out)}.</p>"
        self.readout.value = (
            f'<div class="{ROOT}"><style>{STYLE}</style><p><b>{escape(held + own)}</b></p>'
            f"{table(HEAD, told)}<p>{escape(str(self._asked.cost))}.</p>{left_out}</div>"
        )
