"""The engine's public interface: generate, stream, stop, chat, options, and every way to end."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm import load as load_unpaged
from mlx_lm import stream_generate
from mlx_lm.sample_utils import make_logits_processors, make_sampler

import outlier_jupyter
from outlier_jupyter.errors import EngineBusy, ModelNotFound, OptionError, OutlierError
from outlier_jupyter.runs.run import Interrupted
from outlier_jupyter.testing import EventLog

PROMPT = "What is an expert?"


@pytest.fixture(scope="module")
def engine(tiny):
    with outlier_jupyter.load(tiny, cache_experts=5) as engine:
        yield engine


@pytest.fixture(scope="module")
def unpaged(tiny):
    return load_unpaged(str(tiny))


def unpaged_tokens(unpaged, text: str, count: int, **options) -> list[int]:
    """What mlx-lm generates, one token at a time."""
    model, tokenizer = unpaged
    prompt = tokenizer.encode(text, add_special_tokens=False)
    return [r.token for r in stream_generate(model, tokenizer, prompt, count, **options)][:count]


def test_greedy_text_is_mlx_lm_s_text(engine, unpaged):
    """The same prompt gives mlx-lm's own tokens, through mlx-lm's chat template."""
    run = engine.generate(PROMPT, max_tokens=20)
    assert run.encoded == f"<|im_start|>user\n{PROMPT}<|im_end|>\n<|im_start|>assistant\n"
    assert run.tokens.tolist() == unpaged_tokens(unpaged, run.encoded, 20)
    assert run.finish_reason == "length" and run.generated == 20


def test_sampling_and_penalties_are_mlx_lm_s(engine, unpaged):
    """With a seed, temperature, top-p and a repetition penalty the tokens are mlx-lm's."""
    run = engine.generate(
        PROMPT, max_tokens=12, raw=True, temperature=0.8, top_p=0.9, repetition_penalty=1.3, seed=7
    )
    mx.random.seed(7)
    expected = unpaged_tokens(
        unpaged, PROMPT, 12,
        sampler=make_sampler(0.8, top_p=0.9),
        logits_processors=make_logits_processors(None, 1.3, 20),
    )  # fmt: skip
    assert run.tokens.tolist() == expected
    assert engine.generate(PROMPT, max_tokens=12, raw=True, temperature=0.8, top_p=0.9,
                           repetition_penalty=1.3, seed=7).text == run.text  # fmt: skip


@pytest.mark.parametrize("chunk", [1, 5, 64])
def test_prompts_of_any_length_and_chunk_give_the_same_trace_shape(engine, chunk):
    """A long prompt is read in chunks of any size, and every token has its routing."""
    run = engine.generate("abc " * 30, max_tokens=2, raw=True, prefill_chunk=chunk)
    trace = run.trace
    assert trace.tokens.tolist()[:4] == engine.tokenizer.encode("abc ")
    assert (trace.phase == 0).sum() == 120 and (trace.phase == 1).sum() == 1
    assert trace.experts.shape == (121, 3, 2) and (trace.experts >= 0).all()
    assert not np.isnan(trace.weights).any()
    assert np.allclose(trace.weights.sum(axis=2), 1, atol=1e-5)


def test_streaming_yields_each_token_and_the_same_text(engine):
    """Steps carry token, text, time, hits, misses, bytes and choices, as the trace has them."""
    steps = list(engine.stream(PROMPT, max_tokens=9))
    run = engine.last_run
    assert "".join(step.text for step in steps) == run.text
    assert [step.token for step in steps] == run.tokens.tolist()
    assert [step.finish_reason for step in steps] == [None] * 8 + ["length"]
    decoded = run.trace.phase == 1
    choices = np.stack([step.experts for step in steps])
    np.testing.assert_array_equal(choices, run.trace.experts[-len(steps) :])
    assert sum(s.hits + s.misses for s in steps[1:]) == decoded.sum() * 3 * 2
    assert sum(s.nbytes for s in steps[1:]) == run.trace.reads["nbytes"][
        decoded[run.trace.reads["step"]]].sum()  # fmt: skip


def test_messages_and_a_system_message_go_through_the_template(engine):
    """A conversation is encoded by the chat template."""
    run = engine.generate(
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
         {"role": "user", "content": "c"}],
        max_tokens=1, system="s",
    )  # fmt: skip
    roles = [line.removeprefix("<|im_start|>") for line in run.encoded.splitlines()[::2]]
    assert roles == ["system", "user", "assistant", "user", "assistant"]
    assert run.prompt == "user: a\nassistant: b\nuser: c"


def test_a_stop_word_ends_the_run_and_is_not_in_the_text(engine):
    """The text ends before the stop word, even when the word spans tokens."""
    whole = engine.generate(PROMPT, max_tokens=20, raw=True).text
    word = whole[6:9]
    run = engine.generate(PROMPT, max_tokens=20, raw=True, stop=(word,))
    assert run.finish_reason == "stop"
    assert run.text == whole[: whole.index(word)]


def test_an_end_of_turn_token_ends_the_run(engine):
    """A run stops at the tokenizer's end of turn, which is not part of the text."""
    first = engine.generate(PROMPT, max_tokens=3, raw=True).tokens.tolist()
    keep = set(engine.tokenizer.eos_token_ids)
    try:
        engine.tokenizer.eos_token_ids = {first[2]}
        run = engine.generate(PROMPT, max_tokens=9, raw=True)
    finally:
        engine.tokenizer.eos_token_ids = keep
    assert run.finish_reason == "stop" and run.tokens.tolist() == first[: first.index(first[2]) + 1]


def test_a_reused_kv_cache_gives_the_same_tokens_for_fewer_steps(engine):
    """The second turn reads only the new tokens, and its text is the same as without reuse."""
    first = engine.generate("tell me more about it", max_tokens=8, reuse_kv=True, raw=True)
    more = "tell me more about it" + engine.tokenizer.decode(first.tokens.tolist()) + " and then"
    fresh = engine.generate(more, max_tokens=8, raw=True)
    reused = engine.generate(more, max_tokens=8, raw=True, reuse_kv=True)
    assert reused.text == fresh.text
    assert 0 < (reused.trace.phase == 0).sum() < (fresh.trace.phase == 0).sum()
    again = engine.generate(more, max_tokens=8, raw=True, reuse_kv=True)
    assert again.text == fresh.text and (again.trace.phase == 0).sum() == 1


def test_an_interrupt_keeps_the_partial_run_and_the_next_run_works(engine):
    """SIGINT during a run raises Interrupted with the partial run; the next run is exact."""
    whole = engine.generate(PROMPT, max_tokens=30)
    seen = []

    def interrupt_at_the_fifth(event):
        seen.append(type(event).__name__)
        if seen[-1] == "StepDone" and seen.count("StepDone") == 6:
            os.kill(os.getpid(), signal.SIGINT)

    unsubscribe = engine.subscribe(interrupt_at_the_fifth)
    with pytest.raises(Interrupted) as stopped:
        engine.generate(PROMPT, max_tokens=30)
    unsubscribe()
    run = stopped.value.run
    assert run is engine.last_run and run.finish_reason == "interrupted"
    assert 0 < run.generated < 30 and whole.text.startswith(run.text)
    assert run.tokens.tolist() == whole.tokens.tolist()[: run.generated]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert engine.generate(PROMPT, max_tokens=30).text == whole.text


def test_where_interrupts_are_ignored_a_run_leaves_it_so(engine):
    """Where the process ignores SIGINT, a run continues to its end, and the setting stays."""

    def interrupt(event):
        if type(event).__name__ == "StepDone":
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    unsubscribe = engine.subscribe(interrupt)
    try:
        assert engine.generate(PROMPT, max_tokens=5).finish_reason == "length"
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        unsubscribe()
        signal.signal(signal.SIGINT, before)


def test_stop_from_another_thread_ends_the_run(engine):
    """`stop()` takes effect before the next layer, also in prefill, and affects no later run."""
    log = EventLog()

    def stop_in_prefill(event):
        log(event)
        if log.kinds().count("Routed") == 2:
            threading.Thread(target=engine.stop).start()

    unsubscribe = engine.subscribe(stop_in_prefill)
    with pytest.raises(Interrupted) as stopped:
        engine.generate("x" * 300, max_tokens=200)
    unsubscribe()
    assert stopped.value.run.finish_reason == "interrupted"
    engine.stop()  # no run is active: this stops no later run
    assert engine.generate(PROMPT, max_tokens=3).finish_reason == "length"


def test_leaving_a_stream_early_keeps_what_was_made(engine):
    """A loop that ends with `break` marks the run as interrupted and frees the engine."""
    for count, _ in enumerate(engine.stream(PROMPT, max_tokens=30)):
        if count == 4:
            break
    assert engine.last_run.finish_reason == "interrupted" and engine.last_run.generated == 5


def test_a_second_run_at_the_same_time_is_refused(engine):
    """One engine runs one prompt at a time; a second is refused with an error."""
    stream = engine.stream(PROMPT, max_tokens=5)
    next(stream)
    with pytest.raises(EngineBusy, match="another run is under way"):
        engine.generate(PROMPT)
    stream.close()
    assert engine.generate(PROMPT, max_tokens=1).generated == 1


def test_a_run_stopped_in_a_thread_leaves_nothing_to_the_next(engine):
    """MLX keeps a stopped call's work for its thread; a run on another thread does not meet it."""
    expected = engine.generate(PROMPT, max_tokens=6).text
    log = EventLog()

    def stop_between_layers(event):
        log(event)
        if log.kinds().count("Routed") == 5:
            engine.stop()

    def stopped():
        with pytest.raises(Interrupted):
            engine.generate(PROMPT, max_tokens=50)

    unsubscribe = engine.subscribe(stop_between_layers)
    thread = threading.Thread(target=stopped)
    thread.start()
    thread.join()
    unsubscribe()
    assert log.kinds()[-1] == "RunDone" and engine.last_run.finish_reason == "interrupted"
    assert engine.generate(PROMPT, max_tokens=6).text == expected


def test_an_engine_with_an_open_stream_says_so_when_closed(tiny):
    """Closing while a stream of the same thread is open is refused at once, without a deadlock."""
    engine = outlier_jupyter.load(tiny, cache_experts=5)
    stream = engine.stream(PROMPT, max_tokens=5)
    next(stream)
    with pytest.raises(EngineBusy, match="a stream is still open"):
        engine.close()
    stream.close()
    engine.close()
    assert engine.closed and engine.last_run.finish_reason == "interrupted"


def test_an_engine_runs_on_any_thread(engine):
    """A model loaded on one thread generates the same on another."""
    expected = engine.generate(PROMPT, max_tokens=6, reuse_kv=True).text
    got = []
    thread = threading.Thread(
        target=lambda: got.append(engine.generate(PROMPT, max_tokens=6, reuse_kv=True).text)
    )
    thread.start()
    thread.join()
    assert got == [expected]


def test_a_listener_that_raises_is_dropped_and_decoding_goes_on(engine, caplog):
    """Telemetry never breaks a run: the subscriber's error is logged once, and its calls end."""
    calls = []

    def broken(event):
        calls.append(event)
        raise RuntimeError("listener")

    engine.subscribe(broken)
    assert engine.generate(PROMPT, max_tokens=3).generated == 3
    assert len(calls) == 1 and "is not called again" in caplog.text


def test_a_top_k_override_changes_the_routing_and_says_so(tiny, unpaged):
    """The trace records `top_k=` and labels it; the routing equals mlx-lm's with that config."""
    with outlier_jupyter.load(tiny, cache_experts=6, top_k=1) as engine:
        run = engine.generate(PROMPT, max_tokens=8)
    assert run.trace.experts.shape[2] == 1
    assert "top-k 1 in place of the model's 2" in run.trace.info.changed_output
    reference = load_unpaged(str(tiny), model_config={"num_experts_per_tok": 1})
    assert run.tokens.tolist() == unpaged_tokens(reference, run.encoded, 8)
    with outlier_jupyter.load(tiny, cache_experts=6, top_k=2) as engine:
        assert engine.info.changed_output == ""


def test_a_dense_model_loads_and_has_no_routing(checkpoint_of):
    """A model without experts runs, and its routing trace is empty."""
    folder = checkpoint_of(mlp_only_layers=[0, 1, 2])
    model, tokenizer = load_unpaged(str(folder))
    with outlier_jupyter.load(folder) as engine:
        run = engine.generate(PROMPT, max_tokens=5)
        assert engine.status().slots == 0
    assert run.tokens.tolist() == unpaged_tokens((model, tokenizer), run.encoded, 5)
    assert run.trace.experts.shape == (run.trace.steps, 0, 0) and len(run.trace.reads) == 0


def test_layers_that_are_dense_are_passed_over(checkpoint_of):
    """In a model with dense and MoE layers only the MoE layers are paged and numbered."""
    folder = checkpoint_of(mlp_only_layers=[1])
    with outlier_jupyter.load(folder, cache_experts=4) as engine:
        assert engine.info.layer_names == (
            "model.layers.0.mlp.switch_mlp", "model.layers.2.mlp.switch_mlp")  # fmt: skip
        assert engine.generate(PROMPT, max_tokens=2).trace.layers == 2


def test_the_environment_selects_memory_mapped_reads(tiny, monkeypatch):
    """OUTLIER_MMAP_EXPERTS=1 selects mmap unless `reader` is set; the trace records which."""
    monkeypatch.setenv("OUTLIER_MMAP_EXPERTS", "1")
    with outlier_jupyter.load(tiny) as engine:
        assert engine.generate("x", max_tokens=1).trace.info.reader == "mmap"
    with outlier_jupyter.load(tiny, reader="direct") as engine:
        assert engine.info.reader == "direct"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cache_gb": 0}, "cache_gb=0 cannot be used: give more than 0"),
        ({"cache_gb": "8"}, "cache_gb='8' cannot be used: give a value of type float"),
        ({"reader": "preed"}, "did you mean 'pread'"),
        ({"cache_gbs": 1}, "there is no option 'cache_gbs'; did you mean 'cache_gb'"),
        ({"top_k": 9}, "top_k=9 is more than the 8 experts of a layer"),
        ({"cache_experts": True}, "cache_experts=True cannot be used"),
    ],
)
def test_a_load_option_that_cannot_be_is_one_sentence(tiny, options, message):
    """The error names the value, what is allowed, and what to do."""
    with pytest.raises(OptionError) as refused:
        outlier_jupyter.load(tiny, **options)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ("", {}, "the prompt is empty"),
        ("x", {"max_tokens": 0}, "max_tokens=0 is too small: give 1 or more"),
        ("x", {"top_p": 2.0}, "top_p=2.0 is too large"),
        ("x", {"stop": 7}, "give a text, or several in a list"),
        ("x", {"temprature": 1}, "did you mean 'temperature'"),
    ],
)
def test_a_generate_option_that_cannot_be_is_one_sentence(engine, prompt, options, message):
    """Bad input is refused before anything runs."""
    with pytest.raises(OptionError) as refused:
        engine.generate(prompt, **options)
    assert message in str(refused.value)


def test_a_model_that_is_not_there_says_what_was_tried(monkeypatch):
    """A name that is neither a folder nor available from the hub gives one sentence."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("no/such-model-anywhere", "not a name at all!"):
        with pytest.raises(ModelNotFound, match="is neither 'demo', nor a folder"):
            outlier_jupyter.load(name)


def test_errors_show_as_one_line_in_a_notebook():
    """IPython asks `_render_traceback_`; a user's mistake needs no stack."""
    assert OptionError("give more")._render_traceback_() == ["OptionError: give more"]
    assert issubclass(OptionError, OutlierError) and issubclass(OptionError, ValueError)


def test_signatures_have_every_option():
    """`help(load)` and `engine.generate?` show the options with their defaults."""
    load = inspect.signature(outlier_jupyter.load).parameters
    generate = inspect.signature(outlier_jupyter.Engine.generate).parameters
    assert load["cache_gb"].default == 8.0 and load["reader"].default == "auto"
    assert generate["max_tokens"].default == 256 and "options" not in generate


def run_async(work):
    """Run a coroutine on its own thread, since this one may already run an event loop."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


def test_async_code_stays_free_while_a_run_lasts(engine):
    """`agenerate` gives the same run; cancelling it stops the run and frees the engine."""

    async def both() -> tuple[str, int]:
        ticks = 0
        task = asyncio.create_task(engine.agenerate(PROMPT, max_tokens=10))
        while not task.done():
            ticks += 1
            await asyncio.sleep(0)
        return (await task).text, ticks

    text, ticks = run_async(both())
    assert text == engine.generate(PROMPT, max_tokens=10).text and ticks > 10

    async def cancelled() -> None:
        task = asyncio.create_task(engine.agenerate(PROMPT, max_tokens=100_000))
        await asyncio.sleep(0.1)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        run_async(cancelled())
    assert engine.last_run.finish_reason in ("interrupted", "stop")
    assert engine.generate(PROMPT, max_tokens=1).generated == 1
