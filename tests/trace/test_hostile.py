"""Hostile files: everything a saved run contains is validated before it is used as an index."""

from __future__ import annotations

import json
import os
import resource
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

from outlier_jupyter import Run, Trace, atlas, compare, load
from outlier_jupyter.errors import OutlierError, TraceError
from outlier_jupyter.residency.replay import simulate
from outlier_jupyter.trace.column_packing import deflate
from outlier_jupyter.trace.divergence import correlation_time
from outlier_jupyter.trace.equal_caches import replay_lru
from outlier_jupyter.trace.routing_measures import (
    choices,
    over_time,
    overlaps,
    router_confidence,
    routing_measures,
)
from outlier_jupyter.trace.what_if import WhatIf, routing_of


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run of the demo model in a file: path, arrays and metadata."""
    file = tmp_path_factory.mktemp("hostile") / "run.safetensors"
    with load("demo", cache_gb=0.002, quiet=True) as engine:
        engine.generate("first", max_tokens=2)
        engine.generate("What is an expert?", max_tokens=12).save(file)
    with safe_open(file, "np") as opened:
        about = opened.metadata()
        return file, {name: opened.get_tensor(name) for name in opened.keys()}, about  # noqa: SIM118


def written(saved, arrays=None, info=None, drop=(), run=None):
    """Write the file again with changes, and return its path."""
    file, was, about = saved
    to = file.with_name("changed.safetensors")
    content = json.loads(about["info"]) | (info or {})
    kept = {n: a for n, a in (was | (arrays or {})).items() if n not in drop}
    texts = json.dumps(json.loads(about["run"]) | (run or {}))
    save_file(kept, to, about | {"info": json.dumps(content), "run": texts})
    return to


def used(run: Run, other: Run, folder) -> None:
    """Call every method of a run; a failure must be one of our errors, in one sentence."""
    trace = run.trace
    questions = (
        trace.what_if,
        trace.times,
        trace.to_pandas,
        run.measures,
        run.summary,
        run.view,
        run._repr_mimebundle_,
        lambda: str(run.explain(-1)) + run.explain(-1)._repr_html_(),
        lambda: compare({"this": run, "that": other}, permutations=5)._repr_html_(),
        lambda: atlas([run]),
        lambda: run.report(folder / "report.html"),
        lambda: run.tokens_of(0, 0)._repr_html_(),
        lambda: run.experts_of(slice(1, 3))._repr_html_(),
        lambda: Run.load(run.save(folder / "again.safetensors")),
    )
    for question in questions:
        try:
            question()
        except OutlierError as error:
            assert len(str(error)) <= 300, error


def test_what_is_not_changed_is_still_read(saved):
    """The unchanged file loads, and every part of it can be used."""
    run = Run.load(written(saved))
    assert run.text == Run.load(saved[0]).text and run.explain(1) and len(run.measures().choices)
    used(run, run, saved[0].parent)


PACKED = ("reads.step", "reads.layer", "reads.expert", "evictions.step", "evictions.by_layer",
          "evictions.by_expert", "calls.first_step", "calls.steps", "calls.phase")  # fmt: skip


@pytest.mark.parametrize("value", [-(2**40), -2, 500, 2**31, 2**62])
@pytest.mark.parametrize("name", PACKED)
def test_a_column_that_points_elsewhere_is_refused(saved, name, value):
    """The error for steps, layers and experts out of range names the column."""
    length = int(np.frombuffer(saved[1][name].tobytes()[:8], "<i8")[0])
    to = written(saved, {name: deflate(np.full(length, value))})
    with pytest.raises(TraceError, match=name.split(".")[0]):
        Trace.load(to)


@pytest.mark.parametrize("value", [-2, 32, 127, 30000])
def test_an_expert_that_its_layer_has_not_is_refused(saved, value):
    """An invalid expert is refused in the routing and among the resident experts."""
    for name in ("experts", "resident_at_start"):
        ids = saved[1][name].copy()
        ids.flat[-1] = value
        with pytest.raises(TraceError, match=name):
            Trace.load(written(saved, {name: ids}))


@pytest.mark.parametrize(
    "info",
    [
        {"experts_per_layer": [8] * 6}, {"experts_per_layer": [32]}, {"experts_per_layer": "x"},
        {"experts_per_layer": [10**9] * 6}, {"banks": [7]}, {"slots": -1}, {"slots": "many"},
        {"expert_nbytes": [2**60] * 6}, {"disk_rate": "fast"}, {"layer_names": [1] * 6},
    ],
)  # fmt: skip
def test_what_a_file_says_of_its_model_fits_its_arrays(saved, info):
    """If the metadata does not fit the arrays, one sentence refuses the file."""
    with pytest.raises(TraceError) as caught:
        Trace.load(written(saved, info=info))
    assert len(str(caught.value)) <= 300


def test_a_trace_of_another_program_is_validated(tmp_path):
    """A file that declares 64 experts and has an id of 127 is refused."""
    file = tmp_path / "foreign.safetensors"
    save_file({"experts": np.full((4, 2, 2), 127, np.int16)}, file, {"num_experts": "64"})
    with pytest.raises(TraceError, match="expert 127"):
        Trace.load(file)


def test_memory_is_taken_for_what_a_file_holds_and_no_more(saved, tmp_path):
    """Neither a shape without data nor a column that unpacks to gigabytes is allocated."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    file = tmp_path / "empty.safetensors"
    save_file({"experts": np.zeros((0, 2**26, 1), np.int16)}, file)
    with pytest.raises(TraceError):
        Trace.load(file)
    squeezed = zlib.compress(bytes(2**24), 9)
    for count in (2**24, 2**31, -1):
        head = np.array([count, 1], "<i8").tobytes()
        column = np.frombuffer(head + squeezed, np.uint8)
        with pytest.raises(TraceError, match=r"calls\.ns"):
            Trace.load(written(saved, {"calls.ns": column}))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def test_a_trace_made_in_memory_is_checked_before_it_is_walked_through(saved):
    """The check is needed for every trace: compiled loops check no index."""
    trace = Trace.load(saved[0])
    trace.experts[0, 0, 0] = 99
    with pytest.raises(TraceError, match="expert 99"):
        routing_of(trace)
    with pytest.raises(TraceError):
        trace.what_if()


def test_a_replay_takes_only_keys_that_there_are(saved):
    """The replay also checks the experts resident at the start."""
    routing = routing_of(Trace.load(saved[0]))
    for keys in ([(99, 0)], [(0, 99)], [(-1, 0)], [(0, 1), (0, 1)]):
        with pytest.raises(ValueError, match="at_start names an expert"):
            simulate(routing, "lru", 8, keys)


def test_every_compiled_walk_is_behind_the_check(saved):
    """With an invalid id or arrays of other lengths, no compiled loop starts."""
    good = Trace.load(saved[0])
    experts = good.experts.copy()
    experts[0, 0, 0] = 200
    broken = (
        replace(good, experts=experts),
        replace(good, experts=good.experts.astype(np.float32)),
        replace(good, experts=good.experts[:-1]),
        replace(good, phase=good.phase[:-1]),
        replace(good, weights=good.weights[:-1]),
        replace(good, resident_at_start=np.array([[0, 1], [0, 1]], np.int16)),
        replace(good, info=replace(good.info, experts_per_layer=(4,) * good.layers)),
    )
    for trace in broken:
        for walk in (routing_measures, overlaps, router_confidence, over_time, correlation_time,
                     WhatIf, lambda trace: choices(trace, np.zeros(good.steps, int), 1),
                     lambda trace: replay_lru(trace, 8),
                     lambda trace: compare({"a": trace, "b": good}, permutations=3),
                     ):  # fmt: skip
            with pytest.raises(TraceError, match="is not valid"):
                walk(trace)
    calls = good.calls.copy()
    calls["first_step"][1] = 2**30
    with pytest.raises(TraceError, match="not its steps"):
        routing_of(replace(good, calls=calls))


def test_an_expert_that_a_token_names_twice_is_active_once(saved):
    """Some routers repeat an id; segment counts stay in range and equal those without repeats."""
    good = Trace.load(saved[0])
    twice, once = good.experts.copy(), good.experts.copy()
    twice[:, :, 1] = twice[:, :, 0]
    once[:, :, 1] = -1
    found, wanted = (routing_measures(replace(good, experts=e), None, 4) for e in (twice, once))
    np.testing.assert_array_equal(found.srp, wanted.srp)


def test_a_segment_longer_than_the_trace_takes_no_memory(saved):
    """There is no such segment, and no length of it allocates memory."""
    trace = Trace.load(saved[0])
    assert np.isnan(routing_measures(trace, None, segment=2**50).srp).all()


def test_a_measured_run_that_read_more_than_it_chose_comes_back(tmp_path):
    """With `measure_loss` and a smaller top-k, the exact model's reads are recorded too."""
    with load("demo", cache_experts=6, quiet=True) as engine:
        run = engine.generate("What is an expert?", max_tokens=12, top_k=1, measure_loss=True)
    assert len(run.trace.reads) > run.trace.experts.size
    again = Run.load(run.save(tmp_path / "measured.safetensors"))
    np.testing.assert_array_equal(again.trace.reads, run.trace.reads)
    assert again.summary() == run.summary()


@pytest.mark.parametrize(
    ("column", "value"),
    [("calls.ns", -1), ("reads.ns", -5), ("reads.nbytes", -1), ("reads.nbytes", 2**59),
     ("reads.start_ns", -(2**63)), ("layer_us", 2**40)],
)  # fmt: skip
def test_times_and_bytes_that_cannot_be_are_refused(saved, column, value):
    """Impossible times and sizes are refused, and sums that would overflow."""
    rows = int(np.frombuffer(saved[1]["reads.step"].tobytes()[:8], "<i8")[0])
    if column in saved[1]:
        rows = int(np.frombuffer(saved[1][column].tobytes()[:8], "<i8")[0])
    values = np.full(rows, value)
    with pytest.raises(TraceError, match=column):
        Trace.load(written(saved, {column: deflate(values)}))


@pytest.mark.parametrize(
    "run",
    [
        {"prompt": 3}, {"text": None}, {"tokens": "x"}, {"tokens": [2**31]}, {"tokens": [None]},
        {"tokens": [float("nan")]}, {"text_ends": [5, 3]}, {"text_ends": [-1]},
        {"text_ends": [1] * 99}, {"pieces": {"x": "y"}}, {"pieces": [1]}, {"finish_reason": []},
    ],
)  # fmt: skip
def test_texts_of_a_run_that_are_none_are_refused(saved, run):
    """`Run.load` and `Trace.load` both refuse them."""
    file = written(saved, run=run)
    for read in (Run.load, Trace.load):
        with pytest.raises(TraceError, match=next(iter(run))):
            read(file)


def test_half_a_character_is_replaced(saved, tmp_path):
    """A page cannot contain a lone surrogate: reports and names have a replacement character."""
    file = written(saved, run={"text": "a\ud800b", "prompt": "\udfff"}, info={"model": "\ud9ff"})
    run = Run.load(file)
    assert (run.text, run.prompt, run.trace.info.model) == ("a\ufffdb", "\ufffd", "\ufffd")
    assert "<h1>Run of \ufffd</h1>" in run.report(tmp_path / "report.html").read_text("utf-8")


def test_what_is_no_file_is_not_waited_for(tmp_path):
    """A pipe without a writer and a folder are refused at once."""
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", tmp_path):
        with pytest.raises(TraceError, match="is not a file"):
            Trace.load(place)


def test_of_a_file_of_something_else_nothing_large_is_read(tmp_path):
    """A model's shard is refused by its header, without reading its gigabytes of data; arrays
    without data can claim any length, and are refused.
    """
    header = {"model.embed": {"dtype": "U8", "shape": [2**31], "data_offsets": [0, 2**31]},
              "experts": {"dtype": "I16", "shape": [2**28, 0, 8],
                          "data_offsets": [2**31, 2**31]}}  # fmt: skip
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for names in (["model.embed"], ["model.embed", "experts"]):
        content = json.dumps({name: header[name] for name in names}).encode()
        file = tmp_path / "shard.safetensors"
        with file.open("wb") as out:
            out.write(len(content).to_bytes(8, "little") + content)
            out.truncate(8 + len(content) + 2**31)
        with pytest.raises(TraceError, match=r"shard\.safetensors"):
            Trace.load(file)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


@pytest.mark.parametrize(
    "about",
    [{"num_experts": "many"}, {"num_experts": "-4"}, {"num_experts": "9" * 40}, {"top_k": "0"},
     {"num_experts": "4", "top_k": "8"}],
)  # fmt: skip
def test_numbers_that_another_program_says_are_numbers(tmp_path, about):
    """If a field is not a valid number, the file is refused with the field's name."""
    file = tmp_path / "foreign.safetensors"
    save_file({"experts": np.zeros((4, 2, 2), np.int16)}, file, about)
    with pytest.raises(TraceError, match=list(about)[-1]):
        Trace.load(file)


JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=8),
    st.lists(st.one_of(st.integers(-1, 2**40), st.text(max_size=3), st.none()), max_size=8),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=3),
)  # fmt: skip
COLUMNS = st.one_of(
    st.integers(-(2**62), 2**62).map(lambda value: lambda rows: np.full(rows, value)),
    st.integers(0, 2**32 - 1).map(
        lambda seed: lambda rows: np.random.default_rng(seed).integers(-1, 40, rows)
    ),
    st.integers(-1, 1).map(lambda more: lambda rows: np.arange(max(rows + more, 0))),
    st.integers(0, 6).map(lambda most: lambda rows: np.random.default_rng(0).integers(
        0, most + 1, rows)),
)  # fmt: skip


@given(data=st.data())
@settings(deadline=None)
def test_a_file_that_says_anything_is_refused_or_can_be_used(saved, data):
    """The metadata has any texts and numbers, and whole columns are replaced."""
    _, was, about = saved
    info, run = json.loads(about["info"]), json.loads(about["run"])
    chosen = data.draw(st.sampled_from(["info", "options", "run", "column"]))
    changed: dict[str, Any] = {}
    if chosen == "column":
        name = data.draw(st.sampled_from([n for n in sorted(was) if "." in n or n == "layer_us"]))
        rows = int(np.frombuffer(was[name].tobytes()[:8], "<i8")[0])
        changed["arrays"] = {name: deflate(data.draw(COLUMNS)(rows))}
    elif chosen == "options":
        name = data.draw(st.sampled_from(sorted(info["options"])))
        changed["info"] = {"options": info["options"] | {name: data.draw(JUNK)}}
    else:
        name = data.draw(st.sampled_from(sorted(info if chosen == "info" else run)))
        changed[chosen] = {name: data.draw(JUNK)}
    refused_or_used(written(saved, **changed), saved)


def refused_or_used(file, saved) -> None:
    """Loading raises one sentence that names the file, or returns a run that works completely."""
    try:
        run = Run.load(file)
    except TraceError as error:
        assert len(str(error)) <= 300 and file.name in str(error)
        return
    used(run, Run.load(saved[0]), file.parent)


@given(data=st.data())
def test_a_file_changed_anywhere_is_refused_or_can_be_used(saved, data):
    """Changed bytes in any array, at any offset, cause no crash and no other error."""
    name = data.draw(st.sampled_from(sorted(saved[1])))
    array = saved[1][name].copy()
    raw = array.reshape(-1).view(np.uint8)
    if not raw.size:
        return
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, raw.size - 1))] = data.draw(st.integers(0, 255))
    drop = data.draw(st.sets(st.sampled_from(sorted(saved[1])), max_size=2))
    refused_or_used(written(saved, {name: array}, drop=drop), saved)


@given(data=st.data())
def test_a_file_cut_or_changed_in_its_header_is_refused_or_can_be_used(saved, data):
    """Changed bytes are in the header's length, arrays' names, shapes and offsets, or metadata."""
    raw = bytearray(saved[0].read_bytes())
    head = 8 + int.from_bytes(raw[:8], "little")
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, head - 1))] = data.draw(st.integers(0, 255))
    file = saved[0].with_name("changed.safetensors")
    file.write_bytes(raw[: data.draw(st.sampled_from([len(raw), len(raw) - 1, head, 8, 3]))])
    refused_or_used(file, saved)
