"""Applies mlx-lm's adapters (LoRA, DoRA) to a model's dense parts, with mlx-lm's own code.

Experts are read into slots that move no weights of their own, so adapters of experts are refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.tuner.utils import load_adapters

from ..errors import CheckpointError, OptionError, brief, place
from ..options import LoadOptions

CONFIG, WEIGHTS = "adapter_config.json", "adapters.safetensors"
KINDS = ("lora", "dora")


def apply_adapter(module: nn.Module, folder: str | None, switches: Iterable[str]) -> None:
    """Put the adapter in `folder`, if there is one, on a model that was built lazily.

    Args:
        switches: the paths of the modules that hold experts.

    Raises:
        CheckpointError: the folder is no adapter, or not of this model.
        OptionError: it changes experts, or is a kind that is not supported.
    """
    if folder is None:
        return
    path = Path(folder).expanduser()
    config = _config(path)
    kind = config.get("fine_tune_type", "lora")
    if kind not in KINDS:
        raise OptionError(
            f"the adapter in {place(path)} is of kind {str(kind)[:30]!r}: give one of kind lora or "
            "dora; weights that were trained whole are a model of their own"
        )
    names = _names(path)
    experts = [name for name in names if any(f"{at}." in name for at in switches)]
    parameters = config.get("lora_parameters")
    if experts or (isinstance(parameters, dict) and parameters.get("keys") is None):
        raise OptionError(
            f"the adapter in {place(path)} is of experts ({(experts or ['all layers'])[0][:60]}), "
            "which are read from disk as they are: train one with keys of attention and other "
            "dense layers, or fuse it with mlx_lm.fuse"
        )
    try:
        load_adapters(module, str(path))
    except Exception as error:  # whatever mlx-lm raises about the folder's content
        raise CheckpointError(
            f"the adapter in {place(path)} does not fit this model ({brief(error)}): give one that "
            "was trained on it"
        ) from error
    module.eval()
    # With `destination` it gives that dict; its type says list.
    known: dict[str, Any] = tree_flatten(module.parameters(), destination={})  # type: ignore[assignment]
    if missing := sorted(names - known.keys()):
        raise CheckpointError(
            f"the adapter in {place(path)} has {missing[0][:60]}, which this model has not: give "
            "one that was trained on it"
        )


def with_adapter(model_hash: str, folder: str | None) -> str:
    """Sixteen hex digits that identify a model with the adapter in `folder`, by its files' content.

    Without one it is the model's own hash.

    Raises:
        CheckpointError: the adapter cannot be read.
    """
    if folder is None:
        return model_hash
    found, path = hashlib.sha256(model_hash.encode()), Path(folder).expanduser()
    for name in (CONFIG, WEIGHTS):
        try:
            found.update(hashlib.sha256((path / name).read_bytes()).digest())
        except OSError as error:
            raise CheckpointError(
                f"{place(path / name)} cannot be read ({error.strerror or error}): copy the "
                "adapter again"
            ) from error
    return found.hexdigest()[:16]


def adapter_words(options: LoadOptions) -> str:
    """What an adapter makes of the output; "" without one."""
    return f"adapter {Path(options.adapter).name}" if options.adapter is not None else ""


def _config(path: Path) -> dict[str, Any]:
    try:
        found = json.loads((path / CONFIG).read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise CheckpointError(
            f"{place(path / CONFIG)} cannot be read ({error.strerror or error}): give the folder "
            f"of an adapter that mlx-lm trained, with {CONFIG} and {WEIGHTS}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{place(path / CONFIG)} is not JSON ({brief(error, 80)}): copy it again"
        ) from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{place(path / CONFIG)} holds no object ({{…}}): copy it again")
    return found


def _names(path: Path) -> set[str]:
    file = path / WEIGHTS
    try:
        found: Any = mx.load(str(file))
    except Exception as error:  # MLX raises several for files that are missing or broken
        raise CheckpointError(
            f"{place(file)} cannot be read ({brief(error, 80)}): copy the adapter again"
        ) from error
    return set(found)
