"""The options of generating text."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import OptionError, shown
from ..tools import schemas_of
from ..values import path, refused, seed, texts
from .fields import callables, expert_texts, option, settle, token_biases, token_names
from .schema import schema_of

KV_BITS = (2, 3, 4, 5, 6, 8)
KV_GROUP_SIZES = (32, 64, 128)
THINKING = ("auto", "on", "off")
NEUTRAL = {
    "temperature": 0.0, "top_p": 1.0, "min_p": 0.0, "sample_top_k": 0, "repetition_penalty": 1.0,
    "presence_penalty": 0.0, "frequency_penalty": 0.0,
}  # fmt: skip
"""What a model's makers may give a default for, and the value where they give none."""


def template_texts(name: str, value: Any) -> tuple[str, ...]:
    """Variables as texts NAME=VALUE, from a mapping, a text or several; see `template_values`.

    Raises:
        OptionError: `value` is none of them, or a variable's value is not of JSON's types.
    """
    if isinstance(value, Mapping):
        return texts(name, [f"{each}={_written(name, value[each])}" for each in value])
    found = texts(name, value)
    for each in found:
        if not each.partition("=")[0].strip().isidentifier() or "=" not in each:
            raise refused(name, each, "NAME=VALUE, such as reasoning_effort=low")
    return found


def _written(name: str, value: Any) -> str:
    """A value as JSON; a text that JSON would not read stays as it is."""
    if isinstance(value, str) and _read(value) == value:
        return value
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        raise OptionError(
            f"{name} holds {shown(value)}: give texts, numbers, booleans, lists and dictionaries"
        ) from None


def template_values(variables: Iterable[str]) -> dict[str, Any]:
    """The variables by name; a value is read as JSON where it is JSON, else as text."""
    found = (each.partition("=") for each in variables)
    return {name.strip(): _read(value) for name, _, value in found}


def _read(value: str) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


@dataclass(frozen=True)
class GenerateOptions:
    """How text is generated; the fields are the keyword arguments of `Engine.generate`."""

    max_tokens: int = option(256, "stop after this many generated tokens", low=1)
    temperature: float | None = option(
        None,
        "sampling temperature; 0 takes the likeliest token. By default this and the next six are "
        "as the model's generation_config.json says, else the likeliest token is taken",
        low=0,
    )
    top_p: float | None = option(
        None, "sample from the likeliest tokens of this total probability", low=0, high=1
    )
    min_p: float | None = option(
        None,
        "drop tokens whose probability is below this share of the likeliest one's",
        low=0,
        high=1,
    )
    sample_top_k: int | None = option(
        None, "sample from this many likeliest tokens; 0 means all", low=0
    )
    repetition_penalty: float | None = option(
        None, "divide the logits of recent tokens by this; 1 changes nothing", above=0
    )
    presence_penalty: float | None = option(None, "subtract this from the logits of recent tokens")
    frequency_penalty: float | None = option(
        None, "subtract this from a token's logit for each time it is among the recent ones"
    )
    repetition_context: int = option(
        20, "how many recent tokens are penalised, those of the prompt included", low=1
    )
    logit_bias: tuple[str, ...] = option(
        (),
        "TOKEN=NUMBER adds NUMBER to a token's logit, by its id or text, as 42=-5; may be repeated",
        spell=token_biases,
    )
    xtc_probability: float = option(
        0.0,
        "with this probability per token drop all likely tokens but the least likely of them (XTC)",
        low=0,
        high=1,
    )
    xtc_threshold: float = option(
        0.1, "with --xtc-probability, the probability from which a token is likely", low=0, high=0.5
    )
    logits_processors: tuple[Callable[..., Any], ...] = option(
        (),
        "functions of the ids so far and the logits [1, vocabulary], both MLX arrays, that return "
        "the logits to sample from",
        spell=callables,
        python_only=True,
    )
    seed: int | None = option(
        None, "seed of the sampler; by default one is drawn, and recorded", low=0, spell=seed
    )
    stop_tokens: tuple[str, ...] = option(
        (),
        "end after this token, by its id or text, besides the model's own end; may be repeated",
        spell=token_names,
    )
    prefill_answer: str | None = option(
        None, "the text that the answer begins with, which the model continues", escapes=True
    )
    stop: tuple[str, ...] = option(
        (),
        "stop before this text; may be repeated. In a flag \\n is a line break, \\t a tab and "
        "\\\\ a backslash",
        escapes=True,
    )
    schema: Any | None = option(  # noqa: RUF009, as all fields: a `Schema` is frozen
        None,
        "what the answer must be: the path of a JSON schema, or a regular expression; in Python "
        "also a dict, a Pydantic model or re.compile(…). Changes the output; needs llguidance",
        spell=schema_of,
        metavar="FILE|REGEX",
    )
    system: str | None = option(None, "a system message before the prompt")
    raw: bool = option(False, "continue the prompt as plain text, without the chat template")
    tools: tuple[dict[str, Any], ...] = option(
        (),
        "functions, or JSON schemas of functions, that the chat template describes to the model; a "
        "run calls none of them, a chat does",
        spell=schemas_of,
        python_only=True,
    )
    thinking: str = option(
        "auto",
        "whether the model thinks before it answers: auto, as its chat template does; on; off",
        choices=THINKING,
    )
    thinking_budget: int | None = option(
        None,
        "end the thinking after this many tokens of it, by the closing tag; changes the output",
        low=0,
    )
    template: tuple[str, ...] = option(
        (),
        "NAME=VALUE is passed to the chat template, as reasoning_effort=low; VALUE is read "
        "as JSON where it is JSON, else as text; may be repeated",
        spell=template_texts,
    )
    prefill_chunk: int | None = option(
        None, "prompt tokens per forward pass; by default as many as memory allows", low=1
    )
    kv_bits: int | None = option(
        None, "quantise the KV cache to this many bits; changes the output", choices=KV_BITS
    )
    kv_group_size: int = option(64, "group size of a quantised KV cache", choices=KV_GROUP_SIZES)
    quantized_kv_start: int = option(
        5000, "with --kv-bits, quantise from this many tokens on", low=0
    )
    max_kv_size: int | None = option(
        None, "limit the KV cache to the last N tokens; longer runs change the output", low=5
    )
    reuse_kv: bool = option(
        False, "reuse the KV cache of an earlier run whose prompt begins the same"
    )
    context: str | None = option(
        None,
        "go on from this file of `context`: what it holds was read before and is not read again",
        spell=path,
        metavar="FILE",
    )
    mask: tuple[str, ...] = option(
        (),
        "LAYER:EXPERT that the router must not choose, as 12:37 or 12:3-7,9 or 4-6:0; may be "
        "repeated. This and the next four change the output",
        spell=expert_texts,
    )
    boost: tuple[str, ...] = option(
        (),
        "LAYER:EXPERT=NUMBER adds NUMBER to the router's logit, as 12:37=+2.0; may be repeated",
        spell=expert_texts,
    )
    force: tuple[str, ...] = option(
        (),
        "LAYER:EXPERT that every token uses, with the weight of the likeliest expert; may be "
        "repeated",
        spell=expert_texts,
    )
    top_k: int | None = option(
        None, "experts per token in this run, instead of the model's own number", low=1
    )
    router_temperature: float = option(
        1.0, "divide the router's logits by this; above 1 the weights are more even", above=0
    )
    alternatives: int = option(
        5,
        "record this many of the likeliest tokens at each step; the token's log-probability, rank "
        "and the entropy are always recorded",
        low=0,
        high=100,
    )
    score_prompt: bool = option(
        False,
        "record the same for the prompt's tokens: how likely the model found each. The whole "
        "prompt is read then, also with --reuse-kv",
    )
    measure_loss: bool = option(
        False,
        "also run the unchanged model on the same tokens and measure each token's KL divergence "
        "from it. About twice the work; both share one expert cache",
    )

    def __post_init__(self) -> None:
        settle(self)
