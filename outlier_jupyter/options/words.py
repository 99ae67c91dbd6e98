"""Options as a record keeps and names them: plain values, and how a run sampled in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from .generate import GenerateOptions
from .load import LoadOptions

NAMES = {
    "temperature": "temperature", "top_p": "top-p", "min_p": "min-p", "sample_top_k": "top-k",
    "xtc_probability": "XTC", "repetition_penalty": "repetition penalty",
    "presence_penalty": "presence penalty", "frequency_penalty": "frequency penalty",
}  # fmt: skip
SAMPLING = ("temperature", "top_p", "min_p", "sample_top_k", "xtc_probability")
"""Those of no consequence where the likeliest token is taken."""


def recorded(options: LoadOptions | GenerateOptions) -> dict[str, Any]:
    """The options by name, as plain values: a function by its name."""
    found = {spec.name: getattr(options, spec.name) for spec in fields(options)}
    if found.get("schema") is not None:
        found["schema"] = str(found["schema"])
    processors = found.get("logits_processors", ())
    if processors:
        found["logits_processors"] = tuple(map(name_of, processors))
    return found


def name_of(function: Any) -> str:
    """A function's name, or its class's."""
    return str(getattr(function, "__name__", type(function).__name__))


def sampling_words(options: Mapping[str, Any]) -> str:
    """How a run with these options sampled, as "temperature 0.6, top-p 0.95, seed 7" or "greedy".

    "" where the options do not say, as in traces of other programs.
    """
    temperature = options.get("temperature")
    if not isinstance(temperature, int | float):
        return ""
    skipped = {None, 0, 1.0}
    words = [] if temperature else ["greedy"]
    for name, word in NAMES.items():
        value = options.get(name)
        if (name == "temperature" and temperature) or (
            isinstance(value, int | float)
            and value not in skipped
            and (temperature or name not in SAMPLING)
        ):
            words.append(f"{word} {value:g}")
    if temperature and options.get("seed") is not None:
        words.append(f"seed {options['seed']}")
    return ", ".join(words)
