"""The chat's Python half: the same from Python and from the page, and nothing lost."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ipywidgets
import pytest
import traitlets

import outlier_jupyter
from outlier_jupyter.errors import EngineBusy, EngineClosed, OptionError, OutlierError
from outlier_jupyter.events import StepDone
from outlier_jupyter.notebook import kept_runs, outline, writer
from outlier_jupyter.notebook.chat import Chat
from outlier_jupyter.notebook.live import STATIC
from outlier_jupyter.run import Interrupted
from tests.notebook.test_live import FakeComm

WAIT_S = 60


@pytest.fixture(scope="module")
def engine(tiny: Path) -> Iterator[outlier_jupyter.Engine]:
    with outlier_jupyter.load(tiny, cache_experts=8) as engine:
        engine.tokenizer.eos_token_ids = set()  # answers are as long as they may be
        yield engine


@pytest.fixture
def chat(engine: outlier_jupyter.Engine) -> Iterator[Chat]:
    """A chat whose comm is a fake one."""
    made = Chat(engine, max_tokens=6)
    made.comm = FakeComm()
    made.comm.on_msg(made._handle_msg)
    yield made
    made.close()
    made.comm = None


def idle(chat: Chat) -> None:
    """Wait until what was queued is done."""
    done = threading.Event()
    assert chat.writer._worker.put(done.set)
    assert done.wait(WAIT_S)


def page(chat: Chat, **content: Any) -> None:
    """Send a message as the page does, and wait until it is done."""
    chat.comm.receive({"request": "r1", **content})
    idle(chat)


def told(chat: Chat, kind: str) -> list[dict[str, Any]]:
    """The custom messages of this type that were sent."""
    return [content for content, _ in chat.comm.custom() if content["type"] == kind]


def texts(chat: Chat) -> list[str]:
    return [message.text for message in chat.messages]


def test_python_and_the_page_give_the_same(tiny: Path) -> None:
    """The same turns, asked from Python and from the page: the same conversation, state and runs.

    Of three turns, one edited and one answered again; two engines, so that neither finds the
    other's KV cache or experts.
    """
    made = []
    for from_page in (False, True):
        engine = outlier_jupyter.load(tiny, cache_experts=8)
        engine.tokenizer.eos_token_ids = set()
        chat = Chat(engine, max_tokens=6, system="Be brief.", temperature=0.7, seed=3)
        chat.comm = FakeComm()
        chat.comm.on_msg(chat._handle_msg)
        if from_page:
            page(chat, type="send", text="Hello")
            page(chat, type="send", text="And you?")
            page(chat, type="regenerate", message=4)
            page(chat, type="edit", message=1, text="Hi")
            assert len(told(chat, "accepted")) == 4
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
    """All conversations, as the file has them, but for what was timed."""
    whole = json.loads(chat.dumps())
    for book in whole["conversations"]:
        for message in book["messages"]:
            message["numbers"].pop("tokens_per_second", None)
    return whole


def test_a_turn_reads_only_what_is_new(chat: Chat) -> None:
    """The KV cache of the turn before is gone on from."""
    chat.send("One fine day")
    chat.send("Two")
    before, numbers = chat.messages[1].numbers, chat.messages[-1].numbers
    # Not of the whole answer: what random weights write is no text that encodes to its own ids.
    assert before["reused"] < before["prompt"] <= numbers["reused"] < numbers["prompt"]
    assert numbers["run"] == len(chat.runs)


def test_the_text_told_piece_by_piece_is_the_answer(engine) -> None:
    """Numbers follow each other without a gap, and the pieces make the whole."""
    seconds = iter(range(10**6))
    chat = Chat(engine, max_tokens=9, clock=lambda: next(seconds) * 0.06)
    chat.comm = FakeComm()
    states: list[dict[str, Any]] = []
    chat.observe(lambda change: states.append(change["new"]), "state")
    run = chat.send("Tell me")
    pieces = told(chat, "text")
    begun = next(state for state in states if state["running"])
    assert [piece["seq"] for piece in pieces] == [
        begun["seq"] + n for n in range(1, len(pieces) + 1)
    ]
    assert run.text.startswith("".join(piece["text"] for piece in pieces)) and pieces
    assert states[-1]["messages"][-1]["text"] == run.text and not states[-1]["running"]
    chat.close()


def test_regenerate_and_edit_branch_and_choose_goes_back(chat: Chat) -> None:
    """Both are siblings; the state tells which of how many is read."""
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


def stop_after(engine, chat: Chat, steps: int):
    """Call `chat.stop` once so many steps are done."""
    seen = []

    def listen(event: object) -> None:
        if isinstance(event, StepDone):
            seen.append(event)
            if len(seen) == steps:
                chat.stop()

    return engine.subscribe(listen)


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


def test_a_busy_engine_is_a_sentence_and_the_text_stays(engine, chat: Chat) -> None:
    """Nothing is added to the conversation; the page is told no, and why."""
    other = engine.stream("Somebody else", max_tokens=3)
    next(other)
    chat.draft = "Wait for me"
    page(chat, type="send", text="Wait for me")
    assert "another run is under way" in chat.notice and chat.draft == "Wait for me"
    assert told(chat, "refused") == [{"type": "refused", "request": "r1"}]
    assert chat.messages == [] and chat.runs == []
    with pytest.raises(EngineBusy):
        chat.send("Me too")
    list(other)
    page(chat, type="send", text="Wait for me")
    assert texts(chat)[0] == "Wait for me" and chat.draft == "" and chat.notice == ""


def test_a_second_message_while_an_answer_is_written_is_refused(engine, chat: Chat) -> None:
    """The page keeps its text; Python's `send` would wait for its turn."""
    chat.comm.receive({"type": "send", "text": "a", "request": "r0"})
    chat.writer._turn = chat.writer._turn or object()  # whatever the thread has come to
    chat.comm.receive({"type": "send", "text": "b", "request": "r1"})
    assert {"type": "refused", "request": "r1"} in told(chat, "refused")
    idle(chat)
    assert texts(chat)[0] == "a" and len(chat.messages) == 2


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"type": "send", "text": " \n"}, "the message is empty"),
        ({"type": "send"}, "cannot be read (KeyError('text'))"),
        ({"type": "set", "name": "top_p", "value": 3}, "top_p=3"),
        ({"type": "set", "name": "top_p", "value": "x"}, "top_p"),
        ({"type": "set", "name": "_esm", "value": "x"}, "is no setting of a chat"),
        ({"type": "choose", "message": 77}, "there is no message 77"),
        ({"type": "switch", "conversation": 77}, "there is no conversation 77"),
        ({"type": "import", "text": "x"}, "it is not JSON"),
        ({"type": "run", "run": 5, "html": True}, "there is no run 5"),
        ({"type": "resize"}, "cannot be read (KeyError('cache_experts'))"),
        ({"type": "resize", "cache_experts": "x"}, "cache_experts='x' cannot be used"),
    ],
)
def test_what_cannot_be_done_is_a_sentence(chat: Chat, content: Any, sentence: str) -> None:
    """In the notice, and the page is told that its request was refused."""
    page(chat, **content)
    assert sentence in chat.notice and "\n" not in chat.notice
    assert told(chat, "refused") == [{"type": "refused", "request": "r1"}]
    assert chat.top_p == 1.0


@pytest.mark.parametrize("content", [None, 7, {}, {"type": "other"}, {"type": []}])
def test_unknown_messages_are_ignored(chat: Chat, content: Any) -> None:
    """A message this version does not know does nothing."""
    chat.comm.receive(content)
    assert chat.notice == "" and chat.comm.custom() == []


def test_settings_are_checked_traits(engine, chat: Chat) -> None:
    """One for each option, with its rules; unknown ones are refused with a suggestion."""
    page(chat, type="set", name="temperature", value=0.5)
    assert chat.temperature == 0.5
    with pytest.raises(OptionError, match="max_tokens=0 is too small"):
        chat.max_tokens = 0
    with pytest.raises(OptionError, match="did you mean 'temperature'"):
        Chat(engine, temprature=1)
    with pytest.raises(OptionError, match="'raw' is no setting of a chat"):
        Chat(engine, raw=True)
    with pytest.raises(OptionError, match="cannot use 'demo' as its engine"):
        Chat("demo")


def test_the_system_prompt_is_the_conversations(engine, chat: Chat) -> None:
    """It is read by the model, kept with the conversation, and changes with it."""
    chat.system = "Be brief."
    chat.send("Hello")
    assert "Be brief." in chat.runs[-1].encoded
    chat.new()
    chat.system = "Be long."
    chat.switch(1)
    assert chat.system == "Be brief."


def test_conversations_are_made_named_exported_and_deleted(
    engine, chat: Chat, tmp_path: Path
) -> None:
    """A file brings them to another chat; a deleted one is gone."""
    chat.send("Hello")
    chat.rename(1, " Greeting ")
    chat.new()
    chat.save(tmp_path / "chat.json")
    page(chat, type="export")
    (file,) = told(chat, "file")
    assert file["text"] == (tmp_path / "chat.json").read_text()
    other = Chat(engine)
    other.load(tmp_path / "chat.json")
    assert [each.label for each in other.conversations] == ["Greeting", "Conversation 2"]
    other.delete(2)
    assert [message.text for message in other.messages] == texts(other) != []
    with pytest.raises(OptionError, match="cannot be read: No such file"):
        other.load(tmp_path / "nothing.json")
    with pytest.raises(OptionError, match="cannot be written"):
        other.save(tmp_path / "no" / "folder.json")
    other.close()


def test_a_page_that_missed_something_gets_the_whole(chat: Chat) -> None:
    """As a message, and with a number that later ones follow."""
    chat.send("Hello")
    page(chat, type="resync")
    (whole,) = told(chat, "state")
    assert whole["state"] == chat.state and whole["state"]["seq"] == chat.writer._seq


def test_a_runs_view_is_shown_under_its_answer(chat: Chat) -> None:
    """A live view of the run that the answer names, one at a time; 0 takes it away."""
    chat.send("Hello")
    chat.send("Again")
    page(chat, type="run", run=1)
    first = chat.run_view
    assert chat.run_shown == {"run": 1, "note": ""}
    assert first.status == chat.run(1).finish_reason and first.snapshot
    page(chat, type="run", run=2)
    assert chat.run_view is not first and first.comm is None
    page(chat, type="run", run=0)
    assert chat.run_view is None and chat.run_shown["run"] == 0
    page(chat, type="run", run=1, html=True)  # for pages that show no widget in another
    (view,) = told(chat, "run")
    assert view["html"] == chat.runs[0]._repr_mimebundle_()["text/html"]


def test_runs_are_bounded_and_a_dropped_one_says_so(chat: Chat, monkeypatch) -> None:
    """The oldest go, the newest stays whatever its size; numbers stay what they were."""
    first = chat.send("Hello")
    monkeypatch.setattr(kept_runs, "KEPT_NBYTES", 2 * kept_runs.trace_nbytes(first))
    chat.send("Again")
    last = chat.send("And again, with more words than before")
    assert first not in chat.runs and chat.runs[-1] is last is chat.run(3)
    assert chat.messages[-1].numbers["run"] == 3
    with pytest.raises(OptionError, match="run 1 has been let go of"):
        chat.run(1)
    page(chat, type="run", run=1)
    assert chat.run_view is None and "let go of" in chat.run_shown["note"]
    monkeypatch.setattr(kept_runs, "KEPT_NBYTES", 1)
    assert chat.send("One") is chat.run(4) and chat.runs == [chat.run(4)]


def test_the_caches_size_is_changed_between_answers(engine, chat: Chat) -> None:
    """From the page as from Python, told to every chat of the engine; refusals are sentences."""
    other = Chat(engine)
    page(chat, type="resize", cache_experts=12)
    assert told(chat, "accepted") == [{"type": "accepted", "request": "r1"}]
    assert engine.status().slots == chat.info["slots"] == other.info["slots"] == 12
    assert chat.info["bank_nbytes"] == engine.status().bank_nbytes
    page(chat, type="resize", cache_experts=0)
    assert "cache_experts=0 is too small" in chat.notice
    assert told(chat, "refused") == [{"type": "refused", "request": "r1"}]
    stream = engine.stream("Somebody else", max_tokens=2)
    next(stream)
    page(chat, type="resize", cache_experts=9)
    assert "another run is under way" in chat.notice and chat.info["slots"] == 12
    list(stream)
    assert other.resize(cache_experts=8).slots == chat.info["slots"] == 8
    assert chat.send("Hello").trace.info.slots == 8
    other.close()
    engine.resize(cache_experts=8)
    assert other.info["slots"] == 8


def test_after_a_stop_only_what_is_new_is_read(engine, chat: Chat) -> None:
    """What was read of a stopped turn, in mid-answer, is in the KV cache of the next."""
    end = stop_after(engine, chat, 4)
    with pytest.raises(Interrupted):
        chat.send("A question that is rather long, " * 4, max_tokens=10_000)
    end()
    before = chat.messages[-1].numbers["prompt"]
    chat.send("And now?")
    assert chat.messages[-1].numbers["reused"] >= before


def test_who_watches_gets_a_live_view(chat: Chat) -> None:
    """A widget of its own, finished when the run is, replaced by the next."""
    chat.watch = True
    chat.send("Hello")
    first = chat.live
    assert first.status == "length" and first.snapshot
    chat.send("Again")
    assert chat.live is not first


def test_the_state_is_bounded(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest messages that fit, at least one; how many are left out is told."""
    chat.send("Hello " * 10)
    chat.send("Short")
    monkeypatch.setattr(outline, "KEPT_CHARS", 60)
    chat.writer.publish()
    assert chat.state["earlier"] + len(chat.state["messages"]) == 4
    assert chat.state["earlier"] >= 1 and chat.state["messages"][-1]["id"] == 4


def test_a_long_answer_is_saved_while_it_is_written(engine, monkeypatch) -> None:
    """The trait is written now and then, so that a reload has most of the text."""
    monkeypatch.setattr(writer, "SAVE_EVERY_S", 0.0)
    chat = Chat(engine, max_tokens=5, clock=iter(range(10**6)).__next__)
    seen: list[str] = []
    chat.observe(lambda change: seen.append(change["new"]["messages"][-1]["text"]), "state")
    run = chat.send("Hello")
    assert len(set(seen)) >= 3 and seen[-1] == run.text
    assert all(run.text.startswith(text) for text in seen)
    chat.close()


def test_an_observer_that_asks_would_wait_for_itself(chat: Chat) -> None:
    """It is told so, and the chat goes on."""
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
    """What was asked before it is stopped; afterwards a sentence says what to do."""
    chat = Chat(engine, max_tokens=100_000)
    turn = chat.writer.ask("Long", {})
    waiting = chat.writer.ask("Later", {})
    chat.close()
    assert turn.done.is_set() and waiting.done.is_set()
    assert not any(
        t.name == "outlier chat" and t is chat.writer._worker._thread for t in threading.enumerate()
    )
    assert chat.status == "closed"
    with pytest.raises(EngineClosed, match="this chat was closed"):
        chat.send("Hello?")
    chat.close()


def test_a_closed_engine_is_a_sentence(tiny: Path) -> None:
    """The chat says to load the model again."""
    engine = outlier_jupyter.load(tiny, cache_experts=8)
    chat = Chat(engine)
    engine.close()
    with pytest.raises(EngineClosed, match="load the model again"):
        chat.send("Hello")
    chat.close()


def test_it_is_a_widget_among_widgets(chat: Chat) -> None:
    """It sits in a box, and a slider linked to a setting turns it."""
    slider = ipywidgets.FloatSlider(min=0, max=2)
    traitlets.link((slider, "value"), (chat, "temperature"))
    slider.value = 0.7
    assert chat.temperature == 0.7
    assert ipywidgets.HBox([chat, slider]).children[0] is chat


def test_the_built_files_are_small_and_tell_their_licences() -> None:
    """The page gets them with every chat it shows."""
    told = (STATIC / "LICENSES.txt").read_text()
    assert all(name in told for name in ("marked", "dompurify", "speed-highlight"))
    assert (STATIC / "chat.js").stat().st_size < 120_000
    assert (STATIC / "chat.css").stat().st_size < 20_000
