"""Saved traces load unchanged; other files are refused; writing is atomic."""

from __future__ import annotations

import json
import zlib
from dataclasses import fields, replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import outlier_jupyter
from outlier_jupyter import Run, Trace
from outlier_jupyter.errors import TraceError
from outlier_jupyter.notebook.live.finished_run import frame_of_run
from outlier_jupyter.trace import CALL, EVICTION, READ, TraceInfo
from outlier_jupyter.trace.measures import summarise
from outlier_jupyter.trace.schema import LAYER_PARTS
from tests.full_disk import files_of_at_most
from tests.residency.routings import real, real_paths


@pytest.fixture(scope="module")
def run(tiny):
    with outlier_jupyter.load(tiny, cache_experts=10) as engine:
        engine.generate("the first leaves something in the cache", max_tokens=3)
        return engine.generate("saved and loaded", max_tokens=12, prefill_chunk=4)


def assert_same(saved: Trace, loaded: Trace) -> None:
    """All arrays and texts are equal, weights to one part in 2,048."""
    assert loaded.info == saved.info
    for field in fields(Trace):
        before, after = getattr(saved, field.name), getattr(loaded, field.name)
        if field.name == "weights":
            np.testing.assert_allclose(after, before, rtol=2**-11, atol=2**-24)
        elif field.name != "info":
            assert after.dtype == before.dtype, field.name
            np.testing.assert_array_equal(after, before, field.name)


def test_a_trace_comes_back_as_it_was(run, tmp_path):
    """Arrays, tables and metadata load unchanged; saving again changes nothing."""
    path = run.trace.save(tmp_path / "one.safetensors")
    loaded = Trace.load(path)
    assert_same(run.trace, loaded)
    again = Trace.load(loaded.save(tmp_path / "two.safetensors"))
    np.testing.assert_array_equal(again.weights, loaded.weights)
    assert len(loaded.reads) and len(loaded.evictions) and len(loaded.resident_at_start) == 10


def test_a_trace_says_where_it_comes_from(run):
    """A trace has model, policy, machine, versions and the checkpoint."""
    info = run.trace.info
    assert info.policy == "predictive" and info.banks == (0, 0, 0)
    assert len(info.model_hash) == 16
    assert "RAM" in info.machine
    assert {"python", "mlx", "outlier-jupyter"} <= set(info.versions)


def test_the_hash_is_of_the_checkpoint_not_of_its_folder(tiny, checkpoint_of, tmp_path):
    """A copy has the same hash, another quantisation a different one."""
    for file in tiny.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    hashes = []
    for folder in (tiny, tmp_path, checkpoint_of(bits=8)):
        with outlier_jupyter.load(folder, cache_experts=4) as engine:
            hashes.append(engine.info.model_hash)
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_run_keeps_its_texts(run, tmp_path):
    """A loaded run has the same live view as the original run, without a model."""
    loaded = Run.load(run.save(tmp_path / "run.safetensors"))
    for name in ("prompt", "encoded", "text", "finish_reason"):
        assert getattr(loaded, name) == getattr(run, name)
    # A file lacks what the policy had learned from earlier runs: so does a copy of the trace.
    assert frame_of_run(loaded) == frame_of_run(replace(run, trace=replace(run.trace)))
    assert str(loaded.summary()) == str(run.summary())
    assert_same(run.trace, Trace.load(tmp_path / "run.safetensors"))


def test_a_loaded_trace_shows_in_the_live_view(run, tmp_path):
    """Routing, hits, moves and times are the run's; the text is unknown."""
    trace = Trace.load(run.trace.save(tmp_path / "t.safetensors"))
    view = trace.view()
    assert view.status == "stop" and view.info["model"] == trace.info.model
    seen, shown = frame_of_run(Run.load(tmp_path / "t.safetensors")), frame_of_run(run)
    assert seen.text == ""
    for name in ("experts_of", "hits_of", "count", "move", "move_step"):
        np.testing.assert_array_equal(getattr(seen, name), getattr(shown, name), name)


def test_a_trace_of_a_few_arrays_says_what_it_lacks(tmp_path):
    """With only routing and weights, the other arrays are absent and have no made-up numbers."""
    experts = np.arange(24, dtype=np.int16).reshape(4, 3, 2)
    weights = np.full(experts.shape, 0.5, np.float32)
    path = tmp_path / "theirs.safetensors"
    about = {"model": "Theirs", "num_experts": "32", "top_k": "2", "source": "somewhere"}
    save_file({"experts": experts, "weights": weights}, path, about)
    trace = Trace.load(path)
    np.testing.assert_array_equal(trace.experts, experts)
    assert trace.info.experts_per_layer == (32, 32, 32) and trace.info.native_top_k == 2
    assert [n for n in ("experts", "weights") if trace.has(n)] == ["experts", "weights"]
    assert not any(trace.has(n) for n in ("hits", "reads", "evictions", "calls", "tokens", "phase"))
    summary = summarise(trace)
    assert np.isnan([summary.hit_rate, summary.tokens_per_second, summary.read_p50_ms]).all()
    assert frame_of_run(Run.of(trace)).totals.lookups == 0
    assert Trace.load(trace.save(tmp_path / "ours.safetensors")).info == trace.info


def test_traces_of_real_models_load():
    """Available traces have the routing of their files, and appear in the live view."""
    routings = real()
    for path in real_paths():
        trace = Trace.load(path)
        np.testing.assert_array_equal(trace.experts, routings[path.stem].experts)
        assert trace.view().status == "stop"


def packed(*values: int):
    """A column in version 1's packing: length, width, and the deflated differences, in bytes."""
    steps = np.diff(np.array(values, "<i8"), prepend=0)
    planes = steps.astype("<i8").view(np.uint8).reshape(-1, 8).T
    head = np.array([len(values), 8], "<i8").tobytes()
    return np.frombuffer(head + zlib.compress(planes.tobytes()), np.uint8)


def test_a_file_of_version_1_is_read(tmp_path):
    """It has no times by layer and fewer parts of a call: those are 0, also in `explain`."""
    columns = {
        "reads": {"step": (0, 1), "layer": (1, 0), "expert": (3, 2), "nbytes": (900, 900),
                  "start_ns": (1_500, 6_100), "ns": (400, 300)},
        "evictions": {"step": (1,), "layer": (0,), "expert": (1,), "by_layer": (0,),
                      "by_expert": (2,)},
        "calls": {"phase": (0, 1), "first_step": (0, 2), "steps": (2, 1), "start_ns": (10, 6_000),
                  "ns": (5_000_000, 3_000_000), "route_ns": (2_000_000, 1_000_000),
                  "lookup_ns": (10_000, 20_000), "read_wait_ns": (400_000, 300_000),
                  "install_ns": (9_000, 8_000), "sample_ns": (0, 600_000)},
    }  # fmt: skip
    arrays = {f"{table}.{name}": packed(*values) for table, columns in columns.items()
              for name, values in columns.items()}  # fmt: skip
    arrays |= {
        "tokens": np.array([5, 6, 7], np.int32),
        "produced": np.array([-1, 7, 8], np.int32),
        "phase": np.array([0, 0, 1], np.uint8),
        "experts": np.array([[[1], [3]], [[2], [3]], [[2], [3]]], np.int16),
        "weights": np.ones((3, 2, 1), np.float16),
        "resident_at_start": np.array([[0, 1]], np.int16),
        "hits": np.packbits(np.array([1, 0, 0, 0, 1, 1], bool)),
    }
    info = {"model": "old", "layer_names": ["a", "b"], "experts_per_layer": [4, 4], "slots": 3,
            "expert_nbytes": [900, 900], "policy": "lru", "banks": [0, 0],
            "options": {"cache_experts": 3}}  # fmt: skip
    about = {"format": "outlier_jupyter.trace", "version": "1", "info": json.dumps(info),
             "run": "null", "shapes": json.dumps({"hits": [3, 2, 1]})}  # fmt: skip
    save_file(arrays, tmp_path / "old.safetensors", about)
    trace = Trace.load(tmp_path / "old.safetensors")
    assert trace.info.model == "old" and trace.info.experts_per_layer == (4, 4)
    assert trace.hits.ravel().tolist() == [True, False, False, False, True, True]
    assert trace.calls["read_wait_ns"].tolist() == [400_000, 300_000]
    assert trace.reads["start_ns"].tolist() == [1_500, 6_100]
    assert not trace.layer_us.size and not trace.calls["forward_ns"].any()
    assert trace.explain(2).step == 2
    assert_same(trace, Trace.load(trace.save(tmp_path / "new.safetensors")))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda data: data[: len(data) // 2], "not a complete safetensors file"),
        (lambda data: b"", "not a complete safetensors file"),
        (lambda data: b"PK\x03\x04 a zip" * 99, "not a complete safetensors file"),
    ],
)
def test_what_is_no_trace_says_so(run, tmp_path, spoil, message):
    """For truncated, empty or other files, one sentence says what to do."""
    path = run.trace.save(tmp_path / "t.safetensors")
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(TraceError, match=message):
        Trace.load(path)


def test_other_files_and_versions_say_so(run, tmp_path):
    """No routing, a future version, a damaged table and a missing file are one error each."""
    path = tmp_path / "t.safetensors"
    with pytest.raises(TraceError, match="there is no file"):
        Trace.load(path)
    save_file({"weight": np.zeros(3, np.float32)}, path)
    with pytest.raises(TraceError, match="not a trace"):
        Trace.load(path)
    run.trace.save(path)
    arrays, about = load_file(path), _metadata(path)
    save_file(arrays, path, about | {"version": "99"})
    with pytest.raises(TraceError, match="version 99, and this program reads up to version 2"):
        Trace.load(path)
    save_file(arrays | {"reads.ns": arrays["reads.ns"][:20]}, path, about)
    with pytest.raises(TraceError, match="is not a valid trace"):
        Trace.load(path)


def _metadata(path):
    data = path.read_bytes()
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]


def test_a_full_disk_keeps_the_old_file(run, tmp_path):
    """There is one clear error, the old file is unchanged, and no temporary file remains."""
    path = run.trace.save(tmp_path / "t.safetensors")
    before = path.read_bytes()
    with files_of_at_most(100), pytest.raises(TraceError, match="nothing changed there"):
        replace(run.trace, tokens=run.trace.tokens + 1).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(TraceError, match="could not be written"):
        run.trace.save(tmp_path / "no such folder" / "t.safetensors")


def test_a_thousand_tokens_of_a_large_model_are_small(tmp_path):
    """48 layers, top-8, half the experts read and as many evicted, with times: under 4 MB."""
    rng = np.random.default_rng(0)
    steps, layers, k = 1000, 48, 8
    experts = np.sort(np.argsort(rng.random((steps, layers, 128)), axis=2)[:, :, :k], axis=2)
    hits = rng.random(experts.shape) < 0.5
    step, layer, choice = np.nonzero(~hits)
    reads = np.zeros(len(step), READ)
    reads["step"], reads["layer"], reads["expert"] = step, layer, experts[step, layer, choice]
    reads["nbytes"] = 2_654_208
    reads["start_ns"] = 10**13 + np.cumsum(rng.exponential(300_000, len(step))).astype(int)
    reads["ns"] = rng.lognormal(14, 0.3, len(step))
    evictions = np.zeros(len(step), EVICTION)
    evictions["step"], evictions["by_layer"], evictions["by_expert"] = step, layer, reads["expert"]
    evictions["layer"], evictions["expert"] = (
        rng.permutation(layer),
        rng.integers(0, 128, len(step)),
    )
    calls = np.zeros(steps, CALL)
    calls["first_step"], calls["steps"], calls["phase"] = np.arange(steps), 1, 1
    for name in [name for name in CALL.names or () if name.endswith("_ns")] + ["ns"]:
        calls[name] = rng.integers(10**7, 10**8, steps)
    # Each of `LAYER_PARTS` varies around its own median, in microseconds.
    middles = np.array([900, 60, 40, 1500, 150, 1200, 25])
    layer_us = middles * rng.lognormal(0, 0.4, (steps, layers, len(LAYER_PARTS)))
    trace = Trace(
        tokens=rng.integers(0, 150_000, steps).astype(np.int32),
        produced=rng.integers(0, 150_000, steps).astype(np.int32),
        phase=np.ones(steps, np.uint8),
        call=np.arange(steps, dtype=np.int32),
        step_ns=calls["ns"].copy(),
        experts=experts.astype(np.int16),
        weights=rng.dirichlet(np.ones(k), (steps, layers)).astype(np.float32),
        hits=hits,
        reads=reads,
        evictions=evictions,
        calls=calls,
        resident_at_start=np.zeros((0, 2), np.int16),
        info=TraceInfo(experts_per_layer=(128,) * layers),
        layer_us=layer_us.astype(np.int32),
    )
    path = trace.save(tmp_path / "large.safetensors")
    assert path.stat().st_size < 4_000_000, path.stat().st_size
    assert len(reads) > 190_000 and layer_us.size == 336_000
    assert_same(trace, Trace.load(path))
