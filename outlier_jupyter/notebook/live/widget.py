"""The widget that shows a run while it goes on: frames go out, Stop, resync and pace come in.

`LiveView` is the Python half. Each frame becomes one custom message with one binary buffer; the
state as a whole goes into the `snapshot` trait now and then, so that a page that was reloaded, or
that lost a message, has something to start from. It knows neither the engine nor MLX: it is given
frames, and tells through `stop_requested` and `on_stop` that somebody pressed Stop.

What the browser does with all this is in `js/src`; `static/` holds it built.
"""

from __future__ import annotations

import pathlib
import re
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import traitlets

from ...errors import OutlierError
from ...runs.run import Run, step_names
from ...trace import Trace, TraceInfo
from ...trace.time_parts import PARTS, meaning, part_name, parts_with
from ..ipykernel_fixes import keep_route
from ..render.on_demand import OnDemand
from .frames import Frame, encode
from .merge_frames import History
from .replay import frame_of

STATIC = pathlib.Path(__file__).parents[1] / "static"

SAVE_EVERY_S = 4.0
SAVE_BYTES_PER_S = 100_000
"""How often the snapshot is written while a run goes on: at most so often, so much."""

SLOWEST_MS = 2_000.0
"""A view may ask for fewer frames, but for no fewer than one in this time."""

WAITING = "waiting"
RUNNING = "running"


class LiveView(OnDemand):
    """Text, routing, residency and read latency of one run, live.

    Pass `push` to a `Feed` as its callback; call `finish` when the run has ended. Works without
    a kernel too: nothing is sent then, and the snapshot can still be read.

    Args:
        info: what the header says; every entry may be missing. `model`, `reader` (an option's
            value), `reader_note` (a tooltip on it), `slots`, `layers`, `experts`,
            `expert_nbytes` (of one expert, to tell how much RAM the resident ones take), `cache`
            (a label), `prompt` (shown above the text), `parts` (of a token's time, as
            `time_parts` makes them) and `changed_output` (why the output is not the model's own;
            "" when it is).
        on_stop: called when Stop comes as a message, on the thread that handles messages; it
            may set flags only. `stop_requested` is set as well.
        clock: seconds that never go back.

    A view given `kernel_id=""` never interrupts the kernel: its Stop is always a message. That
    is right for a run whose cell has already returned.
    """

    _esm = STATIC / "live.js"
    _css = STATIC / "live.css"

    info = traitlets.Dict().tag(sync=True)
    status = traitlets.Unicode(WAITING).tag(sync=True)
    snapshot = traitlets.Bytes(b"").tag(sync=True)
    kernel_id = traitlets.Unicode("").tag(sync=True)
    view_id = traitlets.Unicode("").tag(sync=True)

    def __init__(
        self,
        *,
        info: Mapping[str, object] | None = None,
        on_stop: Callable[[], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
        **traits: Any,
    ) -> None:
        # Set before the base class opens the comm: a message may come as soon as it is open.
        self.on_stop = on_stop
        self.stop_requested = threading.Event()
        self._clock = clock
        self._lock = threading.RLock()
        self._history = History()
        self._pace_ms = 0.0
        self._told: Run | None = None
        self._save_at = clock() + SAVE_EVERY_S
        traits.setdefault("kernel_id", kernel_id())
        super().__init__(info=dict(info or {}), view_id=uuid.uuid4().hex, **traits)
        keep_route(self.comm)
        self.on_msg(self._receive)

    @classmethod
    def of(cls, run: Run) -> LiveView:
        """A finished run in the same view, made from its trace."""
        view = cls(info=header(run.trace.info, run.prompt))
        view.answer_from(run)
        view.finish(run.finish_reason, frame_of(run))
        return view

    def answer_from(self, run: Run | None) -> None:
        """From now on a pinned token or expert is explained by this run, which is over."""
        self._told = run

    def push(self, frame: Frame) -> float:
        """Send one frame: one message, one buffer. Called on the decode thread.

        Returns:
            The least time until the next frame in ms, as the page asked: it asks for fewer while
            nobody sees it, or while it is slow. 0 when it did not.
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
        """The run is over: write the last snapshot and say why it ended.

        Args:
            reason: `stop`, `length`, `interrupted` or `error`.
            frame: the whole state, as `Feed.snapshot` gives it; without it, what was pushed.
        """
        with self._lock:
            if frame is not None:
                self._history.add(frame)
            with self.hold_sync():  # one message for both
                self._save()
                self.status = reason

    def _save(self) -> int:
        """Write the snapshot trait; returns its size in bytes."""
        whole = self._history.snapshot()
        if whole is not None:
            self.snapshot = encode(whole)
        return len(self.snapshot)

    def _send_frame(self, frame: Frame) -> None:
        self.send({"type": "frame"}, [encode(frame)])

    def _receive(self, _: object, content: object, buffers: Sequence[object]) -> None:
        """A message from a view. It may come on another thread than the run's."""
        if not isinstance(content, dict):
            return
        kind = content.get("type")
        if kind == "pace":
            asked = content.get("ms")
            if isinstance(asked, int | float):
                self._pace_ms = min(max(0.0, float(asked)), SLOWEST_MS)
        elif kind == "resync":
            with self._lock:
                whole = self._history.snapshot()
                if whole is not None:
                    self._send_frame(whole)
        elif kind == "ask":
            words = "" if self._told is None else words_about(self._told, content.get("about"))
            self.send({"type": "told", "about": content.get("about"), "words": words})
        elif kind == "stop":
            self.stop_requested.set()
            if self.on_stop is not None:
                self.on_stop()

    def __repr__(self) -> str:
        model = self.info.get("model", "")
        return f"LiveView(model={model!r}, status={self.status!r})"


def words_about(run: Run, about: object) -> str:
    """What is told of a step, {"step": 12}, or of an expert, {"layer": 3, "expert": 7}."""
    try:
        match about:
            case {"step": int(step)}:
                return str(run.trace._explainer.explain(step, step_names(run)))
            case {"layer": int(layer), "expert": int(expert)}:
                return str(run.tokens_of(layer, expert))
    except OutlierError as error:
        return f"{error}."
    return ""


def header(info: TraceInfo, prompt: str) -> dict[str, object]:
    """What the view's header says of a run of `prompt`."""
    return {
        "model": info.model,
        "reader": info.reader,
        "reader_note": info.reader_note,
        "slots": info.slots,
        "layers": len(info.layer_names),
        "experts": max(info.experts_per_layer, default=0),
        "expert_nbytes": max(info.expert_nbytes, default=0),
        "changed_output": info.changed_output,
        "prompt": prompt,
        "parts": time_parts(info.kernels),
    }


def time_parts(kernels: str) -> list[dict[str, object]]:
    """The parts of a token's time as the view shows them: their column in a frame, and words."""
    columns = {name: column for column, name in enumerate(PARTS)}
    return [
        {"column": columns[name], "key": name, "name": part_name(name),
         "means": meaning(name, kernels)}
        for name in parts_with(kernels)
    ]  # fmt: skip


def kernel_id() -> str:
    """The id under which a Jupyter server knows this kernel, or "" where there is none.

    It is the name of the connection file the server made. The view's Stop button needs it to
    interrupt a cell, which no message to the kernel can do while the cell is running.
    """
    app = sys.modules.get("ipykernel.kernelapp")  # not imported: without it this is no kernel
    if app is None or not app.IPKernelApp.initialized():
        return ""
    name = pathlib.Path(str(app.IPKernelApp.instance().connection_file)).stem
    found = re.fullmatch(r"kernel-([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})", name)
    return found.group(1) if found else ""


def of_trace(trace: Trace) -> LiveView:
    """A trace in the live view, without its model or its text."""
    return LiveView.of(Run.of(trace))
