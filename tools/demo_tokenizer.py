"""The demo's tokenizer: a byte-level BPE with ChatML tokens, and its chat template."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

END_OF_TEXT, TURN, END_OF_TURN = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL = [END_OF_TEXT, TURN, END_OF_TURN]
THINK, END_OF_THINK = "<think>", "</think>"

CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{%- set content = message['content'] %}"
    "{%- if message['role'] == 'assistant' and '</think>' in content %}"
    "{%- set content = content.split('</think>')[-1].lstrip('\\n') %}"
    "{%- endif %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + content + '<|im_end|>' + '\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}"
    "{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}"
    "{{- '<think>\\n\\n</think>\\n\\n' }}"
    "{%- endif %}"
    "{%- endif %}"
)


def thinking(text: str) -> str:
    """A block of thinking as it stands before an answer: Qwen3's way to write it."""
    return f"{THINK}\n{text}\n{END_OF_THINK}\n\n"


NO_THINKING = f"{THINK}\n\n{END_OF_THINK}\n\n"


def add_thinking(tokenizer: Tokenizer, vocab_size: int) -> Tokenizer:
    """The tokenizer with the tags of thinking as its last two tokens.

    Of a full vocabulary the last two merges give way, on which no other depends; their texts are
    written with the two pieces that they joined.  As in Qwen3 the tags are no special tokens, so
    that decoding shows them.
    """
    if tokenizer.token_to_id(THINK) is not None:
        return tokenizer
    parts = json.loads(tokenizer.to_str())
    model = parts["model"]
    while len(model["vocab"]) > vocab_size - 2:
        last = model["merges"].pop()
        del model["vocab"]["".join(last)]
    made = Tokenizer.from_str(json.dumps(parts))
    made.add_tokens([AddedToken(tag, normalized=False) for tag in (THINK, END_OF_THINK)])
    return made


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learn the merges; digits stay single, so that a small model can learn to add."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path, max_length: int) -> None:
    """Write the files that transformers and mlx-lm read."""
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "eos_token": END_OF_TURN,
        "pad_token": END_OF_TEXT,
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    text = json.dumps(settings, indent=2) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
