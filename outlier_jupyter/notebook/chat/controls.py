"""The chat's settings: one trait and one control for each run option that users change in a chat.

They are made from the fields of `GenerateOptions`, so each name, default, help text and check is
defined once; where an option has no default of its own, the model's serves. `Settings` has the
traits; `controls` describes them to the browser.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import traitlets

from ...options import NEUTRAL, GenerateOptions, choices_of, help_of, settled

GROUPS = {
    "Sampling": ("temperature", "top_p", "min_p", "sample_top_k", "seed"),
    "Thinking and template": ("thinking", "thinking_budget", "template"),
    "Length and repetition": ("max_tokens", "repetition_penalty", "repetition_context"),
    "Cache": ("reuse_kv", "prefill_chunk"),
}
"""The groups of controls."""
CONTROLS = tuple(name for names in GROUPS.values() for name in names)
NAMES = (*CONTROLS, "system")
"""Every setting; the system message is long and shown apart."""
DEFAULTS = {"reuse_kv": True}
"""Defaults that differ from those of a single run."""
STEPS = {"temperature": 0.1, "top_p": 0.05, "min_p": 0.01, "repetition_penalty": 0.05}
LABELS = {
    "reuse_kv": "reuse the KV cache",
    "sample_top_k": "top k",
    "prefill_chunk": "prompt chunk",
    "template": "template variables",
}
_FIELDS = {spec.name: spec for spec in fields(GenerateOptions)}


def default_of(name: str, model: Mapping[str, float]) -> Any:
    """A setting's value at first; `model` has the model's own, as `Engine.sampling`."""
    first = NEUTRAL | DEFAULTS | dict(model)
    return "" if name == "system" else first.get(name, _FIELDS[name].default)


def _kind(name: str) -> str:
    """The kind of an option's control: `choice`, `texts`, or the option's type without its None."""
    if choices_of(_FIELDS[name]):
        return "choice"
    hint = typing.get_type_hints(GenerateOptions)[name]
    if typing.get_origin(hint) is tuple:
        return "texts"
    kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
    return str((kinds[0] if kinds else hint).__name__)


def _trait(name: str) -> traitlets.TraitType[Any, Any]:
    default = default_of(name, {})
    return Setting(default, allow_none=default is None).tag(sync=True)


class Setting(traitlets.Any):
    """A trait whose values an option checks and converts."""

    def validate(self, obj: Any, value: Any) -> Any:
        """Check a value by the rules of its option; raises OptionError."""
        name = str(self.name)
        if value is None:
            return default_of(name, obj.model_sampling)
        return settled(GenerateOptions, {name: value})[name]


Settings: Any = type(
    "Settings",
    (traitlets.HasTraits,),
    {"model_sampling": {}} | {name: _trait(name) for name in NAMES},
)
"""A class with one trait for each of `NAMES`, checked as the options are.

`model_sampling` has the model's defaults, set before the traits are.
"""


def options_of(settings: Any) -> dict[str, Any]:
    """The settings as keyword arguments of `Engine.generate`."""
    return {name: getattr(settings, name) for name in NAMES} | {"system": settings.system or None}


def controls(model: Mapping[str, float]) -> list[dict[str, Any]]:
    """The description of the controls for the browser: JSON, in display order."""
    out = []
    for group, names in GROUPS.items():
        for name in names:
            rules = _FIELDS[name].metadata
            least = rules.get("low", rules.get("above"))
            out.append(
                {
                    "group": group,
                    "name": name,
                    "label": LABELS.get(name, name.replace("_", " ")),
                    "help": help_of(_FIELDS[name]),
                    "kind": _kind(name),
                    "choices": list(choices_of(_FIELDS[name])),
                    "default": default_of(name, model),
                    "least": least,
                    "most": rules.get("high"),
                    "step": STEPS.get(name, 1),
                }
            )
    return out
