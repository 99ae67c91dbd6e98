"""`%outlier sweep`: run prompts with several values of options."""

from __future__ import annotations

import argparse
import types
import typing
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...options import SWEPT, LoadOptions
from .command import Command, Session
from .parsing import add_output
from .prompts import add_prompts, prompts_of

if TYPE_CHECKING:
    from ...studies.sweep_result import Sweep


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "axes", nargs="+", metavar="NAME=VALUES", type=_axis,
        help="comma-separated values, such as top_k=4,8,16; several names: all combinations",
    )  # fmt: skip
    add_output(parser, "Sweep")
    add_prompts(parser)
    parser.add_argument("--max-tokens", type=int, metavar="N", help="length of each answer (64)")
    parser.add_argument("--repeats", type=int, metavar="N", help="rounds over all settings (1)")
    parser.add_argument("--temperature", type=float, metavar="T", help="sampling temperature (0)")
    parser.add_argument("--seed", type=int, metavar="N", help="sampling seed (0)")
    parser.add_argument(
        "--folder", metavar="FOLDER",
        help="where to write the result as JSON and Markdown (the current folder)",
    )  # fmt: skip


def _axis(text: str) -> tuple[str, list[Any]]:
    """Parse `top_k=4,8` into the option's name and its values, converted to its type."""
    name, equals, values = text.partition("=")
    name = name.replace("-", "_").lstrip("_")
    kinds = typing.get_type_hints(LoadOptions)
    if not equals or name not in SWEPT:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not NAME=VALUES, such as top_k=4,8,16; the names are {', '.join(SWEPT)}"
        )
    kind = kinds[name]
    if isinstance(kind, types.UnionType):
        kind = next(k for k in typing.get_args(kind) if k is not type(None))
    try:
        return name, [kind(value) for value in values.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} cannot be used: give comma-separated values of type {kind.__name__}"
        ) from None


def _run(session: Session, args: dict[str, Any]) -> Sweep:
    from ...studies.sweep import sweep  # imports large libraries

    output, engine, folder = args.pop("output", None), session.loaded(), args.pop("folder", ".")
    variable, texts = prompts_of("sweep", session, args)
    if isinstance(variable, str):
        texts = [variable, *texts]
    elif variable is not None:
        texts = [*(variable.values() if isinstance(variable, Mapping) else variable), *texts]
    axes: dict[str, Any] = {}
    for name, values in args.pop("axes"):
        axes.setdefault(name, []).extend(values)
    found = sweep(engine, prompts=texts or None, **args, **axes)
    for path in found.save(folder):
        session.write(f"written: {path}\n")
    session.store(output, found)
    return found


COMMAND = Command(
    "sweep",
    "try values of top_k, cache size, policy or reader: speed, loss, coherence",
    _run,
    _arguments,
    call="`outlier_jupyter.sweep(engine, top_k=[…], …)`",
    group="research",
)
