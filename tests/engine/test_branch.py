"""A run goes on from one of its tokens with another in its place, as a new run."""

from __future__ import annotations

import copy
import gc
import weakref

import numpy as np
import pytest
from mlx_lm import stream_generate

import outlier_jupyter
from outlier_jupyter import Run
from outlier_jupyter.errors import EngineClosed, OptionError, OutlierError
from outlier_jupyter.trace.segments import ANSWER

PROMPT = "What is an expert?"
OPTIONS = {"max_tokens": 8}
ANSWERING = {"thinking": "off", **OPTIONS}
"""For the demo model, whose first tokens are else the tags of a thought."""


@pytest.fixture(scope="module")
def engine():
    """The demo model, which writes text; the tiny ones write parts of characters."""
    with outlier_jupyter.load("demo", cache_experts=40, quiet=True) as engine:
        yield engine


@pytest.fixture(scope="module")
def run(engine):
    return engine.generate(PROMPT, **ANSWERING)


def same(one: Run, other: Run) -> None:
    """Two runs sampled the same tokens with the same probabilities, from the same text on."""
    assert (one.text, one.prefilled) == (other.text, other.prefilled)
    assert one.tokens.tolist() == other.tokens.tolist()
    frames = one.tokens(), other.tokens()
    np.testing.assert_allclose(frames[0].logprob, frames[1].logprob, rtol=1e-4, atol=1e-4)


def test_it_keeps_what_was_before_and_goes_on_from_the_choice(engine, run):
    """The model reads prompt, kept tokens and choice, and the text begins with those kept."""
    chosen = int(run.trace.alternatives[run.step_of(4)][2])
    new = run.branch(4, chosen)
    kept = [*run.tokens[:3].tolist(), chosen]
    prompt = run.trace.tokens[run.trace.phase == 0].tolist()
    assert new.trace.tokens[new.trace.phase == 0].tolist() == prompt + kept
    direct = stream_generate(engine.model, engine.tokenizer, prompt + kept, max_tokens=8)
    assert new.tokens.tolist() == [each.token for each in direct]
    assert new.text.startswith(new.prefilled) and new.text != run.text
    assert new.text == engine.tokenizer.decode([*kept, *new.tokens.tolist()])
    assert new.prompt == run.prompt and new.encoded == run.encoded
    assert "".join(new.text_of(token) for token in range(1, 9)) == new.text[len(new.prefilled) :]


def test_it_says_where_it_branched(engine, run):
    """In a field, and as a reason why the output is not the model's own."""
    new = run.branch(4, rank=3)
    assert new.branched.token == 4 and new.branched.text == run.piece(new.branched.chosen)
    assert new.trace.info.changed_output == str(new.branched)
    assert str(new.branched).startswith("branched at token 4 with “")
    assert run.branched is None and not run.trace.info.changed_output


def test_the_same_token_again_gives_the_same_run(run):
    """Greedy, a branch that changes nothing ends as the run did, or later."""
    again = run.branch(3, int(run.tokens[2]), max_tokens=5)
    assert again.text == run.text and again.tokens.tolist() == run.tokens[3:].tolist()
    last = run.branch(-1, int(run.tokens[-1]), max_tokens=2)
    assert last.prefilled == run.text and last.branched.token == 8


def test_a_token_is_chosen_by_id_text_or_rank(engine, run):
    """All ways name the same token; a text that is no alternative may be any single token."""
    ids = run.trace.alternatives[run.step_of(2)].tolist()
    by_id = run.branch(2, ids[1])
    same(run.branch(2, np.int32(ids[1])), by_id)
    same(run.branch(2, rank=2), by_id)
    same(run.branch(2, run.piece(ids[1])), by_id)
    other = next(iter(engine.tokenizer.encode("x", add_special_tokens=False)))
    assert other not in ids and run.branch(2, "x").branched.chosen == other


def test_a_kept_kv_cache_is_reused(engine):
    """With `reuse_kv` only what is new is read, also by a second branch; tokens are the same."""
    prompt = "What does a router choose?"
    plain = engine.generate(prompt, **ANSWERING)
    first = engine.generate(prompt, reuse_kv=True, **ANSWERING)
    assert len(first.reused) < len(prompt)
    new, plain = first.branch(5, rank=2), engine.branch(plain, 5, rank=2, reuse_kv=False)
    same(new, plain)
    assert int((new.trace.phase == 0).sum()) == 1
    read = plain.trace.tokens[plain.trace.phase == 0].tolist()
    assert new.reused.tolist() == read[:-1] and not len(plain.reused)
    assert new.trace.tokens[0] == new.branched.chosen
    assert int((new.branch(2, rank=2).trace.phase == 0).sum()) == 1


def test_a_branch_can_be_branched(engine, run):
    """Its tokens are numbered from 1 again, and all that was kept stays."""
    first = run.branch(3, rank=2)
    second = first.branch(2, rank=2)
    assert second.prefilled.startswith(first.prefilled)
    assert second.prefilled == first.prefilled + first.text_of(1) + second.branched.text
    assert second.text == engine.tokenizer.decode(
        [
            *run.tokens[:2].tolist(), first.branched.chosen,
            *first.tokens[:1].tolist(), second.branched.chosen, *second.tokens.tolist(),
        ]
    )  # fmt: skip


def test_every_token_has_its_kind(run):
    """What was kept is the answer's, as what follows."""
    new = run.branch(4, rank=2, reuse_kv=False)
    trace, prompt = new.trace, int((run.trace.phase == 0).sum())
    assert len(trace.kinds) == trace.steps + 1
    assert trace.kinds[:prompt].tolist() == run.trace.kinds[:prompt].tolist()
    assert set(trace.kinds[prompt:-1].tolist()) == {ANSWER}
    assert new.answer == new.text


def test_options_stay_unless_others_are_given(engine):
    """Sampling, seed and alternatives are the run's; one named differently is used."""
    run = engine.generate(PROMPT, temperature=0.8, seed=5, alternatives=2, **ANSWERING)
    new = run.branch(2, rank=2)
    kept = ("temperature", "seed", "alternatives", "max_tokens", "raw")
    assert all(new.trace.info.options[n] == run.trace.info.options[n] for n in kept)
    same(run.branch(2, rank=2), new)
    assert run.branch(2, rank=2, max_tokens=3).generated == 3
    with pytest.raises(OptionError, match="no option 'max_token'"):
        run.branch(2, rank=2, max_token=3)


def test_a_saved_run_needs_an_engine(engine, run, tmp_path):
    """It says so in one sentence, and any engine of its model can branch it, also a reused one."""
    loaded = Run.load(run.save(tmp_path / "run.safetensors"))
    with pytest.raises(OptionError, match=r"engine\.branch\(run"):
        loaded.branch(2, rank=2)
    with pytest.raises(OptionError, match=r"engine\.branch\(run"):
        copy.deepcopy(run.branch(2, rank=2)).branch(1, rank=2)
    new = engine.branch(loaded, 2, rank=2)
    same(new, run.branch(2, rank=2))
    again = Run.load(new.save(tmp_path / "new.safetensors"))
    assert again.branched == new.branched and again.prefilled == new.prefilled
    assert [again.text_of(t) for t in (1, 2, 8)] == [new.text_of(t) for t in (1, 2, 8)]
    engine.generate(PROMPT, reuse_kv=True, **ANSWERING)
    reused = engine.generate(PROMPT, reuse_kv=True, **ANSWERING)
    assert len(reused.reused) == (run.trace.phase == 0).sum() - 1
    same(
        engine.branch(Run.load(reused.save(tmp_path / "reused.safetensors")), 2, rank=2),
        run.branch(2, rank=2),
    )


@pytest.mark.parametrize("reuse", [False, True])
def test_a_saved_run_s_beginning_stays(engine, run, tmp_path, reuse):
    """Of a loaded branch, or run with a prefilled answer: its own branch has it."""
    whole = engine.generate(PROMPT, prefill_answer="Sé", reuse_kv=reuse, **ANSWERING)
    for each in (run.branch(3, rank=2, reuse_kv=reuse), whole):
        loaded = Run.load(each.save(tmp_path / "run.safetensors"))
        new, direct = (engine.branch(one, 2, rank=2, reuse_kv=reuse) for one in (loaded, each))
        assert direct.prefilled.startswith(each.prefilled)
        same(new, direct)
        assert new.answer == direct.answer and new.spans == direct.spans


@pytest.mark.parametrize(
    ("token", "choice", "message"),
    [
        (0, {"choose": 5}, "no token 0"),
        (9, {"choose": 5}, "no token 9"),
        ("x", {"choose": 5}, "type int"),
        (2, {}, "in one way"),
        (2, {"choose": 5, "rank": 1}, "in one way"),
        (2, {"rank": 6}, "5 alternatives"),
        (2, {"rank": 0}, "5 alternatives"),
        (2, {"choose": 10**6}, "is no token"),
        (2, {"choose": -1}, "is no token"),
        (2, {"choose": 1.5}, "type int"),
        (2, {"choose": ""}, "no single token"),
        (2, {"choose": "two tokens"}, "no single token"),
    ],
)
def test_what_cannot_be_chosen_is_refused_in_one_sentence(run, token, choice, message):
    """Each error names what was given and what there is."""
    with pytest.raises(OptionError, match=message) as caught:
        run.branch(token, **choice)
    assert len(str(caught.value)) <= 300


def test_an_end_is_nothing_to_go_on_with(engine, run):
    """Neither an end of turn nor a stop word that the choice completes."""
    end = next(iter(engine.tokenizer.eos_token_ids))
    with pytest.raises(OptionError, match="ends the answer"):
        run.branch(2, end)
    other = run.piece(int(run.trace.alternatives[run.step_of(2)][1]))
    with pytest.raises(OptionError, match="stop word"):
        run.branch(2, rank=2, stop=run.text_of(1) + other)
    assert engine.generate(PROMPT, **ANSWERING).tokens.tolist() == run.tokens.tolist()


def test_another_model_s_run_is_refused(engine, checkpoint_of):
    """The error names the model that the run is of."""
    with outlier_jupyter.load(checkpoint_of(), cache_experts=10) as other:
        foreign = other.generate(PROMPT, **OPTIONS)
    with pytest.raises(OptionError, match=r"another model or adapter .*no adapter"):
        engine.branch(foreign, 1, rank=2)
    with pytest.raises(OptionError, match="give a run"):
        engine.branch("run", 1, rank=2)
    with pytest.raises(EngineClosed):
        foreign.branch(1, rank=2)


def test_a_run_keeps_no_engine_in_memory(tiny):
    """An engine that nobody holds is freed, and its run says that it is gone."""
    engine = outlier_jupyter.load(tiny, cache_experts=4)
    run, gone = engine.generate(PROMPT, **OPTIONS), weakref.ref(engine)
    engine.close()
    del engine
    gc.collect()
    assert gone() is None
    with pytest.raises(OutlierError, match="no engine"):
        run.branch(1, rank=2)
