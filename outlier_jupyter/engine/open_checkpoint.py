"""From a model's folder to mlx-lm's module, lazily, and to its tokenizer; nothing large is read.

Here is the border to mlx-lm and transformers: whatever they raise of what a folder says becomes
one sentence.
"""

from __future__ import annotations

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
from ..paging import find
from ..paging.install import Switch
from ..paging.probe import dense_nbytes
from ..system.memory_info import machine_memory
from .threads import at_its_end
from .vocabulary import put_right

WHOLE_SHARE = 0.8
"""How much of the free memory a model may take that cannot be paged."""


class Opened(NamedTuple):
    """A model as mlx-lm builds it, none of it evaluated, and where its experts lie on disk."""

    module: nn.Module
    config: dict[str, Any]
    checkpoint: Checkpoint
    switches: tuple[Switch, ...]


def open_model(
    folder: ModelFolder, override: dict[str, Any] | None = None, force: bool = False
) -> Opened:
    """Build the model in `folder` lazily: only configs and headers are read.

    Args:
        override: changes to the model's config.
        force: whether a model that must be held whole may be larger than what is free.

    Raises:
        UnsupportedModel, CheckpointError: mlx-lm cannot build it, or its experts can neither be
            paged nor held.
    """
    folder.check_code()
    at_its_end.begin()
    with folder.view() as shown:
        # Of a tensor that two shards hold, the one counts that mlx-lm's own call gives last.
        read = [Path(file).name for file in glob(str(shown / "model*.safetensors"))]  # noqa: PTH207
        checkpoint = Checkpoint(folder.path, [folder.path / name for name in read])
        try:
            module, config = load_model(
                shown, lazy=True, model_config=override, trust_remote_code=folder.trusted
            )
            switches, reason = _find(module, checkpoint)
        except OutlierError:
            raise
        except Exception as error:  # whatever mlx-lm raises of what the folder says
            raise _not_built(folder, error) from error
    if reason is not None:
        _hold_whole(module, reason, force)
    return Opened(module, config, checkpoint, switches)


def _find(
    module: nn.Module, checkpoint: Checkpoint
) -> tuple[tuple[Switch, ...], NotPageable | None]:
    """The switches, or why they cannot be paged."""
    try:
        return find(module, checkpoint), None
    except NotPageable as reason:
        return (), reason


def _not_built(folder: ModelFolder, error: Exception) -> UnsupportedModel:
    """The sentence for what mlx-lm raised."""
    kind = folder.config.get("quantization_config")
    method = kind.get("quant_method") if isinstance(kind, dict) else None
    what = f"quantised by {str(method)[:30]!r}, " if method is not None else ""
    return UnsupportedModel(
        f"mlx-lm cannot build the model in {place(folder.path, 60)} ({what}{brief(error, 90)}): "
        "check config.json and the shards, or copy them from the original model"
    )


def open_tokenizer(folder: ModelFolder, config: dict[str, Any]) -> TokenizerWrapper:
    """The tokenizer of `folder`, whose code is run only where it is trusted.

    Raises:
        CheckpointError: transformers or mlx-lm cannot make one of the folder's files.
    """
    extra: dict[str, Any] = {"trust_remote_code": folder.trusted}
    if (template := folder.template) is not None:
        extra["chat_template"] = template
    with folder.view() as shown:
        try:
            tokenizer = _loaded(shown, extra, config.get("eos_token_id"))
            put_right(tokenizer)
            return tokenizer
        except Exception as error:  # whatever the libraries raise of what the files say
            raise CheckpointError(
                f"the tokenizer in {place(folder.path)} cannot be read ({brief(error)}): copy "
                "tokenizer.json and tokenizer_config.json from the original model"
            ) from error


def _loaded(shown: Path, extra: dict[str, Any], ends: Any) -> TokenizerWrapper:
    """By mlx-lm; one of its detokenizers takes no vocabulary with gaps, and is done without."""
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


def _hold_whole(module: nn.Module, reason: NotPageable, force: bool) -> None:
    """Say that a model whose experts cannot be paged is held in RAM, if it fits there.

    Raises:
        NotPageable: it does not.
    """
    needed, available = dense_nbytes(module, ()), machine_memory().available
    if needed > WHOLE_SHARE * available and not force:
        raise NotPageable(
            f"{reason}. In RAM it would take {size_words(needed)}, and {size_words(available)} are "
            "free"
        ) from reason
    warnings.warn(
        f"{reason}. Until then all of it, {size_words(needed)}, is held in RAM, and its routing is "
        "not seen",
        stacklevel=5,
    )
