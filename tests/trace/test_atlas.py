"""The atlas against a dense eigendecomposition and a planted structure."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from outlier_jupyter.errors import OptionError
from outlier_jupyter.trace import atlas as at
from outlier_jupyter.trace.routing_measures import choices
from tests.trace.test_divergence import sticky
from tests.trace.test_routing_measures import routed


def planted(steps: int = 240) -> tuple[np.ndarray, list[str]]:
    """Digits choose experts 0 to 3, words 4 to 7, and some of each choose any expert."""
    rng = np.random.default_rng(0)
    words = ["digit" if rng.random() < 0.4 else "word" for _ in range(steps)]
    out = np.zeros((steps, 3, 2), np.int64)
    for step, word in enumerate(words):
        for layer in range(3):
            pool = np.arange(8) if rng.random() < 0.1 else np.arange(4) + 4 * (word == "word")
            out[step, layer] = rng.permutation(pool)[:2]
    return out, words


def test_places_are_those_of_correspondence_analysis() -> None:
    """The places are the leading eigenvectors of the dense normalised co-activation."""
    trace = sticky(1, 150)
    found = at.atlas([trace])
    table = np.zeros((150, 4 * 16))
    for step in range(150):
        for layer in range(4):
            table[step, trace.experts[step, layer] + 16 * layer] = 1
    counts = choices(trace, np.zeros(150, int), 1)[0].ravel()
    mine = counts >= at.FEWEST
    table = table[:, mine]
    table = table[table.sum(axis=1) > 0]
    rows, columns = table.sum(axis=1), table.sum(axis=0)
    scaled = table / np.sqrt(rows)[:, None] / np.sqrt(columns)
    values, vectors = np.linalg.eigh(scaled.T @ scaled)
    assert values[-1] == pytest.approx(1)
    for axis in range(2):
        expected = vectors[:, -2 - axis] * np.sqrt(values[-2 - axis] / (columns / columns.sum()))
        same = found.place[:, axis] * np.sign(found.place[:, axis] @ expected)
        np.testing.assert_allclose(same, expected, atol=1e-6)
        share = values[-2 - axis] / (values.sum() - 1)
        assert found.share[axis] == pytest.approx(share)
    np.testing.assert_array_equal(found.fired, columns)
    assert found.left_out == ((counts > 0) & ~mine).sum()


def test_units_of_one_class_lie_together_and_are_coloured_by_it() -> None:
    """Planted groups separate on the first axis, and each unit has its group's class."""
    experts, words = planted()
    found = at.atlas([routed(experts, (8,) * 3)], [words])
    assert len(found.layer) == 24
    side = found.place[:, 0] > 0
    assert side[found.expert < 4].all() != side[found.expert >= 4].any()
    assert {found.label[i] for i in np.flatnonzero(found.expert < 4)} == {"digit"}
    assert {found.label[i] for i in np.flatnonzero(found.expert >= 4)} == {"word"}
    unit = 5
    mine = [
        w
        for w, e in zip(words, experts[:, found.layer[unit]], strict=True)
        if found.expert[unit] in e
    ]
    share = np.mean([w == found.label[unit] for w in mine])
    assert found.lift[unit] == pytest.approx(
        share / np.mean([w == found.label[unit] for w in words])
    )


def test_labels_dealt_by_chance_colour_hardly_any_unit() -> None:
    """When labels are independent of routing, no more units have a class than the false discovery
    rate allows.
    """
    rng = np.random.default_rng(3)
    trace = sticky(1, 400)
    coloured = [
        sum(
            label != at.NONE for label in at.atlas([trace], [rng.permutation(words).tolist()]).label
        )
        for words in [["a"] * 200 + ["b"] * 200] * 10
    ]
    assert scipy.stats.binomtest(sum(c > 0 for c in coloured), 10, 0.05).pvalue > 0.001


def test_one_index_in_two_layers_is_two_units() -> None:
    """Layers that use one index for opposite things are kept apart."""
    experts, words = planted()
    experts[:, 1] = (experts[:, 1] + 4) % 8
    found = at.atlas([routed(experts, (8,) * 3)], [words])
    where = {
        (int(a), int(b)): i for i, (a, b) in enumerate(zip(found.layer, found.expert, strict=True))
    }
    assert found.label[where[0, 0]] == "digit" and found.label[where[1, 0]] == "word"


SIGNS = {" 42": "digit", " the": "word", "é": "word", "\n\n": "whitespace", ",": "punctuation",
         " {": "code sign", "": "other", "\u2014": "other"}  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), SIGNS.items())
def test_a_token_has_the_class_of_its_first_sign(text: str, expected: str) -> None:
    """The first character that is not a space decides; an empty text is `other`."""
    assert at.token_class(text) == expected
    assert at.token_classes(np.array([7, 7]), lambda ids: text) == [expected] * 2


def test_too_few_tokens_are_an_error() -> None:
    """Few tokens, labels that do not fit, two models: one sentence each."""
    with pytest.raises(OptionError, match="too few"):
        at.atlas([sticky(1, 4)])
    with pytest.raises(OptionError, match="one label for each step"):
        at.atlas([sticky(1, 40)], [["a"]])
    with pytest.raises(OptionError, match="shows one model"):
        at.atlas([sticky(1, 40), sticky(1, 40, layers=3)])
