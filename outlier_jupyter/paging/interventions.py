"""What is to be changed in the routing of a model: which experts are masked, boosted or forced.

Pure data, read from the options' words and held against the model's layers. How it is brought
about is `steering`'s affair.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..errors import OptionError, shown
from ..options import GenerateOptions
from ..residency import ExpertKey

NAMED = 4
"""So many experts are named in words; of more it is said how many they are."""


@dataclass(frozen=True)
class Intervention:
    """A change of the routing; the empty one changes nothing and is false.

    Attributes:
        mask: experts that are never chosen.
        force: experts that are always chosen, weighed as if each were the router's likeliest.
        boost: expert → what is added to its logit.
        top_k: experts per token, in place of the model's own.
        temperature: what the router's logits are divided by, before anything is added.
    """

    mask: frozenset[ExpertKey] = frozenset()
    force: frozenset[ExpertKey] = frozenset()
    boost: Mapping[ExpertKey, float] = field(default_factory=dict)
    top_k: int | None = None
    temperature: float = 1.0

    def __bool__(self) -> bool:
        return bool(self.mask or self.force or self.boost or self.top_k or self.temperature != 1.0)

    def words(self, native_top_k: int | None = None) -> list[str]:
        """What it does, a few words each; empty when it does nothing."""
        said = []
        if self.mask:
            said.append(f"{named(self.mask)} masked")
        if self.force:
            said.append(f"{named(self.force)} always chosen")
        if self.boost:
            values = set(self.boost.values())
            by = (
                f"{min(values):+g}" if len(values) == 1 else f"{min(values):+g} to {max(values):+g}"
            )
            said.append(f"{named(self.boost)} boosted by {by}")
        if self.top_k is not None and self.top_k != native_top_k:
            said.append(f"top-k {self.top_k} in place of the model's {native_top_k}")
        if self.temperature != 1.0:
            said.append(f"router temperature {self.temperature:g}")
        return said

    @classmethod
    def of(
        cls, asked: GenerateOptions, experts_per_layer: Sequence[int], own_top_k: int | None = None
    ) -> Intervention:
        """What the options of a run ask for, in a model of such layers.

        Args:
            own_top_k: what the model chooses when nobody asks for another number.

        Raises:
            OptionError: an expert that there is not, one both masked and forced, or too few left.
        """
        found = cls(
            mask=frozenset(parse_experts("mask", asked.mask, experts_per_layer)),
            force=frozenset(parse_experts("force", asked.force, experts_per_layer)),
            boost=_boosts(asked.boost, experts_per_layer),
            top_k=None if asked.top_k == own_top_k else asked.top_k,
            temperature=float(asked.router_temperature),
        )
        found._check(experts_per_layer, asked.top_k or own_top_k or 1)
        return found

    def _check(self, experts_per_layer: Sequence[int], k: int) -> None:
        if self and not experts_per_layer:
            raise OptionError("this model is dense: it has no routing to change")
        if both := self.mask & self.force:
            raise OptionError(f"{named(both)} cannot be both masked and forced: choose one")
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
    option: str, words: Iterable[str], experts_per_layer: Sequence[int]
) -> list[ExpertKey]:
    """The experts that `words` name: LAYERS:EXPERTS, each a number, `a-b`, or `*` for all.

    Experts may be several, by commas: `12:3,7-9`. Spaces, semicolons or a new word begin another.

    Raises:
        OptionError: not of that form, or no such expert in this model.
    """
    found: dict[ExpertKey, None] = {}
    for word in (part for text in words for part in text.replace(";", " ").split()):
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


def _numbers(words: str, count: int) -> list[int]:
    """`*`, or numbers and ranges by commas; all below `count`.

    Raises:
        ValueError: something else. IndexError: a number that is too large.
    """
    if words == "*":
        return list(range(count))
    found: dict[int, None] = {}
    for word in words.split(","):
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


def _boosts(words: Iterable[str], experts_per_layer: Sequence[int]) -> dict[ExpertKey, float]:
    found: dict[ExpertKey, float] = {}
    for word in (part for text in words for part in text.replace(";", " ").split()):
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


def named(keys: Iterable[ExpertKey]) -> str:
    """Experts in words: a few by their names, more by their number."""
    keys = sorted(keys)
    if len(keys) > NAMED:
        layers = len({key.layer for key in keys})
        return f"{len(keys):,} experts of {layers:,} layer{'s' if layers > 1 else ''}"
    names = ", ".join(f"{layer}:{expert}" for layer, expert in keys)
    return f"expert{'s' if len(keys) > 1 else ''} {names}"
