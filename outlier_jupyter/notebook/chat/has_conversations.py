"""What a chat is asked about its conversations: to go to another, name it, save all of them.

Each is a change of the writer's `books` under its lock, and told to the page. What a conversation
is, and what stands in a file of them, is in `conversation.py`.
"""

from __future__ import annotations

from pathlib import Path

from ...errors import OptionError, place
from ...system import files
from ...values import checked
from ...values import path as path_of
from ...values import text as text_of
from .controls import Settings
from .conversations import Conversation, Message
from .runner import Writer


class HasConversations(Settings):
    """The part of a chat that holds several conversations; `system` is the current one's."""

    writer: Writer

    @property
    def messages(self) -> list[Message]:
        """The messages of the current conversation along the path that is read."""
        return self.writer.books.current.path()

    @property
    def conversations(self) -> list[Conversation]:
        """All conversations, oldest first."""
        return list(self.writer.books.by_id.values())

    def choose(self, message: int) -> None:
        """Read the branch that `message` is on."""
        with self.writer.lock:
            self.writer.books.current.choose(message)
            self.writer.publish()

    @checked(title=text_of)
    def new(self, title: str = "") -> Conversation:
        """Begin another conversation, with the same settings."""
        with self.writer.lock:
            out = self.writer.books.new(self.system)
            out.title = title
            self.writer.publish()
            return out

    def switch(self, conversation: int) -> None:
        """Go on with another conversation, by its id."""
        with self.writer.lock:
            books = self.writer.books
            books.current = books.get(conversation)
            self._show_current()

    @checked(title=text_of)
    def rename(self, conversation: int, title: str) -> None:
        """Give a conversation a title; "" names it by its first question."""
        with self.writer.lock:
            self.writer.books.get(conversation).title = title.strip()
            self.writer.publish()

    def delete(self, conversation: int) -> None:
        """Delete a conversation, by its id; not the one an answer is being written in."""
        with self.writer.lock:
            if self.writer.writes_in(self.writer.books.get(conversation).id):
                raise OptionError("an answer is being written in this conversation: stop it first")
            self.writer.books.delete(conversation)
            self._show_current()

    def dumps(self) -> str:
        """All conversations as JSON."""
        with self.writer.lock:
            return self.writer.books.dumps()

    @checked(text=text_of)
    def add_from(self, text: str) -> None:
        """Add the conversations of `dumps` to these.

        Raises:
            OptionError: it is no such text; nothing is added then.
        """
        with self.writer.lock:
            self.writer.books.add_from(text)
            self._show_current()

    @checked(path=path_of)
    def save(self, path: str | Path) -> Path:
        """Write all conversations to a file, which `load` and the widget's Import read.

        Raises:
            OptionError: it cannot be written there; what was there before stays.
        """
        return files.write(path, self.dumps(), OptionError, "the chat")

    @checked(path=path_of)
    def load(self, path: str | Path) -> None:
        """Add the conversations of a file that `save` or the widget's Export wrote.

        Raises:
            OptionError: it is no such file, or cannot be read; nothing is added then.
        """
        try:
            text = files.regular(path).read_text(encoding="utf-8-sig")
        except OSError as error:
            raise OptionError(f"{place(path)} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise OptionError(f"{place(path)} is no chat file: it is not text") from None
        self.add_from(text)

    def _show_current(self) -> None:
        self.system = self.writer.books.current.system
        self.writer.publish()
