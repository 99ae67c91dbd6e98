"""Any value passed to a public function is accepted, or refused by our error in one sentence."""

from __future__ import annotations

import io
import os
import warnings
from dataclasses import fields
from fractions import Fraction
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError
from hypothesis import given
from hypothesis import strategies as st

import outlier_jupyter
from outlier_jupyter import Chat, Run, Trace
from outlier_jupyter.errors import OptionError, OutlierError
from outlier_jupyter.options import GenerateOptions, LoadOptions, make
from outlier_jupyter.system import hub

ODD = [
    None, "", "x", "\ud800", "\0", b"x", 5, 0, -1, 10**30, 10**5000, 2.5, 3.0, float("nan"),
    float("inf"), 1e308, True, np.float32(0.5), np.bool_(True), np.int64(7), np.array([1, 2]),
    np.array(3), mx.array([1, 2]), mx.array(2), [], ["a"], [1], [1.5], [10**6], ("a", None),
    {"a": 1}, {"a"}, Path("/nowhere/at/all"), object(), [("a", "b")], [(1.5, 2)], {(0, 1): "x"},
    [[]], [{}], [None], slice(1, 2), slice("a", 2), range(3), lambda: 1, io.StringIO("a"), int,
    (n for n in ("a", "b")), "x" * 400,
]  # fmt: skip
"""Odd values, passed in place of each argument."""

PROMPT = "one two"


@pytest.fixture(scope="module")
def engine(tiny):
    with outlier_jupyter.load(tiny, cache_experts=10, quiet=True) as engine:
        engine.tokenizer.eos_token_ids = set()
        yield engine


@pytest.fixture(scope="module")
def run(engine):
    return engine.generate(PROMPT, max_tokens=5, raw=True)


def refusal(call, value):
    """The message if `call(value)` is refused; anything but our errors is raised."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call(value)
    except OutlierError as error:
        return str(error)
    return ""


def of_engine(engine, run):
    def option(name):
        return lambda v: engine.generate(PROMPT, **{"max_tokens": 1, name: v})

    def routed(v):
        with engine.routing(mask=v):
            engine.generate(PROMPT, max_tokens=1)

    return {
        "generate": lambda v: engine.generate(v, max_tokens=1),
        "stream": lambda v: list(engine.stream(v, max_tokens=1)),
        "messages": lambda v: engine.generate([v], max_tokens=1),
        "content": lambda v: engine.generate([{"role": "user", "content": v}], max_tokens=1),
        "role": lambda v: engine.generate([{"role": v, "content": "x"}], max_tokens=1),
        **{f"generate {name}": option(name) for name in (
            "temperature", "seed", "stop", "system", "mask", "boost", "force", "top_k", "kv_bits",
            "prefill_chunk", "raw")},
        "routing": routed,
        "subscribe": lambda v: engine.subscribe(v)(),
        "subscribe kinds": lambda v: engine.subscribe(print, v)(),
        "resize": lambda v: engine.resize(cache_gb=v),
        "resize experts": lambda v: engine.resize(cache_experts=v),
        "load": lambda v: outlier_jupyter.load(v, quiet=True).close(),
        "load replacing": lambda v: outlier_jupyter.load("/nowhere", replacing=v),
        "plan": outlier_jupyter.plan,
        "plan ram_gb": lambda v: outlier_jupyter.plan("demo", ram_gb=v),
        "plan machine": lambda v: outlier_jupyter.plan("demo", machine=v),
        "plan revision": lambda v: outlier_jupyter.plan("demo", revision=v),
        "repack": lambda v: outlier_jupyter.repack(v, quiet=True),
        "repack folder": lambda v: outlier_jupyter.repack("/nowhere", v, quiet=True),
    }  # fmt: skip


def of_runs(engine, run):
    trace = run.trace
    return {
        "Run.load": Run.load, "Trace.load": Trace.load, "Run.of": Run.of,
        "save": run.save, "trace.save": trace.save, "report": run.report,
        "measures": run.measures, "explain": run.explain,
        **{f"compare_segments {n}": lambda v, n=n: run.compare_segments(
            **{"permutations": 9, n: v}) for n in ("first", "second", "permutations", "seed")},
        "explain rate": lambda v: run.explain(1, v), "step_of": run.step_of,
        "text_of": run.text_of, "piece": run.piece, "pieces": run.pieces,
        "piece_at": run.piece_at, "piece_after": run.piece_after,
        "run.tokens_of": lambda v: run.tokens_of(v, 1),
        "run.tokens_of expert": lambda v: run.tokens_of(1, v), "run.experts_of": run.experts_of,
        "repeated": outlier_jupyter.repeated,
        "tokens_of": lambda v: outlier_jupyter.tokens_of(v, 1, 1),
        "experts_of": lambda v: outlier_jupyter.experts_of(v, 1),
        "experts_of steps": lambda v: outlier_jupyter.experts_of(run, steps=v),
        "what_if": lambda v: trace.what_if(v), "what_if policies": lambda v: trace.what_if([6], v),
        "what_if after": lambda v: trace.what_if([6], after=v),
        "slots_for": trace.slots_for, "slots_for policy": lambda v: trace.slots_for(0.01, v),
        "slots_for after": lambda v: trace.slots_for(0.01, after=v),
        "trace.explain": trace.explain, "has": trace.has, "to_pandas": trace.to_pandas,
        "to_arrow": trace.to_arrow,
        **{f"figures.{name}": getattr(run.figures, name) for name in (
            "routing", "residency", "measures", "what_if", "atlas")},
    }  # fmt: skip


def of_studies(engine, run):
    compared = outlier_jupyter.compare([run, run], permutations=9)
    small = {"draws": 1, "max_tokens": 1, "quiet": True}
    ablated = outlier_jupyter.ablate(engine, "hi there", experts="0:1", **small)
    swept = outlier_jupyter.sweep(engine, prompts="hi", max_tokens=1, quiet=True, top_k=[2])
    return {
        "compare": outlier_jupyter.compare, "atlas": outlier_jupyter.atlas,
        **{f"compare {n}": lambda v, n=n: outlier_jupyter.compare(
            [run, run], **{"permutations": 9, n: v})
           for n in ("phase", "domains", "permutations", "slots", "seed")},
        **{f"atlas {n}": lambda v, n=n: outlier_jupyter.atlas([run], **{n: v})
           for n in ("by", "phase")},
        "ablate engine": lambda v: outlier_jupyter.ablate(v, "hi", "0:1"),
        **{f"ablate {n}": lambda v, n=n: outlier_jupyter.ablate(
            engine, **{"prompts": "hi", "experts": "0:1", **small, n: v})
           for n in ("prompts", "experts", "continuations", "among", "seed", "raw", "draws",
                     "max_tokens")},
        "sweep model": lambda v: outlier_jupyter.sweep(v, top_k=[2], quiet=True),
        **{f"sweep {n}": lambda v, n=n: outlier_jupyter.sweep(
            engine, **{"prompts": "hi", "max_tokens": 1, "quiet": True, "top_k": [2], n: v})
           for n in ("prompts", "max_tokens", "repeats", "temperature", "seed", "options",
                     "top_k")},
        "sweep cache": lambda v: outlier_jupyter.sweep(
            engine, prompts="hi", max_tokens=1, quiet=True, cache_experts=v),
        **{f"comparison.{n}": getattr(compared, n) for n in (
            "aligned", "divergence", "experts", "experts_figure", "figure", "tokens")},
        "comparison.tokens limit": lambda v: compared.tokens(0, 1, v),
        "comparison.experts alpha": lambda v: compared.experts(0, 1, v),
        **{f"ablation.{n}": getattr(ablated, n) for n in (
            "by_chance", "interval", "mean", "p", "to_pandas")},
        "ablation.p prompt": lambda v: ablated.p("change", v),
        **{f"sweep.{n}": getattr(swept, n) for n in (
            "of", "summed", "save", "to_pandas", "enough")},
    }  # fmt: skip


def of_widgets(engine, run):
    chat = Chat(engine, max_tokens=1)
    chat.send("hello")
    first, book = chat.messages[0], chat.conversations[0]
    return {
        "watch": lambda v: outlier_jupyter.watch(v, "x"),
        "side_by_side": lambda v: outlier_jupyter.side_by_side(run, v),
        "side_by_side names": lambda v: outlier_jupyter.side_by_side(run, run, v),
        "run.view": lambda v: run.view(beside=v),
        "watch prompt": lambda v: outlier_jupyter.watch(engine, v, max_tokens=1).wait(),
        "watch stop": lambda v: outlier_jupyter.watch(engine, "x", max_tokens=1, stop=v).wait(),
        "Chat": lambda v: Chat(v).close(),
        **{f"Chat {n}": lambda v, n=n: Chat(engine, **{n: v}).close() for n in (
            "temperature", "system", "seed", "max_tokens", "reuse_kv", "nothing")},
        **{f"chat.{n} =": lambda v, n=n: setattr(chat, n, v) for n in (
            "temperature", "seed", "max_tokens")},
        "chat.send": lambda v: chat.send(v, max_tokens=1),
        "chat.send option": lambda v: chat.send("x", max_tokens=1, stop=v),
        **{f"chat.{n}": getattr(chat, n) for n in (
            "add_from", "choose", "delete", "load", "regenerate", "run", "show_run", "switch",
            "save")},
        "chat.resize": lambda v: chat.resize(cache_experts=v),
        "chat.edit": lambda v: chat.edit(v, "x"),
        "chat.back": lambda v: chat.switch(book.id),
        "chat.edit text": lambda v: chat.edit(first.id, v),
        "chat.new": chat.new,
        "chat.rename": lambda v: chat.rename(v, "x"),
        "chat.rename title": lambda v: chat.rename(book.id, v),
    }  # fmt: skip


@pytest.mark.parametrize("calls", [of_engine, of_runs, of_studies, of_widgets])
def test_every_call_takes_a_value_or_says_why_not(calls, engine, run, tmp_path, monkeypatch):
    """Engines, runs, traces, studies, widgets: our error in one short line, no other library's."""
    monkeypatch.chdir(tmp_path)

    def unreachable(*args, **kwargs):
        raise LocalEntryNotFoundError("no network here")

    monkeypatch.setattr(hub, "snapshot_download", unreachable)
    monkeypatch.setattr(hub, "fetch_headers", unreachable)
    raw = []
    for name, call in calls(engine, run).items():
        for value in ODD:
            try:
                message = refusal(call, value)
            except Exception as error:
                raw.append(f"{name}({_short(value)}): {type(error).__name__}: {str(error)[:80]}")
                continue
            if len(message) > 300 or "\n" in message:
                raw.append(f"{name}({_short(value)}) says {message[:120]}")
    assert not raw, f"{len(raw)}:\n" + "\n".join(raw)


def _short(value):
    return "10**5000" if type(value) is int and value > 10**100 else repr(value)[:30]


@pytest.mark.parametrize("kind", [GenerateOptions, LoadOptions])
def test_every_option_takes_a_value_or_says_why_not(kind):
    """Any value becomes an option of its type, or our error in one short line that names it."""
    for spec in fields(kind):
        for value in ODD:
            message = refusal(lambda v, name=spec.name: make(kind, {name: v}), value)
            assert len(message) <= 300 and "\n" not in message
            assert not message or message.startswith(spec.name), message


def test_numbers_of_other_libraries_are_pythons_own():
    """NumPy's and MLX's integers, floats and bools, fractions: what can be written as JSON."""
    made = make(
        GenerateOptions,
        {"max_tokens": np.int16(3), "temperature": np.float32(0.5), "top_p": Fraction(1, 2),
         "raw": np.bool_(True), "seed": np.uint64(2**64 - 1), "sample_top_k": mx.array(4)},
    )  # fmt: skip
    values = (
        made.max_tokens, made.temperature, made.top_p, made.raw, made.seed, made.sample_top_k
    )  # fmt: skip
    assert values == (3, 0.5, 0.5, True, 2**64 - 1, 4)
    assert [type(value) for value in values] == [int, float, float, bool, int, int]


def test_experts_are_named_by_numbers_of_any_kind():
    """NumPy's integers form pairs, its floats boosts; a fraction is no expert."""
    pair = (np.int64(1), np.int32(2))
    made = make(GenerateOptions, {"mask": [pair, "0:3"], "boost": {pair: np.float32(2)}})
    assert made.mask == ("1:2", "0:3") and made.boost == ("1:2=2.0",)
    with pytest.raises(OptionError, match=r"mask=1\.5 cannot be used"):
        make(GenerateOptions, {"mask": [(1.5, 2)]})


def test_paths_are_texts_or_paths(run, tmp_path):
    """Both forms, and NumPy's numbers for a token's number, give the same result."""
    run.save(str(tmp_path / "a.trace"))
    run.save(tmp_path / "b.trace")
    assert Run.load(os.fspath(tmp_path / "b.trace")).text == Run.load(tmp_path / "a.trace").text
    assert run.step_of(np.int64(2)) == run.step_of(2)
    assert run.experts_of(np.array([1, 2])).steps.tolist() == run.experts_of([1, 2]).steps.tolist()
    assert run.pieces(mx.array([1, 2])) == run.pieces([1, 2])


@given(st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"]))))
def test_several_texts_are_the_same_in_any_container(words):
    """A list, a tuple and a generator give the same."""
    for several in (words, tuple(words), iter(words), (word for word in words)):
        assert make(GenerateOptions, {"stop": several}).stop == tuple(words)


def test_a_generator_is_read_once(engine):
    """`watch` checks it before it runs; a block of `routing` applies it to every run."""
    watched = outlier_jupyter.watch(engine, iter([{"role": "user", "content": "one"}]), mask=(
        word for word in ["0:1"]), max_tokens=2)  # fmt: skip
    assert "0:1 masked" in watched.wait().trace.info.changed_output
    with engine.routing(mask=(word for word in ["0:2"])):
        for _ in range(2):
            done = engine.generate("one", max_tokens=1)
            assert "0:2 masked" in done.trace.info.changed_output
    watched.close()
