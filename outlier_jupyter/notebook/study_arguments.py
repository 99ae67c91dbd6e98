"""The flags of `%outlier ablate` and `%outlier sweep`."""

from __future__ import annotations

import argparse
import types
import typing
from typing import Any

from ..options import SWEPT, LoadOptions
from .commands import COMMANDS
from .parsing import Parser, add_output, variable


def ablate_parser() -> argparse.ArgumentParser:
    """Flags of `%outlier ablate`, those of `outlier_jupyter.ablate`."""
    parser = Parser(prog="%outlier ablate", description=f"{COMMANDS['ablate'].capitalize()}.")
    parser.add_argument("experts", nargs="+", help="LAYER:EXPERT to mask, as 12:37 or 12:3-7,9")
    add_output(parser, "Ablation")
    _add_prompts(parser)
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
    return parser


def sweep_parser() -> argparse.ArgumentParser:
    """Flags of `%outlier sweep`, those of `outlier_jupyter.sweep`."""
    parser = Parser(prog="%outlier sweep", description=f"{COMMANDS['sweep'].capitalize()}.")
    parser.add_argument(
        "axes", nargs="+", metavar="NAME=VALUES", type=_axis,
        help="values by commas, such as top_k=4,8,16; of several names all combinations are tried",
    )  # fmt: skip
    add_output(parser, "Sweep")
    _add_prompts(parser)
    parser.add_argument("--max-tokens", type=int, metavar="N", help="of each answer (64)")
    parser.add_argument("--repeats", type=int, metavar="N", help="rounds over all settings (1)")
    parser.add_argument("--temperature", type=float, metavar="T", help="of the sampling (0)")
    parser.add_argument("--seed", type=int, metavar="N", help="of the sampling (0)")
    parser.add_argument(
        "--folder", metavar="FOLDER",
        help="where its record is written, as JSON and Markdown (the current folder)",
    )  # fmt: skip
    return parser


def _add_prompts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--prompt", dest="prompt", action="append", metavar="TEXT",
        help="what is asked; may be given more than once",
    )  # fmt: skip
    parser.add_argument(
        "--prompts", type=variable, metavar="NAME", help="a variable that holds prompts"
    )


def _axis(text: str) -> tuple[str, list[Any]]:
    """`top_k=4,8` as the option's name and its values, of the option's type."""
    name, equals, values = text.partition("=")
    name = name.replace("-", "_").lstrip("_")
    kinds = typing.get_type_hints(LoadOptions)
    if not equals or name not in SWEPT:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no NAME=VALUES, such as top_k=4,8,16; names are {', '.join(SWEPT)}"
        )
    kind = kinds[name]
    if isinstance(kind, types.UnionType):
        kind = next(k for k in typing.get_args(kind) if k is not type(None))
    try:
        return name, [kind(value) for value in values.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} cannot be used: give values of type {kind.__name__}, by commas"
        ) from None


PARSERS = {"ablate": ablate_parser, "sweep": sweep_parser}
"""Command → its parser."""
