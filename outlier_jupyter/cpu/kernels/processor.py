"""The processor that Numba compiles for: this one, or that of NUMBA_CPU_NAME and _FEATURES."""

from __future__ import annotations

import ctypes
import platform
from functools import lru_cache

from llvmlite import binding
from numba.core import config
from numba.core.codegen import get_host_cpu_features


def cpu_name() -> str:
    """LLVM's name of the processor."""
    return str(config.CPU_NAME or binding.get_host_cpu_name())


def features() -> frozenset[str]:
    """LLVM's names of its features; NUMBA_CPU_FEATURES replaces them."""
    configured = config.CPU_FEATURES
    words = get_host_cpu_features() if configured is None else str(configured)
    return frozenset(word[1:] for word in words.split(",") if word.startswith("+"))


FEATURES = features()
LANES = 16 if "avx512f" in FEATURES else 8
"""32-bit lanes of a vector register."""
HAS_AVX2 = "avx2" in FEATURES
HAS_VNNI = {"avx512vnni", "avx512vl"} <= FEATURES or "avxvnni" in FEATURES
HAS_SDOT = "dotprod" in FEATURES or cpu_name().startswith("apple-m")
"""Whether an instruction multiplies bytes and adds four products, on x86 and on ARM."""
HAS_VBMI = HAS_VNNI and {"avx512vbmi", "avx512vl"} <= FEATURES
"""Whether another, beside that, shifts each byte out of 64 bits."""
WIDENS_F16 = "f16c" in FEATURES or platform.machine() in ("aarch64", "arm64")
"""Whether it converts float16 to float32; else LLVM calls a function that may be missing."""
MULTIPLIES_BF16 = {"avx512bf16", "avx512vl"} <= FEATURES
"""Whether one instruction multiplies pairs of bfloat16 and adds them to float32."""
HAS_TILES = MULTIPLIES_BF16 and {"amx-tile", "amx-bf16"} <= FEATURES
"""Whether it has tile registers for such products (AMX); a process may use them if permitted."""
FETCHES_TO = 3 if platform.machine() in ("x86_64", "AMD64") and "znver" not in cpu_name() else 0
"""How near weights are prefetched, as `Emitter.prefetch` counts: 0, to be read once, or 3, into all
caches. Intel's processors have few requests of the first kind under way, and half of the speed."""
USED = {
    "AVX-512": LANES == 16, "AVX2": HAS_AVX2, "VNNI": HAS_VNNI, "dot products": HAS_SDOT,
    "F16C": "f16c" in FEATURES, "BF16": MULTIPLIES_BF16,
    "AMX": HAS_TILES,
}  # fmt: skip
VECTORS = ", ".join(name for name, there in USED.items() if there) or f"{LANES} lanes"
"""The features that the kernels use, by their marketing names; reported beside speeds."""


ARCH_PRCTL, REQUEST, TILE_DATA = 158, 0x1023, 18
"""A system call of Linux on x86-64, its request for a register state, and that of tiles."""


@lru_cache
def tiles_permitted() -> bool:
    """Whether this process may use tile registers: Linux grants them when it is first asked."""
    if not HAS_TILES or platform.system() != "Linux":
        return False
    return bool(ctypes.CDLL(None).syscall(ARCH_PRCTL, REQUEST, TILE_DATA) == 0)
