"""Experts spread over ranks from a notebook: the same tokens, and the kernel survives."""

from __future__ import annotations

import pytest

from tests.jupyter_kernel.conftest import Kernel, kinds

RUN = "%%outlier --max-tokens 3 -o run\nWhat is a mouse?"


def tokens(kernel: Kernel) -> str:
    """The tokens of a run in a cell; nothing may fail."""
    assert not kinds(kernel.run(RUN), "error")
    return kernel.value("run.tokens.tolist()")


@pytest.mark.parametrize("ranks", [2, 4])
def test_a_cell_spreads_the_demo_over_ranks(ranks: int, kernel: Kernel) -> None:
    """Load, run, status and memory; a rank that is killed ends a run, and another load works."""
    kernel.run("%load_ext outlier_jupyter")
    kernel.run("%outlier load demo --cache-experts 96 --warm off")
    expected = tokens(kernel)
    spread = (
        f"%outlier load demo --hosts {ranks} --cache-experts {96 // ranks} --warm off -o engine"
    )
    assert not kinds(kernel.run(spread), "error")
    assert tokens(kernel) == expected
    assert kernel.value("sorted(set(run.trace.reads['rank'].tolist()))") == str(list(range(ranks)))
    [status] = kinds(kernel.run("%outlier status"), "execute_result")
    assert "rank 1" in status["data"]["text/plain"]
    shown = "".join(m["text"] for m in kinds(kernel.run("%outlier memory"), "stream"))
    assert "rank 1 (localhost)" in shown
    [explained] = kinds(kernel.run("%outlier explain 2"), "execute_result")
    assert any("was waited for" in str(form) for form in explained["data"].values())
    kernel.run("import os, signal; from tests.inspection import ranks_of")
    kernel.run("os.kill(ranks_of(engine).pids[1], signal.SIGKILL)")
    [error] = kinds(kernel.run(RUN), "error")
    assert error["ename"] == "RankLost" and "rank 1" in error["evalue"]
    kernel.run("%outlier load demo --cache-experts 96 --warm off")
    assert tokens(kernel) == expected
