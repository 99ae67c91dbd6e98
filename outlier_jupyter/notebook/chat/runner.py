"""Generate a chat's answers on one thread, and send their progress to the browser.

Cells return at once, so Stop is a message that any ipykernel handles. New text is sent in one
message per 50 ms. The whole state is a trait, set on every change except new text, and every few
seconds, so that a reloaded page can start from it. Messages and states carry a sequence number.
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
from ..live.show import NextRunFrames, make_view
from ..worker import Worker
from .controls import options_of
from .conversations import ASSISTANT, RUNNING, USER, Conversations
from .run_store import RunStore
from .turn import Turn, run_turn
from .view_state import chat_state, prompt_progress

if TYPE_CHECKING:
    from .chat import Chat

TEXT_EVERY_S = 0.05
READING_EVERY_S = 0.25
SAVE_EVERY_S = 4.0
"""The least time between messages of text, of prompt progress, and states, in seconds."""

IDLE = "idle"
CLOSED = "closed"
END = -1
"""A parent id: the end of the conversation when the turn begins."""


class TurnRunner:
    """Queues turns, runs them one after another, and publishes the results.

    Attributes:
        conversations: of the chat; read and change them under `lock`.
        runs: of the answers.
    """

    def __init__(self, chat: Chat, engine: Engine, clock: Callable[[], float]) -> None:
        self.engine = engine
        self.conversations = Conversations()
        self.runs = RunStore()
        self.lock = threading.RLock()
        self._chat = chat
        self._clock = clock
        self._seq = 0
        self._turn: Turn | None = None
        self._new_text: list[str] = []
        self._text_at = self._save_at = self._read_at = 0.0
        self._frames: NextRunFrames | None = None
        self._worker = Worker("outlier chat", leave_thread)
        # Otherwise a kernel that shuts down during an answer leaves MLX running on a thread while
        # the interpreter is torn down.
        weakref.finalize(self, _end, self._worker, engine)

    def ask(self, text: str, options: dict[str, Any], request: str = "") -> Turn:
        """Queue a question at the end of the current conversation."""
        return self._queue(END, _not_blank(text), options, request)

    def ask_again(self, answer: int | None = None, request: str = "") -> Turn:
        """Queue another answer to the question of `answer` (default: the last answer)."""
        with self.lock:
            conversation = self.conversations.current
            previous = conversation.get(conversation.end if answer is None else answer)
            if previous.role != ASSISTANT:
                raise OptionError(f"message {previous.id} is a question: regenerate an answer")
            return self._queue(previous.parent, None, {}, request)

    def ask_otherwise(self, message: int, text: str, request: str = "") -> Turn:
        """Queue another version of the question `message`."""
        with self.lock:
            previous = self.conversations.current.get(message)
            if previous.role != USER:
                raise OptionError(f"message {message} is an answer: edit a question")
            return self._queue(previous.parent, _not_blank(text), {}, request)

    def wait(self, turn: Turn) -> Run:
        """Wait for a turn and return its run, or raise its error; Ctrl-C stops it."""
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
        """Stop the current answer."""
        with self.lock:
            if self._turn is not None:
                self._cancel(self._turn)

    @property
    def busy(self) -> bool:
        """Whether an answer is being generated."""
        return self._turn is not None

    def answers_in(self, conversation: int) -> bool:
        """Whether an answer is being generated in this conversation."""
        return self._turn is not None and self._turn.conversation.id == conversation

    def publish(self, during_answer: bool = False) -> None:
        """Publish the whole state, which replaces the page's state.

        The form for saved notebooks is not updated `during_answer`: each update makes the page
        redraw it and marks the notebook as unsaved.
        """
        with self.lock:
            self._flush_text()
            self._seq += 1
            self._save_at = self._clock() + SAVE_EVERY_S
            self._chat.state = chat_state(self.conversations, self._turn, self._seq)
            if not during_answer:
                self._chat.save_view()

    def send(self, content: dict[str, Any]) -> None:
        """Send one message to the browser."""
        self._chat.send(content)

    def resync(self) -> None:
        """Send the whole state to a page that missed a message."""
        with self.lock:
            self.publish(during_answer=True)
            self.send({"type": "state", "state": self._chat.state})

    def close(self) -> None:
        """Stop the current answer and end the thread."""
        self._worker.stop_accepting()
        self.stop()
        self._worker.close()

    def _queue(self, parent: int, text: str | None, changes: dict[str, Any], request: str) -> Turn:
        # Bad options raise here, on the caller's thread.
        options = settled(GenerateOptions, options_of(self._chat) | changes)
        turn = Turn(self.conversations.current, parent, text, options, request)
        self.put(lambda: self._run(turn))
        return turn

    def put(self, work: Callable[[], object]) -> None:
        """Queue `work` on the thread that generates answers."""
        if not self._worker.put(work):
            raise _closed()

    def _cancel(self, turn: Turn) -> None:
        with self.lock:
            turn.cancelled.set()
            if self._turn is turn and self.engine.run_lock.owned_by(self._worker.thread):
                self.engine.stop()

    def _run(self, turn: Turn) -> None:
        """Run one turn on the worker thread."""
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
                on_begin=lambda: self._begin(turn),
                on_progress=lambda: self._report_progress(turn),
                on_text=self._add_text,
                open_view=lambda: self._open_live_view(turn),
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
        """Add the turn to its conversation: the engine has accepted it."""
        with self.lock:
            conversation, parent = turn.conversation, turn.parent
            if turn.text is not None:
                parent = conversation.add(parent, USER, turn.text).id
            turn.answer = conversation.add(parent, ASSISTANT, ended=RUNNING)
            turn.answer.note = _left_out_note(turn.left_out)
            if self._chat.draft.strip() == (turn.text or "").strip():
                self._chat.draft = ""
            self._chat.notice = ""
            self._text_at = 0.0
            self._read_at = self._clock() + READING_EVERY_S
            self.publish()
        if turn.request:
            self.send({"type": "accepted", "request": turn.request})

    def _report_progress(self, turn: Turn) -> None:
        """Send the prompt's progress; a short prompt is read before the first message is due."""
        now = self._clock()
        if now >= self._read_at and turn.answer is not None:
            self._read_at = now + READING_EVERY_S
            where = {"conversation": turn.conversation.id}
            self.send({"type": "reading", "reading": prompt_progress(turn)} | where)

    def _add_text(self, text: str) -> None:
        with self.lock:
            self._new_text.append(text)
            now = self._clock()
            if now < self._text_at:
                return
            self._text_at = now + TEXT_EVERY_S
            if now >= self._save_at:
                self.publish(during_answer=True)
                return
            turn, more = self._turn, self._flush_text()
            assert turn is not None and turn.answer is not None  # text comes from a begun run
            self._seq += 1
            message = {"conversation": turn.conversation.id, "message": turn.answer.id}
            self.send({"type": "text", "seq": self._seq, "text": more} | message)

    def _flush_text(self) -> str:
        """Move the new text into the answer, and return it."""
        more = "".join(self._new_text)
        self._new_text.clear()
        if more and self._turn is not None and self._turn.answer is not None:
            self._turn.answer.text += more
        return more

    def _finish(self, turn: Turn) -> None:
        """Store the result of a turn and publish it."""
        run, answer = turn.run, turn.answer
        with self.lock:
            self._flush_text()
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
                self.send({"type": "refused", "request": turn.request})
            self.publish()
            self._finish_live_view(run)
        self._chat.status = IDLE
        if run is not None and turn.error is None:
            self._chat.answer = run.text

    def _open_live_view(self, turn: Turn) -> Sink | None:
        """Open a live view for this turn's run, if `watch` is on; return its subscriber."""
        if not self._chat.watch:
            return None
        view = make_view(self.engine, turn.text or "", on_stop=self.stop, kernel_id="")
        self._frames = NextRunFrames(self.engine, view.push)
        previous, self._chat.live = self._chat.live, view
        if previous is not None:
            previous.close()
        return self._frames

    def _finish_live_view(self, run: Run | None) -> None:
        frames, self._frames = self._frames, None
        if frames is not None and self._chat.live is not None:
            reason = run.finish_reason if run is not None else "error"
            self._chat.live.answer_from(run)
            self._chat.live.finish(reason, frames.last_frame(run))


def _left_out_note(answers: int) -> str:
    """The note under an answer whose prompt leaves out earlier answers."""
    if not answers:
        return ""
    which = "an earlier answer and its question" if answers == 1 else (
        f"{answers} earlier answers and their questions")  # fmt: skip
    return f"generated without {which}, which the model's chat template refuses"


@checked(text=text_of)
def _not_blank(text: str) -> str:
    if not text.strip():
        raise OptionError("the message is empty: give at least one character")
    return text


def _closed() -> EngineClosed:
    return EngineClosed("this chat was closed: make another one with Chat(engine)")


def _end(worker: Worker, engine: Engine) -> None:
    worker.stop_accepting()
    if worker.busy:
        engine.run_lock.refuse_waiting()  # the interpreter ends: no further run may begin
        engine.stop()
    worker.close()
