"""The operations of a chat on its conversations: switch, rename, delete, save, load.

Each changes the runner's `conversations` under its lock and updates the page. The data and the file
format are in `conversations.py`.
"""

from __future__ import annotations

import warnings
from pathlib import Path

from ...errors import OptionError, place
from ...system import files
from ...values import checked
from ...values import path as path_of
from ...values import text as text_of
from .controls import Settings, options_of
from .conversations import Conversation, Message
from .runner import TurnRunner
from .turn import template_messages


class ConversationsMixin(Settings):
    """The part of `Chat` with several conversations; `system` belongs to the current one."""

    runner: TurnRunner

    @property
    def messages(self) -> list[Message]:
        """The messages on the chosen path of the current conversation."""
        return self.runner.conversations.current.path()

    @property
    def conversations(self) -> list[Conversation]:
        """All conversations, oldest first."""
        return list(self.runner.conversations.by_id.values())

    def choose(self, message: int) -> None:
        """Show the branch that contains `message`."""
        with self.runner.lock:
            self.runner.conversations.current.choose(message)
            self.runner.publish()

    @checked(title=text_of)
    def new(self, title: str = "") -> Conversation:
        """Start another conversation with the same settings."""
        with self.runner.lock:
            out = self.runner.conversations.new(self.system)
            out.title = title
            self.runner.publish()
            return out

    def switch(self, conversation: int) -> None:
        """Make another conversation current, by its id."""
        with self.runner.lock:
            conversations = self.runner.conversations
            conversations.current = conversations.get(conversation)
            self._show_current()

    @checked(title=text_of)
    def rename(self, conversation: int, title: str) -> None:
        """Set the title of a conversation; "" uses its first question."""
        with self.runner.lock:
            self.runner.conversations.get(conversation).title = title.strip()
            self.runner.publish()

    def delete(self, conversation: int) -> None:
        """Delete a conversation by its id, unless an answer is being generated in it."""
        with self.runner.lock:
            if self.runner.answers_in(self.runner.conversations.get(conversation).id):
                raise OptionError("an answer is being generated in it: stop that first")
            self.runner.conversations.delete(conversation)
            self._show_current()

    def dumps(self) -> str:
        """All conversations as JSON."""
        with self.runner.lock:
            return self.runner.conversations.dumps()

    @checked(text=text_of)
    def add_from(self, text: str) -> None:
        """Add the conversations in a text of `dumps` to these.

        Raises:
            OptionError: the text is not a chat; nothing is added.
        """
        with self.runner.lock:
            self.runner.conversations.add_from(text)
            self._show_current()

    @checked(path=path_of)
    def save(self, path: str | Path, context: bool = False) -> Path:
        """Write all conversations to a file, which `load` and the widget's Import read.

        Args:
            context: also keep the current conversation's KV cache, in a file beside it: when both
                are loaded with the same model, the next turn reads only its own tokens. What no
                earlier turn left in memory is read first.

        Raises:
            OptionError: the file cannot be written; an earlier file stays.
        """
        written = files.write(path, self.dumps(), OptionError, "the chat")
        if context:
            messages = [each for message in self.messages for each in template_messages(message)]
            if not messages:
                raise OptionError("this conversation is empty: ask something first")
            self.runner.engine.save_context(messages, _beside(written), **options_of(self))
        return written

    @checked(path=path_of)
    def load(self, path: str | Path) -> None:
        """Add the conversations of a file that `save` or the widget's Export wrote.

        A KV cache that was saved with it is taken into memory; one that does not fit this model is
        left alone, with a warning.

        Raises:
            OptionError: the file cannot be read or is not a chat; nothing is added.
        """
        try:
            text = files.regular(path).read_text(encoding="utf-8-sig")
        except OSError as error:
            raise OptionError(f"{place(path)} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise OptionError(f"{place(path)} is not a chat file: it is not text") from None
        self.add_from(text)
        beside = _beside(Path(path))
        if beside.exists():
            try:
                self.runner.engine.open_context(beside, **(options_of(self) | {"system": None}))
            except OptionError as error:
                warnings.warn(f"the next turn reads all messages: {error}", stacklevel=3)

    def _show_current(self) -> None:
        self.system = self.runner.conversations.current.system
        self.runner.publish()


def _beside(path: Path) -> Path:
    """The file of a saved chat's KV cache."""
    return path.with_name(f"{path.stem}.context.safetensors")
