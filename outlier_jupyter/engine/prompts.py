"""Encodes a prompt into token ids, with mlx-lm's tokenizer and chat template."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from ..errors import OptionError, brief
from ..options import GenerateOptions
from ..runs.origin import Branch
from ..values import items, refused
from .dialects import Dialect
from .template_variables import variables_of, with_thinking
from .templates import Message, check_takes_tools, content_of, has_template, rendered

Prompt: TypeAlias = str | Sequence[dict[str, Any]]
"""A text, or a conversation as for chat templates: [{"role": …, "content": …}, …]."""


CONTEXT_NAMES = ("max_position_embeddings", "max_sequence_length", "max_seq_len", "n_positions")
"""Config keys of the model's full context."""


@dataclass(frozen=True)
class Encoded:
    """A prompt in three forms.

    Attributes:
        prompt: as the user wrote it; a conversation as "role: content" lines.
        text: as the model reads it, in the chat template.
        tokens: its ids.
        messages: as the template accepted them; None without a template.
        variables: of the template.
        kept: how many ids at the end of `tokens` are of an answer that is gone on with.
        branched: where that answer left another run's; None if it did not.
    """

    prompt: str
    text: str
    tokens: list[int]
    messages: list[Message] | None = None
    variables: dict[str, Any] = field(default_factory=dict)
    kept: int = 0
    branched: Branch | None = None


def encode(
    tokenizer: Any,
    prompt: Prompt,
    options: GenerateOptions,
    config: dict[str, Any] | None = None,
    dialect: Dialect | None = None,
) -> Encoded:
    """Encode `prompt`; a text goes into the chat template, if there is one, unless `raw`.

    `check_length` and `memory_budget.check_prompt` check its length.

    Args:
        dialect: the model's tags; without them `thinking` cannot be set.

    Raises:
        OptionError: the prompt is empty, the chat template refuses the messages, or the tokenizer
            gives ids that the model lacks.
    """
    prompt = as_prompt(prompt)
    if not prompt:
        raise OptionError("the prompt is empty: give at least one character")
    dialect = dialect or Dialect()
    if not options.raw and has_template(tokenizer):
        options = _answering(options, dialect)
    variables, messages = variables_of(tokenizer, options, dialect), None
    if isinstance(prompt, str) and (options.raw or not has_template(tokenizer)):
        if options.system is not None:
            why = "raw=True sends the prompt as it is"
            why = why if options.raw else "the model has no chat template"
            raise OptionError(
                f"system cannot be used, because {why}: write the system message into the prompt, "
                "and leave system out"
            )
        if options.tools:
            why = "raw=True sends the prompt as it is" if options.raw else (
                "the model has no chat template")  # fmt: skip
            raise OptionError(f"tools cannot be used, because {why}: leave tools out")
        text = prompt
        starts = tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)
        special = not starts
    else:
        inputs = with_system(prompt, options.system)
        if options.tools:
            check_takes_tools(tokenizer, options.tools)
            variables |= {"tools": list(options.tools)}
        text, messages = rendered(tokenizer, inputs, variables)
        text, special = with_thinking(text, tokenizer, options, dialect), False
    tokens = ids_of(tokenizer, text, add_special_tokens=special)
    encoded = Encoded(_prompt_text(prompt), text, tokens, messages, variables)
    if options.prefill_answer:
        encoded = _prefilled(tokenizer, encoded, options.prefill_answer, special)
    check_known(encoded.tokens, config or {})
    return encoded


def _answering(options: GenerateOptions, dialect: Dialect) -> GenerateOptions:
    """Options with no thinking before an answer whose beginning is given.

    Raises:
        OptionError: both are requested.
    """
    if not options.prefill_answer or not dialect.thinks:
        return options
    if options.thinking == "on" or options.thinking_budget is not None:
        raise OptionError(
            "prefill_answer cannot be used with thinking: the answer begins at once; leave one out"
        )
    return replace(options, thinking="off")


def _prefilled(tokenizer: Any, encoded: Encoded, begin: str, special: bool) -> Encoded:
    """`encoded` with the beginning of the answer, which the model goes on with."""
    own = encoded.tokens
    tokens = ids_of(tokenizer, encoded.text + begin, add_special_tokens=special)
    if tokens[: len(own)] != own:  # the prompt's last token would hold a part of it
        tokens = own + ids_of(tokenizer, begin, add_special_tokens=False)
    return replace(encoded, tokens=tokens, kept=len(tokens) - len(own))


def ids_of(tokenizer: Any, text: str, **options: Any) -> list[int]:
    """The ids of `text`, at least one.

    Raises:
        OptionError: the tokenizer cannot encode it, or gives no ids.
    """
    try:
        text.encode()
        tokens = list(tokenizer.encode(text, **options))
    except UnicodeEncodeError:
        raise OptionError(
            "the prompt holds half of a surrogate pair, which is no character: give text that "
            "UTF-8 can write"
        ) from None
    except Exception as error:  # a tokenizer may be foreign code
        raise OptionError(
            f"the model's tokenizer cannot read the prompt ({brief(error)}): give other text"
        ) from error
    if not tokens:
        raise OptionError("the prompt is empty to the model's tokenizer: give more characters")
    return tokens


def check_known(tokens: Sequence[int], config: dict[str, Any]) -> None:
    """Raises OptionError: an id has no embedding; MLX would read past the table's end."""
    known = vocabulary_of(config)
    if known and tokens and max(tokens) >= known:
        raise OptionError(
            f"the tokenizer gives id {max(tokens):,}, and the model knows {known:,}: they do not "
            "belong together, or the prompt holds a token added later; leave it out"
        )


def vocabulary_of(config: dict[str, Any]) -> int:
    """The size of the model's vocabulary from its config; 0 if it does not say."""
    inner = config.get("text_config")
    found = config.get("vocab_size") or (inner.get("vocab_size") if isinstance(inner, dict) else 0)
    return max(0, found) if isinstance(found, int) else 0


def context_of(config: dict[str, Any]) -> int | None:
    """The model's full context in tokens from its config, with YaRN; None if it does not say."""
    text = config.get("text_config")
    for part in (config, text if isinstance(text, dict) else {}):
        for name in CONTEXT_NAMES:
            if isinstance(part.get(name), int):
                return max(int(part[name]), _yarn_context(part))
    return None


def _yarn_context(config: dict[str, Any]) -> int:
    """The context that YaRN extends a model's to, in tokens; 0 without YaRN."""
    scaling = config.get("rope_scaling") or config.get("rope_parameters")
    if not isinstance(scaling, dict) or scaling.get("rope_type", scaling.get("type")) != "yarn":
        return 0
    factor, original = scaling.get("factor"), scaling.get("original_max_position_embeddings")
    if not isinstance(factor, int | float) or not isinstance(original, int):
        return 0
    return int(factor * original)


def check_length(context: int | None, prompt: int, max_tokens: int, force: bool) -> None:
    """Refuse a prompt longer than `context`, the model's own; with `force` only warn.

    Also warn of a prompt that fits, but not together with `max_tokens`.

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
    # The last generated token is never read.
    if prompt + max_tokens - 1 > context:
        warnings.warn(
            f"the prompt is {prompt:,} tokens and max_tokens {max_tokens:,}, and the model was "
            f"made for {context:,} in all: text beyond that may be poor; shorten one of them",
            stacklevel=4,
        )


def as_prompt(prompt: Any) -> Prompt:
    """`prompt` as a text or a list of messages, with generators and mappings copied.

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


def with_system(prompt: Prompt, system: str | None) -> list[dict[str, Any]]:
    """`prompt` as messages, a system message before them unless it is None."""
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    return messages if system is None else [{"role": "system", "content": system}, *messages]


def _prompt_text(prompt: Prompt) -> str:
    if isinstance(prompt, str):
        return prompt
    return "\n".join(f"{message['role']}: {content_of(message)}" for message in prompt)
