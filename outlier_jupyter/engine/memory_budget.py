"""What an engine takes of RAM, what of it can be had, and so how large its cache may be.

`plan` shows it, `load` and `resize` hold to it. What a process takes is

    what it takes anyway + dense weights + slots + KV caches + `memory.working_nbytes`

and what it may take is what it holds now and what is free, less a share that stays free; or
`ram_gb`, where that is less. Arithmetic alone: nothing is read, and nothing is changed.
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
from ..paging.install import Switch, banks_nbytes, staging_slots
from ..paging.probe import Probed
from ..system.memory_info import Machine, machine_memory, process_nbytes
from .kv_cache import KEPT
from .memory import PYTHON_NBYTES, working_nbytes
from .prompts import context_of, vocabulary_of

PLANNED_TOKENS = 8192
"""The context whose KV cache is planned for, or the model's own where that is shorter."""
KV_BITS = 32
"""Of a number in a KV cache, at most: what is quantised to fewer takes that share at least."""
ASKED_NBYTES = 64_000_000
"""A KV cache up to this is not worth asking the system how much memory is free."""
SPARED = 0.1
"""The share of the machine's memory that is left to everybody else and to the page cache."""


@dataclass(frozen=True)
class Needs:
    """Bytes that a model takes beside its slots.

    Attributes:
        dense: weights that are not experts.
        kv_run: the KV cache of a run of `tokens` tokens.
        kv_kept: the most that KV caches kept for reuse take.
        working: activations, what MLX keeps of freed memory, the tokenizer.
        tokens: the context that is planned for.
        kv_token: by how much the KV cache grows with a token; 0 where that could not be told.
    """

    dense: int
    kv_run: int
    kv_kept: int
    working: int
    tokens: int
    kv_token: int = 0

    @property
    def nbytes(self) -> int:
        """Their sum."""
        return self.dense + self.kv_run + self.kv_kept + self.working


@dataclass(frozen=True)
class MemoryBounds:
    """Bytes that this process may take.

    Attributes:
        machine: what there is, and what is free.
        held: what the process holds now, and will go on to hold.
        ram_gb: a bound that was asked for, or None.
    """

    machine: Machine
    held: int
    ram_gb: float | None = None

    @classmethod
    def now(cls, ram_gb: float | None = None, freed: int = 0) -> MemoryBounds:
        """Of this process, in which `freed` bytes are to be freed first."""
        seen = machine_memory()
        free = min(seen.available + freed, seen.total)
        return cls(Machine(seen.total, free), max(0, process_nbytes() - freed), ram_gb)

    @property
    def python(self) -> int:
        """What the process takes anyway: interpreter and libraries, or all it holds now."""
        return max(PYTHON_NBYTES, self.held)

    @property
    def spared(self) -> int:
        """What stays free."""
        return int(SPARED * self.machine.total)

    @property
    def most(self) -> int:
        """Bytes that the process may come to hold in all."""
        free = self.held + max(0, self.machine.available - self.spared)
        return free if self.ram_gb is None else min(free, int(self.ram_gb * 1e9))

    def for_experts(self, needs: Needs) -> int:
        """What is left for slots; negative where not even the rest fits."""
        return self.most - self.python - needs.nbytes

    @property
    def bounded(self) -> bool:
        """Whether `ram_gb` is what bounds it, not what is free."""
        return self.ram_gb is not None and self.most >= int(self.ram_gb * 1e9)

    def words(self) -> str:
        """Where `most` comes from."""
        if self.bounded:
            return f"ram_gb={self.ram_gb:g}"
        free, spared = size_words(self.machine.available), size_words(self.spared)
        return f"{free} are free, of which {spared} should stay so"


def needs_of(config: dict[str, Any], dense: int, probed: Probed | None, kept_kv_gb: float) -> Needs:
    """What the model of `config` takes beside its slots.

    Args:
        dense: bytes of weights that are not experts.
        probed: how its KV cache grows, or None where that could not be told.
        kept_kv_gb: as in `LoadOptions`.
    """
    tokens = max(1, min(context_of(config) or PLANNED_TOKENS, PLANNED_TOKENS))
    kv = probed.kv_nbytes_fixed + tokens * probed.kv_nbytes_per_token if probed else 0
    most = round(kept_kv_gb * 1e9)
    kept = min(most, KEPT * kv) if probed else most
    grows = probed.kv_nbytes_per_token if probed else 0
    return Needs(dense, kv, kept, working_nbytes(vocabulary_of(config)), tokens, grows)


def check_prompt(
    tokens: int, asked: GenerateOptions, needs: Needs, ram_gb: float | None, kept: int
) -> None:
    """Refuse a prompt whose KV cache cannot be held: nothing of it has been read yet.

    What is not sure is let through: that others free memory, what a quantised cache takes beside
    its codes. Little is never asked about.

    Args:
        tokens: of the whole prompt.
        ram_gb: as in `MemoryBounds`.
        kept: bytes of KV caches kept for reuse, which may hold its beginning, or go.

    Raises:
        OptionError: it is more than what is free.
    """
    length = min(tokens, asked.max_kv_size or tokens)
    nbytes = length * needs.kv_token * (asked.kv_bits or KV_BITS) // KV_BITS
    if nbytes <= ASKED_NBYTES:
        return
    room = MemoryBounds.now(ram_gb, freed=kept)
    free = room.machine.available
    if ram_gb is not None and nbytes > needs.kv_run:
        free = min(free, max(0, int(ram_gb * 1e9) - room.held))
    if nbytes > free:
        raise OptionError(
            f"the prompt is {tokens:,} tokens, whose KV cache takes {size_words(nbytes)}, and "
            f"{size_words(free)} are free: shorten it, give max_kv_size or kv_bits, or load the "
            "model with a smaller cache"
        )


def best_nbytes(switches: Sequence[Switch], room: int) -> int | None:
    """Bytes of the largest cache that `room` has place for; None where it has for none."""
    everything = sum(s.experts * s.expert_nbytes for s in switches)
    if everything <= room:
        return up(everything)
    return down(room) if room > least_nbytes(switches) else None


def least_nbytes(switches: Sequence[Switch]) -> int:
    """A cache that is hardly one: two experts of each kind."""
    kinds = {switch.geometry: switch.expert_nbytes for switch in switches}
    return max(kinds.values(), default=0) * 2 * len(kinds)


def fitted(
    switches: Sequence[Switch], asked: LoadOptions, needs: Needs, room: MemoryBounds, have: int = 0
) -> LoadOptions:
    """`asked` with its cache's size worked out, if it fits.

    Args:
        have: bytes of the slots that there are; what takes no more is never refused.

    Raises:
        OptionError: it does not, and `force` does not say to try; or nothing would.
    """
    left = room.for_experts(needs)
    if not switches:
        asked = replace(asked, ram_gb=None)
        if asked.cache_gb == AUTO:
            asked = replace(asked, cache_gb=LoadOptions().cache_gb)
        if left < 0 and not asked.force:
            raise OptionError(_refusal("the model", 0, needs, room, "load a smaller one"))
        return asked
    best = best_nbytes(switches, left)
    exact = asked.resident or asked.cache_experts is not None
    if not exact and (asked.cache_gb == AUTO or asked.ram_gb is not None):
        if best is None:
            advice = "give a larger ram_gb" if room.bounded else "free memory"
            what = "this model" if asked.ram_gb is None else f"ram_gb={asked.ram_gb:g}"
            raise OptionError(_refusal(what, 0, needs, room, advice, ""))
        asked = replace(asked, cache_gb=best / 1e9)
    asked = replace(asked, ram_gb=None)
    taken = banks_nbytes(switches, slots_of(switches, asked), staging_slots(switches, asked))
    if taken > max(left, have) and not asked.force:
        advice = "free memory" if best is None else f"give cache_gb={best / 1e9:g} or less"
        raise OptionError(_refusal(_what(asked), taken, needs, room, advice))
    return asked


def slots_of(switches: Sequence[Switch], asked: LoadOptions) -> dict[Any, int]:
    """How many slots each geometry gets; the cache's size is a number by now.

    Raises:
        OptionError: not one expert fits.
    """
    count = sum(s.experts for s in switches) if asked.resident else asked.cache_experts
    return share_slots(switches, float(asked.cache_gb), count, staging_slots(switches, asked))


def _what(asked: LoadOptions) -> str:
    if asked.resident:
        return "resident=True"
    if asked.cache_experts is not None:
        return f"cache_experts={asked.cache_experts}"
    return f"cache_gb={float(asked.cache_gb):g}"


def _refusal(
    what: str,
    experts: int,
    needs: Needs,
    room: MemoryBounds,
    advice: str,
    more: str = ", or force=True",
) -> str:
    total = size_words(room.python + needs.nbytes + experts)
    kv = size_words(needs.kv_run + needs.kv_kept)
    parts = f"{size_words(needs.dense)} other weights, {kv} KV caches"
    if experts:
        parts = f"{size_words(experts)} experts, {parts}"
    return (
        f"{what} does not fit: the process would take {total} ({parts}), and may take "
        f"{size_words(room.most)} ({room.words()}); {advice}{more}"
    )


def down(nbytes: int) -> int:
    """Two digits of it, rounded down."""
    unit = int(10 ** (floor(log10(nbytes)) - 1))
    return nbytes // max(unit, 1) * max(unit, 1)


def up(nbytes: int) -> int:
    """Three digits of it, rounded up, so that all of it fits."""
    unit = max(int(10 ** (floor(log10(nbytes)) - 2)), 1)
    return -(-nbytes // unit) * unit
