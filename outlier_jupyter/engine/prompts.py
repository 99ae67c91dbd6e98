"""From what a person asks to the ids the model reads, by mlx-lm's tokenizer and chat template."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from ..errors import OptionError, brief
from ..options import GenerateOptions
from ..values import items, refused
from .templates import content_of, has_template, templated

Prompt: TypeAlias = str | Sequence[dict[str, Any]]
"""A text, or a conversation as chat templates take it: [{"role": …, "content": …}, …]."""


@dataclass(frozen=True)
class Encoded:
    """A prompt three ways: as it was asked, as the model reads it, and as ids."""

    asked: str
    text: str
    tokens: list[int]


def encode(
    tokenizer: Any, prompt: Prompt, options: GenerateOptions, config: dict[str, Any] | None = None
) -> Encoded:
    """Encode `prompt`; a text goes into the chat template, if there is one, unless `raw`.

    Whether the model has room for it is asked by `check_length` and `budget.check_prompt`.

    Raises:
        OptionError: there is nothing to encode, the chat template refuses the messages, or the
            tokenizer gives ids that the model has not.
    """
    prompt = as_prompt(prompt)
    if not prompt:
        raise OptionError("the prompt is empty: give at least one character")
    if isinstance(prompt, str) and (options.raw or not has_template(tokenizer)):
        if options.system is not None:
            why = "raw=True sends the prompt as it is" if options.raw else "it has no chat template"
            raise OptionError(
                f"the model is given no system message, for {why}: write it into the prompt, and "
                "leave system out"
            )
        text = prompt
        starts = tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)
        tokens = ids_of(tokenizer, text, add_special_tokens=not starts)
    else:
        text = templated(tokenizer, _messages(prompt, options.system))
        tokens = ids_of(tokenizer, text, add_special_tokens=False)
    check_known(tokens, config or {})
    return Encoded(_as_asked(prompt), text, tokens)


def ids_of(tokenizer: Any, text: str, **options: Any) -> list[int]:
    """`text` as ids, at least one.

    Raises:
        OptionError: it is nothing to the tokenizer.
    """
    try:
        text.encode()
        tokens = list(tokenizer.encode(text, **options))
    except UnicodeEncodeError:
        raise OptionError(
            "the prompt holds half of a surrogate pair, which is no character: give text that "
            "UTF-8 can write"
        ) from None
    except Exception as error:  # a tokenizer may be anybody's code
        raise OptionError(
            f"the model's tokenizer cannot read the prompt ({brief(error)}): give other text"
        ) from error
    if not tokens:
        raise OptionError("the prompt is empty to the model's tokenizer: give more characters")
    return tokens


def check_known(tokens: Sequence[int], config: dict[str, Any]) -> None:
    """Raises OptionError: the model has no embedding for an id; MLX would read past its end."""
    known = vocabulary_of(config)
    if known and tokens and max(tokens) >= known:
        raise OptionError(
            f"the tokenizer gives id {max(tokens):,}, and the model knows {known:,}: they do not "
            "belong together, or the prompt holds a token added later; leave it out"
        )


def vocabulary_of(config: dict[str, Any]) -> int:
    """How many tokens the model knows, as its config says; 0 where it does not."""
    inner = config.get("text_config")
    found = config.get("vocab_size") or (inner.get("vocab_size") if isinstance(inner, dict) else 0)
    return max(0, found) if isinstance(found, int) else 0


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


def check_length(context: int | None, prompt: int, max_tokens: int, force: bool) -> None:
    """Refuse a prompt that is longer than `context`, the model's own; mlx-lm goes on, too.

    One that fits, but not with all that may be generated, is warned of; with `force` any is.

    Raises:
        OptionError: the prompt alone is too long.
    """
    if context is None:
        return
    if prompt > context and not force:
        raise OptionError(
            f"the prompt is {prompt:,} tokens, and the model was made to read {context:,} at most: "
            "shorten it, or begin another conversation; load(…, force=True) tries"
        )
    # The last token that is generated is not read any more.
    if prompt + max_tokens - 1 > context:
        warnings.warn(
            f"the prompt is {prompt:,} tokens with {max_tokens:,} to come, and the model was made "
            f"for {context:,}: what lies beyond may be poor text; shorten one of them",
            stacklevel=4,
        )


def as_prompt(prompt: Any) -> Prompt:
    """The prompt as a text, or a list of messages that can be read more than once.

    Raises:
        OptionError: it is neither.
    """
    if isinstance(prompt, str):
        return str(prompt)
    wanted = "a text, or messages such as {'role': 'user', 'content': '…'} in a list"
    found = [] if isinstance(prompt, Mapping) else items("prompt", prompt, wanted)
    if isinstance(prompt, Mapping):
        raise refused("prompt", prompt, wanted)
    return [dict(each) if isinstance(each, Mapping) else each for each in found]


def _messages(prompt: Prompt, system: str | None) -> list[dict[str, Any]]:
    asked = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    return asked if system is None else [{"role": "system", "content": system}, *asked]


def _as_asked(prompt: Prompt) -> str:
    if isinstance(prompt, str):
        return prompt
    return "\n".join(f"{message['role']}: {content_of(message)}" for message in prompt)
