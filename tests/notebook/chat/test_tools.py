"""Tools in a chat: calls are proposed, allowed or refused, run, and the model goes on."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import outlier_jupyter
from outlier_jupyter import Engine
from outlier_jupyter.errors import OptionError, OutlierError
from outlier_jupyter.notebook.chat import tool_calls
from outlier_jupyter.notebook.chat.chat import Chat
from outlier_jupyter.notebook.chat.conversations import Conversations
from outlier_jupyter.notebook.chat.tool_calls import ToolCall, run_call
from outlier_jupyter.runs.run import Interrupted
from outlier_jupyter.tools import Tool
from tests.notebook.chat.asking import WAIT_S, idle, page
from tests.notebook.chat.scripted import call, script, with_tools
from tests.notebook.live.test_widget import on_a_page
from tests.test_tools import weather

PARIS = call("weather", city="Paris", days=2)


@pytest.fixture(scope="module")
def engine(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A tiny model with Qwen3's template and calls; it ends its turns."""
    folder = with_tools(tiny, tmp_path_factory.mktemp("tools") / "model")
    with outlier_jupyter.load(folder, cache_experts=8) as engine:
        yield engine


@pytest.fixture
def chat_of(engine: Engine) -> Iterator[Callable[..., Chat]]:
    """Makes chats on a fake page, and closes them."""
    made: list[Chat] = []

    def make(*tools: Any, **settings: Any) -> Chat:
        made.append(on_a_page(Chat(engine, tools=tools, max_tokens=300, **settings)))
        return made[-1]

    yield make
    for each in made:
        each.close()
        each.comm = None


def states(chat: Chat) -> list[list[str]]:
    """The states of the calls of each answer on the path."""
    return [
        [each.state for each in message.tool_calls]
        for message in chat.messages
        if message.role == "assistant"
    ]


def responses(chat: Chat) -> list[str]:
    """The tool results that the newest run's prompt has."""
    parts = chat.runs[-1].encoded.split("<tool_response>\n")[1:]
    return [part.split("\n</tool_response>")[0] for part in parts]


def test_a_call_runs_once_it_is_allowed_and_the_model_goes_on(
    engine: Engine, chat_of: Callable[..., Chat], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prompt has the schema, then the call and its result; the answer goes on below it."""
    requests: list[tuple[str, int]] = []

    def weather(city: str, days: int) -> dict[str, Any]:
        """The weather.

        Args:
            city: where
            days: how many
        """
        requests.append((city, days))
        return {"sky": "rain", "high": 12.5}

    chat = chat_of(weather)
    script(monkeypatch, engine, f"I look. {PARIS}", "It rains in Paris.")
    run = chat.send("And Paris?")
    assert '"name": "weather"' in run.encoded and requests == []
    (proposed,) = chat.messages[-1].tool_calls
    assert (proposed.state, proposed.name, proposed.arguments, proposed.result) == (
        "proposed", "weather", {"city": "Paris", "days": 2}, "",
    )  # fmt: skip
    assert chat.status == "idle"
    further = chat.allow()
    assert further is chat.runs[-1] and requests == [("Paris", 2)]
    assert responses(chat) == ['{"sky": "rain", "high": 12.5}'] and states(chat) == [["done"], []]
    assert further.encoded.count('{"name": "weather", "arguments": {"city": "Paris"') == 1
    assert [m.role for m in chat.messages] == ["user", "assistant", "assistant"]
    assert chat.answer == chat.messages[-1].text == "It rains in Paris."


def test_the_page_sees_each_state_and_decides(
    engine: Engine, chat_of: Callable[..., Chat], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call is proposed, then running, then done; a refused one is never run; both are read."""
    chat = chat_of(weather)
    seen: list[list[str]] = []

    def look(change: dict[str, Any]) -> None:
        found = [c["state"] for m in change["new"]["messages"] for c in m["tool_calls"]]
        if found and found not in seen:
            seen.append(found)

    chat.observe(look, "state")
    script(monkeypatch, engine, PARIS + call("weather", city="Rome"), "Rain in Paris.")
    page(chat, type="send", text="Paris and Rome?")
    first, second = chat.state["messages"][-1]["tool_calls"]
    assert first == {
        "id": "call00001", "name": "weather", "arguments": {"city": "Paris", "days": 2},
        "state": "proposed", "result": "",
    }  # fmt: skip
    page(chat, type="call", message=2, call=first["id"], allow=True)
    assert len(chat.runs) == 1 and states(chat) == [["done", "proposed"]]
    page(chat, type="call", message=2, call=second["id"], allow=False)
    assert chat.notice == "" and len(chat.runs) == 2
    assert seen == [
        ["proposed", "proposed"], ["running", "proposed"], ["done", "proposed"],
        ["done", "refused"],
    ]  # fmt: skip
    assert responses(chat) == ["Paris: 2 days of rain", tool_calls.OF_REFUSED]


def test_kernel_messages_are_handled_while_a_tool_runs_and_stop_ends_the_wait(
    engine: Engine, chat_of: Callable[..., Chat], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The function runs on; its result is dropped, the call says so, and the chat can go on."""
    begun, release = threading.Event(), threading.Event()

    def slow() -> str:
        """Takes long."""
        begun.set()
        assert release.wait(WAIT_S)
        return "late"

    chat = chat_of(slow, weather)
    script(monkeypatch, engine, call("slow"), "So be it.")
    chat.send("Go")
    chat.comm.receive({"type": "call", "message": 2, "call": "call00001", "allow": True})
    assert begun.wait(WAIT_S) and chat.state["running"]
    chat.comm.receive({"type": "rename", "conversation": 1, "title": "Meanwhile"})
    assert chat.state["title"] == "Meanwhile"
    chat.comm.receive({"type": "send", "text": "More", "request": "r9"})
    assert "an answer is being generated" in chat.notice
    chat.comm.receive({"type": "stop"})
    idle(chat)
    assert states(chat) == [["failed"]] and not chat.state["running"] and chat.status == "idle"
    assert chat.messages[-1].tool_calls[0].result == tool_calls.OF_STOPPED
    release.set()
    chat.allow("call00001")  # sends what is known of it to the model
    assert responses(chat) == [tool_calls.OF_STOPPED] and chat.answer == "So be it."


def test_stopping_a_tool_interrupts_who_waits_for_it(
    engine: Engine, chat_of: Callable[..., Chat], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`send` with automatic calls raises Interrupted, with the run that called the tool."""
    release = threading.Event()

    def slow() -> None:
        """Takes long."""
        chat.stop()
        assert release.wait(WAIT_S)

    chat = chat_of(slow, auto_tools=True)
    script(monkeypatch, engine, call("slow") + call("slow"))
    with pytest.raises(Interrupted) as stopped:
        chat.send("Go")
    release.set()
    assert stopped.value.run is chat.runs[-1]
    assert states(chat) == [["failed", "proposed"]]  # the second had not begun


def test_a_malformed_call_does_not_end_the_chat(
    engine: Engine, chat_of: Callable[..., Chat], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is shown with the error, and the model reads that error if the user goes on."""
    chat = chat_of(weather)
    broken = '<tool_call>{"name": "weather", "arguments": {"city": "Par</tool_call>'
    script(monkeypatch, engine, broken, "Sorry.", call("snow"), "No.", "Fine.")
    chat.send("Paris?")
    (failed,) = chat.messages[-1].tool_calls
    assert (failed.state, failed.name) == ("failed", "weather")
    assert "JSONDecodeError" in failed.result and '{"city": "Par' in failed.result
    with pytest.raises(OptionError, match="is failed already"):
        chat.refuse(failed.id)
    chat.send("Go on")
    assert responses(chat) == [failed.result]
    chat.send("Snow?")
    (unknown,) = chat.messages[-1].tool_calls
    assert "there is no tool 'snow': there are weather" in unknown.result
    assert unknown.id != failed.id
    chat.allow(unknown.id)
    assert responses(chat)[-1] == unknown.result and chat.answer == "No."
    chat.send("Well?")
    assert chat.answer == "Fine."


def test_a_call_in_a_chat_without_tools_is_shown_as_failed(
    engine: Engine, chat_of: Callable[..., Chat], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise nothing would be seen of such an answer."""
    chat = chat_of()
    script(monkeypatch, engine, PARIS, "Oh.")
    chat.send("Paris?")
    (call,) = chat.messages[-1].tool_calls
    assert call.state == "failed" and "there is no tool 'weather': there are none" in call.result
    chat.send("So?")
    assert responses(chat) == [call.result] and chat.answer == "Oh."


def test_a_question_instead_of_a_decision_refuses_the_call(
    engine: Engine, chat_of: Callable[..., Chat], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model reads that the user went on without it; nothing can be allowed later."""
    chat = chat_of(weather)
    script(monkeypatch, engine, PARIS, "As you like.")
    chat.send("Paris?")
    chat.send("Never mind")
    assert states(chat) == [["refused"], []] and responses(chat) == [tool_calls.OF_SKIPPED]
    with pytest.raises(OptionError, match="has no tool call to decide on"):
        chat.allow(message=2)
    with pytest.raises(OptionError, match="is refused already"):
        chat.refuse("call00001", message=2)
    with pytest.raises(OptionError, match="there is no tool call 'x'"):
        chat.allow("x", message=2)


def test_automatic_calls_end_after_some_rounds(
    engine: Engine, chat_of: Callable[..., Chat], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`send` returns the last run; the calls beyond the limit wait to be allowed, with a note."""
    chat = chat_of(weather, auto_tools=True, tool_rounds=2)
    left = script(monkeypatch, engine, "A" + PARIS, PARIS + PARIS, "C" + PARIS, "Enough.", "Yes.")
    run = chat.send("Go")
    assert run is chat.runs[-1] and run.text.startswith("C") and len(chat.runs) == 3
    assert states(chat) == [["done"], ["done", "done"], ["proposed"]] and len(left) == 2
    assert "ran by themselves, and no more do" in chat.messages[-1].note
    ids = [each.id for message in chat.messages for each in message.tool_calls]
    assert ids == ["call00001", "call00002", "call00003", "call00004"]
    assert chat.allow() is chat.runs[-1] and chat.answer == "Enough."
    assert chat.send("Done?").text == "Yes."


def test_automatic_errors_go_back_to_the_model(
    engine: Engine, chat_of: Callable[..., Chat], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a function raised is in the card and in the prompt, without its stack."""

    def fails() -> str:
        """Raises."""
        raise KeyError("no such city")

    chat = chat_of(fails, auto_tools=True)
    script(monkeypatch, engine, call("fails") + "<tool_call>?</tool_call>", "Hm.")
    assert chat.send("Go").text == "Hm." and states(chat) == [["failed", "failed"], []]
    assert responses(chat)[0] == "The tool raised KeyError: 'no such city'"
    assert "cannot be run" in responses(chat)[1]


def test_an_answer_after_a_call_can_be_regenerated_and_edited_away(
    engine: Engine, chat_of: Callable[..., Chat], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another version reads the same results; the function is not run again."""
    counted: list[str] = []

    def counts() -> str:
        """Counts."""
        counted.append("x")
        return str(len(counted))

    chat = chat_of(counts, auto_tools=True)
    script(monkeypatch, engine, call("counts"), "One.", "Once.", "Other.")
    chat.send("Go")
    chat.regenerate()
    assert chat.answer == "Once." and len(counted) == 1 and responses(chat) == ["1"]
    assert len(chat.state["messages"][-1]["siblings"]) == 2
    chat.edit(1, "Stay")
    assert [m.text for m in chat.messages] == ["Stay", "Other."]


def test_a_saved_chat_keeps_its_calls(
    engine: Engine, chat_of: Callable[..., Chat], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In the file and in all exported forms; a proposed call can be allowed after a restart."""
    chat = chat_of(weather)
    script(monkeypatch, engine, PARIS, call("weather", city="Rome"), "Both.")
    chat.send("Paris?")
    chat.allow()
    file = chat.save(tmp_path / "chat.json")
    for form in ("text/html", "text/markdown", "text/plain"):
        saved = chat.saved_view[form]
        assert "weather" in saved and "Paris: 2 days of rain" in saved, form
        assert "not decided" in saved
    chat.close()
    other = chat_of(weather)
    other.load(file)
    assert states(other) == [["done"], ["proposed"]]
    other.allow()
    assert responses(other) == ["Paris: 2 days of rain", "Rome: 1 days of rain"]
    without = chat_of()
    without.load(file)
    with pytest.raises(OptionError, match="this chat has no tool 'weather'"):
        without.allow()


def test_a_call_that_was_running_when_its_chat_was_saved_has_failed() -> None:
    """The process that ran it is gone."""
    before = Conversations()
    conversation = before.current
    conversation.add(0, "user", "Go")
    answer = conversation.add(1, "assistant", "", "stop")
    answer.tool_calls = [ToolCall("call00001", "f", {"x": [1]}, "running")]
    after = Conversations()
    after.add_from(before.dumps())
    (call,) = after.current.messages[2].tool_calls
    assert call.state == "failed" and "closed while this call ran" in call.result
    assert call.arguments == {"x": [1]}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"state": "soon"}, "a tool call's state 'soon'"),
        ({"id": 3}, "3 where str was expected"),
        ({"id": "b"}, "two tool calls share an id"),
        ({"arguments": [1]}, "arguments are no object"),
        ({"arguments": {"x": float("nan")}}, "values that are not numbers"),
        ({"result": None}, "None where str was expected"),
    ],
)
def test_a_damaged_call_in_a_file_is_one_sentence(change: dict[str, Any], says: str) -> None:
    """Nothing of the file is added then."""
    before = Conversations()
    before.current.add(0, "user", "Go")
    answer = before.current.add(1, "assistant", "", "stop")
    answer.tool_calls = [ToolCall("a", "f"), ToolCall("b", "f")]
    content = json.loads(before.dumps())
    content["conversations"][0]["messages"][1]["tool_calls"][0] |= change
    after = Conversations()
    with pytest.raises(OptionError, match=says):
        after.add_from(json.dumps(content))
    assert after.current.messages == {}


def test_a_tool_that_asks_its_own_chat_gets_an_error(
    engine: Engine, chat_of: Callable[..., Chat], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would wait for itself; it may use the engine, which is free while a tool runs."""

    def asks() -> str:
        """Asks."""
        with pytest.raises(OutlierError, match="would wait for itself"):
            chat.send("Well?")
        return engine.generate("Inner").text

    chat = chat_of(asks, auto_tools=True)
    script(monkeypatch, engine, call("asks"), "inside", "outside")
    assert chat.send("Go").text == "outside" and responses(chat) == ["inside"]


class Odd:
    def __str__(self) -> str:
        raise ValueError("no text")


async def waits() -> str:
    await asyncio.sleep(0)
    return "waited"


def mutates(x: list[int]) -> int:
    x.append(2)
    return len(x)


def ends() -> None:
    raise SystemExit(3)


class Silent(Exception):
    """An error whose text cannot be had."""

    def __str__(self) -> str:
        raise ValueError("no text")


def silent() -> None:
    raise Silent


RESULTS: list[tuple[Callable[..., Any], dict[str, Any], str, str]] = [
    (lambda: "plain", {}, "done", "plain"),
    (lambda: None, {}, "done", "null"),
    (lambda: {"a": (1, "ü")}, {}, "done", '{"a": [1, "ü"]}'),
    (lambda: np.arange(3), {}, "done", "[0, 1, 2]"),
    (lambda: {"at": Path("/x")}, {}, "done", '{"at": "/x"}'),
    (lambda: "\ud800", {}, "done", "?"),
    (waits, {}, "done", "waited"),
    (mutates, {"x": [1]}, "done", "2"),
    (lambda: Odd(), {}, "failed", "The tool raised ValueError: no text"),
    (lambda x: x, {}, "failed", "missing 1 required positional argument"),
    (lambda: 1 / 0, {}, "failed", "The tool raised ZeroDivisionError: division by zero"),
    (ends, {}, "failed", "The tool raised SystemExit: 3"),
    (silent, {}, "failed", "The tool raised Silent"),
]


@pytest.mark.parametrize(("function", "arguments", "state", "result"), RESULTS)
def test_results_are_text_or_json(
    function: Callable[..., Any], arguments: dict[str, Any], state: str, result: str
) -> None:
    """Whatever a function returns or raises is a text that the model, a page and a file take."""
    one = ToolCall("a", "f", arguments)
    run_call(Tool("f", {}, function), one, lambda: False, None)
    assert one.state == state and result in one.result
    assert state == "failed" or one.result == result
    assert arguments in ({}, {"x": [1]})


def test_a_long_result_is_cut_and_says_so() -> None:
    """A model would otherwise read more than it was made for."""
    one = ToolCall("a", "f")
    run_call(Tool("f", {}, lambda: "x" * 50_000), one, lambda: False, None)
    assert one.result.endswith("… (cut: 50,000 characters, of which the first 20,000 are here)")
    assert len(one.result) < tool_calls.RESULT_CHARS + 100


def test_a_result_longer_than_the_context_leaves_the_chat_usable(
    engine: Engine, chat_of: Callable[..., Chat], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model reads a quarter of its context of it, and the next question fits."""

    def weather(city: str, days: int) -> str:
        """The weather.

        Args:
            city: where
            days: how many
        """
        return "rain " * 2_000

    chat = chat_of(weather, auto_tools=True)
    script(monkeypatch, engine, PARIS, "It rains.", "Yes.")
    chat.send("And Paris?")
    (result,) = responses(chat)
    assert result.endswith("rain … (cut: the first 1,024 of 10,000 tokens)")
    chat.send("Really?")
    assert chat.answer == "Yes."


def test_a_model_that_takes_no_tools_says_so_at_once(tiny: Path) -> None:
    """Its template gives the same text with tools as without."""
    with outlier_jupyter.load(tiny, cache_experts=8) as engine:
        with pytest.raises(OptionError, match="no parser for this model's tool calls"):
            Chat(engine, tools=[weather])
        with pytest.raises(OptionError, match="chat template takes no tools"):
            engine.generate("Hi", tools=[weather])
        with pytest.raises(OptionError, match="tools cannot be used, because raw=True"):
            engine.generate("Hi", tools=[weather], raw=True)


def test_the_arguments_of_a_chat_are_checked(engine: Engine) -> None:
    """Each is one sentence, before there is a widget."""
    for wrong, says in [
        ({"tools": [{"name": "f"}]}, "has a schema and no function"),
        ({"tools": weather}, "give a list of functions"),
        ({"tools": [weather], "auto_tools": "yes"}, "auto_tools='yes' cannot be used"),
        ({"tools": [weather], "tool_rounds": 0}, "tool_rounds=0 is too small"),
    ]:
        with pytest.raises(OptionError, match=says):
            Chat(engine, **wrong)  # type: ignore[arg-type]
