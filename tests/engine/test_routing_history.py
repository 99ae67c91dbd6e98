"""A load begins with the experts that earlier runs of the model used lately."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

import outlier_jupyter
from outlier_jupyter.engine import routing_history
from outlier_jupyter.engine.routing_history import KEPT_TOKENS, RoutingHistory
from outlier_jupyter.trace import TraceInfo


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of histories, an empty one."""
    monkeypatch.delenv("OUTLIER_HISTORY", raising=False)
    monkeypatch.setattr(routing_history, "user_cache_path", lambda name: tmp_path)
    return tmp_path / "routing"


def first_run(model, text: str, **options):
    with outlier_jupyter.load(model, cache_experts=12, quiet=True, **options) as engine:
        return engine.generate(text, max_tokens=20, raw=True)


def test_the_next_load_begins_with_what_runs_used(tiny, kept):
    """As from a saved trace of these tokens: the same residency, and fewer misses than cold."""
    cold = first_run(tiny, "a prompt to learn from")
    assert not len(cold.trace.resident_at_start)
    warm = first_run(tiny, "another prompt")
    trace = cold.save(kept.parent / "cold.safetensors")
    traced = first_run(tiny, "another prompt", warm=str(trace))
    unwarmed = first_run(tiny, "another prompt", warm="off")
    assert warm.text == unwarmed.text
    np.testing.assert_array_equal(warm.trace.resident_at_start, traced.trace.resident_at_start)
    assert warm.trace.hits.sum() > unwarmed.trace.hits.sum()


def test_status_says_what_was_read_before_the_first_run(tiny, kept):
    """So that nobody wonders why a first token had hits."""
    run = first_run(tiny, "a prompt to learn from")
    with outlier_jupyter.load(tiny, cache_experts=12, quiet=True) as engine:
        tokens = len(run.trace.experts)
        assert f"experts of the last {tokens} tokens of earlier runs" in str(engine.status())
    with outlier_jupyter.load(tiny, cache_experts=12, warm="off", quiet=True) as engine:
        assert "earlier runs" not in str(engine.status())


def test_it_can_be_switched_off_and_cleared(tiny, kept, monkeypatch):
    """With `off` or the variable nothing is kept; `forget` deletes the file."""
    first_run(tiny, "unseen", warm="off")
    with monkeypatch.context() as patch:
        patch.setenv("OUTLIER_HISTORY", "0")
        first_run(tiny, "unseen")
    assert not kept.exists()
    first_run(tiny, "seen")
    (file,) = kept.iterdir()
    with outlier_jupyter.load(tiny, cache_experts=12, quiet=True) as engine:
        engine.generate("more", max_tokens=2)
        engine.history.forget()
    assert not file.exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(b"no array"),
        lambda file: file.write_bytes(b""),
        lambda file: save_file({"experts": np.full((4, 3, 2), 99, np.int16)}, file),
        lambda file: save_file({"experts": np.zeros((4, 9, 2), np.int16)}, file),
        lambda file: save_file({"experts": np.zeros((4, 3), np.int16)}, file),
        lambda file: save_file({"experts": np.zeros((4, 3, 2), np.float32)}, file),
        lambda file: save_file({"other": np.zeros((4, 3, 2), np.int16)}, file),
    ],
)
def test_a_damaged_file_is_none(tiny, kept, damage):
    """The load is as without it, and its runs replace it."""
    first_run(tiny, "seen")
    (file,) = kept.iterdir()
    damage(file)
    assert not len(first_run(tiny, "again").trace.resident_at_start)
    assert len(first_run(tiny, "and again").trace.resident_at_start)


def test_a_folder_that_cannot_be_written_ends_no_run(tiny, kept):
    """A history is kept where it can be."""
    kept.write_text("in the way")
    assert first_run(tiny, "nothing is kept").generated == 20


@given(runs=st.lists(st.tuples(st.integers(0, 1500), st.integers(1, 4)), min_size=1, max_size=5))
def test_the_last_tokens_are_kept_over_any_runs(tmp_path_factory, runs):
    """Runs of any length and top-k, saved one by one or together, leave the newest tokens."""
    folder = tmp_path_factory.mktemp("history")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("OUTLIER_HISTORY")
        patch.setattr(routing_history, "user_cache_path", lambda name: folder)
        one_by_one, together = (
            RoutingHistory(TraceInfo(model_hash=name, experts_per_layer=(8, 8)), "auto")
            for name in "ab"
        )
        whole = np.zeros((0, 2, 4), np.int16)
        for number, (length, k) in enumerate(runs):
            experts = np.full((length, 2, k), number, np.int16)
            one_by_one.add(experts)
            one_by_one.save()
            together.add(experts)
            padded = np.pad(experts, ((0, 0), (0, 0), (0, 4 - k)), constant_values=-1)
            whole = np.concatenate([whole, padded])[-KEPT_TOKENS:]
        together.save()
        for history in (one_by_one, together):
            found = history.read()
            if found is None:
                assert not len(whole)
                continue
            width = found.shape[2]
            np.testing.assert_array_equal(found, whole[:, :, :width])
            assert (whole[:, :, width:] == -1).all()
