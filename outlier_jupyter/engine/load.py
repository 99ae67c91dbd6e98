"""From a model's name to an engine: resolve, load lazily, swap the switches, open the readers.

mlx-lm builds the model and leaves every tensor an unevaluated load; the experts' are dropped
before anything is evaluated, so that they are never read as whole tensors.
"""

from __future__ import annotations

import gc
import os
import re
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_reduce

from .. import families
from ..checkpoint import Checkpoint, Reader
from ..checkpoint.model_folder import ModelFolder
from ..cpu.modules import native as native_part
from ..cpu.modules import processor_words
from ..cpu.modules import wanted as native_wanted
from ..errors import CheckpointChanged, OptionError, ReadFailed, brief, place
from ..options import LoadOptions, make, takes
from ..paging import Installed, check_device, install, release, switch_modules
from ..paging.install import Switch
from ..paging.preload import parse_pins, pin, warm
from ..paging.probe import Probed, dense_nbytes, probe
from ..residency import ExpertKey
from ..system.hub import resolve
from ..system.interrupt import Interrupts, deferred
from ..system.progress import Progress
from ..system.provenance import fingerprint, machine_words, versions
from ..trace import Trace, TraceInfo
from ..values import path as path_of
from ..values import refused
from .choose_reader import open_experts
from .close import free_unreachable
from .engine import Engine
from .memory import give_back
from .memory_budget import MemoryBounds, Needs, fitted, needs_of, slots_of
from .open_checkpoint import Opened, open_model, open_tokenizer
from .prefill_chunk import Costs

if TYPE_CHECKING:
    from ..cpu.modules.install import Native

EXPERTS_NAME = re.compile(r"(moe_)?(num|n)_(local_|routed_)?experts")
"""The names under which configs keep the number of experts of a layer."""


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
        clock: nanoseconds, for every time that is measured.
        replacing: an engine to be closed before weights are read, when all has been checked that
            can be without them, so that both are never in RAM at once.
        **options: the fields of `LoadOptions`: cache_gb, cache_experts, top_k, reader, kernels …
            `OUTLIER_MMAP_EXPERTS=1` in the environment selects the mmap reader.

    Raises:
        ModelNotFound, CheckpointError, UnsupportedModel, OptionError: each says what to do.
    """
    if os.environ.get("OUTLIER_MMAP_EXPERTS") == "1":
        options = {"reader": "mmap"} | options
    asked = make(LoadOptions, options)
    if replacing is not None and not isinstance(replacing, Engine):
        raise refused("replacing", replacing, "an engine, or nothing")
    free_unreachable()
    path = resolve(path_of("model", model), asked.revision, asked.quiet)
    folder = ModelFolder(path, trusted=asked.trust_remote_code)
    folder.check_tokenizer()
    return _load(place(model, 1000), folder, asked, clock, replacing)


def _load(
    model: str,
    folder: ModelFolder,
    asked: LoadOptions,
    clock: Callable[[], int],
    replacing: Engine | None,
) -> Engine:
    """First what can be told without reading weights; then nothing of the old is needed."""
    try:
        # A load that fails, or is interrupted, leaves nothing behind: the first Ctrl-C raises,
        # further ones wait until all is undone.
        with Interrupts() as interrupts, ExitStack() as undo:
            interrupts.once = True
            engine = _opened(model, folder, asked, clock, replacing, undo)
            interrupts.once = False
            if interrupts.noted:  # raised where exceptions are dropped
                raise KeyboardInterrupt
            undo.pop_all()
    except BaseException as error:
        _forget_frames(error)
        raise
    return engine


def _forget_frames(error: BaseException | None) -> None:
    """Empty the frames that `error` and what led to it passed through: they hold a model's arrays.

    A notebook keeps the last traceback, and so what its frames hold, the files of lazy arrays too.
    """
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _opened(
    model: str,
    folder: ModelFolder,
    asked: LoadOptions,
    clock: Callable[[], int],
    replacing: Engine | None,
    undo: ExitStack,
) -> Engine:
    """An engine that is filled; what it opened is on `undo`."""
    native, override = _top_k(folder.config, asked.top_k, model)
    opened = open_model(folder, override, asked.force)
    module, config, checkpoint, switches = opened
    undo.callback(_give_up, module)
    asked, needs, bound = _fitted(opened, asked, replacing)
    fast = _begin_native(module, asked.kernels, undo)
    tokenizer = open_tokenizer(folder, config)
    _check_top_k(asked.top_k, switches)
    _warn_if_not_paged(model, config, module)
    pins = parse_pins(asked.pin, [switch.experts for switch in switches])
    earlier = None if asked.warm is None else Trace.load(asked.warm)
    slots = slots_of(switches, asked)
    switches, reader, threads, rate = open_experts(checkpoint, switches, asked, undo)
    if replacing is not None:
        replacing.close()
        gc.collect()
    executor = ThreadPoolExecutor(threads, thread_name_prefix="outlier-read")
    undo.callback(executor.shutdown)
    with deferred():
        installed = install(module, switches, slots, reader, executor, clock, asked)
        undo.callback(installed.release)
    _read_dense(module, checkpoint, reader)
    if fast:
        fast.finish(asked.quiet)
    info = _info(model, switches, sum(slots.values()), reader, asked, native)
    info = replace(info, **_measured(config, checkpoint, module, rate))
    with deferred():
        engine = Engine(
            model=module,
            tokenizer=tokenizer,
            config=config,
            info=info,
            options=asked,
            installed=installed,
            reader=reader,
            executor=executor,
            costs=_costs(config, switches, asked.top_k or native, fast),
            needs=needs,
            ram_gb=bound,
            clock=clock,
        )
        undo.pop_all()
        undo.callback(engine.close)
    _fill(installed, pins, earlier, asked.quiet)
    if asked.resident:
        _read_all(installed, asked.quiet)
    _check_files(checkpoint, reader)
    return engine


def _read_dense(module: nn.Module, checkpoint: Checkpoint, reader: Reader) -> None:
    """Have MLX read all but the experts.

    Raises:
        CheckpointChanged, ReadFailed: it cannot.
    """
    try:
        mx.eval(module.parameters())
    except RuntimeError as error:
        _check_files(checkpoint, reader)
        raise ReadFailed(
            f"the weights in {place(checkpoint.folder)} cannot be read ({brief(error)}): check the "
            "disk and the memory, and load the model again"
        ) from error


def _check_files(checkpoint: Checkpoint, reader: Reader) -> None:
    """Raises CheckpointChanged: a shard is not what it was when its header was read."""
    if said := reader.changed(checkpoint.identities):
        raise CheckpointChanged(f"{said}: wait until nobody writes to it, and load the model again")


def _give_up(module: nn.Module) -> None:
    """Free what was read of a model, whoever still has it: a traceback may."""
    release(module)
    give_back()


def probed_of(opened: Opened, kernels: str) -> Probed | None:
    """What a forward pass of the model asks for, computed by `kernels`; None if not told."""
    return probe(opened.module, opened.switches, native_wanted(kernels))


def _fitted(
    opened: Opened, asked: LoadOptions, replacing: Engine | None
) -> tuple[LoadOptions, Needs, float | None]:
    """The options with the cache's size worked out, what is needed beside it, and `ram_gb`.

    Raises:
        OptionError: it does not fit, and `force` was not given.
    """
    module, config, _, switches = opened
    probed = probed_of(opened, asked.kernels)
    needs = needs_of(config, dense_nbytes(module, switches), probed, asked.kept_kv_gb)
    freed = replacing.memory().freed if replacing is not None else 0
    room = MemoryBounds.now(asked.ram_gb, freed)
    return fitted(switches, asked, needs, room), needs, asked.ram_gb


def _begin_native(module: nn.Module, kernels: str, undo: ExitStack) -> Native | None:
    """Have what the model needs compiled on another thread; None where MLX computes it all.

    Raises:
        UnsupportedModel: MLX has to compute experts that it cannot compute on this device.
    """
    fast = native_part(module) if native_wanted(kernels) else None
    left = [(at, m) for at, m in switch_modules(module) if not (fast and fast.computes(m))]
    check_device(module, left)
    if fast:
        undo.callback(fast.cancel)
        fast.begin()
    return fast


def read_all_experts(engine: Engine) -> None:
    """Read every expert into `engine`'s slots, of which there must be one for each."""
    _read_all(engine._installed, quiet=True)


def _read_all(installed: Installed, quiet: bool) -> None:
    """Bring every expert into RAM; what takes longer than a second shows its progress."""
    layers = len(installed.switches)
    with Progress(total=layers, desc="experts", delay=1, leave=False, disable=quiet) as bar:
        installed.load_all(bar.update)


def _warn_if_not_paged(model: str, config: dict[str, Any], module: nn.Module) -> None:
    """Say so when a model without a switch has experts, by its config and its modules' names."""
    names = (path for path, _ in module.named_modules())
    if switch_modules(module) or not any("expert" in name for name in names):
        return
    told = (config, *(value for value in config.values() if isinstance(value, dict)))
    for name, value in (item for part in told for item in part.items()):
        if EXPERTS_NAME.fullmatch(name) and isinstance(value, int) and value > 1:
            warnings.warn(
                f"{model} has experts ({name}={value}), but mlx-lm does not build them as a "
                "switch (SwitchGLU or SwitchMLP), so they cannot be paged or watched: all of the "
                "model is held in RAM",
                stacklevel=4,
            )
            return


def _fill(installed: Installed, pins: list[ExpertKey], earlier: Trace | None, quiet: bool) -> None:
    """Read what is wanted before the first token; what takes over a second shows its progress."""
    if not pins and earlier is None:
        return
    with Progress(desc="experts read", unit="", delay=1, leave=False, disable=quiet) as bar:
        pin(installed, pins, bar.update)
        if earlier is not None:
            warm(installed, earlier.experts, bar.update)


def _costs(
    config: dict[str, Any], switches: Sequence[Switch], top_k: int | None, fast: Native | None
) -> Costs:
    """What a token of a prompt costs in activations, in the widest of the layers."""
    text = config.get("text_config")
    inner = text if isinstance(text, dict) else config
    heads = inner.get("num_attention_heads")
    outs = [(part.name, part.shape[0]) for s in switches for part in s.parts
            if part.name.endswith(".weight")]  # fmt: skip
    last = ("down_proj.weight", "fc2.weight")
    return Costs.of(
        top_k=top_k or 1,
        hidden=max((out for name, out in outs if name in last), default=0),
        width=max((out for name, out in outs if name not in last), default=0),
        heads=heads if isinstance(heads, int) else 0,
        fused=mx.default_device() == mx.gpu,
        bounded=fast is not None and fast.attends,
    )


def native_top_k(config: dict[str, Any]) -> int | None:
    """The model's own number of experts per token, as its config says; None where it does not."""
    return _top_k(config, None, "")[0]


def _top_k(
    config: dict[str, Any], wanted: int | None, model: str
) -> tuple[int | None, dict[str, Any] | None]:
    """The model's own experts per token, and what to change in its config for `wanted`."""
    text_config = config.get("text_config")
    inner = text_config if isinstance(text_config, dict) else {}
    for name in families.names("top_k"):
        if isinstance(config.get(name), int):
            return config[name], None if wanted is None else {name: wanted}
        if isinstance(inner.get(name), int):
            changed = {"text_config": {**inner, name: wanted}}
            return inner[name], None if wanted is None else changed
    if wanted is not None:
        raise OptionError(
            f"top_k={wanted} cannot be used: the config of {model} names no number of experts per "
            "token, so leave top_k out"
        )
    return None, None


def _check_top_k(wanted: int | None, switches: Sequence[Switch]) -> None:
    fewest = min((switch.experts for switch in switches), default=wanted or 0)
    if wanted is not None and wanted > fewest:
        raise OptionError(
            f"top_k={wanted} is more than the {fewest} experts of a layer: give fewer"
        )


def _info(
    model: str,
    switches: Sequence[Switch],
    slots: int,
    reader: Reader,
    asked: LoadOptions,
    native: int | None,
) -> TraceInfo:
    changed = ""
    if asked.top_k is not None and asked.top_k != native:
        changed = f"top-k {asked.top_k} in place of the model's {native}"
    compiled = native_wanted(asked.kernels)
    return TraceInfo(
        model=model,
        layer_names=tuple(switch.path for switch in switches),
        experts_per_layer=tuple(switch.experts for switch in switches),
        expert_nbytes=tuple(switch.expert_nbytes for switch in switches),
        native_top_k=native,
        slots=slots,
        reader=reader.name,
        reader_note=reader.note,
        kernels="cpu" if compiled else "mlx",
        policy=asked.policy,
        banks=_banks(switches),
        machine=machine_words(processor_words() if compiled else ""),
        versions=versions(),
        changed_output=changed,
    )


def _measured(
    config: dict[str, Any], checkpoint: Checkpoint, module: nn.Module, disk_rate: float
) -> dict[str, Any]:
    """Which checkpoint, what a token touches besides experts (all parameters left), the disk."""
    total: int = tree_reduce(lambda n, x: n + x.nbytes, module.parameters(), 0)
    stamp = fingerprint(config, checkpoint.spans)
    return {"model_hash": stamp, "dense_nbytes": total, "disk_rate": disk_rate}


def _banks(switches: Sequence[Switch]) -> tuple[int, ...]:
    """For each layer the number of its bank: layers of one geometry share one."""
    geometries = list(dict.fromkeys(switch.geometry for switch in switches))
    return tuple(geometries.index(switch.geometry) for switch in switches)
