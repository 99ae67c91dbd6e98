"""The chat's settings: one trait and one control for each option of a run that a person turns.

They are made from the fields of `GenerateOptions`, so a name, a default, a help text and a check
exist once. `Settings` is the traits; `controls` describes them to the browser.
"""

from __future__ import annotations

import typing
from dataclasses import fields
from typing import Any

import traitlets

from ...options import GenerateOptions, help_of, settled

GROUPS = {
    "Sampling": ("temperature", "top_p", "min_p", "sample_top_k", "seed"),
    "Length and repetition": ("max_tokens", "repetition_penalty", "repetition_context"),
    "Cache": ("reuse_kv", "prefill_chunk"),
}
"""What is shown together."""
CONTROLS = tuple(name for names in GROUPS.values() for name in names)
NAMES = (*CONTROLS, "system")
"""Every setting; the system message has a place of its own, because it is long."""
DEFAULTS = {"reuse_kv": True}
"""Where a chat differs from a single run."""
STEPS = {"temperature": 0.1, "top_p": 0.05, "min_p": 0.01, "repetition_penalty": 0.05}
LABELS = {
    "reuse_kv": "reuse the KV cache",
    "sample_top_k": "top k",
    "prefill_chunk": "prompt chunk",
}
_FIELDS = {spec.name: spec for spec in fields(GenerateOptions)}


def _default(name: str) -> Any:
    return "" if name == "system" else DEFAULTS.get(name, _FIELDS[name].default)


def _kind(name: str) -> Any:
    """The type of an option, without its None."""
    wanted = typing.get_type_hints(GenerateOptions)[name]
    options = [kind for kind in typing.get_args(wanted) if kind is not type(None)]
    return options[0] if options else wanted


def _trait(name: str) -> traitlets.TraitType[Any, Any]:
    default = _default(name)
    return Setting(default, allow_none=default is None).tag(sync=True)


class Setting(traitlets.Any):
    """A trait whose values are an option's, as plain as the option makes them."""

    def validate(self, obj: Any, value: Any) -> Any:
        """Hold a value against its option's rules; raises OptionError."""
        name = str(self.name)
        return _default(name) if value is None else settled(GenerateOptions, {name: value})[name]


Settings: Any = type(
    "Settings",
    (traitlets.HasTraits,),
    {name: _trait(name) for name in NAMES},
)
"""The traits, one for each of `NAMES`, checked as the options are."""


def options_of(settings: Any) -> dict[str, Any]:
    """The keyword arguments of `Engine.generate` that the settings stand for."""
    return {name: getattr(settings, name) for name in NAMES} | {"system": settings.system or None}


def controls() -> list[dict[str, Any]]:
    """What the browser needs to draw the controls: JSON, in the order shown."""
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
                    "kind": _kind(name).__name__,
                    "default": _default(name),
                    "least": least,
                    "most": rules.get("high"),
                    "step": STEPS.get(name, 1),
                }
            )
    return out
