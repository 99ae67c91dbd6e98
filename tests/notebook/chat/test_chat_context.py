"""A chat's file may take the KV cache along: a reopened chat reads only what is new."""

from __future__ import annotations

import pytest

import outlier_jupyter
from outlier_jupyter import Chat
from outlier_jupyter.errors import OptionError
from tests.models import checkpoint
from tests.notebook.chat.asking import texts

LONG = "Tell me of experts and their slots, at length, and leave nothing out of it at all. " * 3


def test_a_chat_that_is_loaded_with_its_cache_reads_only_the_next_turn(engine, tiny, tmp_path):
    """Another engine's next turn reuses the tokens of all earlier ones, and gives the same text."""
    file = tmp_path / "chat.json"
    first = Chat(engine, max_tokens=4)
    first.send(LONG)
    first.save(file, context=True)
    with outlier_jupyter.load(tiny, cache_experts=8, quiet=True) as another:
        again = Chat(another, max_tokens=4)
        again.load(file)
        run = again.send("And then?")
    assert len(run.reused) > 100 > (run.trace.phase == 0).sum()
    assert texts(again)[:2] == texts(first)
    first.send("And then?")
    assert texts(again) == texts(first)


def test_a_cache_of_another_model_is_left_alone_with_a_warning(engine, tmp_path):
    """The conversations are there all the same."""
    file, other_model = tmp_path / "chat.json", checkpoint("olmoe", tmp_path / "other")
    chat = Chat(engine, max_tokens=2)
    chat.send("One.")
    chat.save(file, context=True)
    with outlier_jupyter.load(other_model, cache_experts=8, quiet=True) as another:
        again = Chat(another, max_tokens=2)
        with pytest.warns(UserWarning, match=r"the next turn reads all messages: .*another model"):
            again.load(file)
        assert texts(again) == texts(chat)


def test_an_empty_conversation_has_no_cache_to_keep(engine, tmp_path):
    """One sentence; the chat's own file is written."""
    with pytest.raises(OptionError, match="this conversation is empty"):
        Chat(engine).save(tmp_path / "chat.json", context=True)
    assert (tmp_path / "chat.json").exists()
