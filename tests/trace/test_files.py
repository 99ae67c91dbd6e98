"""A saved trace comes back; what is no trace says so; nothing is ever half written."""

from __future__ import annotations

import json
import resource
import signal
from contextlib import contextmanager
from dataclasses import fields, replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import outlier_jupyter
from outlier_jupyter import Run, Trace
from outlier_jupyter.errors import TraceError
from outlier_jupyter.notebook.replay import frame_of
from outlier_jupyter.trace import CALL, EVICTION, READ, TraceInfo
from outlier_jupyter.trace.measures import summarise
from tests.residency.routings import real, real_paths


@pytest.fixture(scope="module")
def run(tiny):
    with outlier_jupyter.load(tiny, cache_experts=10) as engine:
        engine.generate("the first leaves something in the cache", max_tokens=3)
        return engine.generate("saved and loaded", max_tokens=12, prefill_chunk=4)


def assert_same(saved: Trace, loaded: Trace) -> None:
    """Every array and every word, weights to one part in 2,048."""
    assert loaded.info == saved.info
    for field in fields(Trace):
        before, after = getattr(saved, field.name), getattr(loaded, field.name)
        if field.name == "weights":
            np.testing.assert_allclose(after, before, rtol=2**-11, atol=2**-24)
        elif field.name != "info":
            assert after.dtype == before.dtype, field.name
            np.testing.assert_array_equal(after, before, field.name)


def test_a_trace_comes_back_as_it_was(run, tmp_path):
    """Arrays, tables and all that is said of the run; saved once more, nothing changes at all."""
    path = run.trace.save(tmp_path / "one.safetensors")
    loaded = Trace.load(path)
    assert_same(run.trace, loaded)
    again = Trace.load(loaded.save(tmp_path / "two.safetensors"))
    np.testing.assert_array_equal(again.weights, loaded.weights)
    assert len(loaded.reads) and len(loaded.evictions) and len(loaded.resident_at_start) == 10


def test_a_trace_says_where_it_comes_from(run):
    """Model, policy, machine and versions, and which checkpoint it was."""
    info = run.trace.info
    assert info.policy == "habit" and info.banks == (0, 0, 0)
    assert len(info.model_hash) == 16
    assert "RAM" in info.machine
    assert {"python", "mlx", "outlier-jupyter"} <= set(info.versions)


def test_the_hash_is_of_the_checkpoint_not_of_its_folder(tiny, checkpoint_of, tmp_path):
    """A copy has the same hash, another quantisation another."""
    for file in tiny.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    hashes = []
    for folder in (tiny, tmp_path, checkpoint_of(bits=8)):
        with outlier_jupyter.load(folder, cache_experts=4) as engine:
            hashes.append(engine.info.model_hash)
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_run_keeps_its_texts(run, tmp_path):
    """A loaded run shows in the live view what the run itself shows, with no model about."""
    loaded = Run.load(run.save(tmp_path / "run.safetensors"))
    for name in ("prompt", "encoded", "text", "finish_reason"):
        assert getattr(loaded, name) == getattr(run, name)
    assert frame_of(loaded) == frame_of(run)
    assert str(loaded.summary()) == str(run.summary())
    assert_same(run.trace, Trace.load(tmp_path / "run.safetensors"))


def test_a_loaded_trace_shows_in_the_live_view(run, tmp_path):
    """Routing, hits, moves and times are the run's; the text is not known."""
    trace = Trace.load(run.trace.save(tmp_path / "t.safetensors"))
    view = trace.view()
    assert view.status == "stop" and view.info["model"] == trace.info.model
    seen, shown = frame_of(Run.load(tmp_path / "t.safetensors")), frame_of(run)
    assert seen.text == ""
    for name in ("experts_of", "hits_of", "count", "move", "move_step"):
        np.testing.assert_array_equal(getattr(seen, name), getattr(shown, name), name)


def test_a_trace_of_a_few_arrays_says_what_it_lacks(tmp_path):
    """Only routing and weights: the others are absent, and no number is made up for them."""
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
    assert frame_of(Run.of(trace)).totals.lookups == 0
    assert Trace.load(trace.save(tmp_path / "ours.safetensors")).info == trace.info


def test_traces_of_real_models_load():
    """Those at hand have the routing that their files have, and show in the live view."""
    routings = real()
    for path in real_paths():
        trace = Trace.load(path)
        np.testing.assert_array_equal(trace.experts, routings[path.stem].experts)
        assert trace.view().status == "stop"


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda data: data[: len(data) // 2], "no whole safetensors file"),
        (lambda data: b"", "no whole safetensors file"),
        (lambda data: b"PK\x03\x04 a zip" * 99, "no whole safetensors file"),
    ],
)
def test_what_is_no_trace_says_so(run, tmp_path, spoil, said):
    """Cut short, empty or something else: one sentence, and what to do."""
    path = run.trace.save(tmp_path / "t.safetensors")
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(TraceError, match=said):
        Trace.load(path)


def test_other_files_and_versions_say_so(run, tmp_path):
    """A safetensors file without routing, a version of the future, a damaged table, no file."""
    path = tmp_path / "t.safetensors"
    with pytest.raises(TraceError, match="there is no file"):
        Trace.load(path)
    save_file({"weight": np.zeros(3, np.float32)}, path)
    with pytest.raises(TraceError, match="but no trace"):
        Trace.load(path)
    run.trace.save(path)
    arrays, about = load_file(path), _metadata(path)
    save_file(arrays, path, about | {"version": "99"})
    with pytest.raises(TraceError, match="version 99, and this program reads version 2"):
        Trace.load(path)
    save_file(arrays | {"reads.ns": arrays["reads.ns"][:20]}, path, about)
    with pytest.raises(TraceError, match="does not hold together"):
        Trace.load(path)


def _metadata(path):
    data = path.read_bytes()
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]


@contextmanager
def files_of_at_most(nbytes: int):
    """A disk that is full after so many bytes, as the operating system tells it."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_keeps_the_old_file(run, tmp_path):
    """One clear error; the file that was there is still there, and nothing lies about."""
    path = run.trace.save(tmp_path / "t.safetensors")
    before = path.read_bytes()
    with files_of_at_most(100), pytest.raises(TraceError, match="nothing changed there"):
        replace(run.trace, tokens=run.trace.tokens + 1).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(TraceError, match="could not be written"):
        run.trace.save(tmp_path / "no such folder" / "t.safetensors")


def test_a_thousand_tokens_of_a_large_model_are_small(tmp_path):
    """48 layers, top-8, one expert in two read from disk: less than 4 MB."""
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
    for name in ("start_ns", "ns", "route_ns", "lookup_ns", "read_wait_ns", "install_ns"):
        calls[name] = rng.integers(10**7, 10**8, steps)
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
    )
    path = trace.save(tmp_path / "large.safetensors")
    assert path.stat().st_size < 4_000_000
    assert_same(trace, Trace.load(path))
