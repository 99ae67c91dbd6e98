"""The flags `--prompt` and `--prompts`, shared by several commands."""

from __future__ import annotations

import argparse
from typing import Any

from ...errors import OptionError
from .command import Session
from .parsing import near, variable


def add_prompts(parser: argparse.ArgumentParser) -> None:
    """Add `--prompt` for a text and `--prompts` for a variable that holds texts."""
    parser.add_argument(
        "--prompt", dest="prompt", action="append", metavar="TEXT",
        help="a prompt; repeatable",
    )  # fmt: skip
    parser.add_argument(
        "--prompts", type=variable, metavar="NAME", help="a variable that holds prompts"
    )


def prompts_of(command: str, session: Session, args: dict[str, Any]) -> tuple[Any, list[str]]:
    """Return the value of the `--prompts` variable, or None, and the `--prompt` texts.

    Both are removed from `args`.

    Raises:
        OptionError: the variable does not hold prompts.
    """
    texts, name = list(args.pop("prompt", ())), args.pop("prompts", None)
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
