"""Conversations as data: branches lose nothing, and the file restores everything."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outlier_jupyter.errors import OptionError
from outlier_jupyter.notebook.chat.conversations import (
    ASSISTANT,
    ENDS,
    ROOT,
    RUNNING,
    USER,
    Conversations,
)
from outlier_jupyter.notebook.chat.saved_chat import bundle
from outlier_jupyter.notebook.chat.tool_calls import STATES, WORKING, ToolCall
from outlier_jupyter.notebook.chat.view_state import chat_state

WORDS = st.text(max_size=20)
THINKING = st.just({}) | st.builds(
    lambda text, seconds, tokens: {"text": text, "seconds": seconds, "tokens": tokens},
    WORDS,
    st.floats(0, 1e6),
    st.integers(0, 10**6),
)
ENDED = st.sampled_from(sorted(set(STATES) - {WORKING}))
CALLS = st.lists(
    st.builds(ToolCall, WORDS, WORDS, st.dictionaries(WORDS, st.lists(WORDS)), ENDED, WORDS),
    max_size=2,
    unique_by=lambda call: call.id,
)


@st.composite
def conversations(draw: st.DrawFn) -> Conversations:
    """Conversations grown by random turns, edits, regenerations and choices."""
    out = Conversations()
    for number in range(draw(st.integers(1, 3))):
        conversation = out.new(draw(WORDS)) if number else out.current
        conversation.title = draw(WORDS)
        for _ in range(draw(st.integers(0, 8))):
            spots = [ROOT, *conversation.messages]
            parent = draw(st.sampled_from(spots))
            after = conversation.messages[parent].role if parent else ASSISTANT
            role = USER if after == ASSISTANT else ASSISTANT
            if parent and conversation.messages[parent].tool_calls and draw(st.booleans()):
                role = ASSISTANT  # it goes on from the calls
            ends = [end for end in ENDS if end != RUNNING]
            message = conversation.add(parent, role, draw(WORDS), draw(st.sampled_from(ends)))
            message.note = draw(WORDS)
            message.numbers = draw(
                st.dictionaries(st.sampled_from(["prompt", "reused"]), st.integers(0, 2**53))
            )
            if role == ASSISTANT:
                message.thinking = draw(THINKING)
                message.tool_calls = draw(CALLS)
        if conversation.messages:
            conversation.choose(draw(st.sampled_from(sorted(conversation.messages))))
    out.current = draw(st.sampled_from(list(out.by_id.values())))
    return out


@given(conversations())
def test_a_file_brings_everything_back(before: Conversations) -> None:
    """Writing and reading gives the same conversations, with their branches and paths."""
    after = Conversations()
    after.add_from(before.dumps())
    assert list(after.by_id.values()) == list(before.by_id.values())
    assert after.current.id == before.current.id
    assert after.dumps() == before.dumps()


@given(conversations(), conversations())
def test_an_import_is_added_to_what_is_there(mine: Conversations, theirs: Conversations) -> None:
    """No existing conversation is lost, and ids stay unique."""
    mine.current.title = "kept"  # so that it does not count as untouched
    before = list(mine.by_id.values())
    mine.add_from(theirs.dumps())
    assert list(mine.by_id.values())[: len(before)] == before
    assert len(mine.by_id) == len(before) + len(theirs.by_id)
    assert [each.id for each in mine.by_id.values()] == list(mine.by_id)
    assert mine.current.path() == theirs.current.path()


def test_an_edit_is_a_sibling_and_both_can_be_read() -> None:
    """The path goes through the newest, and through the first again when that is chosen."""
    conversation = Conversations().current
    first = conversation.add(ROOT, USER, "a")
    answer = conversation.add(first.id, ASSISTANT, "b")
    other = conversation.add(ROOT, USER, "c")
    assert [m.text for m in conversation.path()] == ["c"] and conversation.end == other.id
    assert conversation.children(ROOT) == [first, other]
    conversation.choose(first.id)
    assert conversation.path() == [first, answer]
    assert conversation.until(answer.id) == [first, answer] and conversation.until(ROOT) == []


def test_a_conversation_is_named_by_its_title_or_its_first_question() -> None:
    """Without either, its number is its name; long names are cut."""
    conversation = Conversations().current
    assert conversation.label == "Conversation 1"
    conversation.add(ROOT, USER, "word " * 30)
    assert conversation.label.startswith("word word") and conversation.label.endswith("…")
    conversation.title = "Mine"
    assert conversation.label == "Mine"


def test_there_is_always_a_conversation() -> None:
    """Deleting the last one leaves an empty one, deleting the current one another."""
    all_of_them = Conversations()
    second = all_of_them.new()
    all_of_them.delete(second.id)
    assert all_of_them.current.id == 1
    all_of_them.delete(1)
    assert all_of_them.current.path() == []
    with pytest.raises(OptionError, match="there is no conversation 9"):
        all_of_them.delete(9)


def damaged(chosen: object = None, **changes: object) -> str:
    """A good file with some of its first message's entries, or its path, changed."""
    good = Conversations()
    question = good.current.add(ROOT, USER, "hello")
    good.current.add(ROOT, USER, "hi")
    good.current.choose(question.id)
    whole = json.loads(good.dumps())
    whole["conversations"][0]["messages"][0].update(changes)
    if chosen is not None:
        whole["conversations"][0]["chosen"] = chosen
    return json.dumps(whole)


ODD = st.sampled_from([0, 1, 2, 3, True, 1.0, -1, 2**53, 2**53 + 1, 10**400, 1e308, [1], "1", None])
FIELDS = ("id", "parent", "role", "text", "ended", "note", "numbers")


@st.composite
def files(draw: st.DrawFn) -> str:
    """A good file in which some values are of another type, too large, or duplicated."""
    whole = json.loads(draw(conversations()).dumps())
    for each in whole["conversations"]:
        if draw(st.booleans()):
            each["chosen"] += draw(st.lists(ODD | st.integers(1, 8), max_size=3))
        if draw(st.booleans()):
            each[draw(st.sampled_from(["id", "title", "system", "chosen"]))] = draw(ODD)
        for message in each["messages"]:
            if draw(st.booleans()):
                message["numbers"]["prompt"] = draw(ODD)
            if not draw(st.integers(0, 4)):
                message[draw(st.sampled_from(FIELDS))] = draw(ODD)
    raised = draw(st.sampled_from([0, 0, 2**53, 10**4298]))  # ids are names: any number will do
    for each in whole["conversations"]:
        ids = {message["id"]: message["id"] for message in each["messages"] if _plain(message)}
        for message in each["messages"]:
            for name in ("id", "parent"):
                if raised and _plain(message) and message[name] in ids and message[name]:
                    message[name] += raised
        if raised and isinstance(each["chosen"], list):
            each["chosen"] = [n + raised if type(n) is int and n in ids else n
                              for n in each["chosen"]]  # fmt: skip
    return json.dumps(whole)


def _plain(message: dict[str, object]) -> bool:
    return type(message["id"]) is int and type(message["parent"]) is int


@given(files())
def test_what_was_taken_can_be_shown_gone_on_with_and_written(text: str) -> None:
    """A file is refused with a sentence, or all that is read from it works, and reads back."""
    mine = Conversations()
    try:
        mine.add_from(text)
    except OptionError as error:
        assert len(str(error)) <= 300
        return
    for conversation in mine.by_id.values():
        path = conversation.path()
        role = USER if not path or path[-1].role == ASSISTANT else ASSISTANT
        conversation.add(conversation.end, role, "more")
    json.dumps(chat_state(mine, None, 1), allow_nan=False)
    assert all(
        each <= 2**53 for conversation in mine.by_id.values() for each in conversation.messages
    )
    bundle("demo", mine)
    again = Conversations()
    again.add_from(mine.dumps())
    assert list(again.by_id.values()) == list(mine.by_id.values())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no", "it is not JSON"),
        ("[" * 100_000, "it is not JSON"),
        ("[]", 'it lacks `"format"'),
        ('{"format": "outlier_jupyter chat", "version": 3}', "has version 3, and this"),
        ('{"format": "outlier_jupyter chat", "version": 1}', "damaged: KeyError"),
        (damaged(role="system"), "role 'system'"),
        (damaged(text=7), "7 where str was expected"),
        (damaged(id=True), "True where int was expected"),
        (damaged(parent=5), "a message follows none"),
        (damaged(role="assistant"), "an answer an answer"),
        (damaged(ended="soon"), "ended 'soon'"),
        (damaged(numbers={"prompt": "x"}), "values that are not numbers"),
        (damaged(id=3), "a path leads nowhere"),
        (damaged(chosen=[1, 1]), "a path forks"),
        (damaged(chosen=[1, 2]), "a path forks"),
        (damaged(chosen=[True]), "True where int was expected"),
        (damaged(chosen=[1.0]), "1.0 where int was expected"),
        (damaged(numbers={"prompt": 10**400}), "values that are not numbers"),
        (damaged(numbers={"tokens_per_second": -1e308}), "values that are not numbers"),
        (damaged(text=["x" * 10_000]), "where str was expected"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_sentence(text: str, message: str) -> None:
    """It names the fault, and existing conversations do not change."""
    mine = Conversations()
    before = mine.dumps()
    with pytest.raises(OptionError) as refused:
        mine.add_from(text)
    assert message in str(refused.value) and "\n" not in str(refused.value)
    assert mine.dumps() == before


def test_an_answer_that_was_being_written_comes_back_as_interrupted() -> None:
    """Its run no longer exists: nothing ends the answer, and no run can be shown."""
    conversation = Conversations()
    question = conversation.current.add(ROOT, USER, "a")
    answer = conversation.current.add(question.id, ASSISTANT, "half", RUNNING)
    answer.numbers = {"prompt": 3, "run": 1}
    after = Conversations()
    after.add_from(conversation.dumps())
    last = after.current.path()[-1]
    assert (last.text, last.ended, last.numbers) == ("half", "interrupted", {"prompt": 3})
