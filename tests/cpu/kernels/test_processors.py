"""The kernels' tests again, with code for other processors."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from outlier_jupyter.cpu.kernels.compiled import cache_folder
from outlier_jupyter.cpu.kernels.processor import FEATURES

HERE = Path(__file__).parent
NO_AVX512 = ",".join(
    ("-" if name.startswith("avx512") else "+") + name for name in sorted(FEATURES)
)
TARGETS = {
    "without AVX-512": {"NUMBA_CPU_FEATURES": NO_AVX512},
    "without AVX2": {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""},
}
ONE_TOKEN = ("test_linear.py", "test_integer_activations.py", "test_attention.py")
ALL = (
    *ONE_TOKEN, "test_prefill_matmul.py", "test_experts.py",
    "../modules/test_exact.py::test_tokens_and_trace_are_those_of_the_plain_path",
)  # fmt: skip
# What is older than AVX2 has the same code as a fallback alone, and it compiles for minutes.
FILES = [("without AVX-512", name) for name in ALL] + [("without AVX2", n) for n in ONE_TOKEN]
PRINT = "from outlier_jupyter.cpu.kernels import compiled; print(compiled.cache_folder().name)"


def child(target: str, *command: str) -> subprocess.CompletedProcess[str]:
    """Another process, whose Numba compiles for `target`."""
    return subprocess.run(
        [sys.executable, *command], env=os.environ | TARGETS[target], cwd=HERE.parent.parent,
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(("target", "name"), FILES)
def test_kernels_are_right_on_a_lesser_processor(target, name):
    """Formats, experts and attention equal float64's with narrower vectors, too."""
    done = child(target, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(HERE / name))
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]


def test_code_of_different_processors_is_kept_apart():
    """Each set of instructions has a folder of its own."""
    lesser = child("without AVX2", "-c", PRINT)
    assert cache_folder().name != lesser.stdout.strip(), lesser.stderr
