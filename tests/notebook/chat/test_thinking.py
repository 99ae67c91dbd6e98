"""What a model thinks streams apart from its answer, is kept, and is read again where wanted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import outlier_jupyter
from outlier_jupyter import Engine
from outlier_jupyter.errors import OptionError
from outlier_jupyter.notebook.chat.chat import Chat
from outlier_jupyter.notebook.chat.conversations import Conversations
from outlier_jupyter.runs.run import Interrupted
from tests.notebook.chat.asking import sent, stop_after
from tests.notebook.chat.scripted import script, with_tools
from tests.notebook.live.test_widget import FakeComm

THOUGHT = "<think>\nLet me see.\n</think>\n\nForty-two."


@pytest.fixture(scope="module")
def engine(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A tiny model with Qwen3's template; it ends its turns."""
    folder = with_tools(tiny, tmp_path_factory.mktemp("thinking") / "model")
    with outlier_jupyter.load(folder, cache_experts=8) as engine:
        yield engine


@pytest.fixture
def chat(engine: Engine) -> Iterator[Chat]:
    """A chat on a fake page, whose clock goes on by 60 ms each time."""
    seconds = iter(range(10**6))
    made = Chat(engine, max_tokens=200, clock=lambda: next(seconds) * 0.06)
    made.comm = FakeComm()
    yield made
    made.close()
    made.comm = None


def test_thinking_streams_apart_from_the_answer(
    engine: Engine, chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pieces have their kind and no tags; when the answer begins, the state has the seconds."""
    folded: list[dict[str, Any]] = []

    def look(change: dict[str, Any]) -> None:
        last = change["new"]["messages"][-1:]
        if last and last[0]["thinking"] and change["new"]["running"]:
            folded.append(last[0]["thinking"])

    chat.observe(look, "state")
    script(monkeypatch, engine, THOUGHT)
    run = chat.send("What is it?")
    pieces = sent(chat, "text")
    thinking = "".join(each["text"] for each in pieces if each.get("kind") == "thinking")
    answer = "".join(each["text"] for each in pieces if "kind" not in each)
    # What is released with the state, and the last of it, is in the state alone.
    assert "Let me see.\n".startswith(thinking) and thinking
    assert "Forty-two.".find(answer) >= 0 and answer
    assert "<" not in thinking + answer
    numbers = [each["seq"] for each in pieces]
    assert numbers == sorted(set(numbers))
    assert folded[0]["text"].strip() == "Let me see." and folded[0]["seconds"] > 0
    last = chat.state["messages"][-1]
    assert last["text"] == "Forty-two." == chat.answer == run.answer
    assert last["thinking"]["text"] == "Let me see." == run.thinking
    frame = run.segments
    mine = frame[(frame.part == "generated") & (frame.kind == "thinking")]
    assert last["thinking"]["tokens"] == mine.tokens.sum() > 0
    assert last["thinking"]["seconds"] == pytest.approx(mine.seconds.sum(), abs=1e-3)


def test_what_is_dropped_is_not_in_the_kv_cache_either(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Qwen3's template leaves earlier thinking out: with reuse_kv the answers stay the same."""
    answers = []
    for reuse in (True, False):
        chat = Chat(engine, max_tokens=200, reuse_kv=reuse)
        with pytest.MonkeyPatch.context() as patch:
            script(patch, engine, THOUGHT)
            chat.send("What is it?")
        run = chat.send("And now?", max_tokens=12, alternatives=0)
        assert "Let me see." not in run.encoded and "Forty-two." in run.encoded
        assert (chat.messages[-1].numbers["reused"] > 0) == reuse
        answers.append(run.tokens.tolist())
        chat.close()
    assert answers[0] == answers[1]


def test_thinking_is_kept_in_files_and_exports(
    engine: Engine, chat: Chat, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """HTML has it folded; a loaded conversation goes on as the saved one would."""
    script(monkeypatch, engine, THOUGHT, "More.")
    chat.send("What is it?")
    saved = chat.saved_view
    tokens = chat.messages[-1].thinking["tokens"]
    for form in ("text/html", "text/markdown", "text/plain"):
        assert "Let me see." in saved[form] and f"{tokens} tokens" in saved[form], form
    assert "<details><summary>Thought for" in saved["text/html"]
    file = chat.save(tmp_path / "chat.json")
    other = Chat(engine, file=file, max_tokens=200)
    assert [m.thinking for m in other.messages] == [m.thinking for m in chat.messages]
    other.send("And?")
    assert "Let me see." not in chat.runs[-1].encoded and other.answer == "More."
    other.close()


def test_an_answer_that_was_stopped_while_it_thought_goes_on(
    engine: Engine, chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its text is empty, its thinking is what there was of it."""
    script(monkeypatch, engine, THOUGHT, "Well.")
    unsubscribe = stop_after(engine, chat, 20)
    with pytest.raises(Interrupted):
        chat.send("What is it?")
    unsubscribe()
    last = chat.messages[-1]
    assert last.text == "" and "Let me see.".startswith(last.thinking["text"][:3])
    assert last.ended == "interrupted" and last.thinking["tokens"] > 0
    assert chat.send("Go on").text == "Well."


def test_chats_of_the_first_version_open() -> None:
    """They have no thinking and no tool calls."""
    old = Path(__file__).parents[2] / "kept" / "chat.json"
    content = json.loads(old.read_text())
    assert content["version"] == 1
    chats = Conversations()
    chats.add_from(old.read_text())
    assert all(m.thinking == {} and m.tool_calls == [] for m in chats.current.messages.values())
    assert json.loads(chats.dumps())["version"] == 2


@pytest.mark.parametrize(
    ("thinking", "says"),
    [
        ({"text": 3, "seconds": 1.0, "tokens": 2}, "3 where str was expected"),
        ({"text": "a", "seconds": "x", "tokens": 2}, "values that are not numbers"),
        ({"text": "a", "seconds": 1.0}, "KeyError"),
        (["a"], "TypeError"),
    ],
)
def test_damaged_thinking_in_a_file_is_one_sentence(thinking: Any, says: str) -> None:
    """Nothing of the file is added then."""
    before = Conversations()
    before.current.add(0, "user", "Go")
    before.current.add(1, "assistant", "", "stop")
    content = json.loads(before.dumps())
    content["conversations"][0]["messages"][1]["thinking"] = thinking
    after = Conversations()
    with pytest.raises(OptionError, match=says):
        after.add_from(json.dumps(content))
    assert after.current.messages == {}
