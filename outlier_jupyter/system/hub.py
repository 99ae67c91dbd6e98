"""Resolves a model's name to a folder: `demo`, a local folder, or a Hugging Face repository.

huggingface_hub does the work: its cache, revisions, offline mode, login, resumed downloads and
progress bars. This module chooses the files, makes a folder for `plan` from a repository's headers
alone, and has one sentence for each kind of failure.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from fnmatch import fnmatch
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    IncompleteSnapshotError,
    LocalEntryNotFoundError,
    NotASafetensorsRepoError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    SafetensorsParsingError,
)
from huggingface_hub.utils.tqdm import disable_progress_bars

from ..errors import CheckpointError, ModelNotFound, place, shown

DEMO = "demo"
DOWNLOADED = ("*.json", "model*.safetensors", "*.py", "*.model", "*.tiktoken", "*.txt",
              "*.jsonl", "*.jinja")  # fmt: skip
"""Files that are downloaded from a Hugging Face repository: those mlx-lm loads."""
SHARDS = "model*.safetensors"
DESCRIBING = ("config.json", "generation_config.json", "hf_quant_config.json")
"""The files that describe a model, beside its shards' headers."""
FAILURES = (
    httpx.HTTPError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    OSError,
)
"""Everything that huggingface_hub raises when it cannot get a repository."""


def resolve(model: str, revision: str | None = None, quiet: bool = False) -> Path:
    """The folder of `model`; missing files of a Hugging Face repository are downloaded.

    Args:
        revision: a branch, tag or commit of a Hugging Face repository; None is its main branch.
        quiet: show no progress bars.

    Raises:
        ModelNotFound: the model is neither a folder nor an available repository.
    """
    found = local_folder(model, revision)
    if found is not None:
        return found
    with disable_progress_bars() if quiet else nullcontext():
        try:
            return Path(snapshot_download(model, revision=revision, allow_patterns=[*DOWNLOADED]))
        except FAILURES as error:
            raise _not_found(model, revision, error) from error


@contextmanager
def headers(model: str, revision: str | None = None) -> Iterator[tuple[Path, bool]]:
    """A folder with the config and headers of `model`, and whether its weights are here.

    For a model that is not on this machine only the config and the shards' headers are downloaded,
    by HTTP range requests. Its shards are then sparse files of the right length in a temporary
    folder.

    Raises:
        ModelNotFound: the model is not available.
        CheckpointError: it has no safetensors.
    """
    found = local_folder(model, revision)
    if found is None:
        try:
            cached = snapshot_download(
                model, revision=revision, allow_patterns=[*DOWNLOADED], local_files_only=True
            )
            found = Path(cached)
        except (LocalEntryNotFoundError, HFValidationError):
            found = None  # not cached, or only in part
    if found is not None:
        yield found, True
        return
    with tempfile.TemporaryDirectory(prefix="outlier-plan-") as folder:
        try:
            fetch_headers(model, revision, Path(folder))
        except (NotASafetensorsRepoError, SafetensorsParsingError) as error:
            raise CheckpointError(f"a shard of {model} has no header: {_first(error)}") from error
        except FAILURES as error:
            raise _not_found(model, revision, error) from error
        yield Path(folder), False


def local_folder(model: str, revision: str | None) -> Path | None:
    """The folder of the demo model or of a path; None for a name that can only be a repository.

    Raises:
        ModelNotFound: a folder was given with a revision, or the path does not exist.
    """
    folder = (
        Path(str(files("outlier_jupyter"))) / DEMO if model == DEMO else Path(model).expanduser()
    )
    if not folder.is_dir():
        if model.startswith((".", "/", "~")) or model.count("/") > 1:
            raise ModelNotFound(f"there is no folder {model}: check the path")
        return None
    if revision is not None:
        raise ModelNotFound(
            f"{place(model)} is a folder and has no revision {shown(revision)}: leave the revision "
            "out"
        )
    return folder


def fetch_headers(model: str, revision: str | None, folder: Path) -> None:
    """Write a repository's config, and its shards as headers with holes, to `folder`."""
    api = HfApi()
    about = api.model_info(model, revision=revision, files_metadata=True)
    sizes = {file.rfilename: file.size or 0 for file in about.siblings or []}
    shards = [name for name in sizes if fnmatch(name, SHARDS)]
    if not shards or "config.json" not in sizes:
        raise CheckpointError(
            f"{model} holds no {SHARDS} with a config.json: it is not a model mlx-lm can load"
        )
    for name in DESCRIBING:
        if name in sizes:
            text = Path(hf_hub_download(model, name, revision=about.sha)).read_bytes()
            (folder / name).write_bytes(text)
    with ThreadPoolExecutor(8) as pool:

        def fetch(name: str) -> None:
            header = api.parse_safetensors_file_metadata(model, name, revision=about.sha)
            tensors = {
                tensor: {"dtype": t.dtype, "shape": t.shape, "data_offsets": list(t.data_offsets)}
                for tensor, t in header.tensors.items()
            }
            write_hollow(folder / name, tensors)

        list(pool.map(fetch, shards))


def write_hollow(file: Path, tensors: dict[str, Any]) -> None:
    """Write a sparse safetensors file: a header, and a hole as long as the data would be.

    Args:
        tensors: name → dtype, shape and data_offsets, as in a header.
    """
    header = json.dumps(tensors).encode()
    data = max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
    with file.open("wb") as stream:
        stream.write(len(header).to_bytes(8, "little") + header)
        stream.truncate(8 + len(header) + data)


def _not_found(model: str, revision: str | None, error: Exception) -> ModelNotFound:
    """One sentence for `error`; huggingface_hub's own messages are paragraphs."""
    at = f" at revision {revision!r}" if revision else ""
    whole = f"{model!r} is neither 'demo', nor a folder, nor a Hugging Face model that can be had"
    cause = error.__cause__ if isinstance(error, LocalEntryNotFoundError) else error
    if isinstance(error, HFValidationError):
        return ModelNotFound(f"{whole}: it is no repository's name; check the spelling")
    if isinstance(error, GatedRepoError):
        return ModelNotFound(
            f"{model} is gated: ask for access on its page at {constants.ENDPOINT}, then log in "
            "with `hf auth login`"
        )
    if isinstance(error, RevisionNotFoundError):
        return ModelNotFound(
            f"{model} has no revision {shown(revision)}: give a branch, tag or commit"
        )
    if isinstance(error, RepositoryNotFoundError):
        return ModelNotFound(
            f"{whole}: {constants.ENDPOINT} has no such repository, or not for you; check the "
            "spelling, or log in with `hf auth login`"
        )
    part = isinstance(error, IncompleteSnapshotError)
    seen = f"only a part of {model}{at} is" if part else f"{model!r}{at} is not"
    if isinstance(cause, OfflineModeIsEnabled):
        return ModelNotFound(
            f"{whole} from here: {seen} in the cache ({constants.HF_HUB_CACHE}) and HF_HUB_OFFLINE "
            "is set; unset it once to download the model, or give the path of a folder"
        )
    return ModelNotFound(
        f"{whole} from here: {seen} in the cache, and {constants.ENDPOINT} did not give it "
        f"({_first(cause or error)}); ask again to go on with the download"
    )


def _first(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
