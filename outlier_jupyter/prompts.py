"""From what a person asks to the ids the model reads, by mlx-lm's tokenizer and chat template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from .errors import OptionError
from .options import GenerateOptions

Prompt: TypeAlias = str | Sequence[dict[str, str]]
"""A text, or a conversation as chat templates take it: [{"role": …, "content": …}, …]."""


@dataclass(frozen=True)
class Encoded:
    """A prompt three ways: as it was asked, as the model reads it, and as ids."""

    asked: str
    text: str
    tokens: list[int]


def encode(tokenizer: Any, prompt: Prompt, options: GenerateOptions) -> Encoded:
    """Encode `prompt`; a text goes into the chat template, if there is one, unless `raw`.

    Raises:
        OptionError: there is nothing to encode.
    """
    if isinstance(prompt, str) and (options.raw or not tokenizer.has_chat_template):
        text = prompt
        starts = tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)
        tokens = tokenizer.encode(text, add_special_tokens=not starts)
    else:
        text = tokenizer.apply_chat_template(
            _messages(prompt, options.system), tokenize=False, add_generation_prompt=True
        )
        tokens = tokenizer.encode(text, add_special_tokens=False)
    if not prompt or not tokens:
        raise OptionError("the prompt is empty: give at least one character")
    return Encoded(_as_asked(prompt), text, list(tokens))


def _messages(prompt: Prompt, system: str | None) -> list[dict[str, str]]:
    asked = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    return asked if system is None else [{"role": "system", "content": system}, *asked]


def _as_asked(prompt: Prompt) -> str:
    if isinstance(prompt, str):
        return prompt
    return "\n".join(f"{message['role']}: {message['content']}" for message in prompt)
