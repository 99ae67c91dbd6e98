"""`%outlier sweep`: values of options, tried in turn."""

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
        help="values by commas, such as top_k=4,8,16; of several names all combinations are tried",
    )  # fmt: skip
    add_output(parser, "Sweep")
    add_prompts(parser)
    parser.add_argument("--max-tokens", type=int, metavar="N", help="of each answer (64)")
    parser.add_argument("--repeats", type=int, metavar="N", help="rounds over all settings (1)")
    parser.add_argument("--temperature", type=float, metavar="T", help="of the sampling (0)")
    parser.add_argument("--seed", type=int, metavar="N", help="of the sampling (0)")
    parser.add_argument(
        "--folder", metavar="FOLDER",
        help="where its record is written, as JSON and Markdown (the current folder)",
    )  # fmt: skip


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


def _run(session: Session, given: dict[str, Any]) -> Sweep:
    from ...studies.sweep import sweep  # its libraries are large

    output, engine, folder = given.pop("output", None), session.loaded(), given.pop("folder", ".")
    there, texts = prompts_of("sweep", session, given)
    if there is not None:
        texts = [*([there] if isinstance(there, str) else _values(there)), *texts]
    axes: dict[str, Any] = {}
    for name, values in given.pop("axes"):
        axes.setdefault(name, []).extend(values)
    found = sweep(engine, prompts=texts or None, **given, **axes)
    for path in found.save(folder):
        session.write(f"written: {path}\n")
    session.store(output, found)
    return found


def _values(prompts: Any) -> list[Any]:
    return list(prompts.values() if isinstance(prompts, Mapping) else prompts)


COMMAND = Command(
    "sweep",
    "try values of top_k, the cache's size, policy or reader: speed, loss, coherence",
    _run,
    _arguments,
    call="`outlier_jupyter.sweep(engine, top_k=[…], …)`",
)
