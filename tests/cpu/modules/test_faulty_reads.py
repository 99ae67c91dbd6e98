"""A fault at any read of a run, with MLX's kernels and with compiled ones: the run ends with one
error or has the right tokens, and the engine works again when the disk does.
"""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

import outlier_jupyter
from outlier_jupyter.errors import CheckpointChanged, ReadFailed
from outlier_jupyter.testing import FAULTS, FaultyReader, tiny_checkpoint
from tests.inspection import pager_of, reader_of, replace_reader

PROMPT, MOST = "a fox in a box", 8
RAISED = {"error": ReadFailed, "short": ReadFailed, "changed": CheckpointChanged}
WAYS = [("mlx", "off"), ("mlx", "on"), ("auto", "off"), ("auto", "on")]
"""Kernels, and whether reads and computing overlap."""


class Tried:
    """An engine over a reader that fails on command, and what it generates when it does not."""

    def __init__(self, folder, kernels, overlap) -> None:
        self.load = lambda: outlier_jupyter.load(
            folder, cache_experts=7, kernels=kernels, overlap=overlap, quiet=True
        )
        self.begin()
        self.wanted = self.run()

    def begin(self):
        """Load, and count the reads of a run from an empty cache."""
        self.engine = self.load()
        self.engine.tokenizer.eos_token_ids = set()
        self.inner = reader_of(self.engine)

    def run(self):
        """The tokens of a run, or those before the error."""
        self.found = []
        for step in self.engine.stream(PROMPT, max_tokens=MOST):
            self.found.append(step.token)
        return self.found


@pytest.fixture(scope="module")
def tried(tmp_path_factory):
    """For each way to compute."""
    folder = tiny_checkpoint(tmp_path_factory.mktemp("faulty") / "model")
    with ExitStack() as stack:
        found = {way: Tried(folder, *way) for way in WAYS}
        stack.callback(lambda: [each.engine.close() for each in found.values()])
        yield found


@given(
    way=st.sampled_from(WAYS), fault=st.sampled_from(FAULTS), at=st.integers(0, 40),
    more=st.integers(1, 5),
)  # fmt: skip
def test_a_fault_at_any_read_is_one_error_and_nothing_wrong(tried, way, fault, at, more):
    """Reads `at` and following ones fail; no wrong token is returned and every slot is known."""
    one = tried[way]
    count = 0

    def fails(where):
        nonlocal count
        count += 1
        return fault if at < count <= at + more else ""

    replace_reader(one.engine, FaultyReader(one.inner, fails))
    met = None
    try:
        one.run()
    except (ReadFailed, CheckpointChanged) as error:
        met = error
    assert one.found == one.wanted[: len(one.found)]
    pager_of(one.engine).table.check()
    happened = fault in RAISED and count > at
    if happened:
        assert type(met) is RAISED[fault] and len(str(met)) < 300
        assert one.engine.last_run.finish_reason == "error"
        assert len(one.found) < MOST
    else:
        assert met is None and one.found == one.wanted
    replace_reader(one.engine, one.inner)
    if happened and fault == "changed":
        one.engine.close()  # it refuses further runs, as it must
        one.begin()
    assert one.run() == one.wanted
