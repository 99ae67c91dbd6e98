"""`--prompt` and `--prompts`, which several commands take."""

from __future__ import annotations

import argparse
from typing import Any

from ...errors import OptionError
from .command import Session
from .parsing import near, variable


def add_prompts(parser: argparse.ArgumentParser) -> None:
    """Texts, or a variable that holds some."""
    parser.add_argument(
        "--prompt", dest="prompt", action="append", metavar="TEXT",
        help="what is asked; may be given more than once",
    )  # fmt: skip
    parser.add_argument(
        "--prompts", type=variable, metavar="NAME", help="a variable that holds prompts"
    )


def prompts_of(command: str, session: Session, given: dict[str, Any]) -> tuple[Any, list[str]]:
    """What the variable holds, or None, and the texts; both are taken out of `given`.

    Raises:
        OptionError: the variable holds no prompts.
    """
    texts, name = list(given.pop("prompt", ())), given.pop("prompts", None)
    if name is None:
        return None, texts
    variables = session.variables
    found = variables.get(name)
    if found is None or isinstance(found, int | float):
        raise OptionError(
            f"%outlier {command}: there are no prompts in a variable {name!r}"
            f"{near(name, [key for key, value in variables.items() if isinstance(value, list)])}"
        )
    return found, texts
