"""The eviction order reaches the live view: during a run, at its end, and for earlier tokens."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import outlier_jupyter
from outlier_jupyter import Run
from outlier_jupyter.engine.cache_order import cache_order
from outlier_jupyter.errors import OptionError, TraceError
from outlier_jupyter.notebook.live.eviction_orders import MOST_STEPS, order_after, orders_around
from outlier_jupyter.notebook.live.finished_run import frame_of_run
from outlier_jupyter.notebook.live.frame_builder import FrameBuilder
from outlier_jupyter.notebook.live.frame_head import EXACT, RELEARNED, UNKNOWN
from outlier_jupyter.notebook.live.frames import Frame
from outlier_jupyter.notebook.live.show import make_frame_builder
from outlier_jupyter.notebook.live.widget import LiveView
from outlier_jupyter.residency.policies import POLICIES, PolicySpec
from outlier_jupyter.trace.measures import residency
from tests.residency.first_in import FirstIn

from .test_widget import on_a_page


class Asked(FirstIn):
    """A policy that decides only when it is asked."""

    name = "asked"
    ranks = False


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> str:
    spec = PolicySpec("asked", "asked", "what it likes", Asked)
    monkeypatch.setitem(POLICIES, "asked", spec)
    return spec.name


def watched(engine, prompt: str) -> tuple[Run, list[Frame]]:
    """A run, and the frames of its live view."""
    frames: list[Frame] = []
    end = engine.subscribe(make_frame_builder(engine, frames.append), *FrameBuilder.KINDS)
    run = engine.generate(prompt, max_tokens=9)
    end()
    return run, frames


@pytest.mark.parametrize("policy", ["lru", "predictive"])
def test_the_last_frame_has_the_order_of_the_cache(tiny, policy: str) -> None:
    """Also in a second run, whose policy has learned from the first; and later, from the trace."""
    with outlier_jupyter.load(tiny, cache_experts=10, policy=policy) as engine:
        for prompt in ("first", "and then another"):
            run, frames = watched(engine, prompt)
            now, last = cache_order(engine), frames[-1]
            assert (last.order_kind, last.order_steps) == (EXACT, run.trace.steps)
            np.testing.assert_array_equal(last.order, now.keys)
            kept = frame_of_run(run)
            assert kept.order_kind == EXACT and kept.order_steps == run.trace.steps
            np.testing.assert_array_equal(kept.order, now.keys)


def test_each_order_in_a_frame_is_the_one_after_its_step(tiny) -> None:
    """Whatever frames were sent within a run, the trace tells the same."""
    with outlier_jupyter.load(tiny, cache_experts=10) as engine:
        watched(engine, "first")
        run, frames = watched(engine, "and then another")
    ordered = [frame for frame in frames if frame.order_kind and not frame.call_layers]
    ordered = [frame for frame in ordered if frame.order_steps]
    assert ordered
    for frame in ordered:
        told = order_after(run.trace, frame.order_steps - 1)
        np.testing.assert_array_equal(frame.order, told["order"])


def test_an_order_names_the_resident_experts_and_says_what_it_lacks(tiny) -> None:
    """A saved run lacks what the policy had learned before it, where that matters."""
    with outlier_jupyter.load(tiny, cache_experts=10) as engine:
        engine.generate("first", max_tokens=9)
        run = engine.generate("and then another", max_tokens=9)
    for step in (3, -1, 0):
        found = run.trace.eviction_order(step)
        pairs = {(int(layer), int(expert)) for layer, expert in found.experts}
        assert pairs == set(zip(*(each.tolist() for each in residency_at(run, step)), strict=True))
        assert found.exact and found.policy == "predictive"
    assert repr(found).startswith("EvictionOrder(step=0, next out: layer ")
    assert run.eviction_order(2).step == run.step_of(2)
    saved = replace(run.trace)
    assert not saved.eviction_order().exact
    assert order_after(saved, -1)["order_kind"] == RELEARNED
    with pytest.raises(OptionError, match="step 999 does not exist"):
        run.trace.eviction_order(999)


def residency_at(run: Run, step: int) -> tuple[np.ndarray, ...]:
    call = run.trace.calls[run.trace.call[step]]
    return np.nonzero(residency(run.trace, int(call["first_step"] + call["steps"] - 1)))


def test_a_policy_without_an_order_is_said_to_have_none(tiny, asked: str) -> None:
    """So is one that is not registered where its trace is read, and a trace without experts."""
    with outlier_jupyter.load(tiny, cache_experts=10, policy=asked) as engine:
        run, frames = watched(engine, "so be it")
    assert {frame.order_kind for frame in frames if frame.order_kind} == {UNKNOWN}
    with pytest.raises(TraceError, match="has no eviction order between two tokens"):
        run.trace.eviction_order()
    assert order_after(run.trace, -1) == {"order_kind": UNKNOWN}
    foreign = replace(run.trace, info=replace(run.trace.info, policy="theirs"))
    with pytest.raises(TraceError, match="no policy 'theirs' is registered here"):
        foreign.eviction_order()


def test_a_page_gets_the_orders_around_the_step_it_asks_for(tiny) -> None:
    """One message for as many steps as fit; an unknown step, or no run, is answered by none."""
    with outlier_jupyter.load(tiny, cache_experts=10) as engine:
        run = engine.generate("a token after another", max_tokens=MOST_STEPS + 9)
    view, sent = LiveView.of(run), []
    view.send = lambda content, buffers=None: sent.append((content, buffers))
    page = on_a_page(view).comm
    step = run.trace.steps - 2
    page.receive({"type": "ask", "about": {"order": step}})
    content, (buffer,) = sent.pop()
    assert content["type"] == "orders" and content["from"] <= step
    numbers, at = np.frombuffer(buffer, "<u4"), 0
    for offset, each in enumerate(content["orders"]):
        told = order_after(run.trace, content["from"] + offset)
        assert each["kind"] == told["order_kind"] == EXACT
        np.testing.assert_array_equal(numbers[at : at + each["length"]], told["order"])
        at += each["length"]
    assert at == len(numbers) and len(content["orders"]) > 1
    for about in ({"order": 10**6}, {"order": -1}):
        page.receive({"type": "ask", "about": about})
        assert sent.pop()[0]["orders"] == []
    assert orders_around(None, 3)[0]["orders"] == []
