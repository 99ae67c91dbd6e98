"""Variants of a prompt: which there are, and what their table says of each."""

from __future__ import annotations

import numpy as np
import pytest

from outlier_jupyter import variants
from outlier_jupyter.errors import OptionError
from outlier_jupyter.studies.variants import combinations_of, filled

PROMPT = "Say {n} things about {what}."
OPTIONS = {"max_tokens": 10, "raw": True}


def test_fields_are_crossed_or_taken_side_by_side():
    """`vary` gives every combination, `each` goes through its lists together."""
    fields, values = combinations_of({"a": [1, 2]}, {"b": ["xy"], "c": ["xy"]})
    assert fields == ("a", "b", "c") and values == ((1, "xy", "xy"), (2, "xy", "xy"))
    fields, values = combinations_of({}, {"b": [1, 2], "c": [3, 4]})
    assert values == ((1, 3), (2, 4))


@pytest.mark.parametrize(
    ("vary", "each"),
    [({}, {}), ({"a": []}, {}), ({"a": [1]}, {"a": [2]}), ({}, {"a": [1], "b": [1, 2]}),
     ({"a": "text"}, {})],
)  # fmt: skip
def test_values_that_make_no_variants_are_refused(vary, each):
    """Nothing to vary, no values, a field twice, lists of different lengths, a text."""
    with pytest.raises(OptionError):
        combinations_of(vary, each)


def test_a_field_without_values_is_named():
    """And braces that do not match are one sentence."""
    with pytest.raises(OptionError, match="'what'"):
        filled(PROMPT, {"n": 1})
    with pytest.raises(OptionError, match="braces"):
        filled("{n", {"n": 1})


def test_each_variant_s_row_is_that_of_its_own_run(engine):
    """Text, tokens and the wanted answer's likelihood; the first has no distance."""
    found = variants(engine, PROMPT, {"n": [1, 22], "what": ["it"]}, wanted="ab", **OPTIONS)
    frame = found.frame
    assert len(found) == 2 and frame.n.tolist() == [1, 22]
    for number, prompt in enumerate(found.prompts):
        alone = engine.generate(prompt, **OPTIONS)
        assert frame.text[number] == alone.text == found[number].text
        scored = engine.generate(
            prompt, prefill_answer="ab", score_prompt=True, **OPTIONS | {"max_tokens": 1}
        )
        logprobs = scored.trace.logprobs[len(prompt) - 1 : len(prompt) + 1]  # a byte is a token
        np.testing.assert_allclose(frame.logprob[number], logprobs.sum(), atol=1e-4)
    assert np.isnan(frame.distance[0]) and np.isfinite(frame.distance[1])
    assert "2 variants" in repr(found) and "n=22" in found._repr_html_()


def test_a_table_is_sorted_by_any_column(engine):
    """With its runs; an unknown column is refused."""
    found = variants(engine, PROMPT, {"n": [1, 2, 3]}, each={"what": ["it"]}, **OPTIONS)
    turned = found.sort("n", descending=True)
    assert turned.frame.n.tolist() == [3, 2, 1] and turned[0] is found[2]
    with pytest.raises(OptionError, match="nothing"):
        found.sort("nothing")


def test_a_variant_that_fails_leaves_the_others(engine):
    """Its row has the error in place of its text; all that fail are an error."""
    begin = engine.tokenizer.encode("Say 2")

    def broken(tokens, logits):
        if tokens[:5].tolist() == begin:
            raise RuntimeError("broken")
        return logits

    more = OPTIONS | {"logits_processors": [broken]}
    found = variants(engine, PROMPT, {"n": [1, 2], "what": ["it"]}, **more)
    assert found.runs.failed == [1] and "broken" in found.frame.error[1]
    assert found[0].generated == 10
    with pytest.raises(OptionError, match="broken"):
        variants(engine, PROMPT, {"n": [2], "what": ["it", "her"]}, **more)
