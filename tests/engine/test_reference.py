"""The effect of a change on the output, measured against the exact model run beside it."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm import load as load_unpaged
from mlx_lm.models.cache import make_prompt_cache
from scipy.special import log_softmax

import outlier_jupyter
from outlier_jupyter import Trace
from outlier_jupyter.events import Compared, PagedIn
from outlier_jupyter.notebook.live.divergence import DivergenceLine
from outlier_jupyter.notebook.live.widget import LiveView
from outlier_jupyter.notebook.render.figures import Figures
from outlier_jupyter.notebook.render.static.report import report
from outlier_jupyter.notebook.render.static.text import SavedView, plain, table, tiles
from outlier_jupyter.testing import EventLog

PROMPT = "def f(x):\n    return"
OPTIONS = {"raw": True, "max_tokens": 5, "measure_loss": True}


@pytest.fixture(scope="module")
def masked(engine):
    """A run with experts masked and its loss measured."""
    return engine.generate(PROMPT, mask=["0:0-3", "1:4-6"], **OPTIONS)


def title_of(trace) -> str:
    """The title of the figure of other caches."""
    return str(Figures(trace).what_if([8], ["lru"]).layout.title.text)


def test_a_replay_names_what_it_leaves_out(masked, engine):
    """The exact model's lookups are not in the trace: table, figure and report say so."""
    message = "not in the trace"
    assert message in masked.trace.what_if([8]).attrs["note"] and message in title_of(masked.trace)
    assert message in report(masked)
    bare = engine.generate(PROMPT, raw=True, max_tokens=5).trace
    assert bare.what_if([8]).attrs["note"] == "" and message not in title_of(bare)


def by_calls(model, trace) -> np.ndarray:
    """float64 log-probabilities [tokens generated, vocabulary] of `model` on the trace's calls."""
    cache, rows = make_prompt_cache(model), []
    for call in trace.calls:
        first, steps = int(call["first_step"]), int(call["steps"])
        tokens = trace.tokens[first : first + steps].tolist()
        rows.append(np.array(model(mx.array([tokens]), cache=cache)[0, -1].astype(mx.float32)))
    sampled = trace.produced[np.cumsum(trace.calls["steps"]) - 1] >= 0
    return log_softmax(np.stack(rows)[sampled].astype(np.float64), axis=-1)


def test_the_divergence_is_that_of_two_unpaged_models(masked, tiny):
    """KL and agreement equal SciPy's of the unpaged model and of one whose gates are changed."""
    trace = masked.trace
    exact, changed = (load_unpaged(str(tiny))[0] for _ in range(2))
    for layer, experts in ((0, range(4)), (1, range(4, 7))):
        gate = changed.model.layers[layer].mlp.gate
        far = mx.zeros(8).at[mx.array(list(experts))].add(-30_000)
        kind = type(gate)
        gate.__class__ = type(
            "Masked", (kind,),
            {"__call__": lambda self, x, kind=kind, far=far: kind.__call__(self, x) + far},
        )  # fmt: skip
    p, q = by_calls(exact, trace), by_calls(changed, trace)
    known = trace.produced >= 0
    np.testing.assert_allclose(trace.kl[known], (np.exp(p) * (p - q)).sum(1), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(trace.agrees[known], p.argmax(1) == q.argmax(1))
    assert np.isnan(trace.kl[~known]).all() and known.sum() == 5 and trace.kl[known].min() > 0
    np.testing.assert_array_equal(masked.tokens, q.argmax(1))


def test_measuring_changes_no_token_and_nothing_is_lost_without_a_change(engine):
    """The exact run against itself diverges by nothing and has an unmeasured run's tokens."""
    run = engine.generate(PROMPT, **OPTIONS)
    plain_run = engine.generate(PROMPT, raw=True, max_tokens=5)
    np.testing.assert_array_equal(run.tokens, plain_run.tokens)
    np.testing.assert_array_equal(run.trace.experts, plain_run.trace.experts)
    assert run.summary().kl == 0 and run.summary().top1_agreement == 1
    assert run.summary().compared == 5 and plain_run.summary().compared == 0
    assert len(plain_run.trace.kl) == 0 and not plain_run.summary().loss_text()


@pytest.mark.parametrize("changed", [{"kv_bits": 2, "kv_group_size": 32, "quantized_kv_start": 0},
                                     {"router_temperature": 5.0}])  # fmt: skip
def test_any_change_is_measured(engine, changed):
    """A quantised KV cache and changed routing diverge, and the summary says so."""
    run = engine.generate(PROMPT, **OPTIONS, **changed)
    assert run.summary().kl > 0 and run.trace.info.changed_output
    assert "against the exact model: KL" in str(run.summary())


def test_another_top_k_of_the_load_is_compared_with_the_models_own(tiny):
    """The reference routes as the model itself does, also with a prompt in the KV cache."""
    with outlier_jupyter.load(tiny, cache_experts=8, top_k=1) as engine:
        engine.tokenizer.eos_token_ids = set()
        first = engine.generate(PROMPT, reuse_kv=True, **OPTIONS)
        again = engine.generate(PROMPT, reuse_kv=True, **OPTIONS)
    assert first.summary().kl > 0 and again.trace.steps < first.trace.steps
    np.testing.assert_allclose(again.trace.kl[-5:], first.trace.kl[-5:], rtol=1e-3, atol=1e-5)


def test_reads_of_the_reference_are_reported_and_belong_to_no_step(engine, masked):
    """Subscribers receive them; the trace has only the run's own reads and choices."""
    log = EventLog()
    unsubscribe = engine.subscribe(log)
    run = engine.generate(PROMPT, mask=["0:0-3", "1:4-6"], **OPTIONS)
    unsubscribe()
    np.testing.assert_array_equal(run.trace.experts, masked.trace.experts)
    all_reads = [event for event in log.events if isinstance(event, PagedIn)]
    assert len(all_reads) > len(run.trace.reads) > 0
    kinds = log.kinds()
    assert kinds.count("Compared") == 5 and kinds.count("Routed") == 3 * len(run.trace.calls)


def test_the_loss_is_saved_and_is_in_the_table(masked, tmp_path):
    """It loads back bit for bit; rows have it only where it was measured."""
    loaded = Trace.load(masked.trace.save(tmp_path / "run.safetensors"))
    np.testing.assert_array_equal(loaded.kl, masked.trace.kl)
    np.testing.assert_array_equal(loaded.agrees, masked.trace.agrees)
    frame = loaded.to_pandas()
    assert frame["kl"].notna().sum() == frame["agrees"].notna().sum() == 5
    bare = replace(loaded, kl=np.zeros(0, np.float32), agrees=np.zeros(0, bool))
    assert "kl" not in bare.to_pandas()
    assert len(Trace.load(bare.save(tmp_path / "bare.safetensors")).kl) == 0


def test_the_views_say_what_was_changed_and_how_far_it_is(masked):
    """Text, tiles and table of the static view; without a measurement they say so."""
    view = SavedView(masked.text, masked.trace, masked.finish_reason, PROMPT)
    assert "not the model's own output: 7 experts of 2 layers masked; against the" in plain(view)
    assert [what for _, what in tiles(masked.trace)][-1] == "top-1 agreement with it"
    assert "top-1 agreement" in dict(table(view))["Loss"]
    bare = replace(masked.trace, kl=np.zeros(0, np.float32))
    rows = dict(table(replace(view, trace=bare)))
    assert "not measured (measure_loss)" in rows["Loss"]


def test_the_live_views_header_has_the_loss_as_it_goes():
    """It shows the mean so far at most twice a second, and nothing without a change."""
    now = [0.0]
    view = LiveView(info={"changed_output": "expert 0:1 masked"})
    line = DivergenceLine(view, clock=lambda: now[0])
    line(Compared(1.0, True))
    line(Compared(3.0, False))
    assert view.info["changed_output"].endswith("KL 1 nats per token, top-1 agreement 100 %")
    now[0] = 1.0
    line(Compared(2.0, False))
    message = "expert 0:1 masked; KL 2 nats per token, top-1 agreement 33.3 %"
    assert view.info["changed_output"] == message
    other = LiveView(info={"changed_output": ""})
    DivergenceLine(other)(Compared(0.0, True))
    assert other.info["changed_output"] == ""
