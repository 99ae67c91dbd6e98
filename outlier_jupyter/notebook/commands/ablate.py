"""`%outlier ablate`: experts masked, against random masks."""

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
    parser.add_argument("experts", nargs="+", help="LAYER:EXPERT to mask, as 12:37 or 12:3-7,9")
    add_output(parser, "Ablation")
    add_prompts(parser)
    parser.add_argument(
        "--continuation", dest="continuations", action="append", metavar="TEXT",
        help="what is scored after a prompt, one for each; the model's own if left out",
    )  # fmt: skip
    parser.add_argument(
        "--draws", type=int, metavar="N", help="random masks to hold it against (20)"
    )
    parser.add_argument(
        "--among", metavar="all|used",
        help="draw from all experts of the layers, or from those the texts use (all)",
    )  # fmt: skip
    parser.add_argument(
        "--max-tokens", type=int, metavar="N", help="of each text that the model writes (32)"
    )
    parser.add_argument(
        "--raw", action="store_true", default=None, help="leave the chat template out"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="of the drawing (0)")


def _run(session: Session, given: dict[str, Any]) -> Ablation:
    from ...studies.ablate import ablate  # its libraries are large

    output, engine = given.pop("output", None), session.loaded()
    there, texts = prompts_of("ablate", session, given)
    if there is None and not texts:
        raise OptionError("%outlier ablate has nothing to read: give --prompt or --prompts")
    both = isinstance(there, list | tuple)
    prompts = texts if there is None else [*there, *texts] if both and texts else there
    found = ablate(engine, prompts, given.pop("experts"), **given)
    session.store(output, found)
    return found


COMMAND = Command(
    "ablate",
    "mask experts and see how much less likely texts become, against random masks",
    _run,
    _arguments,
    call="`outlier_jupyter.ablate(engine, prompts, experts, …)`",
)
