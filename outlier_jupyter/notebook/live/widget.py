"""The widget that shows a run live: it sends frames, and receives Stop, resync and pace.

`LiveView` is the Python half. Each frame is one custom message with one binary buffer. The whole
state is written to the `snapshot` trait every few seconds, so that a page that was reloaded or lost
a message can start from it. The widget knows neither the engine nor MLX: it receives frames, and
reports Stop through `stop_requested` and `on_stop`.

The browser's half is in `js/src`, and built in `static/`.
"""

from __future__ import annotations

import pathlib
import re
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import traitlets
from ipywidgets import widget_serialization

from ...display import draw
from ...residency.policies.registry import POLICIES, canonical_name
from ...runs.run import Run
from ...trace import Trace, TraceInfo
from ...trace.rank_use import rank_counts
from ...trace.time_parts import PARTS, meaning, part_name, parts_with
from ..ipykernel_fixes import fix_subshell_routing
from ..page_modules import STATIC, module_message
from ..render.displays import WithSavedView, one_below_another
from . import open_views
from .alternatives import alternatives_around
from .answers import answer
from .columns import answer as column_answer
from .columns import is_column, recorded
from .eviction_orders import orders_around
from .finished_run import frame_of_run
from .frames import Frame, encode, utf16_units
from .merge_frames import History

SAVE_EVERY_S = 4.0
SAVE_BYTES_PER_S = 100_000
"""Limits on writing the snapshot during a run: the least interval, and the bytes per second."""

SAVED_NOTE = (
    "Saved picture of the run. Run the cell again, or run.view(), for the interactive view."
)
"""What the static view says that a notebook keeps beside a live view."""

SLOWEST_MS = 2_000.0
"""The longest time between frames that a page may request."""

WAITING = "waiting"
RUNNING = "running"


class LiveView(WithSavedView):
    """Text, routing, residency and read latency of one run, live.

    Pass `push` to a `FrameBuilder` as its callback, and call `finish` at the end of the run.
    Without a kernel nothing is sent, and the snapshot can still be read.

    After the run the view remains, to scrub and to explain. Where it is displayed by itself, a
    static view is saved beside it for when no kernel answers (`keep_run`). The newest
    `open_views.KEPT` finished views of a process stay open; older ones leave their static views.

    Args:
        info: the content of the header; every entry is optional. `model`, `reader` (an option's
            value), `reader_note` (its tooltip), `slots`, `layers`, `experts`, `expert_nbytes` (of
            one expert, for the RAM of the resident ones), `cache` (a label), `prompt` (shown above
            the text), `parts` (of a token's time, from `time_parts`), `pace` (tokens per second
            shown; absent: as they are made), `policy` (its name), `evicts` (see `PolicySpec`) and
            `changed_output` (why the output differs from the model's own; "" if it does not).
        on_stop: called when Stop arrives as a message, on the thread that handles messages; it
            must only set flags. `stop_requested` is set as well.
        on_branch: called with a generated token's number, from 1, and the id of another token when
            a user wants the finished run to go on from there with that one, on the thread that
            handles messages; it returns why that cannot be, as a sentence, or "" (default: the
            branch is shown below, in `branches`).
        clock: a monotonic clock in seconds.

    With `kernel_id=""` the view never interrupts the kernel: its Stop is always a message. Use it
    for a run whose cell has already returned.
    """

    _esm = STATIC / "live.js"
    _css = STATIC / "live.css"

    info = traitlets.Dict().tag(sync=True)
    status = traitlets.Unicode(WAITING).tag(sync=True)
    snapshot = traitlets.Bytes(b"").tag(sync=True)
    kernel_id = traitlets.Unicode("").tag(sync=True)
    branches = traitlets.List(traitlets.Instance(WithSavedView)).tag(
        sync=True, **widget_serialization
    )

    def __init__(
        self,
        *,
        info: Mapping[str, object] | None = None,
        on_stop: Callable[[], object] | None = None,
        on_branch: Callable[[int, int], str] | None = None,
        clock: Callable[[], float] = time.monotonic,
        **traits: Any,
    ) -> None:
        # Set before the base class opens the comm: messages may arrive from then on.
        self.on_stop = on_stop
        self.on_branch = on_branch
        self.stop_requested = threading.Event()
        self._clock = clock
        self._lock = threading.RLock()
        self._history = History()
        self._pace_ms = 0.0
        self._answer_run: Run | None = None
        self._save_at = clock() + SAVE_EVERY_S
        traits.setdefault("kernel_id", kernel_id())
        super().__init__(f"oj-run-{uuid.uuid4().hex[:12]}", info=dict(info or {}), **traits)
        fix_subshell_routing(self.comm)
        self.on_msg(self._receive)

    @classmethod
    def of(cls, run: Run, pace: float | None = None) -> LiveView:
        """Show a finished run in the same view, from its trace; with `pace`, tokens/s, play it."""
        view = cls(info=header(run.trace.info, run.prompt, pace))
        view.answer_from(run)
        view.finish(run.finish_reason, frame_of_run(run))
        return view

    def answer_from(self, run: Run | None) -> None:
        """From now on explain a pinned token or expert with this finished run."""
        self._answer_run = run
        if run is not None and (found := of_finished(run)):
            self.info = self.info | found

    def push(self, frame: Frame) -> float:
        """Send one frame: one message, one buffer. Called on the decode thread.

        Returns:
            The least time until the next frame in ms, if the page requested one because it is
            hidden or slow; else 0.
        """
        with self._lock:
            self._history.add(frame)
            if self.status == WAITING:
                self.status = RUNNING
            self._send_frame(frame)
            now = self._clock()
            if now >= self._save_at and not frame.final:
                self._save_at = now + max(SAVE_EVERY_S, self._save() / SAVE_BYTES_PER_S)
            return self._pace_ms

    def finish(self, reason: str, frame: Frame | None = None) -> None:
        """End the run: write the last snapshot, and set `status` to the reason.

        Args:
            reason: `stop`, `length`, `interrupted` or `error`.
            frame: the whole state, from `FrameBuilder.snapshot` (default: the frames pushed).
        """
        with self._lock:
            if frame is not None:
                self._history.add(frame)
            with self.hold_sync():  # one message for both
                self._save()
                self.status = reason
        self.on_stop = None  # it would keep the engine

    @property
    def over(self) -> bool:
        """Whether the run has ended."""
        return self.status not in (WAITING, RUNNING)

    @property
    def finished_run(self) -> Run | None:
        """The run that it explains; None before its end."""
        return self._answer_run

    @property
    def trace_nbytes(self) -> int:
        """Bytes of the traces of the run that it explains and of those that go on from it."""
        return sum(run.trace.nbytes for run in self._runs())

    def _runs(self) -> list[Run]:
        """The finished run, and below it those that went on from one of its tokens."""
        below = [run for view in self.branches for run in view._runs()]
        return below if self._answer_run is None else [self._answer_run, *below]

    def keep_run(self, run: Run | None) -> None:
        """Explain with the finished `run` from now on, and make its static view the saved one."""
        self.answer_from(run)
        if run is not None and self._displays.shown:
            bundles: list[dict[str, str]] = [
                draw("Run.mimebundle", each, SAVED_NOTE) for each in self._runs()
            ]
            self.keep(bundles[0] if len(bundles) == 1 else one_below_another(bundles))
        open_views.close_old()

    def close(self) -> None:
        """Close the widget, and the views below it; only the saved view stays."""
        super().close()
        for view in self.__dict__.get("_trait_values", {}).get("branches", ()):
            view.close()

    def _ipython_display_(self) -> None:
        """IPython's hook: display the view, and beside it the static one for saved notebooks."""
        if self.closed:
            self.show(widget=False)
            return
        self.show()
        if self.over:
            self.keep_run(self._answer_run)
        open_views.add(self)

    def _save(self) -> int:
        """Write the snapshot trait and return its size in bytes."""
        whole = self._history.snapshot()
        if whole is not None:
            self.snapshot = encode(whole)
        return len(self.snapshot)

    def _send_frame(self, frame: Frame) -> None:
        self.send({"type": "frame"}, [encode(frame)])

    def _receive(self, _: object, content: object, buffers: Sequence[object]) -> None:
        """Handle a message from a page; it may arrive on another thread than the run's."""
        if not isinstance(content, dict):
            return
        kind = content.get("type")
        if kind == "pace":
            requested_ms = content.get("ms")
            if isinstance(requested_ms, int | float):
                self._pace_ms = min(max(0.0, float(requested_ms)), SLOWEST_MS)
        elif kind == "resync":
            with self._lock:
                whole = self._history.snapshot()
                if whole is not None:
                    self._send_frame(whole)
        elif kind == "ask":
            self._answer(content.get("about"))
        elif kind == "branch":
            self._branch(content.get("token"), content.get("choose"))
        elif kind == "module":
            self.send(module_message(content.get("name")))
        elif kind == "saved":
            self.send_saved()
        elif kind == "stop":
            self.stop_requested.set()
            if self.on_stop is not None:
                self.on_stop()

    def _answer(self, about: object) -> None:
        """Send what the finished run says about a token, an expert, a column or an order."""
        run, buffers = self._answer_run, []
        match about:
            case {"order": int(step)}:
                self.send(*orders_around(run, step))
                return
            case {"alternatives": int(step)}:
                self.send({"type": "told", **alternatives_around(run, step)})
                return
        found: dict[str, object] = {"words": ""}
        if is_column(about):
            values, found["words"] = column_answer(run, about)
            buffers = [values]
        elif run is not None:
            found = answer(run, about)
        self.send({"type": "told", "about": about, **found}, buffers)

    def _branch(self, token: object, choose: object) -> None:
        """Go on from a token with another one; the page gets the reason where that cannot be."""
        if not isinstance(token, int) or not isinstance(choose, int):
            return
        words = (self.on_branch or partial(draw, "LiveView.branch", self))(token, choose)
        if words:
            self.send({"type": "branched", "words": words})

    def __repr__(self) -> str:
        model = self.info.get("model", "")
        return f"LiveView(model={model!r}, status={self.status!r})"


def header(info: TraceInfo, prompt: str, pace: float | None = None) -> dict[str, object]:
    """The content of the view's header for a run of `prompt`, shown at `pace` tokens/s."""
    policy = POLICIES.get(canonical_name(info.policy))
    return ({} if pace is None else {"pace": pace}) | {
        "model": info.model,
        "reader": info.reader,
        "reader_note": info.reader_note,
        "slots": info.slots,
        "layers": len(info.layer_names),
        "experts": max(info.experts_per_layer, default=0),
        "expert_nbytes": max(info.expert_nbytes, default=0),
        "changed_output": info.changed_output,
        "policy": policy.name if policy else info.policy,
        "evicts": policy.evicts if policy else "",
        "prompt": prompt,
        "parts": time_parts(info.kernels),
    }


def of_finished(run: Run) -> dict[str, object]:
    """What the view's header gets once a run is over; no entry that it does not need.

    Returns:
        recorded: what not every run has, see `columns.recorded`.
        ranks, owners: see `RankCounts.shown`, where the experts were spread over ranks.
        prefilled: UTF-16 code units at the text's beginning that were there before the first token.
    """
    found: dict[str, object] = {"recorded": names} if (names := recorded(run.trace)) else {}
    found |= rank_counts(run.trace).shown()
    return found | ({"prefilled": utf16_units(run.prefilled)} if run.prefilled else {})


def time_parts(kernels: str) -> list[dict[str, object]]:
    """The parts of a token's time for the view: column in a frame, name and meaning."""
    columns = {name: column for column, name in enumerate(PARTS)}
    return [
        {"column": columns[name], "key": name, "name": part_name(name),
         "means": meaning(name, kernels)}
        for name in parts_with(kernels)
    ]  # fmt: skip


def kernel_id() -> str:
    """The Jupyter server's id of this kernel, or "" outside of a server.

    It is in the name of the connection file. The view's Stop button needs it to interrupt a running
    cell, which no message to the kernel can do.
    """
    app = sys.modules.get("ipykernel.kernelapp")  # absent: this is no kernel
    if app is None or not app.IPKernelApp.initialized():
        return ""
    name = pathlib.Path(str(app.IPKernelApp.instance().connection_file)).stem
    found = re.fullmatch(r"kernel-([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})", name)
    return found.group(1) if found else ""


def of_trace(trace: Trace) -> LiveView:
    """Show a trace in the live view, without text."""
    return LiveView.of(Run.of(trace))
