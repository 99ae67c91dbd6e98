"""From what a person asks to the ids the model reads, by mlx-lm's tokenizer and chat template."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from .errors import OptionError, brief
from .options import GenerateOptions

Prompt: TypeAlias = str | Sequence[dict[str, Any]]
"""A text, or a conversation as chat templates take it: [{"role": …, "content": …}, …]."""


CONTROL = re.compile(r"<\|[a-z_]+\|>")
"""Control tokens, as most models write theirs."""


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
        OptionError: there is nothing to encode, or the chat template refuses the messages.
    """
    if isinstance(prompt, str) and (options.raw or not tokenizer.has_chat_template):
        text = prompt
        starts = tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)
        tokens = tokenizer.encode(text, add_special_tokens=not starts)
    else:
        text = _templated(tokenizer, _messages(prompt, options.system))
        tokens = tokenizer.encode(text, add_special_tokens=False)
    if not prompt or not tokens:
        raise OptionError("the prompt is empty: give at least one character")
    _warn_beyond(context, len(tokens), options.max_tokens)
    return Encoded(_as_asked(prompt), text, list(tokens))


def context_of(config: dict[str, Any]) -> int | None:
    """The model's full context in tokens, as its config says; None where it does not.

    YaRN stretches the context that the model was trained with by a factor.
    """
    text = config.get("text_config")
    for part in (config, text if isinstance(text, dict) else {}):
        for name in (
            "max_position_embeddings",
            "max_sequence_length",
            "max_seq_len",
            "n_positions",
        ):
            if isinstance(part.get(name), int):
                return max(int(part[name]), _stretched(part))
    return None


def _stretched(config: dict[str, Any]) -> int:
    """The context that YaRN gives a model, in tokens; 0 without it."""
    told = config.get("rope_scaling") or config.get("rope_parameters")
    if not isinstance(told, dict) or told.get("rope_type", told.get("type")) != "yarn":
        return 0
    factor, original = told.get("factor"), told.get("original_max_position_embeddings")
    if not isinstance(factor, int | float) or not isinstance(original, int):
        return 0
    return int(factor * original)


def _warn_beyond(context: int | None, prompt: int, max_tokens: int) -> None:
    """Say so when a run may go beyond the context the model was made for; mlx-lm goes on, too."""
    # The last token that is generated is not read any more.
    if context is not None and prompt + max_tokens - 1 > context:
        warnings.warn(
            f"the prompt is {prompt:,} tokens with {max_tokens:,} to come, and the model was made "
            f"for {context:,}: what lies beyond may be poor text; shorten one of them",
            stacklevel=5,
        )


def _templated(tokenizer: Any, messages: list[dict[str, Any]]) -> str:
    """The conversation as the model's chat template writes it.

    A template may refuse an answer of the model's own for the control tokens in it (gpt-oss's
    does). Then answers go back without them, so that a conversation can always go on.

    Raises:
        OptionError: the template refuses the messages all the same, or is none.
    """
    if not tokenizer.has_chat_template:
        raise OptionError(
            "this model has no chat template, so it takes no messages: give the prompt as a text"
        )
    try:
        return _apply(tokenizer, messages)
    except Exception as refusal:  # a template raises what it likes
        plain = [_without_control(tokenizer, message) for message in messages]
        try:
            if plain != messages:
                return _apply(tokenizer, plain)
        except Exception:
            pass  # what is told is what it said of the messages as they were
        roles = [str(message["role"])[:20] for message in messages[:4]]
        raise OptionError(
            f"the model's chat template refused the messages ({brief(refusal)}; roles: "
            f"{', '.join(roles)}): change them, leave the system message out, or give raw=True"
        ) from refusal


def _apply(tokenizer: Any, messages: list[dict[str, Any]]) -> str:
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return str(text)


def _without_control(tokenizer: Any, message: dict[str, Any]) -> dict[str, Any]:
    """An answer without control tokens: of several channels its last message alone."""
    content = message.get("content")
    if message["role"] != "assistant" or not isinstance(content, str):
        return message
    specials = [str(token) for token in getattr(tokenizer, "all_special_tokens", [])]
    specials += [word for word in CONTROL.findall(content) if word not in specials]
    content = content.rpartition("<|message|>")[2]
    for word in specials:
        content = content.replace(word, "")
    return message | {"content": content.strip()}


def _messages(prompt: Prompt, system: str | None) -> list[dict[str, Any]]:
    given = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    for message in given:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise OptionError(
                f"{str(message)[:60]!r} is no message: give a text, or a list of "
                "{'role': …, 'content': …}"
            )
    # A call of a tool has no content of its own, and templates look for one.
    asked = [{"content": ""} | message for message in given]
    return asked if system is None else [{"role": "system", "content": system}, *asked]


def _as_asked(prompt: Prompt) -> str:
    if isinstance(prompt, str):
        return prompt
    return "\n".join(f"{message['role']}: {message.get('content', '')}" for message in prompt)
