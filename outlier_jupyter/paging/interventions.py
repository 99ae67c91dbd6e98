"""Interventions on routing: which experts are masked, forced or boosted, top-k, temperature.

Pure data, parsed from the options and checked against the model's layers. `routing_override`
applies it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..aliases import alias
from ..errors import OptionError, shown
from ..options import GenerateOptions
from ..residency import ExpertKey

MOST_NAMED = 4
"""Up to this many experts are listed by name; more are given as a number."""


@dataclass(frozen=True)
class Intervention:
    """A change of the routing; an empty one changes nothing and is false.

    Attributes:
        mask: experts that are never chosen.
        force: experts that are always chosen, with the weight of the router's likeliest.
        boost: expert → what is added to its logit.
        top_k: experts per token, in place of the model's own.
        temperature: what the router's logits are divided by, before anything is added.
    """

    mask: frozenset[ExpertKey] = frozenset()
    force: frozenset[ExpertKey] = frozenset()
    boost: Mapping[ExpertKey, float] = field(default_factory=dict)
    top_k: int | None = None
    temperature: float = 1.0
    words = alias("phrases")

    def __bool__(self) -> bool:
        return bool(self.mask or self.force or self.boost or self.top_k or self.temperature != 1.0)

    def phrases(self, own_top_k: int | None = None) -> list[str]:
        """What it changes, in a few words each; empty if it changes nothing."""
        phrases = []
        if self.mask:
            phrases.append(f"{expert_names(self.mask)} masked")
        if self.force:
            phrases.append(f"{expert_names(self.force)} always chosen")
        if self.boost:
            values = set(self.boost.values())
            by = (
                f"{min(values):+g}" if len(values) == 1 else f"{min(values):+g} to {max(values):+g}"
            )
            phrases.append(f"{expert_names(self.boost)} boosted by {by}")
        if self.top_k is not None and self.top_k != own_top_k:
            phrases.append(f"top-k {self.top_k} in place of the model's {own_top_k}")
        if self.temperature != 1.0:
            phrases.append(f"router temperature {self.temperature:g}")
        return phrases

    @classmethod
    def of(
        cls,
        options: GenerateOptions,
        experts_per_layer: Sequence[int],
        own_top_k: int | None = None,
    ) -> Intervention:
        """The intervention that the options of a run request.

        Args:
            own_top_k: the experts per token that the model chooses by itself.

        Raises:
            OptionError: an expert does not exist, is both masked and forced, or too few are left.
        """
        found = cls(
            mask=frozenset(parse_experts("mask", options.mask, experts_per_layer)),
            force=frozenset(parse_experts("force", options.force, experts_per_layer)),
            boost=_boosts(options.boost, experts_per_layer),
            top_k=None if options.top_k == own_top_k else options.top_k,
            temperature=float(options.router_temperature),
        )
        found._check(experts_per_layer, options.top_k or own_top_k or 1)
        return found

    def _check(self, experts_per_layer: Sequence[int], k: int) -> None:
        if self and not experts_per_layer:
            raise OptionError("this model is dense: it has no routing to change")
        if both := self.mask & self.force:
            raise OptionError(f"{expert_names(both)} cannot be both masked and forced: choose one")
        if self.top_k is not None and self.top_k > min(experts_per_layer):
            raise OptionError(
                f"top_k={self.top_k} is more than the {min(experts_per_layer)} experts of a "
                "layer: give fewer"
            )
        masked, forced = (Counter(key.layer for key in keys) for keys in (self.mask, self.force))
        for layer, experts in enumerate(experts_per_layer):
            if experts - masked[layer] < k:
                raise OptionError(
                    f"with {masked[layer]} of {experts} experts of layer {layer} masked, fewer "
                    f"are left than the {k} a token needs: mask fewer"
                )
            if forced[layer] > k:
                raise OptionError(
                    f"{forced[layer]} experts of layer {layer} cannot all be chosen when a token "
                    f"takes {k}: force fewer"
                )


def parse_experts(
    option: str, texts: Iterable[str], experts_per_layer: Sequence[int]
) -> list[ExpertKey]:
    """Parse experts written as LAYERS:EXPERTS, each a number, a range `a-b`, or `*` for all.

    Commas separate several: `12:3,7-9`. Spaces and semicolons separate entries.

    Raises:
        OptionError: a text has another form, or the model has no such expert.
    """
    found: dict[ExpertKey, None] = {}
    for word in (part for text in texts for part in text.replace(";", " ").split()):
        found.update(dict.fromkeys(_parse(option, word, experts_per_layer)))
    return list(found)


def _parse(option: str, word: str, experts_per_layer: Sequence[int]) -> list[ExpertKey]:
    layers, colon, experts = word.partition(":")
    try:
        if not colon:
            raise ValueError
        return [
            ExpertKey(layer, expert)
            for layer in _numbers(layers, len(experts_per_layer))
            for expert in _numbers(experts, experts_per_layer[layer])
        ]
    except ValueError:
        raise OptionError(
            f"{option}={shown(word)} cannot be used: give LAYER:EXPERT, such as 12:37, or 12:3-7,9"
        ) from None
    except IndexError:
        last = len(experts_per_layer) - 1
        end = f"{last}:{experts_per_layer[-1] - 1}" if last >= 0 else "none: it is dense"
        raise OptionError(
            f"{option}={shown(word)}: this model has no such expert; the last one is {end}"
        ) from None


def _numbers(text: str, count: int) -> list[int]:
    """Parse `*`, or numbers and ranges separated by commas; all below `count`.

    Raises:
        ValueError: the text has another form.
        IndexError: a number is too large.
    """
    if text == "*":
        return list(range(count))
    found: dict[int, None] = {}
    for word in text.split(","):
        first, dash, last = word.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ValueError
        begin, end = int(first), int(last if dash else first)
        if end < begin:
            raise ValueError
        if end >= count:  # before the range is written out
            raise IndexError
        found.update(dict.fromkeys(range(begin, end + 1)))
    return list(found)


def _boosts(texts: Iterable[str], experts_per_layer: Sequence[int]) -> dict[ExpertKey, float]:
    found: dict[ExpertKey, float] = {}
    for word in (part for text in texts for part in text.replace(";", " ").split()):
        experts, _, value = word.partition("=")
        try:
            by = float(value)
        except ValueError:
            by = math.nan
        if not math.isfinite(by):
            raise OptionError(
                f"boost={shown(word)} cannot be used: give LAYER:EXPERT=NUMBER, such as 12:37=+2.0"
            )
        found.update(dict.fromkeys(_parse("boost", experts, experts_per_layer), by))
    return found


def expert_names(keys: Iterable[ExpertKey]) -> str:
    """A few experts by name, more as a number."""
    keys = sorted(keys)
    if len(keys) > MOST_NAMED:
        layers = len({key.layer for key in keys})
        return f"{len(keys):,} experts of {layers:,} layer{'s' if layers > 1 else ''}"
    names = ", ".join(f"{layer}:{expert}" for layer, expert in keys)
    return f"expert{'s' if len(keys) > 1 else ''} {names}"
