"""Requests that a chat refuses: a sentence says why, the page receives it, nothing is lost."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

import outlier_jupyter
from outlier_jupyter.errors import EngineBusy, EngineClosed, OutlierError
from outlier_jupyter.events import PromptEncoded
from outlier_jupyter.notebook.chat.chat import Chat
from tests.notebook.chat.asking import WAIT_S, idle, page, sent, texts


def test_a_busy_engine_is_a_sentence_and_the_text_stays(engine, chat: Chat) -> None:
    """Nothing is added to the conversation; the page receives the refusal and its reason."""
    other = engine.stream("Somebody else", max_tokens=3)
    next(other)
    chat.draft = "Wait for me"
    page(chat, type="send", text="Wait for me")
    assert "another run is under way" in chat.notice and chat.draft == "Wait for me"
    assert sent(chat, "refused") == [{"type": "refused", "request": "r1"}]
    assert chat.messages == [] and chat.runs == []
    with pytest.raises(EngineBusy):
        chat.send("Me too")
    list(other)
    page(chat, type="send", text="Wait for me")
    assert texts(chat)[0] == "Wait for me" and chat.draft == "" and chat.notice == ""


def test_a_second_message_while_an_answer_is_written_is_refused(engine, chat: Chat) -> None:
    """The page keeps its text; Python's `send` would wait instead."""
    begun, go_on = threading.Event(), threading.Event()

    def hold(event: object) -> None:
        begun.set()
        go_on.wait(WAIT_S)

    unsubscribe = engine.subscribe(hold, PromptEncoded)
    chat.comm.receive({"type": "send", "text": "a", "request": "r0"})
    assert begun.wait(WAIT_S)
    chat.comm.receive({"type": "send", "text": "b", "request": "r1"})
    go_on.set()
    assert {"type": "refused", "request": "r1"} in sent(chat, "refused")
    idle(chat)
    unsubscribe()
    assert texts(chat)[0] == "a" and len(chat.messages) == 2


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"type": "send", "text": " \n"}, "the message is empty"),
        ({"type": "send"}, "cannot be read (KeyError: 'text')"),
        ({"type": "set", "name": "top_p", "value": 3}, "top_p=3"),
        ({"type": "set", "name": "top_p", "value": "x"}, "top_p"),
        ({"type": "set", "name": "_esm", "value": "x"}, "is not a chat setting"),
        ({"type": "choose", "message": 77}, "there is no message 77"),
        ({"type": "switch", "conversation": 77}, "there is no conversation 77"),
        ({"type": "import", "text": "x"}, "it is not JSON"),
        ({"type": "run", "run": 5, "html": True}, "there is no run 5"),
        ({"type": "resize"}, "cannot be read (KeyError: 'cache_experts')"),
        ({"type": "resize", "cache_experts": "x"}, "cache_experts='x' cannot be used"),
    ],
)
def test_what_cannot_be_done_is_a_sentence(chat: Chat, content: Any, sentence: str) -> None:
    """The notice has it, and the page receives the refusal of its request."""
    page(chat, **content)
    assert sentence in chat.notice and "\n" not in chat.notice
    assert sent(chat, "refused") == [{"type": "refused", "request": "r1"}]
    assert chat.top_p == 1.0


@pytest.mark.parametrize("content", [None, 7, {}, {"type": "other"}, {"type": []}])
def test_unknown_messages_are_ignored(chat: Chat, content: Any) -> None:
    """A message unknown to this version does nothing."""
    chat.comm.receive(content)
    assert chat.notice == "" and chat.comm.custom() == []


def test_an_observer_that_asks_would_wait_for_itself(chat: Chat) -> None:
    """It gets an error that says so, and the chat goes on."""
    refused: list[str] = []

    def ask(change: object) -> None:
        try:
            chat.send("And?")
        except OutlierError as error:
            refused.append(str(error))

    chat.observe(ask, "answer")
    chat.send("Hello")
    idle(chat)
    assert "would wait for itself" in refused[0]


def test_close_stops_the_answer_and_ends_the_thread(engine) -> None:
    """Answers to earlier questions are stopped; afterwards a sentence says what to do."""
    before = set(threading.enumerate())
    chat = Chat(engine, max_tokens=100_000)
    turn = chat.runner.ask("Long", {})
    waiting = chat.runner.ask("Later", {})
    chat.close()
    assert turn.done.is_set() and waiting.done.is_set()
    assert not any(t.name == "outlier chat" for t in set(threading.enumerate()) - before)
    assert chat.status == "closed"
    with pytest.raises(EngineClosed, match="this chat was closed"):
        chat.send("Hello?")
    chat.close()


def test_a_closed_engine_is_a_sentence(tiny: Path) -> None:
    """The sentence says to load the model again."""
    engine = outlier_jupyter.load(tiny, cache_experts=8)
    chat = Chat(engine)
    engine.close()
    with pytest.raises(EngineClosed, match="load the model again"):
        chat.send("Hello")
    chat.close()
