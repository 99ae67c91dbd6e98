"""Starter prompts of an empty chat, and the file that all conversations come back from."""

from __future__ import annotations

import json

import pytest

from outlier_jupyter import Chat
from outlier_jupyter.errors import OptionError
from outlier_jupyter.notebook.chat.starters import GENERAL, OF_DEMO
from tests.notebook.chat.asking import texts


def test_a_chat_offers_prompts_that_suit_its_model(engine):
    """The user's, those of any model, or none."""
    assert Chat(engine).starters == list(GENERAL) and len(GENERAL) == len(OF_DEMO) == 4
    assert Chat(engine, starters=["Why?"]).starters == ["Why?"]
    assert Chat(engine, starters=[]).starters == []


@pytest.mark.parametrize(
    ("starters", "message"),
    [(["a"] * 5, "give at most 4"), ([" "], "a starter is empty"), ([1], "starters")],
)
def test_starters_that_cannot_be_used_are_refused(engine, starters, message):
    """One sentence, before the widget exists."""
    with pytest.raises(OptionError, match=message):
        Chat(engine, starters=starters)


def test_all_conversations_come_back_from_the_chat_s_file(engine, tmp_path):
    """Every conversation with its branches, title and system prompt, and the current one."""
    file = tmp_path / "chat.json"
    first = Chat(engine, file=file, max_tokens=3)
    first.send("one")
    first.regenerate()
    first.new("second")
    first.system = "Be brief."
    first.send("two")
    first.switch(1)
    first.send("three")
    first.close()
    again = Chat(engine, file=file, max_tokens=3)
    assert [each.label for each in again.conversations] == [
        each.label for each in first.conversations
    ]
    assert texts(again) == texts(first) and again.messages[0].text == "one"
    assert len(again.conversations[0].messages) == len(first.conversations[0].messages) == 5
    again.switch(2)
    assert again.system == "Be brief." and again.messages[0].text == "two"
    again.send("four")
    saved = json.loads(file.read_text())
    assert [len(each["messages"]) for each in saved["conversations"]] == [5, 4]


def test_a_file_that_is_no_chat_is_refused_and_stays(engine, tmp_path):
    """It is not overwritten by the chat that could not read it."""
    file = tmp_path / "notes.json"
    file.write_text('{"notes": 1}')
    with pytest.raises(OptionError, match="not a chat file"):
        Chat(engine, file=file)
    assert file.read_text() == '{"notes": 1}'


def test_a_file_that_cannot_be_written_loses_no_answer(engine, tmp_path):
    """The chat goes on and its notice names the file."""
    chat = Chat(engine, file=tmp_path / "none" / "chat.json", max_tokens=2)
    run = chat.send("hello")
    assert run.generated and "chat.json" in chat.notice


def test_an_answer_s_numbers_have_the_bytes_read(engine):
    """As its run counts them."""
    chat = Chat(engine, max_tokens=3)
    run = chat.send("hello there")
    assert chat.messages[1].numbers["bytes_read"] == run.summary().bytes_read
