"""What a run would read on n machines is exact by the replay; its speed is by a stated formula."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from outlier_jupyter.errors import OptionError, TraceError
from outlier_jupyter.notebook.render.figures import Figures
from outlier_jupyter.residency.placement import even
from outlier_jupyter.residency.replay import simulate
from outlier_jupyter.residency.resample import recorded
from outlier_jupyter.system import machine_speed
from outlier_jupyter.system.machine_speed import COMPUTE as KERNELS
from outlier_jupyter.system.machine_speed import READ, TURNS, WAIT_S, MachineSpeed, keep_speed
from outlier_jupyter.trace.hosts_answer import hosts_answer
from outlier_jupyter.trace.what_if import what_if
from outlier_jupyter.trace.what_if_hosts import Network, what_if_hosts
from tests.residency.routings import routing_of
from tests.trace.made import COMPUTE, NBYTES, PER_BYTE, WAIT, timed_trace

MACHINE = MachineSpeed(25e9, 2e9, 60e9, 20e6, "2026-01-31")
DENSE, EMBEDDED = 50_000_000, 10_000_000
FREE = Network(latency_ms=0, gb_per_s=1e6, layer_ms=0)


@pytest.fixture(scope="module")
def routing():
    return routing_of(recorded("olmoe-1b-7b")[:120], 64)


@pytest.fixture(scope="module")
def trace(routing):
    """On a machine with known costs, whose layers are timed."""
    return timed_trace(routing, slots=200, slowing=1.0)


def test_one_machine_is_the_run_itself(trace):
    """Hits, bytes and speed are those of `what_if` with the same cache."""
    [row] = what_if_hosts(trace, [1], network=FREE).to_dict("records")
    [same] = what_if(trace, [200], ["default"]).to_dict("records")
    assert row["decode_hit_rate"] == same["decode_hit_rate"]
    assert row["decode_bytes"] == row["busiest_bytes"] == same["decode_bytes"]
    assert row["tokens_per_second"] == pytest.approx(same["tokens_per_second"])
    assert row["imbalance"] == 1 and row["network_ms"] == 0


def test_each_machine_is_a_replay_of_its_own_experts(trace, routing):
    """Bytes of all and of the busiest; a layer waits for the machine that reads most."""
    [row] = what_if_hosts(trace, [4], slots=50, network=FREE).to_dict("records")
    own = np.stack(even(routing.experts_per_layer, 4))
    rank_of = own[np.arange(routing.experts.shape[1])[:, None], routing.experts]
    reads = [
        simulate(
            replace(routing, experts=np.where(rank_of == rank, routing.experts, -1)), "default", 50
        ).reads
        for rank in range(4)
    ]
    totals = [int(each.sum()) * NBYTES for each in reads]
    longest = np.max(reads, axis=0)
    assert (row["decode_bytes"], row["busiest_bytes"]) == (sum(totals), max(totals))
    assert row["decode_waits"] == int((longest > 0).sum())
    expected = WAIT * (longest > 0).sum() + PER_BYTE * NBYTES * longest.sum()
    assert row["read_ms"] == pytest.approx(expected / len(longest) / 1e6, rel=0.1)
    assert row["compute_ms"] == pytest.approx(COMPUTE / 1e6, rel=0.1)
    assert row["resident_gb"] == pytest.approx(50 * NBYTES / 1e9)


def test_the_network_s_term_is_stated():
    """Input to all, 2 (n - 1) steps of a ring, and the sum back; nothing with one machine."""
    network = Network(latency_ms=0.2, gb_per_s=1.0, layer_ms=0.3)
    assert network.exchange_ms(1, 1000, 8) == 0
    sent = 4 * (2 * 1000 + 8 * 1000 * (1 + 1)) / 1e6
    assert network.exchange_ms(2, 1000, 8) == pytest.approx(0.3 + 4 * 0.2 + sent)
    assert network.exchange_ms(64, 1000, 8) > 128 * 0.2


def test_a_measured_disk_and_a_learned_placement_are_used(trace):
    """A disk of a given rate prices the bytes; a placement by the run itself is better balanced."""
    slow, fast = (
        what_if_hosts(trace, [2], disk_rate=rate, network=FREE).iloc[0] for rate in (1e8, 1e10)
    )
    assert slow.read_ms > 10 * fast.read_ms
    evenly, balanced = (
        what_if_hosts(trace, [8], placement=kind).iloc[0] for kind in ("even", "learned")
    )
    assert balanced.imbalance < evenly.imbalance


@pytest.fixture(scope="module")
def weighed(trace):
    """The same, with the size of all weights and without any time."""
    info = replace(trace.info, dense_nbytes=DENSE, embedding_nbytes=EMBEDDED)
    calls = trace.calls.copy()
    for name in ("ns", "read_wait_ns", "install_ns", "experts_ns"):
        calls[name] = 0
    return replace(trace, info=info, calls=calls)


def test_a_measured_machine_replaces_the_run_s_times(trace, weighed):
    """Computing is bytes by memory's speed, reads by the disk's, as `plan`'s forecast has them.

    What is looked up and read is the run's, whose times are not needed.
    """
    [row] = what_if_hosts(weighed, [1], network=FREE, machine=MACHINE).to_dict("records")
    [own] = what_if_hosts(trace, [1], network=FREE).to_dict("records")
    assert (row["decode_bytes"], row["decode_waits"]) == (own["decode_bytes"], own["decode_waits"])
    layers, k = trace.experts.shape[1:]
    multiplied = DENSE - EMBEDDED + layers * k * NBYTES
    compute = TURNS / MACHINE.loops + KERNELS * multiplied / MACHINE.memory
    assert row["compute_ms"] == pytest.approx(1e3 * compute)
    read = WAIT_S * row["decode_waits"] + READ * row["decode_bytes"] / MACHINE.disk
    assert row["read_ms"] == pytest.approx(1e3 * read / trace.steps)
    unweighed = replace(weighed, info=replace(weighed.info, dense_nbytes=0, embedding_nbytes=0))
    with pytest.raises(TraceError, match="size of its model's weights"):
        what_if_hosts(unweighed, [1], machine=MACHINE)


def test_measured_machines_divide_the_experts_and_nothing_else(weighed):
    """The rest of the model stays on one machine; a faster one is faster, alone or with others."""
    frame = what_if_hosts(weighed, [1, 2, 64], network=FREE, machine=MACHINE)
    rest = TURNS / MACHINE.loops + MACHINE.multiply_s(DENSE - EMBEDDED)
    experts = frame.compute_ms / 1e3 - rest
    assert (experts > 0).all() and experts.is_monotonic_decreasing
    assert 0.5 <= experts[1] / experts[0] < 1
    for name in ("memory", "disk", "loops"):
        faster = replace(MACHINE, **{name: 2 * getattr(MACHINE, name)})
        found = what_if_hosts(weighed, [1, 2, 64], network=FREE, machine=faster)
        assert (found.tokens_per_second >= frame.tokens_per_second).all()
        assert found.tokens_per_second[0] > frame.tokens_per_second[0]
    named = what_if_hosts(weighed, [2], machine=MACHINE, disk_rate=1e8).iloc[0]
    assert named.read_ms > 10 * frame.read_ms[1] and named.compute_ms == frame.compute_ms[1]


def test_this_machine_is_taken_as_it_was_measured_last(weighed, tmp_path, monkeypatch):
    """Nothing is measured for it; where nothing was, the error says how to."""
    monkeypatch.setattr(machine_speed, "user_cache_path", lambda name: tmp_path)
    with pytest.raises(OptionError, match=r"was not measured: `%outlier plan MODEL --measure`"):
        what_if_hosts(weighed, [1], machine="measured")
    assert not list(tmp_path.iterdir())
    keep_speed(MACHINE)
    kept, same = (what_if_hosts(weighed, machine=each) for each in ("measured", MACHINE))
    assert kept.equals(same)
    answer = hosts_answer(weighed, machine="measured")
    text = " ".join(str(answer).split())
    assert "By prediction from a measured machine's speeds, not the run's times, " in text
    assert "disk 2 GB/s" in text and "measured on 2026-01-31" in text and "factors" in text
    note = " ".join(Figures(weighed).machines(machine="measured").layout.xaxis2.title.text.split())
    assert "a measured machine's speeds" in note.replace("<br>", " ")


@pytest.mark.parametrize("name", [field.name for field in fields(MachineSpeed)][:4])
@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), "fast", None])
def test_speeds_that_are_none_are_refused(name, value):
    """Zero, below zero, not finite, or no number."""
    with pytest.raises(OptionError, match=name):
        replace(MACHINE, **{name: value})


def test_the_answer_states_what_it_rests_on(trace):
    """To 64 machines, with the costs, the network and the assumptions."""
    found = hosts_answer(trace)
    assert found.frame.hosts.tolist() == [1, 2, 4, 8, 16, 32, 64]
    text = " ".join(str(found).split())
    assert "By prediction from the run's own times, " in text and "the network: 0.100 ms" in text
    assert "nothing overlaps with an exchange" in text and "<table" in found._repr_html_()


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"hosts": [0]}, "from 1 to 64"),
        ({"hosts": [65]}, "from 1 to 64"),
        ({"hosts": []}, "from 1 to 64"),
        ({"slots": 0}, "of each machine"),
        ({"placement": "best"}, "placement"),
        ({"policy": "best"}, "policy"),
        ({"disk_rate": 0}, "bytes a second"),
        ({"machine": "fast"}, "machine='fast'"),
        ({"machine": 3}, "a MachineSpeed"),
        ({"network": Network(gb_per_s=0)}, "gb_per_s=0"),
        ({"network": Network(latency_ms=-1)}, "latency_ms=-1"),
    ],
)
def test_figures_that_cannot_be_used_are_refused(trace, options, what):
    """In one sentence."""
    with pytest.raises(OptionError, match=what):
        what_if_hosts(trace, **options)


def test_a_run_of_several_machines_is_refused(trace):
    """Its times are not those of one."""
    many = replace(trace, info=replace(trace.info, hosts=("a", "b")))
    with pytest.raises(TraceError, match="a run of one process"):
        what_if_hosts(many)


def test_the_figure_shows_the_predictions_and_what_they_assume(trace):
    """Bars are the parts of a token's time, the line its speed, of 1 to 64 machines."""
    figure = Figures(trace).machines()
    frame = what_if_hosts(trace)
    parts = {bar.name: np.asarray(bar.y) for bar in figure.data if bar.name}
    names = {"computing": "compute_ms", "waiting for reads": "read_ms", "network": "network_ms"}
    for name, column in names.items():
        np.testing.assert_allclose(parts[name], frame[column])
    np.testing.assert_allclose(sum(parts.values()), frame.token_ms)
    assert list(figure.data[-1].x) == ["1", "2", "4", "8", "16", "32", "64"]
    np.testing.assert_allclose(figure.data[-1].y, frame.tokens_per_second)
    assert "Predicted, not measured" in figure.layout.title.text
    assert "Assumed: " in figure.layout.xaxis2.title.text
    assert "GB/s" in figure.layout.xaxis2.title.text
    untimed = replace(trace, calls=trace.calls.copy())
    untimed.calls["ns"] = 0
    assert "no times" in " ".join(n.text for n in Figures(untimed).machines().layout.annotations)
