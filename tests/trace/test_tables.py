"""Rows of a trace agree with its measures, in pandas and in Arrow."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import outlier_jupyter
from outlier_jupyter.errors import OptionError, TraceError
from outlier_jupyter.trace.measures import bytes_per_step, hits_per_step, summarise
from outlier_jupyter.trace.tables import ROWS


@pytest.fixture(scope="module")
def trace(tiny):
    with outlier_jupyter.load(tiny, cache_experts=10) as engine:
        return engine.generate("rows of it", max_tokens=8, prefill_chunk=4).trace


def test_a_row_per_token(trace):
    """Hits, misses and bytes of each token add up to the run's."""
    frame, summary = trace.to_pandas(), summarise(trace)
    assert len(frame) == trace.steps
    assert frame.hits.sum() == summary.hits
    assert frame.misses.sum() == summary.lookups - summary.hits > 0
    assert frame.reads.sum() == summary.reads and frame.bytes.sum() == summary.bytes_read
    assert (frame.phase == "decode").sum() == summary.decoded_steps
    np.testing.assert_array_equal(frame.bytes, bytes_per_step(trace))


def test_a_row_per_token_and_layer(trace):
    """Each row's experts, weights and hits are the router's, in its order."""
    frame = trace.to_pandas("layers")
    assert len(frame) == trace.steps * trace.layers
    row = frame[(frame.step == 5) & (frame.layer == 2)].iloc[0]
    assert [row.expert_0, row.expert_1] == trace.experts[5, 2].tolist()
    assert [row.weight_0, row.weight_1] == trace.weights[5, 2].tolist()
    assert [row.hit_0, row.hit_1] == trace.hits[5, 2].tolist()
    np.testing.assert_array_equal(frame.groupby("step").hits.sum(), hits_per_step(trace)[0])


def test_a_row_per_read(trace):
    """Every read is there, with its time from the first call's beginning."""
    frame = trace.to_pandas("reads")
    assert len(frame) == len(trace.reads) > 0
    assert frame.bytes.sum() == trace.reads["nbytes"].sum()
    assert frame.start_ms.min() >= 0


@pytest.mark.parametrize("rows", ROWS)
def test_arrow_has_the_same_rows(trace, rows):
    """Each column equals that in pandas, for any order of imports."""
    table, frame = trace.to_arrow(rows), trace.to_pandas(rows)
    assert table.column_names == list(frame.columns)
    for name in table.column_names:
        np.testing.assert_array_equal(table[name].to_numpy(), frame[name].to_numpy())


def test_other_rows_are_refused(trace):
    """The error for an unknown kind of row lists the valid ones."""
    with pytest.raises(OptionError, match="choose tokens, layers, reads"):
        trace.to_pandas("experts")


def test_without_pyarrow_one_sentence_says_how_to_get_it(trace, tmp_path):
    """The error appears in a Python without pyarrow."""
    path = trace.save(tmp_path / "t.safetensors")
    code = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from outlier_jupyter import Trace\n"
        f"Trace.load({str(path)!r}).to_arrow()"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "TraceError: Arrow tables need the package pyarrow" in out.stderr


def test_a_trace_without_reads_has_no_rows_of_them(trace):
    """Rows of an array that was not recorded are an error; other rows omit its columns."""
    from outlier_jupyter.trace.files import build

    bare = outlier_jupyter.Trace(**build({"experts": trace.experts}, trace.info))
    with pytest.raises(TraceError, match="has no reads"):
        bare.to_pandas("reads")
    assert list(bare.to_pandas().columns) == ["step"]
    assert list(bare.to_pandas("layers").columns) == ["step", "layer", "expert_0", "expert_1"]
