"""What the model found likely is recorded, saved exactly, tabulated, and validated in files."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save_file

from outlier_jupyter import Trace
from outlier_jupyter.errors import TraceError
from outlier_jupyter.events import DECODE, PREFILL, CallStarted, Predicted, StepDone, prediction
from outlier_jupyter.trace import TraceInfo
from outlier_jupyter.trace.predictions import FIELDS
from outlier_jupyter.trace.recorder import BATCH, Recorder

NOBODY = np.zeros((0, 2), np.int16)


def rows(*tokens: int, n: int = 2) -> np.ndarray:
    """A row of `Predicted` for each token, with numbers that float16 could not hold."""
    found = np.zeros(len(tokens), prediction(n))
    for row, token in zip(found, tokens, strict=True):
        row["logprob"], row["rank"], row["entropy"] = -token - 1e-4, token, token / 3
        row["alternatives"] = range(token, token + n)
        row["alternative_logprobs"] = [-place - 1e-4 for place in range(n)]
    return found


def call(recorder: Recorder, phase: int, tokens: list[int], predicted: np.ndarray | None) -> None:
    recorder(CallStarted(phase, np.array(tokens, np.int32), 0))
    if predicted is not None:
        recorder(Predicted(predicted.view(np.int32).reshape(len(predicted), -1)))
    recorder(StepDone(tokens[-1] + 1 if predicted is not None else -1, 5, 1))


def recorded(n: int = 2, decoded: int = 2 * BATCH + 3, expected: int = 1) -> Trace:
    """A chunk of three tokens that predicts nothing, one that samples, and decoded tokens."""
    recorder = Recorder(0, expected, NOBODY)
    call(recorder, PREFILL, [1, 2, 3], None)
    for token in range(4, 5 + decoded):
        call(recorder, DECODE, [token], rows(token, n=n))
    return recorder.trace(TraceInfo())


@pytest.mark.parametrize("expected", [1, 5, 500])
def test_each_step_has_the_prediction_after_it(expected):
    """Steps without one have NaN, 0 and -1, however long the run was expected to be."""
    trace = recorded(expected=expected)
    assert trace.steps == 3 + 1 + 2 * BATCH + 3
    assert np.isnan(trace.logprobs[:3]).all() and np.isnan(trace.entropies[:3]).all()
    assert not trace.ranks[:3].any() and (trace.alternatives[:3] == -1).all()
    assert np.isnan(trace.alternative_logprobs[:3]).all()
    after = np.arange(4, 4 + trace.steps - 3)
    np.testing.assert_array_equal(trace.logprobs[3:], np.float32(-after - 1e-4))
    assert trace.ranks[3:].tolist() == trace.alternatives[3:, 0].tolist() == after.tolist()
    np.testing.assert_array_equal(trace.alternative_logprobs[3:, 1], np.float32(-1 - 1e-4))


def test_a_scored_chunk_has_one_prediction_for_each_of_its_last_tokens():
    """Fewer rows than tokens belong to the last ones."""
    recorder = Recorder(0, 8, NOBODY)
    call(recorder, PREFILL, [1, 2, 3], rows(7, 8))
    assert recorder.trace(TraceInfo()).ranks.tolist() == [0, 7, 8]


def test_without_predictions_the_arrays_are_empty():
    """A run whose events have none differs from one that recorded them; so with alternatives."""
    recorder = Recorder(0, 8, NOBODY)
    call(recorder, PREFILL, [1, 2], None)
    bare = recorder.trace(TraceInfo())
    assert all(getattr(bare, name).size == 0 for name in FIELDS)
    few = recorded(n=0)
    assert len(few.logprobs) == few.steps and few.alternatives.shape == (0, 0)
    assert [name for name in few.to_pandas() if "alternative" in name] == []


@pytest.mark.parametrize("n", [0, 1, 2])
def test_a_file_keeps_them_exactly(tmp_path, n):
    """Log-probabilities stay float32; a file without them still opens, and has none."""
    trace = recorded(n=n)
    loaded = Trace.load(trace.save(tmp_path / "t.safetensors"))
    for name in FIELDS:
        before, after = getattr(trace, name), getattr(loaded, name)
        assert after.dtype == before.dtype and after.shape == before.shape
        np.testing.assert_array_equal(after, before)
    bare = replace(trace, **{name: getattr(trace, name)[:0] for name in FIELDS})
    assert not len(Trace.load(bare.save(tmp_path / "bare.safetensors")).logprobs)


def test_the_table_of_tokens_has_their_columns():
    """One column per number and alternative, the likeliest first, in pandas and Arrow."""
    trace = recorded()
    frame = trace.to_pandas()
    assert frame["rank"].tolist() == trace.ranks.tolist()
    np.testing.assert_array_equal(frame.logprob, trace.logprobs)
    np.testing.assert_array_equal(frame.entropy, trace.entropies)
    for i in (1, 2):
        assert frame[f"alternative_{i}"].tolist() == trace.alternatives[:, i - 1].tolist()
        np.testing.assert_array_equal(
            frame[f"alternative_logprob_{i}"], trace.alternative_logprobs[:, i - 1]
        )
    assert trace.to_arrow().column_names == list(frame.columns)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("logprobs", np.full(4, 0.5, np.float32), "0 or less"),
        ("logprobs", np.full(3, -1, np.float32), "expected"),
        ("logprobs", np.full((4, 1), -1, np.float32), "expected"),
        ("logprobs", np.full(4, -1, np.int32), "floating-point"),
        ("entropies", np.full(4, -2, np.float32), "0 or more"),
        ("ranks", np.full(4, -1, np.int32), "0 to"),
        ("ranks", np.full(4, 2**40, np.int64), "0 to"),
        ("alternatives", np.full((4, 2), -2, np.int32), "-1 to"),
        ("alternatives", np.zeros((4, 3), np.int32), "expected"),
        ("alternatives", np.zeros(8, np.int32), "expected"),
        ("alternatives", np.zeros((4, 101), np.int32), "1 to 100"),
        ("alternative_logprobs", np.full((4, 2), 3, np.float32), "0 or less"),
        ("alternative_logprobs", np.full((3, 2), -1, np.float32), "expected"),
    ],
)
def test_a_foreign_file_s_numbers_are_validated(tmp_path, name, values, message):
    """Another program's arrays are read if they are probabilities of these steps, else refused."""
    good = {
        "experts": np.zeros((4, 1, 1), np.int16),
        "logprobs": np.array([-1, np.nan, -np.inf, 0.001], np.float16),
        "ranks": np.array([1, 0, 9, 1], np.int64),
        "entropies": np.array([0.1, np.nan, 2, 0], np.float64),
        "alternatives": np.array([[5, 6], [-1, -1], [5, -1], [0, 1]], np.int16),
        "alternative_logprobs": np.full((4, 2), -0.5, np.float32),
    }
    path = tmp_path / "theirs.safetensors"
    save_file(good, path)
    loaded = Trace.load(path)
    assert loaded.logprobs.dtype == np.float32 and loaded.ranks.tolist() == [1, 0, 9, 1]
    assert loaded.alternatives.tolist() == good["alternatives"].tolist()
    save_file(good | {name: values}, path)
    with pytest.raises(TraceError, match=name.split("s")[0]) as caught:
        Trace.load(path)
    assert message in str(caught.value) and len(str(caught.value)) <= 300
    del good["alternative_logprobs"]
    save_file(good, path)
    with pytest.raises(TraceError, match="only valid together"):
        Trace.load(path)
