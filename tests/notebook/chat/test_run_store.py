"""A chat's state: settings, conversations, runs and their views, and the cache's size."""

from __future__ import annotations

import os
from pathlib import Path

import ipywidgets
import pytest
import traitlets

from outlier_jupyter.errors import OptionError
from outlier_jupyter.notebook.chat import run_store
from outlier_jupyter.notebook.chat.chat import Chat
from outlier_jupyter.notebook.page_modules import MODULES, STATIC
from tests.notebook.chat.asking import page, sent, texts


def test_settings_are_checked_traits(engine, chat: Chat) -> None:
    """One for each option, with its rules; unknown ones are refused with a suggestion."""
    page(chat, type="set", name="temperature", value=0.5)
    assert chat.temperature == 0.5
    with pytest.raises(OptionError, match="max_tokens=0 is too small"):
        chat.max_tokens = 0
    with pytest.raises(OptionError, match="did you mean 'temperature'"):
        Chat(engine, temprature=1)
    with pytest.raises(OptionError, match="'raw' is not a chat setting"):
        Chat(engine, raw=True)
    with pytest.raises(OptionError, match="cannot use 'demo' as its engine"):
        Chat("demo")


def test_thinking_is_chosen_and_template_variables_are_texts(chat: Chat) -> None:
    """The page gets a list of choices and lines of text, and what it sends is checked."""
    kinds = {each["name"]: (each["kind"], each["choices"]) for each in chat.controls}
    assert kinds["thinking"] == ("choice", ["auto", "on", "off"])
    assert kinds["template"] == ("texts", [])
    assert kinds["thinking_budget"][0] == kinds["seed"][0] == "int"
    page(chat, type="set", name="template", value=["reasoning_effort=low", "day=1"])
    page(chat, type="set", name="thinking", value="off")
    assert (chat.template, chat.thinking) == (("reasoning_effort=low", "day=1"), "off")
    page(chat, type="set", name="template", value=["reasoning_effort"])
    assert "NAME=VALUE" in chat.notice and len(chat.template) == 2
    page(chat, type="set", name="thinking", value="perhaps")
    assert "thinking='perhaps'" in chat.notice and chat.thinking == "off"
    page(chat, type="set", name="template", value=[])
    assert chat.template == ()


def test_the_system_prompt_is_the_conversations(engine, chat: Chat) -> None:
    """The model reads it, the conversation stores it, and it changes with the conversation."""
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
    """A file copies them to another chat; a deleted one is gone."""
    chat.send("Hello")
    chat.rename(1, " Greeting ")
    chat.new()
    chat.save(tmp_path / "chat.json")
    page(chat, type="export")
    (file,) = sent(chat, "file")
    assert file["text"] == (tmp_path / "chat.json").read_text()
    other = Chat(engine)
    other.load(tmp_path / "chat.json")
    assert [each.label for each in other.conversations] == ["Greeting", "Conversation 2"]
    other.delete(2)
    assert [message.text for message in other.messages] == texts(other) != []
    with pytest.raises(OptionError, match="cannot be read: No such file"):
        other.load(tmp_path / "nothing.json")
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(OptionError, match="cannot be read: it is a named pipe"):
        other.load(tmp_path / "pipe.json")
    with pytest.raises(OptionError, match="could not be written"):
        other.save(tmp_path / "no" / "folder.json")
    other.close()


def test_a_runs_view_is_shown_under_its_answer(chat: Chat) -> None:
    """A live view of the run that the answer names, one at a time; 0 removes it."""
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
    (view,) = sent(chat, "run")
    assert view["html"] == chat.runs[0]._repr_mimebundle_()["text/html"]


def test_watching_opens_a_live_view(chat: Chat) -> None:
    """A widget of its own, finished when the run is, replaced by the next."""
    chat.watch = True
    chat.send("Hello")
    first = chat.live
    assert first.status == "length" and first.snapshot
    chat.send("Again")
    assert chat.live is not first


def test_runs_are_bounded_and_a_dropped_one_says_so(chat: Chat, monkeypatch) -> None:
    """The oldest are dropped, the newest stays at any size; numbers do not change."""
    first = chat.send("Hello")
    monkeypatch.setattr(run_store, "KEPT_NBYTES", 2 * run_store.trace_nbytes(first))
    chat.send("Again")
    last = chat.send("And again, with more words than before")
    assert first not in chat.runs and chat.runs[-1] is last is chat.run(3)
    assert chat.messages[-1].numbers["run"] == 3
    with pytest.raises(OptionError, match="run 1 was dropped"):
        chat.run(1)
    page(chat, type="run", run=1)
    assert chat.run_view is None and "was dropped" in chat.run_shown["note"]
    monkeypatch.setattr(run_store, "KEPT_NBYTES", 1)
    assert chat.send("One") is chat.run(4) and chat.runs == [chat.run(4)]


def test_the_caches_size_is_changed_between_answers(engine, chat: Chat) -> None:
    """From the page or Python; every chat of the engine is notified; refusals are sentences."""
    other = Chat(engine)
    page(chat, type="resize", cache_experts=12)
    assert sent(chat, "accepted") == [{"type": "accepted", "request": "r1"}]
    assert engine.status().slots == chat.info["slots"] == other.info["slots"] == 12
    assert chat.info["bank_nbytes"] == engine.status().bank_nbytes
    page(chat, type="resize", cache_experts=0)
    assert "cache_experts=0 is too small" in chat.notice
    assert sent(chat, "refused") == [{"type": "refused", "request": "r1"}]
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


def test_it_is_a_widget_among_widgets(chat: Chat) -> None:
    """It works in a box, and a slider linked to a setting changes it."""
    slider = ipywidgets.FloatSlider(min=0, max=2)
    traitlets.link((slider, "value"), (chat, "temperature"))
    slider.value = 0.7
    assert chat.temperature == 0.7
    assert ipywidgets.HBox([chat, slider]).children[0] is chat


def test_the_built_files_are_small_and_name_their_licences() -> None:
    """The page receives them with every chat that it shows."""
    licenses = (STATIC / "LICENSES.txt").read_text()
    assert all(name in licenses for name in ("marked", "dompurify", "speed-highlight", "temml"))
    for name in ("chat", *MODULES):
        assert 1_000 < (STATIC / f"{name}.js").stat().st_size <= 120_000
    assert (STATIC / "chat.css").stat().st_size < 20_000


def test_a_page_is_sent_the_modules_that_it_asks_for_and_no_other_file(chat: Chat) -> None:
    """A module's text comes back under its name; another name has none."""
    for name in (*MODULES, "../chat", "live", "/etc/passwd", None, 3):
        page(chat, type="module", name=name)
    answers = {each["name"]: each["text"] for each in sent(chat, "module")}
    assert answers.pop("highlight") == (STATIC / "highlight.js").read_text(encoding="utf-8")
    assert answers.pop("formulas").startswith("/* Built from js/src")
    assert answers.pop("formula-symbols")
    assert set(answers.values()) == {""}
    assert chat.notice == ""
