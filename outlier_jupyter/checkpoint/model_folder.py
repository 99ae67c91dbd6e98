"""A model's folder, checked, and a view of it for mlx-lm: the index's shards, without code.

mlx-lm and transformers read all of a folder: every `model*.safetensors` in it, stale ones too, code
that its configs name, and paths as patterns. So they get a temporary folder of links to the shards
of the index and to the files that describe the model. This module knows files and JSON; `layout`
knows what is in a shard.
"""

from __future__ import annotations

import json
import re
import stat
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, ModelNotFound, UnsupportedModel, place, shown

CONFIG, INDEX, TOKENIZER_CONFIG, GENERATION = (
    "config.json", "model.safetensors.index.json", "tokenizer_config.json",
    "generation_config.json",
)  # fmt: skip
REWRITTEN = (CONFIG, TOKENIZER_CONFIG, GENERATION, INDEX)
DESCRIBING = (".json", ".jinja", ".txt", ".jsonl", ".model", ".tiktoken")
"""Endings of the files that mlx-lm and transformers read beside the shards."""
TEMPLATES = "additional_chat_templates"
TEMPLATE, TEMPLATE_JSON = "chat_template.jinja", "chat_template.json"
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tiktoken.model", "spiece.model", "vocab.json",
              "vocab.txt", "sentencepiece.bpe.model")  # fmt: skip
"""Files, besides `*.tiktoken`, from any of which a tokenizer can be made."""
MOST_LAYERS = 2000
"""More layers than any model has: mlx-lm would build them one by one."""
MOST = 2**31
SIZES = re.compile(
    r"(hidden|vocab|head|embed|(moe_|shared_expert_)?intermediate|d_model)\w*(_size|_dim)|d_model|"
    r"n(um)?_\w*(layers|heads|experts|experts_per_tok)"
)
"""Names of integers in configs that give a model's size."""
SIZES_OF_ALL = re.compile(r"(hidden|vocab)_size|head_dim|num_(attention|key_value)_heads|d_model")
"""Those of them that are never 0."""
QUANTIZED = {"group_size": (64, 16, 32, 128), "bits": (4, 2, 3, 5, 6, 8),
             "mode": ("affine", "mxfp4", "mxfp8", "nvfp4")}  # fmt: skip
"""Allowed values of a quantization."""
UNREAD = {
    ".gguf": "GGUF files, which mlx-lm does not read: give a safetensors version of the model",
    ".bin": "PyTorch's *.bin, which are not read, for they may run code: convert it with "
            "`mlx_lm.convert`",
    ".pt": "PyTorch's *.pt, which are not read, for they may run code: convert it with "
           "`mlx_lm.convert`",
}  # fmt: skip


class ModelFolder:
    """The relevant files of a model's folder.

    Args:
        path: an existing folder.
        trusted: whether code in the folder may be run.

    Raises:
        ModelNotFound: the folder cannot be read.
        CheckpointError: a file is missing or wrong.
    """

    def __init__(self, path: Path, *, trusted: bool = False) -> None:
        self.path = path
        self.trusted = trusted
        try:
            self._names = sorted(file.name for file in path.iterdir())
        except OSError as error:
            raise ModelNotFound(f"{place(path)} cannot be read: {error.strerror}") from error
        self.config = self._config()
        self.shards = self._shards()

    @property
    def needs_code(self) -> str:
        """A description of the code in the folder that the model needs; "" if it needs none."""
        if (file := self.config.get("model_file")) is not None:
            return f"the model's own code ({file}, named by config.json)"
        config = self._read(TOKENIZER_CONFIG) if TOKENIZER_CONFIG in self._names else {}
        auto_map = config.get("auto_map")
        if isinstance(auto_map, dict) and "AutoTokenizer" in auto_map:
            return f"the tokenizer's own code (auto_map in {TOKENIZER_CONFIG})"
        return ""

    def check_code(self) -> None:
        """Raises UnsupportedModel: the model needs code in the folder, which is not trusted."""
        if not self.trusted and (code := self.needs_code):
            raise UnsupportedModel(
                f"{place(self.path)} wants {code} to be run, which is not done unasked: give "
                "trust_remote_code=True (--trust-remote-code) if you trust where it comes from"
            )

    def check_tokenizer(self) -> None:
        """Check that the folder has a tokenizer.

        Raises:
            CheckpointError: there is no file of a tokenizer.
            UnsupportedModel: the model needs code in the folder, which is not trusted.
        """
        self.check_code()
        names = self._names
        if not any(n in TOKENIZERS or n.endswith(".tiktoken") for n in names) and not self.trusted:
            raise CheckpointError(
                f"{place(self.path)} has no tokenizer (no tokenizer.json, tokenizer.model or the "
                "like): copy the tokenizer's files of the original model there"
            )

    @property
    def template(self) -> Any:
        """The chat template in `chat_template.json`, if the tokenizer itself has none.

        Multimodal models have it there, for their processors.

        Raises:
            CheckpointError: the file has no template.
        """
        if TEMPLATE_JSON not in self._names or TEMPLATE in self._names:
            return None
        config = self._read(TOKENIZER_CONFIG) if TOKENIZER_CONFIG in self._names else {}
        if config.get("chat_template"):
            return None
        found = self._read(TEMPLATE_JSON).get("chat_template")
        if not isinstance(found, str):
            raise CheckpointError(
                f"{place(self.path / TEMPLATE_JSON)} holds no text named chat_template: copy the "
                "file from the original model, or remove it"
            )
        return found

    @cached_property
    def generation(self) -> dict[str, Any]:
        """The makers' advice in generation_config.json; {} without the file.

        Ends that are no ids are left out with a warning: mlx-lm would take them as they are.

        Raises:
            CheckpointError: the file is no JSON object.
        """
        if GENERATION not in self._names:
            return {}
        return _usable(self._read(GENERATION), self.path / GENERATION)

    @contextmanager
    def view(self) -> Iterator[Path]:
        """A temporary folder of links for mlx-lm.

        Files that are open when it is removed stay readable.
        """
        with tempfile.TemporaryDirectory(prefix="outlier-model-") as name:
            linked = Path(name)
            for file in self.shards:
                (linked / file.name).symlink_to(file.absolute())
            for name in self._names:
                if name in REWRITTEN:
                    if name != INDEX:
                        (linked / name).write_text(json.dumps(self._without_code(name)))
                elif name.endswith(DESCRIBING) or (self.trusted and name.endswith(".py")):
                    self._check_regular(name)
                    (linked / name).symlink_to((self.path / name).absolute())
                elif name == TEMPLATES and (self.path / name).is_dir():
                    (linked / name).symlink_to((self.path / name).absolute())
            yield linked

    def _without_code(self, name: str) -> dict[str, Any]:
        known = {CONFIG: lambda: self.config, GENERATION: lambda: self.generation}
        config = known[name]() if name in known else self._read(name)
        if self.trusted:
            return config
        return {
            key: value for key, value in config.items() if key not in ("auto_map", "model_file")
        }

    def _config(self) -> dict[str, Any]:
        if CONFIG not in self._names:
            raise CheckpointError(f"{place(self.path)} {self._content()}")
        config = self._read(CONFIG)
        if not isinstance(config.get("model_type"), str):
            raise CheckpointError(
                f"{place(self.path / CONFIG)} names no model_type, so it is not known what the "
                "model is: copy config.json from the original model"
            )
        for part in (config, config.get("text_config")):
            if isinstance(part, dict):
                self._check_numbers(part)
        return _with_rope(config)

    def _check_numbers(self, config: dict[str, Any]) -> None:
        """Raises CheckpointError: a size is impossible; with some, MLX ends the process."""
        for name, value in config.items():
            if not SIZES.fullmatch(name) or value is None or isinstance(value, list | dict):
                continue
            is_integer = isinstance(value, int) and not isinstance(value, bool)
            maximum = MOST_LAYERS if name.endswith("layers") else MOST
            if not (is_integer and 0 <= value <= maximum) or (
                value == 0 and SIZES_OF_ALL.fullmatch(name)
            ):
                raise CheckpointError(
                    f"{place(self.path / CONFIG)} says {name}={str(value)[:40]!r}, which no model "
                    "has: copy config.json from the original model"
                )
        if (quantization := config.get("quantization")) is not None:
            _check_quantization(quantization, self.path / CONFIG)

    def _content(self) -> str:
        """A description of a folder without a config."""
        if not self._names:
            return "is empty: name a folder with a model in it"
        if any(name.startswith("adapter") for name in self._names):
            return "holds adapters alone (no config.json): give the model that they are for"
        if others := self._unread_weights():
            return f"holds {others}"
        return "has no config.json: name a folder with a model in it, or copy the file there"

    def _unread_weights(self) -> str:
        """A description of weights in formats that are not read; "" if there are none."""
        found = (w for end, w in UNREAD.items() if any(n.endswith(end) for n in self._names))
        return next(found, "")

    def _shards(self) -> tuple[Path, ...]:
        found = [n for n in self._names if n.startswith("model") and n.endswith(".safetensors")]
        if INDEX in self._names:
            found = self._indexed()
        if not found:
            none = "no model*.safetensors: download or copy the model's weights there"
            raise CheckpointError(f"{place(self.path)} holds {self._unread_weights() or none}")
        for name in found:
            self._check_regular(name)
        return tuple(self.path / name for name in found)

    def _indexed(self) -> list[str]:
        """The shards that the index names; other files may be stale."""
        weights = self._read(INDEX).get("weight_map")
        if not isinstance(weights, dict) or not all(isinstance(n, str) for n in weights.values()):
            raise CheckpointError(
                f"{place(self.path / INDEX)} has no weight_map of tensors to files: download it "
                "again, or remove it if the model is in one file"
            )
        shards = sorted(set(weights.values()))
        for name in shards:
            if Path(name).name != name:
                raise CheckpointError(
                    f"{place(self.path / INDEX)} names {name[:80]!r}, which is no file of its "
                    "folder: download the index again"
                )
            if name not in self._names:
                raise CheckpointError(
                    f"{place(self.path / INDEX)} names {name[:80]}, which is not there: download "
                    "or copy that shard, too"
                )
        return shards

    def _read(self, name: str) -> dict[str, Any]:
        """Parse a JSON file with an object; a byte order mark is skipped."""
        if name in self._known:
            return self._known[name]
        self._check_regular(name)
        try:
            content = json.loads((self.path / name).read_bytes().decode("utf-8-sig"))
        except OSError as error:
            raise CheckpointError(
                f"{place(self.path / name)} cannot be read: {error.strerror or error}"
            ) from error
        except (ValueError, RecursionError) as error:
            raise CheckpointError(
                f"{place(self.path / name)} is not JSON ({str(error)[:80]}): download or copy it "
                "again"
            ) from error
        if not isinstance(content, dict):
            raise CheckpointError(
                f"{place(self.path / name)} holds no object ({{…}}): download or copy it again"
            )
        self._known[name] = content
        return content

    @cached_property
    def _known(self) -> dict[str, dict[str, Any]]:
        return {}

    def _check_regular(self, name: str) -> None:
        """Raises CheckpointError: the file is a pipe, a device, a folder, or a broken link."""
        try:
            mode = (self.path / name).stat().st_mode
        except OSError as error:
            raise CheckpointError(
                f"{place(self.path / name)} cannot be read: {error.strerror or error}"
            ) from error
        if not stat.S_ISREG(mode):
            raise CheckpointError(
                f"{place(self.path / name)} is no regular file (a folder, pipe or device): put the "
                "model's file there"
            )


def _check_quantization(quantization: Any, file: Path) -> None:
    """Raises CheckpointError: MLX does not know the format."""
    parts = quantization.values() if isinstance(quantization, dict) else ()
    for part in (quantization, *parts):
        if part is not quantization and not isinstance(part, dict):
            continue
        known = isinstance(part, dict) and all(
            part.get(name, values[0]) in values and not isinstance(part.get(name), bool)
            for name, values in QUANTIZED.items()
        )
        if not known:
            raise CheckpointError(
                f"{place(file)} has a quantization that MLX does not know ({str(part)[:60]}): copy "
                "config.json from the original model"
            )


def _usable(generation: dict[str, Any], file: Path) -> dict[str, Any]:
    """The content of generation_config.json without ends that are no ids."""
    ends = generation.get("eos_token_id")
    each = ends if isinstance(ends, list) else [ends]
    if ends is None or all(type(end) is int and end >= 0 for end in each):
        return generation
    warnings.warn(
        f"{place(file)} says eos_token_id={shown(ends)}, which are no ids of tokens: config.json's "
        "are used; copy the file from the original model",
        stacklevel=2,
    )
    return {name: value for name, value in generation.items() if name != "eos_token_id"}


def _with_rope(config: dict[str, Any]) -> dict[str, Any]:
    """`config` with mlx-lm's names for the rope_parameters of transformers 5."""
    rope = config.get("rope_parameters")
    if not isinstance(rope, dict) or "rope_theta" not in rope or "rope_theta" in config:
        return config
    renamed = config | {"rope_theta": rope["rope_theta"]}
    if rope.get("rope_type", "default") != "default" and not config.get("rope_scaling"):
        renamed["rope_scaling"] = {k: v for k, v in rope.items() if k != "rope_theta"}
    return renamed
