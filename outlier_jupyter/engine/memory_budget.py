"""Computes how large the expert cache may be: the RAM an engine needs, and the RAM available.

`plan` shows the result, `load` and `resize` enforce it. A process takes

    interpreter and libraries + tokenizer + dense weights + slots + KV caches + `SPARE_NBYTES`

and may take its present size plus the free memory, less a share that stays free, but at most
`ram_gb`. Before a model is loaded, interpreter and tokenizer are what is expected of them; once all
but the slots is loaded, they are what the process takes (`Needs.loaded`). This is arithmetic only:
nothing is read or changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import floor, log10
from typing import Any

from ..errors import OptionError
from ..formatting import size_words
from ..options import AUTO, GenerateOptions, LoadOptions
from ..paging import share_slots
from ..paging.install import MoeSwitch, banks_nbytes
from ..paging.probe import Probed
from ..system.memory_info import Machine, machine_memory, process_nbytes
from .kv_cache import KEPT
from .memory import (
    ACTIVATION_NBYTES,
    MOST_ACTIVATION_NBYTES,
    PYTHON_NBYTES,
    SPARE_NBYTES,
    expected_nbytes,
)
from .prompts import context_of, vocabulary_of

PLANNED_TOKENS = 8192
"""The context whose KV cache is planned for, or the model's own if that is shorter."""
KV_BITS = 32
"""The most bits of a number in a KV cache; quantised to n bits it takes at least n / 32."""
UNCHECKED_NBYTES = 64_000_000
"""A KV cache up to this is not checked against the free memory."""
SPARED, SPARED_IN_BOUND = 0.1, 0.02
"""The share of the machine's memory that stays free, for other processes and the page cache:
without `ram_gb`, and with it."""


@dataclass(frozen=True)
class Needs:
    """Bytes that a model takes besides its expert slots.

    Attributes:
        dense: weights that are not experts.
        kv_run: the KV cache of a run of `tokens` tokens.
        kv_kept: the maximum of the KV caches kept for reuse.
        working: activations, freed memory that MLX keeps; before loading, the tokenizer too.
        tokens: the planned context.
        kv_token: growth of the KV cache per token; 0 if unknown.
        python: the least that the rest of the process takes.
    """

    dense: int
    kv_run: int
    kv_kept: int
    working: int
    tokens: int
    kv_token: int = 0
    python: int = PYTHON_NBYTES

    @property
    def nbytes(self) -> int:
        """Their sum, without `python`."""
        return self.dense + self.kv_run + self.kv_kept + self.working

    def loaded(self, before: int) -> Needs:
        """The needs of a loaded model, whose tokenizer and kernels are part of the process.

        Args:
            before: bytes of the process before it was loaded; where the system does not count
                MLX's arrays, as on a GPU, the process may seem to be smaller.
        """
        return replace(self, working=SPARE_NBYTES, python=before)

    def activations(self, tokens: int) -> int:
        """Bytes for the activations of a run of `tokens` tokens, its answer included.

        A run that needs less than the planned KV cache has the rest for them. It depends on the
        model and the run alone, so that a run can be repeated to the bit.
        """
        free = self.kv_token * max(0, self.tokens - tokens)
        return min(MOST_ACTIVATION_NBYTES, ACTIVATION_NBYTES + free)


@dataclass(frozen=True)
class MemoryBounds:
    """Bytes that this process may take.

    Attributes:
        machine: total and free memory.
        process: bytes of this process now, without those about to be freed.
        ram_gb: the user's limit for this process in GB, or None.
    """

    machine: Machine
    process: int
    ram_gb: float | None = None

    @classmethod
    def now(cls, ram_gb: float | None = None, freed: int = 0, beside: int = 1) -> MemoryBounds:
        """The bounds of this process, once `freed` bytes of it are freed.

        Args:
            beside: processes of this machine, it among them, that share both bounds alike.
        """
        now = machine_memory()
        free = min(now.available // beside + freed, now.total)
        most = None if ram_gb is None else ram_gb / beside
        return cls(Machine(now.total // beside, free), max(0, process_nbytes() - freed), most)

    def beside(self, needs: Needs) -> int:
        """Bytes that the process takes beside expert slots."""
        return max(needs.python, self.process) + needs.nbytes

    @property
    def spared(self) -> int:
        """Memory that stays free."""
        return int((SPARED if self.ram_gb is None else SPARED_IN_BOUND) * self.machine.total)

    @property
    def most(self) -> int:
        """The most that the process may take in all."""
        free = self.process + max(0, self.machine.available - self.spared)
        return free if self.ram_gb is None else min(free, int(self.ram_gb * 1e9))

    def for_experts(self, needs: Needs) -> int:
        """Bytes left for expert slots; negative if the model does not fit even without any."""
        return self.most - self.beside(needs)

    @property
    def bounded(self) -> bool:
        """Whether `ram_gb`, and not the free memory, sets the limit."""
        return self.ram_gb is not None and self.most >= int(self.ram_gb * 1e9)

    def words(self) -> str:
        """The reason for `most`, for messages."""
        if self.bounded:
            return f"ram_gb={self.ram_gb:g}"
        free, spared = size_words(self.machine.available), size_words(self.spared)
        return f"{free} are free, of which {spared} should stay so"


def needs_of(config: dict[str, Any], dense: int, probed: Probed | None, kept_kv_gb: float) -> Needs:
    """The bytes that the model of `config` takes besides its expert slots.

    Args:
        dense: bytes of weights that are not experts.
        probed: the measured growth of its KV cache, or None if unknown.
        kept_kv_gb: as in `LoadOptions`.
    """
    tokens = max(1, min(context_of(config) or PLANNED_TOKENS, PLANNED_TOKENS))
    kv = probed.kv_nbytes_fixed + tokens * probed.kv_nbytes_per_token if probed else 0
    most = round(kept_kv_gb * 1e9)
    kept = min(most, KEPT * kv) if probed else most
    grows = probed.kv_nbytes_per_token if probed else 0
    return Needs(dense, kv, kept, expected_nbytes(vocabulary_of(config)), tokens, grows)


def check_prompt(
    tokens: int, options: GenerateOptions, needs: Needs, ram_gb: float | None, kept: int
) -> None:
    """Refuse a prompt whose KV cache does not fit in memory, before any of it is read.

    The check is a lower bound: other processes may free memory, and the scales of a quantised cache
    are not counted. A cache up to `UNCHECKED_NBYTES` passes.

    Args:
        tokens: length of the whole prompt.
        ram_gb: as in `MemoryBounds`.
        kept: bytes of KV caches kept for reuse; they hold the prompt's beginning or can be evicted.

    Raises:
        OptionError: the cache takes more than the free memory.
    """
    length = min(tokens, options.max_kv_size or tokens)
    nbytes = length * needs.kv_token * (options.kv_bits or KV_BITS) // KV_BITS
    if nbytes <= UNCHECKED_NBYTES:
        return
    room = MemoryBounds.now(ram_gb, freed=kept)
    free = room.machine.available
    if ram_gb is not None and nbytes > needs.kv_run:
        free = min(free, max(0, int(ram_gb * 1e9) - room.process))
    if nbytes > free:
        raise OptionError(
            f"the prompt is {tokens:,} tokens, whose KV cache takes {size_words(nbytes)}, and "
            f"{size_words(free)} are free: shorten it, give max_kv_size or kv_bits, or load the "
            "model with a smaller cache"
        )


def best_nbytes(switches: Sequence[MoeSwitch], room: int) -> int | None:
    """Bytes of the largest cache that fits in `room`; None if none does."""
    everything = sum(s.experts * s.expert_nbytes for s in switches)
    if everything <= room:
        return up(everything)
    return down(room) if room > least_nbytes(switches) else None


def least_nbytes(switches: Sequence[MoeSwitch]) -> int:
    """The smallest useful cache: two experts of each geometry."""
    kinds = {switch.geometry: switch.expert_nbytes for switch in switches}
    return max(kinds.values(), default=0) * 2 * len(kinds)


def fitted(
    switches: Sequence[MoeSwitch],
    options: LoadOptions,
    needs: Needs,
    room: MemoryBounds,
    have: int = 0,
) -> LoadOptions:
    """`options` with the cache's size in numbers, if it fits.

    Args:
        have: bytes of the present slots; a size that takes no more is never refused.

    Raises:
        OptionError: the size does not fit and `force` is not set; or no size fits.
    """
    left = room.for_experts(needs)
    if not switches:
        options = replace(options, ram_gb=None)
        if options.cache_gb == AUTO:
            options = replace(options, cache_gb=LoadOptions().cache_gb)
        if left < 0 and not options.force:
            raise OptionError(_refusal("the model", 0, needs, room, "load a smaller one"))
        return options
    best = best_nbytes(switches, left)
    if options.sized_by_memory:
        if best is None:
            advice = "give a larger ram_gb" if room.bounded else "free memory"
            what = "this model" if options.ram_gb is None else f"ram_gb={options.ram_gb:g}"
            raise OptionError(_refusal(what, 0, needs, room, advice, ""))
        options = replace(options, cache_gb=best / 1e9)
    options = replace(options, ram_gb=None)
    taken = banks_nbytes(switches, slots_of(switches, options))
    if taken > max(left, have) and not options.force:
        advice = "free memory" if best is None else f"give cache_gb={best / 1e9:g} or less"
        raise OptionError(_refusal(_what(options), taken, needs, room, advice))
    return options


def slots_of(switches: Sequence[MoeSwitch], options: LoadOptions) -> dict[Any, int]:
    """The number of slots of each geometry; `cache_gb` must be a number by now.

    Raises:
        OptionError: not even one expert fits.
    """
    count = sum(s.experts for s in switches) if options.resident else options.cache_experts
    return share_slots(switches, float(options.cache_gb), count)


def _what(options: LoadOptions) -> str:
    if options.resident:
        return "resident=True"
    if options.cache_experts is not None:
        return f"cache_experts={options.cache_experts}"
    return f"cache_gb={float(options.cache_gb):g}"


def _refusal(
    what: str,
    experts: int,
    needs: Needs,
    room: MemoryBounds,
    advice: str,
    more: str = ", or force=True",
) -> str:
    total = size_words(room.beside(needs) + experts)
    kv = size_words(needs.kv_run + needs.kv_kept)
    parts = f"{size_words(needs.dense)} other weights, {kv} KV caches"
    if experts:
        parts = f"{size_words(experts)} experts, {parts}"
    return (
        f"{what} does not fit: the process would take {total} ({parts}), and may take "
        f"{size_words(room.most)} ({room.words()}); {advice}{more}"
    )


def down(nbytes: int) -> int:
    """`nbytes` rounded down to two digits."""
    unit = int(10 ** (floor(log10(nbytes)) - 1))
    return nbytes // max(unit, 1) * max(unit, 1)


def up(nbytes: int) -> int:
    """`nbytes` rounded up to three digits, so that all of it fits."""
    unit = max(int(10 ** (floor(log10(nbytes)) - 2)), 1)
    return -(-nbytes // unit) * unit
