"""Comparisons: the text agrees with the numbers, and noise gives no finding."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster

from outlier_jupyter import Run, compare, load, repeated
from outlier_jupyter.errors import OptionError
from outlier_jupyter.runs.spread import Spread
from outlier_jupyter.trace.equal_caches import replay_lru
from tests.notebook.conftest import build
from tests.trace.test_divergence import sticky

NONE = np.zeros(0, np.int32)


def test_runs_are_compared_under_their_names() -> None:
    """Every pair is compared, similar runs form a cluster, and only different runs are findings."""
    found = compare({"a": sticky(1), "b": sticky(2), "c": sticky(3, liking=5)}, permutations=99)
    assert list(found.pairs) == [(0, 1), (0, 2), (1, 2)]
    assert not len(found.divergence(0, 1).differing()) and not found.experts(0, 1)
    assert len(found.divergence(0, 2).differing()) == 4 and found.experts(0, 2)
    np.testing.assert_array_equal(found.matrix, found.matrix.T)
    groups = fcluster(found.clusters(), 2, "maxclust")
    assert groups[0] == groups[1] != groups[2]
    assert abs(found.order().index(0) - found.order().index(1)) == 1
    assert "no layer is routed differently beyond chance" in found.pair_text(0, 1)
    assert "4 of 4 layers are routed differently beyond chance" in found.pair_text(0, 2)


def test_the_experts_that_part_are_those_of_the_shares() -> None:
    """Shares are counted, p is at most the limit, and the smallest p comes first."""
    a, b = sticky(1), sticky(2, liking=5)
    rows = compare([a, b], permutations=99).experts()
    assert rows and all(row.p <= 0.05 for row in rows)
    assert [row.p for row in rows] == sorted(row.p for row in rows)
    for row in rows:
        for share, trace in ((row.first, a), (row.second, b)):
            ids = trace.experts[:, row.layer]
            assert share == pytest.approx((ids == row.expert).mean(), abs=1e-6)


def test_the_token_that_parts_is_named() -> None:
    """Tokens that chose experts which the other run rarely chooses lead the list."""
    a, b = sticky(1), sticky(2)
    a.experts[123] = b.experts[123] = -1
    rare = [
        int(np.bincount(b.experts[:, layer].ravel() + 1, minlength=17)[1:].argmin())
        for layer in range(4)
    ]
    a.experts[100:104, :, 0] = rare
    top = compare([a, b], permutations=9).tokens(limit=4)
    assert {row.step for row in top} == {100, 101, 102, 103}


def test_equal_caches_and_starting_caches() -> None:
    """Replays start from equal caches; a warning reports different starting caches."""
    a, b = build(steps=60, seed=1), build(steps=60, seed=2)
    warm = replace(b, resident_at_start=np.array([[0, 1], [1, 2]], np.int16))
    found = compare([warm, a], permutations=9)
    assert found.slots == 24
    assert found.cold == (replay_lru(warm, 24), replay_lru(a, 24))
    assert found.warm[1] == replay_lru(a, 24, [(0, 1), (1, 2)])
    assert [w.resident for w in found.starting_caches] == [2, 0]
    assert any("different caches" in message for message in found.warnings)
    assert not any(
        "different caches" in message for message in compare([a, a], permutations=9).warnings
    )


def test_domains_are_compared_by_experts() -> None:
    """Runs with one label are one domain, and experts depend on it; a single domain is refused."""
    runs = [sticky(1), sticky(2), sticky(3, liking=5)]
    found = compare(runs, domains=["prose", "prose", "code"], permutations=99)
    assert found.domains is not None
    words, divergences = found.domains
    assert words == ("prose", "code") and (divergences.q <= 0.05).all()
    assert any("texts" in message for message in found.warnings)
    with pytest.raises(OptionError, match="cannot be compared: give two"):
        compare(runs, domains=["prose"] * 3, permutations=9)
    with pytest.raises(OptionError, match="2 domains for 3 runs"):
        compare(runs, domains=["a", "b"], permutations=9)


def test_runs_that_cannot_be_compared_are_an_error() -> None:
    """One run, an invalid pair, or clusters of two runs are one sentence each."""
    with pytest.raises(OptionError, match="two or more"):
        compare([sticky(1)])
    found = compare([sticky(1), sticky(2)], permutations=9)
    with pytest.raises(OptionError, match="lower first"):
        found.divergence(1, 0)
    with pytest.raises(OptionError, match="3 or more"):
        found.clusters()


def test_real_runs_align_and_repeat() -> None:
    """Prompts and answers are aligned; repeats are kept; a text aligns with itself completely."""
    with load("demo", cache_experts=24) as engine:
        runs = [engine.generate("What is an expert?", max_tokens=12) for _ in range(3)]
        other = engine.generate("What is a cache?", max_tokens=12)
    last = repeated(runs)
    assert isinstance(last, Run) and last.text == runs[-1].text and last.repeats == tuple(runs)
    speeds = sorted(run.summary().tokens_per_second for run in runs)
    assert last.spread().tokens_per_second == (speeds[1], speeds[0], speeds[2])
    assert "3 runs" in str(last.spread()) and repeated(runs[:1]) is runs[0]
    found = compare({"expert": runs[0], "again": runs[1], "cache": other}, permutations=9)
    prompts, answers = found.aligned(0, 2)
    assert "".join(s.second for s in prompts) == other.prompt
    assert "".join(s.second for s in answers) == other.text
    assert [s for s in prompts if not s.same]
    assert all(s.same for text in found.aligned(0, 1) for s in text)
    np.testing.assert_allclose(found.divergence(0, 1).js, 0, atol=1e-12)


def test_a_spread_of_nothing_is_nan() -> None:
    """If no token was decoded, the speed is NaN."""
    spread = Spread.of(
        [
            build(steps=4, prompt=4)
            and Run("", "", "", np.zeros(0, np.int32), "stop", build(steps=4, prompt=4)).summary()
        ]
    )
    assert np.isnan(spread.tokens_per_second).all() and "–" in str(spread)


def test_a_comparison_shows_itself_as_html() -> None:
    """HTML has the texts with differences marked, findings and caches; escaped, no script."""
    one = Run("Say <b>one</b> word", "", "The answer is one.", NONE, "stop", sticky(1))
    other = replace(
        one, prompt="Say two words", text="The answer is two.", trace=sticky(3, liking=5)
    )
    found = compare({"one": one, "other<": other}, permutations=99)
    page = found._repr_html_()
    assert "<b>one</b> word" not in page and "&lt;" in page and "<script" not in page
    assert "other&lt;" in page and "other<" not in page
    own, other = re.findall(r'<span class="(oj-own[^"]*)"> (?:one|two)</span>', page)
    assert own.split()[0] == "oj-own" and other.split()[0] == "oj-own-2"
    assert "4 of 4 layers are routed differently beyond chance" in page
    for layer in range(4):
        assert f"<td>{layer}</td>" in page
    assert page.count("beyond chance</td>") == 4 and "Experts that differ" in page
    many = compare([sticky(seed) for seed in range(4)], permutations=9)._repr_html_()
    assert "All pairs" in many and "3 more pairs" in many
