"""What the example notebooks say and show, recomputed from traces by plain NumPy."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import false_discovery_control, hypergeom

import outlier_jupyter
from outlier_jupyter.notebook.chat.run_store import KEPT_NBYTES

EXAMPLES = Path(__file__).parent.parent / "examples"
QUESTION = "What is an expert in a Mixture-of-Experts model?"
LAYERS, EXPERTS, K = 6, 32, 4


def cells(name: str) -> list[str]:
    """The sources of a notebook's cells."""
    (path,) = EXAMPLES.glob(f"{name}*.ipynb")
    return ["".join(cell["source"]) for cell in json.loads(path.read_text())["cells"]]


def prompt_of(name: str, flag: str) -> str:
    """The prompt of the cell whose first line ends so."""
    (cell,) = (
        c for c in cells(name) if c.startswith("%%outlier") and c.split("\n")[0].endswith(flag)
    )
    return cell.split("\n", 1)[1].strip("\n")


@pytest.fixture(scope="module")
def answered():
    """The run at the start of examples 1, 3 and 4."""
    with outlier_jupyter.load("demo", cache_gb=0.002, quiet=True) as engine:
        return engine.generate(QUESTION, max_tokens=120)


@pytest.fixture(scope="module")
def texts():
    """The runs of example 2 over its two texts, one after the other."""
    with outlier_jupyter.load("demo", cache_experts=96, quiet=True) as engine:
        return [
            engine.generate(prompt_of("02", f"-o {name}"), raw=True, max_tokens=40)
            for name in ("prose", "code")
        ]


def counts(trace) -> np.ndarray:
    """How often each expert was chosen: [layers, experts]."""
    return np.stack([np.bincount(trace.experts[:, i].ravel(), minlength=EXPERTS)
                     for i in range(LAYERS)])  # fmt: skip


def entropy(share: np.ndarray) -> np.ndarray:
    """Bits, of each row."""
    return -np.where(share > 0, share * np.log2(np.where(share > 0, share, 1)), 0).sum(axis=1)


def test_the_model_and_its_cache_are_as_in_the_text(answered):
    """9 MB, 6 layers of 32, 4 a token; 2 MB fit a quarter of the experts."""
    info = answered.trace.info
    assert info.experts_per_layer == (EXPERTS,) * LAYERS and answered.trace.experts.shape[2] == K
    folder = Path(outlier_jupyter.__file__).parent / "demo"
    assert round((folder / "model.safetensors").stat().st_size / 1e6) == 9
    assert info.slots == 48 == LAYERS * EXPERTS // 4
    assert info.slots == 2_000_000 // info.expert_nbytes[0]
    result = " ".join(cells("01"))
    assert "6 layers with 32 experts each, 4 of them" in result and "6 × 4 = 24 experts" in result
    assert f"beyond {KEPT_NBYTES // 10**6} MB of traces" in " ".join(cells("06"))


def test_the_summary_is_the_trace_s(answered):
    """Rates by phase, bytes, latencies and speed, as the quickstart's last cell prints them."""
    trace, result = answered.trace, answered.summary()
    decode = trace.phase == 1
    assert result.decode_hit_rate == trace.hits[decode].mean()
    assert result.prefill_hit_rate == trace.hits[~decode].mean()
    assert result.bytes_read == trace.reads["nbytes"].sum() == len(trace.reads) * 41472
    seconds = trace.calls["ns"][trace.calls["phase"] == 1].sum() / 1e9
    assert result.tokens_per_second == pytest.approx(decode.sum() / seconds)
    latencies = np.quantile(trace.reads["ns"], (0.5, 0.95)) / 1e6
    assert (result.read_p50_ms, result.read_p95_ms) == pytest.approx(tuple(latencies))
    heat = answered.figures.routing().data[0]
    np.testing.assert_array_equal(heat.z, counts(trace))


def test_below_a_token_s_other_layers_lru_hits_nothing(answered):
    """20 slots are what the five other layers use in between; the default policy does better."""
    trace, others = answered.trace, (LAYERS - 1) * K
    assert "asked for 20:" in " ".join(cells("01"))
    frame = trace.what_if([others, others + K], ["lru", "default"])
    few, more = frame[frame.slots == others], frame[frame.slots == others + K]
    assert few.decode_hit_rate.tolist()[0] == 0 < few.decode_hit_rate.tolist()[1]
    assert more.decode_hit_rate.min() > 0.3
    last: dict[tuple[int, int], int] = {}
    for step in np.flatnonzero(trace.phase == 1).tolist():
        for layer in range(LAYERS):
            for expert in trace.experts[step, layer].tolist():
                if (layer, expert) in last:  # at least 20 others were used since
                    assert (step - last[layer, expert]) * LAYERS * K - K >= others
                last[layer, expert] = step


def test_so_few_slots_hit_nine_of_ten(answered):
    """Example 3: `slots_for`'s suffice, one less does not; no cache hits an expert's first use."""
    trace = answered.trace
    assert "one slot less does not do" in " ".join(cells("03"))
    slots = trace.slots_for(0.9)
    rates = trace.what_if([slots - 1, slots], ["default"]).decode_hit_rate
    assert rates[0] < 0.9 <= rates[1]
    most = trace.what_if([LAYERS * EXPERTS], ["belady"]).decode_hit_rate[0]
    decode = trace.phase == 1
    seen = np.zeros((LAYERS, EXPERTS), bool)
    first = 0
    for step in range(trace.steps):
        for layer in range(LAYERS):
            for expert in trace.experts[step, layer].tolist():
                first += bool(decode[step] and not seen[layer, expert])
                seen[layer, expert] = True
    assert most == 1 - first / trace.hits[decode].size


def test_the_plan_is_that_of_the_config():
    """KV cache, experts and what a cold token reads, from the model's own numbers."""
    config = json.loads((Path(outlier_jupyter.__file__).parent / "demo/config.json").read_text())
    plan = outlier_jupyter.plan("demo").to_dict()
    heads, width = config["num_key_value_heads"], config["head_dim"]
    assert plan["kv_per_token"] == LAYERS * 2 * heads * width * 4  # float32 keys and values
    weights = 3 * config["hidden_size"] * config["moe_intermediate_size"]
    assert plan["expert_nbytes"][0] == weights // 2 + weights // 64 * 2 * 2  # weights; scale, bias
    assert plan["cold_per_token"] == LAYERS * K * plan["expert_nbytes"][0]
    assert plan["experts_total"] == LAYERS * EXPERTS * plan["expert_nbytes"][0]


def test_the_slowest_token_is_taken_apart_rightly(answered):
    """Example 4: which token, how slow, what it missed, when each was evicted, and its reads."""
    trace = answered.trace
    produced = np.flatnonzero(trace.produced >= 0)
    decode = trace.phase == 1
    step = max(np.flatnonzero(decode).tolist(), key=lambda at: trace.step_ns[at])
    result = answered.explain(int(np.flatnonzero(produced == step)[0]) + 1)
    assert result.ms == pytest.approx(trace.step_ns[step] / 1e6)
    assert result.usual_ms == pytest.approx(np.median(trace.step_ns[decode]) / 1e6)
    assert result.slower_than == (trace.step_ns[decode] < trace.step_ns[step]).mean()
    assert sum(result.parts[name] for name in result.parts) == pytest.approx(result.ms)
    missed = [(layer, int(expert)) for layer in range(LAYERS)
              for expert, hit in zip(trace.experts[step, layer], trace.hits[step, layer],
                                     strict=True) if not hit]  # fmt: skip
    assert sorted((miss.layer, miss.expert) for miss in result.misses) == sorted(missed)
    for miss in result.misses:
        mine = (trace.reads["layer"] == miss.layer) & (trace.reads["expert"] == miss.expert)
        (read,) = trace.reads[mine & (trace.reads["step"] == step)]
        assert miss.ms == pytest.approx(read["ns"] / 1e6)
        gone = trace.evictions[
            (trace.evictions["layer"] == miss.layer)
            & (trace.evictions["expert"] == miss.expert)
            # An earlier layer of the same token may have evicted it as well.
            & ((trace.evictions["step"] < step)
               | ((trace.evictions["step"] == step) & (trace.evictions["by_layer"] < miss.layer)))
        ]  # fmt: skip
        if (trace.experts[:step, miss.layer] == miss.expert).any():
            assert miss.evicted_at == (gone["step"][-1] if len(gone) else step)
        else:
            assert miss.evicted_at is None


def test_times_are_the_calls_and_add_up(answered):
    """Example 4: each token of prompt and answer has a row; its parts are what was measured."""
    times, trace = answered.trace.times(), answered.trace
    assert len(times) == trace.steps
    nanosecond = 1e-6  # a trace stores whole nanoseconds
    np.testing.assert_allclose(times.ms, trace.step_ns / 1e6, atol=nanosecond)
    parts = [name for name in times if name.endswith("_ms") and times[name].notna().any()]
    np.testing.assert_allclose(times[parts].sum(axis=1), times.ms, atol=nanosecond)
    waited = np.zeros(trace.steps)
    share = trace.calls["read_wait_ns"] / np.maximum(trace.calls["steps"], 1) / 1e6
    waited += share[trace.call]
    np.testing.assert_allclose(times.read_wait_ms, waited, atol=nanosecond)


def test_measures_are_counted_so(answered):
    """Example 4: shared with the token before, and by chance; evenness of the choices."""
    trace, result = answered.trace, answered.measures()
    steps = np.flatnonzero(trace.phase == 1)
    shared = [[len(np.intersect1d(trace.experts[s, i], trace.experts[s - 1, i])) / K
               for i in range(LAYERS)] for s in steps[steps > 0]]  # fmt: skip
    np.testing.assert_allclose(result.overlap, np.mean(shared, axis=0))
    chosen = np.stack([np.bincount(trace.experts[steps, i].ravel(), minlength=EXPERTS)
                       for i in range(LAYERS)])  # fmt: skip
    shares = chosen / chosen.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(result.evenness, entropy(shares) / np.log2(EXPERTS), atol=1e-6)
    uses = answered.tokens_of(4, 27)
    rows, _ = np.nonzero(trace.experts[:, 4] == 27)
    assert uses.frame.step.tolist() == rows.tolist()


def test_two_texts_part_where_their_choices_do(texts):
    """Example 2: divergence, the map of differences, and the six experts that code favours most."""
    both = outlier_jupyter.compare(
        dict(zip(("prose", "code"), texts, strict=True)), permutations=999
    )
    prose, code = (
        counts(run.trace) / counts(run.trace).sum(axis=1, keepdims=True) for run in texts
    )
    found = both.divergence()
    js = entropy((prose + code) / 2) - (entropy(prose) + entropy(code)) / 2
    np.testing.assert_allclose(found.js, js, atol=1e-6)
    np.testing.assert_allclose(both.experts_figure().data[0].z, prose - code, atol=1e-6)
    np.testing.assert_allclose(
        both.figure().data[0].y, (found.js - found.expected)[both.figure().data[0].x]
    )
    leaning = [(row.layer, row.expert) for row in both.experts() if row.second > row.first][:6]
    most = np.argsort(-(code - prose).ravel())[:6]
    assert leaning == [divmod(int(at), EXPERTS) for at in most]
    chosen = set(map(tuple, np.argwhere(code > 0).tolist()))
    start = set(map(tuple, texts[1].trace.resident_at_start.tolist()))
    assert both.starting_caches[1].useful == len(chosen & start) / len(chosen)
    for run, served in zip(texts, both.cold, strict=True):
        assert served.lookups == run.trace.experts.size and served.nbytes == served.reads * 41472


def test_the_atlas_s_classes_are_beyond_chance(texts):
    """Example 2: a unit's class is that of the hypergeometric test, corrected over all of them."""
    names = ("code", "prose")
    found = outlier_jupyter.atlas(dict(zip(("prose", "code"), texts, strict=True)))
    of_code = np.concatenate([np.full(run.trace.steps, i == 1) for i, run in enumerate(texts)])
    experts = np.concatenate([run.trace.experts for run in texts])
    fires = [(experts[:, layer] == expert).any(axis=1)
             for layer, expert in zip(found.layer, found.expert, strict=True)]  # fmt: skip
    assert found.fired.tolist() == [int(on.sum()) for on in fires]
    sides = (of_code, ~of_code)
    p = [[hypergeom.sf((on & side).sum() - 1, len(on), side.sum(), on.sum()) for side in sides]
         for on in fires]  # fmt: skip
    q = false_discovery_control(np.clip(p, 0, 1).ravel()).reshape(-1, 2)
    for on, each, label in zip(fires, q, found.label, strict=True):
        lifts = [(on & side).sum() / side.sum() if sure <= 0.05 else -1
                 for side, sure in zip(sides, each, strict=True)]  # fmt: skip
        assert label == (
            names[int(np.argmax(lifts))] if max(lifts) >= 0 else "no class more than chance"
        )
    assert set(found.label) >= set(names)


def test_a_masked_run_is_as_in_the_text(texts):
    """Example 2: masked experts are never chosen; agreement and KL are means over its tokens."""
    both = outlier_jupyter.compare(
        dict(zip(("prose", "code"), texts, strict=True)), permutations=99
    )
    first = next(row for row in both.experts() if row.second > row.first)
    with outlier_jupyter.load("demo", cache_experts=96, quiet=True) as engine:
        run = engine.generate(texts[1].prompt, raw=True, max_tokens=12, measure_loss=True,
                              mask=[f"{first.layer}:{first.expert}"])  # fmt: skip
    assert not (run.trace.experts[:, first.layer] == first.expert).any()
    table = run.trace.to_pandas().dropna(subset="kl")
    assert len(table) == run.generated == 12
    assert run.summary().kl == pytest.approx(table.kl.mean(), rel=1e-5)
    assert run.summary().top1_agreement == pytest.approx((table.agrees == 1).mean())


def test_a_chat_reads_only_what_is_new_and_a_cache_has_room_for_what_it_says():
    """Example 6: reused tokens are those of the prompt before; slots count room, not experts."""
    with outlier_jupyter.load("demo", cache_gb=0.002, quiet=True) as engine:
        chat = outlier_jupyter.Chat(engine, max_tokens=120)
        one, two = chat.send(QUESTION), chat.send("And what does the router do?")
        first, second = (m.numbers for m in chat.messages if m.role == "assistant")
        assert (first["prompt"], first["reused"]) == (int((one.trace.phase == 0).sum()), 0)
        # The template drops the first answer's thoughts, so what follows its prompt is read anew.
        assert one.thinking and second["reused"] == first["prompt"]
        assert second["prompt"] - second["reused"] == int((two.trace.phase == 0).sum())
        status = chat.resize(cache_experts=96)
        assert (status.slots, status.resident) == (96, 48)
        assert 'f"room for {status.slots:3} of' in " ".join(cells("06"))
        chat.close()


def test_every_speed_in_an_example_is_printed_when_it_runs():
    """No sentence of an example contains a speed of some other machine."""
    for path in EXAMPLES.glob("*.ipynb"):
        for cell in json.loads(path.read_text())["cells"]:
            if cell["cell_type"] == "markdown":
                assert not re.search(r"\d ?(tokens/s|ms|GB/s|MB/s)", "".join(cell["source"])), path


def test_the_chat_that_readers_are_to_type_into_stays_open():
    """No cell of the chat's example closes it or its engine."""
    assert any(cell.startswith("%outlier chat") for cell in cells("06_chat"))
    assert not any(cell.strip().endswith(("close()", "unload")) for cell in cells("06_chat"))
