"""Several prompts at once: each prompt's run is that of its own, and what goes wrong is its own."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import outlier_jupyter
from outlier_jupyter.engine.shared_events import divided
from outlier_jupyter.errors import OptionError, ReadFailed, TraceError
from outlier_jupyter.events import Evicted, PagedIn, Routed, Waited
from outlier_jupyter.runs.many import ManyInterrupted, SomeFailed
from outlier_jupyter.testing import FaultyReader
from tests.inspection import reader_of, replace_reader

PROMPTS = ["ab", "What is an expert of the model, and why is it paged?", "Hello there", "x" * 90]
OPTIONS = {"max_tokens": 12, "raw": True}


def assert_same_run(one, other) -> None:
    """Same text and end, same experts and weights, and log-probabilities that differ by rounding.

    With MLX's kernels on a CPU they are equal bit for bit: a row's products and sums are computed
    in the same order, and padding only adds zeros. A GPU takes other kernels for several rows.
    """
    assert (one.text, one.finish_reason) == (other.text, other.finish_reason)
    np.testing.assert_array_equal(one.tokens, other.tokens)
    np.testing.assert_array_equal(
        np.sort(one.trace.experts, axis=-1), np.sort(other.trace.experts, axis=-1)
    )
    made = len(one.tokens)
    for name in ("weights", "logprobs"):
        mine, its = getattr(one.trace, name)[-made:], getattr(other.trace, name)[-made:]
        np.testing.assert_allclose(mine, its, rtol=0, atol=1e-4)


@pytest.mark.parametrize("slots", [4, 10, 24])
def test_each_prompt_s_run_is_that_of_its_own(tiny, slots):
    """With too few slots for all, with some, and with all resident; prompts join and leave."""
    with outlier_jupyter.load(tiny, cache_experts=slots) as engine:
        engine.tokenizer.eos_token_ids = set()
        own = [engine.generate(prompt, **OPTIONS) for prompt in PROMPTS]
        many = engine.generate_many(PROMPTS, at_once=3, **OPTIONS)
    assert not many.alone and not many.failed
    for one, other in zip(own, many, strict=True):
        assert_same_run(one, other)
        assert other.trace.info.options["at_once"] == 3


def test_the_demo_answers_many_as_it_answers_one():
    """The shipped model, a quarter cached."""
    prompts = ["What is a cache?", "Why is the sky blue?", "Hello", "How do I read a file?"]
    with outlier_jupyter.load("demo", cache_experts=48, quiet=True) as engine:
        own = [engine.generate(prompt, max_tokens=12) for prompt in prompts]
        for one, other in zip(own, engine.generate_many(prompts, max_tokens=12), strict=True):
            assert_same_run(one, other)


class FailsTogether:
    """MLX, but it evaluates nothing for several prompts at once."""

    def __getattr__(self, name: str) -> object:
        return getattr(mx, name)

    def eval(self, *_: object) -> None:
        """Refuse."""
        raise RuntimeError("not together")


@pytest.mark.parametrize("together", [True, False])
def test_each_prompt_has_its_own_options(engine, together, monkeypatch):
    """Seed, temperature, penalties, stop words and length are a prompt's own.

    Also where what they choose from cannot be evaluated together, and each is asked again.
    """
    if not together:
        monkeypatch.setattr("outlier_jupyter.engine.batch.mx", FailsTogether())
    each = [
        {"seed": 1, "temperature": 1.0}, {"seed": 2, "temperature": 0.7, "max_tokens": 5},
        {"repetition_penalty": 1.5}, {"stop": ("a", "e")},
    ]  # fmt: skip
    many = engine.generate_many(PROMPTS, each=each, **OPTIONS)
    for prompt, options, run in zip(PROMPTS, each, many, strict=True):
        assert_same_run(engine.generate(prompt, **OPTIONS | options), run)


def test_steps_come_as_they_are_decoded(engine):
    """Each step names its prompt; a prompt's steps are its tokens, in order."""
    steps = list(engine.stream_many(PROMPTS, **OPTIONS))
    first = [number for number, _ in steps[: len(PROMPTS)]]
    assert first == list(range(len(PROMPTS)))
    many = engine.generate_many(PROMPTS, **OPTIONS)
    for number, run in enumerate(many):
        assert [step.token for at, step in steps if at == number] == run.tokens.tolist()


def test_hits_and_bytes_are_counted_once(tiny):
    """In decode each read is one run's miss: all runs' misses together are the reads."""
    with outlier_jupyter.load(tiny, cache_experts=6) as engine:
        engine.tokenizer.eos_token_ids = set()
        many = engine.generate_many(["one text"] * 3, **OPTIONS)
        alone = engine.generate("one text", **OPTIONS)
    reads = [len(run.trace.reads[run.trace.reads["step"] >= 8]) for run in many]
    misses = [int((~run.trace.hits[8:]).sum()) for run in many]
    assert reads == misses
    own = len(alone.trace.reads[alone.trace.reads["step"] >= 8])
    assert sum(reads) < 2 * own  # the same text three times needs what one needs
    assert min(reads) > 0  # and is charged in turn


def test_a_bad_prompt_fails_alone(engine):
    """The others have their runs, and the error names the prompt."""
    with pytest.raises(SomeFailed, match="prompt 1") as raised:
        engine.generate_many(
            PROMPTS, each=[{}, {"stop_tokens": ("no such token",)}, {}, {}], **OPTIONS
        )
    runs = raised.value.runs
    assert runs.failed == [1] and [run is None for run in runs.runs] == [False, True, False, False]
    with pytest.raises(OptionError, match="no such token"):
        runs[1]
    assert_same_run(runs[2], engine.generate(PROMPTS[2], **OPTIONS))


def test_a_run_that_fails_on_its_way_leaves_the_others(engine):
    """A processor that raises at its fifth token ends its own run, which keeps its tokens."""

    def broken(tokens, logits):
        if len(tokens) >= len(PROMPTS[1].encode()) + 4:
            raise RuntimeError("broken")
        return logits

    with pytest.raises(SomeFailed) as raised:
        each = [{}, {"logits_processors": (broken,)}, {}, {}]
        engine.generate_many(PROMPTS, each=each, **OPTIONS)
    runs = raised.value.runs
    assert runs.failed == [1] and runs.runs[1].finish_reason == "error"
    assert 0 < runs.runs[1].generated < 12
    for number in (0, 2, 3):
        assert_same_run(runs[number], engine.generate(PROMPTS[number], **OPTIONS))


@pytest.mark.parametrize("at", [0, 40])
def test_a_failed_read_ends_only_the_prompts_that_need_it(tiny, at):
    """One read fails for good once; all prompts are made again alone, and most of them go on."""
    with outlier_jupyter.load(tiny, cache_experts=4, reader="pread") as engine:
        engine.tokenizer.eos_token_ids = set()
        own = [engine.generate(prompt, **OPTIONS) for prompt in PROMPTS]
        reader = reader_of(engine)
        faulty = FaultyReader(reader, lambda where: at < faulty.reads <= at + 2)
        replace_reader(engine, faulty)
        many = None
        try:
            many = engine.generate_many(PROMPTS, **OPTIONS)
        except SomeFailed as error:
            many = error.runs
            assert all(isinstance(many.errors[n], ReadFailed) for n in many.failed)
        assert len(many.failed) <= 1
        for number, one in enumerate(own):
            if number not in many.failed:
                assert_same_run(one, many[number])
        replace_reader(engine, reader)
        assert_same_run(engine.generate(PROMPTS[1], **OPTIONS), own[1])


def test_an_interrupt_keeps_all_runs(engine):
    """Those that ended are whole; the others have their tokens so far and are interrupted."""
    seen = []

    def stop(number, step):
        seen.append(number)
        if len(seen) == 20:
            engine.stop()

    with pytest.raises(ManyInterrupted) as raised:
        engine.generate_many(PROMPTS, each=[{"max_tokens": 2}, {}, {}, {}], on_step=stop, **OPTIONS)
    runs = raised.value.runs
    assert [run.finish_reason for run in runs] == ["length", *["interrupted"] * 3]
    for number, run in enumerate(runs):
        whole = engine.generate(PROMPTS[number], **OPTIONS)
        assert run.generated == seen.count(number)
        np.testing.assert_array_equal(run.tokens, whole.tokens[: run.generated])


def test_leaving_a_stream_ends_all_runs(engine):
    """The engine is free again, and no padding is announced to it."""
    steps = engine.stream_many(PROMPTS, **OPTIONS)
    next(steps)
    steps.close()
    assert engine.generate("ab", **OPTIONS).generated == 12


def test_what_cannot_be_shared_runs_one_after_the_other(engine):
    """With the reason; other routing makes a group of its own."""
    many = engine.generate_many(PROMPTS[:2], kv_bits=8, **OPTIONS)
    assert "quantised" in many.alone
    many = engine.generate_many(PROMPTS, each=[{}, {"mask": "0:1"}, {}, {"mask": "0:1"}], **OPTIONS)
    assert not many.alone
    for prompt, options, run in zip(PROMPTS, [{}, {"mask": "0:1"}] * 2, many, strict=True):
        assert_same_run(engine.generate(prompt, **OPTIONS | options), run)


def test_a_shared_run_says_what_its_trace_lacks(engine):
    """Others' reads are not in it: no token is explained, a replay is of the prompt by itself."""
    shared = engine.generate_many(PROMPTS[:2], **OPTIONS)[0]
    alone = engine.generate(PROMPTS[0], **OPTIONS)
    for refused in (shared.explain, shared.eviction_order):
        with pytest.raises(TraceError, match="run the prompt by itself"):
            refused(1)
    frame = shared.trace.what_if([4, 8])
    assert "the prompt by itself" in frame.attrs["note"] and frame.tokens_per_second.isna().all()
    assert alone.explain(1).ms > 0 and not alone.trace.shared


def test_what_is_no_list_of_prompts_is_refused(engine):
    """A single text, options that are no list, and none at once."""
    for prompts, more in (("text", {}), (PROMPTS, {"each": [{}]}), (PROMPTS, {"at_once": 0})):
        with pytest.raises(OptionError):
            engine.generate_many(prompts, **more)


ROWS, K, EXPERTS = 4, 2, 6


@given(st.data(), st.integers(0, 9))
def test_each_read_counts_for_one_run_that_chose_it(data, turn):
    """Whatever is chosen and resident: misses of all runs are the reads, each run's are its own."""
    ids = st.lists(st.integers(0, EXPERTS - 1), min_size=K, max_size=K, unique=True)
    chosen = np.array(data.draw(st.lists(ids, min_size=ROWS, max_size=ROWS)), np.int32)
    resident = data.draw(st.sets(st.integers(0, EXPERTS - 1)))
    missing = sorted(set(chosen.ravel().tolist()) - resident)
    hits = ~np.isin(chosen, missing)
    events = [Routed(0, chosen, hits, 1, 1)]
    events += [Evicted(0, 9, 0, 0, expert) for expert in missing]
    events += [PagedIn(0, expert, 0, 10, 0, 1) for expert in missing] + [Waited(0, 5, 6)]
    runs = divided(events, [slice(i, i + 1) for i in range(ROWS)], turn)
    read = [[e.expert for e in run if isinstance(e, PagedIn)] for run in runs]
    missed = [sorted(run[0].experts[~run[0].hits].tolist()) for run in runs]
    assert [sorted(each) for each in read] == missed
    assert sorted(expert for mine in read for expert in mine) == missing
    for row, (run, mine) in enumerate(zip(runs, read, strict=True)):
        np.testing.assert_array_equal(run[0].experts, chosen[row : row + 1])
        assert [e.by_expert for e in run if isinstance(e, Evicted)] == mine
        assert [e for e in run if isinstance(e, Waited)] == [Waited(0, 5, 6)]
