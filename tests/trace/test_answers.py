"""Answers about a trace: the sentence has the numbers of the table, and says what is too little."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pandas
import pytest

from outlier_jupyter.formatting import percent
from outlier_jupyter.trace.answers import measures_answer, what_if_answer
from outlier_jupyter.trace.cost_model import Cost
from outlier_jupyter.trace.routing_measures import routing_measures
from outlier_jupyter.trace.what_if import WhatIf, what_if
from tests.notebook.conftest import build
from tests.trace.test_routing_measures import routed

LONG = build(steps=80, seed=1)


def numbers(text):
    return [float(n.replace(",", "")) for n in re.findall(r"\d[\d,]*\.?\d*", text)]


def test_what_if_answers_about_twice_the_cache():
    """Both hit rates are those of replays of the run's own policy."""
    answer, replays = what_if_answer(LONG), WhatIf(LONG)
    own, total = LONG.info.slots, sum(LONG.info.experts_per_layer)
    now, then = (
        replays.row(LONG.info.policy or "predictive", n) for n in (own, min(2 * own, total))
    )
    assert answer.sentence.startswith(f"With {then['slots'] / own:.2g} × the cache (")
    assert f"{percent(then['decode_hit_rate'])} of lookups would hit" in answer.sentence
    assert percent(now["decode_hit_rate"]) in answer.sentence or "as now" in answer.sentence
    pandas.testing.assert_frame_equal(answer.frame, what_if(LONG))
    assert not any("too few" in note for note in answer.notes)


def test_what_if_answers_about_the_size_requested():
    """The first size that is not the run's own, with the policy requested."""
    own = LONG.info.slots
    answer = what_if_answer(LONG, [own, 8], ["belady"])
    row = WhatIf(LONG).row("belady", 8)
    assert "(8 slots" in answer.sentence and "best possible" in answer.sentence
    assert percent(row["decode_hit_rate"]) in answer.sentence
    whole = what_if_answer(LONG, [sum(LONG.info.experts_per_layer)])
    assert len(whole.table) == 2 and whole.table[1][1] == f"{sum(LONG.info.experts_per_layer)}"


def test_what_if_names_its_bound_and_a_rough_prediction(monkeypatch):
    """What belady is stands below; a cost that fits its own calls badly is called rough above."""
    monkeypatch.setattr("outlier_jupyter.trace.what_if.fit", lambda _: Cost(1e6, 1e5, 1.0, 0.565))
    answer = what_if_answer(LONG, [8])
    assert "belady knows the future: the bound of all" in answer.notes
    assert re.search(r"by prediction \(a rough one: median error 56(\.5)? %\)", answer.sentence)
    monkeypatch.setattr("outlier_jupyter.trace.what_if.fit", lambda _: Cost(1e6, 1e5, 1.0, 0.05))
    answer = what_if_answer(LONG, [8], ["lru"])
    assert "by prediction (median error 5 %)" in answer.sentence
    assert not any("belady" in note for note in answer.notes)


def test_few_tokens_are_named_as_few():
    """Of a short run, and of one without decode."""
    short = what_if_answer(build(steps=20, seed=1))
    assert any("too few to tell" in note for note in short.notes)
    assert any(
        "too few to tell" in note
        for note in measures_answer(routed(np.array([[[0]], [[1]]]), (2,))).notes
    )
    none = what_if_answer(build(steps=4, prompt=4))
    assert none.sentence == "No token was decoded, so there are no lookups to replay."
    assert "decode" in measures_answer(build(steps=4, prompt=4)).sentence


def test_measures_answer_is_their_mean():
    """Overlap, chance and concentration; lowest and highest layer of each measure."""
    answer, found = measures_answer(LONG), routing_measures(LONG)
    shown = numbers(answer.sentence)
    means = [100 * np.nanmean(values) for values in (found.overlap, found.chance_overlap)]
    assert shown[:2] == pytest.approx(means, abs=0.06)
    assert shown[2] == pytest.approx(100 * np.nanmean(found.half), abs=0.06)
    rows = {row[0]: row for row in answer.table}
    assert f"layer {int(np.argmin(found.evenness))}" in rows["evenness of choices"][2]
    assert f"layer {int(np.argmax(found.evenness))}" in rows["evenness of choices"][3]


def test_an_answer_is_its_table_too():
    """Columns, attributes and length are the frame's; the text fits a terminal."""
    answer = what_if_answer(LONG)
    assert list(answer["slots"]) == list(answer.frame.slots) == list(answer.slots)
    assert len(answer) == len(answer.frame) and list(answer) == list(answer.frame)
    with pytest.raises(AttributeError):
        answer.no_such_column  # noqa: B018, reading it is the test
    for each in (answer, measures_answer(LONG)):
        lines = repr(each).splitlines()
        assert max(map(len, lines)) <= 80 and lines[0].startswith(each.sentence[:40])
        assert "e-0" not in repr(each)


def test_a_trace_without_times_answers_in_bytes():
    """No speed is predicted: what would be read is compared."""
    bare = replace(LONG, info=replace(LONG.info, absent=("reads",)))
    assert "would be read in decode instead of" in what_if_answer(bare, [4]).sentence
    assert "as fast" in what_if_answer(LONG, [4]).sentence
