"""Measures what an engine's memory is used for, and defines the bound on it.

A process with a loaded model takes at most

    dense weights + cache_gb + KV caches + what else it takes at load + `SPARE_NBYTES`

of RAM. Each part is measured on its own: arrays are summed, MLX reports its allocator's counts, and
Python's share is the remainder of the process at load. The sum can be compared with what the
operating system reports; the difference is shown as a row of its own.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from ..formatting import percent, size_words
from ..paging import clear_cache
from ..system.memory_info import process_nbytes, trim_heap

MLX_CACHE_NBYTES = 32_000_000
"""MLX's cap on freed memory that it keeps for new arrays, while an engine is open. It uses 4 to 13
MB; uncapped it keeps most of a GPU's RAM, since each growth of a KV cache frees the old one."""
ACTIVATION_NBYTES = 96_000_000
"""The activations of a prefill chunk may always take this much; it bounds the chunk."""
MOST_ACTIVATION_NBYTES = 256_000_000
"""They may take up to this much of what a run leaves free of the planned KV cache."""
GROWTH_NBYTES = 22_000_000
"""What a process grows by after its model is loaded: 5 to 16 MB were measured, trace included."""
SPARE_NBYTES = MLX_CACHE_NBYTES + ACTIVATION_NBYTES + GROWTH_NBYTES
"""What a loaded model may take beyond its size at load, its slots and its KV caches: 150 MB."""
PYTHON_NBYTES = 320_000_000
"""Expected before anything is loaded, of Python, its libraries and the kernels: 300 to 320 MB were
measured, 130 of them Numba and LLVM. One that has to compile the kernels takes 200 MB more."""
TOKENIZER_NBYTES = 820
"""Expected per entry of the vocabulary: 124 MB were measured for 151,643 and their merges."""


def expected_nbytes(vocabulary: int) -> int:
    """What loading and running a model is expected to add beside weights, slots and KV caches.

    Args:
        vocabulary: size of the tokenizer's vocabulary.
    """
    return SPARE_NBYTES + TOKENIZER_NBYTES * vocabulary


@dataclass(frozen=True)
class MemoryUse:
    """The memory of a process with an engine, by use, in bytes.

    Attributes:
        dense: weights that are always in RAM: attention, routers, norms, embeddings.
        experts: the expert slots, filled or not.
        kv_run: the KV cache of the run under way.
        kv_kept: KV caches kept for reuse; `kv_bound` is their limit, and not part of the sum.
        readers: buffers of direct reads, or the resident pages of memory-mapped files.
        mlx_cache: freed memory that MLX keeps for new arrays.
        mlx_other: MLX's other arrays: activations, arrays of your own.
        trace: the trace of the last run.
        python: the rest of the process at load: interpreter, libraries, tokenizer.
        process: the resident set size, as the operating system reports it.
        ranks: of each rank that the experts are spread over, its host, the bytes of its slots and
            of its process; these are other processes' and not part of the sum.
    """

    dense: int
    experts: int
    kv_run: int
    kv_kept: int
    readers: int
    mlx_cache: int
    mlx_other: int
    trace: int
    python: int
    process: int
    kv_bound: int = 0
    ranks: tuple[tuple[str, int, int], ...] = ()

    @property
    def accounted(self) -> int:
        """The sum of the parts."""
        total: int = sum(value for value in asdict(self).values() if isinstance(value, int))
        return total - self.process - self.kv_bound

    @property
    def freed(self) -> int:
        """The memory that closing the engine frees."""
        return self.dense + self.experts + self.kv_run + self.kv_kept + self.mlx_cache

    @property
    def unaccounted(self) -> int:
        """The process's size minus the sum of the parts; negative if parts are not resident."""
        return self.process - self.accounted

    def to_dict(self) -> dict[str, Any]:
        """All fields, with `accounted` and `unaccounted`."""
        return asdict(self) | {"accounted": self.accounted, "unaccounted": self.unaccounted}

    def __str__(self) -> str:
        """A small table, one row per part."""
        rows = [
            ("dense weights", self.dense),
            ("expert slots", self.experts),
            ("KV cache of the run", self.kv_run),
            ("KV caches kept", self.kv_kept),
            ("readers", self.readers),
            ("MLX, freed and kept", self.mlx_cache),
            ("MLX, other arrays", self.mlx_other),
            ("trace of the last run", self.trace),
            ("Python at load", self.python),
            ("grown since", self.unaccounted),
            ("process", self.process),
        ]
        bound = {"KV caches kept": f"  of at most {size_words(self.kv_bound)}"}
        ranks = [
            f"rank {rank} ({host}): {size_words(process)}, of it {size_words(slots)} expert slots"
            for rank, (host, slots, process) in enumerate(self.ranks)
        ]
        table = "\n".join(
            f"{name:<22}{size_words(nbytes):>9}{percent(nbytes / self.process):>9}"
            + bound.get(name, "")
            for name, nbytes in rows
        )
        return "\n".join([table, *ranks])


class CacheCap:
    """Limits MLX's cache of freed memory to `MLX_CACHE_NBYTES` while any engine is open.

    The limit belongs to the process, so the last engine to close restores the earlier one. A lower
    limit is left as it is.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = 0
        self._before = 0

    def hold(self, engine: object) -> Callable[[], object]:
        """Count an open engine; the returned function ends that, and so does the engine's end."""
        with self._lock:
            self._open += 1
            if self._open == 1:
                self._before = mx.set_cache_limit(MLX_CACHE_NBYTES)
                mx.set_cache_limit(min(self._before, MLX_CACHE_NBYTES))
        release = weakref.finalize(engine, self._release)
        release.atexit = False
        return release

    def _release(self) -> None:
        with self._lock:
            self._open -= 1
            if self._open == 0:
                mx.set_cache_limit(self._before)


cache_cap = CacheCap()
"""The process's only instance."""


def give_back() -> None:
    """Return freed memory to the system: MLX's, as mlx-lm does, and the allocator's."""
    clear_cache()
    trim_heap()


def arrays_nbytes(tree: Any) -> int:
    """Bytes of the MLX arrays in nested lists, tuples and dictionaries."""
    leaves: Any = tree_flatten(tree)
    return sum(leaf.nbytes for _, leaf in leaves if isinstance(leaf, mx.array))


def outside_mlx() -> int:
    """Bytes of this process's resident set outside MLX."""
    return process_nbytes() - mx.get_active_memory() - mx.get_cache_memory()


def measure(
    *, model: nn.Module, experts: int, kv_run: Iterable[Any], kv_kept: int, kv_bound: int,
    readers: int, trace: int, python: int, ranks: Iterable[tuple[str, int, int]] = (),
) -> MemoryUse:  # fmt: skip
    """Measure now; arguments are fields of `MemoryUse`, `kv_run` mlx-lm's caches."""
    dense = arrays_nbytes(model.parameters())
    running = sum(arrays_nbytes(cache.state) for cache in kv_run)
    return MemoryUse(
        dense=dense,
        experts=experts,
        kv_run=running,
        kv_kept=kv_kept,
        kv_bound=kv_bound,
        readers=readers,
        mlx_cache=mx.get_cache_memory(),
        mlx_other=max(0, mx.get_active_memory() - dense - experts - running - kv_kept),
        trace=trace,
        python=python,
        process=process_nbytes(),
        ranks=tuple(ranks),
    )
