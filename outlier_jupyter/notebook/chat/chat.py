"""A chat with a loaded model, as a widget and as a Python object with the same operations.

`Chat` has the traits and the operations; `conversations_mixin.py` has those on conversations.
`runner.py` generates the answers on a thread and updates the browser, `message_handler.py` handles
the browser's messages, `conversations.py` is the data. The browser's half is in `js/src/chat`.
"""

from __future__ import annotations

import logging
import time
import uuid
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import traitlets
from ipywidgets import widget_serialization

from ...engine.engine import Engine
from ...engine.status import Status
from ...engine.templates import has_template
from ...errors import OptionError, shown
from ...events import Event, Resized
from ...formatting import count
from ...options import GenerateOptions, make
from ...runs.run import Run
from ...system.interactive import attended
from ...values import integer
from ...values import path as path_of
from ...values import text as text_of
from ..engine_handle import engine_of
from ..ipykernel_fixes import fix_subshell_routing
from ..live.widget import LiveView, kernel_id
from ..page_modules import STATIC
from ..render.displays import WithSavedView
from .branching import ask_branch, branch_from_view
from .controls import NAMES, controls
from .conversations_mixin import ConversationsMixin
from .message_handler import MessageHandler
from .runner import CLOSED, IDLE, TurnRunner
from .saved_chat import bundle
from .starters import starters_of
from .tool_rounds import ROUNDS, tool_rounds_of
from .tools_mixin import ToolsMixin

NO_TEMPLATE = (
    "This model has no chat template, so it cannot chat: let it continue a text with %%outlier or "
    "engine.generate."
)

OUTPUT_TRAITS = {"status", "state", "answer", "notice", "draft", "saved"}
"""Traits that the chat sets itself during an answer."""

log = logging.getLogger(__name__)


class Chat(ToolsMixin, ConversationsMixin, WithSavedView):
    """A chat with `engine`: display it, use it from Python, or both.

    The settings are traits (`temperature`, `top_p`, `max_tokens`, `seed`, `system`, `reuse_kv` …):
    observe them, link them. `system` is the current conversation's. `answer` is the text of the
    newest finished answer; `status` is "idle", "running" or "closed"; with `watch` the run view
    is shown during an answer. Observers of `answer` and `status` are called on the thread that
    generates the answers.

    Args:
        engine: from `outlier_jupyter.load`; the caller closes it.
        starters: prompts that an empty chat offers as buttons, at most four; by default such as
            the model answers well, [] for none.
        tools: functions that the model may call, with type hints and docstrings; or pairs of a JSON
            schema and a function. A call runs once it is allowed, in the widget or by `allow`.
        auto_tools: run the calls without asking. Give it only functions that may do no harm.
        tool_rounds: the most answers to one question whose calls run without asking.
        file: where all conversations are kept: restored from it if it exists, and written to it
            after each change.
        clock: a monotonic clock in seconds.
        **settings: values for the settings.

    Raises:
        OptionError: a setting is unknown or has an invalid value, `file` is not a chat, a tool
            cannot be described, or the model takes no tools.
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
    starters: Any = traitlets.List(traitlets.Unicode()).tag(sync=True)
    controls: Any = traitlets.List().tag(sync=True)
    kernel_id = traitlets.Unicode("").tag(sync=True)

    def __init__(
        self,
        engine: Engine,
        *,
        starters: Sequence[str] | None = None,
        tools: Sequence[Any] | None = None,
        auto_tools: bool = False,
        tool_rounds: int = ROUNDS,
        file: str | Path | None = None,
        clock: Callable[[], float] = time.monotonic,
        **settings: Any,
    ) -> None:
        _check(engine, settings)
        engine = engine_of(engine)
        offered = starters_of(engine, starters)
        keep_in = None if file is None else Path(path_of("file", file))
        self.model_sampling = engine.sampling
        own = {name: value for name, value in engine.sampling.items() if name in NAMES}
        self._file: Path | None = None  # until its conversations are restored
        rounds = tool_rounds_of(engine, tools, auto_tools, tool_rounds)
        self.runner = TurnRunner(self, engine, rounds, clock)
        super().__init__(
            f"oj-chat-{uuid.uuid4().hex[:12]}",
            controls=controls(engine.sampling),
            starters=offered,
            info=_engine_info(engine),
            kernel_id=kernel_id(),
            notice="" if has_template(engine.tokenizer) else NO_TEMPLATE,
            **(own | settings),
        )
        fix_subshell_routing(self.comm)
        self.runner.conversations.current.system = self.system
        self.runner.publish()
        handler = MessageHandler(self)
        self.on_msg(lambda _, content, buffers: handler.receive(content))
        self.observe(self._keep_system, "system")
        self._forget_engine = engine.subscribe(partial(_resized, weakref.ref(self)), Resized)
        if keep_in is not None:
            self._keep_in(keep_in)

    @property
    def engine(self) -> Engine:
        """The engine that generates the answers."""
        return self.runner.engine

    @property
    def runs(self) -> list[Run]:
        """The runs of the answers, newest last: `runs[-1]` belongs to the newest answer.

        Beyond 256 MB of traces the oldest are dropped; `run` finds one by its number.
        """
        return self.runner.runs.all()

    def run(self, number: int) -> Run:
        """The run with this number: "Run 3" in the widget is `run(3)`.

        Raises:
            OptionError: there is no such run, or it was dropped to bound memory.
        """
        return self.runner.runs.get(number)

    def show_run(self, number: int) -> None:
        """Show this run's view under its answer, instead of an earlier one; 0 removes it."""
        previous, note = self.run_view, ""
        try:
            self.run_view = LiveView.of(self.run(number)) if integer("number", number) else None
            if self.run_view is not None:
                self.run_view.on_branch = partial(branch_from_view, self, number)
        except OptionError as error:
            self.run_view, note = None, str(error)
        self.run_shown = {"run": number, "note": note}
        if previous is not None:
            previous.close()

    def resize(
        self, *, cache_gb: float | str | None = None, cache_experts: int | None = None
    ) -> Status:
        """Change the size of the engine's cache between two answers, as `Engine.resize`."""
        return self.engine.resize(cache_gb=cache_gb, cache_experts=cache_experts)

    def send(self, content: Any, *args: Any, **options: Any) -> Any:
        """Send a message, wait for the answer and return its `Run`, as typing in the widget does.

        Args:
            content: the message.
            **options: settings for this answer only.

        Raises:
            Interrupted: stopped; the partial answer stays in the chat, and its run is in `.run`.
            OptionError, EngineBusy, EngineClosed, ReadFailed: nothing is lost; send it again.
        """
        if isinstance(content, dict) and not options:  # the widget's own `send`, hidden by this one
            return super().send(content, *args, **options)
        return self.runner.wait(self.runner.ask(text_of("content", content), options))

    def regenerate(self, answer: int | None = None) -> Run:
        """Generate another version of an answer (default: the last); raises as `send`."""
        return self.runner.wait(self.runner.ask_again(answer))

    def edit(self, message: int, text: str) -> Run:
        """Replace a question by `text` on a new branch, and answer it; raises as `send`."""
        return self.runner.wait(self.runner.ask_otherwise(message, text))

    def branch(self, run: int, token: int, choose: int) -> Run:
        """Generate another version of an answer, from one of its tokens on; raises as `send`.

        Args:
            run: the number of the answer's run; "Run 3" in the widget is 3.
            token: the number of a generated token, from 1.
            choose: the id of the token in its place.
        """
        return self.runner.wait(ask_branch(self.runner, run, token, choose))

    def stop(self) -> None:
        """Stop the current answer before the model's next layer; may be called from any thread."""
        self.runner.stop()

    def notify_change(self, change: Any) -> None:
        """As in every widget, but an error in an observer of `OUTPUT_TRAITS` is only logged."""
        try:
            super().notify_change(change)
        except Exception:
            if change["name"] not in OUTPUT_TRAITS:
                raise
            log.exception("an observer of this chat's %s raised", change["name"])

    def close(self) -> None:
        """Stop the current answer, end the thread, and close the widget."""
        if "runner" in self.__dict__:  # absent if __init__ raised
            self.runner.close()
            self._forget_engine()
            self.status = CLOSED
            for view in (self.live, self.run_view):
                if view is not None:
                    view.close()
        super().close()

    def _keep_system(self, change: dict[str, Any]) -> None:
        self.runner.conversations.current.system = change["new"]

    def save_view(self) -> None:
        """Update the output that a saved notebook shows of this chat, where it is displayed."""
        self.keep(bundle(self.engine.info.model, self.runner.conversations))
        if self._file is not None:
            try:
                self.save(self._file)
            except OptionError as error:  # the answer is not lost: the chat still has it
                self.notice = str(error)

    def _keep_in(self, file: Path) -> None:
        """Restore the conversations in `file`, and write all of them there from now on."""
        if file.exists():
            try:
                self.load(file)
            except OptionError:
                self.close()
                raise
        self._file = file

    def _ipython_display_(self) -> None:
        """IPython's hook: display the widget, and beside it the static form for saved notebooks."""
        self.show(widget=attended())
        self.save_view()

    def __repr__(self) -> str:
        messages, runs = count(len(self.messages), "message"), count(len(self.runs), "run")
        return f"Chat({self.engine.info.model!r}, {messages}, {runs}, {self.status})"


def _check(engine: object, settings: dict[str, Any]) -> None:
    """Check the arguments before the widget exists: its own errors would be less clear."""
    if not isinstance(engine, Engine):
        raise OptionError(
            f"a chat cannot use {shown(engine)} as its engine: give the engine that "
            "outlier_jupyter.load returns"
        )
    make(GenerateOptions, settings)
    if unknown := [name for name in settings if name not in NAMES]:
        raise OptionError(f"{unknown[0]!r} is not a chat setting: they are {', '.join(NAMES)}")


def _resized(chat: weakref.ref[Chat], event: Event) -> None:
    """A subscriber: show the new size of the cache, whoever changed it."""
    alive = chat()
    if alive is not None:
        alive.info = _engine_info(alive.engine)


def _engine_info(engine: Engine) -> dict[str, Any]:
    """The engine's data in the header of the chat."""
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
