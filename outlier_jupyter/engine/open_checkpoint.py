"""Builds mlx-lm's module of a model's folder lazily, and its tokenizer; reads only small files.

This is the border to mlx-lm and transformers: whatever they raise about a folder's content becomes
one of our errors.
"""

from __future__ import annotations

import re
import threading
import warnings
from glob import glob
from pathlib import Path
from typing import Any, NamedTuple

import mlx.nn as nn
from mlx_lm import tokenizer_utils
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.utils import load_model, load_tokenizer

from ..checkpoint import Checkpoint
from ..checkpoint.model_folder import ModelFolder
from ..errors import CheckpointError, NotPageable, OutlierError, UnsupportedModel, brief, place
from ..formatting import size_words
from ..paging import find, switch_modules
from ..paging.install import MoeSwitch
from ..paging.probe import dense_nbytes
from ..system.memory_info import machine_memory
from . import group_sizes as group_sizes  # mlx-lm is loaded with its check
from .loads import loads
from .threads import thread_cleanup
from .vocabulary import repair_decoding

WHOLE_SHARE = 0.8
"""The share of the free memory that a model that cannot be paged may take."""


EXPERTS_NAME = re.compile(r"(moe_)?(num|n)_(local_|routed_)?experts")
"""Config keys of the number of experts per layer."""


class Opened(NamedTuple):
    """mlx-lm's model, not evaluated, and where its experts are on disk."""

    module: nn.Module
    config: dict[str, Any]
    checkpoint: Checkpoint
    switches: tuple[MoeSwitch, ...]


def open_model(
    folder: ModelFolder, override: dict[str, Any] | None = None, force: bool = False
) -> Opened:
    """Build the model in `folder` lazily: only configs and headers are read.

    Args:
        override: changes to the model's config.
        force: accept a model that cannot be paged even if it is larger than the free memory.

    Raises:
        UnsupportedModel, CheckpointError: mlx-lm cannot build it, or its experts cannot be paged
            and do not fit in RAM.
    """
    folder.check_code()
    thread_cleanup.begin()
    with loads.one(), folder.view() as shown:
        # If two shards hold a tensor, the last in glob's order counts, as in mlx-lm.
        read = [Path(file).name for file in glob(str(shown / "model*.safetensors"))]  # noqa: PTH207
        checkpoint = Checkpoint(folder.path, [folder.path / name for name in read])
        try:
            module, config = load_model(
                shown, lazy=True, model_config=override, trust_remote_code=folder.trusted
            )
            switches, reason = _find(module, checkpoint)
        except OutlierError:
            raise
        except Exception as error:  # whatever mlx-lm raises about the folder's content
            raise _not_built(folder, error) from error
    if reason is not None:
        _check_whole(module, reason, force)
    return Opened(module, config, checkpoint, switches)


def _find(
    module: nn.Module, checkpoint: Checkpoint
) -> tuple[tuple[MoeSwitch, ...], NotPageable | None]:
    """The switches, or why they cannot be paged."""
    try:
        return find(module, checkpoint), None
    except NotPageable as reason:
        return (), reason


def _not_built(folder: ModelFolder, error: Exception) -> UnsupportedModel:
    """Our error for what mlx-lm raised."""
    kind = folder.config.get("quantization_config")
    method = kind.get("quant_method") if isinstance(kind, dict) else None
    what = f"quantised by {str(method)[:30]!r}, " if method is not None else ""
    return UnsupportedModel(
        f"mlx-lm cannot build the model in {place(folder.path, 60)} ({what}{brief(error, 90)}): "
        "check config.json and the shards, or copy them from the original model"
    )


def open_tokenizer(folder: ModelFolder, config: dict[str, Any]) -> TokenizerWrapper:
    """The tokenizer of `folder`; the folder's own code runs only if it is trusted.

    Raises:
        CheckpointError: transformers or mlx-lm cannot build it from the folder's files.
    """
    extra: dict[str, Any] = {"trust_remote_code": folder.trusted}
    if (template := folder.template) is not None:
        extra["chat_template"] = template
    with folder.view() as shown:
        try:
            tokenizer = _loaded(shown, extra, config.get("eos_token_id"))
            repair_decoding(tokenizer)
            return tokenizer
        except Exception as error:  # whatever the libraries raise about the files' content
            raise CheckpointError(
                f"the tokenizer in {place(folder.path)} cannot be read ({brief(error)}): copy "
                "tokenizer.json and tokenizer_config.json from the original model"
            ) from error


def _loaded(shown: Path, extra: dict[str, Any], ends: Any) -> TokenizerWrapper:
    """mlx-lm's tokenizer; its SPM detokenizer fails on a vocabulary with gaps and is replaced."""
    try:
        return load_tokenizer(shown, extra, eos_token_ids=ends)
    except (AttributeError, ValueError):
        with _PLAIN:
            before = tokenizer_utils.SPMStreamingDetokenizer
            tokenizer_utils.SPMStreamingDetokenizer = tokenizer_utils.NaiveStreamingDetokenizer
            try:
                return load_tokenizer(shown, extra, eos_token_ids=ends)
            finally:
                tokenizer_utils.SPMStreamingDetokenizer = before


_PLAIN = threading.Lock()


def _check_whole(module: nn.Module, reason: NotPageable, force: bool) -> None:
    """Warn that a model that cannot be paged will be loaded whole, if it fits.

    Raises:
        NotPageable: it does not fit.
    """
    needed, available = dense_nbytes(module, ()), machine_memory().available
    if needed > WHOLE_SHARE * available and not force:
        raise NotPageable(
            f"{reason}. In RAM it would take {size_words(needed)}, and {size_words(available)} are "
            "free"
        ) from reason
    warnings.warn(
        f"{reason}. Until then the whole model, {size_words(needed)}, is loaded into RAM, and its "
        "routing is not recorded",
        stacklevel=5,
    )


def warn_if_not_paged(model: str, config: dict[str, Any], module: nn.Module) -> None:
    """Warn if a model has experts, by its config and its modules' names, but no switch."""
    names = (path for path, _ in module.named_modules())
    if switch_modules(module) or not any("expert" in name for name in names):
        return
    configs = (config, *(value for value in config.values() if isinstance(value, dict)))
    for name, value in (item for part in configs for item in part.items()):
        if EXPERTS_NAME.fullmatch(name) and isinstance(value, int) and value > 1:
            warnings.warn(
                f"{model} has experts ({name}={value}), but mlx-lm does not build them as a "
                "switch (SwitchGLU or SwitchMLP), so they cannot be paged or watched: the whole "
                "model is loaded into RAM",
                stacklevel=4,
            )
            return
