"""Thinking against answering: found where routing differs, and nothing where it does not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import outlier_jupyter
from outlier_jupyter import Engine, Run, Trace
from outlier_jupyter.errors import OptionError
from outlier_jupyter.trace.phases import in_phase
from outlier_jupyter.trace.segment_answers import segments_answer
from outlier_jupyter.trace.segments import ANSWER, THINKING, USER
from tests.trace.test_divergence import sticky
from tests.trace.test_routing_measures import routed


def thought(thinking: Trace, answer: Trace) -> Trace:
    """One run that routes like one trace while it thinks, and like another while it answers."""
    made = routed(
        np.concatenate([thinking.experts, answer.experts]), thinking.info.experts_per_layer
    )
    kinds = [THINKING] * thinking.steps + [ANSWER] * (answer.steps + 1)
    return replace(made, kinds=np.array(kinds, np.uint8))


def other_in_layer_2(trace: Trace) -> Trace:
    experts = trace.experts.copy()
    experts[:, 2] = 15 - experts[:, 2]
    return routed(experts, trace.info.experts_per_layer)


@pytest.mark.parametrize("stays", [0.0, 0.7])
def test_what_is_routed_alike_is_no_finding(stays: float) -> None:
    """Also where neighbouring tokens choose alike, which single tokens' permutations would find."""
    for seed in range(3):
        trace = thought(sticky(seed, 400, stays), sticky(seed + 50, 400, stays))
        found = segments_answer(trace, permutations=199)
        assert found.routing is not None and not len(found.routing.differing())
        assert found.sentence.startswith("While thinking and while answering, no layer is routed")


def test_a_layer_that_is_routed_otherwise_is_found() -> None:
    """That one and no other; the halves of one kind do not differ, and a note says so."""
    trace = thought(sticky(1, 400), other_in_layer_2(sticky(2, 300)))
    found = segments_answer(trace, permutations=199)
    assert found.routing is not None and found.routing.differing().tolist() == [2]
    assert "1 of 4 layers are routed differently beyond chance, most layer 2" in found.sentence
    assert found.halves is not None and not len(found.halves.differing())
    assert any("two halves of the thinking alone differ in 0 layers" in n for n in found.notes)
    assert found.frame.kind.tolist() == ["thinking", "answer"]
    assert found.frame.tokens.tolist() == [400, 301] and found.sentence.split()[0] in repr(found)


def test_too_few_tokens_are_no_finding_of_segments() -> None:
    """The sentence says so; a run without thinking has nothing to compare."""
    few = segments_answer(
        thought(sticky(1, 40, 0.8), sticky(2, 40, 0.8, liking=9)), permutations=99
    )
    assert "too few tokens to tell" in few.sentence and few.notes
    trace = thought(sticky(1, 20), sticky(2, 20))
    none = segments_answer(trace, "tool call", "answer")
    assert none.routing is None and "0 tokens of tool call" in none.sentence
    with pytest.raises(OptionError, match="'thoughts' is unknown"):
        segments_answer(trace, "thoughts")
    with pytest.raises(OptionError, match="segments were not recorded"):
        segments_answer(sticky(1))


def test_measures_and_comparisons_take_a_kind_as_their_phase() -> None:
    """The same numbers as of a trace of those tokens alone; refused where none was recorded."""
    trace = thought(sticky(1, 60), other_in_layer_2(sticky(2, 50)))
    run = Run.of(trace)
    assert in_phase(trace, "thinking").sum() == 60 and in_phase(trace, "answer").sum() == 50
    assert run.measures("thinking").entropy == pytest.approx(
        run.of(sticky(1, 60)).measures().entropy
    )
    again = thought(sticky(3, 60), sticky(4, 50))
    compared = outlier_jupyter.compare([run, Run.of(again)], phase="thinking", permutations=49)
    alone = outlier_jupyter.compare([sticky(1, 60), sticky(3, 60)], permutations=49)
    assert np.allclose(compared.divergence(0, 1).js, alone.divergence(0, 1).js)
    with pytest.raises(OptionError, match="segments were not recorded"):
        Run.of(sticky(1)).measures("thinking")
    for wrong in ("thoughts", np.zeros(3, bool), np.arange(trace.steps), ["thinking"]):
        with pytest.raises(OptionError, match="is unknown: choose 'prefill', 'decode'"):
            run.measures(wrong)


def test_other_caches_are_named_by_kind() -> None:
    """Hit rates of a replay while thinking and while answering; their mean is decode's."""
    trace = thought(sticky(1, 60, 0.5), sticky(2, 60))
    frame = trace.what_if([16], ["lru"])
    rates = frame[["thinking_hit_rate", "answer_hit_rate"]].to_numpy()[0]
    assert rates[0] > rates[1] and rates.mean() == pytest.approx(frame.decode_hit_rate[0])
    assert "thinking_hit_rate" not in sticky(1).what_if([16], ["lru"])


def test_an_answer_about_segments_is_drawn_and_in_the_report(engine: Engine, tmp_path) -> None:
    """As HTML with a chart, as a figure, as a section; a token's name says what it is part of."""
    run = engine.generate("hello", max_tokens=40)
    kinds = run.trace.kinds.copy()
    kinds[-40:-20] = THINKING
    run = replace(run, trace=replace(run.trace, kinds=kinds))
    found = run.compare_segments(permutations=49)
    html = found._repr_html_()
    assert "while thinking" in html.lower() and "<img" in html
    assert len(found.figure().data) == 3
    assert "(thinking)" in str(run.explain(5)) and "(thinking)" not in str(run.explain(30))
    page = run.report(tmp_path / "run.html").read_text()
    assert "<h2>Segments</h2>" in page and "while thinking" in page.lower()
    assert run.trace.to_pandas().kind.tolist()[-1] == "answer"
    none = run.compare_segments("tool call").figure()
    assert "nothing to compare" in none.layout.annotations[0].text.replace("<br>", " ")
    assert USER in kinds
