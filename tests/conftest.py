"""Shared fixtures: tiny checkpoints on disk, made once; one seed for what Hypothesis draws.

`make test` draws the same examples each time. `EXPLORE=1 python -m pytest …` draws new ones. It
runs groups of tests side by side, two at a time: first what computes, then what mostly waits, for a
browser or a kernel. Tests that measure a process's memory run without other tests' arrays.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Before huggingface_hub is imported, here or in a child process: no test uses the network, and a
# name that is no folder is refused at once, also where a firewall drops what is sent.
os.environ["HF_ENDPOINT"] = "http://127.0.0.1:9"
# Hits do not depend on what earlier tests chose.
os.environ["OUTLIER_HISTORY"] = "0"

import pytest
from hypothesis import HealthCheck, settings

from outlier_jupyter import Engine, load
from outlier_jupyter.engine import load as loading
from outlier_jupyter.testing import tiny_checkpoint
from tests.real_tokenizers import write_model
from tests.support import Support

HERE = Path(__file__).parent
ALONE = (
    "browser/", "jupyter_kernel/", "test_examples.py", "engine/test_memory.py",
    "distributed/test_spread.py", "distributed/test_failures.py",
    "distributed/test_command_line.py", "distributed/test_remote.py",
)  # fmt: skip
"""Rooms and files whose tests need a process without other tests, and few other busy cores."""
SLOW = (
    "test_wheel.py", "test_odd_values.py", "test_docs_run.py", "benchmark/",
    "cpu/modules/test_exact.py", "cpu/kernels/test_processors.py", "engine/test_interrupts.py",
    "engine/test_many_types.py",
    "paging/test_types.py", "paging/test_formats.py", "system/test_hub.py",
    "notebook/test_hosts_of_the_magic.py", "checkpoint/test_model_folder.py",
    "test_real_tokenizers.py", "notebook/chat/test_real_models.py", "engine/test_tool_calls.py",
    "engine/test_thinking.py", "distributed/test_spread.py", "distributed/test_failures.py",
    "distributed/test_command_line.py", "distributed/test_remote.py",
)  # fmt: skip
"""Rooms and files that `make quick` leaves out."""
FIRST = (
    "test_wheel.py", "cpu/modules/test_exact.py", "cpu/kernels/test_processors.py",
    "paging/test_types.py", "paging/test_formats.py",
)  # fmt: skip
"""The longest begin first, so that none of them runs alone at the end."""
TOGETHER = "tests/browser/"
"""A room that one worker runs: two browsers at a time leave no core for the kernels behind them."""
APART = (
    "tests/jupyter_kernel/", "tests/test_examples.py", "tests/cpu/kernels/test_processors.py",
)  # fmt: skip
"""Files with a group for each value of a first parameter: costly to make, and independent."""

# Where examples are the same each time, thirty find what a hundred do; exploring draws a hundred
# new ones. A busy machine may draw slowly.
PATIENT = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("same", derandomize=True, max_examples=30, **PATIENT)
settings.register_profile("explore", **PATIENT)
settings.load_profile("explore" if os.environ.get("EXPLORE") else "same")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of ALONE, so that each test is in one part of `make test`, and of SLOW."""
    items.sort(key=lambda item: place(str(item.path.relative_to(HERE))))
    for item in items:
        if str(item.path.relative_to(HERE)).startswith(ALONE):
            item.add_marker(pytest.mark.alone)
        if str(item.path.relative_to(HERE)).startswith(SLOW):
            item.add_marker(pytest.mark.slow)


def place(name: str) -> int:
    """A file's place in the order; files of the same place keep their order."""
    return FIRST.index(name) if name in FIRST else len(FIRST)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Workers take whole groups, in the order in which they were collected."""
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):  # by marks (`loadgroup`) would be lost with pytest 9.2
        def _split_scope(self, nodeid: str) -> str:
            return group(nodeid)

        def remove_node(self, node: Any) -> str | None:
            """Hand out again what a crashed worker left, but nothing done and not what crashed it.

            A worker that is handed tests of which none is left waits for ever, and so does the
            run (pytest-xdist's issue 1378).
            """
            left = {
                name: {test: False for test, done in tests.items() if not done}
                for name, tests in self.assigned_work.pop(node).items()
            }
            crashed = next((test for tests in left.values() for test in tests), None)
            for name, tests in left.items():
                tests.pop(crashed or "", None)
                if tests:
                    self.workqueue[name] = tests
            for other in self.assigned_work:
                self._reschedule(other)
            return crashed

        def _reschedule(self, node: Any) -> None:
            """Keep two tests waiting: a worker begins one when it knows the next (issue 1327)."""
            super()._reschedule(node)
            if self.workqueue and self._pending_of(self.assigned_work[node]) == 1:
                super()._reschedule(node)

    config.option.loadscopereorder = False
    return Groups(config, log)


def group(nodeid: str) -> str:
    """The group that one worker runs: a file, a room, or tests with the same first parameter."""
    file, _, test = nodeid.partition("::")
    if file.startswith(TOGETHER):
        return TOGETHER
    if file.startswith(APART) and "[" in test:
        return file.split("/")[1] + " " + test.partition("[")[2].rstrip("]").split("-")[0]
    return file


@pytest.fixture(scope="session")
def support() -> Support:
    """Collects what tests have proved, for the tables of docs/models.md."""
    return Support()


@pytest.fixture(autouse=True, scope="session")
def interruptible() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt here, and child processes have its default handler.

    A process that a script starts in the background inherits SIGINT as ignored.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True, scope="session")
def mlxs_kernels() -> Iterator[None]:
    """Compare models with mlx-lm bit for bit: all but tests/cpu/modules use MLX's kernels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "native_wanted", lambda kernels: False)
        yield


@pytest.fixture(scope="session")
def checkpoint_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes a tiny checkpoint, once for each set of settings."""
    made: dict[str, Path] = {}

    def make(**settings: object) -> Path:
        key = repr(sorted(settings.items(), key=str))
        if key not in made:
            made[key] = tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "model", **settings)
        return made[key]

    return make


@pytest.fixture(scope="session")
def tiny(checkpoint_of: Callable[..., Path]) -> Path:
    """A qwen3_moe of 3 layers × 8 experts, top-2, 4-bit."""
    return checkpoint_of()


@pytest.fixture(scope="session")
def real_checkpoint_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Makes a tiny random model with a real family's tokenizer and template, once for each."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            made[name] = write_model(name, tmp_path_factory.mktemp("real") / name)
        return made[name]

    return make


@pytest.fixture(scope="module")
def engine(tiny: Path) -> Iterator[Engine]:
    """One for each file: 8 of the tiny model's 24 experts fit, and answers have full length."""
    with load(tiny, cache_experts=8) as engine:
        engine.tokenizer.eos_token_ids = set()
        yield engine
