"""`outlier run --hosts N` gives what one process gives, token for token, of several models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from outlier_jupyter import Run
from outlier_jupyter.__main__ import main
from tests.models import EXPERTS, LAYERS, SPREAD, checkpoint

DEMO_EXPERTS = 192


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Makes a model and a run of one process, with half of its experts cached, once for each."""
    folder = tmp_path_factory.mktemp("alone")
    made: dict[str, tuple[str, Run]] = {}

    def make(name: str) -> tuple[str, Run]:
        if name not in made:
            model = name if name == "demo" else str(checkpoint(name, folder / name))
            half = (DEMO_EXPERTS if name == "demo" else LAYERS * EXPERTS) // 2
            made[name] = model, run(model, folder / f"{name}.run", "--cache-experts", str(half))
        return made[name]

    return make


def run(model: str, file: Path, *flags: str) -> Run:
    """The run that a command saves."""
    words = ["run", model, "What", "is", "it?", "--raw", "--max-tokens", "6", "--warm", "off"]
    assert main([*words, "-o", str(file), *flags]) == 0
    return Run.load(file)


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("name", ["demo", *SPREAD])
def test_a_command_spreads_a_model_over_ranks(name, ranks, alone, tmp_path):
    """With half and a quarter of one process's cache on each rank, by `--cache-gb`."""
    model, expected = alone(name)
    info = expected.trace.info
    share = info.slots * max(info.expert_nbytes) / ranks / 1e9
    flags = "--hosts", str(ranks), "--cache-gb", f"{share:.9f}"
    found = run(model, tmp_path / "spread.run", *flags)
    assert found.tokens.tolist() == expected.tokens.tolist()
    for array in ("experts", "logprobs"):
        mine, theirs = getattr(found.trace, array), getattr(expected.trace, array)
        assert np.array_equal(mine, theirs, equal_nan=True), array
    assert found.trace.info.slots == info.slots
    assert set(found.trace.reads["rank"].tolist()) == set(range(ranks))
