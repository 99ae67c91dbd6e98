"""Tiny models with the tokenizers and templates of real families: they load, and read messages."""

from __future__ import annotations

import pytest

from outlier_jupyter import load
from tests.real_tokenizers import REAL

BEGINS = {
    "qwen3": "<|im_start|>system\nBe brief<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    "<|im_start|>assistant\n",
    "qwen3-thinking": "<|im_start|>system\nBe brief<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    "<|im_start|>assistant\n<think>\n",
    "gpt-oss": "<|start|>system<|message|>You are ChatGPT",
    "deepseek-v3": "<｜begin▁of▁sentence｜>Be brief<｜User｜>Hi<｜Assistant｜>",
    "deepseek-v3.1": "<｜begin▁of▁sentence｜>Be brief<｜User｜>Hi<｜Assistant｜></think>",
}


@pytest.mark.parametrize("name", REAL)
def test_a_tiny_model_runs_with_a_real_vocabulary(name: str, real_checkpoint_of) -> None:
    """It loads, its template reads a question, and it generates ids of the whole vocabulary."""
    with load(real_checkpoint_of(name), cache_experts=8, quiet=True) as engine:
        engine.tokenizer.eos_token_ids = set()
        run = engine.generate("Hi", system="Be brief", max_tokens=3)
        assert len(engine.tokenizer.get_vocab()) > 128_000
    assert run.encoded.startswith(BEGINS[name]) and run.generated == 3
