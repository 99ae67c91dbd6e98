"""A chat with a loaded model, as a widget and as an object: both do the same.

`Chat` is the traits and what can be asked; of its conversations, `has_conversations.py` is.
`writer.py` has a thread write the answers and tells the browser, `desk.py` takes the browser's
messages, `conversation.py` is the data, and what the browser does is in `js/src/chat`.
"""

from __future__ import annotations

import logging
import time
import uuid
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import traitlets
from ipywidgets import widget_serialization

from ...engine.engine import Engine
from ...engine.status import Status
from ...engine.templates import has_template
from ...errors import OptionError, shown
from ...events import Event, Resized
from ...options import GenerateOptions, make
from ...runs.run import Run
from ...system.interactive import attended
from ...values import integer
from ...values import text as text_of
from ..engine_handle import engine_of
from ..ipykernel_fixes import keep_route
from ..live.widget import STATIC, LiveView, kernel_id
from ..render.displays import Displays
from ..render.on_demand import OnDemand
from .controls import NAMES, controls
from .has_conversations import HasConversations
from .messages import Desk
from .runner import CLOSED, IDLE, Writer
from .saved_chat import bundle, stamp_of

NO_TEMPLATE = (
    "This model has no chat template, so it cannot answer here: have it continue a text with "
    "%%outlier or engine.generate."
)

SET_HERE = {"status", "state", "answer", "notice", "draft", "saved"}
"""Traits that the chat sets itself, as answers are written."""

log = logging.getLogger(__name__)


class Chat(HasConversations, OnDemand):
    """A chat with `engine`: display it, or use it from Python, or both.

    The settings are traits (`temperature`, `top_p`, `max_tokens`, `seed`, `system`, `reuse_kv` …):
    observe them, link them. `system` is the current conversation's. `answer` is the text of the
    newest finished answer; `status` is "idle", "running" or "closed"; with `watch` the run view
    is shown as answers are written. Observers of `answer` and `status` are called on the thread
    that writes the answers.

    Args:
        engine: from `outlier_jupyter.load`; it stays the caller's to close.
        clock: seconds that never go back.
        **settings: values for the settings.

    Raises:
        OptionError: a setting is unknown or has a value that cannot be used.
    """

    _esm = STATIC / "chat.js"
    _css = STATIC / "chat.css"

    answer = traitlets.Unicode("")
    status = traitlets.Unicode(IDLE).tag(sync=True)
    watch = traitlets.Bool(False).tag(sync=True)
    live = traitlets.Instance(LiveView, allow_none=True).tag(sync=True, **widget_serialization)
    run_view = traitlets.Instance(LiveView, allow_none=True).tag(sync=True, **widget_serialization)
    run_shown = traitlets.Dict().tag(sync=True)
    state = traitlets.Dict().tag(sync=True)
    notice = traitlets.Unicode("").tag(sync=True)
    draft = traitlets.Unicode("").tag(sync=True)
    blocking = traitlets.Bool(False).tag(sync=True)
    info = traitlets.Dict().tag(sync=True)
    controls: Any = traitlets.List().tag(sync=True)
    kernel_id = traitlets.Unicode("").tag(sync=True)
    view_id = traitlets.Unicode("").tag(sync=True)
    saved = traitlets.Unicode("").tag(sync=True)

    def __init__(
        self, engine: Engine, *, clock: Callable[[], float] = time.monotonic, **settings: Any
    ) -> None:
        _check(engine, settings)
        engine = engine_of(engine)
        self._saved = Displays(f"oj-chat-{uuid.uuid4().hex[:12]}")
        self.writer = Writer(self, engine, clock)
        super().__init__(
            controls=controls(),
            info=_about(engine),
            kernel_id=kernel_id(),
            view_id=self._saved.name,
            notice="" if has_template(engine.tokenizer) else NO_TEMPLATE,
            **settings,
        )
        keep_route(self.comm)
        self.writer.books.current.system = self.system
        self.writer.publish()
        desk = Desk(self)
        self.on_msg(lambda _, content, buffers: desk.receive(content))
        self.observe(self._keep_system, "system")
        self._forget_engine = engine.subscribe(partial(_resized, weakref.ref(self)), Resized)

    @property
    def engine(self) -> Engine:
        """The engine that answers."""
        return self.writer.engine

    @property
    def runs(self) -> list[Run]:
        """The runs of the answers given, newest last: `runs[-1]` is that of the newest answer.

        The oldest are let go of beyond 256 MB of traces; see `run` for one by its number.
        """
        return self.writer.runs.all()

    def run(self, number: int) -> Run:
        """The run of this number: "Run 3" in the widget is `run(3)`.

        Raises:
            OptionError: there is none, or it has been let go of to bound memory.
        """
        return self.writer.runs.get(number)

    def show_run(self, number: int) -> None:
        """Show this run's view under its answer, in place of another; 0 shows none."""
        before, note = self.run_view, ""
        try:
            self.run_view = LiveView.of(self.run(number)) if integer("number", number) else None
        except OptionError as error:
            self.run_view, note = None, str(error)
        self.run_shown = {"run": number, "note": note}
        if before is not None:
            before.close()

    def resize(
        self, *, cache_gb: float | str | None = None, cache_experts: int | None = None
    ) -> Status:
        """Give the engine's cache another size between two answers, as `Engine.resize`."""
        return self.engine.resize(cache_gb=cache_gb, cache_experts=cache_experts)

    def send(self, content: Any, *args: Any, **options: Any) -> Any:
        """Ask, wait for the answer and return its `Run`; the same as typing it into the widget.

        Args:
            content: the message.
            **options: settings for this answer alone.

        Raises:
            Interrupted: stopped; what was written stays in the chat and is in `.run`.
            OptionError, EngineBusy, EngineClosed, ReadFailed: nothing is lost, ask again.
        """
        if isinstance(content, dict) and not options:  # a widget's `send`, which this name hides
            return super().send(content, *args, **options)
        return self.writer.wait(self.writer.ask(text_of("content", content), options))

    def regenerate(self, answer: int | None = None) -> Run:
        """Have an answer (the last one) written once more, beside the first; raises as `send`."""
        return self.writer.wait(self.writer.ask_again(answer))

    def edit(self, message: int, text: str) -> Run:
        """Ask a question otherwise, on a branch beside the first; raises as `send`."""
        return self.writer.wait(self.writer.ask_otherwise(message, text))

    def stop(self) -> None:
        """Stop the answer being written, before the model's next layer; from any thread."""
        self.writer.stop()

    def notify_change(self, change: Any) -> None:
        """As every widget's; what an observer of an answer raises is logged and costs none."""
        try:
            super().notify_change(change)
        except Exception:
            if change["name"] not in SET_HERE:
                raise
            log.exception("an observer of this chat's %s raised", change["name"])

    def close(self) -> None:
        """Stop what is being written, end the thread, and close the widget."""
        if "writer" in self.__dict__:  # not if __init__ refused; ipywidgets closes that, too
            self.writer.close()
            self._forget_engine()
            self.status = CLOSED
            for view in (self.live, self.run_view):
                if view is not None:
                    view.close()
            self._saved.end()
        super().close()

    def _keep_system(self, change: dict[str, Any]) -> None:
        self.writer.books.current.system = change["new"]

    def save_view(self) -> None:
        """Bring what a saved notebook shows of this chat up to date, where it is displayed."""
        made = bundle(self.engine.info.model, self.writer.books, self._saved.name)
        self._saved.update(made)
        self.saved = stamp_of(made)  # after it: the page looks whether it came

    @property
    def saved_view(self) -> dict[str, str]:
        """What a saved notebook shows of it, by media type; empty where it is not displayed."""
        return self._saved.last

    def _ipython_display_(self) -> None:
        """IPython's hook: the widget, and beside it what stays when there is no kernel."""
        # Data, or data and metadata: anywidget has given both.
        made = self._repr_mimebundle_() if attended() else {}
        data = made[0] if isinstance(made, tuple) else made
        self._saved.show(self, data or {}, repr(self))
        self.save_view()

    def __repr__(self) -> str:
        model, count = self.engine.info.model, len(self.messages)
        return f"Chat({model!r}, {count} messages, {len(self.runs)} runs, {self.status})"


def _check(engine: object, settings: dict[str, Any]) -> None:
    """Refuse what cannot be used before there is a widget, whose words would be its own."""
    if not isinstance(engine, Engine):
        raise OptionError(
            f"a chat cannot use {shown(engine)} as its engine: give what outlier_jupyter.load "
            "returns"
        )
    make(GenerateOptions, settings)
    if unknown := [name for name in settings if name not in NAMES]:
        raise OptionError(f"{unknown[0]!r} is no setting of a chat: they are {', '.join(NAMES)}")


def _resized(chat: weakref.ref[Chat], event: Event) -> None:
    """A sink: the cache has another size, whoever gave it."""
    told = chat()
    if told is not None:
        told.info = _about(told.engine)


def _about(engine: Engine) -> dict[str, Any]:
    """What the header says of the engine."""
    config = engine.config.get("text_config", engine.config)
    status = engine.status()
    return {
        "model": status.model,
        "context": config.get("max_position_embeddings"),
        "slots": status.slots,
        "experts": status.experts,
        "bank_nbytes": status.bank_nbytes,
        "token_experts": status.layers * (status.top_k or 0),
        "reader": status.reader,
        "changed_output": status.changed_output,
    }
