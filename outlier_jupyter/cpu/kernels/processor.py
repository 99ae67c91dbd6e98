"""What Numba compiles for: this processor, or the one that NUMBA_CPU_NAME and _FEATURES name."""

from __future__ import annotations

import platform

from llvmlite import binding
from numba.core import config
from numba.core.codegen import get_host_cpu_features


def cpu_name() -> str:
    """LLVM's name of the processor."""
    return str(config.CPU_NAME or binding.get_host_cpu_name())


def features() -> frozenset[str]:
    """LLVM's names of its instructions; of a processor named by the user, those named beside it."""
    asked = config.CPU_FEATURES
    words = get_host_cpu_features() if asked is None else str(asked)
    return frozenset(word[1:] for word in words.split(",") if word.startswith("+"))


FEATURES = features()
LANES = 16 if "avx512f" in FEATURES else 8
"""32-bit lanes of a vector: as wide as the processor's registers."""
HAS_AVX2 = "avx2" in FEATURES
WIDENS_F16 = "f16c" in FEATURES or platform.machine() in ("aarch64", "arm64")
"""Whether it makes float32 of float16; else LLVM calls a function that a process may not have."""
USED = {"AVX-512": LANES == 16, "AVX2": HAS_AVX2, "F16C": "f16c" in FEATURES}
VECTORS = ", ".join(name for name, there in USED.items() if there) or f"{LANES} lanes"
"""What of it the kernels use, as they are sold: a speed is told with it."""
