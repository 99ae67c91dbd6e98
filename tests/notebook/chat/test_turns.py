"""Turns of a chat: sent from Python or from the page, stopped, branched, streamed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import outlier_jupyter
from outlier_jupyter import Engine
from outlier_jupyter.errors import OptionError
from outlier_jupyter.notebook.chat import page_updates, runner, view_state
from outlier_jupyter.notebook.chat.chat import Chat
from outlier_jupyter.runs.run import Interrupted
from tests.notebook.chat.asking import page, sent, stop_after, texts
from tests.notebook.live.test_widget import FakeComm, on_a_page


def test_python_and_the_page_give_the_same(tiny: Path) -> None:
    """The same turns from Python and from the page give the same conversation, state and runs.

    One of three turns is edited, one regenerated; two engines, so that neither finds the
    other's KV cache or experts.
    """
    made = []
    for from_page in (False, True):
        engine = outlier_jupyter.load(tiny, cache_experts=8)
        engine.tokenizer.eos_token_ids = set()
        chat = Chat(engine, max_tokens=6, system="Be brief.", temperature=0.7, seed=3)
        on_a_page(chat)
        if from_page:
            page(chat, type="send", text="Hello")
            page(chat, type="send", text="And you?")
            page(chat, type="regenerate", message=4)
            page(chat, type="edit", message=1, text="Hi")
            assert len(sent(chat, "accepted")) == 4
        else:
            assert chat.send("Hello") is chat.runs[-1]
            chat.send("And you?")
            chat.regenerate()
            chat.edit(1, "Hi")
        made.append(chat)
    ours, pages = made
    assert [run.tokens.tolist() for run in ours.runs] == [r.tokens.tolist() for r in pages.runs]
    assert [run.encoded for run in ours.runs] == [run.encoded for run in pages.runs]
    for mine, theirs in zip(ours.runs, pages.runs, strict=True):
        assert (mine.trace.experts == theirs.trace.experts).all()
        assert mine.trace.info == theirs.trace.info
    assert without_speed(ours) == without_speed(pages)
    assert ours.answer == pages.answer and ours.status == pages.status == "idle"
    for chat in made:
        chat.engine.close()
        chat.close()


def without_speed(chat: Chat) -> Any:
    """All conversations, as the file has them, without timings."""
    whole = json.loads(chat.dumps())
    for conversation in whole["conversations"]:
        for message in conversation["messages"]:
            message["numbers"].pop("tokens_per_second", None)
    return whole


def test_a_turn_reads_only_what_is_new(chat: Chat) -> None:
    """Prefill continues from the KV cache of the turn before."""
    chat.send("One fine day")
    chat.send("Two")
    before, numbers = chat.messages[1].numbers, chat.messages[-1].numbers
    # Not of the whole answer: text of random weights does not encode to its own ids.
    assert before["reused"] < before["prompt"] <= numbers["reused"] < numbers["prompt"]
    assert numbers["run"] == len(chat.runs)


def test_the_pieces_of_text_are_the_answer(engine) -> None:
    """Sequence numbers have no gap, and the pieces joined are the answer."""
    seconds = iter(range(10**6))
    chat = Chat(engine, max_tokens=9, clock=lambda: next(seconds) * 0.06)
    chat.comm = FakeComm()
    states: list[dict[str, Any]] = []
    chat.observe(lambda change: states.append(change["new"]), "state")
    run = chat.send("Tell me")
    pieces = sent(chat, "text")
    begun = next(state for state in states if state["running"])
    assert [piece["seq"] for piece in pieces] == [
        begun["seq"] + n for n in range(1, len(pieces) + 1)
    ]
    assert run.text.startswith("".join(piece["text"] for piece in pieces)) and pieces
    assert states[-1]["messages"][-1]["text"] == run.text and not states[-1]["running"]
    chat.close()


def test_prompt_progress_is_sent_until_the_answer_begins(engine, monkeypatch) -> None:
    """Progress grows by layers within a chunk, never falls, reaches 100 %; a reload has it, too."""
    monkeypatch.setattr(page_updates, "READING_EVERY_S", 0.0)
    chat = Chat(engine, max_tokens=4, prefill_chunk=64)
    chat.comm = FakeComm()
    chat.send("word " * 200)
    numbers = chat.messages[-1].numbers
    prompt, reused = numbers["prompt"], numbers["reused"]
    far = [each["reading"] for each in sent(chat, "reading")]
    read = [each["read"] for each in far if each]
    layers = len(engine.info.layer_names)
    assert read == sorted(read) and read[0] == reused
    assert len(set(read)) > layers * ((prompt - reused) // 64)
    assert {(each["of"], each["message"]) for each in far if each} == {(prompt, 2)}
    assert far[-1] is None and far.index(None) == len(far) - 1  # nothing more while it is decoded
    assert chat.state["reading"] is None
    chat.close()


def test_a_prompt_that_is_read_at_once_sends_no_progress(engine: Engine) -> None:
    """There are a few messages a second at most: a short prompt has none."""
    chat = Chat(engine, clock=lambda: 0.0, max_tokens=6)
    chat.comm = FakeComm()
    chat.send("Hello")
    assert sent(chat, "reading") == []
    chat.close()


def test_regenerate_and_edit_branch_and_choose_goes_back(chat: Chat) -> None:
    """Both are siblings; the state says which of how many is shown."""
    chat.send("First")
    page(chat, type="regenerate", message=2)
    assert chat.state["messages"][-1]["siblings"] == [2, 3]
    page(chat, type="edit", message=1, text="Otherwise")
    assert texts(chat)[0] == "Otherwise" and len(chat.runs) == 3
    page(chat, type="choose", message=2)
    assert [message.id for message in chat.messages] == [1, 2]
    with pytest.raises(OptionError, match="edit a question"):
        chat.edit(2, "no")
    with pytest.raises(OptionError, match="regenerate an answer"):
        chat.regenerate(1)


def test_stop_keeps_what_was_written(engine, chat: Chat) -> None:
    """`send` raises Interrupted with the run; the chat has its text, and goes on afterwards."""
    end = stop_after(engine, chat, 4)
    with pytest.raises(Interrupted) as stopped:
        chat.send("Go on", max_tokens=10_000)
    end()
    assert chat.messages[-1].ended == "interrupted"
    assert chat.runs[-1] is stopped.value.run and 0 < chat.runs[-1].generated < 10_000
    assert chat.messages[-1].text == stopped.value.run.text
    chat.send("And now?")
    assert chat.messages[-1].ended == "length"


def test_after_a_stop_only_what_is_new_is_read(engine, chat: Chat) -> None:
    """The next turn uses the KV cache of a stopped turn, up to the middle of its answer."""
    end = stop_after(engine, chat, 4)
    with pytest.raises(Interrupted):
        chat.send("A question that is rather long, " * 4, max_tokens=10_000)
    end()
    before = chat.messages[-1].numbers["prompt"]
    chat.send("And now?")
    assert chat.messages[-1].numbers["reused"] >= before


def test_a_long_answer_is_saved_while_it_is_written(engine, monkeypatch) -> None:
    """The trait is written now and then, so that a reload has most of the text."""
    monkeypatch.setattr(page_updates, "SAVE_EVERY_S", 0.0)
    chat = Chat(engine, max_tokens=5, clock=iter(range(10**6)).__next__)
    seen: list[str] = []
    chat.observe(lambda change: seen.append(change["new"]["messages"][-1]["text"]), "state")
    run = chat.send("Hello")
    assert len(set(seen)) >= 3 and seen[-1] == run.text
    assert all(run.text.startswith(text) for text in seen)
    chat.close()


def test_the_state_is_bounded(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the newest messages that fit, at least one, and the number left out."""
    chat.send("Hello " * 10)
    chat.send("Short")
    monkeypatch.setattr(view_state, "KEPT_CHARS", 60)
    chat.runner.publish()
    assert chat.state["earlier"] + len(chat.state["messages"]) == 4
    assert chat.state["earlier"] >= 1 and chat.state["messages"][-1]["id"] == 4


def test_a_page_that_missed_a_message_gets_the_whole_state(chat: Chat) -> None:
    """It comes as a message, with a sequence number that later ones continue."""
    chat.send("Hello")
    page(chat, type="resync")
    (whole,) = sent(chat, "state")
    assert whole["state"] == chat.state
    page(chat, type="resync")
    assert chat.state["seq"] == whole["state"]["seq"] + 1


@pytest.mark.parametrize("trait", ["status", "state", "answer"])
def test_an_observer_that_raises_costs_no_answer(tiny: Path, trait: str) -> None:
    """The error is logged; this answer and the next one are returned."""
    with outlier_jupyter.load(tiny, cache_experts=8) as engine:
        chat = Chat(engine, max_tokens=3)

        def broken(change: object) -> None:
            raise RuntimeError("an observer's own")

        chat.observe(broken, trait)
        for _ in range(2):
            assert chat.send("Hello").generated > 0
        assert chat.status == runner.IDLE
        chat.close()


def test_a_question_after_an_unanswered_one_is_a_sibling(chat: Chat) -> None:
    """A file may end in a question; the next one is its sibling, and can be saved and read."""
    chat.send("Hello")
    saved = json.loads(chat.dumps())
    conversation = saved["conversations"][0]
    conversation["messages"].append(
        conversation["messages"][0] | {"id": 3, "parent": 2, "text": "And you?"}
    )
    conversation["chosen"].append(3)
    other = Chat(chat.engine, max_tokens=3)
    other.add_from(json.dumps(saved))
    run = other.send("Hi")
    assert "And you?" not in run.prompt
    assert [message.text for message in other.messages][::2] == ["Hello", "Hi"]
    third = Chat(chat.engine)
    third.add_from(other.dumps())
    assert [message.role for message in third.messages] == ["user", "assistant"] * 2
    third.close()
    other.close()
