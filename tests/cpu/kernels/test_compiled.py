"""Compiled code is kept, divided among threads, and safe to call from several."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import numpy as np

from outlier_jupyter.cpu.kernels import Stack, affine
from outlier_jupyter.cpu.kernels.compiled import cache_folder

from .conftest import matrix

COMPILE = """
from outlier_jupyter.cpu.kernels import compiled
from outlier_jupyter.cpu.kernels.linear import arrange_task
arrange_task("plain32g0f32")
print(compiled.COMPILED[-1].cache_hits)
"""


def test_compiled_code_is_kept_for_the_next_process(tmp_path):
    """The second process to want a kernel compiles nothing."""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    taken = [
        int(
            subprocess.run(
                [sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True,
                check=True,
            ).stdout
        )
        for _ in range(2)
    ]  # fmt: skip
    assert taken == [0, 1]


def test_a_folder_that_cannot_be_written_is_done_without(monkeypatch, tmp_path):
    """Without a writable folder, kernels are compiled in each process."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "file"))
    assert cache_folder.__wrapped__() is None


def test_kernels_may_be_called_from_several_threads(random):
    """Concurrent calls from many threads give the results of single calls."""
    stack = Stack([matrix(affine(4, 64, "bf16"), 200, 128)[0]])
    inputs = [random.normal(size=(1, 128)).astype(np.float32) for _ in range(8)]
    wanted = [stack.multiply(x) for x in inputs]
    wrong = []

    def work(index: int) -> None:
        found = [stack.multiply(inputs[index]) for _ in range(50)]
        wrong.extend(f for f in found if not np.array_equal(f, wanted[index]))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
