"""A run samples as the model's makers advise, says how, and can be repeated."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.generate import generate_step
from mlx_lm.sample_utils import make_logits_processors, make_sampler
from mlx_lm.utils import load as mlx_lm_load

import outlier_jupyter
from outlier_jupyter import Run, load
from outlier_jupyter.errors import CheckpointError, OptionError
from outlier_jupyter.options import GenerateOptions, make

PROMPT = "What is an expert, and what is an expert?"


@pytest.fixture
def advised(tiny: Path, tmp_path: Path) -> Callable[..., Path]:
    """Makes a copy of the tiny model with a generation_config.json."""

    def write(text: str | None = None, **content: object) -> Path:
        folder = shutil.copytree(tiny, tmp_path / "model", dirs_exist_ok=True)
        written = json.dumps(content) if text is None else text
        (folder / "generation_config.json").write_text(written)
        return folder

    return write


def test_the_makers_sampling_is_the_default_and_the_user_s_word_wins(advised):
    """Temperature, top-p, top-k … come from the file; what is given replaces it."""
    folder = advised(
        do_sample=True, temperature=0.6, top_p=0.95, top_k=20, min_p=0.05, repetition_penalty=1.1
    )
    with load(folder, cache_experts=5) as engine:
        assert engine.sampling == {
            "temperature": 0.6, "top_p": 0.95, "sample_top_k": 20, "min_p": 0.05,
            "repetition_penalty": 1.1,
        }  # fmt: skip
        served = engine.generate(PROMPT, max_tokens=3).trace.info.options
        assert {name: served[name] for name in engine.sampling} == engine.sampling
        mine = engine.generate(PROMPT, max_tokens=3, temperature=1.0, sample_top_k=0)
        options = mine.trace.info.options
        assert (options["temperature"], options["sample_top_k"], options["top_p"]) == (1.0, 0, 0.95)
        assert "temperature 0.6, min-p 0.05" not in str(engine.status().sentence)
        assert engine.status().sampling.startswith("temperature 0.6, top-p 0.95, min-p 0.05, top-k")


@pytest.mark.parametrize(
    ("content", "sampling"),
    [
        (
            {"do_sample": False, "temperature": 0.7, "top_p": 0.8},
            {"temperature": 0.0, "top_p": 0.8},
        ),
        ({"do_sample": True}, {"temperature": 1.0}),
        ({"temperature": 0.7, "top_k": -1}, {"temperature": 0.7}),
        ({"eos_token_id": 7, "_from_model_config": True}, {}),
        ({"temperature": None, "top_k": None}, {}),
    ],
)
def test_do_sample_says_whether_the_makers_sample(advised, content, sampling):
    """`do_sample: false` is greedy; true without a temperature is 1; nothing said is greedy."""
    with load(advised(**content), cache_experts=5) as engine:
        assert engine.sampling == sampling
        options = engine.generate(PROMPT, max_tokens=1).trace.info.options
        assert options["temperature"] == sampling.get("temperature", 0.0)


@pytest.mark.parametrize("ends", [7, [7, 9]])
def test_the_file_s_ends_end_a_run(advised, ends):
    """`eos_token_id` is an id or a list of ids."""
    with load(advised(eos_token_id=ends), cache_experts=5) as engine:
        assert engine.tokenizer.eos_token_ids >= ({7, 9} if ends == [7, 9] else {7})


@pytest.mark.parametrize(
    "content",
    [
        {"top_p": "high"}, {"temperature": -1}, {"top_k": 2.5}, {"min_p": [0.1]},
        {"eos_token_id": "<end>"}, {"eos_token_id": [1, None]}, {"eos_token_id": -1},
        {"eos_token_id": True}, {"repetition_penalty": 0},
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_ignored_with_a_warning(advised, content):
    """A value of the wrong kind changes nothing, and is named."""
    (key,) = content
    with pytest.warns(UserWarning, match=f"generation_config.json.* says {key}="):
        engine = load(advised(**content), cache_experts=5)
    with engine:
        assert engine.sampling == {}
        assert engine.generate(PROMPT, max_tokens=2).generated == 2


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", '"a"', "\udcff"])
def test_a_broken_file_is_one_sentence(advised, text):
    """What is no JSON object names the file and what to do."""
    folder = advised()
    (folder / "generation_config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(CheckpointError, match=r"generation_config\.json .*again") as refused:
        load(folder)
    assert len(str(refused.value)) <= 300


def test_a_drawn_seed_repeats_the_run(engine):
    """A run that samples without a seed draws one and records it; greedy needs none."""
    first = engine.generate(PROMPT, max_tokens=12, temperature=1.0)
    seed = first.trace.info.options["seed"]
    again = engine.generate(PROMPT, max_tokens=12, temperature=1.0, seed=seed)
    np.testing.assert_array_equal(first.tokens, again.tokens)
    assert f"seed {seed}" in repr(first) and f"seed {seed}" in first.sampling
    other = engine.generate(PROMPT, max_tokens=12, temperature=1.0)
    assert other.trace.info.options["seed"] != seed
    greedy = engine.generate(PROMPT, max_tokens=2)
    assert greedy.trace.info.options["seed"] is None
    assert greedy.sampling == "greedy" and "seed" not in repr(greedy)


@pytest.mark.parametrize(
    "options",
    [
        {"presence_penalty": 1.5},
        {"frequency_penalty": 0.7, "repetition_context": 8},
        {"repetition_penalty": 1.3, "presence_penalty": 0.5, "frequency_penalty": 0.5},
        {"logit_bias": {65: 4.0, 66: 4.5}},
        {"xtc_probability": 1.0, "xtc_threshold": 0.001, "temperature": 1.0, "seed": 3},
        {"min_p": 0.01, "sample_top_k": 40, "temperature": 1.0, "seed": 3},
    ],
)
def test_penalties_biases_and_xtc_are_mlx_lm_s(tiny, engine, options):
    """The same tokens as mlx-lm's own loop with its own processors and sampler."""
    model, tokenizer = mlx_lm_load(str(tiny))
    context = options.get("repetition_context", 20)
    bias = options.get("logit_bias")
    processors = make_logits_processors(
        bias, options.get("repetition_penalty"), context, options.get("presence_penalty"), context,
        options.get("frequency_penalty"), context,
    )  # fmt: skip
    sampler = make_sampler(
        options.get("temperature", 0.0), min_p=options.get("min_p", 0.0),
        top_k=options.get("sample_top_k", 0),
        xtc_probability=options.get("xtc_probability", 0.0),
        xtc_threshold=options.get("xtc_threshold", 0.1),
        xtc_special_tokens=tokenizer.encode("\n", add_special_tokens=False),
    )  # fmt: skip
    prompt = mx.array(tokenizer.encode(PROMPT))
    if "seed" in options:
        mx.random.seed(options["seed"])
    steps = generate_step(
        prompt, model, max_tokens=16, sampler=sampler, logits_processors=processors
    )
    expected = [int(token) for token, _ in steps]
    run = engine.generate(PROMPT, raw=True, max_tokens=16, **options)
    assert run.tokens.tolist() == expected


def test_penalties_count_the_prompt_that_a_kept_kv_cache_holds(engine):
    """A run that reuses a KV cache gives the tokens of one that reads the whole prompt."""
    options = {"raw": True, "max_tokens": 8, "frequency_penalty": 3.0, "repetition_context": 200}
    engine.generate(PROMPT, raw=True, max_tokens=1, reuse_kv=True)
    fresh = engine.generate(PROMPT + " Say", **options)
    reused = engine.generate(PROMPT + " Say", reuse_kv=True, **options)
    assert reused.trace.steps < fresh.trace.steps
    np.testing.assert_array_equal(reused.tokens, fresh.tokens)


def test_as_many_likeliest_tokens_as_there_are_restrict_nothing(engine):
    """`sample_top_k` of the vocabulary's size or more is as none, where mlx-lm raises."""
    options = {"max_tokens": 8, "temperature": 1.0, "seed": 5}
    every = engine.generate(PROMPT, **options)
    for top_k in (260, 100_000):
        same = engine.generate(PROMPT, sample_top_k=top_k, **options)
        np.testing.assert_array_equal(same.tokens, every.tokens)


def test_a_stop_token_ends_the_run_by_id_or_text(engine):
    """It counts as generated, and is not in the text."""
    whole = engine.generate(PROMPT, max_tokens=12)
    third = int(whole.tokens[2])
    assert third not in whole.tokens[:2]
    for name in (third, str(third), [third]):
        run = engine.generate(PROMPT, max_tokens=12, stop_tokens=name)
        assert (run.generated, run.finish_reason) == (3, "stop")
        np.testing.assert_array_equal(run.tokens, whole.tokens[:3])
    biased = engine.generate(PROMPT, max_tokens=9, logit_bias={"!": 1000.0}, stop_tokens="!")
    assert (biased.generated, biased.text) == (1, "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stop_tokens": 260}, "stop_tokens=260 is no token"),
        ({"stop_tokens": "no token"}, "stop_tokens='no token' is 8 tokens"),
        ({"stop_tokens": ""}, "stop_tokens='' is 0 tokens"),
        ({"logit_bias": {99_999: 1.0}}, "logit_bias=99999 is no token"),
        ({"logit_bias": ["42"]}, "logit_bias='42' cannot be used"),
        ({"logit_bias": {42: float("nan")}}, "logit_bias=nan cannot be used"),
        ({"logit_bias": "42=nan"}, "logit_bias='42=nan' cannot be used"),
        ({"logit_bias": {-1: 1.0}}, "logit_bias=-1 is too small"),
        ({"xtc_threshold": 0.7}, "xtc_threshold=0.7 is too large"),
        ({"logits_processors": 3}, "logits_processors=3 cannot be used"),
        ({"logits_processors": [max, "text"]}, "logits_processors='text' cannot be used"),
    ],
)
def test_what_is_no_token_or_function_is_refused(engine, options, message):
    """Before the run begins, in one sentence; MLX would write past the end of the logits."""
    with pytest.raises(OptionError, match=message) as refused:
        engine.generate(PROMPT, max_tokens=1, **options)
    assert len(str(refused.value)) <= 300


def test_a_prefilled_answer_begins_the_text_and_is_in_the_prompt(engine, tmp_path):
    """The model reads it after the template; the run's text begins with it, saved as well."""
    begin = "The answer is"
    run = engine.generate("Why?", prefill_answer=begin, max_tokens=5)
    plain = engine.generate("Why?", max_tokens=5)
    assert run.encoded == plain.encoded and run.prefilled == begin
    same = engine.generate(plain.encoded + begin, raw=True, max_tokens=5)
    np.testing.assert_array_equal(run.tokens, same.tokens)
    assert run.text == run.answer == begin + same.text
    known = run.segments[run.segments.kind == "answer"]
    assert known.tokens.tolist() == [len(begin), 5]
    assert [run.text_of(n) for n in range(1, 6)] == [same.text_of(n) for n in range(1, 6)]
    assert run.prompt == "Why?"
    loaded = Run.load(run.save(tmp_path / "run.trace"))
    assert (loaded.text, loaded.prefilled, loaded.text_of(1)) == (run.text, begin, run.text_of(1))


def test_a_prefilled_answer_comes_after_the_block_that_a_template_opens(real_checkpoint_of):
    """Where the template opens a block of thinking, it is closed: what is given is the answer."""
    with load(real_checkpoint_of("qwen3"), cache_experts=4) as engine:
        engine.tokenizer.chat_template = (
            "{{ messages[0].content }}{{ '<|im_start|>assistant\n<think>\n' }}"
        )
        run = engine.generate("Why?", prefill_answer="So", max_tokens=1)
    assert run.encoded.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert run.answer.startswith("So") and not run.thinking


def test_a_prefilled_answer_with_a_stop_word_is_refused(engine):
    """The error names the option that holds it."""
    with pytest.raises(OptionError, match="with prefill_answer the answer ends at a stop word"):
        engine.generate(PROMPT, prefill_answer="So. It", stop=".", max_tokens=4)


def test_a_user_s_own_processor_chooses_the_tokens(engine):
    """It gets all ids so far and the logits, and what it returns is sampled from."""
    lengths = []

    def only_a(tokens, logits):
        lengths.append(tokens.size)
        return mx.where(mx.arange(logits.shape[-1]) == 65, logits, -mx.inf)

    run = engine.generate(PROMPT, max_tokens=4, logits_processors=only_a)
    assert run.tokens.tolist() == [65] * 4
    prompt = len(run.trace.tokens) - 3
    assert lengths == [prompt, prompt + 1, prompt + 2, prompt + 3]
    assert run.trace.info.options["logits_processors"] == ("only_a",)
    assert "logits processor only_a" in run.trace.info.changed_output


@pytest.mark.parametrize(
    ("processor", "message"),
    [
        (lambda tokens, logits: 1 / 0, "raised ZeroDivisionError"),
        (lambda tokens, logits: logits[:, :5], r"returned shape \[1, 5\]"),
        (lambda tokens, logits: None, "returned None"),
        (lambda: None, "raised TypeError"),
        (lambda tokens, logits: logits * mx.nan, "no token can be chosen"),
        (lambda tokens, logits: logits - mx.inf, "no token can be chosen"),
        (lambda tokens, logits: logits.astype(mx.complex64), "array of floats of shape"),
        (lambda tokens, logits: logits > 0, "array of floats of shape"),
        (lambda tokens, logits: logits @ logits, "raised ValueError"),
    ],
)
def test_a_fault_of_a_processor_ends_the_run_and_not_the_engine(engine, processor, message):
    """One sentence, the partial run is kept, and the next run is as before."""
    before = engine.generate(PROMPT, max_tokens=4)
    with pytest.raises(OptionError, match=message) as refused:
        engine.generate(PROMPT, max_tokens=4, logits_processors=[processor])
    assert len(str(refused.value)) <= 300
    assert engine.last_run is not None and engine.last_run.finish_reason == "error"
    after = engine.generate(PROMPT, max_tokens=4)
    np.testing.assert_array_equal(after.tokens, before.tokens)


def test_what_is_sampled_with_is_no_change_but_a_bias_is(engine):
    """Temperature, top-p and penalties are ways to sample, as makers advise; a bias is a change."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain = engine.generate(
            PROMPT, max_tokens=2, temperature=0.5, top_p=0.9, presence_penalty=1
        )
        changed = engine.generate(PROMPT, max_tokens=2, logit_bias={65: 2})
    assert plain.trace.info.changed_output == ""
    assert changed.trace.info.changed_output == "a bias on 1 token"


def test_the_demo_is_greedy_by_its_own_word():
    """Its folder says so, which is shipped with the package."""
    with outlier_jupyter.load("demo", cache_experts=40) as engine:
        assert engine.sampling == {"temperature": 0.0}
        assert engine.status().sampling == "greedy"


def test_options_of_tokens_are_the_same_in_every_form():
    """Ids, their digits, and mappings or texts."""
    assert make(GenerateOptions, {"stop_tokens": [np.int32(3), "x"]}).stop_tokens == ("3", "x")
    assert make(GenerateOptions, {"logit_bias": {3: 1, "a=b": -2.5}}).logit_bias == (
        "3=1", "a=b=-2.5",
    )  # fmt: skip


@pytest.mark.parametrize(
    "options",
    [{"logit_bias": {5: 1e39}}, {"repetition_penalty": 1e-60}, {"presence_penalty": -1e39}],
)
def test_a_number_too_large_for_the_logits_is_no_damaged_model(engine, options):
    """The error is about the option, and the engine goes on."""
    with pytest.raises(OptionError, match="no token can be chosen"):
        engine.generate("Why?", max_tokens=2, **options)
    assert engine.generate("Why?", max_tokens=2).generated


def test_more_recent_tokens_than_there_are_penalise_all(engine):
    """Also a number that MLX cannot slice by."""
    options = {"repetition_penalty": 1.5, "max_tokens": 5}
    runs = [engine.generate("Why?", repetition_context=n, **options) for n in (10**6, 10**15)]
    np.testing.assert_array_equal(runs[0].tokens, runs[1].tokens)
