"""Experts spread over ranks from a notebook: the same tokens, and the kernel survives."""

from __future__ import annotations

import pytest

from tests.jupyter_kernel.conftest import IPYKERNELS, Kernel, kinds
from tests.models import EXPERTS, LAYERS, SPREAD, checkpoint

RUN = "%%outlier --max-tokens 3 -o run\nWhat is a mouse?"
NEWEST = IPYKERNELS[-1:]


def tokens(kernel: Kernel, cell: str = RUN) -> str:
    """The tokens of a run in a cell; nothing may fail."""
    assert not kinds(kernel.run(cell), "error")
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


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Tiny checkpoints of other families: name → path."""
    folder = tmp_path_factory.mktemp("models")
    return {name: str(checkpoint(name, folder / name)) for name in SPREAD}


@pytest.mark.parametrize("name", SPREAD)
@pytest.mark.parametrize("kernel", NEWEST, indirect=True)
def test_a_cell_spreads_other_families_over_ranks(
    kernel: Kernel, name: str, models: dict[str, str]
) -> None:
    """Two with half, four with a quarter of one process's cache; greedy tokens and sampled ones."""
    cells = [
        f"%%outlier --raw --max-tokens 6 -o run {more}\nWhat is it?"
        for more in ("", "--temperature 1 --seed 7")
    ]
    load, slots = f"%outlier load '{models[name]}' --warm off", LAYERS * EXPERTS // 2
    kernel.run("%load_ext outlier_jupyter")
    kernel.run(f"{load} --cache-experts {slots}")
    expected = [tokens(kernel, cell) for cell in cells]
    cache = int(kernel.value("run.trace.info.slots * run.trace.info.expert_nbytes[0]"))
    for ranks in (2, 4):
        spread = f"{load} --hosts {ranks} --cache-gb {cache / ranks / 1e9:.9f}"
        assert not kinds(kernel.run(spread), "error")
        assert [tokens(kernel, cell) for cell in cells] == expected, ranks
        info = kernel.value("(run.trace.info.slots, run.trace.info.hosts)")
        assert info == str((slots, ("localhost",) * ranks))
