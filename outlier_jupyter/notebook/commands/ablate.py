"""`%outlier ablate`: mask experts and compare the effect with random masks."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ...errors import OptionError
from .command import Command, Session
from .parsing import add_output
from .prompts import add_prompts, prompts_of

if TYPE_CHECKING:
    from ...studies.ablate import Ablation


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "experts", nargs="+", help="LAYER:EXPERT to mask, such as 12:37 or 12:3-7,9"
    )
    add_output(parser, "Ablation")
    add_prompts(parser)
    parser.add_argument(
        "--continuation", dest="continuations", action="append", metavar="TEXT",
        help="the text to score after each prompt (default: the model's own answer)",
    )  # fmt: skip
    parser.add_argument(
        "--draws", type=int, metavar="N", help="number of random masks to compare with (20)"
    )
    parser.add_argument(
        "--among", metavar="all|used",
        help="draw random masks from all experts of these layers, or only from those used (all)",
    )  # fmt: skip
    parser.add_argument(
        "--max-tokens", type=int, metavar="N", help="length of each answer the model writes (32)"
    )
    parser.add_argument(
        "--raw", action="store_true", default=None, help="do not apply the chat template"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="seed of the random masks (0)")


def _run(session: Session, args: dict[str, Any]) -> Ablation:
    from ...studies.ablate import ablate  # imports large libraries

    output, engine = args.pop("output", None), session.loaded()
    variable, texts = prompts_of("ablate", session, args)
    if variable is None and not texts:
        raise OptionError("%outlier ablate needs a prompt: give --prompt or --prompts")
    many = isinstance(variable, list | tuple)
    prompts = texts if variable is None else [*variable, *texts] if many and texts else variable
    found = ablate(engine, prompts, args.pop("experts"), **args)
    session.store(output, found)
    return found


COMMAND = Command(
    "ablate",
    "mask experts: does the text change more than with random masks?",
    _run,
    _arguments,
    call="`outlier_jupyter.ablate(engine, prompts, experts, …)`",
    group="research",
)
