"""The studies' answers: one sentence with the finding, or that there is too little to tell."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from outlier_jupyter import ablate, compare, sweep
from outlier_jupyter.formatting import three
from outlier_jupyter.notebook.render.static.answer_charts import of_layers
from outlier_jupyter.notebook.render.static.scene import BOTTOM, Line
from outlier_jupyter.studies.answers import comparison_notes
from tests.studies.test_compare import sticky

TEXT = {"continuations": [", and good bye"], "quiet": True}


@pytest.fixture(scope="module")
def cost(engine):
    return ablate(engine, "hello there", "0:1", draws=19, **TEXT)


@pytest.fixture(scope="module")
def swept(engine):
    return sweep(engine, top_k=[1, 2], prompts=["hi", "hello"], max_tokens=3, quiet=True)


def with_changes(found, random, change=-1.0):
    """The result of an ablation with these changes under random masks."""
    draws = np.zeros((len(random), 1, 2))
    draws[:, 0, 0] = random
    return replace(
        found, random=draws, masks=found.masks[:1] * len(random), requested=len(random),
        change=(np.full(len(found.change[0]), change),),
        agrees=(np.arange(len(found.agrees[0])) != 3,),
    )  # fmt: skip


def test_an_ablation_beyond_chance_is_a_finding(cost):
    """Which token changes first, how many random choices cost as much, and p."""
    found = with_changes(cost, [-2.0, -1.5] + [0.0] * 997)
    assert found.sentence == (
        "Without layer 0 expert 1 the text changes at token 3; 2 of 999 random choices of one "
        "expert cost as much or more: the expert matters (p = 0.003)."
    )
    assert "no more than chance (p = 1)" in with_changes(cost, [-2.0] * 30).sentence


def test_an_ablation_of_few_draws_is_too_little(cost):
    """Below 19 random masks there is no finding, whatever they are."""
    assert with_changes(cost, [0.0] * 5).sentence.endswith(
        "too few random choices to tell if that is more than chance."
    )
    assert "no random masks to compare with" in with_changes(cost, []).sentence


def test_a_comparison_names_what_differs_and_what_reads_more():
    """Layers and experts beyond chance, then the bytes from equal caches."""
    found = compare({"a": sticky(1), "b": sticky(3, liking=5)}, permutations=99)
    many = len(found.experts())
    assert found.sentence.startswith("a and b are routed differently in 4 of 4 layers, most in")
    assert f"; {many} experts differ." in found.sentence
    alike = compare({"a": sticky(1), "b": sticky(2)}, permutations=99)
    assert alike.sentence.startswith("No layer routes a and b differently beyond chance.")
    three_runs = compare([sticky(1), sticky(2), sticky(3, liking=5)], permutations=99)
    assert three_runs.sentence.startswith("Of 3 runs, two differ most: ")
    frame = found.frame
    assert (
        len(frame) == 4 and frame.differs.all() and frame.js.tolist() == list(found.pairs[0, 1].js)
    )


def test_an_interval_that_reaches_0_has_a_note():
    """A layer beyond chance whose interval reaches 0 gets a note, and its whisker is not cut."""
    found = compare({"a": sticky(1), "b": sticky(3, liking=5)}, permutations=99)
    assert not any("reaches 0" in note for note in comparison_notes(found))
    pair = found.pairs[0, 1]
    wide = replace(pair, low=np.full(4, -0.0004), high=np.full(4, 0.25))
    found = replace(found, pairs={(0, 1): wide})
    assert "leaves open how much a layer differs; that it differs" in comparison_notes(found)[-1]
    assert "(0.000 to 0.250 bits above chance, 95 % interval)" in found.pair_text(0, 1)
    assert "<td>0.000 to 0.250</td>" in found._repr_html_()
    lowest = replace(wide, low=np.full(4, -0.1))
    lines = next(mark for mark in of_layers(lowest, "a and b").marks
                 if isinstance(mark, Line) and mark.role == "ink")  # fmt: skip
    assert max(line[:, 1].max() for line in lines.pieces) < BOTTOM


def test_a_comparison_of_short_runs_is_too_little():
    """Texts shorter than routing stays alike are no finding."""
    short = compare({"a": sticky(1, 3), "b": sticky(3, 3, liking=5)}, permutations=9)
    assert bool(short.pairs[0, 1].caution) == short.sentence.startswith("Too few tokens to tell")


def test_a_sweep_of_few_runs_is_too_little(swept):
    """Speed is not compared; the coherence of the answers is counted."""
    good = sum(row.verdict == "coherent" for row in swept.rows)
    assert swept.sentence.startswith("Too few runs to tell which setting is the fastest; ")
    assert f"{good} of 4 answers" in swept.sentence or "all 4 answers" in swept.sentence
    assert len(swept.frame) == 4


def test_a_sweep_of_enough_runs_names_the_fastest_or_none(swept):
    """Five runs a setting: the medians' ratio, unless the ranges overlap."""

    def timed(fast, slow):
        speeds = {1: fast, 2: slow}
        return replace(swept, rows=tuple(
            replace(row, repeat=at, tokens_per_second=speeds[row.setting["top_k"]][at])
            for row in swept.rows if row.prompt == 0 for at in range(5)
        ))  # fmt: skip

    clear = timed([30, 31, 32, 33, 34], [10, 11, 16, 13, 12])
    assert f"top_k=1 is the fastest: {three(32)} tokens/s, 2.7 × top_k=2" in clear.sentence
    vague = timed([30, 31, 32, 33, 34], [10, 11, 31, 13, 12])
    assert vague.sentence.startswith("No setting is clearly the fastest: the ranges of top_k=1")


@pytest.mark.parametrize("name", ["cost", "swept"])
def test_answers_fit_a_terminal_and_show_plain_numbers(name, request):
    """No line over 80 columns but a table's, no powers of ten, HTML that escapes and no script."""
    found = request.getfixturevalue(name)
    lines = repr(found).splitlines()
    assert max(map(len, lines)) <= 90 and "e-0" not in repr(found)
    page = found._repr_html_()
    assert "<script" not in page and "<details>" in page and "oj-sentence" in page
