"""A branch of an answer: another version of it, from one of its tokens on."""

from __future__ import annotations

import pytest

from outlier_jupyter import Engine
from outlier_jupyter.errors import OptionError
from outlier_jupyter.notebook.chat.chat import Chat
from outlier_jupyter.runs.run import Run
from tests.notebook.chat.asking import idle, page, sent


def other(run: Run, token: int) -> int:
    """The id of the second likeliest token in this one's place."""
    alternatives = run.trace.alternatives[run.step_of(token)].tolist()
    return next(each for each in alternatives if each != run.tokens[token - 1])


def test_a_branch_is_another_version_of_the_answer(engine: Engine, chat: Chat) -> None:
    """It has the same question, the tokens before, the chosen one, and a run, which is shown."""
    first = chat.send("Hello", max_tokens=8)
    chosen = other(first, 4)
    made = chat.branch(1, 4, chosen)
    question, answer = chat.messages
    siblings = chat.conversations[0].children(question.id)
    assert [each.id for each in siblings][-1] == answer.id and len(siblings) == 2
    assert made.prefilled and answer.text == made.answer and answer.numbers["run"] == 2
    assert answer.text.startswith(made.prefilled)
    assert made.branched is not None and (made.branched.token, made.branched.chosen) == (4, chosen)
    assert chat.run_shown["run"] == 2 and chat.answer == answer.text


def test_the_conversation_goes_on_from_a_branch(engine: Engine, chat: Chat) -> None:
    """The next question reads the branch as the answer, and its KV cache is reused."""
    first = chat.send("Hello", max_tokens=8)
    chat.branch(1, 4, other(first, 4))
    following = chat.send("And then?", max_tokens=3)
    assert [message.role for message in chat.messages] == ["user", "assistant"] * 2
    assert chat.messages[1].numbers["run"] == 2
    assert following.trace is not None and chat.messages[-1].numbers["reused"] > 0


def test_the_page_and_a_view_of_the_run_ask_for_branches(engine: Engine, chat: Chat) -> None:
    """Both begin at once; what cannot be is answered with a sentence."""
    first = chat.send("Hello", max_tokens=6)
    chosen = other(first, 3)
    page(chat, type="branch", run=1, token=3, choose=chosen, request="r7")
    assert [each["request"] for each in sent(chat, "accepted")] == ["r7"]
    chat.show_run(1)
    assert chat.run_view is not None and chat.run_view.on_branch is not None
    assert chat.run_view.on_branch(3, chosen) == ""
    idle(chat)
    assert len(chat.runs) == 3 and chat.run_shown["run"] == 3
    page(chat, type="branch", run=9, token=3, choose=chosen, request="r8")
    assert "there is no run 9" in chat.notice
    page(chat, type="branch", run=1, token=99, choose=chosen, request="r9")
    assert "99" in chat.notice and len(chat.runs) == 3
    assert {each["request"] for each in sent(chat, "refused")} >= {"r8", "r9"}


def test_the_view_of_a_watched_answer_branches_as_well(engine: Engine, chat: Chat) -> None:
    """Once its run is over, it asks the chat."""
    chat.watch = True
    first = chat.send("Hello", max_tokens=6)
    assert chat.live is not None and chat.live.on_branch(3, other(first, 3)) == ""
    idle(chat)
    assert len(chat.runs) == 2 and chat.messages[-1].numbers["run"] == 2


def test_a_run_of_another_conversation_is_refused(engine: Engine, chat: Chat) -> None:
    """A branch is a version of an answer that is here."""
    first = chat.send("Hello", max_tokens=6)
    chosen = other(first, 3)
    chat.show_run(1)
    view = chat.run_view
    chat.new()
    with pytest.raises(OptionError, match="switch to its conversation"):
        chat.branch(1, 3, chosen)
    assert view is not None and view.on_branch is not None
    assert "switch to its conversation" in view.on_branch(3, chosen)
