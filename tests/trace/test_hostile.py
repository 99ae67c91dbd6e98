"""Files from strangers: whatever a saved run says is checked before anything is indexed with it."""

from __future__ import annotations

import json
import resource
import zlib
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

from outlier_jupyter import Run, Trace, load
from outlier_jupyter.errors import OptionError, TraceError
from outlier_jupyter.residency.replay import simulate
from outlier_jupyter.trace.files import _deflate
from outlier_jupyter.trace.what_if import routing_of


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run of the demo model in a file: its arrays and what stands beside them."""
    file = tmp_path_factory.mktemp("hostile") / "run.safetensors"
    with load("demo", cache_gb=0.002, quiet=True) as engine:
        engine.generate("first", max_tokens=2)
        engine.generate("What is an expert?", max_tokens=12).save(file)
    with safe_open(file, "np") as opened:
        about = opened.metadata()
        return file, {name: opened.get_tensor(name) for name in opened.keys()}, about  # noqa: SIM118


def written(saved, arrays=None, info=None, drop=()):
    """The file again, with something changed in it."""
    file, was, about = saved
    to = file.with_name("changed.safetensors")
    told = json.loads(about["info"]) | (info or {})
    kept = {n: a for n, a in (was | (arrays or {})).items() if n not in drop}
    save_file(kept, to, about | {"info": json.dumps(told)})
    return to


def used(trace: Trace) -> None:
    """All that walks through a trace."""
    trace.what_if()
    trace.times()
    run = Run.of(trace)
    run.measures()
    run.summary()
    if (trace.produced >= 0).any():
        run.explain(1)


def test_what_is_not_changed_is_still_read(saved):
    """The file as it was written, and every part of it is used."""
    used(Trace.load(written(saved)))


PACKED = ("reads.step", "reads.layer", "reads.expert", "evictions.step", "evictions.by_layer",
          "evictions.by_expert", "calls.first_step", "calls.steps", "calls.phase")  # fmt: skip


@pytest.mark.parametrize("value", [-(2**40), -2, 500, 2**31, 2**62])
@pytest.mark.parametrize("name", PACKED)
def test_a_column_that_points_elsewhere_is_refused(saved, name, value):
    """Steps, layers and experts that are not there, by the column's name."""
    length = int(np.frombuffer(saved[1][name].tobytes()[:8], "<i8")[0])
    to = written(saved, {name: _deflate(np.full(length, value))})
    with pytest.raises(TraceError, match=name.split(".")[0]):
        Trace.load(to)


@pytest.mark.parametrize("value", [-2, 32, 127, 30000])
def test_an_expert_that_its_layer_has_not_is_refused(saved, value):
    """In what was chosen and in what was resident."""
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
    """Or the file is refused, in one sentence."""
    with pytest.raises(TraceError) as caught:
        Trace.load(written(saved, info=info))
    assert len(str(caught.value)) < 600


def test_a_trace_of_another_program_is_held_to_what_it_says(tmp_path):
    """64 experts, and an id of 127."""
    file = tmp_path / "foreign.safetensors"
    save_file({"experts": np.full((4, 2, 2), 127, np.int16)}, file, {"num_experts": "64"})
    with pytest.raises(TraceError, match="expert 127"):
        Trace.load(file)


def test_memory_is_taken_for_what_a_file_holds_and_no_more(saved, tmp_path):
    """Neither a shape without data nor a column that unpacks to gigabytes is believed."""
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
    """Whoever made it: compiled loops do not look."""
    trace = Trace.load(saved[0])
    trace.experts[0, 0, 0] = 99
    with pytest.raises(TraceError, match="expert 99"):
        routing_of(trace)
    with pytest.raises(TraceError):
        trace.what_if()


def test_a_replay_takes_only_keys_that_there_are(saved):
    """What was resident before is checked as well."""
    routing = routing_of(Trace.load(saved[0]))
    for key in ((99, 0), (0, 99), (-1, 0)):
        with pytest.raises(ValueError, match="resident"):
            simulate(routing, "lru", 8, [key])


@given(data=st.data())
def test_a_file_changed_anywhere_is_refused_or_can_be_used(saved, data):
    """Bytes of any array, at any place: no crash, no other error."""
    name = data.draw(st.sampled_from(sorted(saved[1])))
    array = saved[1][name].copy()
    raw = array.reshape(-1).view(np.uint8)
    if not raw.size:
        return
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, raw.size - 1))] = data.draw(st.integers(0, 255))
    drop = data.draw(st.sets(st.sampled_from(sorted(saved[1])), max_size=2))
    try:
        trace = Trace.load(written(saved, {name: array}, drop=drop))
    except TraceError:
        return
    with suppress(TraceError, OptionError):
        used(trace)
