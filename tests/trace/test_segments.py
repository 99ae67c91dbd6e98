"""Kinds of tokens: segments, their numbers, and files with and without them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outlier_jupyter import Engine, Run, Trace
from outlier_jupyter.errors import TraceError
from outlier_jupyter.events import StepDone
from outlier_jupyter.runs.run import Interrupted
from outlier_jupyter.trace import files
from outlier_jupyter.trace.segments import (
    ANSWER,
    KINDS,
    THINKING,
    UNKNOWN,
    USER,
    name_of,
    segments_of,
    spent_on,
    texts_of,
)


@given(codes=st.lists(st.sampled_from([*range(7), UNKNOWN]), max_size=40))
def test_segments_are_the_whole_sequence(codes: list[int]) -> None:
    """In order, each of one kind, and neighbours of different kinds."""
    found = segments_of(np.array(codes, np.uint8))
    assert [s.kind for s in found for _ in range(s.first, s.last + 1)] == codes
    assert all(a.last + 1 == b.first and a.kind != b.kind for a, b in zip(found, found[1:]))  # noqa: B905, RUF007
    assert [name_of(code) for code in range(8)] == [*KINDS, "unknown"]


def test_a_run_records_the_kind_of_each_token(engine: Engine) -> None:
    """The template's tokens, the question's, and those generated; the last one sampled too."""
    run = engine.generate("hello", system="Be brief", max_tokens=6)
    kinds = run.trace.kinds
    assert len(kinds) == run.trace.steps + 1 and kinds.dtype == np.uint8
    texts = {
        name_of(s.kind): "".join(run.read_pieces[s.first : s.last + 1]) for s in segments_of(kinds)
    }
    assert texts["system"] == "Be brief" and texts["user"] == "hello"
    assert kinds[-6:].tolist() == [ANSWER] * 6
    raw = engine.generate("hello", raw=True, max_tokens=2)
    assert raw.trace.kinds.tolist() == [USER] * 5 + [ANSWER] * 2
    assert raw.answer == raw.text and raw.thinking == ""


def test_rows_of_segments_add_up_to_the_run(engine: Engine) -> None:
    """Tokens, seconds, hits, misses and bytes: each step is counted once."""
    run = engine.generate("hello", max_tokens=6)
    frame = run.segments
    assert list(frame.columns) == [
        "part", "kind", "first", "last", "tokens", "seconds", "hits", "misses", "bytes",
    ]  # fmt: skip
    assert frame.tokens.sum() == run.trace.steps + 1
    summary = run.summary()
    assert frame.hits.sum() == summary.hits and frame.bytes.sum() == summary.bytes_read
    assert frame.hits.sum() + frame.misses.sum() == summary.lookups
    assert frame.seconds.sum() == pytest.approx(run.trace.step_ns.sum() / 1e9)
    answer = frame[frame.part == "generated"]
    assert answer[["kind", "first", "last"]].to_numpy().tolist() == [["answer", 1, 6]]


def test_rows_of_segments_number_tokens_as_the_table_of_tokens_does(engine: Engine) -> None:
    """From 1, prompt and generated: each row's tokens are of its kind in `run.tokens`."""
    run = engine.generate("hello", system="Be brief", max_tokens=6)
    table = run.tokens(prompt=True)
    kinds = {(row.part, row.token): row.kind for row in table.itertuples()}
    found = {
        (row.part, token): row.kind
        for row in run.segments.itertuples()
        for token in range(row.first, row.last + 1)
    }
    assert found == kinds and run.segments["first"].iloc[0] == 1


def test_reused_tokens_of_a_prompt_have_no_kind(engine: Engine) -> None:
    """The trace has the tokens that were read, and so have its kinds."""
    first = engine.generate("hello there", max_tokens=2, reuse_kv=True)
    again = engine.generate("hello there", max_tokens=2, reuse_kv=True)
    assert again.trace.steps < first.trace.steps
    assert again.trace.kinds.tolist() == first.trace.kinds[-again.trace.steps - 1 :].tolist()


def test_a_stopped_run_has_kinds_for_what_it_read(engine: Engine) -> None:
    """Also when it was stopped before its first token."""
    steps = engine.stream("hello there", max_tokens=9, prefill_chunk=4)
    next(steps)
    steps.close()
    run = engine.last_run
    assert run is not None and len(run.trace.kinds) == run.trace.steps + 1


def test_a_run_stopped_within_its_prompt_has_generated_nothing(engine: Engine) -> None:
    """No row, token or time says otherwise, whatever the prompt's next token is."""
    cancel = engine.subscribe(lambda _: engine.stop(), StepDone)  # after the first chunk
    with pytest.raises(Interrupted) as stopped:
        engine.generate("hello there", max_tokens=9, prefill_chunk=4)
    cancel()
    run = stopped.value.run
    assert run.trace.steps == len(run.tokens(prompt=True)) == run.segments.tokens.sum() == 4
    assert set(run.segments.part) == {"prompt"}
    assert all(spent_on(run.trace, kind) == (0, 0.0) for kind in range(len(KINDS)))


def test_kinds_and_texts_are_saved_and_loaded(engine: Engine, tmp_path: Path) -> None:
    """A run's file has both; a trace's the kinds."""
    run = engine.generate("hello", max_tokens=4)
    marked = replace(run, text="ab\nc", spans=((THINKING, 0, 2), (ANSWER, 3, 4)))
    other = Run.load(marked.save(tmp_path / "run.trace"))
    assert (other.thinking, other.answer, other.spans) == ("ab", "c", marked.spans)
    assert other.trace.kinds.tolist() == run.trace.kinds.tolist()
    assert other.segments.equals(run.segments)


def test_old_files_have_no_kinds(engine: Engine, tmp_path: Path) -> None:
    """All their text is the answer, and there are no rows."""
    run = engine.generate("hello", max_tokens=4)
    _, saved = files.read(run.save(tmp_path / "new.trace"))
    assert saved is not None
    del saved["spans"]
    files.write(replace(run.trace, kinds=np.zeros(0, np.uint8)), tmp_path / "old.trace", saved)
    old = Run.load(tmp_path / "old.trace")
    assert (old.answer, old.thinking, len(old.trace.kinds)) == (run.text, "", 0)
    assert not len(old.segments) and next(iter(old.segments.columns)) == "part"


@pytest.mark.parametrize(
    ("kinds", "fault"),
    [
        (np.zeros(3, np.uint8), "`kinds` is"),
        (np.zeros((2, 2), np.uint8), "`kinds` is"),
        (np.full(1, 0.5), "`kinds` is"),
        (np.full(1, -1), "`kinds` has -1"),
        (np.full(1, 256), "`kinds` has 256"),
    ],
)
def test_kinds_that_do_not_fit_are_refused(engine: Engine, tmp_path: Path, kinds, fault) -> None:
    """The sentence names the array."""
    trace = engine.generate("hello", max_tokens=2).trace
    whole = np.repeat(kinds, trace.steps + 1) if kinds.shape == (1,) else kinds
    files.write(replace(trace, kinds=whole), tmp_path / "x.trace", None)
    with pytest.raises(TraceError, match=fault):
        Trace.load(tmp_path / "x.trace")


@pytest.mark.parametrize(
    "spans", [5, [[1, 2]], [[3, 2, 1]], [[-1, 0, 1]], [[3, 0, 2], [4, 1, 2]], [[True, 0, 1]]]
)
def test_spans_that_do_not_fit_are_refused(engine: Engine, tmp_path: Path, spans) -> None:
    """They are indices into the text."""
    run = engine.generate("hello", max_tokens=2)
    _, saved = files.read(run.save(tmp_path / "new.trace"))
    assert saved is not None
    files.write(run.trace, tmp_path / "bad.trace", saved | {"text": "abc", "spans": spans})
    with pytest.raises(TraceError, match="spans"):
        Run.load(tmp_path / "bad.trace")


def test_texts_of_one_kind_are_joined() -> None:
    """Two answers around a call are two paragraphs."""
    assert texts_of("ab cd", [(ANSWER, 0, 2), (5, 2, 3), (ANSWER, 3, 5)], ANSWER) == "ab\n\ncd"
