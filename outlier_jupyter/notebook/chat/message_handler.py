"""Handle the browser's messages to a chat: each is one call of a method that Python has as well.

A message arrives on any thread of the kernel, during a running cell or after it. Long work is
queued. An error is answered with a sentence, and the page keeps the user's text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import traitlets

from ...aliases import old_names
from ...errors import EngineBusy, OptionError, OutlierError, brief
from ..page_modules import module_message
from .branching import ask_branch
from .controls import NAMES

if TYPE_CHECKING:
    from .chat import Chat


class MessageHandler:
    """Handles the messages for one chat; unknown messages are ignored."""

    def __init__(self, chat: Chat) -> None:
        self._chat = chat
        self._actions: dict[str, Callable[[dict[str, Any]], object]] = {
            "send": self._send,
            "regenerate": self._regenerate,
            "edit": self._edit,
            "branch": self._branch,
            "call": self._call,
            "choose": lambda message: chat.choose(message["message"]),
            "stop": lambda message: chat.stop(),
            "new": lambda message: chat.new(),
            "switch": lambda message: chat.switch(message["conversation"]),
            "rename": lambda message: chat.rename(message["conversation"], message["title"]),
            "delete": lambda message: chat.delete(message["conversation"]),
            "set": self._set,
            "export": self._export,
            "import": lambda message: chat.add_from(message["text"]),
            "resize": self._resize,
            "run": self._run,
            "module": lambda message: chat.runner.send(module_message(message["name"])),
            "saved": lambda message: chat.send_saved(),
            "resync": lambda message: chat.runner.resync(),
            "draft": lambda message: chat.set_trait("draft", message["text"]),
            "dismiss": lambda message: chat.set_trait("notice", ""),
        }

    def receive(self, content: object) -> None:
        """Handle one message; an error becomes the notice of the chat."""
        kind = content.get("type") if isinstance(content, dict) else None
        act = self._actions.get(kind) if isinstance(kind, str) else None
        if act is None or not isinstance(content, dict):
            return
        try:
            act(content)
        except (OutlierError, traitlets.TraitError) as error:
            self._chat.notice = str(error)
            self._refuse(content)
        except (KeyError, TypeError, AttributeError) as error:
            reason = brief(error)
            self._chat.notice = f"the page sent a {kind!r} that cannot be read ({reason}): reload"
            self._refuse(content)

    def _refuse(self, message: dict[str, Any]) -> None:
        if "request" in message:
            self._chat.runner.send({"type": "refused", "request": message["request"]})

    def _send(self, message: dict[str, Any]) -> None:
        self._require_idle()
        self._chat.runner.ask(message["text"], {}, message["request"])

    def _regenerate(self, message: dict[str, Any]) -> None:
        self._require_idle()
        self._chat.runner.ask_again(message["message"], message["request"])

    def _edit(self, message: dict[str, Any]) -> None:
        self._require_idle()
        self._chat.runner.ask_otherwise(message["message"], message["text"], message["request"])

    def _branch(self, message: dict[str, Any]) -> None:
        self._require_idle()
        found = (message["run"], message["token"], message["choose"])
        ask_branch(self._chat.runner, *found, message["request"])

    def _call(self, message: dict[str, Any]) -> None:
        if not self._chat.runner.runs_calls_of(message["message"]):
            self._require_idle()
        allow = message["allow"] is True
        self._chat.runner.decide(message["message"], message["call"], allow)
        if "request" in message:
            self._chat.runner.send({"type": "accepted", "request": message["request"]})

    def _require_idle(self) -> None:
        if self._chat.runner.busy:
            raise EngineBusy("an answer is being generated: stop it or wait for its end")

    def _set(self, message: dict[str, Any]) -> None:
        name = message["name"]
        if name not in (*NAMES, "watch"):
            raise OptionError(f"{name!r} is not a chat setting")
        try:
            setattr(self._chat, name, message["value"])
        except (OptionError, traitlets.TraitError):
            self._chat.send_state(name)  # the page shows the refused value
            raise

    def _export(self, message: dict[str, Any]) -> None:
        self._chat.runner.send({"type": "file", "name": "chat.json", "text": self._chat.dumps()})

    def _resize(self, message: dict[str, Any]) -> None:
        """Resize on the worker thread: it may copy gigabytes, and uses that thread's MLX stream."""
        self._require_idle()
        slots = message["cache_experts"]

        def work() -> None:
            try:
                self._chat.resize(cache_experts=slots)
                self._chat.runner.send({"type": "accepted", "request": message.get("request", "")})
            except OutlierError as error:
                self._chat.notice = str(error)
                self._refuse(message)
                self._chat.send_state("info")  # the page shows the refused value

        self._chat.runner.put(work)

    def _run(self, message: dict[str, Any]) -> None:
        """Show a run under its answer; send it as HTML if a page cannot nest widgets.

        The HTML is made by this package, and all text in it is escaped.
        """
        number = message["run"]
        if not message.get("html"):
            self._chat.show_run(number)
            return
        html = self._chat.run(number)._repr_mimebundle_()["text/html"]
        self._chat.runner.send({"type": "run", "run": number, "html": html})


__getattr__ = old_names(__name__, Desk="MessageHandler")
