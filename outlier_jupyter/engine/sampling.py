"""From logits to the next token: what is sampled with, by default as the model's makers say.

Samplers, penalties and biases are mlx-lm's. This module reads `generation_config.json`, completes a
run's options with it, and calls a user's own logits processors.
"""

from __future__ import annotations

import secrets
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
from mlx_lm.sample_utils import make_logits_processors, make_sampler

from ..errors import OptionError, OutlierError, brief, shown
from ..options import NEUTRAL, GenerateOptions, bias_of, settled
from ..options.words import name_of
from .prompts import vocabulary_of

Processor = Callable[[mx.array, mx.array], mx.array]
"""Ids so far [tokens] and logits [1, vocabulary] → logits."""

FILE = "generation_config.json"
KEYS = {name: "top_k" if name == "sample_top_k" else name for name in NEUTRAL}
"""Option → its key in the file."""
SEED_BITS = 32
LONGEST = (1 << 31) - 1
"""The most recent tokens that can be penalised: MLX slices arrays by 32-bit integers."""


def model_sampling(config: Mapping[str, Any]) -> dict[str, float]:
    """The defaults of `NEUTRAL`'s options that a model's generation_config.json gives.

    `do_sample: false` means greedy. With `do_sample: true` and no temperature it is 1, as in
    transformers; what else is absent restricts nothing. A value that no option can have is ignored
    with a warning.
    """
    found: dict[str, float] = {}
    for name, key in KEYS.items():
        value = config.get(key)
        if value is None or (key == "top_k" and value == -1):
            continue
        try:
            found |= settled(GenerateOptions, {name: value})
        except OptionError:
            warnings.warn(
                f"{FILE} says {key}={shown(value)}, which cannot be used and is ignored: copy the "
                "file from the original model",
                stacklevel=2,
            )
    if config.get("do_sample") is True:
        found.setdefault("temperature", 1.0)
    elif config.get("do_sample") is False:
        found["temperature"] = 0.0
    return found


def completed(options: GenerateOptions, defaults: Mapping[str, float]) -> GenerateOptions:
    """`options` with the model's defaults for what they leave open, and a seed if one is needed."""
    values: dict[str, Any] = {
        name: value
        for name, value in (NEUTRAL | dict(defaults)).items()
        if getattr(options, name) is None
    }
    if options.seed is None and values.get("temperature", options.temperature):
        values["seed"] = secrets.randbits(SEED_BITS)
    return replace(options, **values)


def sampling_changes(options: GenerateOptions) -> list[str]:
    """Reasons why what is sampled is not the model's own distribution; empty if it is.

    Temperature, the top-p and penalties are ways to sample it, which makers advise.
    """
    reasons = []
    if count := len(options.logit_bias):
        reasons.append(f"a bias on {count} token{'' if count == 1 else 's'}")
    reasons += [f"logits processor {name_of(each)}" for each in options.logits_processors]
    if options.schema is not None:
        reasons.append(f"constrained to {options.schema.words}")
    return reasons


@dataclass(frozen=True)
class Sampling:
    """How a run's tokens are chosen.

    Attributes:
        sample: log-probabilities [1, vocabulary] → id [1].
        processors: what changes the logits before, in order.
        ends: ids after which the run ends.
        own: whether the user's own processors are among them.
        matcher: llguidance's, of the run's schema; None without one.
        openings: ids that may begin thinking in place of the answer.
    """

    sample: Callable[[mx.array], mx.array]
    processors: tuple[Processor, ...]
    ends: frozenset[int]
    own: bool
    matcher: Any = None
    openings: tuple[int, ...] = ()

    @classmethod
    def of(cls, options: GenerateOptions, tokenizer: Any, config: dict[str, Any]) -> Sampling:
        """For a run with `completed` options.

        Raises:
            OptionError: a token is not in the vocabulary.
        """
        ids = NamedTokens(tokenizer, config)
        ends = {*tokenizer.eos_token_ids, *ids.of("stop_tokens", options.stop_tokens)}
        biases = [bias_of("logit_bias", each) for each in options.logit_bias]
        bias = dict(zip(ids.of("logit_bias", (token for token, _ in biases)),
                        (number for _, number in biases), strict=True))  # fmt: skip
        penalty, most = options.repetition_penalty, min(options.repetition_context, LONGEST)
        processors = make_logits_processors(
            bias or None,
            None if penalty == 1.0 else penalty,
            most,
            options.presence_penalty,
            most,
            options.frequency_penalty,
            most,
        )
        own = [_checked(each) for each in options.logits_processors]
        return cls(
            _sampler(options, tokenizer, ids.size),
            (*processors, *own),
            frozenset(ends),
            bool(own),
        )


class NamedTokens:
    """Ids of tokens that a user names; `size` is the vocabulary's, or 0 if it is not known."""

    def __init__(self, tokenizer: Any, config: dict[str, Any]) -> None:
        self._tokenizer = tokenizer
        self.size = vocabulary_of(config)

    def of(self, option: str, names: Iterable[str]) -> list[int]:
        """The ids of tokens by their ids in digits, or by their texts.

        Raises:
            OptionError: not a token of the vocabulary; MLX would write past the logits' end.
        """
        return [self._of(option, name) for name in names]

    def _of(self, option: str, name: str) -> int:
        if name.isdecimal() and name.isascii():
            token = int(name)
            if self.size and token >= self.size:
                raise OptionError(
                    f"{option}={shown(token)} is no token: this model's ids are below {self.size:,}"
                )
            return token
        token = self._tokenizer.get_added_vocab().get(name)
        found = self._tokenizer.encode(name, add_special_tokens=False) if token is None else [token]
        if len(found) != 1:
            raise OptionError(
                f"{option}={shown(name)} is {len(found)} tokens to this model's tokenizer: give "
                "the text or the id of one token"
            )
        return int(found[0])


def _sampler(
    options: GenerateOptions, tokenizer: Any, vocabulary: int
) -> Callable[[mx.array], mx.array]:
    # mlx-lm refuses a top-k of all tokens or more, which restricts nothing.
    top_k = options.sample_top_k or 0
    special: list[int] = []
    if options.xtc_probability:  # as mlx-lm's own generate does
        special = [*tokenizer.encode("\n", add_special_tokens=False), *tokenizer.eos_token_ids]
    sampler: Callable[[mx.array], mx.array] = make_sampler(
        options.temperature or 0.0,
        top_p=options.top_p or 0.0,
        min_p=options.min_p or 0.0,
        top_k=0 if vocabulary and top_k >= vocabulary else top_k,
        xtc_probability=options.xtc_probability,
        xtc_threshold=options.xtc_threshold,
        xtc_special_tokens=special,
    )
    return sampler


def _checked(processor: Processor) -> Processor:
    """A user's logits processor whose faults are ours."""

    def process(tokens: mx.array, logits: mx.array) -> mx.array:
        shape = logits.shape
        try:
            found = processor(tokens, logits)
            if isinstance(found, mx.array):
                mx.eval(found)  # a fault of a lazy array belongs to its processor, too
        except OutlierError:
            raise
        except Exception as error:
            raise OptionError(
                f"the logits processor {name_of(processor)} raised {type(error).__name__} "
                f"({brief(error)}) after {tokens.size:,} tokens: correct it, or leave it out"
            ) from error
        array = isinstance(found, mx.array)
        if not array or found.shape != shape or not mx.issubdtype(found.dtype, mx.floating):
            what = f"shape {list(found.shape)} of {found.dtype}" if array else shown(found)
            raise OptionError(
                f"the logits processor {name_of(processor)} returned {what}: return the logits as "
                f"an MLX array of floats of shape {list(shape)}"
            )
        return found

    return process
