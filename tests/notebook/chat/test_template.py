"""A chat goes on, even if its model's chat template refuses an earlier answer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from outlier_jupyter.errors import OptionError, TemplateRefused
from outlier_jupyter.notebook.chat.chat import Chat
from outlier_jupyter.notebook.chat.conversations import ASSISTANT, USER
from tests.engine.test_templates import BODY, WITHOUT_CHANNELS, WITHOUT_EMPTY
from tests.notebook.chat.asking import page, sent

THOUGHT = "<|channel|>analysis<|message|>hm<|end|><|channel|>final<|message|>Yes."


@pytest.fixture(autouse=True)
def restored(engine) -> Iterator[None]:
    before = engine.tokenizer.chat_template
    yield
    engine.tokenizer.chat_template = before


def answered(chat: Chat, *texts: str) -> None:
    """Add these questions and answers to the conversation."""
    conversation = chat.runner.conversations.current
    for index, text in enumerate(texts):
        conversation.add(conversation.end, ASSISTANT if index % 2 else USER, text)


def test_the_final_channel_is_read_and_the_whole_is_shown(engine, chat: Chat) -> None:
    """For models that answer in channels, whose templates refuse the whole answer."""
    engine.tokenizer.chat_template = WITHOUT_CHANNELS + BODY
    answered(chat, "Is it?", THOUGHT)
    run = chat.send("Sure?")
    assert run.encoded == "<user>Is it?<assistant>Yes.<user>Sure?<assistant>"
    assert chat.messages[1].text == THOUGHT and chat.messages[-1].note == ""


def test_an_answer_that_is_refused_is_left_out_with_a_note(engine, chat: Chat) -> None:
    """An answer that was stopped before its first word makes no later question fail."""
    engine.tokenizer.chat_template = WITHOUT_EMPTY + BODY
    answered(chat, "a", "A", "b", "")
    page(chat, type="send", text="c")
    assert sent(chat, "accepted") and chat.notice == ""
    assert chat.runs[-1].encoded == "<user>a<assistant>A<user>c<assistant>"
    assert "without an earlier answer and its question" in chat.messages[-1].note
    assert [message.text for message in chat.messages[:5]] == ["a", "A", "b", "", "c"]
    chat.send("d")
    assert len(chat.messages) == 8


def test_what_is_refused_of_the_question_itself_is_a_sentence(engine, chat: Chat) -> None:
    """Nothing is added to the conversation then, and the next question is answered."""
    engine.tokenizer.chat_template = WITHOUT_CHANNELS + BODY
    answered(chat, "Is it?", THOUGHT)
    page(chat, type="send", text="What is <|channel|>?")
    assert "chat template refused" in chat.notice and len(chat.messages) == 2
    with pytest.raises(TemplateRefused):
        chat.send("And <|channel|>?")
    chat.send("Sure?")
    assert len(chat.messages) == 4


def test_a_base_model_has_a_notice_at_once(engine, monkeypatch) -> None:
    """It has no chat template: the chat says so before the first question."""
    monkeypatch.setattr(engine.tokenizer._tokenizer, "has_chat_template", False)
    chat = Chat(engine)
    assert "no chat template" in chat.notice
    with pytest.raises(OptionError, match="no chat template"):
        chat.send("Hello")
    assert chat.messages == []
    chat.close()
