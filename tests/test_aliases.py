"""Code and files for the previous release work: its names, module paths, keys and files."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, fields, replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import outlier_jupyter
from outlier_jupyter import Ablation, Comparison, Run, Sweep, Trace, events, testing
from outlier_jupyter.aliases import MOVED, alias, old_arguments
from outlier_jupyter.engine.plan import CacheSize
from outlier_jupyter.notebook.chat.conversations import Conversations
from outlier_jupyter.notebook.commands import COMMANDS
from outlier_jupyter.notebook.commands.run import cell_parser
from outlier_jupyter.notebook.commands.status import as_json
from outlier_jupyter.options import LoadOptions, make
from outlier_jupyter.paging import Intervention
from outlier_jupyter.trace import explain
from outlier_jupyter.trace.divergence import RoutingDivergence
from outlier_jupyter.trace.equal_caches import StartingCache
from outlier_jupyter.trace.explain import Miss
from outlier_jupyter.trace.measures import Summary

OLD_NAMES = {
    Summary: {
        "hit_words": "hit_text",
        "loss_words": "loss_text",
    },
    Intervention: {"words": "phrases"},
    Miss: {
        "left_at": "evicted_at",
        "taken_by": "evicted_by",
        "held_by_belady": "resident_under_belady",
    },
    RoutingDivergence: {"stays": "correlation_time"},
    StartingCache: {"held": "resident"},
    Comparison: {"warmth": "starting_caches", "parting": "divergence"},
    Ablation: {"foreseen": "requested"},
    Sweep: {"asked": "options"},
    CacheSize: {"tokens": "working_sets"},
}


def test_an_alias_reads_the_new_attribute_and_is_no_field():
    """The old name reads a field of the dataclass, is no field itself, and cannot be set."""

    @dataclass
    class Record:
        resident: int
        held = alias("resident")

    record = Record(3)
    assert record.held == 3 and [field.name for field in fields(Record)] == ["resident"]
    record.resident = 4
    assert record.held == 4
    with pytest.raises(AttributeError):
        record.held = 5
    assert "`resident`" in (Record.held.__doc__ or "")


@pytest.mark.parametrize("kind", OLD_NAMES, ids=lambda kind: kind.__name__)
def test_old_names_read_what_the_new_ones_do(kind):
    """Each old name of a record is an alias of one of its attributes or methods."""
    record = object.__new__(kind)
    marks = {new: np.array([i]) for i, new in enumerate(OLD_NAMES[kind].values())}
    vars(record).update(marks)
    for old, new in OLD_NAMES[kind].items():
        assert new in {field.name for field in fields(kind)} or callable(getattr(kind, new))
        assert getattr(record, old) is getattr(record, new), old


KEPT = Path(__file__).parent / "kept"
"""Files that the previous release wrote."""


def test_events_and_fakes_have_their_old_names():
    """Old and new are one class, so that subscribing to the old name receives the events."""
    assert events.HeldLayers is events.ResidentLayers
    assert testing.HeldReader is testing.PausedReader
    assert explain.LayerStory is explain.ExplainedLayer
    assert events.Served(0, 1, 2, 3, 4).told_ns == 4
    assert events.StepDone(0, 1, 2, 3, 4).told_ns == 4
    for module in (events, testing):
        with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
            module.Nothing  # noqa: B018
        with pytest.raises(ImportError):
            exec(f"from {module.__name__} import Nothing")


def test_layers_reported_together_come_apart_by_the_old_name():
    """`singly()` is `events()`."""
    experts = np.zeros((2, 1), np.int32)
    layers = events.ResidentLayers(
        np.arange(2), experts, experts.astype(np.float32), np.zeros(2, int), np.ones(2, int)
    )
    assert [str(each) for each in layers.singly()] == [str(each) for each in layers.events()]


DOCUMENTED = {
    "bench.short": {"short": "short"},
    "checkpoint.reader": {"DirectReader": "DirectReader"},
    "hub": {"DOWNLOADED": "DOWNLOADED"},
    "loading": {"load": "load"},
    "machine": {"measure_memory": "measure_memory"},
    "notebook.desk": {"Desk": "MessageHandler"},
    "notebook.routes": {"keep_reading": "fix_unread_requests"},
    "planning": {"Plan": "Plan", "plan": "plan"},
    "repacking": {"measure_disk": "measure_disk", "repack": "repack"},
    "run": {"Run": "Run"},
    "transcript": {"Transcript": "Transcript"},
    "uses": {"tokens_of": "tokens_of"},
}
"""Old path of a module → names that users may take from it, and their names now."""


@pytest.mark.parametrize("old", DOCUMENTED)
def test_documented_modules_have_their_old_paths(old):
    """They import by the old path, and their functions are those of the new one."""
    module = import_module(f"outlier_jupyter.{old}")
    new = import_module(f"outlier_jupyter.{MOVED[old]}")
    for name, now in DOCUMENTED[old].items():
        assert getattr(module, name) is getattr(new, now)
    assert f"outlier_jupyter.{MOVED[old]}" in (module.__doc__ or "")
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        module.nothing  # noqa: B018


OLD_LINES = """
import outlier_jupyter as package
print(package.machine.measure_memory.__name__, package.bench.short.short.__name__)
print(package.repacking.measure_disk.__name__)
import outlier_jupyter.notebook.routes
outlier_jupyter.notebook.routes.keep_reading()
from outlier_jupyter.bench import short
import outlier_jupyter.bench.short as again
assert short is again
try:
    import outlier_jupyter.nothing
except ModuleNotFoundError as error:
    print(error.name)
"""


def test_old_paths_work_in_a_new_process():
    """They work as attributes of the package and in every form of import; others are refused."""
    out = subprocess.run(
        [sys.executable, "-c", OLD_LINES], capture_output=True, text=True, check=True
    )
    assert out.stdout.split() == [
        "measure_memory", "short", "measure_disk", "outlier_jupyter.nothing"
    ]  # fmt: skip


def test_the_engine_s_module_is_a_package_with_its_names():
    """`from outlier_jupyter.engine import Engine` works, beside the modules of the package."""
    from outlier_jupyter import engine

    assert engine.Engine is outlier_jupyter.Engine
    assert engine.leave_thread is import_module("outlier_jupyter.engine.threads").leave_thread
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        engine.nothing  # noqa: B018


def test_old_arguments_are_the_new_ones():
    """A renamed keyword argument is accepted by both names."""

    @old_arguments(tell="report")
    def work(count, report=None):
        return count, report

    assert work(1, tell=2) == work(1, report=2) == work(1, 2) == (1, 2)
    short = import_module("outlier_jupyter.bench.short").short
    with pytest.raises(TypeError, match="'nothing'"):
        short(tell=print, nothing=1)


def test_a_plan_and_a_summary_as_json_have_their_old_keys():
    """The old keys are beside the new ones; numbers that were not counted are null."""
    for size in outlier_jupyter.plan("demo").to_dict()["sizes"]:
        assert size["tokens"] == size["working_sets"]
    found = json.loads(as_json(Run.load(KEPT / "run.safetensors").summary()))
    assert found["reads"] == 250 and found["read_p50_ms"] > 0
    assert "hit_words" not in found


def test_a_saved_run_opens():
    """Its text, numbers and reads are those that the previous release reported.

    Its table of reads that began before a router had chosen is not read any more.
    """
    run = Run.load(KEPT / "run.safetensors")
    assert run.text == "".join(run.pieces(run.tokens)) == "An expert is one small feed-"
    assert str(run.summary()).startswith(
        "157 tokens/s · hit rate in decode 48.2 %, in prefill 2.5 % · 10.4 MB in 250 reads"
    )
    options = run.trace.info.options
    assert options["policy"] == "predictive" and options["lookahead"] == "on"
    assert run.explain(2).misses and run.experts_of(slice(0, 3))
    replayed = run.trace.what_if([24], ["habit", "default", "predictive"])
    assert replayed.policy.unique().tolist() == ["predictive"]
    assert Trace.load(KEPT / "run.safetensors").steps == run.trace.steps == 22


def test_a_saved_chat_opens():
    """Both branches of its conversation, with the numbers of the answers."""
    chat = Conversations()
    chat.add_from((KEPT / "chat.json").read_text())
    messages = chat.current.messages
    assert [each.role for each in messages.values()] == ["user", "assistant"] * 3
    assert messages[5].parent == messages[3].parent == 2
    assert messages[4].numbers["reused"] == 15 and messages[6].ended == "stop"


def test_habit_is_accepted_wherever_a_policy_is():
    """The old name works in calls, in commands, and as the policy of a saved trace."""
    assert make(LoadOptions, {"policy": "habit"}).policy == "predictive"
    assert COMMANDS["load"].parser().parse_args(["demo", "--policy", "habit"]).policy == "habit"
    assert COMMANDS["what-if"].parser().parse_args(["--policy", "habit"]).policies == ["habit"]
    trace = Trace.load(KEPT / "run.safetensors")
    assert trace.slots_for(0.5, policy="habit") == trace.slots_for(0.5, policy="predictive")
    earlier = replace(trace, info=replace(trace.info, policy="habit"))
    assert earlier.what_if([24]).equals(trace.what_if([24]))
    with outlier_jupyter.load("demo", cache_experts=24, policy="habit", quiet=True) as engine:
        assert engine.options.policy == "predictive"
        found = outlier_jupyter.sweep(
            engine, prompts=["Hi"], max_tokens=2, policy=["habit", "lru"], quiet=True
        )
    assert len(found.rows) == 2


def test_flags_keep_their_old_names():
    """`--slider` of `what-if` draws the figure; the cell has its flags."""
    assert COMMANDS["what-if"].parser().parse_args(["--slider"]).figure
    assert cell_parser().parse_args(["--measure-loss", "--mask", "5:13"]).measure_loss
