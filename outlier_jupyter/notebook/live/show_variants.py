"""Runs the variants of a prompt under a grid of their texts, which the table then replaces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...engine.engine import Engine
from ...studies.variants import Variants, combinations_of, variants
from .grid import Grid


def show_variants(
    engine: Engine, prompt: str, vary: Mapping[str, Sequence[Any]],
    each: Mapping[str, Sequence[Any]], options: dict[str, Any], plain: bool,
) -> Variants:  # fmt: skip
    """`variants` of a prompt, in a live grid unless `plain`; arguments and errors are its own."""
    if plain:
        return variants(engine, prompt, vary, each=each, **options)
    fields, values = combinations_of(vary, each)
    names = [
        ", ".join(f"{name}={value}" for name, value in zip(fields, row, strict=True))
        for row in values
    ]
    grid = Grid(names)
    try:
        found = variants(engine, prompt, vary, each=each, on_step=grid, **options)
    except KeyboardInterrupt:
        grid.draw()
        raise
    grid.clear()
    return found
