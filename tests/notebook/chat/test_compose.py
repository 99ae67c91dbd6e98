"""The widgets' traits as API: in boxes, linked, observed, several at once; no browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import ipywidgets
import pytest

import outlier_jupyter
from outlier_jupyter import Engine
from outlier_jupyter.errors import OptionError
from outlier_jupyter.notebook.chat.controls import NAMES
from outlier_jupyter.notebook.live.frames import decode


@pytest.fixture
def engines(tiny: Path) -> Iterator[list[Engine]]:
    """Two engines on one checkpoint."""
    both = [outlier_jupyter.load(str(tiny), cache_experts=n) for n in (5, 9)]
    yield both
    for engine in both:
        engine.close()


def test_two_engines_decode_at_once_under_two_views(engines: list[Engine]) -> None:
    """Each view shows its own run and nothing of the other's, and both texts are right."""
    wanted = [engine.generate(prompt, max_tokens=12) for engine, prompt in zip(engines, "AB")]  # noqa: B905
    for engine in engines:
        engine.tokenizer.eos_token_ids = set()
    views = [
        outlier_jupyter.watch(engine, prompt, max_tokens=12)
        for engine, prompt in zip(engines, "AB", strict=True)
    ]
    box = ipywidgets.HBox(views)
    runs = [view.wait() for view in views]
    for view, run, before, engine in zip(box.children, runs, wanted, engines, strict=True):
        shown = decode(view.snapshot)
        assert shown.text == run.text and run.text.startswith(before.text)
        assert shown.slots == engine.info.slots == view.info["slots"]


def test_controls_of_ipywidgets_are_bound_to_every_setting(engines: list[Engine]) -> None:
    """`link` works in both directions, `dlink` and `observe` too, and a bad value is refused."""
    chat = outlier_jupyter.Chat(engines[0])
    slider = ipywidgets.FloatSlider(max=2, value=0.7)
    ipywidgets.link((slider, "value"), (chat, "temperature"))
    assert chat.temperature == 0.7
    chat.temperature = 0.2
    assert slider.value == 0.2
    text = ipywidgets.Textarea()
    ipywidgets.dlink((text, "value"), (chat, "system"))
    text.value = "Be brief."
    assert chat.conversations[0].system == "Be brief."
    seen: list[object] = []
    chat.observe(lambda change: seen.append(change["new"]), "max_tokens")
    chat.max_tokens = 3
    assert seen == [3]
    with pytest.raises(OptionError, match="temperature"):
        slider.min, slider.value = -1, -1
    assert chat.temperature == 0.2
    # jslink works in the browser: it needs traits that the browser has.
    assert all(chat.traits()[name].metadata["sync"] for name in NAMES)
    ipywidgets.jslink((slider, "value"), (chat, "temperature"))
    chat.close()


def test_they_go_into_every_container(engines: list[Engine]) -> None:
    """A chat beside the view of a run, in boxes, tabs and accordions, shown any number of times."""
    chat = outlier_jupyter.Chat(engines[0])
    run = chat.send("Hello", max_tokens=3)
    view = run.view()
    for container in (ipywidgets.HBox, ipywidgets.VBox, ipywidgets.Tab, ipywidgets.Accordion):
        assert container([chat, view, chat]).children == (chat, view, chat)
    for widget in (chat, view):
        once, again = (widget._repr_mimebundle_()[0] for _ in range(2))
        assert once == again and "application/vnd.jupyter.widget-view+json" in once
    chat.close()


def test_a_chat_and_a_run_of_other_engines_at_once(engines: list[Engine]) -> None:
    """Answers, watched runs and blocking calls of several engines do not interfere."""
    chat = outlier_jupyter.Chat(engines[0], max_tokens=8)
    view = outlier_jupyter.watch(engines[1], "Hello", max_tokens=8)
    answer = chat.send("Hello")
    assert view.wait().tokens.tolist() == answer.tokens.tolist()
    assert chat.answer == answer.text == view.run.text
    chat.close()


def test_answers_and_ends_are_observed(engines: list[Engine]) -> None:
    """`answer` and `status` notify observers of each change."""
    chat = outlier_jupyter.Chat(engines[0], max_tokens=4)
    label = ipywidgets.HTML()
    states: list[str] = []
    chat.observe(lambda change: states.append(change["new"]), "status")
    traited = ipywidgets.dlink((chat, "answer"), (label, "value"), lambda text: f"<b>{text}</b>")
    run = chat.send("Hello")
    chat.close()
    assert label.value == f"<b>{run.text}</b>" and traited.source[0] is chat
    assert states[:2] == ["running", "idle"]
