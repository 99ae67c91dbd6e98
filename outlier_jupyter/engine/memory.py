"""What an engine's memory is spent on, and the bounds that make it a promise.

    dense weights + cache_gb + KV caches + `beside_nbytes`

is what a process with a loaded model may take of RAM. The parts are measured each by itself:
arrays are summed, MLX is asked for its allocator's counts, and what Python took is what was left
when the model had been loaded. So the sum can be held against what the operating system reports
now; what differs is shown as a row of its own.
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
from ..system.memory_info import give_back_freed, process_nbytes

MLX_CACHE_NBYTES = 64_000_000
"""MLX keeps at most this much of freed memory for the next arrays, while an engine is open: 4 to 13
MB are what it uses. Uncapped it keeps most of the RAM on a GPU, and every growth of a KV cache
frees the old one."""
ACTIVATION_NBYTES = 256_000_000
"""What one chunk of a prompt may need beside weights and KV cache; it bounds the chunk."""
PYTHON_NBYTES = 280_000_000
"""Python, its libraries and a run's trace: 250 to 263 MB were measured, 130 MB of them Numba and
LLVM; a notebook's libraries add 12 to 25."""
WORKING_NBYTES = MLX_CACHE_NBYTES + ACTIVATION_NBYTES
CONSTANT_NBYTES = MLX_CACHE_NBYTES + ACTIVATION_NBYTES + PYTHON_NBYTES
"""The constant of the promise: 600 MB."""
TOKENIZER_NBYTES = 820
"""Of each entry of the vocabulary: 124 MB were measured for 151,643 and their merges."""


def beside_nbytes(vocabulary: int) -> int:
    """What a process takes at most beside weights, slots and KV caches.

    Args:
        vocabulary: of the model's tokenizer.
    """
    return PYTHON_NBYTES + working_nbytes(vocabulary)


def working_nbytes(vocabulary: int) -> int:
    """The part of it that comes when a model is loaded and run."""
    return WORKING_NBYTES + TOKENIZER_NBYTES * vocabulary


@dataclass(frozen=True)
class MemoryUse:
    """Where the memory of a process with an engine is, in bytes.

    Attributes:
        dense: weights that are always in RAM: attention, routers, norms, embeddings.
        experts: the banks of slots, full or not.
        kv_run: the KV cache of the run under way.
        kv_kept: KV caches kept for reuse; `kv_bound` is the most they may take, and no part.
        readers: buffers of direct reads, or what memory-mapped files hold in RAM.
        mlx_cache: memory MLX has freed and keeps for its next arrays.
        mlx_other: MLX's other arrays: activations under way, arrays of your own.
        trace: the recording of the last run.
        python: the rest of the process when the model had been loaded: interpreter, libraries,
            tokenizer.
        process: the resident set, as the operating system reports it.
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

    @property
    def accounted(self) -> int:
        """The sum of the parts."""
        total: int = sum(asdict(self).values())
        return total - self.process - self.kv_bound

    @property
    def freed(self) -> int:
        """What is given back when the engine is closed."""
        return self.dense + self.experts + self.kv_run + self.kv_kept + self.mlx_cache

    @property
    def unaccounted(self) -> int:
        """What the process holds beyond the parts, or (negative) does not hold of them."""
        return self.process - self.accounted

    def to_dict(self) -> dict[str, int]:
        """All of it, the sum and the difference included."""
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
        return "\n".join(
            f"{name:<22}{size_words(nbytes):>9}{percent(nbytes / self.process):>9}"
            + bound.get(name, "")
            for name, nbytes in rows
        )


class CacheCap:
    """Holds MLX's cache of freed memory to `MLX_CACHE_NBYTES` while any engine is open.

    The limit is the process's, so the last engine to close puts back what was there before the
    first. A limit that was lower already is left alone.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = 0
        self._before = 0

    def hold(self, engine: object) -> Callable[[], object]:
        """One more engine is open; what is returned ends that, and so does the engine's end."""
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
"""The one of this process."""


def give_back() -> None:
    """Return memory that was freed, by MLX as mlx-lm does, and by what lies below MLX."""
    mx.clear_cache()
    give_back_freed()


def weights_nbytes(model: nn.Module) -> int:
    """Bytes of a module's parameters."""
    return arrays_nbytes(model.parameters())


def arrays_nbytes(tree: Any) -> int:
    """Bytes of the MLX arrays in nested lists, tuples and dictionaries."""
    leaves: Any = tree_flatten(tree)
    return sum(leaf.nbytes for _, leaf in leaves if isinstance(leaf, mx.array))


def outside_mlx() -> int:
    """Bytes of this process's resident set that are not MLX's."""
    return process_nbytes() - mx.get_active_memory() - mx.get_cache_memory()


def measure(
    *, model: nn.Module, experts: int, kv_run: Iterable[Any], kv_kept: int, kv_bound: int,
    readers: int, trace: int, python: int,
) -> MemoryUse:  # fmt: skip
    """Count what can be counted now; arguments are `MemoryUse`'s, `kv_run` mlx-lm's caches."""
    dense = weights_nbytes(model)
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
    )
