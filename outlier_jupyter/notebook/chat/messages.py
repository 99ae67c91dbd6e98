"""The browser's messages to a chat, each one call of what Python can ask as well.

A message comes on whatever thread the kernel has for it, beside a running cell or after it. What
takes time is queued; what cannot be done is answered with a sentence, and the page keeps its text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import traitlets

from ...errors import EngineBusy, OptionError, OutlierError
from .controls import NAMES

if TYPE_CHECKING:
    from .chat import Chat


class Desk:
    """Takes messages for one chat. A message it does not know does nothing."""

    def __init__(self, chat: Chat) -> None:
        self._chat = chat
        self._kinds: dict[str, Callable[[dict[str, Any]], object]] = {
            "send": self._send,
            "regenerate": self._regenerate,
            "edit": self._edit,
            "choose": lambda told: chat.choose(told["message"]),
            "stop": lambda told: chat.stop(),
            "new": lambda told: chat.new(),
            "switch": lambda told: chat.switch(told["conversation"]),
            "rename": lambda told: chat.rename(told["conversation"], told["title"]),
            "delete": lambda told: chat.delete(told["conversation"]),
            "set": self._set,
            "export": self._export,
            "import": lambda told: chat.add_from(told["text"]),
            "resize": self._resize,
            "run": self._run,
            "saved": lambda told: chat.writer.tell({"type": "saved", "data": chat.saved_view}),
            "resync": lambda told: chat.writer.resync(),
            "draft": lambda told: chat.set_trait("draft", told["text"]),
            "dismiss": lambda told: chat.set_trait("notice", ""),
        }

    def receive(self, content: object) -> None:
        """Do what a message asks, or say in one sentence why not."""
        kind = content.get("type") if isinstance(content, dict) else None
        act = self._kinds.get(kind) if isinstance(kind, str) else None
        if act is None or not isinstance(content, dict):
            return
        try:
            act(content)
        except (OutlierError, traitlets.TraitError) as error:
            self._chat.notice = str(error)
            self._refuse(content)
        except (KeyError, TypeError, AttributeError) as error:
            self._chat.notice = f"the page sent a {kind!r} that cannot be read ({error!r}): reload"
            self._refuse(content)

    def _refuse(self, told: dict[str, Any]) -> None:
        if "request" in told:
            self._chat.writer.tell({"type": "refused", "request": told["request"]})

    def _send(self, told: dict[str, Any]) -> None:
        self._not_while_writing()
        self._chat.writer.ask(told["text"], {}, told["request"])

    def _regenerate(self, told: dict[str, Any]) -> None:
        self._not_while_writing()
        self._chat.writer.ask_again(told["message"], told["request"])

    def _edit(self, told: dict[str, Any]) -> None:
        self._not_while_writing()
        self._chat.writer.ask_otherwise(told["message"], told["text"], told["request"])

    def _not_while_writing(self) -> None:
        if self._chat.writer.busy:
            raise EngineBusy("an answer is being written: stop it or wait for its end")

    def _set(self, told: dict[str, Any]) -> None:
        name = told["name"]
        if name not in (*NAMES, "watch"):
            raise OptionError(f"{name!r} is no setting of a chat")
        try:
            setattr(self._chat, name, told["value"])
        except (OptionError, traitlets.TraitError):
            self._chat.send_state(name)  # the page shows what was refused
            raise

    def _export(self, told: dict[str, Any]) -> None:
        self._chat.writer.tell({"type": "file", "name": "chat.json", "text": self._chat.dumps()})

    def _resize(self, told: dict[str, Any]) -> None:
        """On the worker's thread: it copies what may be gigabytes, and MLX is its own there."""
        self._not_while_writing()
        wanted = told["cache_experts"]

        def work() -> None:
            try:
                self._chat.resize(cache_experts=wanted)
                self._chat.writer.tell({"type": "accepted", "request": told.get("request", "")})
            except OutlierError as error:
                self._chat.notice = str(error)
                self._refuse(told)
                self._chat.send_state("info")  # the page shows what was refused

        self._chat.writer.put(work)

    def _run(self, told: dict[str, Any]) -> None:
        """Show a run under its answer, or as HTML where a page cannot show widgets in widgets.

        The HTML is of our own making, and all text in it is escaped.
        """
        number = told["run"]
        if not told.get("html"):
            self._chat.show_run(number)
            return
        html = self._chat.run(number)._repr_mimebundle_()["text/html"]
        self._chat.writer.tell({"type": "run", "run": number, "html": html})
