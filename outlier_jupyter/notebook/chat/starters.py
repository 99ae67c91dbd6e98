"""Prompts that an empty chat offers as buttons."""

from __future__ import annotations

from ...engine.engine import Engine
from ...engine.templates import has_template
from ...errors import OptionError
from ...values import texts

MOST = 4
"""More buttons would hide the message box of a narrow chat."""
OF_DEMO = (
    "What is an expert?",
    "What does the router do?",
    "What is a hit rate?",
    "Why was a token slow?",
)
"""Questions of the demo model's own subject, which it answers well."""
GENERAL = (
    "Explain in three sentences how a Mixture-of-Experts model works.",
    "Write a Python function that returns the primes below n.",
    "What should I ask about a city before I visit it?",
    "Continue this story: The lighthouse had been dark for a year when",
)
"""An explanation, code, a list and a story: each routes to other experts."""


def starters_of(engine: Engine, wanted: object = None) -> list[str]:
    """The prompts that a chat with `engine` offers.

    Args:
        wanted: the user's, at most `MOST`; an empty list for none; None for suitable ones.

    Raises:
        OptionError: `wanted` is not a list of texts, or has too many or empty ones.
    """
    if wanted is None:
        if not has_template(engine.tokenizer):
            return []
        return list(OF_DEMO if engine.info.model == "demo" else GENERAL)
    found = list(texts("starters", wanted))
    if len(found) > MOST:
        raise OptionError(f"{len(found)} starters are too many: give at most {MOST}")
    if not all(text.strip() for text in found):
        raise OptionError("a starter is empty: give at least one character")
    return found
