"""From what a person asks to the ids the model reads, by mlx-lm's tokenizer and chat template."""

from __future__ import annotations

import warnings
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


def encode(
    tokenizer: Any, prompt: Prompt, options: GenerateOptions, context: int | None = None
) -> Encoded:
    """Encode `prompt`; a text goes into the chat template, if there is one, unless `raw`.

    A run that may go beyond `context`, the model's own in tokens, is warned of.

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
    _warn_beyond(context, len(tokens), options.max_tokens)
    return Encoded(_as_asked(prompt), text, list(tokens))


def context_of(config: dict[str, Any]) -> int | None:
    """The model's full context in tokens, as its config says; None where it does not."""
    text = config.get("text_config")
    for part in (config, text if isinstance(text, dict) else {}):
        for name in (
            "max_position_embeddings",
            "max_sequence_length",
            "max_seq_len",
            "n_positions",
        ):
            if isinstance(part.get(name), int):
                return int(part[name])
    return None


def _warn_beyond(context: int | None, prompt: int, max_tokens: int) -> None:
    """Say so when a run may go beyond the context the model was made for; mlx-lm goes on, too."""
    # The last token that is generated is not read any more.
    if context is not None and prompt + max_tokens - 1 > context:
        warnings.warn(
            f"the prompt is {prompt:,} tokens with {max_tokens:,} to come, and the model was made "
            f"for {context:,}: what lies beyond may be poor text; shorten one of them",
            stacklevel=5,
        )


def _messages(prompt: Prompt, system: str | None) -> list[dict[str, str]]:
    asked = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    return asked if system is None else [{"role": "system", "content": system}, *asked]


def _as_asked(prompt: Prompt) -> str:
    if isinstance(prompt, str):
        return prompt
    return "\n".join(f"{message['role']}: {message['content']}" for message in prompt)
