"""The cost of masking experts equals that of the unpaged model, and is compared with chance."""

from __future__ import annotations

import re
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm import load as load_unpaged
from scipy.special import log_softmax

from outlier_jupyter import ablate
from outlier_jupyter.errors import OptionError
from outlier_jupyter.studies.scoring import Scorer

PROMPTS = {"code": "def f(x):", "words": "hello there"}
CONTINUATIONS = ["\n    return g(x)", ", and good bye"]
MASKED = ["0:1-2", "2:5"]


@pytest.fixture(scope="module")
def found(engine):
    """Three experts of two layers masked, against nine random masks."""
    return ablate(engine, PROMPTS, MASKED, continuations=CONTINUATIONS, draws=9, seed=3, quiet=True)


def unpaged(folder, masks, tokens, first) -> np.ndarray:
    """float64 log-probabilities [tokens scored, vocabulary] of mlx-lm's model, experts masked."""
    model, _ = load_unpaged(str(folder))
    for layer, experts in masks.items():
        gate = model.model.layers[layer].mlp.gate
        far = mx.zeros(8).at[mx.array(experts)].add(-30_000)
        kind = type(gate)
        gate.__class__ = type(
            "Masked", (kind,),
            {"__call__": lambda self, x, kind=kind, far=far: kind.__call__(self, x) + far},
        )  # fmt: skip
    logits = model(mx.array([tokens[:-1]]))[0, first - 1 :].astype(mx.float32)
    return log_softmax(np.array(logits, np.float64), axis=-1)


def ids(engine, prompt, continuation) -> tuple[list[int], int]:
    tokenizer = engine.tokenizer
    message = [{"role": "user", "content": prompt}]
    text = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    before = list(tokenizer.encode(text, add_special_tokens=False))
    return before + list(tokenizer.encode(continuation, add_special_tokens=False)), len(before)


def test_changes_and_divergences_are_those_of_the_unpaged_model(found, engine, tiny):
    """Log-probability, KL and agreement per token, for the masked experts and a random mask."""
    for at, (prompt, continuation) in enumerate(zip(PROMPTS.values(), CONTINUATIONS, strict=True)):
        tokens, first = ids(engine, prompt, continuation)
        exact = unpaged(tiny, {}, tokens, first)
        own = np.arange(len(exact)), tokens[first:]
        for masks, change, kl in (
            ({0: [1, 2], 2: [5]}, found.change[at], found.kl[at]),
            (as_layers(found.masks[4]), *found.random[4, at]),
        ):
            other = unpaged(tiny, masks, tokens, first)
            changes = (other - exact)[own]
            divergences = (np.exp(exact) * (exact - other)).sum(1)
            if np.ndim(change) == 0:  # random masks keep only the means
                changes, divergences = changes.mean(), divergences.mean()
            np.testing.assert_allclose(change, changes, rtol=1e-3, atol=1e-4)
            np.testing.assert_allclose(kl, divergences, rtol=1e-3, atol=1e-5)
            if np.ndim(kl):
                agrees = exact.argmax(1) == other.argmax(1)
                np.testing.assert_array_equal(found.agrees[at], agrees)
    assert found.kl[0].mean() > 0


def as_layers(mask) -> dict[int, list[int]]:
    layers: dict[int, list[int]] = {}
    for layer, expert in mask:
        layers.setdefault(layer, []).append(expert)
    return layers


def test_random_masks_are_of_equal_size_in_the_same_layers(found, engine):
    """Each has two of layer 0 and one of layer 2; the same seed repeats them, another does not."""
    assert len(found.masks) == 9
    for mask in found.masks:
        assert {layer: len(set(e)) for layer, e in as_layers(mask).items()} == {0: 2, 2: 1}
    options = {"continuations": CONTINUATIONS, "draws": 4, "quiet": True}
    again = ablate(engine, PROMPTS, [(0, 1), (0, 2), (2, 5)], seed=3, **options)
    other = ablate(engine, PROMPTS, MASKED, seed=4, **options)
    assert again.masks == found.masks[:4] != other.masks
    np.testing.assert_array_equal(again.random, found.random[:4])


def test_chance_is_an_interval_and_a_rank(found):
    """Quantiles and the share of masks that cost as much, over all prompts and per prompt."""
    weights = found.tokens / found.tokens.sum()
    chance = found.random[:, :, 1] @ weights
    np.testing.assert_allclose(found.by_chance("kl"), chance)
    assert found.interval("kl") == pytest.approx((chance.min(), chance.max()))  # 8 of 9 are 89 %
    assert found.p("kl") == (1 + (chance >= found.mean("kl")).sum()) / 10
    worse = (found.random[:, 1, 0] <= found.change[1].mean()).sum()
    assert found.p("change", 1) == (1 + worse) / 10
    words = " ".join(repr(found).split())
    assert found.caution.startswith("too few to tell: with 9 random masks p cannot be less than")
    title = " ".join(re.sub("<[^>]*>", " ", found.figure().layout.title.text).split())
    assert found.caution in words and found.caution in title
    assert "experts 0:1, 0:2, 2:5" in words and "all " in words and "9 random masks" in words


def test_the_table_has_each_mask_and_each_token(found):
    """The table has a row per prompt and mask, or per token."""
    masks, tokens = found.to_pandas(), found.to_pandas("tokens")
    assert len(masks) == 2 * 10 and set(masks["mask"]) == {
        "asked",
        *map("random {}".format, range(9)),
    }
    assert len(tokens) == found.tokens.sum()
    options = masks[masks["mask"] == "asked"]
    for name, kl in tokens.groupby("prompt")["kl"].mean().items():
        assert options.set_index("prompt")["kl"][name] == pytest.approx(kl)
    with pytest.raises(OptionError, match="masks or tokens"):
        found.to_pandas("rows")


def test_enough_random_masks_need_no_caution(found):
    """From 19 masks p can be 0.05; the interval contains 95 % of them, and few more."""
    many = replace(
        found, masks=found.masks * 12, random=np.random.default_rng(0).random((108, 2, 2))
    )
    assert not many.caution and "oo few" not in repr(many)
    low, high = many.interval("kl")
    inside = (many.by_chance("kl") >= low) & (many.by_chance("kl") <= high)
    assert 0.95 <= inside.mean() < 0.98


def test_random_masks_among_what_the_texts_use(engine):
    """A token of the text chose each drawn expert, as a run of the text shows."""
    found = ablate(engine, "hello there", "0:1", draws=12, among="used", max_tokens=6, quiet=True)
    run = engine.generate("hello there", max_tokens=6)
    used = set(run.trace.experts[:, 0].ravel().tolist())
    drawn = {expert for mask in found.masks for _, expert in mask}
    assert drawn <= used and len(drawn) > 1
    assert found.continuations == (run.text,) and found.tokens.tolist() == [run.generated]


def test_stopped_it_keeps_the_masks_that_were_scored(engine, monkeypatch):
    """Ctrl-C keeps the complete random masks, and the text gives their number."""
    calls = []
    real = Scorer.scores

    def stops(self, **routing):
        calls.append(routing)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return real(self, **routing)

    monkeypatch.setattr(Scorer, "scores", stops)
    found = ablate(engine, PROMPTS, "0:1", continuations=CONTINUATIONS, draws=9, quiet=True)
    assert len(found.random) == len(found.masks) == 1
    assert "stopped: 9 were requested" in " ".join(repr(found).split())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"experts": []}, "no experts were given"),
        ({"experts": "9:1"}, "the last one is 2:7"),
        ({"experts": "0:0-6"}, "mask fewer"),
        ({"experts": "0:1", "among": "some"}, "choose all or used"),
        ({"experts": "0:1", "continuations": ["a", "b"]}, "give one for each"),
        ({"experts": "0:1", "continuations": [""]}, "cannot be scored"),
    ],
)
def test_what_cannot_be_is_one_sentence(engine, options, message):
    """One sentence refuses it before anything is run."""
    with pytest.raises(OptionError, match=message):
        ablate(engine, "hello", **options, quiet=True)


def test_the_figure_shows_what_was_found_and_needs_no_colour(found):
    """The masked experts, each random mask, and the interval have different symbols."""
    figure = found.figure()
    options = [part for part in figure.data if part.name == "the masked experts"]
    for part, what in zip(options, ("change", "kl"), strict=True):
        wanted = [found.mean(what, prompt) for prompt in (0, 1, None)]
        np.testing.assert_allclose(part.x, wanted)
        assert part.marker.symbol == "diamond"
    rings = [part for part in figure.data if part.name == "a random mask"]
    assert len(rings) == 6 and {part.marker.symbol for part in rings} == {"circle-open"}
    assert "nats per token" in figure.layout.xaxis.title.text
    assert "Masking experts 0:1, 0:2, 2:5" in figure.layout.title.text
