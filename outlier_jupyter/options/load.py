"""The options of loading a model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ..errors import OptionError
from ..residency import policies
from ..values import path, text
from .fields import expert_texts, host_names, option, settle

AUTO = "auto"
READERS = ("pread", "direct", "mmap")
KERNELS = ("auto", "mlx")
SWEPT = ("top_k", "cache_gb", "cache_experts", "policy", "reader")
"""The loading options that `sweep` varies."""


def policy_name(name: str, value: Any) -> str:
    """A policy's name; `default` is resolved to the default policy's."""
    return policies.canonical_name(text(name, value))


@dataclass(frozen=True)
class LoadOptions:
    """How a model is loaded; the fields are the keyword arguments of `load`."""

    cache_gb: float | str = option(
        8.0,
        "GB (10^9 bytes) of RAM for expert weights; attention, KV caches and the rest come on top; "
        "auto takes as much as fits, as `plan` advises",
        above=0,
        words=(AUTO,),
        high=1e9,
    )
    ram_gb: float | None = option(
        None,
        "GB of RAM for the whole process, KV caches and Python included; the cache gets the "
        "remainder, instead of --cache-gb",
        above=0,
        high=1e9,
    )
    cache_experts: int | None = option(
        None, "cache exactly this many experts, instead of --cache-gb", low=1
    )
    resident: bool = option(
        False, "read all experts into RAM at load and keep them; --cache-gb is ignored"
    )
    force: bool = option(
        False,
        "skip the checks of memory and of prompt length; the system may end a process that takes "
        "too much",
    )
    kept_kv_gb: float = option(
        1.0,
        "GB of RAM for KV caches kept between runs, for --reuse-kv and chats; the least recently "
        "used is evicted first",
        low=0,
        high=1e9,
    )
    top_k: int | None = option(
        None, "experts per token, instead of the model's own number; changes the output", low=1
    )
    adapter: str | None = option(
        None,
        "the folder of an adapter that mlx-lm trained (LoRA or DoRA) on dense layers; changes the "
        "output",
        spell=path,
    )
    reader: str = option(
        "auto",
        "how experts are read: pread, direct (bypasses the page cache) or mmap (for comparison); "
        "auto takes pread below 1 GB of experts, else what a probe of the disk finds faster",
        choices=("auto", *READERS),
    )
    policy: str = option(
        policies.DEFAULT,
        policies.policy_help,
        choices=policies.policy_names,
        spell=policy_name,
    )
    warm: str = option(
        AUTO,
        "a saved trace; the experts that it used most are read at load; auto, those that this "
        "model's runs used lately, kept in the cache folder; or off",
        spell=path,
    )
    pin: tuple[str, ...] = option(
        (),
        "LAYER:EXPERT to read at load and never evict; may be repeated",
        spell=expert_texts,
    )
    repacked: str = option(
        "auto",
        "where to look for repacked experts: a folder; auto, beside the model and in the cache "
        "folder; or off",
        spell=path,
    )
    kernels: str = option(
        "auto",
        "kernels for the experts: mlx uses MLX's own, bit for bit as mlx-lm; auto uses compiled "
        "CPU kernels where MLX has no GPU",
        choices=KERNELS,
    )
    overlap: str = option(
        "auto",
        "compute resident experts while the others are read: auto, with compiled kernels and "
        "experts large enough to gain; on, always; off, never",
        choices=("auto", "on", "off"),
    )
    read_threads: int | None = option(
        None,
        "number of parallel reads; by default 4, or what the probe finds best",
        low=1,
        high=256,
    )
    hosts: tuple[str, ...] = option(
        (),
        "spread the experts over these machines, as mac1.local,mac2.local, or over a number of "
        "processes on this one, as 2; each gets the whole --cache-gb",
        spell=host_names,
    )
    hostfile: str | None = option(
        None, "the same, from a hostfile of mlx.launch", spell=path, metavar="FILE"
    )
    placement: str = option(
        "even",
        "with --hosts, which machine has which expert: even, in turn; or a saved trace, so that "
        "each layer's experts are used equally often on all",
        spell=path,
    )
    revision: str | None = option(
        None, "branch, tag or commit of a Hugging Face repository, instead of its main branch"
    )
    trust_remote_code: bool = option(
        False, "allow the model folder's own Python code to run, if the model needs it"
    )
    quiet: bool = option(False, "show no progress bars while the model is downloaded or read")

    def __post_init__(self) -> None:
        settle(self)

    @property
    def spread(self) -> bool:
        """Whether the experts are spread over ranks."""
        return bool(self.hosts) or self.hostfile is not None

    @property
    def sized_by_memory(self) -> bool:
        """Whether the cache takes what memory is left."""
        exact = self.resident or self.cache_experts is not None
        return not exact and (self.cache_gb == AUTO or self.ram_gb is not None)


def resized(
    options: LoadOptions, cache_gb: float | str | None, cache_experts: int | None
) -> LoadOptions:
    """`options` with another cache size, in GB or in experts.

    Raises:
        OptionError: neither or both sizes are there, or the value breaks its rule.
    """
    if (cache_gb is None) == (cache_experts is None):
        raise OptionError("give the cache's new size in one way: cache_gb=… or cache_experts=…")
    if cache_gb is None:
        return replace(options, cache_experts=cache_experts, resident=False)
    return replace(options, cache_gb=cache_gb, cache_experts=None, resident=False)
