"""Generate a chat's answers on one thread; `page_updates.py` sends what changes to the browser.

Cells return at once, so Stop is a message that any ipykernel handles.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ...engine.engine import Engine, leave_thread
from ...errors import EngineClosed, OptionError, OutlierError
from ...options import GenerateOptions, settled
from ...runs.run import Interrupted, Run
from ...values import checked
from ...values import text as text_of
from ..worker import Worker
from .controls import options_of
from .conversations import ASSISTANT, RUNNING, USER, Conversations
from .live_answer import LiveAnswer
from .page_updates import PageUpdates
from .run_store import RunStore
from .tool_calls import ToolCall, is_called_by
from .tool_rounds import ToolRounds, skip_open
from .turn import BranchPoint, Turn, run_turn

if TYPE_CHECKING:
    from .chat import Chat

IDLE = "idle"
CLOSED = "closed"
END = -1
"""A parent id: the end of the conversation when the turn begins."""


class TurnRunner:
    """Queues turns, runs them one after another, and publishes the results.

    Attributes:
        conversations: of the chat; read and change them under `lock`.
        runs: of the answers.
        updates: sends what changes to the pages.
    """

    def __init__(
        self, chat: Chat, engine: Engine, tools: ToolRounds, clock: Callable[[], float]
    ) -> None:
        self.engine = engine
        self.conversations = Conversations()
        self.runs = RunStore()
        self.updates = PageUpdates(chat, self.conversations, clock)
        self.lock = self.updates.lock
        self._chat = chat
        self._live = LiveAnswer(chat, engine, self.stop)
        self._tools = tools
        self._worker = Worker("outlier chat", leave_thread)
        # Otherwise a kernel that shuts down during an answer leaves MLX running on a thread while
        # the interpreter is torn down.
        weakref.finalize(self, _end, self._worker, engine)

    def ask(self, text: str, options: dict[str, Any], request: str = "") -> Turn:
        """Queue a question at the end of the current conversation."""
        return self.queue(END, _not_blank(text), options, request)

    def ask_again(self, answer: int | None = None, request: str = "") -> Turn:
        """Queue another answer to the question of `answer` (default: the last answer)."""
        with self.lock:
            conversation = self.conversations.current
            previous = conversation.get(conversation.end if answer is None else answer)
            if previous.role != ASSISTANT:
                raise OptionError(f"message {previous.id} is a question: regenerate an answer")
            return self.queue(previous.parent, None, {}, request)

    def ask_otherwise(self, message: int, text: str, request: str = "") -> Turn:
        """Queue another version of the question `message`."""
        with self.lock:
            previous = self.conversations.current.get(message)
            if previous.role != USER:
                raise OptionError(f"message {message} is an answer: edit a question")
            return self.queue(previous.parent, _not_blank(text), {}, request)

    def decide(self, message: int, call: str, allow: bool) -> Turn | None:
        """Allow or refuse a tool call; the turn that runs it or goes on, or None: others wait."""
        with self.lock:
            conversation = self.conversations.current
            answer = conversation.get(message)
            allowed = [answer.call(call)] if not answer.call(call).over else []
            turn = None
            goes_on = self._tools.decided(answer, call, allow)
            # The turn that runs this answer's calls looks again when they are over.
            if goes_on and (allow or not self.runs_calls_of(message)):
                turn = self.queue(answer.id, None, {}, "", allowed if allow else [])
            self.publish(during_answer=self.busy)
            return turn

    def runs_calls_of(self, message: int) -> bool:
        """Whether tool calls of this message of the current conversation are being run."""
        turn = self.updates.turn
        here = turn is not None and turn.conversation is self.conversations.current
        return here and turn is not None and turn.parent == message and turn.answer is None

    def wait(self, turn: Turn) -> Run:
        """Wait for a turn and return its last run, or raise its error; Ctrl-C stops it."""
        run = self.ended(turn)
        assert run is not None  # only a turn that waits for other calls has none
        return run

    def ended(self, turn: Turn) -> Run | None:
        """As `wait`; None if the turn has no run, as other calls wait to be allowed."""
        if self._worker.here or is_called_by(self._tools):
            raise OutlierError(
                "an observer or a tool of this chat asked it for an answer and would wait for "
                "itself: ask from a cell"
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
        return turn.run

    def stop(self) -> None:
        """Stop the current answer."""
        with self.lock:
            if self.updates.turn is not None:
                self._cancel(self.updates.turn)

    @property
    def busy(self) -> bool:
        """Whether an answer is being generated."""
        return self.updates.turn is not None

    def answers_in(self, conversation: int) -> bool:
        """Whether an answer is being generated in this conversation."""
        return self.updates.turn is not None and self.updates.turn.conversation.id == conversation

    def publish(self, during_answer: bool = False) -> None:
        """Publish the whole state, as `PageUpdates.publish`."""
        self.updates.publish(during_answer)

    def send(self, content: dict[str, Any]) -> None:
        """Send one message to the browser."""
        self.updates.send(content)

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

    def queue(
        self, parent: int, text: str | None, changes: dict[str, Any], request: str,
        allowed: Sequence[ToolCall] = (), branch: BranchPoint | None = None,
    ) -> Turn:  # fmt: skip
        """Queue a turn of the current conversation; see `Turn` for the arguments."""
        # Bad options raise here, on the caller's thread.
        options = options_of(self._chat) | self._tools.options | changes
        options = settled(GenerateOptions, options)
        here = self.conversations.current
        turn = Turn(here, parent, text, options, request, list(allowed), branch)
        self.put(lambda: self._run(turn))
        return turn

    def put(self, work: Callable[[], object]) -> None:
        """Queue `work` on the thread that generates answers."""
        if not self._worker.put(work):
            raise _closed()

    def _cancel(self, turn: Turn) -> None:
        with self.lock:
            turn.cancelled.set()
            now = self.updates.turn is not None and self.updates.turn.cancelled is turn.cancelled
            if now and self.engine.run_lock.owned_by(self._worker.thread):
                self.engine.stop()

    def _run(self, turn: Turn) -> None:
        """Run one turn on the worker thread."""
        if self._worker.closed:
            turn.error = _closed()
            turn.done.set()
            return
        with self.lock:
            self.updates.turn = turn
            if turn.parent == END:
                turn.parent = turn.conversation.end_answered
        last: Turn = turn
        step: Turn | None = turn  # the turns after the first go on from automatic calls
        try:
            self._chat.status = RUNNING
            while step is not None:
                last, step = step, self._round(step)
            turn.run, turn.error = last.run, last.error
        except BaseException as error:
            turn.error = last.error or error
            raise
        finally:
            with self.lock:
                self.updates.turn = None
            turn.done.set()

    def _round(self, turn: Turn) -> Turn | None:
        """Run the calls that the turn allows, and generate; the turn that goes on by itself."""
        if turn.allowed:
            self.publish(during_answer=True)
            self._tools.run(self.engine, turn, lambda: self.publish(during_answer=True))
        with self.lock:
            waits = turn.waits
            if turn.allowed and turn.cancelled.is_set():
                turn.error = _stopped(turn, self.runs)
            if waits:
                self.updates.turn = None  # from now on a decision queues a turn of its own
        if turn.error is None and not waits:
            run_turn(
                self.engine,
                turn,
                on_begin=lambda: self._begin(turn),
                on_progress=self.updates.progress,
                on_text=self.updates.add,
                open_view=lambda: self._live.open(turn.text or ""),
            )
        return self._finish(turn)

    def _begin(self, turn: Turn) -> None:
        """Add the turn to its conversation: the engine has accepted it."""
        with self.lock:
            conversation, parent = turn.conversation, turn.parent
            if turn.text is not None:
                skip_open(conversation, parent)
                parent = conversation.add(parent, USER, turn.text).id
            turn.answer = conversation.add(parent, ASSISTANT, ended=RUNNING)
            turn.answer.note = _left_out_note(turn.left_out)
            if self._chat.draft.strip() == (turn.text or "").strip():
                self._chat.draft = ""
            self._chat.notice = ""
            self.updates.begin()
        if turn.request:
            self.send({"type": "accepted", "request": turn.request})

    def _finish(self, turn: Turn) -> Turn | None:
        """Store the result of a turn and publish it; the turn that goes on by itself, or None."""
        run, answer = turn.run, turn.answer
        with self.lock:
            self.updates.flush()
            number = self.runs.add(run) if run is not None else 0
            if answer is not None:
                answer.ended = run.finish_reason if run is not None else "error"
                answer.numbers = turn.numbers() | ({"run": number} if number else {})
                if run is not None:
                    answer.text, answer.thinking = run.answer, turn.thinking()
                if answer.ended == "error":
                    answer.note = str(turn.error)
                self._tools.read(self.engine, turn)
            elif turn.request:
                self._chat.notice = str(turn.error)
                self.send({"type": "refused", "request": turn.request})
            elif turn.goes_on and turn.error is not None and not turn.cancelled.is_set():
                self._chat.notice = str(turn.error)
            following = self.updates.turn = self._tools.following(turn)
            self.publish(during_answer=following is not None)
            self._live.finish(run, number)
            if turn.branch is not None and answer is not None:
                self._chat.show_run(number)
        if following is None:
            self._chat.status = IDLE
        if run is not None and turn.error is None:
            self._chat.answer = run.answer
        return following


def _stopped(turn: Turn, runs: RunStore) -> BaseException:
    """The error of a turn that was stopped while it waited for a tool."""
    number = turn.conversation.messages[turn.parent].numbers.get("run")
    try:
        return Interrupted(runs.get(int(number or 0)))
    except OptionError:  # a run of another process, or dropped
        return OutlierError("stopped while a tool ran: its call says so")


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
