"""A model whose answers are written in advance, so that a test says when it calls which tool."""

from __future__ import annotations

import json
import shutil
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from outlier_jupyter import Engine
from outlier_jupyter.engine import sampling
from tests.real_tokenizers import PACKAGES

QWEN = PACKAGES / "tokenizer-qwen3" / "models" / "tokenizer_config.json"


def with_tools(folder: Path, into: Path) -> Path:
    """A copy of a tiny model that calls tools as Qwen3 does, one token for each byte."""
    shutil.copytree(folder, into)
    file = into / "tokenizer_config.json"
    config = json.loads(file.read_text())
    config["chat_template"] = json.loads(QWEN.read_text())["chat_template"]
    file.write_text(json.dumps(config))
    return into


def script(patch: pytest.MonkeyPatch, engine: Engine, *answers: str) -> deque[list[int]]:
    """The next runs of `engine` generate these texts, each with an end of turn; what is left."""
    ends = min(engine.tokenizer.eos_token_ids)
    left = deque(
        [*engine.tokenizer.encode(answer, add_special_tokens=False), ends] for answer in answers
    )

    def make(*_: Any, **__: Any) -> Callable[[mx.array], mx.array]:
        tokens = iter(left.popleft())
        return lambda logprobs: mx.array([next(tokens)])

    patch.setattr(sampling, "make_sampler", make)
    return left


def call(name: str, **arguments: Any) -> str:
    """A tool call as Qwen3 writes it."""
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"
