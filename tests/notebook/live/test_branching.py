"""A click on a likely token: the run goes on from there in a view below."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from outlier_jupyter import Engine, Run
from outlier_jupyter.events import TextProduced
from outlier_jupyter.notebook.live.widget import LiveView

from .test_widget import on_a_page

PATIENCE_S = 60.0


@pytest.fixture
def run(engine: Engine) -> Run:
    return engine.generate("Hello", max_tokens=8)


def clicked(view: LiveView, token: object, choose: object) -> list[dict[str, object]]:
    """What the page gets after a click, once the branch is over."""
    sent: list[dict[str, object]] = []
    answered = threading.Event()

    def send(content: dict[str, object], buffers: object = None) -> None:
        sent.append(content)
        if content.get("type") == "branched":
            answered.set()

    view.send = send  # type: ignore[method-assign]
    on_a_page(view).comm.receive({"type": "branch", "token": token, "choose": choose})
    assert answered.wait(PATIENCE_S)
    return [content for content in sent if content["type"] == "branched"]


def other_token(run: Run, token: int) -> int:
    """The likeliest one that the run does not have in this place and that does not end it."""
    step = run.step_of(token)
    ids = run.trace.alternatives[step].tolist()
    return next(i for i in ids if i not in (int(run.trace.produced[step]), 0, 1, 2))


def test_a_click_shows_a_new_run_below(engine: Engine, run: Run) -> None:
    """It is `run.branch` with that token, in a live view of its own that stays."""
    view, choose = LiveView.of(run), other_token(run, 3)
    assert clicked(view, 3, choose) == [{"type": "branched", "words": ""}]
    (below,) = view.branches
    made = below.finished_run
    assert made is not None and made.tokens[0] != run.tokens[2]
    assert made.text == run.branch(3, choose).text
    assert below.info["prefilled"] == len(made.prefilled)
    assert below.status == made.finish_reason
    assert str(below.info["branched"]).startswith("Goes on from token 3 with ")
    assert view.trace_nbytes == run.trace.nbytes + made.trace.nbytes
    view.close()
    assert below.closed


def test_a_branch_goes_on_from_a_branch(run: Run) -> None:
    """Each view shows its own below it."""
    view = LiveView.of(run)
    clicked(view, 3, other_token(run, 3))
    (below,) = view.branches
    made = below.finished_run
    assert made is not None
    clicked(below, 2, other_token(made, 2))
    assert len(below.branches) == 1 and len(view.branches) == 1
    view.close()


@pytest.mark.parametrize("choose", [10**9, -5])
def test_what_cannot_be_chosen_leaves_one_sentence(run: Run, choose: int) -> None:
    """No view appears, and the run's view stays as it was."""
    view = LiveView.of(run)
    (answer,) = clicked(view, 3, choose)
    assert str(answer["words"]).startswith("choose=") and str(answer["words"]).endswith(".")
    assert view.branches == []
    view.close()


def test_a_run_whose_model_is_gone_says_so(run: Run) -> None:
    """As a loaded run, which has no engine."""
    view = LiveView.of(replace(run, origin=None))
    (answer,) = clicked(view, 3, 5)
    assert "no engine" in str(answer["words"]) and view.branches == []
    view.close()


def test_a_chat_decides_itself_what_a_click_does(run: Run) -> None:
    """Whoever gives `on_branch` gets the token's number and the id."""
    asked: list[tuple[int, int]] = []

    def branch(token: int, choose: int) -> str:
        asked.append((token, choose))
        return "Not now."

    view = LiveView.of(run)
    view.on_branch = branch
    assert clicked(view, 3, 5) == [{"type": "branched", "words": "Not now."}]
    assert asked == [(3, 5)] and view.branches == []
    view.close()


def test_the_texts_of_the_events_are_the_text_of_the_branch(engine: Engine, run: Run) -> None:
    """What was kept of the other run's text is reported before the first token's."""
    texts: list[str] = []
    end = engine.subscribe(lambda event: texts.append(event.text), TextProduced)
    made = run.branch(4, other_token(run, 4))
    end()
    assert "".join(texts) == made.text and texts[0] == made.prefilled
