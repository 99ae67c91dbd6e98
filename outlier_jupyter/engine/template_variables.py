"""The variables of a chat template, and what `thinking` means for a model.

A template that has a switch for thinking is given it. Where it has none, the prompt gets the text
after which the model thinks, or answers at once.
"""

from __future__ import annotations

import re
from typing import Any

from ..errors import OptionError, shown
from ..options import GenerateOptions
from ..options.generate import template_values
from .dialects import Dialect, template_text
from .templates import has_template

ON, OFF, AUTO = "on", "off", "auto"
SWITCHES = ("enable_thinking", "thinking")
"""The names that templates have for the switch of thinking."""
OWN = {
    "messages", "conversation", "tools", "tokenize", "add_generation_prompt", "chat_template",
    "continue_final_message", "padding", "truncation", "max_length", "return_tensors",
    "return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs",
}  # fmt: skip
"""Names that the engine passes, or that are no variables of templates."""


def variables_of(tokenizer: Any, options: GenerateOptions, dialect: Dialect) -> dict[str, Any]:
    """The template's variables by the options.

    Raises:
        OptionError: there is no template, it does not read a variable, or the model marks no
            thinking.
    """
    values = template_values(options.template)
    if (values or options.thinking != AUTO) and (options.raw or not has_template(tokenizer)):
        name = "template" if values else "thinking"
        why = "raw=True uses no chat template" if options.raw else "the model has no chat template"
        raise OptionError(f"{name} cannot be used, because {why}: leave {name} out")
    for name in values:
        if name in OWN or not _reads(tokenizer, name):
            raise OptionError(
                f"the model's chat template reads no variable {shown(name)}: "
                "engine.tokenizer.chat_template shows what it reads; leave it out"
            )
    if options.thinking != AUTO:
        if not dialect.thinks:
            raise OptionError(
                f"thinking={options.thinking} cannot be used: this model's tokenizer and template "
                "have no tags for thinking; leave it out"
            )
        values = dict.fromkeys(_switches(tokenizer), options.thinking == ON) | values
    return values


def with_thinking(text: str, tokenizer: Any, options: GenerateOptions, dialect: Dialect) -> str:
    """The prompt's text; with thinking on or off, where the template has no switch for it."""
    if options.thinking == AUTO or _switches(tokenizer):
        return text
    start = dialect.think_start
    opened = start is not None and text.rstrip().endswith(start)
    if options.thinking == ON:
        return text if opened else text + dialect.opening
    if opened:
        return f"{text.rstrip()}\n\n{dialect.closing}\n\n"
    # A template that does not know the tag is of a model that does not think, with its family's
    # tokenizer: an empty block would be new to it.
    thinks = dialect.think_end is None or dialect.think_end in template_text(tokenizer)
    return text + dialect.instead if thinks else text


def _switches(tokenizer: Any) -> list[str]:
    """The switches of thinking that the template reads."""
    if not template_text(tokenizer):  # a function: mlx-lm's wrapper knows its switch
        return list(SWITCHES[:1])
    return [name for name in SWITCHES if _reads(tokenizer, name)]


def _reads(tokenizer: Any, name: str) -> bool:
    """Whether the template reads a variable; a template that is a function may read any."""
    source = template_text(tokenizer)
    named = rf"(?<![\w.'\"]){re.escape(name)}(?![\w'\"])"
    return not source or re.search(named, source) is not None
