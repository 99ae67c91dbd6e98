"""From a model's name to an engine: resolve, load lazily, swap the switches, open the readers.

mlx-lm builds the model and leaves every tensor an unevaluated load; the experts' are dropped
before anything is evaluated, so that they are never read as whole tensors.
"""

from __future__ import annotations

import os
import re
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path
from typing import Any

import mlx.core as mx
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from mlx_lm import load as load_with_mlx_lm
from mlx_lm.utils import load_config
from tqdm.auto import tqdm

from .checkpoint import Checkpoint, Reader, open_reader
from .engine import Engine
from .errors import ModelNotFound, OptionError, UnsupportedModel
from .options import LoadOptions, make, takes
from .paging import Installed, check_device, find, install, share_slots
from .paging.install import Switch
from .trace import TraceInfo

DEMO = "demo"
DOWNLOADED = ("*.json", "model*.safetensors", "*.py", "tokenizer.model", "*.tiktoken", "*.txt",
              "*.jsonl", "*.jinja")  # fmt: skip
"""What of a Hugging Face repository is fetched: what mlx-lm loads."""
EXPERTS_NAME = re.compile(r"(moe_)?(num|n)_(local_|routed_)?experts")
"""The names under which configs keep the number of experts of a layer."""
TOP_K_NAMES = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_top_k", "moe_k",
               "top_k_experts")  # fmt: skip
"""The names under which configs keep the number of experts per token (read off mlx-lm 0.32)."""


@takes(LoadOptions)
def load(
    model: str | os.PathLike[str],
    *,
    clock: Callable[[], int] = time.perf_counter_ns,
    **options: Any,
) -> Engine:
    """Load a model with its experts on disk.

    Args:
        model: "demo" (ships with the package), a folder, or a Hugging Face id.
        clock: nanoseconds, for every time that is measured.
        **options: the fields of `LoadOptions`: cache_gb, cache_experts, top_k, reader, kernels …
            `OUTLIER_MMAP_EXPERTS=1` in the environment selects the mmap reader.

    Raises:
        ModelNotFound, CheckpointError, UnsupportedModel, OptionError: each says what to do.
    """
    if os.environ.get("OUTLIER_MMAP_EXPERTS") == "1":
        options = {"reader": "mmap"} | options
    asked = make(LoadOptions, options)
    folder = resolve(str(model))
    native, override = _top_k(load_config(folder), asked.top_k, str(model))
    try:
        module, tokenizer, config = load_with_mlx_lm(
            str(folder), lazy=True, return_config=True, model_config=override
        )
    except ValueError as error:
        raise UnsupportedModel(f"mlx-lm cannot build the model in {folder}: {error}") from error
    checkpoint = Checkpoint(folder)
    switches = find(module, checkpoint)
    check_device(module, [(switch.path, switch.module) for switch in switches])
    _check_top_k(asked.top_k, switches)
    _warn_if_not_paged(str(model), config, switches)
    every = sum(switch.experts for switch in switches)
    slots = share_slots(switches, asked.cache_gb, every if asked.resident else asked.cache_experts)
    reader = open_reader(asked.reader, checkpoint.files)
    executor = ThreadPoolExecutor(asked.read_threads, thread_name_prefix="outlier-read")
    installed = install(module, switches, slots, reader, executor, clock)
    mx.eval(module.parameters())
    engine = Engine(
        model=module,
        tokenizer=tokenizer,
        config=config,
        info=_info(str(model), switches, sum(slots.values()), reader, asked, native),
        options=asked,
        installed=installed,
        reader=reader,
        executor=executor,
        clock=clock,
    )
    if asked.resident:
        try:
            _read_all(installed)
        except BaseException:
            engine.close()
            raise
    return engine


def _read_all(installed: Installed) -> None:
    """Bring every expert into RAM; what takes longer than a second shows its progress."""
    layers = len(installed.switches)
    with tqdm(total=layers, desc="experts", unit=" layers", delay=1, leave=False) as bar:
        installed.load_all(bar.update)


def _warn_if_not_paged(model: str, config: dict[str, Any], switches: Sequence[Switch]) -> None:
    """Say so when a model has experts, by its config, but no switch that could be paged."""
    if switches:
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


def resolve(model: str) -> Path:
    """The folder of `model`, downloaded if it has to be.

    Raises:
        ModelNotFound: neither a folder nor a repository that can be had.
    """
    if model == DEMO:
        return Path(str(files(__package__))) / DEMO
    if Path(model).is_dir():
        return Path(model)
    try:
        return Path(snapshot_download(model, allow_patterns=list(DOWNLOADED)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelNotFound(
            f"{model!r} is neither 'demo', nor a folder, nor a Hugging Face model that can be had "
            f"from here ({reason}); check the spelling or give the path of a folder"
        ) from error


def _top_k(
    config: dict[str, Any], wanted: int | None, model: str
) -> tuple[int | None, dict[str, Any] | None]:
    """The model's own experts per token, and what to change in its config for `wanted`."""
    text_config = config.get("text_config")
    inner = text_config if isinstance(text_config, dict) else {}
    for name in TOP_K_NAMES:
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
    return TraceInfo(
        model=model,
        layer_names=tuple(switch.path for switch in switches),
        experts_per_layer=tuple(switch.experts for switch in switches),
        expert_nbytes=tuple(switch.expert_nbytes for switch in switches),
        native_top_k=native,
        slots=slots,
        reader=reader.name,
        reader_note=reader.note,
        kernels="mlx",
        changed_output=changed,
    )
