"""Loads a model into an engine: find the folder, build lazily, replace switches, open readers.

mlx-lm builds the model with lazy tensors. The experts' tensors are dropped before anything is
evaluated, so they are never read whole.
"""

from __future__ import annotations

import gc
import os
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_reduce

from ..checkpoint import Checkpoint, Reader
from ..checkpoint.model_folder import ModelFolder
from ..checkpoint.shard import check_whole
from ..cpu.modules import native as native_part
from ..cpu.modules import processor_words
from ..cpu.modules import wanted as native_wanted
from ..cpu.modules.stored_type import stored_type
from ..errors import CheckpointChanged, ReadFailed, brief, place
from ..options import AUTO, LoadOptions, make, takes
from ..paging import Installed, check_device, install, release, switch_modules
from ..paging.elsewhere import install_elsewhere
from ..paging.install import MoeSwitch
from ..paging.preload import parse_pins
from ..paging.probe import Probed, dense_nbytes, embedding_nbytes, probe
from ..residency import ExpertKey
from ..system.hub import resolve
from ..system.interrupt import Interrupts, deferred
from ..system.provenance import fingerprint, machine_words, versions
from ..trace import Trace, TraceInfo
from ..values import path as path_of
from ..values import refused
from .adapters import adapter_words, apply_adapter, with_adapter
from .choose_reader import open_experts
from .close import check_can_load, free_unreachable
from .decode import UNCOMPUTABLE, uncomputable
from .engine import Engine
from .first_experts import fill
from .loads import loads
from .memory import give_back
from .memory_budget import MemoryBounds, Needs, fitted, needs_of, slots_of
from .open_checkpoint import Opened, open_model, open_tokenizer, warn_if_not_paged
from .prefill_chunk import Costs
from .routing_history import Experts, RoutingHistory
from .sampling import model_sampling
from .spread import here, load_ranks, local_options, placement_of, start_ranks
from .top_k import check_top_k, top_k_of

if TYPE_CHECKING:
    from ..cpu.modules.install import Native


@takes(LoadOptions)
def load(
    model: str | os.PathLike[str],
    *,
    clock: Callable[[], int] = time.perf_counter_ns,
    replacing: Engine | None = None,
    **options: Any,
) -> Engine:
    """Load a model with its experts on disk.

    Args:
        model: "demo" (ships with the package), a folder, or a Hugging Face id.
        clock: nanoseconds; every measured time comes from it.
        replacing: an engine to close after the checks that need no weights, before they are read.
        **options: the fields of `LoadOptions`: cache_gb, cache_experts, top_k, reader, kernels …
            `OUTLIER_MMAP_EXPERTS=1` in the environment selects the mmap reader.

    Raises:
        ModelNotFound, CheckpointError, UnsupportedModel, OptionError, EngineClosed: it says why.
    """
    check_can_load()
    if os.environ.get("OUTLIER_MMAP_EXPERTS") == "1":
        options = {"reader": "mmap"} | options
    settings = make(LoadOptions, options)
    if replacing is not None and not isinstance(replacing, Engine):
        raise refused("replacing", replacing, "an engine, or nothing")
    free_unreachable()
    path = resolve(here(path_of("model", model), settings), settings.revision, settings.quiet)
    folder = ModelFolder(path, trusted=settings.trust_remote_code)
    if not settings.spread:
        check_whole(path)
    folder.check_tokenizer()
    with loads.one():
        return _load(place(model, 1000), folder, settings, clock, replacing)


def _load(
    model: str,
    folder: ModelFolder,
    options: LoadOptions,
    clock: Callable[[], int],
    replacing: Engine | None,
) -> Engine:
    """Load; if that fails or is interrupted, close all files and free all memory of it."""
    try:
        # The first Ctrl-C raises; further ones wait until the cleanup is done.
        with Interrupts() as interrupts, ExitStack() as undo:
            interrupts.once = True
            engine = _opened(model, folder, options, clock, replacing, undo)
            interrupts.once = False
            if interrupts.noted:  # it was raised where Python drops exceptions
                raise KeyboardInterrupt
            undo.pop_all()
    except BaseException as error:
        _forget_frames(error)
        raise
    return engine


def _forget_frames(error: BaseException | None) -> None:
    """Clear the frames of `error` and of its causes: they reference the model's arrays.

    A notebook keeps the last traceback, and with it the arrays and open files of its frames.
    """
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _opened(
    model: str, folder: ModelFolder, options: LoadOptions, clock: Callable[[], int],
    replacing: Engine | None, undo: ExitStack,
) -> Engine:  # fmt: skip
    """The engine, with its experts preloaded; `undo` closes what was opened."""
    ranks, wanted = start_ranks(options, undo), options
    own_top_k, override = top_k_of(folder.config, options.top_k, model)
    module, config, checkpoint, switches = opened = open_model(folder, override, options.force)
    undo.callback(_free_failed, module)
    apply_adapter(module, options.adapter, [switch.path for switch in switches])
    probed = probed_of(opened, options.kernels)
    remainder = options.sized_by_memory and bool(opened.switches) and ranks is None
    options, needs, ram_gb = _fitted(opened, probed, options, replacing)
    native = _begin_native(module, options.kernels, undo)
    tokenizer = open_tokenizer(folder, config)
    check_top_k(options.top_k, switches)
    warn_if_not_paged(model, config, module)
    pins, earlier = _preloads(switches, options)
    placement = placement_of(ranks, switches, options.placement)
    slots = _first_slots(switches, options, remainder) if ranks is None else {}
    reads = open_experts(checkpoint, switches, local_options(options), undo)
    switches, reader, threads, rate = reads
    _close(replacing)
    executor = _executor(threads, undo)
    stamp = with_adapter(fingerprint(config, checkpoint.spans), options.adapter)
    known = TraceInfo(experts_per_layer=tuple(s.experts for s in switches), model_hash=stamp)
    history = RoutingHistory(known, options.warm)
    if ranks is not None:
        earlier = history.read() if earlier is None else earlier
        load_ranks(ranks, model, opened, wanted, placement, earlier, native is not None)
    with deferred():
        installed = (
            install(module, switches, slots, reader, executor, clock, options) if ranks is None
            else install_elsewhere(module, switches, ranks, clock)
        )  # fmt: skip
        undo.callback(installed.release)
    _read_dense(module, checkpoint, reader)
    if native:
        _swap(native, options.quiet)
    info = _info(model, switches, installed, reader, options, own_top_k)
    info = replace(info, model_hash=stamp, disk_rate=rate, **_sizes(module))
    give_back()
    with deferred():
        engine = Engine(
            model=module, tokenizer=tokenizer, config=config, info=info, options=options,
            installed=installed, reader=reader, executor=executor,
            costs=_costs(config, switches, options.top_k or own_top_k, native),
            needs=needs,
            kv_parts=probed.kv_parts if probed else (),
            sampling=model_sampling(folder.generation),
            ram_gb=ram_gb, history=history, clock=clock,
        )  # fmt: skip
        undo.pop_all()
        undo.callback(engine.close)
    if remainder:
        engine.resize(cache_gb=AUTO, force=options.force)
    if ranks is None:
        fill(engine, pins, earlier)
    _check_files(checkpoint, reader)
    return engine


def _preloads(
    switches: Sequence[MoeSwitch], options: LoadOptions
) -> tuple[list[ExpertKey], Experts | None]:
    """The pinned experts, and the routing of the run to warm up from, if one is named."""
    pins = parse_pins(options.pin, [switch.experts for switch in switches])
    return pins, None if options.warm in (AUTO, "off") else Trace.load(options.warm).experts


def _first_slots(
    switches: Sequence[MoeSwitch], options: LoadOptions, remainder: bool
) -> dict[Any, int]:
    """The slots of each geometry; one where the cache gets the `remainder`, measured later."""
    slots = slots_of(switches, options)
    return dict.fromkeys(slots, 1) if remainder else slots


def _close(replaced: Engine | None) -> None:
    """Close the engine that the new one replaces, and free what only cycles reference."""
    if replaced is not None:
        replaced.close()
        gc.collect()


def _executor(threads: int, undo: ExitStack) -> ThreadPoolExecutor:
    """The threads that read."""
    executor = ThreadPoolExecutor(threads, thread_name_prefix="outlier-read")
    undo.callback(executor.shutdown)
    return executor


def _read_dense(module: nn.Module, checkpoint: Checkpoint, reader: Reader) -> None:
    """Have MLX read all weights except the experts.

    Raises:
        CheckpointChanged, ReadFailed: MLX cannot read them.
    """
    _check_files(checkpoint, reader)  # MLX counts each failed read as work that never ends
    loads.check()
    try:
        mx.eval(module.parameters())
    except RuntimeError as error:
        _check_files(checkpoint, reader)
        raise ReadFailed(
            f"the weights in {place(checkpoint.folder)} cannot be read ({brief(error)}): check the "
            "disk and the memory, and load the model again"
        ) from error


def _check_files(checkpoint: Checkpoint, reader: Reader) -> None:
    """Raises CheckpointChanged: a shard changed since its header was read."""
    if reason := reader.changed(checkpoint.identities):
        raise CheckpointChanged(
            f"{reason}: wait until nothing writes to it, and load the model again"
        )


def _free_failed(module: nn.Module) -> None:
    """Free a model's weights even if a traceback, say, still references the model."""
    release(module)
    give_back()


def probed_of(opened: Opened, kernels: str) -> Probed | None:
    """A forward pass's memory needs with `kernels`, from a lazy pass; None if it cannot be made."""
    stored = stored_type if native_wanted(kernels) else None
    return probe(opened.module, opened.switches, stored)


def _fitted(
    opened: Opened, probed: Probed | None, options: LoadOptions, replacing: Engine | None
) -> tuple[LoadOptions, Needs, float | None]:
    """The options with a numeric cache size, the loaded model's other needs, and `ram_gb`.

    Raises:
        OptionError: the model does not fit, and `force` is not set.
    """
    module, config, _, switches = opened
    needs = needs_of(config, dense_nbytes(module, switches), probed, options.kept_kv_gb)
    freed = replacing.memory().freed if replacing is not None else 0
    room = MemoryBounds.now(options.ram_gb, freed)
    sized = fitted(() if options.spread else switches, options, needs, room)
    return sized, needs.loaded(room.process), options.ram_gb


def _begin_native(module: nn.Module, kernels: str, undo: ExitStack) -> Native | None:
    """Start compiling the CPU kernels on another thread; None where MLX computes everything.

    Raises:
        UnsupportedModel: MLX would have to compute experts that it cannot on this device.
    """
    native = native_part(module) if native_wanted(kernels) else None
    left = [(at, m) for at, m in switch_modules(module) if not (native and native.computes(m))]
    check_device(module, left)
    if native:
        undo.callback(native.cancel)
        native.begin()
    return native


def _swap(native: Native, quiet: bool) -> None:
    """Have the CPU kernels compute; UnsupportedModel is raised where the config makes no sense."""
    loads.check()
    try:
        native.finish(quiet)
    except UNCOMPUTABLE as error:
        raise uncomputable(error) from error


def _costs(
    config: dict[str, Any], switches: Sequence[MoeSwitch], top_k: int | None, native: Native | None
) -> Costs:
    """The bytes of activations per prompt token, in the widest layer."""
    text = config.get("text_config")
    inner = text if isinstance(text, dict) else config
    heads = inner.get("num_attention_heads")
    return Costs.of(
        top_k=top_k or 1,
        hidden=_rows(switches, True),
        width=_rows(switches, False),
        heads=heads if isinstance(heads, int) else 0,
        fused=mx.default_device() == mx.gpu,
        bounded=native is not None and native.attends,
    )


def _rows(switches: Sequence[MoeSwitch], last: bool) -> int:
    """The most outputs of an expert's last matrices, or of its others."""
    of_last = ("down_proj.weight", "fc2.weight")
    return max((part.shape[0] for s in switches for part in s.parts
                if part.name.endswith(".weight") and (part.name in of_last) == last),
               default=0)  # fmt: skip


def _info(
    model: str,
    switches: Sequence[MoeSwitch],
    installed: Installed,
    reader: Reader,
    options: LoadOptions,
    own_top_k: int | None,
) -> TraceInfo:
    changed = ""
    if options.top_k is not None and options.top_k != own_top_k:
        changed = f"top-k {options.top_k} in place of the model's {own_top_k}"
    changed = "; ".join(filter(None, [changed, adapter_words(options)]))
    compiled = native_wanted(options.kernels)
    return TraceInfo(
        model=model,
        layer_names=tuple(switch.path for switch in switches),
        experts_per_layer=tuple(switch.experts for switch in switches),
        expert_nbytes=tuple(switch.expert_nbytes for switch in switches),
        native_top_k=own_top_k,
        slots=installed.slots,
        hosts=tuple(rank.host for rank in installed.rank_states),
        reader=reader.name,
        reader_note=reader.note,
        kernels="cpu" if compiled else "mlx",
        policy=options.policy,
        banks=_banks(switches),
        width=_rows(switches, True),
        machine=machine_words(processor_words() if compiled else ""),
        versions=versions(),
        changed_output=changed,
    )


def _sizes(module: nn.Module) -> dict[str, Any]:
    """The bytes of all weights of a module, which has no experts, and of those its embeddings."""
    total: int = tree_reduce(lambda n, x: n + x.nbytes, module.parameters(), 0)
    return {"dense_nbytes": total, "embedding_nbytes": embedding_nbytes(module)}


def _banks(switches: Sequence[MoeSwitch]) -> tuple[int, ...]:
    """The bank's number for each layer: layers of one geometry share a bank."""
    geometries = list(dict.fromkeys(switch.geometry for switch in switches))
    return tuple(geometries.index(switch.geometry) for switch in switches)
