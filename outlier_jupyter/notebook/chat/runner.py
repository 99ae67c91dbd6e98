"""Has one thread write a chat's answers, and tells the browser how they grow.

Cells return at once, so Stop is a message that any ipykernel handles. Text goes out in one message
per 50 ms; the whole state goes into a trait when something else changes, and every few seconds, so
that a reloaded page has something to start from. Both carry a sequence number.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ...engine.engine import Engine, leave_thread
from ...errors import EngineClosed, OptionError, OutlierError
from ...events import Sink
from ...options import GenerateOptions, settled
from ...runs.run import Run
from ...values import checked
from ...values import text as text_of
from ..live.show import NextRun, make_view
from .controls import options_of
from .conversations import ASSISTANT, RUNNING, USER, Conversations
from .kept_runs import KeptRuns
from .thread import Worker
from .turn import Turn, run_turn
from .view_state import outline, reading_of

if TYPE_CHECKING:
    from .chat import Chat

TELL_EVERY_S = 0.05
READING_EVERY_S = 0.25
SAVE_EVERY_S = 4.0
"""Text, and how far the prompt is read, are told, and the state is written, at most so often."""

IDLE = "idle"
CLOSED = "closed"
END = -1
"""In place of a parent: wherever the conversation ends when the turn's time comes."""


class Writer:
    """Queues turns, runs them one after another, and publishes what comes of them.

    Attributes:
        books: the conversations; look at and change them under `lock`.
        runs: of the answers given.
    """

    def __init__(self, chat: Chat, engine: Engine, clock: Callable[[], float]) -> None:
        self.engine = engine
        self.books = Conversations()
        self.runs = KeptRuns()
        self.lock = threading.RLock()
        self._chat = chat
        self._clock = clock
        self._seq = 0
        self._turn: Turn | None = None
        self._growing: list[str] = []
        self._tell_at = self._save_at = self._read_at = 0.0
        self._feed: NextRun | None = None
        self._worker = Worker("outlier chat", leave_thread)
        # A kernel that shuts down in the middle of an answer would leave MLX running on a thread
        # while the interpreter is taken apart.
        weakref.finalize(self, _end, self._worker, engine)

    def ask(self, text: str, options: dict[str, Any], request: str = "") -> Turn:
        """Queue a question at the end of the current conversation."""
        return self._queue(END, _filled(text), options, request)

    def ask_again(self, answer: int | None = None, request: str = "") -> Turn:
        """Queue another answer to the question that `answer` answers."""
        with self.lock:
            book = self.books.current
            told = book.get(book.end if answer is None else answer)
            if told.role != ASSISTANT:
                raise OptionError(f"message {told.id} is a question: regenerate an answer")
            return self._queue(told.parent, None, {}, request)

    def ask_otherwise(self, message: int, text: str, request: str = "") -> Turn:
        """Queue another question in the place of `message`."""
        with self.lock:
            told = self.books.current.get(message)
            if told.role != USER:
                raise OptionError(f"message {message} is an answer: edit a question")
            return self._queue(told.parent, _filled(text), {}, request)

    def wait(self, turn: Turn) -> Run:
        """Wait for a turn and return its run, or raise what it ended with; Ctrl-C stops it."""
        if self._worker.here:
            raise OutlierError(
                "an observer of this chat asked it for an answer and would wait for itself: "
                "ask from a cell"
            )
        self._chat.blocking = threading.current_thread() is threading.main_thread()
        try:
            turn.done.wait()
        except KeyboardInterrupt:
            self._cancel(turn)
            turn.done.wait()
            if turn.error is None:
                raise
        finally:
            self._chat.blocking = False
        if turn.error is not None:
            raise turn.error
        assert turn.run is not None
        return turn.run

    def stop(self) -> None:
        """Stop the answer being written."""
        with self.lock:
            if self._turn is not None:
                self._cancel(self._turn)

    @property
    def busy(self) -> bool:
        """Whether an answer is being written."""
        return self._turn is not None

    def writes_in(self, conversation: int) -> bool:
        """Whether an answer is being written in this conversation."""
        return self._turn is not None and self._turn.conversation.id == conversation

    def publish(self, growing: bool = False) -> None:
        """Write the whole state; a page takes it in place of everything before.

        What a saved notebook shows is left alone while an answer is `growing`: each change of it
        is drawn anew by the page, and makes the notebook one that has to be saved again.
        """
        with self.lock:
            self._grown()
            self._seq += 1
            self._save_at = self._clock() + SAVE_EVERY_S
            self._chat.state = outline(self.books, self._turn, self._seq)
            if not growing:
                self._chat.save_view()

    def tell(self, content: dict[str, Any]) -> None:
        """Send one message to the browser."""
        self._chat.send(content)

    def resync(self) -> None:
        """Tell the whole state to a page that missed something."""
        with self.lock:
            self.publish(growing=True)
            self.tell({"type": "state", "state": self._chat.state})

    def close(self) -> None:
        """Stop what is being written, and end the thread."""
        self._worker.refuse()
        self.stop()
        self._worker.close()

    def _queue(self, parent: int, text: str | None, given: dict[str, Any], request: str) -> Turn:
        # Refused here, not on another thread.
        options = settled(GenerateOptions, options_of(self._chat) | given)
        turn = Turn(self.books.current, parent, text, options, request)
        self.put(lambda: self._do(turn))
        return turn

    def put(self, work: Callable[[], object]) -> None:
        """Have `work` done on the thread that writes, after what was asked before."""
        if not self._worker.put(work):
            raise _closed()

    def _cancel(self, turn: Turn) -> None:
        with self.lock:
            turn.cancelled.set()
            if self._turn is turn and self.engine.turns.of(self._worker.thread):
                self.engine.stop()

    def _do(self, turn: Turn) -> None:
        """One turn, on the worker's thread."""
        if self._worker.closed:
            turn.error = _closed()
            turn.done.set()
            return
        with self.lock:
            self._turn = turn
            if turn.parent == END:
                turn.parent = turn.conversation.end_answered
        try:
            self._chat.status = RUNNING
            run_turn(
                self.engine,
                turn,
                begin=lambda: self._begin(turn),
                read=lambda: self._read(turn),
                grow=self._grow,
                watch=lambda: self._watch(turn),
            )
            self._finish(turn)
        except BaseException as error:
            turn.error = turn.error or error
            raise
        finally:
            with self.lock:
                self._turn = None
            turn.done.set()

    def _begin(self, turn: Turn) -> None:
        """The engine has taken the turn: now it is part of the conversation."""
        with self.lock:
            book, parent = turn.conversation, turn.parent
            if turn.text is not None:
                parent = book.add(parent, USER, turn.text).id
            turn.answer = book.add(parent, ASSISTANT, ended=RUNNING)
            turn.answer.note = _left_out(turn.left_out)
            if self._chat.draft.strip() == (turn.text or "").strip():
                self._chat.draft = ""
            self._chat.notice = ""
            self._tell_at = 0.0
            self._read_at = self._clock() + READING_EVERY_S
            self.publish()
        if turn.request:
            self.tell({"type": "accepted", "request": turn.request})

    def _read(self, turn: Turn) -> None:
        """Tell how far the prompt is read; a short one is read before there is anything to tell."""
        now = self._clock()
        if now >= self._read_at and turn.answer is not None:
            self._read_at = now + READING_EVERY_S
            where = {"conversation": turn.conversation.id}
            self.tell({"type": "reading", "reading": reading_of(turn)} | where)

    def _grow(self, text: str) -> None:
        with self.lock:
            self._growing.append(text)
            now = self._clock()
            if now < self._tell_at:
                return
            self._tell_at = now + TELL_EVERY_S
            if now >= self._save_at:
                self.publish(growing=True)
                return
            turn, more = self._turn, self._grown()
            assert turn is not None and turn.answer is not None  # text comes from a begun run
            self._seq += 1
            message = {"conversation": turn.conversation.id, "message": turn.answer.id}
            self.tell({"type": "text", "seq": self._seq, "text": more} | message)

    def _grown(self) -> str:
        """Move the text that came since the last time into the answer, and return it."""
        more = "".join(self._growing)
        self._growing.clear()
        if more and self._turn is not None and self._turn.answer is not None:
            self._turn.answer.text += more
        return more

    def _finish(self, turn: Turn) -> None:
        """Book what came of a turn and tell it."""
        run, answer = turn.run, turn.answer
        with self.lock:
            self._grown()
            self._turn = None
            number = self.runs.add(run) if run is not None else 0
            if answer is not None:
                answer.ended = run.finish_reason if run is not None else "error"
                answer.numbers = turn.numbers() | ({"run": number} if number else {})
                if run is not None:
                    answer.text = run.text
                if answer.ended == "error":
                    answer.note = str(turn.error)
            elif turn.request:
                self._chat.notice = str(turn.error)
                self.tell({"type": "refused", "request": turn.request})
            self.publish()
            self._unwatch(run)
        self._chat.status = IDLE
        if run is not None and turn.error is None:
            self._chat.answer = run.text

    def _watch(self, turn: Turn) -> Sink | None:
        """A new live view for this turn's run, if somebody watches."""
        if not self._chat.watch:
            return None
        view = make_view(self.engine, turn.text or "", on_stop=self.stop, kernel_id="")
        self._feed = NextRun(self.engine, view.push)
        before, self._chat.live = self._chat.live, view
        if before is not None:
            before.close()
        return self._feed

    def _unwatch(self, run: Run | None) -> None:
        feed, self._feed = self._feed, None
        if feed is not None and self._chat.live is not None:
            reason = run.finish_reason if run is not None else "error"
            self._chat.live.answer_from(run)
            self._chat.live.finish(reason, feed.last_frame(run))


def _left_out(answers: int) -> str:
    """What is said under an answer that was given without all that came before."""
    if not answers:
        return ""
    which = "an earlier answer and its question" if answers == 1 else (
        f"{answers} earlier answers and their questions")  # fmt: skip
    return f"written without {which}, which the model's chat template refuses"


@checked(text=text_of)
def _filled(text: str) -> str:
    if not text.strip():
        raise OptionError("the message is empty: give at least one character")
    return text


def _closed() -> EngineClosed:
    return EngineClosed("this chat was closed: make another one with Chat(engine)")


def _end(worker: Worker, engine: Engine) -> None:
    worker.refuse()
    if worker.busy:
        engine.turns.refuse()  # the interpreter ends: no run may begin any more
        engine.stop()
    worker.close()
